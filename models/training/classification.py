"""A classifier under the trainer: cross-entropy, on inputs that may be moved a little at every step.

It is a `Family` as far as the trainer asks, a module with optimisers and a step, and makes nothing: train it with average=0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cogen.models.families.family import Batch, Family, Update


class Classification(Family):
    """Trains a network of x (batch, *event_shape) to logits (batch, class); batches are (x, label).

    :param augment: from a batch of x to what the network sees of it; None leaves it as it is.
    :param learning_rate: of AdamW.
    :param weight_decay: AdamW's, decoupled; 0 is Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        augment: Callable[[Tensor], Tensor] | None = None,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self._augment = network, augment
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def optimizers(self) -> dict[str, Any]:
        parameters = self.network.parameters()
        return {"cross_entropy": torch.optim.AdamW(parameters, self.learning_rate, weight_decay=self.weight_decay, fused=True)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, label = batch
        seen = x if self._augment is None else self._augment(x)
        update("cross_entropy", lambda: cross_entropy(self.network(seen), label))

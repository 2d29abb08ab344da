"""A classifier for the trainer: cross-entropy, on inputs that may be augmented at every step.

It has the parts of a `Family` that the trainer needs, optimisers and a step, but no generator: train it with average=0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cogen.models.families.family import Batch, Family, Update


class Classification(Family):
    """Train a network from x (batch, *event_shape) to logits (batch, class); batches are (x, label).

    :param augment: from a batch of x to the network's input; None for no augmentation.
    :param learning_rate: learning rate of AdamW.
    :param weight_decay: decoupled weight decay of AdamW; 0 is Adam.
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
        inputs = x if self._augment is None else self._augment(x)
        update("cross_entropy", lambda: cross_entropy(self.network(inputs), label))

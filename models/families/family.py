"""A family of generators: its networks, its optimisers, and one training step that says which loss trains which of them.

A step hands losses to ``update(name, loss)``: the optimiser of that name takes one step on the loss. Parameters of the family
that this optimiser does not own are held fixed while the loss is computed, so a loss reaches what its optimiser owns and
nothing else; gradients still flow through the fixed networks to those that learn. A family knows no devices, no
checkpoints and no loop: these are the trainer's (`cogen.models.training.trainer`), and a bare loop can take its place:

    update = Updates(family, family.optimizers())
    for iteration in range(1000):
        family.step((next(batches),), update, iteration)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, ...]
"""What a step takes: x (item, *event_shape) first, then labels (item,) or images where the family is conditional."""

Update = Callable[[str, Callable[[], Tensor]], Tensor]


class Family(nn.Module):
    """The base of all families: an `nn.Module` whose children are its networks.

    ``generator`` is the network that maps (batch, latent_dim) to (batch, *event_shape); a family that infers has an ``encoder``
    too, from x to the mean and log standard deviation of q(z | x), each (batch, latent_dim). A family without a generator, as
    that of an energy, says which of its networks is ``averaged``.
    """

    generator: nn.Module
    latent_dim: int
    batches_per_step: int = 1
    """How many batches one step takes: more than one where a critic learns several times for each generator step."""
    takes_items: bool = False
    """Whether a batch ends with the places of its items in the data, (item,): where each has parameters of its own."""

    @property
    def averaged(self) -> nn.Module:
        """The network of whose weights a training keeps an average: the generator, where there is one."""
        return self.generator

    def optimizers(self) -> dict[str, Any]:
        """Fresh optimisers by name; what each trains is what it was given."""
        raise NotImplementedError

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        """One step on ``batches_per_step`` batches, laid one after the other in ``batch``.

        Raises FloatingPointError, saying why, where training cannot go on.
        """
        raise NotImplementedError

    def variant(self, iteration: int) -> Hashable:
        """Steps of one variant compute the same: two of them where a penalty comes only every k-th step."""
        return 0

    def initialise(self, x: Tensor) -> None:
        """Set the initial values that depend on data x (item, *event_shape), before training; most families have none."""

    def latent(self, count: int) -> Tensor:
        """Draws of the prior, (count, latent_dim)."""
        return torch.randn(count, self.latent_dim, device=next(self.parameters()).device)


class Updates:
    """The plain `Update`. The last loss of each name is in ``losses``, detached.

    ``reduce`` is called with the parameters between the gradients and the optimiser's step, for several devices.
    """

    def __init__(
        self,
        family: nn.Module,
        optimizers: Mapping[str, Any],
        reduce: Callable[[list[nn.Parameter]], None] | None = None,
    ) -> None:
        self.optimizers = optimizers
        self.losses: dict[str, Tensor] = {}
        self._reduce = reduce
        self._owned = {
            name: [p for group in optimizer.param_groups for p in group["params"]] for name, optimizer in optimizers.items()
        }
        learning = [p for p in family.parameters() if p.requires_grad]
        self._fixed = {}
        for name, owned in self._owned.items():
            mine = {id(p) for p in owned}
            self._fixed[name] = [p for p in learning if id(p) not in mine]

    def __call__(self, name: str, loss: Callable[[], Tensor]) -> Tensor:
        optimizer = self.optimizers[name]
        with held(self._fixed[name]):
            value = loss()
        for parameter in self._owned[name]:
            parameter.grad = None  # as optimizer.zero_grad() does, without its profiler range
        value.backward()
        if self._reduce is not None:
            self._reduce(self._owned[name])
        optimizer.step()
        self.losses[name] = value.detach()
        return self.losses[name]


def x_alone(batch: Batch) -> Tensor:
    """The x of a batch without labels. Raises ValueError for one with more than x."""
    if len(batch) != 1:
        raise ValueError(f"the batch holds {len(batch)} tensors, and this family models x alone: train on x without labels")
    return batch[0]


def adam(*networks: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam over the networks' weights, fused: a step is one kernel."""
    return torch.optim.Adam([p for net in networks for p in net.parameters()], learning_rate, betas, fused=True)


@contextmanager
def held(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Parameters as constants of what is computed meanwhile; they learn before and after."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

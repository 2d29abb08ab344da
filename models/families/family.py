"""A family of generators: its networks, its optimisers, and one training step that assigns losses to optimisers.

A step passes losses to ``update(name, loss)``: the optimiser of that name takes one step on the loss. Parameters of the family
that this optimiser does not own are fixed while the loss is computed, so that the loss trains only the optimiser's parameters;
gradients still flow through the fixed networks. A family has no devices, checkpoints or training loop, which are the trainer's
(`cogen.models.training.trainer`). A plain loop can replace the trainer:

    update = Updates(family, family.optimizers())
    for iteration in range(1000):
        family.step((next(batches),), update, iteration)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

Batch = tuple[Tensor, ...]
"""The input of a step: x (item, *event_shape), then labels (item,) or condition images if the family is conditional."""

Update = Callable[[str, Callable[[], Tensor]], Tensor]


class Family(nn.Module):
    """Base class of all families: an `nn.Module` whose children are its networks.

    ``generator`` maps (batch, latent_dim) to (batch, *event_shape). A family that infers also has an ``encoder``, from x to the
    mean and log standard deviation of q(z | x), each (batch, latent_dim). A family without a generator, such as an energy,
    defines ``averaged``.
    """

    generator: nn.Module
    latent_dim: int
    batches_per_step: int = 1
    """Number of batches per step; more than 1 if the critic takes several steps for each generator step."""
    takes_items: bool = False
    """Whether a batch ends with the indices of its items in the data, (item,), for families with parameters for each item."""

    @property
    def averaged(self) -> nn.Module:
        """The network whose weights the training averages: the generator, if there is one."""
        return self.generator

    def optimizers(self) -> dict[str, Optimizer]:
        """New optimisers by name, each with the parameters that it trains."""
        raise NotImplementedError

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        """Take one step on ``batches_per_step`` batches, concatenated in ``batch``.

        :raises FloatingPointError: if training cannot continue, with the reason.
        """
        raise NotImplementedError

    def variant(self, iteration: int) -> Hashable:
        """Key of a step's computation, equal for steps that compute the same; steps with an occasional penalty differ."""
        return 0

    def initialise(self, x: Tensor) -> None:
        """Set initial values that depend on data x (item, *event_shape), before training; by default nothing."""

    def latent(self, count: int) -> Tensor:
        """Draws from the prior, (count, latent_dim)."""
        return torch.randn(count, self.latent_dim, device=next(self.parameters()).device)


class Updates:
    """The default `Update`. ``losses`` holds the last loss of each name, detached.

    :param reduce: called with the optimiser's parameters after the backward pass, to reduce gradients over devices.
    """

    def __init__(
        self,
        family: nn.Module,
        optimizers: Mapping[str, Optimizer],
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
    """The x of a batch without labels.

    :raises ValueError: for a batch of more than one tensor.
    """
    if len(batch) != 1:
        raise ValueError(f"the batch holds {len(batch)} tensors, but this family models x alone: train on x without labels")
    return batch[0]


def adam(*networks: nn.Module, learning_rate: float, betas: tuple[float, float]) -> torch.optim.Adam:
    """Fused Adam over the networks' weights."""
    return torch.optim.Adam([p for net in networks for p in net.parameters()], learning_rate, betas, fused=True)


@contextmanager
def held(parameters: list[nn.Parameter]) -> Iterator[None]:
    """Context manager that makes parameters constants of the computation; afterwards they require gradients."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)

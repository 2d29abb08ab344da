"""Contrastive divergence: a restricted Boltzmann machine learned with samples from a few sweeps of block Gibbs.

    loss = mean F(data) - mean F(v'),        so that  -gradient = <dE/dw over its own v'> - <dE/dw over data>,

with h summed out of both means, and v' fixed. If v' were draws from the machine, this would be the gradient of -log p(data).
CD-k makes v' from the data by k sweeps. Persistent contrastive divergence keeps chains between steps, which follow the machine
more closely the smaller the learning rate is. The loss does not measure the quality of the machine: compare F of held-out and
training data, and check log Z and samples.

Persistent chains are a buffer of the family and stored in checkpoints: an interrupted training resumes with the same chains.

References:
    Hinton. Training products of experts by minimizing contrastive divergence. Neural Computation 2002.
    Tieleman. Training restricted Boltzmann machines using approximations to the likelihood gradient. ICML 2008 (persistent
        chains).
    Hinton. A practical guide to training restricted Boltzmann machines. 2010 (visible biases from data, momentum, decay).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from cogen.models.families.ebm import objective_shift
from cogen.models.families.family import Batch, Family, Update, x_alone
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.networks.restricted_boltzmann import RBM, BernoulliRBM
from cogen.models.training.preparation import binarised

SHOWN_AFTER = 1_000
"""Number of sweeps before a sample is returned."""


class ContrastiveDivergence(Family):
    """Train an RBM; batches are x alone.

    ``initialise(x)`` sets the visible biases from data. `step` raises ValueError for batches with labels, and the first step
    for data outside the support of the visible units.

    :param steps: k, sweeps per training step.
    :param chains: number of persistent chains; 0 starts chains at the data of each step.
    :param learning_rate: learning rate of stochastic gradient descent.
    :param momentum: momentum of stochastic gradient descent.
    :param weight_decay: weight decay of the connections.
    :raises ValueError: for counts out of range.
    """

    chains: Tensor
    run = None
    """None, since there are no Langevin steps."""

    def __init__(
        self,
        rbm: RBM,
        *,
        steps: int = 1,
        chains: int = 0,
        learning_rate: float = 0.05,
        momentum: float = 0.5,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__()
        if steps < 1 or chains < 0:
            raise ValueError(f"steps={steps}, chains={chains}: steps must be at least 1, and chains 0 (CD) or more (PCD)")
        self.rbm, self.steps = rbm, steps
        self.learning_rate, self.momentum, self.weight_decay = learning_rate, momentum, weight_decay
        self.register_buffer("chains", torch.zeros(chains, *rbm.event_shape))

    @property
    def averaged(self) -> RBM:
        return self.rbm

    @property
    def energy(self) -> RBM:
        """The RBM, whose value is -F(v)."""
        return self.rbm

    def samples(self, energy: RBM, count: int) -> Tensor:
        """Means of v given h at the end of chains of ``energy``, (count, *event_shape)."""
        return energy.expected(energy.gibbs(energy.independent(count), SHOWN_AFTER))

    def initialise(self, x: Tensor) -> None:
        self.rbm.initialise(x)

    def optimizers(self) -> dict[str, Optimizer]:
        rbm = self.rbm
        groups: list[dict[str, Any]] = [
            {"params": [rbm.weight], "weight_decay": self.weight_decay},
            {"params": [rbm.visible_bias, rbm.hidden_bias]},
        ]
        return {"free_energy_gap": torch.optim.SGD(groups, self.learning_rate, momentum=self.momentum)}

    def variant(self, iteration: int) -> Hashable:
        return iteration == 0

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, persistent = x_alone(batch), len(self.chains) > 0
        if iteration == 0:
            self.rbm.check(x)
            self.chains.copy_(self.rbm.independent(len(self.chains)))
        own = self.rbm.gibbs(self.chains if persistent else x, self.steps)
        if persistent:
            self.chains.copy_(own)
        update("free_energy_gap", lambda: objective_shift(self.rbm(x), self.rbm(own)))


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    return Architecture("BernoulliRBM", {"event_shape": sizes.event_shape, "hidden": sizes.latent_dim})


def _build(sizes: Sizes, rates: Mapping[str, Any], *, chains: int = 100, steps: int | None = None) -> ContrastiveDivergence:
    rbm = BernoulliRBM(**_architecture(sizes).arguments)
    return ContrastiveDivergence(rbm, chains=chains, steps=steps or 1, **rates)


RECIPE = Recipe(
    _build,
    takes=frozenset({Kind.IMAGES}),
    prepare=binarised,
    value_range=(0.0, 1.0),
    learning_rate=0.05,
    batch_size=100,
    epochs=12,
    average=0.0,
    latent_dim=500,
    reads=frozenset({"latent_dim"}),
    generator=None,
    energy=_architecture,
)
"""Pixels are sampled as 0 or 1; z is the hidden layer."""

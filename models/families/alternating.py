"""Alternating back-propagation: infer the latents of data by Langevin dynamics, then regress the data on them.

    x = g(z) + sigma e,    z ~ Normal(0, I)                   the initializer's model (Eq. 7), learned without a solver
    z' = z + (s^2 / 2) [ grad log p(x | z) - z ] + s xi       a few steps, from the item's last state (Eq. 20)
    descend |x - g(z')|^2 / 2 sigma^2                         averaged over the dimensions of an event

This ascends the likelihood: the gradient of log p(x) is the mean of the gradient of log p(x, z) over p(z | x). Every training
item has its own persistent chain of latents, which is stored in checkpoints.

References:
    Han, Lu, Zhu, Wu. Alternating back-propagation for generator network. AAAI 2017 (algorithm 1).
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 2.2, and Eq. 20).
Departures: the recipe clips the steps, since the likelihood of an image is steep.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.coopnets import mapping_shift
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Sizes

RUN = ShortRun.langevin(20, 0.05, reference_scale=1.0, clip=0.2)
"""Short-run Langevin of the latents, whose prior is the reference."""


class AlternatingBackPropagation(Family):
    """A generator and the latents of its training items; with labels in the batch, a generator of (z, label).

    :param generator: g, (z) or (z, label) -> x.
    :param num_items: number of training items, at least 2.
    :param run: the Langevin steps of the latents, with ``reference_scale=1`` for their prior.
    :param scale: sigma, positive.
    :param learning_rate: learning rate of Adam.
    :param betas: betas of Adam.
    :raises ValueError: for fewer than two items, a scale that is not positive, or another reference scale.
    """

    takes_items = True
    latents: Tensor
    """(item, latent_dim)"""

    def __init__(
        self,
        generator: nn.Module,
        latent_dim: int,
        num_items: int,
        run: ShortRun = RUN,
        *,
        scale: float = 0.3,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        if num_items < 2 or not scale > 0:
            raise ValueError(f"num_items={num_items}, scale={scale}: num_items must be at least 2 and scale positive")
        if run.reference_scale != 1.0:
            raise ValueError(f"run.reference_scale={run.reference_scale}: it must be 1, as the prior of z is standard normal")
        self.generator, self.latent_dim, self.run, self.scale = generator, latent_dim, run, scale
        self.learning_rate, self.betas = learning_rate, betas
        self.register_buffer("latents", torch.randn(num_items, latent_dim))

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, *label, items = batch

        def log_likelihood(z: Tensor) -> Tensor:
            return -(x - self.generator(z, *label)).square().flatten(1).sum(1) / (2 * self.scale**2)

        z = self.run(log_likelihood, self.latents[items])
        self.latents[items] = z
        update("generator", lambda: mapping_shift(x, self.generator(z, *label), self.scale))


# --- recipe --------------------------------------------------------------------------------------------------------


def _build(sizes: Sizes, rates: Mapping[str, Any]) -> AlternatingBackPropagation:
    return AlternatingBackPropagation(sizes.generator(), sizes.latent_dim, sizes.num_items, **rates)


RECIPE = Recipe(_build, takes=frozenset({Kind.IMAGES}))

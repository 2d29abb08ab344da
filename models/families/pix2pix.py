"""Image-to-image translation: a generator of (z, condition image) with an L1 loss to the target, and a critic of pairs.

    critic        that of `cogen.models.families.gan`, of pairs (x, c), for every patch of the images
    generator     E softplus(-D(G(z, c), c)) + weight * E |x - G(z, c)|        averaged over patches, and over pixels
                  - diversity * E min(|G(z, c) - G(z', c)| / |z - z'|, most)   if diversity > 0 (DSGAN)

The distance determines the layout and the colours, the critic the texture. The distance alone is `Regression`: the generator
then makes the median of the images of a condition, which is blurred where these differ.

References:
    Isola, Zhu, Zhou, Efros. Image-to-image translation with conditional adversarial networks. CVPR 2017 (equations 1, 3 and 4;
        L1 alone in section 4.1).
    Yang, Hong, Jang, Zhao, Lee. Diversity-sensitive conditional generative adversarial networks. ICLR 2019 (equation 2).
Departures: those of `cogen.models.networks.translation`. The critic's loss is not halved. The critic's loss, the generator's
loss and the diversity term use separate draws; |.| is the mean absolute value. The caller makes random crops and mirror images
(`cogen.models.training.preparation.Alike`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.gan import GAN, Critic, NonSaturating, Objective
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import PairSizes

DROPOUT = 0.5
"""Dropout probability of the published U-Net."""


class Pix2Pix(GAN):
    """A generator of (z, condition) and a critic of (x, condition); batches are (x, condition).

    :param latent_dim: size of z; 0 if dropout is the generator's noise.
    :param objective: default `NonSaturating` without R1.
    :param weight: weight of the mean absolute difference from x.
    :param diversity: weight of the diversity term; 0 omits it.
    :param most: upper bound of the ratio in the diversity term, positive.
    :raises ValueError: for weights that are negative or not finite, or ``diversity`` without a z.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        objective: Objective | None = None,
        *,
        weight: float = 100.0,
        diversity: float = 0.0,
        most: float = 10.0,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight={weight}: the weight of the L1 distance must be finite and not negative")
        if not 0 <= diversity < math.inf or not most > 0 or (diversity and not latent_dim):
            raise ValueError(
                f"diversity={diversity}, most={most}, latent_dim={latent_dim}: diversity must be finite and not"
                " negative, most positive, and diversity > 0 requires latent_dim > 0"
            )
        game = objective or NonSaturating(gamma=0.0)
        super().__init__(generator, critic, latent_dim, game, learning_rate=learning_rate, betas=betas)
        self.weight, self.diversity, self.most = weight, diversity, most

    def generator_loss(self, critic: Critic, fake: Tensor, real: Tensor, *label: Tensor) -> Tensor:
        loss = super().generator_loss(critic, fake, real, *label) + self.weight * l1_loss(fake, real)
        return loss - self.diversity * self._differ(*label) if self.diversity else loss

    def _differ(self, condition: Tensor) -> Tensor:
        one, other = self.latent(len(condition)), self.latent(len(condition))
        made = (self.generator(one, condition) - self.generator(other, condition)).abs().flatten(1).mean(1)
        return (made / (one - other).abs().mean(1)).clamp(max=self.most).mean()


class Regression(Family):
    """A generator of (z, condition) whose only loss is the mean absolute difference from x."""

    def __init__(
        self,
        generator: nn.Module,
        latent_dim: int,
        *,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        self.generator, self.latent_dim = generator, latent_dim
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        return {"generator": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, condition = batch
        update("generator", lambda: l1_loss(self.generator(self.latent(len(x)), condition), x))


# --- recipes -------------------------------------------------------------------------------------------------------


def _translated(sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 100.0) -> Pix2Pix:
    return Pix2Pix(sizes.unet(DROPOUT), sizes.critic(), sizes.latent_dim, weight=weight, **rates)


def _regressed(sizes: PairSizes, rates: Mapping[str, Any]) -> Regression:
    return Regression(sizes.unet(DROPOUT), sizes.latent_dim, **rates)


OF_PAIRS: dict[str, Any] = {
    "takes": frozenset({Kind.PAIRS}),
    "learning_rate": 2e-4,
    "batch_size": 1,
    "epochs": 200.0,
    "average": 0.0,
    "reads": frozenset({"latent_dim", "widths"}),
}
"""Settings shared by the published recipes: 200 epochs, one pair per batch, a learning rate that falls over the second half."""

RECIPE = Recipe(
    _translated, latent_dim=0, generator=functools.partial(PairSizes.unet_architecture, dropout=DROPOUT), **OF_PAIRS
)
ALONE = replace(RECIPE, build=_regressed)
"""The L1 distance without a critic."""

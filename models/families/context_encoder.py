"""Context encoder: fill in the hidden part of an image from its seen part, by an encoder-decoder.

The condition is the image with its hidden pixels replaced and a mask as its last channel, 1 where the image is seen and -1
where it is hidden (`cogen.models.data.pairs.centre_hidden`). With the hidden pixels m:

    generator     weight * E |x - G(z, c)|^2 + (1 - weight) * E softplus(-D(m G(z, c)))        the first averaged over m
    critic        that of `cogen.models.families.gan`, of m x and m G(z, c)

The critic sees only the hidden part: with its surroundings, the critic would judge only the seam.

References:
    Pathak, Krahenbuhl, Donahue, Darrell, Efros. Context encoders: feature learning by inpainting. CVPR 2016 (equations 1 to 3;
        section 5.1: weights .999 and .001).
Departures: the mask may have any form, and the generator's images are whole, with the seen pixels unchanged. The critic is a
patch critic. There is no larger weight where hidden and seen overlap, and no channel-wise layer before the smallest features,
which are one pixel here if the sides are powers of two.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cogen.models.families.gan import GAN, Critic, NonSaturating, Objective
from cogen.models.families.pix2pix import RECIPE as TRANSLATION
from cogen.models.families.sizes import PairSizes


class ContextEncoder(GAN):
    """A generator of (z, condition) and a critic of x; batches are (x, condition), the mask as the condition's last channel.

    :param latent_dim: size of z; 0 if the generator is a function of the condition alone.
    :param objective: default `NonSaturating` without R1.
    :param weight: weight of the squared error, in [0, 1]; the adversarial loss has weight ``1 - weight``.
    :raises ValueError: for a weight outside [0, 1].
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        objective: Objective | None = None,
        *,
        weight: float = 0.999,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight}: the squared error's share of the loss must be in [0, 1]")
        game = objective or NonSaturating(gamma=0.0)
        super().__init__(generator, critic, latent_dim, game, learning_rate=learning_rate, betas=betas)
        self.weight = weight

    def judged(self, label: list[Tensor], x: Tensor) -> Tensor:
        return self.critic(x * hidden(*label))

    def generator_loss(self, critic: Critic, fake: Tensor, real: Tensor, *label: Tensor) -> Tensor:
        error = squared_error(fake, real, hidden(*label))
        return self.weight * error + (1 - self.weight) * super().generator_loss(critic, fake, real, *label)


def hidden(condition: Tensor) -> Tensor:
    """1 where x is hidden and 0 where it is seen, (batch, 1, height, width)."""
    return (condition[:, -1:] < 0).to(condition.dtype)


def squared_error(made: Tensor, x: Tensor, hidden: Tensor) -> Tensor:
    """The mean squared error of the hidden values; 0 if none is hidden."""
    return ((made - x).square() * hidden).sum() / (hidden.sum() * x.shape[1]).clamp_min(1)


def _build(sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 0.999) -> ContextEncoder:
    if not sizes.fills:
        raise ValueError(
            "a context encoder needs a condition that is the image with a hidden part and a mask: use --condition centre"
            " (centre_hidden in Python, and PairSizes(fills=True))"
        )
    generator, critic = sizes.encoder_decoder(), sizes.critic(of_pairs=False)
    return ContextEncoder(generator, critic, sizes.latent_dim, weight=weight, **rates)


RECIPE = replace(TRANSLATION, build=_build, generator=PairSizes.encoder_decoder_architecture)

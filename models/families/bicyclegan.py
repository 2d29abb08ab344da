"""BicycleGAN: many images for one condition, by a generator of (z, condition) and an encoder of x.

There are two adversarial games, each with its own critic D of pairs (x, c); c is the condition image, and G(z) stands for
G(z, c):

    cVAE-GAN    z ~ q(z | x):    adversarial loss of G(z) + weight * E |x - G(z)| + kl_weight * KL(q(z | x) || Normal(0, 1))
    cLR-GAN     z ~ Normal(0, 1):    adversarial loss of G(z) + latent_weight * E |z - mean of q(z | G(z))|

The first makes z informative, but its critic never sees images of prior draws. The second sees them, but may encode z in
imperceptible details. `BicycleGAN` plays both. The encoder is fixed in the latent term; otherwise it would learn such a code
too. Each game alone is a named family, and so is cVAE-GAN++: both games without the latent term.

References:
    Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman. Toward multimodal image-to-image translation. NeurIPS 2017 (section 3:
        cVAE-GAN, cLR-GAN, and equation 7, the hybrid; section 4: weights, least squares, eight latents).
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Tables 5 and 6 compare with all but cLR-GAN; cVAE-GAN++ has the parameters of BicycleGAN).
Departures: those of `cogen.models.networks.translation`; one patch critic for each game instead of critics at two scales; both
games use the same x. The comparison does not describe cVAE-GAN++; it is inferred from its number of parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam, held
from cogen.models.families.gan import LeastSquares, Objective
from cogen.models.families.pix2pix import OF_PAIRS
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import PairSizes
from cogen.models.families.vae import kl_to_standard_normal


class BicycleGAN(Family):
    """A generator of (z, condition), an encoder of x and a critic of (x, condition) for each game; batches are (x, condition).

    :param encoder: x -> mean, log sd of q(z | x).
    :param critic: critic of images of encoded latents; None omits the first game.
    :param random_critic: critic of images of prior draws; None omits the second game.
    :param objective: objective of both games, default `LeastSquares`.
    :param weight: weight of the mean absolute difference of x and its reconstruction.
    :param latent_weight: weight of the mean absolute difference of z and the mean inferred from its image; 0 omits it.
    :param kl_weight: weight of the KL, in nats.
    :raises ValueError: for weights that are negative or not finite, ``latent_dim`` below 1, or no critic.
    """

    encoder: nn.Module

    def __init__(
        self,
        generator: nn.Module,
        encoder: nn.Module,
        latent_dim: int,
        *,
        critic: nn.Module | None,
        random_critic: nn.Module | None,
        objective: Objective | None = None,
        weight: float = 10.0,
        latent_weight: float = 0.5,
        kl_weight: float = 0.01,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("latent_weight", latent_weight), ("kl_weight", kl_weight)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: it must be finite and not negative")
        if latent_dim < 1:
            raise ValueError(f"latent_dim={latent_dim}: it must be at least 1, since the encoder infers the latent")
        if critic is None and random_critic is None:
            raise ValueError("critic and random_critic are None: give a critic for one game, or for both")
        self.generator, self.encoder, self.latent_dim = generator, encoder, latent_dim
        self.critic, self.random_critic = critic, random_critic
        self.objective = objective or LeastSquares()
        self.weight, self.latent_weight, self.kl_weight = weight, latent_weight, kl_weight
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        rates: dict[str, Any] = {"learning_rate": self.learning_rate, "betas": self.betas}
        critics = {"critic": self.critic, "random_critic": self.random_critic}
        optimizers: dict[str, Optimizer] = {
            name: adam(critic, **rates) for name, critic in critics.items() if critic is not None
        }
        return optimizers | {"generator_encoder": adam(self.generator, self.encoder, **rates)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, condition = batch
        for name, critic in (("critic", self.critic), ("random_critic", self.random_critic)):
            if critic is not None:
                with torch.no_grad():
                    z = self.infer(x)[0] if critic is self.critic else self.latent(len(x))
                    fake = self.generator(z, condition)
                judged = functools.partial(_judged, critic, condition)
                update(name, functools.partial(self.objective.critic_loss, judged, x, fake, iteration))
        update("generator_encoder", lambda: self.generator_encoder_loss(x, condition))

    def infer(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of q(z | x), (batch, latent_dim), and its KL to the prior, (batch,)."""
        mean, log_sd = self.encoder(x)
        return mean + log_sd.exp() * torch.randn_like(mean), kl_to_standard_normal(mean, log_sd)

    def generator_encoder_loss(self, x: Tensor, condition: Tensor) -> Tensor:
        """The joint loss of generator and encoder: the sum over the games of the module's docstring."""
        loss = torch.zeros((), device=x.device)
        if self.critic is not None:
            z, kl = self.infer(x)
            again = self.generator(z, condition)
            fooled = self.objective.generator_loss(functools.partial(_judged, self.critic, condition), again)
            loss = loss + fooled + self.weight * l1_loss(again, x) + self.kl_weight * kl.mean()
        if self.random_critic is not None:
            z = self.latent(len(x))
            made = self.generator(z, condition)
            loss = loss + self.objective.generator_loss(functools.partial(_judged, self.random_critic, condition), made)
            if self.latent_weight:
                with held(list(self.encoder.parameters()) if self.critic is not None else []):
                    mean, _ = self.encoder(made)
                loss = loss + self.latent_weight * l1_loss(mean, z)
        return loss


def _judged(critic: nn.Module, condition: Tensor, x: Tensor) -> Tensor:
    return critic(x, condition)


# --- recipes -------------------------------------------------------------------------------------------------------


def _made(sizes: PairSizes, rates: Mapping[str, Any], encoded: bool = True, drawn: bool = True, **weights: float) -> BicycleGAN:
    """BicycleGAN with the game of encoded latents, of drawn latents, or both."""
    critics: dict[str, Any] = {
        "critic": sizes.critic() if encoded else None,
        "random_critic": sizes.critic() if drawn else None,
    }
    settings: dict[str, Any] = {**critics, **weights, **rates}
    return BicycleGAN(sizes.unet(dropout=0.0), sizes.encoder(), sizes.latent_dim, **settings)


def _both(
    sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 10.0, latent_weight: float = 0.5, kl_weight: float = 0.01
) -> BicycleGAN:
    return _made(sizes, rates, weight=weight, latent_weight=latent_weight, kl_weight=kl_weight)


def _without_latent_term(
    sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 10.0, kl_weight: float = 0.01
) -> BicycleGAN:
    return _made(sizes, rates, weight=weight, latent_weight=0.0, kl_weight=kl_weight)


def _encoded(sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 10.0, kl_weight: float = 0.01) -> BicycleGAN:
    return _made(sizes, rates, drawn=False, weight=weight, kl_weight=kl_weight)


def _drawn(sizes: PairSizes, rates: Mapping[str, Any], *, latent_weight: float = 0.5) -> BicycleGAN:
    return _made(sizes, rates, encoded=False, latent_weight=latent_weight)


RECIPE = Recipe(
    _both,
    latent_dim=8,
    generator=functools.partial(PairSizes.unet_architecture, dropout=0.0),
    encoder=PairSizes.encoder_architecture,
    **OF_PAIRS,
)
ENCODED = replace(RECIPE, build=_encoded)
DRAWN = replace(RECIPE, build=_drawn)
WITHOUT_LATENT_TERM = replace(RECIPE, build=_without_latent_term)

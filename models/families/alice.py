"""ALI with cycle consistency: the latents that the encoder infers from x must reconstruct x.

ALI matches the two joints, which does not determine how x and z correspond: many generators and encoders are optimal, and a
reconstruction may be another event of the same kind. ALICE also minimises an upper bound of the conditional entropy H(x | z);
with x~ = G(z~), z~ ~ q(z | x):

    generator and encoder    ALI's loss + weight * E |x - x~|^2 / dimension         explicit
                             ALI's loss + weight * E softplus(-C(x, x~))            adversarial
    critic of cycles         E softplus(-C(x, x)) + E softplus(C(x, x~))

A critic C of pairs of events, if given, replaces the squared error by a learned difference of two events. weight = 0 is ALI.

References:
    Li, Liu, Chen, Pu, Chen, Henao, Carin. ALICE: towards understanding adversarial learning for joint distribution matching.
        NeurIPS 2017 (equations 6 to 9: the bound of the conditional entropy, cycle consistency, explicit and adversarial, and
        the objective).
Departures: those of `cogen.models.families.ali`. The explicit cycle loss is the squared error, averaged over dimensions. The
adversarial cycle loss is non-saturating (swapped labels), as ALI's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss, softplus
from torch.optim import Optimizer

from cogen.models.families.ali import ALI, Pairs, joint_critic
from cogen.models.families.family import Batch, Update, adam
from cogen.models.families.gan import Critic, discriminator_loss
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes


class ALICE(ALI):
    """`ALI` with a loss of reconstructions.

    :param weight: weight of the cycle loss; 0 is ALI.
    :param cycle_critic: a critic of two events, concatenated along their first axis: for events of shape (1, 28, 28) a
        `networks.ConvolutionalCritic` of (2, 28, 28), for events of shape (2,) a `networks.DenseCritic` of (4,). None uses
        the squared error.
    :raises ValueError: for a weight that is negative or not finite, and as `ALI`.
    """

    def __init__(
        self,
        generator: nn.Module,
        encoder: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        *,
        weight: float = 1.0,
        cycle_critic: nn.Module | None = None,
        stochastic: bool = True,
        gamma: float = 1.0,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        if not (0 <= weight < math.inf):
            raise ValueError(f"weight={weight}: the weight of the cycle loss must be finite and not negative; 0 is ALI")
        rates: dict[str, Any] = {"learning_rate": learning_rate, "betas": betas}
        super().__init__(generator, encoder, critic, latent_dim, stochastic=stochastic, gamma=gamma, **rates)
        self.weight, self.cycle_critic = weight, cycle_critic

    def optimizers(self) -> dict[str, Optimizer]:
        optimizers = super().optimizers()
        if self.cycle_critic is not None:
            optimizers["cycle_critic"] = adam(self.cycle_critic, learning_rate=self.learning_rate, betas=self.betas)
        return optimizers

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        if self.cycle_critic is not None and self.weight:
            (x,) = batch
            with torch.no_grad():
                again = self.generator(self.infer(x))
            update("cycle_critic", functools.partial(cycle_critic_loss, self.cycle_critic, x, again))
        super().step(batch, update, iteration)

    def generator_encoder_loss(self, pairs: Pairs) -> Tensor:
        loss = super().generator_encoder_loss(pairs)
        if not self.weight:
            return loss
        again = self.generator(pairs.inferred)
        if self.cycle_critic is None:
            return loss + self.weight * mse_loss(again, pairs.x)
        return loss + self.weight * adversarial_cycle_loss(self.cycle_critic, pairs.x, again)


def cycle_critic_loss(cycle_critic: Critic, x: Tensor, again: Tensor) -> Tensor:
    """Cross-entropy of classifying (x, x) against (x, x~), x and x~ (batch, *event_shape)."""
    return discriminator_loss(cycle_critic(torch.cat([x, x], dim=1)), cycle_critic(torch.cat([x, again], dim=1)))


def adversarial_cycle_loss(cycle_critic: Critic, x: Tensor, again: Tensor) -> Tensor:
    """The cycle loss of generator and encoder: -log of the critic's probability that (x, x~) is (x, x)."""
    return softplus(-cycle_critic(torch.cat([x, again], dim=1))).mean()


def _build(
    sizes: Sizes, rates: Mapping[str, Any], *, weight: float = 1.0, stochastic: bool = True, gamma: float = 1.0
) -> ALICE:
    settings: dict[str, Any] = {"weight": weight, "stochastic": stochastic, "gamma": gamma}
    generator, critic = sizes.generator(), joint_critic(sizes)
    return ALICE(generator, sizes.encoder(), critic, sizes.latent_dim, **settings, **rates)


RECIPE = Recipe(_build, encoder=Sizes.encoder_architecture)

"""Unrolled GAN: the generator's loss uses the critic after K further training steps.

With the critic's objective f = -E softplus(-D(x)) - E softplus(D(G(z))), and the critic's weights w,

    w_0 = w,    w_{k+1} = w_k + rate * df(G, w_k) / dw_k,
    generator: minimise f(G, w_K), through all steps.

The gradient includes the critic's response to the generator, dw_K / dG, which makes collapse to one mode unprofitable: the
critic would reject that mode after K steps. K = 0 is the GAN, K to infinity the game against the optimal critic. Only the
generator's loss differs from a GAN: the critic takes one step from its own weights, which the unrolled steps do not change.

References:
    Metz, Poole, Pfau, Sohl-Dickstein. Unrolled generative adversarial networks. ICLR 2017 (equations 7 to 9; 10 and 11 are the
        two updates).
Departures: the critic's unrolled steps are plain gradient ascent of f at one rate, while its own step uses Adam and may be
penalised. With the `NonSaturating` objective the generator's part of f, -E softplus(D(G(z))), is E softplus(-D(G(z))) in the
generator's loss, as usual in a GAN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import softplus

from cogen.models.families.family import Batch, Update
from cogen.models.families.gan import GAN, Critic, NonSaturating, Saturating, discriminator_loss
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes

ZERO_SUM = Saturating(gamma=0.0)
"""The paper's zero-sum game."""


class UnrolledGAN(GAN):
    """A `GAN` with an unrolled critic; labels in the batch are inputs of both networks, as in `GAN`.

    :param objective: `gan.Saturating`, the paper's, or `gan.NonSaturating`.
    :param unroll: K, number of unrolled critic steps; with 5 a training step takes about six times as long as a GAN's.
    :param unroll_rate: learning rate of these steps, positive; with wide data or a steep critic a large rate overshoots.
    :raises ValueError: for a negative number of steps, or a rate that is not positive.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        objective: NonSaturating = ZERO_SUM,
        *,
        unroll: int = 5,
        unroll_rate: float = 0.01,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        if unroll < 0:
            raise ValueError(f"unroll={unroll}: the number of unrolled critic steps must not be negative; 0 is a plain GAN")
        if not 0 < unroll_rate < math.inf:
            raise ValueError(f"unroll_rate={unroll_rate}: the rate of gradient ascent must be positive, such as 0.01")
        super().__init__(generator, critic, latent_dim, objective, learning_rate=learning_rate, betas=betas)
        self.objective: NonSaturating = objective
        self.unroll, self.unroll_rate = unroll, unroll_rate

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        real, *label = (tensor.chunk(self.batches_per_step)[-1] for tensor in batch)

        def unrolled_update(name: str, loss: Callable[[], Tensor]) -> Tensor:
            unroll = name == "generator" and self.unroll > 0
            return update(name, (lambda: self.surrogate(real, label)) if unroll else loss)

        super().step(batch, unrolled_update, iteration)

    def surrogate(self, real: Tensor, label: list[Tensor]) -> Tensor:
        """The generator's loss f(G, w_K), equation 9, on data and equally many new samples."""
        fake = self.generator(self.latent(len(real)), *label)

        def loss(critic: Callable[..., Tensor]) -> Tensor:
            return discriminator_loss(critic(real, *label), critic(fake, *label), self.objective.real_target)

        later = unrolled(self.critic, loss, self.unroll, self.unroll_rate)
        return surrogate_loss(self.objective, lambda x: later(x, *label), real, fake)


def unrolled(
    critic: nn.Module, loss: Callable[[Callable[..., Tensor]], Tensor], steps: int, rate: float
) -> Callable[..., Tensor]:
    """The critic after ``steps`` of gradient descent on its loss, differentiable in the inputs of the loss.

    The module's own weights do not change (equations 7 and 8).
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in critic.named_parameters()}

    def judged(*inputs: Tensor) -> Tensor:
        return functional_call(critic, weights, inputs)

    for _ in range(steps):
        gradients = torch.autograd.grad(loss(judged), list(weights.values()), create_graph=True)
        weights = {name: w - rate * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return judged


def surrogate_loss(objective: NonSaturating, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The generator's loss plus the data's part of f, where the unrolled critic also depends on the generator."""
    data = critic(real)
    return objective.generator_loss(critic, fake) - softplus(-data).mean() - (1.0 - objective.real_target) * data.mean()


def _build(
    sizes: Sizes,
    rates: Mapping[str, Any],
    *,
    objective: NonSaturating = ZERO_SUM,
    unroll: int = 5,
    unroll_rate: float = 0.01,
) -> UnrolledGAN:
    ahead: dict[str, Any] = {"unroll": unroll, "unroll_rate": unroll_rate}
    return UnrolledGAN(sizes.generator(), sizes.critic(), sizes.latent_dim, objective, **ahead, **rates)


RECIPE = Recipe(_build, learning_rate=5e-4)

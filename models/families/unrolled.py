"""Unrolled GAN: the generator is judged by the critic as it will be, some steps of learning from now.

With f the critic's gain, f = -E softplus(-D(x)) - E softplus(D(G(z))), and the critic's weights w,

    w_0 = w,    w_{k+1} = w_k + rate * df(G, w_k) / dw_k,
    generator: minimise f(G, w_K), through all steps.

The gradient has a term for how the critic would answer the generator's move, dw_K / dG: going all to one mode does not pay,
because the critic would be there in K steps. K = 0 is the GAN, K to infinity the game against the best critic. Only the
generator's loss is special: the critic learns as in a GAN, one step from its own weights, which the generator's step leaves as
they are.

References:
    Metz, Poole, Pfau, Sohl-Dickstein. Unrolled generative adversarial networks. ICLR 2017 (equations 7 to 9; 10 and 11 are the
        two updates).
Departures: the critic's inner steps are plain gradient ascent of f at one rate, while its own step is Adam's and may be
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
"""What the generator loses the critic gains: the paper's game."""


class UnrolledGAN(GAN):
    """A `GAN` whose generator looks ahead; with labels in the batch conditional, as that one.

    :param objective: `gan.Saturating`, the paper's, or `gan.NonSaturating`.
    :param unroll: K, steps of the critic to look ahead; with five a step takes about six times as long as a GAN's.
    :param unroll_rate: the rate of these steps; where data are wide or the critic steep, a large one overshoots.

    Raises ValueError for a negative number of steps and a rate that is not positive.
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
            raise ValueError(f"unroll={unroll}: how many steps to look ahead, 0 for a plain GAN, 5 in the paper")
        if not 0 < unroll_rate < math.inf:
            raise ValueError(f"unroll_rate={unroll_rate}: the rate of gradient ascent must be positive, such as 0.01")
        super().__init__(generator, critic, latent_dim, objective, learning_rate=learning_rate, betas=betas)
        self.objective: NonSaturating = objective
        self.unroll, self.unroll_rate = unroll, unroll_rate

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        real, *label = (tensor.chunk(self.batches_per_step)[-1] for tensor in batch)

        def ahead(name: str, loss: Callable[[], Tensor]) -> Tensor:
            looks_ahead = name == "generator" and self.unroll > 0
            return update(name, (lambda: self.surrogate(real, label)) if looks_ahead else loss)

        super().step(batch, ahead, iteration)

    def surrogate(self, real: Tensor, label: list[Tensor]) -> Tensor:
        """The generator's loss f(G, w_K), equation 9, on data and as many fresh samples."""
        fake = self.generator(self.latent(len(real)), *label)

        def loss(critic: Callable[..., Tensor]) -> Tensor:
            return discriminator_loss(critic(real, *label), critic(fake, *label), self.objective.real_target)

        later = unrolled(self.critic, loss, self.unroll, self.unroll_rate)
        return surrogate_loss(self.objective, lambda x: later(x, *label), real, fake)


def unrolled(
    critic: nn.Module, loss: Callable[[Callable[..., Tensor]], Tensor], steps: int, rate: float
) -> Callable[..., Tensor]:
    """The critic after some steps of gradient descent on its loss, as a function that is differentiable in all the loss saw.

    The module's own weights stay (equations 7 and 8).
    """
    weights = {name: weight.detach().requires_grad_() for name, weight in critic.named_parameters()}

    def judged(*inputs: Tensor) -> Tensor:
        return functional_call(critic, weights, inputs)

    for _ in range(steps):
        gradients = torch.autograd.grad(loss(judged), list(weights.values()), create_graph=True)
        weights = {name: w - rate * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
    return judged


def surrogate_loss(objective: NonSaturating, critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """The generator's loss and the data's part of f: the critic to come depends on the generator there as well."""
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

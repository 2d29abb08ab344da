"""Adversarial training: a critic learns to distinguish data from samples, a generator learns to make the two alike.

With unbounded critic outputs D(x), where sigmoid(D(x)) is the discriminator of the first paper:

    critic            s E softplus(-D(x)) + (1 - s) E softplus(D(x)) + E softplus(D(G(z))) + (gamma / 2) E |grad D(x)|^2
    non-saturating    generator: E softplus(-D(G(z)))
    saturating        generator: -E softplus(D(G(z)))
    least squares     critic: E (D(x) - 1)^2 + E D(G(z))^2,    generator: E (D(G(z)) - 1)^2

s is 1, or 0.9 for one-sided label smoothing. `wgan.Clipping`, `wgan.GradientPenalty` and `fgan.KL` are other objectives of
`GAN`.

References:
    Goodfellow et al. Generative adversarial nets. NeurIPS 2014 (equation 1, and the non-saturating loss of section 3).
    Salimans et al. Improved techniques for training GANs. NeurIPS 2016 (section 3.4: one-sided label smoothing).
    Mao, Li, Xie, Lau, Wang, Smolley. Least squares generative adversarial networks. ICCV 2017 (equation 9, twice).
    Mescheder, Geiger, Nowozin. Which training methods for GANs do actually converge? ICML 2018 (R1: equation 9).
    Karras et al. Analyzing and improving the image quality of StyleGAN. CVPR 2020 (section 3.1: the penalty in every
        k-th step, multiplied by k).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes

Critic = Callable[[Tensor], Tensor]
"""From x (batch, *event_shape) to one value per item, (batch,), or a map of values per item."""


class Objective(Protocol):
    """The losses of a `GAN`."""

    @property
    def critic_steps(self) -> int:
        """Critic steps for each generator step."""
        ...

    def variant(self, iteration: int) -> Hashable:
        """A key that is equal for generator steps with the same loss functions."""
        ...

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        """The critic's loss; ``iteration`` counts critic steps."""
        ...

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        """The generator's loss, of its samples (batch, *event_shape)."""
        ...

    def constrain(self, critic: nn.Module) -> None:
        """Called after every critic step."""
        ...


@dataclass(frozen=True)
class NonSaturating:
    """The non-saturating objective.

    :param gamma: weight of R1, which is applied in every ``penalty_every``-th step; 0 is the vanilla GAN.
    :param real_target: s, the critic's target for data, in (0.5, 1]; 0.9 is one-sided label smoothing.
    :raises ValueError: for values out of range.
    """

    gamma: float = 1.0
    penalty_every: int = 8
    critic_steps: int = 1
    real_target: float = 1.0

    def __post_init__(self) -> None:
        if not (self.gamma >= 0 and self.penalty_every >= 1 and self.critic_steps >= 1 and 0.5 < self.real_target <= 1):
            raise ValueError(
                f"{self}: gamma must not be negative, penalty_every and critic_steps must be at least 1, and real_target in"
                " (0.5, 1]"
            )

    def variant(self, iteration: int) -> Hashable:
        counts = range(iteration * self.critic_steps, (iteration + 1) * self.critic_steps)
        return tuple(self.gamma > 0 and count % self.penalty_every == 0 for count in counts)

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        loss = discriminator_loss(critic(real), critic(fake), self.real_target)
        if self.gamma > 0 and iteration % self.penalty_every == 0:
            loss = loss + 0.5 * self.gamma * self.penalty_every * squared_gradient(critic, real).mean()
        return loss

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        return softplus(-critic(fake)).mean()

    def constrain(self, critic: nn.Module) -> None:
        pass


@dataclass(frozen=True)
class Saturating(NonSaturating):
    """The minimax objective of the first paper's equation 1: its gradient vanishes where the critic is certain."""

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        return -softplus(critic(fake)).mean()


@dataclass(frozen=True)
class LeastSquares:
    """Squared distances of the critic's outputs from 1 for data and 0 for samples, in place of the log odds (Mao et al.)."""

    critic_steps: int = 1

    def variant(self, iteration: int) -> Hashable:
        return 0

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        return (critic(real) - 1).square().mean() + critic(fake).square().mean()

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        return (critic(fake) - 1).square().mean()

    def constrain(self, critic: nn.Module) -> None:
        pass


def discriminator_loss(real: Tensor, fake: Tensor, real_target: float = 1.0) -> Tensor:
    """Cross-entropy of classifying data against samples, from critic outputs (batch,) each."""
    loss = softplus(-real).mean() + softplus(fake).mean()
    if real_target < 1.0:  # softplus(D) = softplus(-D) + D
        loss = loss + (1.0 - real_target) * real.mean()
    return loss


def squared_gradient(critic: Critic, x: Tensor) -> Tensor:
    """|grad_x D(x)|^2 for each item, (batch,), differentiable in the critic's weights."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


class GAN(Family):
    """A generator and a critic of x; with labels in the batch, a generator of (z, label) and a critic of (x, label).

    :param objective: default `NonSaturating`.
    :param learning_rate: learning rate of Adam, for both networks.
    :param betas: betas of Adam.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        objective: Objective | None = None,
        *,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        self.generator, self.critic, self.latent_dim = generator, critic, latent_dim
        self.objective = objective or NonSaturating()
        self.learning_rate, self.betas = learning_rate, betas
        self.batches_per_step = self.objective.critic_steps

    def variant(self, iteration: int) -> Hashable:
        return self.objective.variant(iteration)

    def optimizers(self) -> dict[str, Optimizer]:
        networks = {"critic": self.critic, "generator": self.generator}
        return {name: adam(network, learning_rate=self.learning_rate, betas=self.betas) for name, network in networks.items()}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        chunks = zip(*(tensor.chunk(self.batches_per_step) for tensor in batch), strict=True)
        for k, (real, *label) in enumerate(chunks):
            critic = functools.partial(self.judged, label)
            with torch.no_grad():
                fake = self.generator(self.latent(len(real)), *label)
            count = iteration * self.batches_per_step + k
            update("critic", functools.partial(self.objective.critic_loss, critic, real, fake, count))
            self.objective.constrain(self.critic)
        fool = functools.partial(self.generator, self.latent(len(real)), *label)
        update("generator", lambda: self.generator_loss(critic, fool(), real, *label))

    def judged(self, label: list[Tensor], x: Tensor) -> Tensor:
        """The critic's output for x."""
        return self.critic(x, *label)

    def generator_loss(self, critic: Critic, fake: Tensor, real: Tensor, *label: Tensor) -> Tensor:
        """The generator's loss, of its samples and of the data with the same labels."""
        return self.objective.generator_loss(critic, fake)


# --- recipes -------------------------------------------------------------------------------------------------------


def adversarial(sizes: Sizes, rates: Mapping[str, Any], objective: Objective) -> GAN:
    """A `GAN` with networks of these sizes."""
    return GAN(sizes.generator(), sizes.critic(), sizes.latent_dim, objective, **rates)


def _non_saturating(
    sizes: Sizes,
    rates: Mapping[str, Any],
    *,
    objective: NonSaturating = NonSaturating(),
    real_target: float | None = None,
) -> GAN:
    return adversarial(sizes, rates, objective if real_target is None else replace(objective, real_target=real_target))


def _saturating(sizes: Sizes, rates: Mapping[str, Any], *, real_target: float = 1.0) -> GAN:
    return adversarial(sizes, rates, Saturating(gamma=0.0, real_target=real_target))


def with_penalty(recipe: Recipe, gamma: float, penalty_every: int = 8) -> dict[str, Any]:
    """Settings of a recipe with R1 of weight ``gamma``; empty if the family has no R1.

    A critic of x is penalised in every ``penalty_every``-th step, with the objective `NonSaturating`; a critic of pairs in
    every step.
    """
    if "objective" in recipe.settings:
        return {"objective": NonSaturating(gamma, penalty_every)}
    return {"gamma": gamma} if "gamma" in recipe.settings else {}


RECIPE = Recipe(_non_saturating)
CONDITIONAL = replace(RECIPE, labelled=True)
SATURATING = Recipe(_saturating, learning_rate=5e-4)
"""At half the learning rate, since there is no R1."""

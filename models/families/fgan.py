"""The Kullback-Leibler divergence as an adversarial objective.

    KL(data || generator) = sup_T  E_data T(x) - E_z exp(T(G(z)) - 1),      attained at T = 1 + log data(x) / generator(x)

The critic's output is T. The generator lowers the divergence's only term that depends on it, -E exp(T(G(z)) - 1), or,
``non_saturating``, raises E T(G(z)), which has the same fixed point and a gradient where the critic is sure.

References:
    Nowozin, Cseke, Tomioka. f-GAN: training generative neural samplers using variational divergence minimization. NeurIPS
        2016 (equation 6; table 2, Kullback-Leibler; section 3.2 for the second form).
    Li et al. AIM: adversarial inference by matching priors and conditionals. 2018 (equation 6).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cogen.models.families.gan import Critic, adversarial
from cogen.models.families.recipe import Recipe

LARGEST = 10.0
"""exp(T - 1) is continued linearly beyond T - 1 = 10: early critics are wild, and one sample must not be all of the loss."""


@dataclass(frozen=True)
class KL:
    """The objective KL(data || generator).

    :param critic_steps: for each generator step.
    :param non_saturating: the generator raises E T(G(z)), and does not lower -E exp(T(G(z)) - 1).

    Raises ValueError for less than one critic step.
    """

    critic_steps: int = 1
    non_saturating: bool = True

    def __post_init__(self) -> None:
        if self.critic_steps < 1:
            raise ValueError(f"{self}: critic_steps >= 1 is asked")

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        return conjugate(critic(fake)).mean() - critic(real).mean()

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        output = critic(fake)
        return -output.mean() if self.non_saturating else -conjugate(output).mean()

    def variant(self, iteration: int) -> Hashable:
        return 0

    def constrain(self, critic: nn.Module) -> None:
        pass


def conjugate(output: Tensor) -> Tensor:
    """exp(T - 1), the convex conjugate of u log u, continued linearly where it is huge; right in value and first derivative.

    That is the tangent of exp at the nearest point where it is not huge, seen as a line: half the operations of the curve.
    """
    with torch.no_grad():
        point = (output - 1.0).clamp(max=LARGEST)
        slope = point.exp()
    return slope * (output - point)


RECIPE = Recipe(lambda sizes, rates: adversarial(sizes, rates, KL()), learning_rate=5e-4)

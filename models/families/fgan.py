"""The Kullback-Leibler divergence as an adversarial objective.

    KL(data || generator) = sup_T  E_data T(x) - E_z exp(T(G(z)) - 1),      attained at T = 1 + log data(x) / generator(x)

The critic's output is T. The generator minimises the only term that depends on it, -E exp(T(G(z)) - 1), or maximises
E T(G(z)) (``non_saturating``), which has the same fixed point and a gradient that does not vanish where the critic is certain.

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
"""exp(T - 1) is continued linearly beyond T - 1 = 10: early critics have extreme outputs, and one sample must not dominate."""


@dataclass(frozen=True)
class KL:
    """The objective KL(data || generator).

    :param critic_steps: critic steps for each generator step, at least 1.
    :param non_saturating: the generator maximises E T(G(z)) instead of minimising -E exp(T(G(z)) - 1).
    :raises ValueError: for fewer than one critic step.
    """

    critic_steps: int = 1
    non_saturating: bool = True

    def __post_init__(self) -> None:
        if self.critic_steps < 1:
            raise ValueError(f"{self}: critic_steps must be at least 1")

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
    """exp(T - 1), the convex conjugate of u log u, continued linearly beyond `LARGEST`; exact in value and first derivative.

    It is computed as the tangent at the clamped point, with half the operations of the curve.
    """
    with torch.no_grad():
        point = (output - 1.0).clamp(max=LARGEST)
        slope = point.exp()
    return slope * (output - point)


RECIPE = Recipe(lambda sizes, rates: adversarial(sizes, rates, KL()), learning_rate=5e-4)

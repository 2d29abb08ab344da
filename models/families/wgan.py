"""Wasserstein objectives: the critic estimates the earth mover's distance between data and samples.

    critic       E D(G(z)) - E D(x),     D 1-Lipschitz, by clipping its weights or by lambda E (|grad D(u)| - 1)^2
    generator    -E D(G(z))

u lies on the line between a data item and a sample. The estimate of the distance is minus the critic's loss without the penalty
(`distance`).

References:
    Arjovsky, Chintala, Bottou. Wasserstein GAN. ICML 2017 (algorithm 1; equation 3).
    Gulrajani et al. Improved training of Wasserstein GANs. NeurIPS 2017 (algorithm 1; equation 3).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cogen.models.families.gan import Critic, adversarial, squared_gradient
from cogen.models.families.recipe import Recipe


@dataclass(frozen=True)
class Clipping:
    """The objective of the first paper: after every critic step the critic's weights are clipped to [-clip, clip].

    :raises ValueError: for ``clip`` or ``critic_steps`` that is not positive.
    """

    clip: float = 0.01
    critic_steps: int = 5

    def __post_init__(self) -> None:
        if not (self.clip > 0 and self.critic_steps >= 1):
            raise ValueError(f"{self}: clip must be positive, and critic_steps at least 1")

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        return -distance(critic, real, fake)

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        return -critic(fake).mean()

    def variant(self, iteration: int) -> Hashable:
        return 0

    def constrain(self, critic: nn.Module) -> None:
        with torch.no_grad():
            for parameter in critic.parameters():
                parameter.clamp_(-self.clip, self.clip)


@dataclass(frozen=True)
class GradientPenalty:
    """The objective of the second paper, with its five critic steps for each generator step.

    :raises ValueError: for ``penalty`` or ``critic_steps`` that is not positive.
    """

    penalty: float = 10.0
    critic_steps: int = 5

    def __post_init__(self) -> None:
        if not (self.penalty > 0 and self.critic_steps >= 1):
            raise ValueError(f"{self}: penalty must be positive, and critic_steps at least 1")

    def critic_loss(self, critic: Critic, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        share = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        between = torch.lerp(real, fake.to(real.dtype), share)
        norm = (squared_gradient(critic, between) + 1e-12).sqrt()  # sqrt has no gradient at 0
        return self.penalty * (norm - 1).square().mean() - distance(critic, real, fake)

    def generator_loss(self, critic: Critic, fake: Tensor) -> Tensor:
        return -critic(fake).mean()

    def variant(self, iteration: int) -> Hashable:
        return 0

    def constrain(self, critic: nn.Module) -> None:
        pass


def distance(critic: Critic, real: Tensor, fake: Tensor) -> Tensor:
    """E D(x) - E D(G(z)), the critic's lower bound of the Wasserstein distance."""
    return critic(real).mean() - critic(fake).mean()


CLIPPED = Recipe(lambda sizes, rates: adversarial(sizes, rates, Clipping()), learning_rate=5e-4)
PENALISED = Recipe(lambda sizes, rates: adversarial(sizes, rates, GradientPenalty()), learning_rate=5e-4)

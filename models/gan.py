"""Adversarial training: a critic learns to tell data from samples, a generator learns to be taken for data.

Two objectives, each a pair of losses (critic, generator) over critic outputs D(x):

    non-saturating   critic: E softplus(-D(x)) + E softplus(D(G(z))) + (gamma / 2) E |grad D(x)|^2
                     generator: E softplus(-D(G(z)))
    Wasserstein      critic: E D(G(z)) - E D(x) + lambda E (|grad D(u)| - 1)^2
                     generator: -E D(G(z))

References:
    Goodfellow et al. Generative adversarial nets. NeurIPS 2014 (equation 1, and the non-saturating loss of section 3).
    Mescheder, Geiger, Nowozin. Which training methods for GANs do actually converge? ICML 2018 (R1: equation 9).
    Gulrajani et al. Improved training of Wasserstein GANs. NeurIPS 2017 (equation 3).
    Karras et al. Analyzing and improving the image quality of StyleGAN. CVPR 2020 (section 3.1: the penalty only every
        k-th step, k times as strong).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


@dataclass(frozen=True)
class NonSaturating:
    """The non-saturating objective; `gamma` = 0 is the vanilla GAN, else R1 is applied every `penalty_every` steps."""

    gamma: float = 1.0
    penalty_every: int = 8
    critic_steps: int = 1

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        loss = softplus(-critic(real)).mean() + softplus(critic(fake)).mean()
        if self.gamma > 0 and iteration % self.penalty_every == 0:
            loss = loss + 0.5 * self.gamma * self.penalty_every * squared_gradient(critic, real).mean()
        return loss

    def generator_loss(self, critic: nn.Module, fake: Tensor) -> Tensor:
        return softplus(-critic(fake)).mean()


@dataclass(frozen=True)
class Wasserstein:
    """The Wasserstein objective with gradient penalty; five critic steps for each generator step as in the paper."""

    penalty: float = 10.0
    critic_steps: int = 5

    def critic_loss(self, critic: nn.Module, real: Tensor, fake: Tensor, iteration: int) -> Tensor:
        share = torch.rand(len(real), *[1] * (real.ndim - 1))
        between = torch.lerp(real, fake, share)
        norm = (squared_gradient(critic, between) + 1e-12).sqrt()  # sqrt has no gradient at 0
        return critic(fake).mean() - critic(real).mean() + self.penalty * (norm - 1).square().mean()

    def generator_loss(self, critic: nn.Module, fake: Tensor) -> Tensor:
        return -critic(fake).mean()


def squared_gradient(critic: nn.Module, x: Tensor) -> Tensor:
    """|grad_x D(x)|^2 for each example, (batch,), itself differentiable in the critic's weights."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    return gradient.square().flatten(1).sum(1)


def step(
    objective: NonSaturating | Wasserstein,
    generator: nn.Module,
    critic: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    real: Tensor,
    latent_dim: int,
    iteration: int,
) -> dict[str, float]:
    """One generator step after `objective.critic_steps` critic steps; `real` (critic_steps * batch, *event_shape).

    `optimizers` are (generator's, critic's). Returns the two losses as numbers.
    """
    generator_optimizer, critic_optimizer = optimizers
    for k, data in enumerate(real.chunk(objective.critic_steps)):
        with torch.no_grad():
            fake = generator(torch.randn(len(data), latent_dim))
        critic_loss = objective.critic_loss(critic, data, fake, iteration * objective.critic_steps + k)
        critic_optimizer.zero_grad(set_to_none=True)
        critic_loss.backward()
        critic_optimizer.step()

    critic.requires_grad_(False)  # the critic's weight gradients are not needed here: a third of the cost
    generator_loss = objective.generator_loss(critic, generator(torch.randn(len(data), latent_dim)))
    critic.requires_grad_(True)
    generator_optimizer.zero_grad(set_to_none=True)
    generator_loss.backward()
    generator_optimizer.step()
    return {"critic": critic_loss.item(), "generator": generator_loss.item()}

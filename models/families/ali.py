"""Adversarially learned inference: a critic compares pairs (x, z) of the encoder's joint and of the generator's.

The encoder's joint is q(x, z) = data(x) q(z | x), the generator's p(x, z) = p(z) p(x | z). With the critic's unbounded output
D(x, z), z ~ p(z), and an inferred latent z~ = mean(x) + exp(log_sd(x)) eps, eps ~ Normal(0, 1):

    critic                   E softplus(-D(x, z~)) + E softplus(D(G(z), z)) + (gamma / 2) E |grad D(x, z~)|^2
    generator and encoder    E softplus(D(x, z~)) + E softplus(-D(G(z), z))

The optimal critic is log q(x, z) / p(x, z), where the critic's loss is 2 log 2 - 2 JS(q, p). At equilibrium the two joints are
equal, so that the encoder is the generator's posterior. With a deterministic encoder, z~ = mean(x), this is BiGAN.

References:
    Dumoulin, Belghazi, Poole, Mastropietro, Lamb, Arjovsky, Courville. Adversarially learned inference. ICLR 2017
        (equations 1 to 5; algorithm 1: both losses, the second with the labels swapped).
    Donahue, Krahenbuhl, Darrell. Adversarial feature learning. ICLR 2017 (BiGAN).
    Mescheder, Geiger, Nowozin. Which training methods for GANs do actually converge? ICML 2018 (R1: equation 9).
Departures: the critic's gradient is penalised, as in `gan.NonSaturating`; gamma = 0 is the papers' objective. The critic is
updated first, then generator and encoder with new latents; algorithm 1 takes both gradients at the same weights and latents.
The generator is deterministic. The joint critic concatenates z to the features of x; in the paper z has its own layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.gan import discriminator_loss
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes
from cogen.models.networks.architectures import DenseCritic


class JointCritic(nn.Module):
    """One unbounded value for each pair (x, z): a multilayer perceptron on features of x concatenated with z.

    :param event_shape: shape of one x.
    :param latent_dim: size of z.
    :param features: from x (batch, *event_shape) to features of any shape; None uses x itself. For images the ``features``
        of a `networks.ConvolutionalCritic`.
    :param hidden: widths of the hidden layers after the concatenation.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        features: nn.Module | None = None,
        hidden: Sequence[int] = (256, 256),
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.features = nn.Sequential(nn.Identity() if features is None else features, nn.Flatten())
        with torch.no_grad():
            width = self.features(torch.zeros(2, *event_shape)).shape[1]
        self.pair = DenseCritic((width + latent_dim,), hidden)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """x (batch, *event_shape), z (batch, latent_dim) -> (batch,)."""
        return self.pair(torch.cat([self.features(x), z], dim=1))


JointScore = Callable[[Tensor, Tensor], Tensor]
"""From x (batch, *event_shape) and z (batch, latent_dim) to one value for each pair, (batch,)."""


class Pairs(NamedTuple):
    """The pairs that the critic compares: data with inferred latents, and generated events with their latents."""

    x: Tensor
    """Data, (batch, *event_shape)."""
    inferred: Tensor
    """Their latents, drawn from q(z | x), (batch, latent_dim)."""
    made: Tensor
    """G(z), (batch, *event_shape)."""
    z: Tensor
    """Draws from the prior, (batch, latent_dim)."""


class ALI(Family):
    """A generator, an encoder (batch, *event) -> mean, log sd, and a critic of pairs (x, z), such as `JointCritic`.

    :param stochastic: latents are drawn from q(z | x); False takes their mean (BiGAN).
    :param gamma: weight of R1, the penalty on the critic's gradient in x and z at the pairs of data.
    :param learning_rate: learning rate of Adam, for all networks.
    :param betas: betas of Adam.
    :raises ValueError: for a `JointCritic` of another ``latent_dim``, or a negative gamma.
    """

    encoder: nn.Module

    def __init__(
        self,
        generator: nn.Module,
        encoder: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        *,
        stochastic: bool = True,
        gamma: float = 1.0,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        check(critic, latent_dim, gamma)
        self.generator, self.encoder, self.critic, self.latent_dim = generator, encoder, critic, latent_dim
        self.stochastic, self.gamma = stochastic, gamma
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        networks = {"critic": [self.critic], "generator_encoder": [self.generator, self.encoder]}
        return {name: adam(*some, learning_rate=self.learning_rate, betas=self.betas) for name, some in networks.items()}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        (x,) = batch
        with torch.no_grad():
            pairs = self.pairs(x)
        update("critic", lambda: critic_loss(self.critic, pairs, self.gamma))
        update("generator_encoder", lambda: self.generator_encoder_loss(self.pairs(x)))

    def pairs(self, x: Tensor) -> Pairs:
        """The data x (batch, *event_shape) with newly inferred latents, and as many generated pairs."""
        z = self.latent(len(x))
        return Pairs(x, self.infer(x), self.generator(z), z)

    def infer(self, x: Tensor) -> Tensor:
        """z ~ q(z | x), reparametrised, (batch, latent_dim); its mean if the encoder is deterministic."""
        mean, log_sd = self.encoder(x)
        return mean + log_sd.exp() * torch.randn_like(mean) if self.stochastic else mean

    def generator_encoder_loss(self, pairs: Pairs) -> Tensor:
        """The joint loss of generator and encoder."""
        return generator_encoder_loss(self.critic, pairs)


def critic_loss(critic: JointScore, pairs: Pairs, gamma: float = 0.0) -> Tensor:
    """Cross-entropy of classifying (x, z~) against (G(z), z) (algorithm 1, L_d), and R1, (gamma / 2) E |grad D(x, z~)|^2."""
    loss = discriminator_loss(critic(pairs.x, pairs.inferred), critic(pairs.made, pairs.z))
    return loss + 0.5 * gamma * squared_joint_gradient(critic, pairs.x, pairs.inferred).mean() if gamma else loss


def generator_encoder_loss(critic: JointScore, pairs: Pairs) -> Tensor:
    """The cross-entropy with swapped labels, whose gradient does not vanish where the critic is certain; algorithm 1, L_g."""
    return softplus(critic(pairs.x, pairs.inferred)).mean() + softplus(-critic(pairs.made, pairs.z)).mean()


def squared_joint_gradient(critic: JointScore, x: Tensor, z: Tensor) -> Tensor:
    """|grad D(x, z)|^2 in x and z for each pair, (batch,), differentiable in the critic's weights."""
    x, z = x.detach().requires_grad_(), z.detach().requires_grad_()
    gradients = torch.autograd.grad(critic(x, z).sum(), (x, z), create_graph=True)
    return torch.stack([gradient.square().flatten(1).sum(1) for gradient in gradients]).sum(0)


def check(critic: nn.Module, latent_dim: int, gamma: float) -> None:
    """Check the settings of `ALI`.

    :raises ValueError: for a `JointCritic` of another ``latent_dim``, or a negative gamma.
    """
    if isinstance(critic, JointCritic) and critic.latent_dim != latent_dim:
        raise ValueError(
            f"latent_dim={latent_dim}, but the critic was made for latent_dim={critic.latent_dim}: make it with "
            f"JointCritic(event_shape, latent_dim={latent_dim})"
        )
    if not 0 <= gamma < math.inf:
        raise ValueError(f"gamma={gamma}: the weight of the gradient penalty must be finite and not negative; 0 disables it")


# --- recipes -------------------------------------------------------------------------------------------------------


def joint_critic(sizes: Sizes) -> JointCritic:
    """A critic of pairs (x, z) with networks of these sizes."""
    return JointCritic(sizes.event_shape, sizes.latent_dim, sizes.pair_features(), sizes.pair_widths)


def _build(sizes: Sizes, rates: Mapping[str, Any], stochastic: bool = True, *, gamma: float = 1.0) -> ALI:
    generator, critic = sizes.generator(), joint_critic(sizes)
    return ALI(generator, sizes.encoder(), critic, sizes.latent_dim, stochastic=stochastic, gamma=gamma, **rates)


def _deterministic(sizes: Sizes, rates: Mapping[str, Any], *, gamma: float = 1.0) -> ALI:
    return _build(sizes, rates, False, gamma=gamma)


RECIPE = Recipe(_build, encoder=Sizes.encoder_architecture)
DETERMINISTIC = Recipe(_deterministic, encoder=Sizes.encoder_architecture)
"""BiGAN."""

"""VEEGAN: a reconstructor maps events to latents, and must recover z from the generator's event G(z).

A critic of x alone hardly detects missing modes. The reconstructor F maps all data to latents, including data that the
generator misses, and a critic of pairs detects that these latents are not distributed as z. With the critic's unbounded output
D(x, z), high for the pairs (x, F(x)) of data:

    critic                        E softplus(-D(x, F(x))) + E softplus(D(G(z), z)) + (gamma / 2) E |grad D(x, F(x))|^2
    generator and reconstructor   -E D(G(z), z) + weight * E |z - F(G(z))|^2 / latent_dim

The optimal critic is D = log data(x) q(z | x) / p(z) p(x | z), so that -E D is KL(p(z) p(x | z) || data(x) q(z | x)). Its sum
with the latent error, an autoencoder loss of noise, is an upper bound of the cross-entropy between Normal(0, 1) and the latents
of data. The first term does not depend on F: the reconstructor learns from the latent error alone.

References:
    Srivastava, Valkov, Russell, Gutmann, Sutton. VEEGAN: reducing mode collapse in GANs using implicit variational learning.
        NeurIPS 2017 (section 3 up to equation 8; algorithm 1).
Departures: the critic's gradient is penalised (R1, as in `cogen.models.families.ali`); gamma = 0 is the paper's objective, with
which samples of three Gaussians moved away from the data in each of three runs. The paper's critic is -D, high for generated
pairs. The critic is updated first; algorithm 1 takes all gradients at the same weights. The latent error is averaged over
latents, with a weight. F(x) enters the critic without noise; the encoder has a standard deviation, which training does not use.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.models.families.ali import Pairs, check, critic_loss, joint_critic
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes


class Reconstructor(nn.Module):
    """F as the encoder q(z | x) = Normal(F(x), sd).

    Its sd, one for each latent, is a moving root mean square of z - F(G(z)) on the generator's samples.

    :param network: F, from x (batch, *event_shape) to (batch, latent_dim).
    """

    log_sd: Tensor

    def __init__(self, network: nn.Module, latent_dim: int) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("log_sd", torch.zeros(latent_dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, *event_shape) -> mean (batch, latent_dim), log_sd (batch, latent_dim)."""
        mean = self.network(x)
        return mean, self.log_sd.expand_as(mean)

    @torch.no_grad()
    def follow(self, error: Tensor, rate: float) -> None:
        """Update the moving average of squared errors with new errors (batch, latent_dim)."""
        square = torch.lerp((2 * self.log_sd).exp(), error.square().mean(0).float(), rate)
        self.log_sd.copy_(0.5 * square.clamp_min(1e-12).log())


class VEEGAN(Family):
    """A generator, a reconstructor F from x (batch, *event_shape) to (batch, latent_dim), and a critic of pairs (x, z).

    ``encoder`` is the reconstructor with a standard deviation.

    :param critic: a critic of pairs, such as `ali.JointCritic`.
    :param weight: weight of the latent error.
    :param gamma: weight of R1, the penalty on the critic's gradient in x and z at the pairs of data.
    :param learning_rate: learning rate of Adam, for all networks.
    :param betas: betas of Adam.
    :raises ValueError: for a negative weight or gamma, or a `JointCritic` of another ``latent_dim``.
    """

    encoder: Reconstructor

    def __init__(
        self,
        generator: nn.Module,
        reconstructor: nn.Module,
        critic: nn.Module,
        latent_dim: int,
        *,
        weight: float = 1.0,
        gamma: float = 1.0,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        if not (0 <= weight < math.inf):
            raise ValueError(f"weight={weight}: the weight of the latent error must be finite and not negative")
        check(critic, latent_dim, gamma)
        self.generator, self.critic, self.latent_dim = generator, critic, latent_dim
        self.weight, self.gamma = weight, gamma
        self.encoder = Reconstructor(reconstructor, latent_dim)
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        networks = {"critic": [self.critic], "generator_reconstructor": [self.generator, self.encoder]}
        return {name: adam(*some, learning_rate=self.learning_rate, betas=self.betas) for name, some in networks.items()}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        (x,) = batch
        with torch.no_grad():
            z = self.latent(len(x))
            pairs = Pairs(x, self.encoder(x)[0], self.generator(z), z)
        update("critic", lambda: critic_loss(self.critic, pairs, self.gamma))

        def loss() -> Tensor:
            z = self.latent(len(x))
            made = self.generator(z)
            error = z - self.encoder(made)[0]
            self.encoder.follow(error, 0.01 if iteration else 1.0)
            return generator_reconstructor_loss(self.critic(made, z), error, self.weight)

        update("generator_reconstructor", loss)


def generator_reconstructor_loss(generated: Tensor, error: Tensor, weight: float = 1.0) -> Tensor:
    """-E D(G(z), z) + weight * E |z - F(G(z))|^2 / latent_dim: critic outputs (batch,), latent errors (batch, latent_dim)."""
    return weight * error.square().mean() - generated.mean()


def _build(sizes: Sizes, rates: Mapping[str, Any], *, weight: float = 1.0, gamma: float = 1.0) -> VEEGAN:
    generator, critic = sizes.generator(), joint_critic(sizes)
    return VEEGAN(generator, sizes.reconstructor(), critic, sizes.latent_dim, weight=weight, gamma=gamma, **rates)


RECIPE = Recipe(_build, encoder=Sizes.reconstructor_architecture)

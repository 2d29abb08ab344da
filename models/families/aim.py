"""Adversarial inference by matching priors and conditionals: a GAN with an encoder and without a critic of latents.

With the generator's joint p(z) p(x | z) and the encoder's joint data(x) q(z | x),

    KL(p(x, z) || q(x, z)) = KL(p(x) || data(x)) + E_{p(x)} KL(p(z | x) || q(z | x)),

so the two joints agree when the marginals of x agree, which a GAN enforces, and when the encoder is the generator's posterior,
which is learned by maximum likelihood on pairs that the generator makes:

    critic       any objective of a GAN: the log odds (equation 7), or the divergence of f-GAN (equation 6)
    encoder      E_{z ~ p(z), x ~ p(x | z)} -log q(z | x),      q(z | x) = Normal(mean(x), sd(x)), dimensions independent
    generator    the GAN's loss + lambda times the encoder's

lambda is 1 with f-GAN's divergence, where the sum is the objective itself (equation 3), and 1 / latent_dim with the log odds,
which puts both terms on one scale (section 5).

The encoder's term in the generator's loss opposes mode collapse, in which z cannot be inferred from x. x | z is G(z), or G(z)
with Gaussian noise. The encoder reads the critic's features and does not train them.

A positive lambda biases the generator. Take an exact posterior as the encoder, x given z with a fixed noise, and an adversarial
loss that descends the KL divergence. The term is then the entropy H(z | x) = H(z) + H(x | z) - H(x), of which only H(x) depends
on the generator. The generator minimises KL(p(x) || data) - lambda H(x), whose minimum is not the data but p(x) proportional to
data(x)^(1 / (1 + lambda)): Gaussians become sqrt(1 + lambda) times too wide. The gradient of `NonSaturating` near the data is
half that of KL, so that lambda counts about twice; without noise H(z | x) is bounded only by the bound of the encoder's log sd.
The measured bias (`docs/families.md`) is larger than in this limit, and smaller with a smaller lambda. None of this applies to
unit variance, where the term is a squared error.

References:
    Li, Wang, Chen, Gao. AIM: adversarial inference by matching priors and conditionals. 2018 (equations 3 and 7 to 9;
        algorithm 1 is `AIM.step` with ``together``, algorithm 2 is `neighbours` of `cogen.models.networks.encoders`; section
        4.6: noise).
    Nowozin, Cseke, Tomioka. f-GAN. NeurIPS 2016.
Departures: generator and encoder are updated in turn by default: first the critic, then the encoder on the critic's samples,
then the generator on new ones. Algorithm 1 (``together``) computes all gradients at the same weights and latents, and updates
generator and encoder by one optimiser. The critic may be regularised (R1). The head's outputs are mean and log sd, and the log
sd is bounded in the loss; the paper does not say how its network makes sigma positive. The published networks are in
`cogen.models.families.published_aim`. The critics of the recipes here have no batch norm, so that the features of one x do not
depend on the rest of the batch.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.fgan import KL
from cogen.models.families.gan import NonSaturating, Objective
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes
from cogen.models.networks.encoders import FeatureEncoder, negative_log_density
from cogen.models.training.learning_rates import InverseRoot, Schedule


class AIM(Family):
    """A generator, a critic with features, and an encoder head on these features.

    :param critic: a module with submodules ``features`` (x to (batch, width)) and ``last`` (to one value), such as
        `networks.ConvolutionalCritic` and `networks.DenseCritic`.
    :param head: from features (batch, width) to mean and log sd, (batch, 2 latent_dim); see `encoders.head`.
    :param objective: the adversarial objective; default `gan.NonSaturating`.
    :param weight: lambda; default 1 with the objective `fgan.KL`, else 1 / latent_dim.
    :param together: generator and encoder are updated together, with the latents of the critic's samples and all gradients at
        the same weights (algorithm 1); else critic, encoder and generator are updated in turn.
    :param unit_variance: q(z | x) has variance one: the encoder's loss is half the squared error of z (the paper's AIM-).
    :param noise: standard deviation of x | z around G(z).
    :raises ValueError: for a negative weight or noise, a critic without features, or ``together`` with several critic steps.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        head: nn.Module,
        latent_dim: int,
        objective: Objective | None = None,
        *,
        weight: float | None = None,
        unit_variance: bool = False,
        noise: float = 0.0,
        together: bool = False,
        learning_rate: float = 2e-4,
        betas: tuple[float, float] = (0.5, 0.99),
    ) -> None:
        super().__init__()
        objective = objective or NonSaturating()
        if weight is None:
            weight = 1.0 if isinstance(objective, KL) else 1.0 / latent_dim
        if together and objective.critic_steps > 1:
            raise ValueError(
                f"together=True with {objective}: algorithm 1 takes one critic step per generator step; set critic_steps=1"
            )
        if not (weight >= 0 and noise >= 0):
            raise ValueError(f"weight={weight}, noise={noise}: neither must be negative")
        if not (
            isinstance(getattr(critic, "features", None), nn.Module) and isinstance(getattr(critic, "last", None), nn.Module)
        ):
            raise ValueError(
                f"{type(critic).__name__} has no submodules `features` and `last`: AIM's encoder reads the critic's features"
            )
        self.generator, self.critic, self.head, self.latent_dim = generator, critic, head, latent_dim
        self.objective, self.weight, self.unit_variance, self.noise = objective, weight, unit_variance, noise
        self.together, self.learning_rate, self.betas = together, learning_rate, betas
        self.batches_per_step = objective.critic_steps

    def variant(self, iteration: int) -> Hashable:
        return self.objective.variant(iteration)

    @property
    def encoder(self) -> FeatureEncoder:
        """From x to mean and log sd: the head on the critic's features, which are shared."""
        return FeatureEncoder(self.critic.features, self.head, self.unit_variance)  # type: ignore[arg-type]

    def optimizers(self) -> dict[str, Optimizer]:
        networks: dict[str, list[nn.Module]] = {"critic": [self.critic], "generator": [self.generator], "encoder": [self.head]}
        if self.together:
            networks = {"generator_encoder": [self.generator, self.head], "critic": [self.critic]}
        return {name: adam(*some, learning_rate=self.learning_rate, betas=self.betas) for name, some in networks.items()}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        if self.together:
            self._step_together(batch[0], update, iteration)
        else:
            self._step_by_turns(batch, update, iteration)

    def _step_together(self, real: Tensor, update: Update, iteration: int) -> None:
        """Algorithm 1. The critic's step is last, on the samples made before it: both losses use its old weights."""
        z = self.latent(len(real))
        made: list[Tensor] = []

        def loss() -> Tensor:
            fake = self.sample(z)
            made.append(fake.detach())
            return self.generator_loss(z, fake)

        update("generator_encoder", loss)
        update("critic", functools.partial(self.objective.critic_loss, self.critic, real, made[0], iteration))
        self.objective.constrain(self.critic)

    def _step_by_turns(self, batch: Batch, update: Update, iteration: int) -> None:
        for k, real in enumerate(batch[0].chunk(self.batches_per_step)):
            with torch.no_grad():
                z = self.latent(len(real))
                fake = self.sample(z)
            count = iteration * self.batches_per_step + k
            update("critic", functools.partial(self.objective.critic_loss, self.critic, real, fake, count))
            self.objective.constrain(self.critic)
        update("encoder", lambda: self.encoder_loss(z, fake))

        z = self.latent(len(real))
        update("generator", lambda: self.generator_loss(z, self.sample(z)))

    def sample(self, z: Tensor) -> Tensor:
        """x | z: G(z), plus noise if ``noise`` is positive."""
        x = self.generator(z)
        return x + self.noise * torch.randn_like(x) if self.noise else x

    def encoder_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """Mean of -log q(z | x) over pairs, in nats (equations 7 and 8)."""
        return negative_log_density(z, *self.encoder(x)).mean()

    def generator_loss(self, z: Tensor, x: Tensor) -> Tensor:
        """The adversarial loss plus lambda times the encoder's loss, of pairs (equation 9)."""
        features = self.critic.features(x)  # type: ignore[operator]  # once, for both terms
        fooled = self.objective.generator_loss(self._last, features)
        return fooled + self.weight * negative_log_density(z, *self.encoder.code(features)).mean()

    def _last(self, features: Tensor) -> Tensor:
        return self.critic.last(features).squeeze(-1)  # type: ignore[operator]


# --- recipes -------------------------------------------------------------------------------------------------------


REGULARISED = NonSaturating(gamma=0.5)


def _build(
    sizes: Sizes,
    rates: Mapping[str, Any],
    unit_variance: bool = False,
    *,
    objective: Objective = REGULARISED,
    weight: float | None = None,
    noise: float = 0.0,
    together: bool = False,
) -> AIM:
    settings: dict[str, Any] = {"weight": weight, "noise": noise, "unit_variance": unit_variance, "together": together}
    generator, head = sizes.generator(), sizes.head()
    return AIM(generator, sizes.critic(), head, sizes.latent_dim, objective, **settings, **rates)


def _unit_variance(
    sizes: Sizes,
    rates: Mapping[str, Any],
    *,
    objective: Objective = REGULARISED,
    weight: float | None = None,
    noise: float = 0.0,
    together: bool = False,
) -> AIM:
    return _build(sizes, rates, True, objective=objective, weight=weight, noise=noise, together=together)


def _inverse_root(num_steps: int) -> Schedule:
    return InverseRoot()


RECIPE = Recipe(_build, schedule=_inverse_root, encoder=Sizes.encoder_architecture)
UNIT_VARIANCE = replace(RECIPE, build=_unit_variance, encoder=lambda sizes: sizes.encoder_architecture(unit_variance=True))
"""The paper's AIM-."""

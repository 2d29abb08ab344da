"""Variational autoencoder: an encoder q(z | x) and a decoder G(z), trained together on the evidence lower bound.

    log p(x) >= E_q(z|x) log p(x | G(z)) - KL(q(z | x) || Normal(0, 1))

The likelihood is Gaussian or Bernoulli. Unless it is given, the Gaussian's sigma is the maximum-likelihood value of every
batch, the root mean square residual; the reconstruction term is then the log of the residual, and needs no weight.

`VAE.model` and `VAE.guide` are the Pyro model and guide, with ``z`` and ``x`` in a plate over items; the loss of Pyro's SVI is
`negative_elbo` (with a given sigma) times the number of items.

With labels in the batch the class is an input of both networks: p(x | z, c) and q(z | x, c), the conditional VAE.

References:
    Kingma, Welling. Auto-encoding variational Bayes. ICLR 2014 (equation 10; the KL in appendix B; Bernoulli in C.1).
    Sohn, Lee, Yan. Learning structured output representation using deep conditional generative models. NeurIPS 2015 (eq. 4).
    Rybkin, Daniilidis, Levine. Simple and effective VAE training with calibrated decoders. ICML 2021 (section 3.2:
        optimal sigma).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes

if TYPE_CHECKING:
    from pyro.distributions.torch_distribution import TorchDistributionMixin

SMALLEST_SCALE = 0.02
"""Lower bound of the fitted sigma: the density of an exactly reproduced pixel is infinite."""


def negative_elbo(
    encoder: nn.Module,
    decoder: nn.Module,
    x: Tensor,
    *condition: Tensor,
    scale: float | None = None,
    bernoulli: bool = False,
) -> tuple[Tensor, Tensor]:
    """Mean negative evidence lower bound over the batch, in nats per event, and the noise scale (detached; 0 for Bernoulli).

    :param condition: further inputs of both networks.
    :param scale: sigma; None fits it to the batch.
    :param bernoulli: a Bernoulli likelihood, whose probability of 1 is G(z) in (0, 1).
    """
    mean, log_sd = encoder(x, *condition)  # (batch, latent) each
    made = decoder(mean + log_sd.exp() * torch.randn_like(mean), *condition)
    kl = kl_to_standard_normal(mean, log_sd).mean()
    if bernoulli:
        with torch.autocast(x.device.type, enabled=False):  # half precision rounds probabilities to 0 or 1
            loss = binary_cross_entropy(_open(made.float()), x, reduction="none").flatten(1).sum(1).mean()
        return loss + kl, torch.zeros((), device=x.device)
    error = (x - made).square().flatten(1)  # (batch, pixel)
    if scale is None:
        # The derivative in sigma vanishes at the optimal sigma, so detaching it does not change the gradient.
        variance = error.detach().mean().clamp_min(SMALLEST_SCALE**2)
    else:
        variance = torch.full((), scale**2, device=x.device)
    reconstruction = 0.5 * error.shape[1] * (error.mean() / variance + (2 * math.pi * variance).log())
    return reconstruction + kl, variance.sqrt()


def kl_to_standard_normal(mean: Tensor, log_sd: Tensor) -> Tensor:
    """KL(Normal(mean, exp(log_sd)) || Normal(0, 1)) summed over the latent, (batch,)."""
    return (0.5 * (mean.square() + (2 * log_sd).exp() - 1) - log_sd).sum(-1)


class VAE(Family):
    """An encoder (batch, *event) -> mean, log sd and a decoder, the generator; labels in the batch are inputs of both.

    :param scale: sigma of the Gaussian likelihood, positive; None fits it in training, with its moving average in
        ``fitted_scale``.
    :param bernoulli: a Bernoulli likelihood; the decoder makes probabilities in (0, 1), the data lie in [0, 1].
    :raises ValueError: for a scale that is not positive, or a scale of a Bernoulli likelihood.
    """

    encoder: nn.Module
    fitted_scale: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        generator: nn.Module,
        latent_dim: int,
        *,
        scale: float | None = None,
        bernoulli: bool = False,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if scale is not None and (bernoulli or not scale > 0):
            raise ValueError(f"scale={scale}: the scale of a Gaussian likelihood must be positive; omit it with bernoulli=True")
        self.encoder, self.generator, self.latent_dim = encoder, generator, latent_dim
        self.scale, self.bernoulli = scale, bernoulli
        self.learning_rate, self.betas = learning_rate, betas
        self.register_buffer("fitted_scale", torch.tensor(1.0 if scale is None else scale))

    def optimizers(self) -> dict[str, Optimizer]:
        return {"negative_elbo": adam(self.encoder, self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        def loss() -> Tensor:
            value, scale = negative_elbo(self.encoder, self.generator, *batch, scale=self.scale, bernoulli=self.bernoulli)
            if self.scale is None and not self.bernoulli:
                self.fitted_scale.lerp_(scale.float(), 0.01 if iteration else 1.0)
            return value

        update("negative_elbo", loss)

    def likelihood(self, made: Tensor) -> TorchDistributionMixin:
        """The Pyro distribution of x given the decoder's output, with the event shape of x."""
        import pyro.distributions as dist

        noise = dist.Bernoulli(_open(made), validate_args=False) if self.bernoulli else dist.Normal(made, self.fitted_scale)
        return noise.to_event(made.ndim - 1)

    def model(self, x: Tensor, *condition: Tensor) -> None:
        """The Pyro model of x (item, *event): sites ``z`` and ``x`` in the plate ``item``."""
        import pyro
        import pyro.distributions as dist

        pyro.module("decoder", self.generator)
        with pyro.plate("item", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), self.latent_dim, device=x.device), 1.0).to_event(1))
            pyro.sample("x", self.likelihood(self.generator(z, *condition)), obs=x)

    def guide(self, x: Tensor, *condition: Tensor) -> None:
        """The encoder as the Pyro guide of `model`."""
        import pyro
        import pyro.distributions as dist

        pyro.module("encoder", self.encoder)
        mean, log_sd = self.encoder(x, *condition)
        with pyro.plate("item", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mean, log_sd.exp()).to_event(1))


def _open(probability: Tensor) -> Tensor:
    """A probability bounded away from 0 and 1, where logarithms are infinite."""
    return 1e-6 + (1.0 - 2e-6) * probability


def _build(sizes: Sizes, rates: Mapping[str, Any], *, scale: float | None = None) -> VAE:
    generator = sizes.generator()
    return VAE(sizes.dense_encoder(), generator, sizes.latent_dim, scale=scale, **rates)


RECIPE = Recipe(_build, encoder=Sizes.dense_encoder_architecture)
CONDITIONAL = Recipe(_build, labelled=True)

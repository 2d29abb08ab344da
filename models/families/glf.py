"""Generative latent flow: an autoencoder, and a flow that makes its codes from a standard normal latent.

    e ~ q(e | x),    x ~ p(x | D(e)),    e = f(z),    z ~ Normal(0, I),        G(z) = D(f(z)).

The codes of an autoencoder are not distributed as any prior says: between and around them lie places from which the decoder
makes blobs, and the posterior of half an image finds them. Here the aggregated posterior q(e) = E_x q(e | x) is what it is, and
a RealNVP learns it by maximum likelihood, so that the composition has a standard normal latent again, and an exact density of
its codes, log q(e) = log Normal(f^-1(e)) + log |det d f^-1(e) / de|.

Two losses, at every step: the evidence lower bound of the autoencoder, with Normal(0, I) as what keeps codes near each other,
and the flow's negative log likelihood of codes drawn from q(e | x). The second does not reach the encoder.

References:
    Xiao, Yan, Amit. Generative latent flow. arXiv 1905.10485, 2019 (section 3: both parts at once, no gradient from the flow to
        the encoder).
    Dai, Wipf. Diagnosing and enhancing VAE models. ICLR 2019 (section 4: a second stage for the aggregated posterior).
Departures: the encoder is Gaussian with its divergence from Normal(0, I), theirs deterministic with an added noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cogen.models.families.family import Batch, Family, Update, adam, x_alone
from cogen.models.families.realnvp import RealNVPGenerator
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.families.vae import negative_elbo
from cogen.models.networks.architectures import PLAIN

COUPLINGS = 8
HIDDEN = (64, 64)
"""Of the flow, by default."""


class LatentFlowGenerator(nn.Module):
    """The generator x = D(f(z)), by the name and the arguments of its decoder, so that it can be stored.

    :param architecture: of the decoder D, "DenseGenerator" or "DcganGenerator".
    :param arguments: its keyword arguments; their ``latent_dim`` is the size of z and of a code, at least 2.
    :param couplings: of the flow f.
    :param hidden: widths of the hidden layers of every coupling's network.

    Raises ValueError for another architecture, and what `RealNVPGenerator` raises.
    """

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        couplings: int = COUPLINGS,
        hidden: Sequence[int] = HIDDEN,
    ) -> None:
        super().__init__()
        if architecture not in PLAIN:
            raise ValueError(f"a latent flow has the decoder {' or '.join(PLAIN)}, not {architecture!r}")
        self.flow = RealNVPGenerator((arguments["latent_dim"],), couplings, hidden)
        self.decoder = PLAIN[architecture](**arguments)

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, *event_shape)."""
        return self.decoder(self.flow(z))


class GLF(Family):
    """An encoder of codes (batch, *event) -> mean, log sd and a `LatentFlowGenerator`; batches are x alone.

    :param scale: sigma of the Gaussian likelihood, positive: the larger, the nearer the codes are to each other and the
        smoother the flow has to be.
    :param learning_rate: of Adam, for both parts.
    :param betas: Adam's.

    Raises ValueError for a scale that is not positive; `step` for batches with labels.
    """

    generator: LatentFlowGenerator

    def __init__(
        self,
        code_encoder: nn.Module,
        generator: LatentFlowGenerator,
        latent_dim: int,
        *,
        scale: float = 0.3,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale={scale}: the noise of the Gaussian likelihood is a positive number")
        self.code_encoder, self.generator, self.latent_dim, self.scale = code_encoder, generator, latent_dim, scale
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Any]:
        rates: dict[str, Any] = {"learning_rate": self.learning_rate, "betas": self.betas}
        return {
            "negative_elbo": adam(self.code_encoder, self.generator.decoder, **rates),
            "flow": adam(self.generator.flow, **rates),
        }

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x = x_alone(batch)
        update("negative_elbo", lambda: negative_elbo(self.code_encoder, self.generator.decoder, x, scale=self.scale)[0])
        with torch.no_grad():
            mean, log_sd = self.code_encoder(x)
            code = mean + log_sd.exp() * torch.randn_like(mean)
        update("flow", lambda: -self.generator.flow.log_density(code).mean())

    @torch.no_grad()
    def infer(self, x: Tensor) -> Tensor:
        """The latent z of the mean code of x: (batch, *event) -> (batch, latent_dim)."""
        return self.generator.flow.inverse(self.code_encoder(x)[0])[0]


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    decoder = sizes.generator_architecture()
    return Architecture("LatentFlowGenerator", {"architecture": decoder.name, "arguments": decoder.arguments})


def _build(sizes: Sizes, rates: Mapping[str, Any], *, scale: float = 0.3) -> GLF:
    encoder = sizes.encoder() if sizes.convolutional else sizes.dense_encoder()
    generator = LatentFlowGenerator(**_architecture(sizes).arguments)
    return GLF(encoder, generator, sizes.latent_dim, scale=scale, **rates)


RECIPE = Recipe(_build, latent_dim=16, generator=_architecture)

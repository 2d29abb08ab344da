"""Generative latent flow: an autoencoder, and a flow from a standard normal latent to its codes.

    e ~ q(e | x),    x ~ p(x | D(e)),    e = f(z),    z ~ Normal(0, I),        G(z) = D(f(z)).

The codes of an autoencoder do not follow its prior: in regions between the codes the decoder makes unrealistic images, and the
posterior given half an image reaches these regions. A RealNVP f learns the codes' density, so that the composition has a
standard normal latent and an exact density of its codes, log p(e) = log Normal(f^-1(e)) + log |det d f^-1(e) / de|.

The loss is the negative evidence lower bound with the flow as the prior,

    -log p(x | D(e)) + log q(e | x) - log p(e),    e ~ q(e | x),

or, with ``joint=False``, the paper's sum of two losses: the bound with the prior Normal(0, I), and the flow's negative log
likelihood of the codes, without gradients to the encoder.

The noise of pixels is learned with the decoder (`cogen.models.pixels.noise`) and stored with the generator, for its likelihood.
Other events have Gaussian noise of a given scale.

References:
    Xiao, Yan, Amit. Generative latent flow. arXiv 1905.10485, 2019 (section 3: both parts at once, no gradient from the flow to
        the encoder).
    Dai, Wipf. Diagnosing and enhancing VAE models. ICLR 2019 (section 4: a second stage for the aggregated posterior).
    Chen et al. Variational lossy autoencoder. ICLR 2017 (section 3.2: a flow as the prior, trained with the rest).
Departures: the encoder is Gaussian; that of Xiao et al. is deterministic with added noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam, x_alone
from cogen.models.families.realnvp import RealNVPGenerator
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.families.vae import kl_to_standard_normal
from cogen.models.networks.architectures import PLAIN, ConvolutionalCritic, DenseEncoder
from cogen.models.networks.encoders import FeatureEncoder, head
from cogen.models.pixels.noise import PixelNoise, saturated

COUPLINGS = 8
HIDDEN = (64, 64)
"""Default hidden widths of the flow's networks."""

SCALE = 0.3
"""Default scale of the Gaussian noise."""


class LatentFlowGenerator(nn.Module):
    """The generator x = D(f(z)). It can be stored, since its decoder is given by name and arguments.

    :param architecture: name of the decoder D, a key of `PLAIN`.
    :param arguments: keyword arguments of D; their ``latent_dim`` is the size of z and of a code, at least 2.
    :param couplings: number of couplings of the flow f.
    :param hidden: widths of the hidden layers of every coupling's network.
    :param noise: x are pixels in [-1, 1] with learned noise; the decoder must be unbounded (``bounded=False``), and its output
        is saturated at the ends of the range.
    :raises ValueError: for another architecture, a bounded decoder with ``noise``, and as `RealNVPGenerator`.
    """

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        couplings: int = COUPLINGS,
        hidden: Sequence[int] = HIDDEN,
        noise: bool = False,
    ) -> None:
        super().__init__()
        if architecture not in PLAIN:
            raise ValueError(f"architecture={architecture!r}: the decoder of a latent flow must be {' or '.join(PLAIN)}")
        if noise and arguments.get("bounded", True):
            raise ValueError(f"noise=True requires an unbounded decoder: give {architecture} the argument bounded=False")
        self.flow = RealNVPGenerator((arguments["latent_dim"],), couplings, hidden)
        self.decoder = PLAIN[architecture](**arguments)
        self.noise = PixelNoise() if noise else None

    def decode(self, code: Tensor) -> Tensor:
        """Codes (batch, latent_dim) -> x (batch, *event_shape)."""
        made = self.decoder(code)
        return made if self.noise is None else saturated(made)

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> x (batch, *event_shape)."""
        return self.decode(self.flow(z))


class GLF(Family):
    """An encoder of codes (batch, *event) -> mean, log sd and a `LatentFlowGenerator`; batches are x alone.

    `step` raises ValueError for batches with labels.

    :param scale: sigma of the Gaussian likelihood of a generator without learned noise, positive; a larger scale moves the
        codes closer together and makes the flow smoother.
    :param joint: one bound with the flow as the prior; otherwise the paper's two losses.
    :param learning_rate: learning rate of Adam, for all networks.
    :param betas: betas of Adam.
    :raises ValueError: for a scale that is not positive.
    """

    generator: LatentFlowGenerator

    def __init__(
        self,
        code_encoder: nn.Module,
        generator: LatentFlowGenerator,
        latent_dim: int,
        *,
        scale: float = SCALE,
        joint: bool = True,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale={scale}: the noise scale of the Gaussian likelihood must be positive")
        self.code_encoder, self.generator, self.latent_dim = code_encoder, generator, latent_dim
        self.scale, self.joint = scale, joint
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        return {"negative_elbo": adam(self.code_encoder, self.generator, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x = x_alone(batch)
        update("negative_elbo", lambda: self.negative_bound(x).mean())

    def negative_bound(self, x: Tensor) -> Tensor:
        """The negative lower bound of log p(x) with one code per item, (batch,); with ``joint=False`` the two losses' sum."""
        mean, log_sd = self.code_encoder(x)
        noise = torch.randn_like(mean)
        code = mean + log_sd.exp() * noise
        made = self.generator.decode(code)
        fit = self.log_likelihood(x, made).flatten(1).sum(1)
        if not self.joint:
            return kl_to_standard_normal(mean, log_sd) - fit - self.generator.flow.log_density(code.detach())
        entropy = (0.5 * (noise.square() + math.log(2 * math.pi)) + log_sd).sum(1)  # -log q(e | x)
        return -fit - entropy - self.generator.flow.log_density(code)

    def log_likelihood(self, x: Tensor, made: Tensor) -> Tensor:
        """log p(x | made), elementwise, (batch, *event)."""
        if self.generator.noise is not None:
            return self.generator.noise.log_prob(x, made)
        return Normal(made, self.scale).log_prob(x)

    @torch.no_grad()
    def infer(self, x: Tensor) -> Tensor:
        """The latent z of the mean code of x: (batch, *event) -> (batch, latent_dim)."""
        return self.generator.flow.inverse(self.code_encoder(x)[0])[0]


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    """The stored generator: a mixer for images with ``convolutional``, else a dense decoder.

    ``widths`` of a mixer are its channels, its blocks, and the features of its first layer. The hidden widths of the flow's
    networks are latent_dim if it exceeds 64.
    """
    noise = {"noise": True} if len(sizes.event_shape) == 3 else {}
    if sizes.convolutional:
        widths = sizes.widths or (96, 3)
        if len(widths) not in (2, 3):
            raise ValueError(
                f"widths {widths}: give the features of a patch, the number of blocks and optionally the first layer's features"
            )
        shape = {"latent_dim": sizes.latent_dim, "event_shape": sizes.event_shape, "bounded": False}
        mixer = dict(zip(("channels", "blocks", "projected"), widths, strict=False))
        decoder = Architecture("MixerGenerator", {**shape, **mixer})
    else:
        decoder = replace(sizes, bounded=sizes.bounded and not noise).generator_architecture()
    hidden = {"hidden": (sizes.latent_dim,) * 2} if sizes.latent_dim > HIDDEN[0] else {}
    arguments = {"architecture": decoder.name, "arguments": decoder.arguments, **hidden, **noise}
    return Architecture("LatentFlowGenerator", arguments)


def _code_encoder(sizes: Sizes) -> nn.Module:
    """Convolutions for colour images, dense layers for the others."""
    if not sizes.convolutional or sizes.event_shape[0] == 1 or sizes.encoder_widths:
        return DenseEncoder(sizes.latent_dim, sizes.event_shape, sizes.encoder_widths or (512, 512))
    critic = ConvolutionalCritic(sizes.event_shape, (32, 64), 256)
    return FeatureEncoder(critic.features, head(256, sizes.latent_dim, ()))


def _build(sizes: Sizes, rates: Mapping[str, Any], *, scale: float = SCALE, joint: bool = True) -> GLF:
    encoder = _code_encoder(sizes)
    generator = LatentFlowGenerator(**_architecture(sizes).arguments)
    return GLF(encoder, generator, sizes.latent_dim, scale=scale, joint=joint, **rates)


RECIPE = Recipe(_build, batch_size=128, epochs=60.0, generator=_architecture)

"""Encoders q(z | x) = Normal(mean(x), sd(x)): networks, operations with a generator, and guides.

An encoder is a torch module from x (batch, *event_shape) to (mean, log_sd), each (batch, latent_dim). With a generator it
reconstructs, samples neighbours of a given x, interpolates, and adds and subtracts features (Radford, Metz and Chintala
2016, section 6.3.2: vector arithmetic). As a guide it starts the annealing, see `EncoderGuide`.

An encoder trained on whole images does not apply to partial images. The input of a `MaskedEncoder` is an image and its mask,
and `cogen.models.families.amortized` trains it on pairs that the generator makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Independent, Normal

from cogen.inference.items import CONTEXT
from cogen.models.contexts import taken_by
from cogen.models.frozen import evaluation

if TYPE_CHECKING:
    from cogen.inference import GuideStart, PyroGuideStart
    from cogen.models.cogenerator import CoGenerator

# --- networks ------------------------------------------------------------------------------------------------------


class FeatureEncoder(nn.Module):
    """Mean and log sd from the features of x: ``features`` (batch, *event) -> (batch, width), ``head`` -> (batch, 2 latent).

    With ``unit_variance`` the log sd is zero, and only the mean of the head's output is used.
    """

    def __init__(self, features: nn.Module, head: nn.Module, unit_variance: bool = False) -> None:
        super().__init__()
        self.features, self.head, self.unit_variance = features, head, unit_variance

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, *event_shape) -> mean (batch, latent_dim), log_sd (batch, latent_dim)."""
        return self.code(self.features(x))

    def code(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log sd from features (batch, width)."""
        mean, log_sd = self.head(features).chunk(2, dim=-1)
        return mean, torch.zeros_like(log_sd) if self.unit_variance else log_sd


def head(width: int, latent_dim: int, hidden: Sequence[int] = (128,)) -> nn.Sequential:
    """The last layers of an encoder: (batch, width) -> (batch, 2 latent_dim)."""
    widths = [width, *hidden]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 2 * latent_dim))


class MaskedEncoder(nn.Module):
    """An encoder of the seen part of x: the input of ``network`` is x with zeros where hidden, concatenated with the mask.

    The network's input has twice the channels of x (for rows, twice the columns).

    >>> from cogen.models.networks.architectures import DenseEncoder
    >>> MaskedEncoder(DenseEncoder(3, (2, 8, 8)))(torch.zeros(5, 1, 8, 8), torch.ones(5, 1, 8, 8, dtype=torch.bool))[0].shape
    torch.Size([5, 3])
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, mask: Tensor, *labels: Tensor, **contexts: Tensor) -> tuple[Tensor, Tensor]:
        """x and mask (batch, *event_shape) -> mean (batch, latent_dim), log_sd (batch, latent_dim).

        :param mask: True = seen, or weights (`cogen.models.views.View.shown`).
        :param labels: further arguments of the network, as are ``contexts``.
        """
        seen = torch.cat([torch.where(mask > 0, x, torch.zeros_like(x)), mask.to(x.dtype)], dim=1)
        return self.network(seen, *labels, **contexts)

    def negative_log_posterior(self, z: Tensor, x: Tensor, mask: Tensor, *labels: Tensor) -> Tensor:
        """-log q(z | seen part of x, mask) up to a constant, (batch,)."""
        return negative_log_density(z, *self(x, mask, *labels))


SMALLEST_LOG_SD, LARGEST_LOG_SD = -6.0, 3.0
"""Bounds of the log sd in a loss: on repeated training pairs a network can reach any precision."""


def negative_log_density(z: Tensor, mean: Tensor, log_sd: Tensor) -> Tensor:
    """-log Normal(z; mean, exp(log_sd)) up to a constant, summed over dimensions, (batch,)."""
    log_sd = log_sd.clamp(SMALLEST_LOG_SD, LARGEST_LOG_SD)
    return (0.5 * ((z - mean) * (-log_sd).exp()).square() + log_sd).sum(-1)


# --- operations with an encoder and a generator --------------------------------------------------------------------


@torch.no_grad()
def reconstruct(generator: nn.Module, encoder: nn.Module, x: Tensor) -> Tensor:
    """G(mean of q(z | x)), (item, *event_shape)."""
    return generator(encoder(x)[0])


@torch.no_grad()
def neighbours(generator: nn.Module, encoder: nn.Module, x: Tensor, count: int) -> Tensor:
    """``count`` samples similar to each x: G(z) with z ~ q(z | x), (item, count, *event_shape) (AIM, algorithm 2)."""
    mean, log_sd = (moment.repeat_interleave(count, 0) for moment in encoder(x))
    log_sd = log_sd.clamp(SMALLEST_LOG_SD, LARGEST_LOG_SD)
    return generator(mean + log_sd.exp() * torch.randn_like(mean)).unflatten(0, (len(x), count))


@torch.no_grad()
def interpolate(generator: nn.Module, encoder: nn.Module, first: Tensor, second: Tensor, count: int) -> Tensor:
    """``count`` images between each item of ``first`` and ``second`` (item, *event_shape): (item, count, *event_shape).

    The interpolation is spherical, since draws of a high-dimensional normal lie near a sphere (White 2016, Sampling generative
    networks, section 2.1).
    """
    a, b = encoder(first)[0][:, None], encoder(second)[0][:, None]
    share = torch.linspace(0, 1, count, device=a.device)[:, None]
    cosine = torch.cosine_similarity(a, b, dim=-1).clamp(-1 + 1e-6, 1 - 1e-6)[..., None]
    angle = cosine.arccos()
    z = (((1 - share) * angle).sin() * a + (share * angle).sin() * b) / angle.sin()  # (item, count, latent)
    return generator(z.flatten(0, 1)).unflatten(0, (len(first), count))


@torch.no_grad()
def arithmetic(
    generator: nn.Module, encoder: nn.Module, x: Tensor, *, add: Tensor, subtract: Tensor, amount: float = 1.0
) -> Tensor:
    """Add a feature to x: G(z(x) + amount (mean z(add) - mean z(subtract))), (item, *event_shape).

    ``add`` are examples with the feature, ``subtract`` examples without it; use several, since means are more stable (Radford,
    Metz and Chintala 2016, section 6.3.2).
    """
    direction = encoder(add)[0].mean(0) - encoder(subtract)[0].mean(0)
    return generator(encoder(x)[0] + amount * direction)


# --- encoders as guides --------------------------------------------------------------------------------------------


class EncoderGuide:
    """An encoder's posterior of the latents of a conditioned `CoGenerator`, as a guide of its items and a start of annealing.

    Called with the model's arguments it is the Pyro guide; `numpyro` is the NumPyro guide.

    :param encoder: an encoder of whole x, for a model conditioned on all of x (`views.Identity`); a `MaskedEncoder` for a model
        conditioned on a part (`views.Mask`). Contexts of the model that are parameters of the network's ``forward`` are passed.
    :param seen: the conditioned model, with one conditioned view and all of its contexts given.
    :raises ValueError: for an encoder that does not fit the view or the model, or a context that is not given.

    >>> from cogen.models import CoGenerator, load_generator, shipped_images, views
    >>> from cogen.models.networks.architectures import DenseEncoder
    >>> model = CoGenerator(load_generator("mnist"), views={"all": views.Identity(scale=0.5)})
    >>> EncoderGuide(DenseEncoder(64, (1, 28, 28)), model.condition(all=shipped_images()[0])).mean.shape
    torch.Size([16, 64])
    """

    def __init__(self, encoder: nn.Module, seen: CoGenerator) -> None:
        given = seen.item_data.get(CONTEXT, {})
        if unknown := [name for name in seen.contexts if name not in given]:
            raise ValueError(
                f"an encoder is a guide of z alone, but context {unknown[0]!r} is not given: use model.given({unknown[0]}=...)"
            )
        name, entry = seen_view(seen)
        value = torch.as_tensor(entry["value"])
        if tuple(value.shape[1:]) != tuple(seen.event_shape):
            raise ValueError(
                f"view {name!r} has shape {tuple(value.shape[1:])}, but x has shape {seen.event_shape}: use views.Identity or"
                " views.Mask"
            )
        masked = isinstance(encoder, MaskedEncoder)
        if "mask" in entry and not masked:
            raise ValueError(
                f"view {name!r} hides a part of x, but {type(encoder).__name__} is for whole x: train a MaskedEncoder"
                " (cogen.models.families.amortized)"
            )
        mask = torch.as_tensor(entry["mask"]) if "mask" in entry else torch.ones_like(value, dtype=torch.bool)
        taken = taken_by(encoder.network if isinstance(encoder, MaskedEncoder) else encoder, given)
        context = {name: torch.as_tensor(given[name]) for name in taken}
        with torch.no_grad(), evaluation(encoder):
            self.mean, log_sd = encoder(value, mask, **context) if masked else encoder(value, **context)
            self.sd = log_sd.clamp(SMALLEST_LOG_SD, LARGEST_LOG_SD).exp()
        if self.mean.shape[1] != seen.latent_dim:
            raise ValueError(f"the encoder has {self.mean.shape[1]} latents, but the model has {seen.latent_dim}")

    def __call__(self, *args: object, **kwargs: object) -> None:
        import pyro
        import pyro.distributions as dist

        with pyro.plate("item", len(self.mean), dim=-1):
            pyro.sample("z", dist.Normal(self.mean, self.sd).to_event(1))

    def numpyro(self, *args: object, **kwargs: object) -> None:
        import numpyro
        import numpyro.distributions as dist

        with numpyro.plate("item", len(self.mean), dim=-1):
            numpyro.sample("z", dist.Normal(self.mean.numpy(), self.sd.numpy()).to_event(1))

    def start(self, prior_share: float = 0.1) -> GuideStart:
        """The start q0 = (1 - prior_share) q(z | x) + prior_share prior of each item, for ``AnnealedHMC(initial=...)``."""
        return normal_start(self.mean, self.sd, prior_share)

    def pyro_start(self, prior_share: float = 0.1) -> PyroGuideStart:
        """`start` for ``PyroAnnealedHMC(initial=...)``."""
        return pyro_normal_start(self.mean, self.sd, prior_share)


def seen_view(seen: CoGenerator) -> tuple[str, Mapping[str, np.ndarray]]:
    """The name and the data of the single view on which a model is conditioned.

    :raises ValueError: for a model conditioned on no view or several.
    """
    data = seen.observed
    if len(data) != 1:
        raise ValueError(
            f"an encoder needs a model conditioned on one view, but this one is conditioned on {list(data) or 'none'}"
        )
    return next(iter(data.items()))


def normal_start(mean: Tensor, sd: Tensor, prior_share: float) -> GuideStart:
    """The `GuideStart` of independent normals, mean and sd (item, latent_dim)."""
    import numpyro
    import numpyro.distributions as dist

    from cogen.inference import GuideStart

    def one_item(*args: object, **kwargs: object) -> None:
        loc, scale = numpyro.param("loc"), numpyro.param("scale")
        with numpyro.plate("item", 1, dim=-1):
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))

    moments = {"loc": mean[:, None].numpy(), "scale": sd[:, None].numpy()}
    return GuideStart(one_item, moments, prior_share=prior_share, per_item=True)


def pyro_normal_start(mean: Tensor, sd: Tensor, prior_share: float) -> PyroGuideStart:
    """The `PyroGuideStart` of independent normals, mean and sd (item, latent_dim)."""
    from cogen.inference.torch.guide_start import PyroGuideStart

    return PyroGuideStart(Independent(Normal(mean, sd), 1), prior_share=prior_share)

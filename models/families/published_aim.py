"""Networks and settings of the AIM paper, Tables 3 (digits) and 4 (CIFAR-10), for AIM, AIM- and the GAN of the same networks.

Digits, 32 latents, values in [0, 1]; layers without a star (*) have batch norm:

    generator    dense 1024, dense 6272 as 128 x 7 x 7, transposed convolution 64, transposed convolution 1*, sigmoid; ReLU
    features     convolution 64*, convolution 128; leaky ReLU
    critic       on the features: dense 1024, leaky ReLU, dense 64*, dense 1*
    encoder      on the features: convolution 64, leaky ReLU; for mean and sigma each dense 32, leaky ReLU, dense 32*

CIFAR-10, 64 latents, images enlarged to 64 x 64, values in [-1, 1]:

    generator    transposed convolutions 1024, 512, 256, 128, 3*, tanh; ReLU
    features     convolutions 128*, 256, 512, 1024; leaky ReLU
    critic       on the features: convolution 1*
    encoder      on the features: convolutions 512*, 512, 256, 128; for mean and sigma each dense 64, leaky ReLU, dense 64*

Both: weights from Normal(0, 0.02), biases zero, batches of 100, Adam with rate 2e-4 / sqrt(epoch) and betas (0.5, 0.999),
vanilla losses, generator and encoder updated together. Leaky slopes .1 (digits) and .2 (CIFAR-10); 400 and 300 epochs.

References:
    Li, Wang, Chen, Gao. AIM: adversarial inference by matching priors and conditionals. 2018 (Tables 3 and 4; section 5).
Choices where the tables are incomplete: the last layer of digits has 3 maps there and one here. Batch norm's scale starts at
one, with the batch's statistics in training and running means in evaluation; data and samples pass the critic separately.
Adam's second beta is its default. sigma is the exponential of the network's output. No uniform padding gives the sizes of
CIFAR's encoder (a 2 x 2 kernel after two 4 x 4 convolutions of stride 2, and 512 = 128 x 2 x 2 outputs at the end): the second
convolution is padded by two, the third to the size of its input. Images are enlarged bilinearly; the paper does not say how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from cogen.models.families.aim import AIM
from cogen.models.families.gan import GAN, NonSaturating
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Sizes
from cogen.models.training.learning_rates import InverseRoot, Schedule

VANILLA = NonSaturating(gamma=0.0)


class PublishedCritic(nn.Module):
    """``features`` (batch, *event_shape) -> maps, and ``last`` from them to (batch, 1)."""

    def __init__(self, features: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.features, self.last = features, last

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channel, height, width) -> (batch,)."""
        return self.last(self.features(x)).squeeze(-1)


class PublishedHead(nn.Module):
    """From the critic's maps to mean and log sd, (batch, 2 latent_dim), by two networks on a common network."""

    def __init__(self, common: nn.Module, mean: nn.Module, log_sd: nn.Module) -> None:
        super().__init__()
        self.common, self.mean, self.log_sd = common, mean, log_sd

    def forward(self, features: Tensor) -> Tensor:
        common = self.common(features)
        return torch.cat([self.mean(common), self.log_sd(common)], dim=1)


class Networks(NamedTuple):
    """The networks of one table."""

    generator: nn.Module
    critic: PublishedCritic
    head: PublishedHead


def digits_networks(latent_dim: int = 32) -> Networks:
    """The networks of Table 3, for images (1, 28, 28) with values in [0, 1]."""
    slope = 0.1
    generator = nn.Sequential(
        *_dense(latent_dim, 1024, nn.ReLU()),
        *_dense(1024, 6272, nn.ReLU()),
        nn.Unflatten(1, (128, 7, 7)),
        *_up(128, 64),
        nn.ConvTranspose2d(64, 1, 4, 2, 1),
        nn.Sigmoid(),
    )
    features = nn.Sequential(nn.Conv2d(1, 64, 4, 2, 1), nn.LeakyReLU(slope), *_down(64, 128, slope))
    last = nn.Sequential(nn.Flatten(), *_dense(6272, 1024, nn.LeakyReLU(slope)), nn.Linear(1024, 64), nn.Linear(64, 1))
    common = nn.Sequential(*_down(128, 64, slope), nn.Flatten())
    head = PublishedHead(common, *(_moment(576, 32, latent_dim, slope) for _ in range(2)))
    return _initialised(Networks(generator, PublishedCritic(features, last), head))


def cifar_networks(latent_dim: int = 64) -> Networks:
    """The networks of Table 4, for images (3, 64, 64) with values in [-1, 1]."""
    slope = 0.2
    generator = nn.Sequential(
        nn.Unflatten(1, (latent_dim, 1, 1)),
        *_up(latent_dim, 1024, stride=1, padding=0),
        *_up(1024, 512),
        *_up(512, 256),
        *_up(256, 128),
        nn.ConvTranspose2d(128, 3, 4, 2, 1),
        nn.Tanh(),
    )
    features = nn.Sequential(
        nn.Conv2d(3, 128, 4, 2, 1),
        nn.LeakyReLU(slope),
        *_down(128, 256, slope),
        *_down(256, 512, slope),
        *_down(512, 1024, slope),
    )
    last = nn.Sequential(nn.Conv2d(1024, 1, 4), nn.Flatten())
    common = nn.Sequential(
        nn.Conv2d(1024, 512, 4, 2, 1),
        nn.LeakyReLU(slope),
        *_down(512, 512, slope, padding=2),
        *(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(512, 256, 2), nn.BatchNorm2d(256), nn.LeakyReLU(slope)),
        *(nn.Conv2d(256, 128, 1), nn.BatchNorm2d(128), nn.LeakyReLU(slope)),
        nn.Flatten(),
    )
    head = PublishedHead(common, *(_moment(512, 64, latent_dim, slope) for _ in range(2)))
    return _initialised(Networks(generator, PublishedCritic(features, last), head))


def _dense(inputs: int, outputs: int, activation: nn.Module) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), activation]


def _up(inputs: int, outputs: int, stride: int = 2, padding: int = 1) -> list[nn.Module]:
    return [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding), nn.BatchNorm2d(outputs), nn.ReLU()]


def _down(inputs: int, outputs: int, slope: float, padding: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 4, 2, padding), nn.BatchNorm2d(outputs), nn.LeakyReLU(slope)]


def _moment(inputs: int, hidden: int, latent_dim: int, slope: float) -> nn.Module:
    return nn.Sequential(*_dense(inputs, hidden, nn.LeakyReLU(slope)), nn.Linear(hidden, latent_dim))


def _initialised(networks: Networks) -> Networks:
    for network in networks:
        for layer in network.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.normal_(layer.weight, std=0.02)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)
    return networks


# --- recipes -------------------------------------------------------------------------------------------------------


def in_unit_interval(images: Tensor) -> Tensor:
    """Bytes as values in [0, 1]."""
    return images.float() / 255


def enlarged(images: Tensor) -> Tensor:
    """Bytes (item, channel, height, width) as values in [-1, 1], 64 x 64."""
    return interpolate(images.float() / 127.5 - 1, size=(64, 64), mode="bilinear", align_corners=False)


def _networks(sizes: Sizes) -> Networks:
    if sizes.event_shape == (1, 28, 28):
        return digits_networks(sizes.latent_dim)
    if sizes.event_shape == (3, 64, 64):
        return cifar_networks(sizes.latent_dim)
    raise ValueError(
        f"event_shape={sizes.event_shape}: the paper has networks for (1, 28, 28), its Table 3, and (3, 64, 64), its Table 4;"
        " use the recipes of cogen.models.families.aim for other images"
    )


def _aim(
    sizes: Sizes, rates: Mapping[str, Any], unit_variance: bool = False, *, weight: float | None = None, together: bool = True
) -> AIM:
    generator, critic, head = _networks(sizes)
    settings: dict[str, Any] = {"weight": weight, "unit_variance": unit_variance, "together": together}
    settings |= {"betas": (0.5, 0.999), **rates}
    return AIM(generator, critic, head, sizes.latent_dim, VANILLA, **settings)


def _unit_variance(sizes: Sizes, rates: Mapping[str, Any], *, weight: float | None = None, together: bool = True) -> AIM:
    return _aim(sizes, rates, True, weight=weight, together=together)


def _gan(sizes: Sizes, rates: Mapping[str, Any]) -> GAN:
    networks = _networks(sizes)
    return GAN(networks.generator, networks.critic, sizes.latent_dim, VANILLA, **{"betas": (0.5, 0.999), **rates})


def _inverse_root(num_steps: int) -> Schedule:
    return InverseRoot()


_DIGITS = Recipe(
    _aim,
    takes=frozenset({Kind.IMAGES}),
    prepare=in_unit_interval,
    value_range=(0.0, 1.0),
    learning_rate=2e-4,
    batch_size=100,
    epochs=400,
    schedule=_inverse_root,
    average=0.0,
    latent_dim=32,
    reads=frozenset({"latent_dim"}),
)
DIGITS = {"aim": _DIGITS, "aim-minus": replace(_DIGITS, build=_unit_variance), "gan": replace(_DIGITS, build=_gan)}
"""Recipes of Table 3, by the names of the families."""
CIFAR = {
    name: replace(made, prepare=enlarged, value_range=(-1.0, 1.0), epochs=300, latent_dim=64) for name, made in DIGITS.items()
}
"""Recipes of Table 4, by the names of the families."""

"""Small architectures: generators, critics, and the encoder of a variational autoencoder.

A generator maps (batch, latent_dim) to (batch, *event_shape); a critic maps an event to one value; an encoder maps it
to the mean and the log standard deviation of a Gaussian over the latent. Hamiltonian dynamics differentiates through a
generator, so activations are smooth (SiLU) unless the architecture specifies others.

References:
    Radford, Metz, Chintala. Unsupervised representation learning with deep convolutional GANs. ICLR 2016 (section 3:
        transposed convolutions, batch norm in the generator, leaky ReLU in the critic, tanh at the end).
    Elfwing, Uchibe, Doya. Sigmoid-weighted linear units. Neural Networks 2018 (SiLU).
    Tolstikhin et al. MLP-Mixer: an all-MLP architecture for vision. NeurIPS 2021 (section 2: mixing over patches and over
        channels).
    Tancik et al. Fourier features let networks learn high frequency functions in low dimensional domains. NeurIPS 2020
        (section 6: Gaussian frequencies).
Departures: the DCGAN here has two upsampling stages (28 = 7 * 2 * 2) and its critic has no batch norm, so that a penalty
on the critic's gradient at one item does not depend on the others. The mixer has one linear layer in place of each
two-layer perceptron, and no layer norm.
"""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, silu
from torch.nn.utils.fusion import fuse_linear_bn_eval


class DenseGenerator(nn.Module):
    """Multilayer perceptron: latent -> hidden layers with SiLU -> event, with tanh at the end when `bounded`.

    :param latent_dim: size of z.
    :param event_shape: shape of one output, images as (channel, height, width).
    :param hidden: widths of the hidden layers.
    :param bounded: tanh at the end, so that values lie in (-1, 1); otherwise the output is linear.
    :param normalize: batch norm after each hidden linear layer, for training; `folded` removes it.
    """

    def __init__(
        self,
        latent_dim: int,
        event_shape: Sequence[int],
        hidden: Sequence[int] = (256, 256),
        bounded: bool = True,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(event_shape)
        widths = [latent_dim, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers.append(_unit_variance(nn.Linear(inputs, outputs)))
            layers += [nn.BatchNorm1d(outputs), nn.SiLU()] if normalize else [nn.SiLU()]
        layers.append(_unit_variance(nn.Linear(widths[-1], math.prod(self.event_shape))))
        if bounded:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, *event_shape)."""
        return self.layers(z).reshape(-1, *self.event_shape)

    def folded(self) -> "DenseGenerator":
        """An equivalent copy in evaluation mode with batch norm folded into the linear layers, for speed."""
        copy = deepcopy(self).eval()
        layers: list[nn.Module] = []
        for layer in copy.layers:
            if isinstance(layer, nn.BatchNorm1d):
                layers[-1] = fuse_linear_bn_eval(cast(nn.Linear, layers[-1]), layer)
            else:
                layers.append(layer)
        copy.layers = nn.Sequential(*layers)
        return copy


class DcganGenerator(nn.Module):
    """A linear layer to a quarter-size feature map, then two transposed convolutions; values in (-1, 1).

    :param latent_dim: size of z.
    :param event_shape: (channel, height, width); height and width divisible by four.
    :param channels: feature maps at a quarter and at half of the full size.
    """

    def __init__(self, latent_dim: int, event_shape: Sequence[int], channels: Sequence[int] = (64, 32)) -> None:
        super().__init__()
        colours, height, width = _image_shape(event_shape)
        first, second = channels
        self.project = nn.Sequential(
            nn.Linear(latent_dim, first * (height // 4) * (width // 4)),
            nn.Unflatten(1, (first, height // 4, width // 4)),
            nn.BatchNorm2d(first),
            nn.SiLU(),
        )
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(first, second, kernel_size=4, stride=2, padding=1),
            nn.BatchNorm2d(second),
            nn.SiLU(),
            nn.ConvTranspose2d(second, colours, kernel_size=4, stride=2, padding=1),
            nn.Tanh(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, channel, height, width)."""
        return self.upsample(self.project(z))


class MixerGenerator(nn.Module):
    """Patches of an image as rows of features, mixed by dense layers: over the patches, over the features, and again.

    z -> linear -> (patch, channel), then in every block  h += SiLU(h mixed over patches),  h += SiLU(h mixed over channels),
    then each patch's features -> its pixels. All layers are matrix products, which are fast on CPUs, also inside loops.

    The first layer has latent_dim x patches x channels weights, most of the network. With ``projected`` it makes ``projected``
    features per patch, which a layer shared by all patches maps to ``channels``.

    :param latent_dim: size of z.
    :param event_shape: (channel, height, width); height and width divisible by four, the side of a patch.
    :param channels: features of a patch.
    :param blocks: number of blocks.
    :param bounded: tanh at the end, so that values lie in (-1, 1); otherwise the output is linear.
    :param projected: features per patch of the first layer; None: ``channels``, without a shared layer.
    """

    def __init__(
        self,
        latent_dim: int,
        event_shape: Sequence[int],
        channels: int = 96,
        blocks: int = 3,
        bounded: bool = True,
        projected: int | None = None,
    ) -> None:
        super().__init__()
        colours, height, width = _image_shape(event_shape)
        self.colours, self.rows, self.columns = colours, height // 4, width // 4
        patches = self.rows * self.columns
        self.project = nn.Linear(latent_dim, patches * (projected or channels))
        self.widen = nn.Linear(projected, channels) if projected else None
        self.over_patches = nn.ModuleList(nn.Linear(patches, patches) for _ in range(blocks))
        self.over_channels = nn.ModuleList(nn.Linear(channels, channels) for _ in range(blocks))
        self.pixels = nn.Linear(channels, 16 * colours)
        self.bounded = bounded

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, channel, height, width)."""
        h = silu(self.project(z)).unflatten(1, (self.rows * self.columns, -1))
        if self.widen is not None:
            h = silu(self.widen(h))
        h = mixed(h, self.over_patches, self.over_channels)
        x = self.pixels(h).reshape(-1, self.rows, self.columns, self.colours, 4, 4)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(-1, self.colours, 4 * self.rows, 4 * self.columns)
        return x.tanh() if self.bounded else x


class MixerFeatures(nn.Module):
    """Features of an image, by the mixing of patches of `MixerGenerator`.

    patches -> linear -> (patch, channel), the blocks of `MixerGenerator`, ``mixtures`` of the patches -> ``width`` features.

    :param event_shape: (channel, height, width); height and width divisible by four, the side of a patch.
    :param width: number of features.
    :param channels: features of a patch.
    :param blocks: number of blocks.
    :param mixtures: number of linear combinations of the patches from which the features are made.
    """

    def __init__(
        self, event_shape: Sequence[int], width: int = 256, channels: int = 96, blocks: int = 4, mixtures: int = 8
    ) -> None:
        super().__init__()
        colours, height, across = _image_shape(event_shape)
        patches = (height // 4) * (across // 4)
        self.patches = nn.Linear(16 * colours, channels)
        self.over_patches = nn.ModuleList(nn.Linear(patches, patches) for _ in range(blocks))
        self.over_channels = nn.ModuleList(nn.Linear(channels, channels) for _ in range(blocks))
        self.mixtures = nn.Linear(patches, mixtures)
        self.features = nn.Linear(mixtures * channels, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channel, height, width) -> (batch, width)."""
        h = x.unflatten(3, (-1, 4)).unflatten(2, (-1, 4)).permute(0, 2, 4, 1, 3, 5)  # (batch, row, column, colour, 4, 4)
        h = mixed(self.patches(h.flatten(3).flatten(1, 2)), self.over_patches, self.over_channels)
        return silu(self.features(silu(self.mixtures(h.transpose(1, 2))).flatten(1)))


def mixed(h: Tensor, over_patches: nn.ModuleList, over_channels: nn.ModuleList) -> Tensor:
    """Rows of features h (batch, patch, channel), mixed block by block over the patches and over the channels."""
    for patches, channels in zip(over_patches, over_channels, strict=True):
        h = h + silu(patches(h.transpose(1, 2)).transpose(1, 2))
        h = h + silu(channels(h))
    return h


PLAIN: dict[str, Any] = {
    "DenseGenerator": DenseGenerator,
    "DcganGenerator": DcganGenerator,
    "MixerGenerator": MixerGenerator,
}
"""Generators on which others are built, by their stored names."""


class FourierFeatures(nn.Module):
    """Sines and cosines of fixed random projections, for events with few dimensions and fine detail.

    A multilayer perceptron of the event itself learns low-frequency functions first and high-frequency ones late.

    :param inputs: number of dimensions of an event.
    :param width: number of features, even: half are sines, half cosines.
    :param bandwidth: standard deviation of the frequencies, in radians per unit of an input (without the paper's 2 pi);
        the features change over distances of 1 / bandwidth.
    :raises ValueError: for an odd width, or a bandwidth that is not positive.
    """

    frequencies: Tensor

    def __init__(self, inputs: int, width: int, bandwidth: float) -> None:
        super().__init__()
        if width < 2 or width % 2 or not 0 < bandwidth < math.inf:
            raise ValueError(f"width={width}, bandwidth={bandwidth}: width must be even, and bandwidth positive")
        self.inputs, self.width = inputs, width
        self.register_buffer("frequencies", bandwidth * torch.randn(inputs, width // 2))

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, *event_shape) -> (batch, width)."""
        angles = x.flatten(1) @ self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class DenseCritic(nn.Module):
    """Multilayer perceptron from an event of any shape to one unbounded value per event.

    `features` (batch, width) is the input of the `last` layer, and may be shared with an encoder.

    :param event_shape: shape of one event.
    :param hidden: widths of the hidden layers.
    :param fourier: Fourier features, the input of the layers in place of the event.
    :raises ValueError: for a `fourier` of another number of inputs than an event has.
    """

    def __init__(
        self, event_shape: Sequence[int], hidden: Sequence[int] = (256, 256), fourier: FourierFeatures | None = None
    ) -> None:
        super().__init__()
        inputs = math.prod(event_shape)
        if fourier is not None and fourier.inputs != inputs:
            raise ValueError(f"fourier has {fourier.inputs} inputs, but an event of shape {tuple(event_shape)} has {inputs}")
        widths = [inputs if fourier is None else fourier.width, *hidden]
        layers: list[nn.Module] = [nn.Flatten() if fourier is None else fourier]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, *event_shape) -> (batch,)."""
        return self.last(self.features(x)).squeeze(-1)


class ConvolutionalCritic(nn.Module):
    """Two strided convolutions and two linear layers: the DCGAN discriminator without batch norm.

    With `outputs` > 1 it is a classifier. `features` (batch, width) is the input of the `last` layer.
    """

    def __init__(
        self, event_shape: Sequence[int], channels: Sequence[int] = (32, 64), width: int = 128, outputs: int = 1
    ) -> None:
        super().__init__()
        colours, height, width_in = _image_shape(event_shape)
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(colours, first, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(first, second, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (width_in // 4), width),
            nn.LeakyReLU(0.2),
        )
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channel, height, width) -> (batch,), or (batch, outputs) for a classifier."""
        return self.last(self.features(x)).squeeze(-1)


class DenseEncoder(nn.Module):
    """Mean and log standard deviation of q(z | x) = Normal(mean, exp(log_sd)), by a multilayer perceptron."""

    def __init__(self, latent_dim: int, event_shape: Sequence[int], hidden: Sequence[int] = (512, 256)) -> None:
        super().__init__()
        widths = [math.prod(event_shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        layers.append(nn.Linear(widths[-1], 2 * latent_dim))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, *event_shape) -> mean (batch, latent_dim), log_sd (batch, latent_dim)."""
        mean, log_sd = self.layers(x).chunk(2, dim=-1)
        return mean, log_sd


def beside_classes(x: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Concatenate the class to x: as weights to vectors (batch, n), as constant planes to maps (batch, channel, ...).

    :param label: integers (batch,), or weights (batch, num_classes).
    """
    classes = (one_hot(label.long(), num_classes) if label.ndim == 1 else label).to(x.dtype)
    return torch.cat([x, classes[(...,) + (None,) * (x.ndim - 2)].expand(-1, -1, *x.shape[2:])], dim=1)


class Conditioned(nn.Module):
    """A network whose input is concatenated with a class: a one-hot vector for vectors, constant planes for images.

    :param network: a network with `num_classes` more inputs (or channels) than x has.
    :param num_classes: number of classes.
    """

    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """x (batch, n) or (batch, channel, height, width); label integers (batch,), or weights (batch, num_classes)."""
        return self.network(beside_classes(x, label, self.num_classes))

    def given(self, label: int) -> "Given":
        """The network with a fixed class, a module of x alone.

        :raises ValueError: for a label that is not one of the classes.
        """
        return Given(self, label)


class Given(nn.Module):
    """A `Conditioned` network with a fixed class."""

    def __init__(self, network: Conditioned, label: int) -> None:
        super().__init__()
        if not 0 <= label < network.num_classes:
            raise ValueError(f"label {label}: the classes are 0 to {network.num_classes - 1}")
        self.network, self.label = network, label

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x, torch.full((len(x),), self.label, dtype=torch.long, device=x.device))


class ConditionalGenerator(Conditioned):
    """A generator of (z, label). It can be stored, since its architecture is given by name and arguments."""

    def __init__(self, architecture: str, num_classes: int, arguments: Mapping[str, Any]) -> None:
        if architecture not in PLAIN:
            raise ValueError(f"architecture={architecture!r}: a conditional generator must be built on {' or '.join(PLAIN)}")
        super().__init__(PLAIN[architecture](**arguments), num_classes)


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of a module."""
    return sum(p.numel() for p in module.parameters())


def _unit_variance(layer: nn.Linear) -> nn.Linear:
    """Set initial weights that preserve the variance of the activations (He et al. 2015, equation 10).

    torch's default reduces it about threefold per layer, so that a generator starts almost constant and collapses early.
    """
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer


def _image_shape(event_shape: Sequence[int]) -> tuple[int, int, int]:
    if len(event_shape) != 3 or event_shape[1] % 4 or event_shape[2] % 4:
        raise ValueError(
            f"event_shape {tuple(event_shape)}: a convolutional network needs (channel, height, width) with "
            "height and width divisible by four; pad the images, or use a dense network"
        )
    colours, height, width = event_shape
    return colours, height, width

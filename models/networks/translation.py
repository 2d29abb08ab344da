"""Networks that make one image of another: x = G(z, c) with a condition image c, critics of pairs (x, c), an encoder of x.

Generators halve the sides of c by strided convolutions and double them again by transposed ones, up to eight times:

    U-Net             layer j of the way up sees, beside what comes from below, what the way down had at its size
    encoder-decoder   the way up sees the smallest features alone, or with ``skips`` as the U-Net's

Where z is, decides what can be inferred. With ``latent_dim`` > 0 it is a vector, laid over c (U-Net) or over the smallest
features (encoder-decoder) as constant planes, and x is a function of (z, c): a `CoGenerator` with the context c. With
``latent_dim`` = 0 the U-Net's noise is its dropout, in training and after it, as published. It is part of every layer, and
nothing that can be inferred: such a generator only draws.

References:
    Isola, Zhu, Zhou, Efros. Image-to-image translation with conditional adversarial networks. CVPR 2017 (section 3.2 and the
        appendix: U-Net with dropout, PatchGAN).
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.2.1 and Figure 11: (1) encoder-decoder, (2) U-Net).
    Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman. Toward multimodal image-to-image translation. NeurIPS 2017 (section
        4: z laid over the condition, the encoder of x).
    Ulyanov, Vedaldi, Lempitsky. Instance normalization: the missing ingredient for fast stylization. 2016.
Departures: what is published as batch norm of batches of one image is instance norm here, which is the same and lets batches
grow; ``batch_norm`` asks for the other. The encoder of x has no norm, which would hide brightness and colour from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

MOST_HALVINGS, WIDEST = 8, 8
"""The way down ends after so many halvings, and grows to so many times its first width."""


class UNet(nn.Module):
    """An image of a condition image, by way of ever smaller features and back, with a short cut at every size.

    :param event_shape: of x, (channel, height, width), the sides divisible by four.
    :param condition_shape: of c, with the same height and width.
    :param latent_dim: size of z; 0 where dropout is the noise.
    :param width: feature maps of the first layer; each layer has twice those of the one before it, up to eight times these.
    :param dropout: its probability in the first layers of the way up. With a z it ends with the training, as usual; without,
        it stays.
    :param dropout_layers: how many layers have it; None for all but the last.
    :param batch_norm: in place of instance norm.
    :param fills: c is x with a part hidden, and as its last channel a mask, 1 where x is seen and -1 where it is hidden: the
        network makes what is hidden, and the rest stays as it is.

    Raises ValueError for shapes that do not fit, and for a dropout outside of [0, 1).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        condition_shape: Sequence[int],
        latent_dim: int = 0,
        width: int = 64,
        dropout: float = 0.5,
        dropout_layers: int | None = 3,
        batch_norm: bool = False,
        fills: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: a probability below 1; 0 leaves it out")
        widths = _widths(event_shape, condition_shape, width, fills)
        self.fills = fills
        self.down = _way_down(condition_shape[0] + latent_dim, widths, batch_norm)
        *inner, last = reversed(widths)
        inputs = [inner[0], *(2 * each for each in (*inner[1:], last))]
        noise = nn.Dropout(dropout) if latent_dim else Noise(dropout)
        dropped = len(inner) if dropout_layers is None else dropout_layers
        self.up = _way_up(inputs, [*inner[1:], last, event_shape[0]], batch_norm, [noise] * dropped)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """z (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape) in (-1, 1)."""
        x = self.decode(self.encode(z, condition))
        return _filled(x, condition) if self.fills else x

    def encode(self, z: Tensor, condition: Tensor) -> list[Tensor]:
        """The features of the way down, largest maps first."""
        features = [_overlaid(condition, z)]
        for layer in self.down:
            features.append(layer(features[-1]))
        return features[1:]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """x of such features."""
        *larger, x = features
        for k, layer in enumerate(self.up):
            x = layer(torch.cat([x, larger[-k]], dim=1) if k else x)
        return x


class WayDown(nn.Sequential):
    """Layers whose outputs are all kept."""

    def forward(self, condition: Tensor) -> list[Tensor]:
        """condition (batch, *condition_shape) -> features, (batch, maps, height, width) each, largest maps first."""
        features = [condition]
        for layer in self:
            features.append(layer(features[-1]))
        return features[1:]


class EncoderDecoder(nn.Module):
    """An image of a condition image, which passes through its smallest features; z is laid over these.

    :param event_shape: of x, (channel, height, width), the sides divisible by four.
    :param condition_shape: of c, with the same height and width.
    :param latent_dim: size of z; with 0 the network is a function of c alone.
    :param width: feature maps of the first layer, as in `UNet`.
    :param batch_norm: in place of instance norm.
    :param fills: as in `UNet`.
    :param skips: every layer of the way up sees what the way down had at its size.

    Raises ValueError for shapes that do not fit.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        condition_shape: Sequence[int],
        latent_dim: int = 0,
        width: int = 64,
        batch_norm: bool = False,
        fills: bool = False,
        skips: bool = False,
    ) -> None:
        super().__init__()
        widths = _widths(event_shape, condition_shape, width, fills)
        self.fills, self.skips = fills, skips
        self.features = widths[-1] * math.prod(side >> len(widths) for side in condition_shape[1:])
        """How many numbers the smallest are."""
        self.down = WayDown(*_way_down(condition_shape[0], widths, batch_norm))
        first, *others = widths[::-1]
        inputs = [first + latent_dim, *((2 if skips else 1) * each for each in others)]
        self.up = nn.Sequential(*_way_up(inputs, [*others, event_shape[0]], batch_norm, []))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """z (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape) in (-1, 1)."""
        return self.decode(z, self.down(condition), condition)

    def decode(self, z: Tensor, features: Sequence[Tensor], condition: Tensor) -> Tensor:
        """x of a latent, of the features of a condition as ``down`` makes them, and of what this shows where it ``fills``."""
        *larger, smallest = features
        x = _overlaid(smallest, z)
        for k, layer in enumerate(self.up):
            x = layer(torch.cat([x, larger[-k]], dim=1) if k and self.skips else x)
        return _filled(x, condition) if self.fills else x


class PatchCritic(nn.Module):
    """A critic of pairs (x, c), or of x: a map of logits, each of a patch of the images.

    :param shape: of what it sees, (channel, height, width): the channels of x and of c together.
    :param width: feature maps of the first layer.
    :param layers: strided convolutions; a logit sees 16, 34, 70 pixels a side with 1, 2, 3 of them.
    :param batch_norm: in place of instance norm.

    Raises ValueError for images too small for so many layers.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, layers: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < (least := 4 * 2**layers):
            raise ValueError(
                f"images of {sides[1]} x {sides[0]} pixels: a critic of patches with {layers} strided layers needs sides of"
                f" {least} or more; give larger images, or fewer layers"
            )
        widths = [width * min(2**k, WIDEST) for k in range(layers + 1)]
        maps: list[nn.Module] = [_down(channels, width, None)]
        maps += [_down(a, b, batch_norm, stride=1 if k == layers else 2) for k, (a, b) in enumerate(pairwise(widths), start=1)]
        last = nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1)
        self.maps = nn.Sequential(*maps, _small_weights(last))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """x, and c where it sees pairs, (batch, channel, height, width) each -> (batch, row, column)."""
        return self.maps(torch.cat([x, *condition], dim=1)).squeeze(1)


class ConvolutionalEncoder(nn.Module):
    """Mean and log standard deviation of q(z | x) = Normal(mean, exp(log_sd)), by strided convolutions down to four pixels a
    side or less, a mean over these, and a linear layer.

    :param latent_dim: size of z.
    :param event_shape: of x, (channel, height, width).
    :param width: feature maps of the first layer; they double up to four times these.
    """

    def __init__(self, latent_dim: int, event_shape: Sequence[int], width: int = 64) -> None:
        super().__init__()
        channels, *sides = event_shape
        halvings = max(1, math.ceil(math.log2(min(sides) / 4)))
        widths = [channels, *(width * min(2**k, 4) for k in range(halvings))]
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Conv2d(a, b, kernel_size=4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.last = nn.Linear(widths[-1], 2 * latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (batch, *event_shape) -> mean (batch, latent_dim), log_sd (batch, latent_dim)."""
        mean, log_sd = self.last(self.features(x).mean((2, 3))).chunk(2, dim=-1)
        return mean, log_sd


TRANSLATORS: dict[str, Any] = {"UNet": UNet, "EncoderDecoder": EncoderDecoder}
"""Generators of (z, condition), by the names under which they are stored."""


class Noise(nn.Module):
    """Dropout that does not end with the training: the source of what differs from draw to draw."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability, training=True)


# --- layers --------------------------------------------------------------------------------------------------------


def _widths(event_shape: Sequence[int], condition_shape: Sequence[int], width: int, fills: bool) -> list[int]:
    """Feature maps of the layers of the way down: as many layers as the sides can be halved."""
    if fills and condition_shape[0] != event_shape[0] + 1:
        raise ValueError(
            f"the condition has {condition_shape[0]} channels, and what is to be filled in takes the {event_shape[0]} of"
            " the image and a mask, as --condition centre (centre_hidden in Python)"
        )
    if len(event_shape) != 3 or len(condition_shape) != 3 or tuple(event_shape[1:]) != tuple(condition_shape[1:]):
        raise ValueError(
            f"event_shape {tuple(event_shape)} and condition_shape {tuple(condition_shape)}: both are (channel, height, width),"
            " with the same height and width"
        )
    height, width_in = event_shape[1:]
    halvings = 0
    while halvings < MOST_HALVINGS and math.gcd(height, width_in) % 2 ** (halvings + 1) == 0:
        halvings += 1
    if halvings < 2:
        raise ValueError(
            f"images of {width_in} x {height} pixels: the sides of images are divisible by four here, and best powers of two;"
            " resize them, as to 64 x 64"
        )
    return [width * min(2**k, WIDEST) for k in range(halvings)]


def _way_down(inputs: int, widths: Sequence[int], batch_norm: bool) -> nn.ModuleList:
    """No norm first, where c is as it is, and none last, where a map may be a single pixel."""
    norms = [None, *[batch_norm] * (len(widths) - 2), None]
    return nn.ModuleList(_down(a, b, norm) for (a, b), norm in zip(pairwise([inputs, *widths]), norms, strict=True))


def _way_up(inputs: Sequence[int], outputs: Sequence[int], batch_norm: bool, noises: Sequence[nn.Module]) -> nn.ModuleList:
    layers: list[nn.Module] = []
    for k, (a, b) in enumerate(zip(inputs, outputs, strict=True)):
        last = k == len(inputs) - 1
        deconvolution = _small_weights(nn.ConvTranspose2d(a, b, kernel_size=4, stride=2, padding=1, bias=last))
        after = [nn.Tanh()] if last else [_norm(b, batch_norm), *noises[k : k + 1], nn.ReLU()]
        layers.append(nn.Sequential(deconvolution, *after))
    return nn.ModuleList(layers)


def _down(inputs: int, outputs: int, batch_norm: bool | None, stride: int = 2) -> nn.Sequential:
    """A convolution, a norm (None for none) and a leaky ReLU."""
    convolution = nn.Conv2d(inputs, outputs, kernel_size=4, stride=stride, padding=1, bias=batch_norm is None)
    norm = [] if batch_norm is None else [_norm(outputs, batch_norm)]
    return nn.Sequential(_small_weights(convolution), *norm, nn.LeakyReLU(0.2))


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.InstanceNorm2d(channels, affine=True)


def _small_weights(layer: Any) -> Any:
    """The initial weights of the paper's appendix, N(0, 0.02^2)."""
    nn.init.normal_(layer.weight, std=0.02)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _filled(x: Tensor, condition: Tensor) -> Tensor:
    """What is seen in the condition, and x where its mask hides."""
    return torch.where(condition[:, -1:] > 0, condition[:, :-1], x)


def _overlaid(maps: Tensor, z: Tensor) -> Tensor:
    """Maps (batch, channel, height, width) and z (batch, latent_dim) as constant ones of its own."""
    return torch.cat([maps, z[:, :, None, None].expand(-1, -1, *maps.shape[2:])], dim=1)

"""Networks for image-to-image translation: x = G(z, c) with a condition image c, critics of pairs (x, c), an encoder of x.

Generators halve the sides of c by strided convolutions and double them again by transposed ones, up to eight times:

    U-Net             each decoder layer takes the previous layer's output and the encoder's features of the same size
    encoder-decoder   the decoder takes the smallest features alone, or with ``skips`` the same inputs as the U-Net's

With ``latent_dim`` > 0, z is a vector, concatenated as constant planes to c (U-Net) or to the smallest features
(encoder-decoder), and x is a function of (z, c): a `CoGenerator` with the context c, whose z can be inferred. With
``latent_dim`` = 0 the U-Net's noise is its dropout, in training and after it, as published. It enters every layer and cannot be
inferred: such a generator can only be sampled.

References:
    Isola, Zhu, Zhou, Efros. Image-to-image translation with conditional adversarial networks. CVPR 2017 (section 3.2 and the
        appendix: U-Net with dropout, PatchGAN).
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.2.1 and Figure 11: (1) encoder-decoder, (2) U-Net).
    Zhu, Zhang, Pathak, Darrell, Efros, Wang, Shechtman. Toward multimodal image-to-image translation. NeurIPS 2017 (section
        4: z concatenated to the condition, the encoder of x).
    Ulyanov, Vedaldi, Lempitsky. Instance normalization: the missing ingredient for fast stylization. 2016.
Departures: batch norm of batches of one image, as published, is instance norm here, which is the same and allows larger
batches; ``batch_norm`` selects batch norm. The encoder of x has no norm, which would remove brightness and colour.
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
"""Largest number of halvings of the encoder, and largest width in multiples of the first layer's."""


class UNet(nn.Module):
    """A U-Net from (z, condition image) to an image, with skip connections at every size.

    :param event_shape: shape of x, (channel, height, width), the sides divisible by four.
    :param condition_shape: shape of c, with the same height and width.
    :param latent_dim: size of z; 0 if dropout is the noise.
    :param width: feature maps of the first layer; they double in each layer, up to eight times the first.
    :param dropout: dropout probability in the first decoder layers. With a z it is active only in training; without z, always.
    :param dropout_layers: number of decoder layers with dropout; None for all but the last.
    :param batch_norm: batch norm in place of instance norm.
    :param fills: c is x with a hidden part and a mask as its last channel, 1 where x is seen and -1 where it is hidden; the
        network makes the hidden part and copies the rest.
    :raises ValueError: for shapes that do not fit, or a dropout outside [0, 1).
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
            raise ValueError(f"dropout={dropout}: it must be in [0, 1); 0 disables it")
        widths = _widths(event_shape, condition_shape, width, fills)
        self.fills = fills
        self.down = _encoder_layers(condition_shape[0] + latent_dim, widths, batch_norm)
        *inner, last = reversed(widths)
        inputs = [inner[0], *(2 * each for each in (*inner[1:], last))]
        noise = nn.Dropout(dropout) if latent_dim else Noise(dropout)
        dropped = len(inner) if dropout_layers is None else dropout_layers
        self.up = _decoder_layers(inputs, [*inner[1:], last, event_shape[0]], batch_norm, [noise] * dropped)

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """z (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape) in (-1, 1)."""
        x = self.decode(self.encode(z, condition))
        return _filled(x, condition) if self.fills else x

    def encode(self, z: Tensor, condition: Tensor) -> list[Tensor]:
        """The encoder's features, largest maps first."""
        features = [_with_planes(condition, z)]
        for layer in self.down:
            features.append(layer(features[-1]))
        return features[1:]

    def decode(self, features: Sequence[Tensor]) -> Tensor:
        """x from the features of `encode`."""
        *larger, x = features
        for k, layer in enumerate(self.up):
            x = layer(torch.cat([x, larger[-k]], dim=1) if k else x)
        return x


class WayDown(nn.Sequential):
    """Encoder layers that return the outputs of all layers."""

    def forward(self, condition: Tensor) -> list[Tensor]:
        """condition (batch, *condition_shape) -> features, (batch, maps, height, width) each, largest maps first."""
        features = [condition]
        for layer in self:
            features.append(layer(features[-1]))
        return features[1:]


class EncoderDecoder(nn.Module):
    """An encoder-decoder from (z, condition image) to an image; z is concatenated to the smallest features.

    :param event_shape: shape of x, (channel, height, width), the sides divisible by four.
    :param condition_shape: shape of c, with the same height and width.
    :param latent_dim: size of z; with 0 the network is a function of c alone.
    :param width: feature maps of the first layer, as in `UNet`.
    :param batch_norm: batch norm in place of instance norm.
    :param fills: as in `UNet`.
    :param skips: skip connections from the encoder to every decoder layer.
    :raises ValueError: for shapes that do not fit.
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
        """The size of the smallest features."""
        self.down = WayDown(*_encoder_layers(condition_shape[0], widths, batch_norm))
        first, *others = widths[::-1]
        inputs = [first + latent_dim, *((2 if skips else 1) * each for each in others)]
        self.up = nn.Sequential(*_decoder_layers(inputs, [*others, event_shape[0]], batch_norm, []))

    def forward(self, z: Tensor, condition: Tensor) -> Tensor:
        """z (batch, latent_dim), condition (batch, *condition_shape) -> x (batch, *event_shape) in (-1, 1)."""
        return self.decode(z, self.down(condition), condition)

    def decode(self, z: Tensor, features: Sequence[Tensor], condition: Tensor) -> Tensor:
        """x from z, the features of ``down``, and the condition, whose seen pixels are copied if the network ``fills``."""
        *larger, smallest = features
        x = _with_planes(smallest, z)
        for k, layer in enumerate(self.up):
            x = layer(torch.cat([x, larger[-k]], dim=1) if k and self.skips else x)
        return _filled(x, condition) if self.fills else x


class PatchCritic(nn.Module):
    """A critic of pairs (x, c), or of x: a map of logits, one for each patch of the images.

    :param shape: shape of the input, (channel, height, width), with the channels of x and c together.
    :param width: feature maps of the first layer.
    :param layers: number of strided convolutions; the receptive field has sides of 16, 34, 70 pixels with 1, 2, 3 of them.
    :param batch_norm: batch norm in place of instance norm.
    :raises ValueError: for images too small for the number of layers.
    """

    def __init__(self, shape: Sequence[int], width: int = 64, layers: int = 3, batch_norm: bool = False) -> None:
        super().__init__()
        channels, *sides = shape
        if min(sides) < (least := 4 * 2**layers):
            raise ValueError(
                f"images of {sides[1]} x {sides[0]} pixels: a patch critic with {layers} strided layers needs sides of"
                f" {least} or more; give larger images, or fewer layers"
            )
        widths = [width * min(2**k, WIDEST) for k in range(layers + 1)]
        maps: list[nn.Module] = [_down(channels, width, None)]
        maps += [_down(a, b, batch_norm, stride=1 if k == layers else 2) for k, (a, b) in enumerate(pairwise(widths), start=1)]
        last = nn.Conv2d(widths[-1], 1, kernel_size=4, padding=1)
        self.maps = nn.Sequential(*maps, _small_weights(last))

    def forward(self, x: Tensor, *condition: Tensor) -> Tensor:
        """x, and c for pairs, (batch, channel, height, width) each -> (batch, row, column)."""
        return self.maps(torch.cat([x, *condition], dim=1)).squeeze(1)


class ConvolutionalEncoder(nn.Module):
    """Mean and log standard deviation of q(z | x) = Normal(mean, exp(log_sd)), by a convolutional network.

    Strided convolutions down to sides of four pixels or less, a mean over pixels, and a linear layer.

    :param latent_dim: size of z.
    :param event_shape: shape of x, (channel, height, width).
    :param width: feature maps of the first layer; they double in each layer, up to four times the first.
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
"""Generators of (z, condition), by their stored names."""


class Noise(nn.Module):
    """Dropout that is also active in evaluation mode, the generator's source of randomness."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.probability, training=True)


# --- layers --------------------------------------------------------------------------------------------------------


def _widths(event_shape: Sequence[int], condition_shape: Sequence[int], width: int, fills: bool) -> list[int]:
    """Feature maps of the encoder's layers; there are as many layers as the sides can be halved."""
    if fills and condition_shape[0] != event_shape[0] + 1:
        raise ValueError(
            f"the condition has {condition_shape[0]} channels, but fills=True needs the {event_shape[0]} of the image and a"
            " mask: use --condition centre (centre_hidden in Python)"
        )
    if len(event_shape) != 3 or len(condition_shape) != 3 or tuple(event_shape[1:]) != tuple(condition_shape[1:]):
        raise ValueError(
            f"event_shape {tuple(event_shape)} and condition_shape {tuple(condition_shape)}: both must be (channel, height,"
            " width), with the same height and width"
        )
    height, width_in = event_shape[1:]
    halvings = 0
    while halvings < MOST_HALVINGS and math.gcd(height, width_in) % 2 ** (halvings + 1) == 0:
        halvings += 1
    if halvings < 2:
        raise ValueError(
            f"images of {width_in} x {height} pixels: the sides must be divisible by four, and should be powers of two; resize"
            " them, for example to 64 x 64"
        )
    return [width * min(2**k, WIDEST) for k in range(halvings)]


def _encoder_layers(inputs: int, widths: Sequence[int], batch_norm: bool) -> nn.ModuleList:
    """Strided layers, without a norm in the first, of c itself, and the last, whose maps may be a single pixel."""
    norms = [None, *[batch_norm] * (len(widths) - 2), None]
    return nn.ModuleList(_down(a, b, norm) for (a, b), norm in zip(pairwise([inputs, *widths]), norms, strict=True))


def _decoder_layers(
    inputs: Sequence[int], outputs: Sequence[int], batch_norm: bool, noises: Sequence[nn.Module]
) -> nn.ModuleList:
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
    """The seen pixels of the condition, and x where its mask hides them."""
    return torch.where(condition[:, -1:] > 0, condition[:, :-1], x)


def _with_planes(maps: Tensor, z: Tensor) -> Tensor:
    """Maps (batch, channel, height, width) concatenated with z (batch, latent_dim) as constant planes."""
    return torch.cat([maps, z[:, :, None, None].expand(-1, -1, *maps.shape[2:])], dim=1)

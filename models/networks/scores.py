"""Networks of a noise-conditional score s(x, sigma) = grad log p_sigma(x), p_sigma the density of x + sigma e.

The input of the network F is x at unit scale, and the factor of F is such that F is of order one at every noise level:

    s(x, sigma) = -x / (d^2 + sigma^2) + d F(x / w, log sigma) / (sigma w),        w^2 = d^2 + sigma^2,

with d the scale of the data. F = 0 is exactly the score of Normal(0, d^2) data.

References:
    Karras, Aittala, Aila, Laine. Elucidating the design space of diffusion-based generative models. NeurIPS 2022 (equation 7
        and table 1, with their denoiser D = x + sigma^2 s).
    Song, Ermon. Improved techniques for training score-based generative models. NeurIPS 2020 (technique 3: a network
        without sigma as input, divided by sigma, which is the first order of this).
    Ronneberger, Fischer, Brox. U-Net. MICCAI 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, silu


class _Scaled(nn.Module):
    """The score s of the module's docstring; subclasses define F, `network`.

    :param data_scale: d, the standard deviation of the data, positive.
    """

    def __init__(self, event_shape: Sequence[int], data_scale: float) -> None:
        super().__init__()
        if not 0 < data_scale < math.inf:
            raise ValueError(f"data_scale={data_scale}: the standard deviation of the data must be positive and finite")
        self.event_shape, self.data_scale = tuple(event_shape), data_scale

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x (batch, *event), sigma (batch,) -> (batch, *event)."""
        level = sigma.reshape(-1, *(1,) * len(self.event_shape))
        width = (self.data_scale**2 + level.square()).sqrt()
        return self.data_scale * self.network(x / width, sigma.log()) / (level * width) - x / width.square()

    def network(self, x: Tensor, level: Tensor) -> Tensor:
        raise NotImplementedError


class DenseScore(_Scaled):
    """A multilayer perceptron of x and log sigma.

    :param hidden: widths of the hidden layers.
    """

    def __init__(self, event_shape: Sequence[int], hidden: Sequence[int] = (256, 256), *, data_scale: float = 1.0) -> None:
        super().__init__(event_shape, data_scale)
        size = math.prod(event_shape)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([size + 1, *hidden]):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear([size + 1, *hidden][-1], size))

    def network(self, x: Tensor, level: Tensor) -> Tensor:
        return self.layers(torch.cat([x.flatten(1), level[:, None]], 1)).reshape(-1, *self.event_shape)


class ConvolutionalScore(_Scaled):
    """A small U-Net: features at the full size, a half and a quarter, each shifted by a network of log sigma.

    :param event_shape: (channel, height, width); height and width divisible by four.
    :param channels: feature maps at the three sizes.
    :raises ValueError: for another shape.
    """

    def __init__(self, event_shape: Sequence[int], channels: Sequence[int] = (32, 64, 96), *, data_scale: float = 0.5) -> None:
        super().__init__(event_shape, data_scale)
        if len(event_shape) != 3 or event_shape[1] % 4 or event_shape[2] % 4:
            raise ValueError(f"event_shape {tuple(event_shape)}: give (channel, height, width), with sides divisible by four")
        colours, (full, half, quarter) = event_shape[0], channels
        self.level = nn.Sequential(nn.Linear(1, 64), nn.SiLU(), nn.Linear(64, 2 * full + 2 * half + quarter))
        self.widths = [full, half, quarter, half, full]
        self.first = nn.Conv2d(colours, full, 3, padding=1)
        self.down = nn.Conv2d(full, half, 4, stride=2, padding=1)
        self.middle = nn.Sequential(nn.Conv2d(half, quarter, 4, stride=2, padding=1), nn.SiLU(), _same(quarter, quarter))
        self.up = _same(quarter + half, half)
        self.last = _same(half + full, full)
        self.out = nn.Conv2d(full, colours, 3, padding=1)

    def network(self, x: Tensor, level: Tensor) -> Tensor:
        shifts = [shift[:, :, None, None] for shift in self.level(level[:, None]).split(self.widths, 1)]
        full = silu(self.first(x) + shifts[0])
        half = silu(self.down(full) + shifts[1])
        h = silu(self.middle(half) + shifts[2])
        h = silu(self.up(torch.cat([interpolate(h, scale_factor=2), half], 1)) + shifts[3])
        h = silu(self.last(torch.cat([interpolate(h, scale_factor=2), full], 1)) + shifts[4])
        return self.out(h)


def _same(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)

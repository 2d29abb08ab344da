"""Noise of pixels, learned with the decoder: a logistic distribution censored at black and white.

Most pixels of a digit are exactly black, which a Gaussian with its mean in the range cannot express. Here a pixel is

    y = cut(a + s(a) e),    e ~ Logistic(0, 1),    cut(v) = -1 below -1 + NEAR, 1 above 1 - NEAR, else v,

where the decoder's output a is unbounded: far below -1, black is almost certain. The scale s is a smooth function of a, learned
with the decoder, so that edges, which are gray and uncertain, have wide noise, and the inside of strokes and of the background
almost none. The likelihood is a density between the ends, and a probability at the ends.

A generator makes x, a pixel: `saturated` maps a to [-1, 1], up to ten-thousandths beyond the ends, a tenth of a gray level.
`unsaturated` is its inverse. Views therefore apply to x as to that of any other generator, and their density recovers a.

References:
    Salimans, Karpathy, Chen, Kingma. PixelCNN++. ICLR 2017 (section 2.1: logistic distributions, whose tails belong to the
        first and the last value).
    Tobin. Estimation of relationships for limited dependent variables. Econometrica 1958 (censored observations).
Departures: one logistic in place of a mixture; between the ends a density, not the probability of a gray level.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

LOW, HIGH = -1.0, 1.0
"""The ends: black and white."""

NEAR = 0.02
"""Values within this distance of an end count as the end: two and a half of 255 gray levels."""

LEAK = 1e-4
"""x exceeds an end by this times log(1 + excess of a)."""

LEAST, MOST = math.log(0.02), math.log(4.0)
"""Bounds of the log scale."""


def saturated(a: Tensor) -> Tensor:
    """x of unbounded a (...): a clipped to [-1, 1], plus a small term of the excess."""
    inside = a.clip(LOW, HIGH)
    beyond = a - inside
    return inside + LEAK * beyond.sign() * beyond.abs().log1p()


def unsaturated(x: Any, library: Any) -> Any:
    """a of x (...), the inverse of `saturated`; ``library`` is torch, jax.numpy or numpy."""
    inside = x.clip(LOW, HIGH)
    beyond = x - inside
    return inside + library.sign(beyond) * library.expm1(library.abs(beyond) / LEAK)


def cut(y: Any, library: Any) -> Any:
    """Values y (...) censored at the ends."""
    return library.where(y < LOW + NEAR, LOW, library.where(y > HIGH - NEAR, HIGH, y))


def log_scale(curve: Any, a: Any, library: Any) -> Any:
    """log s(a) of a curve (4, unit), with rows weight, slope, center and level; the level is the sum over the units.

    Units are added one by one, so that no array is larger than a.
    """
    total = sum(
        level + weight * library.tanh(slope * (a - center)) for weight, slope, center, level in zip(*curve, strict=True)
    )
    return total.clip(LEAST, MOST)


class PixelNoise(nn.Module):
    """The learned curve s(a), and the density and draws of pixels with this noise.

    :param units: number of tanh units in the log scale. Initially s = 0.25 everywhere.
    """

    def __init__(self, units: int = 4) -> None:
        super().__init__()
        center = torch.linspace(-1.5, 1.5, units)
        level = torch.full((units,), math.log(0.25) / units)
        self.curve = nn.Parameter(torch.stack([torch.zeros(units), torch.full((units,), 2.0), center, level]))

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x), elementwise, of pixels y and generated pixels x, (...) each."""
        a = unsaturated(x, torch)
        log_s = log_scale(self.curve, a, torch)
        inverse = (-log_s).exp()
        # One log sigmoid for three cases: log sigmoid(t) at an end, else log p = 2 log sigmoid(t) - t - log s.
        black, white = y < LOW + NEAR, y > HIGH - NEAR
        t = torch.where(black, LOW + NEAR - a, torch.where(white, a - HIGH + NEAR, y - a)) * inverse
        tail = logsigmoid(t)
        return torch.where(black | white, tail, 2 * tail - t - log_s)

    def sample(self, x: Tensor) -> Tensor:
        """Draws of pixels y given x, (...) each."""
        a = unsaturated(x, torch)
        e = torch.rand_like(a).clamp(1e-7, 1 - 1e-7).logit()
        return cut(a + log_scale(self.curve, a, torch).exp() * e, torch)

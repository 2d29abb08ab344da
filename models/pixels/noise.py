"""Noise of pixels that end at black and at white, learned with the decoder: a logistic distribution, cut at both ends.

Most pixels of a digit are exactly black, which a Gaussian with its mean in the range cannot express. Here a pixel is

    y = cut(a + s(a) e),    e ~ Logistic(0, 1),    cut(v) = -1 below -1 + NEAR, 1 above 1 - NEAR, else v,

where the decoder's a is any number: far below -1 black is as good as certain. Its scale s is a smooth function of a that is
learned with the decoder, so that edges, which are gray and uncertain, have a wide noise, and what is far inside of a stroke or
of the background almost none. The density is that of y between the ends, and a probability at them.

A generator makes x, a pixel: `saturated` maps a to [-1, 1] but for ten-thousandths beyond the ends, a tenth of a gray level,
and `unsaturated` is its inverse; so every view works on x as on any other, and the density of a view of pixels knows a.

References:
    Salimans, Karpathy, Chen, Kingma. PixelCNN++. ICLR 2017 (section 2.1: logistic distributions, whose tails lie in the first
        and the last value).
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
"""Values so near to an end count as the end: two gray levels and a half of 255."""

LEAK = 1e-4
"""x goes beyond the ends by this times log(1 + how far a does)."""

LEAST, MOST = math.log(0.02), math.log(4.0)
"""Of the log scale."""


def saturated(a: Tensor) -> Tensor:
    """x of any numbers a (...): their part in [-1, 1], and a trace of what lies beyond."""
    inside = a.clip(LOW, HIGH)
    beyond = a - inside
    return inside + LEAK * beyond.sign() * beyond.abs().log1p()


def unsaturated(x: Any, library: Any) -> Any:
    """a of x (...), the inverse of `saturated`; ``library`` is torch, jax.numpy or numpy."""
    inside = x.clip(LOW, HIGH)
    beyond = x - inside
    return inside + library.sign(beyond) * library.expm1(library.abs(beyond) / LEAK)


def cut(y: Any, library: Any) -> Any:
    """Values y (...) as pixels."""
    return library.where(y < LOW + NEAR, LOW, library.where(y > HIGH - NEAR, HIGH, y))


def log_scale(curve: Any, a: Any, library: Any) -> Any:
    """log s(a) of a curve (4, unit), rows weight, slope, place and a level shared out over the units.

    Unit by unit, so that nothing larger than a is held.
    """
    total = sum(level + weight * library.tanh(slope * (a - place)) for weight, slope, place, level in zip(*curve, strict=True))
    return total.clip(LEAST, MOST)


class PixelNoise(nn.Module):
    """The learned curve s(a) with a few units, and the density and draws of pixels that go with it.

    :param units: how many tanh the log scale is a sum of. A fresh curve is s = 0.25 everywhere.
    """

    def __init__(self, units: int = 4) -> None:
        super().__init__()
        place = torch.linspace(-1.5, 1.5, units)
        level = torch.full((units,), math.log(0.25) / units)
        self.curve = nn.Parameter(torch.stack([torch.zeros(units), torch.full((units,), 2.0), place, level]))

    def log_prob(self, y: Tensor, x: Tensor) -> Tensor:
        """log p(y | x), elementwise: pixels y and what was made of them, x, (...) each."""
        a = unsaturated(x, torch)
        log_s = log_scale(self.curve, a, torch)
        inverse = (-log_s).exp()
        # One log sigmoid for the three cases: at an end it is all, between them log p = 2 log sigmoid(t) - t - log s.
        black, white = y < LOW + NEAR, y > HIGH - NEAR
        t = torch.where(black, LOW + NEAR - a, torch.where(white, a - HIGH + NEAR, y - a)) * inverse
        tail = logsigmoid(t)
        return torch.where(black | white, tail, 2 * tail - t - log_s)

    def sample(self, x: Tensor) -> Tensor:
        """Pixels y of x, (...) each."""
        a = unsaturated(x, torch)
        e = torch.rand_like(a).clamp(1e-7, 1 - 1e-7).logit()
        return cut(a + log_scale(self.curve, a, torch).exp() * e, torch)

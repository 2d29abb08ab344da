"""Learning-rate schedules: from (number of steps, fractional number of epochs) to the factor of every learning rate.

References:
    Smith, Topin. Super-convergence: very fast training of neural networks using large learning rates. 2018 (`OneCycle`, with
        half a cosine up and half a cosine down, as in torch, and without a cycle of the momentum).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class Constant:
    """The factor 1."""

    def __call__(self, step: int, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Falling:
    """The factor 1 for the first half of ``num_steps``, then linearly to 0."""

    num_steps: int

    def __call__(self, step: int, epoch: float) -> float:
        return max(0.0, min(1.0, 2.0 * (1.0 - step / self.num_steps)))


@dataclass(frozen=True)
class InverseRoot:
    """The factor 1 / sqrt(epoch), with epochs counted from 1 (AIM)."""

    def __call__(self, step: int, epoch: float) -> float:
        return 1.0 / math.sqrt(math.floor(epoch) + 1.0)


@dataclass(frozen=True)
class OneCycle:
    """The factor rises from 1/25 to 1 at 30% of ``num_steps`` and falls to 1/250,000, each along half a cosine."""

    num_steps: int

    def __call__(self, step: int, epoch: float) -> float:
        start, end, peak = 1 / 25, 1 / 250_000, 0.3 * self.num_steps - 1
        if step <= peak:
            return _half_cosine(start, 1.0, step / peak)
        return _half_cosine(1.0, end, (step - peak) / (self.num_steps - 1 - peak))


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))

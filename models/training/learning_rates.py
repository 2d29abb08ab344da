"""Learning-rate schedules: from (steps made, epochs begun as a real number) to the factor of every learning rate.

References:
    Smith, Topin. Super-convergence: very fast training of neural networks using large learning rates. 2018 (`OneCycle`, with
        half a cosine up and another down, as torch has it, and without a cycle of the momentum).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

Schedule = Callable[[int, float], float]


@dataclass(frozen=True)
class Constant:
    """One."""

    def __call__(self, step: int, epoch: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Falling:
    """One for the first half of ``num_steps``, then linearly to zero."""

    num_steps: int

    def __call__(self, step: int, epoch: float) -> float:
        return max(0.0, min(1.0, 2.0 * (1.0 - step / self.num_steps)))


@dataclass(frozen=True)
class InverseRoot:
    """1 / sqrt(epoch), epochs counted from one (AIM's)."""

    def __call__(self, step: int, epoch: float) -> float:
        return 1.0 / math.sqrt(math.floor(epoch) + 1.0)


@dataclass(frozen=True)
class OneCycle:
    """From 1/25 up to one at three tenths of ``num_steps``, and down to 1/250,000, each way half a cosine."""

    num_steps: int

    def __call__(self, step: int, epoch: float) -> float:
        start, end, peak = 1 / 25, 1 / 250_000, 0.3 * self.num_steps - 1
        if step <= peak:
            return _half_cosine(start, 1.0, step / peak)
        return _half_cosine(1.0, end, (step - peak) / (self.num_steps - 1 - peak))


def _half_cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) / 2 * (1 + math.cos(math.pi * min(share, 1.0)))

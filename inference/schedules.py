"""Annealing schedules: 0 = beta_0 < beta_1 < ... < beta_T = 1.

A schedule is called with the number of temperatures T and returns the T + 1 inverse temperatures. The published code of
Fang and Schwing uses ``sigmoid(linspace(low, high, T))`` as it stands, (-10, 2) for the toy, (-5, 5) for images, which
neither starts at 0 nor ends at 1; here the ends are moved there, since the weights of annealed importance sampling need
them (Neal 2001, Eq. 3). The low end decides success: a first beta that is too large freezes the chains where they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np


class Schedule(Protocol):
    def __call__(self, num_temperatures: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Sigmoid:
    """beta_t = (s(x_t) - s(low)) / (s(high) - s(low)), with x evenly spaced from ``low`` to ``high`` and s the logistic.

    >>> Sigmoid(-4, 4)(4).round(3).tolist()
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """

    low: float = -4.0
    high: float = 4.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Sigmoid(low={self.low}, high={self.high}): low must be below high, or the schedule falls")

    def __call__(self, num_temperatures: int) -> np.ndarray:
        level = 1.0 / (1.0 + np.exp(-np.linspace(self.low, self.high, num_temperatures + 1)))
        return (level - level[0]) / (level[-1] - level[0])


@dataclass(frozen=True)
class Linear:
    """beta_t = t / T.

    >>> Linear()(4).tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    def __call__(self, num_temperatures: int) -> np.ndarray:
        return np.linspace(0.0, 1.0, num_temperatures + 1)


@dataclass(frozen=True)
class Geometric:
    """beta_0 = 0, then beta_t = first^((T - t) / (T - 1)): a constant ratio from ``first`` to 1.

    >>> Geometric(0.001)(4).round(3).tolist()
    [0.0, 0.001, 0.01, 0.1, 1.0]
    """

    first: float = 1e-4

    def __post_init__(self) -> None:
        if not 0.0 < self.first < 1.0:
            raise ValueError(f"Geometric(first={self.first}): the first inverse temperature lies between 0 and 1")

    def __call__(self, num_temperatures: int) -> np.ndarray:
        if num_temperatures == 1:
            return np.array([0.0, 1.0])
        return np.concatenate([[0.0], np.geomspace(self.first, 1.0, num_temperatures)])


def inverse_temperatures(schedule: Schedule, num_temperatures: int) -> np.ndarray:
    """The schedule's T + 1 values, checked: finite, from 0 to 1, rising."""
    beta = np.asarray(schedule(num_temperatures), dtype=np.float64)
    if beta.shape != (num_temperatures + 1,):
        raise ValueError(f"{schedule} gave {beta.shape} values for {num_temperatures} temperatures, not {num_temperatures + 1}")
    if not (np.isfinite(beta).all() and beta[0] == 0.0 and np.isclose(beta[-1], 1.0) and (np.diff(beta) > 0).all()):
        raise ValueError(f"{schedule} must rise from 0 to 1 at every step; it runs from {beta[0]:g} to {beta[-1]:g}")
    beta[-1] = 1.0
    return beta

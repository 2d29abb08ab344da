"""Annealing schedules: 0 = beta_0 < beta_1 < ... < beta_T = 1.

A schedule is called with the number of temperatures T and returns the T + 1 inverse temperatures. The published code of
Fang and Schwing uses ``sigmoid(linspace(low, high, T))`` unchanged, (-10, 2) for the toy, (-5, 5) for images, which neither
starts at 0 nor ends at 1; here the values are rescaled to these ends, which the weights of annealed importance sampling require
(Neal 2001, Eq. 3). The low end is critical: if the first beta is too large, the chains stay near their starts.

`Adaptive` chooses beta during the run, per item: the next beta is where the conditional effective sample size of the step,

    CESS = (sum_i W_i v_i)^2 / sum_i W_i v_i^2,     v_i = exp((beta' - beta) increment_i),

with the current normalised weights W, falls to a given fraction (Zhou, Johansen and Aston 2016, Toward automatic model
comparison, Eq. 3.16). The choice depends on the weighted particles, so the evidence is not unbiased; `Ladder.of(pilot)` freezes
the choice of a pilot.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from cogen.inference.results import dataset
from cogen.inference.signatures import ArvizObject
from cogen.inference.targets.sums import Sum, real

if TYPE_CHECKING:
    import xarray as xr

Array = jax.Array

_SMALLEST_RISE = 1e-12
_BISECTIONS = 40


class Schedule(Protocol):
    def __call__(self, num_temperatures: int) -> np.ndarray: ...


@dataclass(frozen=True)
class Sigmoid:
    """beta_t = (s(x_t) - s(low)) / (s(high) - s(low)), with x evenly spaced from ``low`` to ``high``, s the sigmoid function.

    >>> Sigmoid(-4, 4)(4).round(3).tolist()
    [0.0, 0.105, 0.5, 0.895, 1.0]
    """

    low: float = -4.0
    high: float = 4.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Sigmoid(low={self.low}, high={self.high}): low must be below high")

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
            raise ValueError(f"Geometric(first={self.first}): the first inverse temperature must be between 0 and 1")

    def __call__(self, num_temperatures: int) -> np.ndarray:
        if num_temperatures == 1:
            return np.array([0.0, 1.0])
        return np.concatenate([[0.0], np.geomspace(self.first, 1.0, num_temperatures)])


@dataclass(frozen=True)
class Through:
    """The inverse temperatures of another run, as stored by `cogen tune`, interpolated to any number of temperatures.

    :param beta: at least three rising values from 0 to 1. The logit of beta is interpolated linearly between them; the logits
        at the ends are those of half the first rise, and of 1 minus half the last.
    :raises ValueError: for other values.

    >>> Through((0.0, 0.1, 0.9, 1.0))(2).round(3).tolist()
    [0.0, 0.5, 1.0]
    """

    beta: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.beta) < 3:
            raise ValueError(f"Through: {len(self.beta)} inverse temperatures, give at least three, from 0 to 1")
        _check_rise("Through", np.asarray(self.beta, dtype=np.float64), arrives_last=True)

    def __call__(self, num_temperatures: int) -> np.ndarray:
        beta = 1.0 / (1.0 + np.exp(-spread_logits(np.asarray(self.beta), num_temperatures + 1)))
        beta[0], beta[-1] = 0.0, 1.0
        return beta


def spread_logits(beta: np.ndarray, count: int) -> np.ndarray:
    """The logits of ``count`` inverse temperatures interpolated from ``beta``, as in `Through`; finite at the ends."""
    inner = np.clip(beta, beta[1] / 2, 1.0 - (1.0 - beta[-2]) / 2)
    positions = np.linspace(0.0, len(beta) - 1.0, count)
    return np.interp(positions, np.arange(len(beta)), np.log(inner) - np.log1p(-inner))


@dataclass(frozen=True)
class Adaptive:
    """Choose each item's next beta by the conditional effective sample size of the step, a fraction in (0, 1).

    ``num_warmup`` is then a limit: an item that has reached beta = 1 waits for the draws; an item below beta = 1 at the limit
    rises to 1 in its last step (visible in the path of ``conditional_ess``).
    """

    conditional_ess: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.conditional_ess < 1.0:
            raise ValueError(f"Adaptive(conditional_ess={self.conditional_ess}): it must be between 0 and 1")

    def next(self, beta: Array, increment: Sum, log_weight: Array, surplus: int = 1) -> Array:
        """The next inverse temperature of particles with these increments and log weights, both (chain,).

        :param surplus: the number of particles per particle to be kept; the target fraction is divided by it.
        """
        fraction = self.conditional_ess / surplus
        room = jnp.log(1.0 - beta)

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = 0.5 * (low + high)
            good = conditional_ess(jnp.exp(middle), increment, log_weight) >= fraction
            return jnp.where(good, middle, low), jnp.where(good, high, middle)

        low, _ = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.log(real(_SMALLEST_RISE)), room))
        whole = conditional_ess(1.0 - beta, increment, log_weight) >= fraction
        risen = jnp.maximum(beta + jnp.exp(low), jnp.nextafter(beta, real(1.0)))
        return jnp.where(whole, 1.0, jnp.minimum(risen, 1.0))


@dataclass(frozen=True, eq=False)
class Ladder:
    """The inverse temperatures of each item, as chosen by a pilot.

    ``beta`` (item, points) rises from 0 to 1, padded with ones for items that needed fewer points. An item that has reached
    beta = 1 waits for the draws.
    """

    beta: np.ndarray
    ids: np.ndarray | None = None
    """The ids of the items, (item,); None for those of the run, in their order."""

    def __post_init__(self) -> None:
        rows = np.asarray(self.beta)
        if rows.ndim != 2:
            raise ValueError(f"Ladder: the inverse temperatures have shape {rows.shape}, expected (item, points)")
        for row in rows:
            _check_rise(f"Ladder of {len(rows)} items", row)

    @classmethod
    def of(cls, pilot: ArvizObject) -> Ladder:
        """The complete ladder recorded by `infer` in a run of `AnnealedHMC` (its ``warmup_sample_stats``).

        :raises ValueError: for a run of a fixed schedule with more temperatures than its path has points.
        """
        beta = annealing_path(pilot, "beta")
        path = dataset(pilot, "warmup_sample_stats")
        if "ladder_beta" in path:
            beta = annealing_path(pilot, "ladder_beta")
        elif (np.diff(path["transition"].values, prepend=-1) != 1).any():
            raise ValueError("the schedule of this run was fixed, and its recorded path is thinned: use the same schedule")
        moves = int(dataset(pilot, "posterior").attrs.get("moves_per_temperature", 1))
        return cls.through(beta[:, moves - 1 :: moves])

    @classmethod
    def through(cls, beta: np.ndarray, ids: np.ndarray | None = None) -> Ladder:
        """The ladder of items with inverse temperatures ``beta`` (item, temperature), up to the first one equal to 1."""
        rows = [np.concatenate([[0.0], row[: np.argmax(row >= 1.0) + 1]]) for row in beta]
        longest = max(map(len, rows))
        return cls(np.stack([np.pad(row, (0, longest - len(row)), constant_values=1.0) for row in rows]), ids)

    def __call__(self, num_temperatures: int) -> np.ndarray:
        needed = self.beta.shape[1] - 1
        if num_temperatures < needed:
            raise ValueError(
                f"the recorded ladder has {needed} temperatures, num_warmup allows {num_temperatures}: increase it"
            )
        return np.pad(self.beta, ((0, 0), (0, num_temperatures - needed)), constant_values=1.0)


def annealing_path(run: ArvizObject, statistic: str) -> np.ndarray:
    """A warm-up statistic of an annealed run recorded by `infer`, (item, points).

    :raises ValueError: for a run that did not record it.
    """
    path: Mapping[Hashable, xr.DataArray] = {}
    if "warmup_sample_stats" in run:
        path = dataset(run, "warmup_sample_stats")
    if "beta" not in path:
        raise ValueError("this run was not annealed and has no recorded inverse temperatures")
    if statistic not in path:
        raise ValueError(f"the warm-up of this run did not record {statistic}; it has {sorted(map(str, path))}")
    return np.atleast_2d(np.asarray(path[statistic].values).T)


def conditional_ess(rise: Array, increment: Sum, log_weight: Array) -> Array:
    """The conditional effective sample size of a rise of beta, a fraction in (0, 1]; dead particles are ignored."""
    best = jnp.argmax(jnp.where(jnp.isfinite(increment.high), increment.high, -jnp.inf))
    relative = (increment - Sum(increment.high[best], increment.low[best])).value
    alive = jnp.isfinite(relative) & (log_weight > -jnp.inf)
    weight = jnp.where(alive, log_weight, -jnp.inf)
    gain = jnp.where(alive, rise * relative, 0.0)
    first = logsumexp(weight + gain)
    return jnp.exp(2.0 * first - logsumexp(weight + 2.0 * gain) - logsumexp(weight))


def inverse_temperatures(schedule: Schedule, num_temperatures: int) -> np.ndarray:
    """The values of the schedule, (T + 1,) or (item, T + 1).

    :raises ValueError: unless they are finite and rise from 0 to 1.
    """
    beta = np.array(schedule(num_temperatures), dtype=np.float64)
    if beta.ndim not in (1, 2) or beta.shape[-1] != num_temperatures + 1:
        raise ValueError(
            f"{schedule} returned values of shape {beta.shape} for {num_temperatures} temperatures, expected"
            f" {num_temperatures + 1} values"
        )
    for row in np.atleast_2d(beta):
        _check_rise(str(schedule), row, arrives_last=beta.ndim == 1)
    beta[..., -1] = 1.0
    return beta


def _check_rise(name: str, beta: np.ndarray, arrives_last: bool = False) -> None:
    """Check that ``beta`` rises from 0 to 1 at every step until it reaches 1."""
    rises = np.diff(beta)
    climbing = rises > 0 if arrives_last else (rises > 0) | (beta[1:] == 1.0)
    if not (np.isfinite(beta).all() and beta[0] == 0.0 and np.isclose(beta[-1], 1.0) and climbing.all() and (rises >= 0).all()):
        raise ValueError(f"{name} must rise from 0 to 1 at every step; it runs from {beta[0]:g} to {beta[-1]:g}")

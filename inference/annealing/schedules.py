"""Annealing schedules: 0 = beta_0 < beta_1 < ... < beta_T = 1.

A schedule is called with the number of temperatures T and returns the T + 1 inverse temperatures. The published code of
Fang and Schwing uses ``sigmoid(linspace(low, high, T))`` as it stands, (-10, 2) for the toy, (-5, 5) for images, which
neither starts at 0 nor ends at 1; here the ends are moved there, since the weights of annealed importance sampling need
them (Neal 2001, Eq. 3). The low end decides success: a first beta that is too large freezes the chains where they were.

`Adaptive` chooses as it runs, per item: the next beta is where the conditional effective sample size of the step,

    CESS = (sum_i W_i v_i)^2 / sum_i W_i v_i^2,     v_i = exp((beta' - beta) increment_i),

with the current normalised weights W, falls to a given fraction (Zhou, Johansen and Aston 2016, Toward automatic model
comparison, Eq. 3.16). The choice looks at the particles it weighs, so such an evidence is not unbiased; `Ladder.of(pilot)`
freezes what a pilot chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp

from cogen.inference.targets.sums import Sum, real

Array = jax.Array

_SMALLEST_RISE = 1e-12
_BISECTIONS = 40


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


@dataclass(frozen=True)
class Through:
    """The inverse temperatures of another run, as `cogen tune` stores them, for as many or for another number of them.

    :param beta: from 0 to 1, rising, at least three. Between them the logit of beta rises linearly, and at both ends from half
        of the first rise and to half of the last.

    >>> Through((0.0, 0.1, 0.9, 1.0))(2).round(3).tolist()
    [0.0, 0.5, 1.0]
    """

    beta: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.beta) < 3:
            raise ValueError(f"Through: {len(self.beta)} inverse temperatures; give at least three, from 0 to 1")
        _check_rise("Through", np.asarray(self.beta, dtype=np.float64), arrives_last=True)

    def __call__(self, num_temperatures: int) -> np.ndarray:
        beta = 1.0 / (1.0 + np.exp(-spread_logits(np.asarray(self.beta), num_temperatures + 1)))
        beta[0], beta[-1] = 0.0, 1.0
        return beta


def spread_logits(beta: np.ndarray, count: int) -> np.ndarray:
    """The logits of ``count`` inverse temperatures along rising ones from 0 to 1, as in `Through`; finite at the ends."""
    inner = np.clip(beta, beta[1] / 2, 1.0 - (1.0 - beta[-2]) / 2)
    place = np.linspace(0.0, len(beta) - 1.0, count)
    return np.interp(place, np.arange(len(beta)), np.log(inner) - np.log1p(-inner))


@dataclass(frozen=True)
class Adaptive:
    """Each item's next beta by the conditional effective sample size of the step, a fraction in (0, 1).

    ``num_warmup`` then is a limit: an item that has arrived at beta = 1 waits for the draws, and one that has not arrived
    when the limit comes takes all that is left in its last step (its ``conditional_ess`` in the path shows it).
    """

    conditional_ess: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.conditional_ess < 1.0:
            raise ValueError(f"Adaptive(conditional_ess={self.conditional_ess}): a fraction between 0 and 1")

    def next(self, beta: Array, increment: Sum, log_weight: Array, surplus: int = 1) -> Array:
        """The next inverse temperature of particles with these increments and log weights, both (chain,).

        It leaves the fraction effective or, with ``surplus`` times as many particles as will be kept, as many as will be kept.
        """
        fraction = self.conditional_ess / surplus
        room = jnp.log(1.0 - beta)

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
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
    """Inverse temperatures item by item, as a pilot chose them: ``beta`` (item, points) from 0 to 1, ones at the end where
    an item needed fewer than others. An item that has arrived at beta = 1 waits for the draws."""

    beta: np.ndarray
    ids: np.ndarray | None = None
    """(item,): of which items; None for those of the run, in their order."""

    def __post_init__(self) -> None:
        rows = np.asarray(self.beta)
        if rows.ndim != 2:
            raise ValueError(f"Ladder: the inverse temperatures have shape {rows.shape}, (item, points) is needed")
        for row in rows:
            _check_rise(f"Ladder of {len(rows)} items", row)

    @classmethod
    def of(cls, pilot: Any) -> Ladder:
        """The ladder that `infer` left in a run of `AnnealedHMC` (its ``warmup_sample_stats``), whole.

        Raises ValueError for a run of a fixed schedule with more temperatures than its path has points.
        """
        beta = annealing_path(pilot, "beta")
        path = pilot["warmup_sample_stats"]
        if "ladder_beta" in path:
            beta = annealing_path(pilot, "ladder_beta")
        elif (np.diff(path["transition"].values, prepend=-1) != 1).any():
            raise ValueError("the schedule of this run was fixed, and its path is kept in part: repeat the schedule itself")
        moves = int(pilot["posterior"].attrs.get("moves_per_temperature", 1))
        return cls.through(beta[:, moves - 1 :: moves])

    @classmethod
    def through(cls, beta: np.ndarray, ids: np.ndarray | None = None) -> Ladder:
        """The ladder of items that walked through ``beta`` (item, temperature), up to where each arrives at one."""
        rows = [np.concatenate([[0.0], row[: np.argmax(row >= 1.0) + 1]]) for row in beta]
        longest = max(map(len, rows))
        return cls(np.stack([np.pad(row, (0, longest - len(row)), constant_values=1.0) for row in rows]), ids)

    def __call__(self, num_temperatures: int) -> np.ndarray:
        needed = self.beta.shape[1] - 1
        if num_temperatures < needed:
            raise ValueError(f"the recorded ladder has {needed} temperatures, num_warmup leaves time for {num_temperatures}")
        return np.pad(self.beta, ((0, 0), (0, num_temperatures - needed)), constant_values=1.0)


def annealing_path(run: Any, statistic: str) -> np.ndarray:
    """A statistic of the warm-up, (item, points), that `infer` recorded of an annealed run.

    Raises ValueError for a run that has recorded no such thing.
    """
    try:
        path = run["warmup_sample_stats"]
    except KeyError:
        path = {}
    if "beta" not in path:
        raise ValueError("this run was not annealed, so there is no path of inverse temperatures in it")
    if statistic not in path:
        raise ValueError(f"the warm-up of this run has recorded no {statistic}; it has {sorted(map(str, path))}")
    return np.atleast_2d(np.asarray(path[statistic].values).T)


def conditional_ess(rise: Array, increment: Sum, log_weight: Array) -> Array:
    """The conditional effective sample size of a rise of beta, a fraction in (0, 1]; dead particles do not count."""
    best = jnp.argmax(jnp.where(jnp.isfinite(increment.high), increment.high, -jnp.inf))
    relative = (increment - Sum(increment.high[best], increment.low[best])).value
    alive = jnp.isfinite(relative) & (log_weight > -jnp.inf)
    weight = jnp.where(alive, log_weight, -jnp.inf)
    gain = jnp.where(alive, rise * relative, 0.0)
    first = logsumexp(weight + gain)
    return jnp.exp(2.0 * first - logsumexp(weight + 2.0 * gain) - logsumexp(weight))


def inverse_temperatures(schedule: Schedule, num_temperatures: int) -> np.ndarray:
    """The schedule's (T + 1,) or (item, T + 1) values, checked: finite, from 0 to 1, rising."""
    beta = np.array(schedule(num_temperatures), dtype=np.float64)
    if beta.ndim not in (1, 2) or beta.shape[-1] != num_temperatures + 1:
        raise ValueError(f"{schedule} gave {beta.shape} values for {num_temperatures} temperatures, not {num_temperatures + 1}")
    for row in np.atleast_2d(beta):
        _check_rise(str(schedule), row, arrives_last=beta.ndim == 1)
    beta[..., -1] = 1.0
    return beta


def _check_rise(name: str, beta: np.ndarray, arrives_last: bool = False) -> None:
    """From 0 to 1, rising at every step until it arrives."""
    rises = np.diff(beta)
    climbing = rises > 0 if arrives_last else (rises > 0) | (beta[1:] == 1.0)
    if not (np.isfinite(beta).all() and beta[0] == 0.0 and np.isclose(beta[-1], 1.0) and climbing.all() and (rises >= 0).all()):
        raise ValueError(f"{name} must rise from 0 to 1 at every step; it runs from {beta[0]:g} to {beta[-1]:g}")

"""Replicas at the inverse temperatures of a ladder: swaps, round trips, and adaptation of the ladder.

See `parallel_tempering`, whose kernel moves the replicas, for the formulas and references.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogen.inference.targets.sums import Sum
from cogen.inference.targets.target import Point

Array = jax.Array

_NOWHERE, _UP, _DOWN = 0, 1, 2


class Replicas(NamedTuple):
    """The values exchanged in a swap; leading axes (chain, replica)."""

    point: Point
    heading: Array
    """The replica's direction: up since beta = 0, down since beta = 1 if it came from below, or none yet."""


class LogSum(NamedTuple):
    """A running log-sum-exp: the largest number, and the sum relative to it."""

    peak: Array
    scaled: Array

    def add(self, value: Array) -> LogSum:
        peak = jnp.maximum(self.peak, value)
        finite = jnp.where(jnp.isfinite(peak), peak, 0.0)
        return LogSum(peak, self.scaled * jnp.exp(self.peak - finite) + jnp.exp(value - finite))

    def over_groups(self, count: int) -> Array:
        """The log of the sum over the chains of each group: (chain, ...) -> (count, ...)."""
        value = (self.peak + jnp.log(self.scaled)).reshape(count, -1, *self.peak.shape[1:])
        return jax.scipy.special.logsumexp(value, axis=1)


class Tally(NamedTuple):
    """Statistics accumulated while the ladder is fixed."""

    transitions: Array
    rejection: Array
    """Sums over transitions of the chains' mean swap rejections, (R - 1,)."""
    up: LogSum
    """Sums of exp(d increment / 2) at the lower replica of each pair, (chain, R - 1)."""
    down: LogSum
    """Sums of exp(-d increment / 2) at the upper replica of each pair, (chain, R - 1)."""
    round_trips: Array
    """Round trips from beta = 0 to 1 and back, (chain,)."""


def starting(point: Point) -> Replicas:
    """Replicas at points (chain, R), the lowest with direction up."""
    return Replicas(point, jnp.full(point.u.shape[:2], _NOWHERE).at[:, 0].set(_UP))


def empty_tally(num_chains: int, num_replicas: int) -> Tally:
    """A tally of zero transitions."""
    none = jnp.zeros((num_chains, num_replicas - 1))
    nothing = LogSum(jnp.full_like(none, -jnp.inf), none)
    return Tally(jnp.int32(0), none[0], nothing, nothing, jnp.zeros(num_chains, jnp.int32))


def respaced(ladder: Array, rejection: Array) -> Array:
    """The ladder (R,) with equal rises of the barrier between neighbours, from the pairs' mean rejections (R - 1,)."""
    # A small number is added, so that pairs that never reject keep different temperatures.
    barrier = jnp.concatenate([jnp.zeros(1), jnp.cumsum(rejection + 1e-4)])
    inside = interpolated(jnp.linspace(0.0, 1.0, ladder.shape[0])[1:-1] * barrier[-1], barrier, ladder)
    return jnp.concatenate([ladder[:1], inside, ladder[-1:]])


def interpolated(x: Array, knots: Array, values: Array) -> Array:
    """Piecewise linear interpolation of (knots (m,), values (m, ...)) at x (n,), constant outside, as a sum of ramps.

    It compiles in a fraction of the time of `jnp.interp`, which uses a search.
    """
    widths = jnp.maximum(jnp.diff(knots), jnp.finfo(knots.dtype).tiny)
    ramps = jnp.clip((x[:, None] - knots[:-1]) / widths, 0.0, 1.0)
    return values[0] + jnp.tensordot(ramps, jnp.diff(values, axis=0), 1)


def swap_probability(increment: Sum, ladder: Array) -> Array:
    """The swap probabilities alpha_k of neighbouring pairs from the replicas' increments: (chain, R) -> (chain, R - 1)."""
    lower, upper = (Sum(increment.high[:, part], increment.low[:, part]) for part in (slice(None, -1), slice(1, None)))
    # The difference is taken before rounding, except for infinite increments.
    finite = jnp.isfinite(lower.high) & jnp.isfinite(upper.high)
    fall = jnp.where(finite, (lower - upper).value, lower.high - upper.high)
    ratio = jnp.diff(ladder) * fall
    return jnp.where(jnp.isnan(ratio), 0.0, jnp.minimum(1.0, jnp.exp(ratio)))


def exchange(replicas: Replicas, accepted: Array) -> Replicas:
    """Swap neighbours k and k + 1 where ``accepted`` (chain, R - 1), no two adjacent entries of which may be true."""
    up, down = (jnp.pad(accepted.astype(jnp.int32), ((0, 0), side)) for side in ((0, 1), (1, 0)))
    index = jnp.arange(accepted.shape[1] + 1) + up - down
    return jax.vmap(lambda chain, order: jax.tree.map(lambda a: a[order], chain))(replicas, index)


def turned(heading: Array) -> tuple[Array, Array]:
    """Headings (chain, R) after the replicas at both ends reversed direction, and the completed round trips (chain,)."""
    arrived = heading[:, 0] == _DOWN
    heading = heading.at[:, -1].set(jnp.where(heading[:, -1] == _UP, _DOWN, heading[:, -1]))
    return heading.at[:, 0].set(_UP), arrived.astype(jnp.int32)


def tally_up(tally: Tally, increment: Array, ladder: Array, rejection: Array) -> Tally:
    """Add one transition to the tally: increments (chain, R) before its swaps, rejections (chain, R - 1)."""
    half = 0.5 * jnp.diff(ladder)
    return tally._replace(
        transitions=tally.transitions + 1,
        rejection=tally.rejection + rejection.mean(axis=0),
        up=tally.up.add(half * increment[:, :-1]),
        down=tally.down.add(-half * increment[:, 1:]),
    )


def increments(point: Point) -> Sum:
    """The replicas' increments (chain, R); NaN counts as density zero."""
    high = jnp.where(jnp.isnan(point.increment.high), -jnp.inf, point.increment.high)
    return Sum(high, jnp.where(jnp.isfinite(high), point.increment.low, 0.0))

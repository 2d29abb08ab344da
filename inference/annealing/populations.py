"""Weighted particles in populations that do not exchange particles.

The chains of an item form P populations of equal size, each with its own evidence estimate logmeanexp(log w). Their spread
gives the standard error, which is valid after resampling, unlike that from the spread of single weights. The number of distinct
initial chains that still have descendants shows how much of the posterior the run has explored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from cogen.inference.targets.sums import Sum

Array = jax.Array

DEFAULT_POPULATIONS = 4


class Weighted(Protocol):
    """A NamedTuple of arrays with a leading chain axis, including the particles' log weight."""

    @property
    def log_weight(self) -> Sum: ...

    @property
    def _replace(self) -> Callable[..., Any]: ...


W = TypeVar("W", bound=Weighted)


def population_count(num_chains: int, wanted: int | None, resampling: bool) -> int:
    """The number of populations: ``wanted``, by default four, or one per chain if there are fewer than four chains.

    :raises ValueError: if the chains do not divide into populations of equal size, or into ones too small for resampling.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"num_populations={wanted}: it must be at least 1")
    count = min(DEFAULT_POPULATIONS, num_chains) if wanted is None else wanted
    if num_chains % count:
        raise ValueError(
            f"num_chains={num_chains} does not divide into {count} populations of equal size: use a multiple of {count}"
            " (--chains)"
        )
    if resampling and num_chains // count < 2:
        raise ValueError(
            f"num_chains={num_chains} in {count} populations: a population of one chain cannot be resampled. Use more chains"
            " (--chains), or resample_threshold=0 (plain annealed importance sampling). NumPyro's chain_method='parallel' and"
            " 'sequential' run single chains: use chain_method='vectorized', and to run on several devices shard the keys'"
            " chain axis (see cogen.inference.adapters.ensemble_kernel)"
        )
    return count


def log_mean_exp(log_weight: Array, axis: int = -1) -> Array:
    return logsumexp(log_weight, axis=axis) - jnp.log(log_weight.shape[axis])


def effective_fraction(log_weight: Array) -> Array:
    """Kish's effective sample size over the number of weights, in (0, 1]: (..., n) -> (...)."""
    two = 2.0 * logsumexp(log_weight, axis=-1) - logsumexp(2.0 * log_weight, axis=-1)
    return jnp.exp(two) / log_weight.shape[-1]


def systematic(uniform: Array, log_weight: Array, survivors: int | None = None) -> Array:
    """Systematic resampling: the indices of the survivors, in order (Carpenter, Clifford and Fearnhead 1999).

    :param survivors: the number of survivors; default the number of weights.
    """
    last = log_weight.shape[-1] - 1
    n = last + 1 if survivors is None else survivors
    cumulative = jnp.cumsum(jnp.exp(log_weight - jnp.max(log_weight)))
    points = (jnp.arange(n) + uniform) / n * cumulative[-1]
    method = "compare_all" if last < 256 else "scan"  # comparing all pairs is faster to compile and run for few weights
    return jnp.clip(jnp.searchsorted(cumulative, points, method=method), 0, last)


def distinct(labels: Array) -> Array:
    """The number of different values in (n,) labels from range(n)."""
    return jnp.zeros(labels.shape[-1], jnp.int32).at[labels].set(1).sum()


def add_log_weight(particles: W, gain: Sum) -> W:
    """Add to the log weights; particles with a non-finite weight become dead (-inf)."""
    return particles._replace(log_weight=cleaned(particles.log_weight + gain))


def cleaned(log_weight: Sum) -> Sum:
    """Log weights with non-finite values replaced by -inf (dead particles)."""
    dead = ~jnp.isfinite(log_weight.value)
    return Sum(jnp.where(dead, -jnp.inf, log_weight.high), jnp.where(dead, 0.0, log_weight.low))


def _groups(log_weight: Sum, count: int) -> tuple[Sum, Array]:
    """Group log weights: an anchor per group (its largest, exact), (count, 1), and the values relative to it, (count, n)."""
    grouped = Sum(*(part.reshape(count, -1) for part in log_weight))
    best = jnp.argmax(grouped.high, axis=1, keepdims=True)
    anchor = Sum(*(jnp.take_along_axis(part, best, axis=1) for part in grouped))
    dead = jnp.isneginf(grouped.high)
    return anchor, jnp.where(dead, -jnp.inf, (grouped - anchor).value)


def resample(uniform: Array, particles: W, count: int, threshold: Array, everyone: Array) -> W:
    """Resample within those of ``count`` populations whose effective fraction is below the threshold, or over all chains.

    The survivors' log weights become the log-mean-exp of the weights that they were drawn from, so that the evidence estimate
    is unchanged.

    :param uniform: independent numbers in (0, 1), (chain,), the first of which is used in each population.
    :param everyone: whether to resample over all chains instead.
    """
    anchor, relative = _groups(particles.log_weight, count)
    size = relative.shape[1]
    chosen = (effective_fraction(relative) < threshold)[:, None]
    index = jax.vmap(systematic)(uniform.reshape(count, size)[:, 0], relative)
    index = (jnp.where(chosen, index, jnp.arange(size)) + size * jnp.arange(count)[:, None]).ravel()
    level = _level(anchor, relative)
    weight = Sum(
        *(
            jnp.where(chosen, new, old.reshape(count, size)).ravel()
            for new, old in zip(level, particles.log_weight, strict=True)
        )
    )
    anchor, relative = _groups(particles.log_weight, 1)
    index = jnp.where(everyone, systematic(uniform[0], relative[0]), index)
    level = _level(anchor, relative)
    weight = Sum(*(jnp.where(everyone, new[0], old) for new, old in zip(level, weight, strict=True)))
    return jax.tree.map(lambda a: a[index], particles)._replace(log_weight=weight)


def select(uniform: Array, log_weight: Sum, count: int, survivors: int) -> tuple[Array, Sum, Array]:
    """Resample ``survivors`` particles of each of ``count`` populations from a larger number of particles.

    :param uniform: independent numbers in (0, 1), (count,).
    :returns: the indices of the survivors, their log weights (the log-mean-exp of the weights that they were drawn from) and
        the first slot with the same particle; all (count * survivors,).
    """
    anchor, relative = _groups(log_weight, count)
    index = jax.vmap(lambda u, weight: systematic(u, weight, survivors))(uniform, relative)
    first = jax.vmap(jnp.searchsorted)(index, index) + survivors * jnp.arange(count)[:, None]
    level = Sum(*(jnp.repeat(part, survivors, axis=1).ravel() for part in _level(anchor, relative)))
    return (index + relative.shape[1] * jnp.arange(count)[:, None]).ravel(), level, first.ravel()


def resample_conditionally(uniform: Array, particles: W, count: int, threshold: Array) -> W:
    """Resample within populations below the threshold, conditionally on the first particle of each, which is kept.

    Every other particle is drawn from all by weight, with one independent number of ``uniform`` (chain,) each.
    """
    anchor, relative = _groups(particles.log_weight, count)
    size = relative.shape[1]
    cumulative = jnp.cumsum(jnp.exp(relative), axis=1)
    points = uniform.reshape(count, size) * cumulative[:, -1:]
    drawn = jnp.clip((points[:, :, None] > cumulative[:, None, :]).sum(axis=2), 0, size - 1).at[:, 0].set(0)
    chosen = (effective_fraction(relative) < threshold)[:, None]
    index = (jnp.where(chosen, drawn, jnp.arange(size)) + size * jnp.arange(count)[:, None]).ravel()
    old = particles.log_weight
    weight = Sum(
        *(jnp.where(chosen, n, o.reshape(count, size)).ravel() for n, o in zip(_level(anchor, relative), old, strict=True))
    )
    return jax.tree.map(lambda a: a[index], particles)._replace(log_weight=weight)


def _level(anchor: Sum, relative: Array) -> Sum:
    mean = log_mean_exp(relative)[:, None]
    return anchor + Sum(mean, jnp.zeros_like(mean))


def population_evidence(particles: Weighted, count: int) -> Array:
    """The evidence estimate of every slot's population, (chain,)."""
    anchor, relative = _groups(particles.log_weight, count)
    estimate = anchor.value[:, 0] + log_mean_exp(relative)
    return jnp.repeat(estimate, relative.shape[1], total_repeat_length=relative.size)

"""Sampling-importance-resampling: draws of the prior, weighted by the likelihood (Rubin 1988; the baseline "SIR" of Fang
and Schwing 2019).

Each transition proposes N new draws per chain, and the chain keeps one of all its proposals so far with probability
proportional to its weight (a weighted reservoir, Chao 1982), so that memory does not grow with the number of proposals.
At the end of the warm-up the chains are resampled by their mean weights; the sample transitions make no more proposals and
repeat the resulting values. The mean of all weights estimates the evidence.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.populations import (
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    resample,
)
from cogen.inference.kernels.kernel import Kernel, Start, chain_keys
from cogen.inference.targets.sums import Sum, compensated_sum, real
from cogen.inference.targets.target import Target

Array = jax.Array


class Reservoirs(NamedTuple):
    """The kept draw of every chain; the leading axis is the chain."""

    u: Array
    increment: Array
    log_weight: Sum
    """The log of the mean weight of all the chain's proposals."""
    ancestor: Array
    population: Array


class ImportanceState(NamedTuple):
    iteration: Array
    """The number of transitions made."""
    reservoirs: Reservoirs
    population_log_evidence: Array

    @property
    def position(self) -> Array:
        return self.reservoirs.u


class ImportanceInfo(NamedTuple):
    """Statistics of the kept draws for every chain."""

    lp: Array
    n_steps: Array
    """Gradient evaluations: none. A transition costs ``num_proposals`` evaluations of the likelihood."""
    log_weight: Array
    ancestor: Array
    population: Array
    population_log_evidence: Array


@dataclass(frozen=True)
class ImportanceSettings:
    """Settings of sampling-importance-resampling.

    :param num_proposals: proposals per chain and transition; a run makes (num_warmup + 1) times as many per chain.
    :param num_populations: groups of chains for the standard error of the evidence; default four.
    :raises ValueError: for a count below one.
    """

    num_proposals: int = 10
    num_populations: int | None = None

    def __post_init__(self) -> None:
        if self.num_proposals < 1:
            raise ValueError(f"num_proposals={self.num_proposals}: at least one is needed")


@dataclass(frozen=True)
class ImportanceKernel(Kernel):
    settings: ImportanceSettings
    num_warmup: int
    num_chains: int

    needs_gradient = False
    evidence_kind = "importance"

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, resampling=False)

    def path(self, state: ImportanceState, info: ImportanceInfo) -> dict[str, Array]:
        return {
            "weight_ess": effective_fraction(info.log_weight - jnp.max(info.log_weight)),
            "ancestors": distinct(info.ancestor),
            "log_evidence": log_mean_exp(info.population_log_evidence),
        }

    def init(self, target: Target, key: Array, start: Start) -> ImportanceState:
        """The starting state.

        :raises ValueError: for given starting positions.
        """
        if not start.exact:
            raise ValueError("importance resampling proposes draws of the prior: omit start=")
        u, increment, total = jax.vmap(lambda k: self._propose(target, k))(chain_keys(key, self.num_chains))
        chain = jnp.arange(self.num_chains)
        weight = Sum(total - jnp.log(self.settings.num_proposals), jnp.zeros(self.num_chains))
        reservoirs = Reservoirs(u, increment, weight, chain, chain // (self.num_chains // self.populations))
        return ImportanceState(jnp.int32(0), reservoirs, population_evidence(reservoirs, self.populations))

    def step(self, target: Target, key: Array, state: ImportanceState) -> tuple[ImportanceState, ImportanceInfo]:
        propose_key, keep_key, last_key = jax.random.split(key, 3)
        old = state.reservoirs
        u, increment, total = jax.vmap(lambda k: self._propose(target, k))(chain_keys(propose_key, self.num_chains))
        seen = real(self.settings.num_proposals) * (state.iteration + 1)
        before = old.log_weight.value + jnp.log(seen)
        after = jnp.logaddexp(before, total)
        draws = jax.vmap(jax.random.uniform)(chain_keys(keep_key, self.num_chains))
        replace = jnp.log(draws) < total - after
        reservoirs = old._replace(
            u=jnp.where(replace[:, None], u, old.u),
            increment=jnp.where(replace, increment, old.increment),
            log_weight=Sum(after - jnp.log(seen + self.settings.num_proposals), jnp.zeros(self.num_chains)),
        )
        warming = state.iteration < self.num_warmup
        evidence = jnp.where(warming, population_evidence(reservoirs, self.populations), state.population_log_evidence)
        uniform = jax.random.uniform(last_key, (self.num_chains,))
        everyone = state.iteration == self.num_warmup - 1
        reservoirs = resample(uniform, reservoirs, self.populations, real(-1.0), everyone=everyone)
        reservoirs = jax.tree.map(lambda new, old: jnp.where(warming, new, old), reservoirs, state.reservoirs)
        return ImportanceState(state.iteration + 1, reservoirs, evidence), ImportanceInfo(
            lp=reservoirs.increment + jax.vmap(lambda v: target.reference(v).sum())(reservoirs.u),
            n_steps=jnp.zeros_like(reservoirs.ancestor),
            log_weight=reservoirs.log_weight.value,
            ancestor=reservoirs.ancestor,
            population=reservoirs.population,
            population_log_evidence=evidence,
        )

    def _propose(self, target: Target, key: Array) -> tuple[Array, Array, Array]:
        """One of N draws, selected by weight, its increment, and the log of the sum of the N weights."""
        draw_key, choice_key = jax.random.split(key)
        u = jax.vmap(target.draw)(jax.random.split(draw_key, self.settings.num_proposals))
        increment = jax.vmap(lambda v: compensated_sum(target.increment(v)).value)(u)
        increment = jnp.where(jnp.isnan(increment), -jnp.inf, increment)
        chosen = jax.random.categorical(choice_key, increment)
        return u[chosen], increment[chosen], logsumexp(increment)


class ImportanceResampling(EnsembleKernel, settings=ImportanceSettings, kernel=ImportanceKernel):
    """Sampling-importance-resampling from the prior."""

    settings: ImportanceSettings

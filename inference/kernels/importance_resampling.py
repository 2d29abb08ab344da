"""Sampling-importance-resampling: draws of the prior, weighted by the likelihood (Rubin 1988; the baseline "SIR" of Fang
and Schwing 2019).

Each transition proposes N new draws per chain, and the chain keeps one of all that it has seen with probability
proportional to its weight (a weighted reservoir, Chao 1982), so that memory does not grow with the number of proposals.
At the end of the warm-up the chains are resampled by their mean weights, and the draws are what they then hold: the sample
transitions propose nothing more. The mean of all weights estimates the evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.populations import (
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    resample,
)
from cogen.inference.targets.numpyro_target import Target
from cogen.inference.targets.sums import Sum, compensated_sum, real

Array = jax.Array


class Reservoirs(NamedTuple):
    """The kept draw of every chain; leading axis chain."""

    u: Array
    tilt: Array
    log_weight: Sum
    """The log of the mean weight of all the chain's proposals."""
    ancestor: Array
    population: Array


class ImportanceState(NamedTuple):
    i: Array
    z: dict[str, Array]
    lp: Array
    n_steps: Array
    """Gradient evaluations: none. A transition costs ``num_proposals`` evaluations of the likelihood."""
    log_weight: Array
    ancestor: Array
    population: Array
    population_log_evidence: Array
    reservoirs: Reservoirs
    rng_key: Array


class ImportanceResampling(EnsembleKernel):
    """Sampling-importance-resampling from the prior.

    :param num_proposals: proposals per chain and transition; a run makes (num_warmup + 1) times as many per chain.
    :param num_populations: groups of chains for the evidence's standard error; default four.
    """

    chain_fields = ImportanceState._fields[1:-2]
    evidence_kind = "importance"
    starts_at_density = False

    def __init__(self, model: Callable | None = None, *, num_proposals: int = 10, num_populations: int | None = None) -> None:
        super().__init__(model)
        if num_proposals < 1:
            raise ValueError(f"num_proposals={num_proposals}: at least one is needed")
        self.num_proposals = num_proposals
        self.num_populations = num_populations

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        self._populations = population_count(num_chains, self.num_populations, resampling=False)

    def path(self, state: ImportanceState) -> dict[str, Array]:
        return {
            "weight_ess": effective_fraction(state.log_weight - jnp.max(state.log_weight)),
            "ancestors": distinct(state.ancestor),
            "log_evidence": log_mean_exp(state.population_log_evidence),
        }

    def _propose(self, target: Target, key: Array) -> tuple[Array, Array, Array]:
        """One of N draws, chosen by weight; its tilt; the log of the sum of the N weights."""
        draw_key, choice_key = jax.random.split(key)
        u = jax.vmap(target.draw)(jax.random.split(draw_key, self.num_proposals))
        tilt = jax.vmap(lambda v: compensated_sum(target.tilt(v)).value)(u)
        tilt = jnp.where(jnp.isnan(tilt), -jnp.inf, tilt)
        chosen = jax.random.categorical(choice_key, tilt)
        return u[chosen], tilt[chosen], logsumexp(tilt)

    def _init(self, target: Target, key: Array, num_chains: int) -> ImportanceState:
        init_key, rng_key = jax.random.split(key)
        u, tilt, total = jax.vmap(lambda k: self._propose(target, k))(chain_keys(init_key, num_chains))
        chain = jnp.arange(num_chains)
        weight = Sum(total - jnp.log(self.num_proposals), jnp.zeros(num_chains))
        reservoirs = Reservoirs(u, tilt, weight, chain, chain // (num_chains // self._populations))
        return self._state(target, jnp.int32(0), reservoirs, population_evidence(reservoirs, self._populations), rng_key)

    def _sample(self, target: Target, state: ImportanceState) -> ImportanceState:
        propose_key, keep_key, last_key = jax.random.split(jax.random.fold_in(state.rng_key, state.i), 3)
        old = state.reservoirs
        num_chains = old.ancestor.shape[0]
        u, tilt, total = jax.vmap(lambda k: self._propose(target, k))(chain_keys(propose_key, num_chains))
        seen = real(self.num_proposals) * (state.i + 1)
        before = old.log_weight.value + jnp.log(seen)
        after = jnp.logaddexp(before, total)
        draws = jax.vmap(jax.random.uniform)(chain_keys(keep_key, num_chains))
        replace = jnp.log(draws) < total - after
        reservoirs = old._replace(
            u=jnp.where(replace[:, None], u, old.u),
            tilt=jnp.where(replace, tilt, old.tilt),
            log_weight=Sum(after - jnp.log(seen + self.num_proposals), jnp.zeros(num_chains)),
        )
        warming = state.i < self._num_warmup
        evidence = jnp.where(warming, population_evidence(reservoirs, self._populations), state.population_log_evidence)
        uniform = jax.random.uniform(last_key, (num_chains,))
        reservoirs = resample(uniform, reservoirs, self._populations, real(-1.0), everyone=state.i == self._num_warmup - 1)
        reservoirs = jax.tree.map(lambda new, old: jnp.where(warming, new, old), reservoirs, state.reservoirs)
        return self._state(target, state.i + 1, reservoirs, evidence, state.rng_key)

    def _state(self, target: Target, i: Array, reservoirs: Reservoirs, evidence: Array, rng_key: Array) -> ImportanceState:
        return ImportanceState(
            i=i,
            z=jax.vmap(target.sites)(reservoirs.u),
            lp=reservoirs.tilt + jax.vmap(lambda v: target.reference(v).sum())(reservoirs.u),
            n_steps=jnp.zeros_like(reservoirs.ancestor),
            log_weight=reservoirs.log_weight.value,
            ancestor=reservoirs.ancestor,
            population=reservoirs.population,
            population_log_evidence=evidence,
            reservoirs=reservoirs,
            rng_key=rng_key,
        )

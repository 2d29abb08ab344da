"""Annealed block Gibbs: annealed importance sampling of a model of two layers, such as a restricted Boltzmann machine.

The chains move from beta = 0 to 1 along log q0 + beta t. At a new temperature, with the hidden layer summed out
(`layered_target`),

    log w += log E_{q(h)} exp(beta_k t(v, h)) - log E_{q(h)} exp(beta_{k-1} t(v, h)),

and a transition draws h given v and then v given h at beta_k, each layer as one block. Marginally in v it is reversible.
mean(w) is an unbiased estimate of the evidence; the draws at beta = 1 are plain block Gibbs sampling. As in `AnnealedHMC`, the
chains of a population are resampled when their weights become uneven; without resampling and with one population per chain,
this is the scheme of the paper.

References:
    Salakhutdinov, Murray. On the quantitative analysis of deep belief networks. ICML 2008 (AIS from a model of base rates, the
        hidden units summed out of the weights).
    Neal. Annealed importance sampling. Statistics and Computing 2001 (Eqs. 3-8).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.populations import (
    add_log_weight,
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    resample,
    resample_conditionally,
)
from cogen.inference.annealing.schedules import Linear, Schedule, inverse_temperatures
from cogen.inference.kernels.kernel import Kernel, Own, Start, chain_keys
from cogen.inference.signatures import Model
from cogen.inference.targets.layered_target import check_layers, layered_position, layered_target
from cogen.inference.targets.sums import Sum, compensated_sum, real
from cogen.inference.targets.target import Sites, Target

Array = jax.Array


class GibbsParticles(NamedTuple):
    """The values copied when a particle is resampled; the leading axis is the chain."""

    u: Array
    """The visible and hidden units, (chain, dim)."""
    lp: Array
    """The unnormalised log density of v at beta = 1, log q0(v) + log E exp t."""
    increment: Sum
    """t(v, 0)."""
    slope: Array
    """dt/dh, (chain, hidden)."""
    log_weight: Sum
    ancestor: Array
    population: Array


class GibbsState(NamedTuple):
    iteration: Array
    particles: GibbsParticles
    population_log_evidence: Array
    pinned: Array | None
    """The path that ends in an exact draw, before each transition and after the last: (transition + 1, population, dim)."""

    @property
    def position(self) -> Array:
        return self.particles.u


class GibbsInfo(NamedTuple):
    """Statistics of a transition for every chain."""

    beta: Array
    lp: Array
    n_steps: Array
    """Gradient evaluations: one, half for each layer."""
    log_weight: Array
    ancestor: Array
    population: Array
    population_log_evidence: Array


@dataclass(frozen=True, eq=False)
class BlockGibbsSettings:
    """Settings of annealed block Gibbs.

    :param schedule: of the inverse temperatures, one for each transition of the warm-up.
    :param resample_threshold: resample a population whose weight ESS, as a fraction, is below this value in [0, 1]; 0 never
        resamples, and the draws are weighted.
    :param num_populations: groups of chains that never exchange particles, for the standard error of the evidence; default
        four.
    :param hidden: the Bernoulli latent site that is summed out of the weights.
    :param around: exact draws (item, dim), visible units followed by hidden units. The first slot of every population holds a
        path that ends in one. The draws of such a run must not be used; its evidence is an upper bound.
    :raises ValueError: for a threshold outside of [0, 1], and for a schedule that is not fixed.
    """

    schedule: Schedule = Linear()
    resample_threshold: float = 0.5
    num_populations: int | None = None
    hidden: str = "h"
    around: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.resample_threshold <= 1.0:
            raise ValueError(f"resample_threshold={self.resample_threshold}: a fraction of the chains, from 0 (never) to 1")
        if not callable(self.schedule):
            raise ValueError(f"schedule={self.schedule}: block Gibbs requires a fixed schedule, such as Linear() or Sigmoid()")

    def check_bounds(self) -> None:
        """Do nothing: the evidence has bounds for all settings."""

    def own(self, num_warmup: int) -> Own:
        return Own(exact=self.around)


@dataclass(frozen=True, eq=False)
class BlockGibbsKernel(Kernel):
    """The transitions of annealed block Gibbs."""

    settings: BlockGibbsSettings
    num_warmup: int
    num_chains: int

    gradients_to_start = 1
    evidence_kind = "annealed"

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, self.settings.resample_threshold > 0)

    @cached_property
    def ladder(self) -> np.ndarray:
        """The inverse temperatures, (T + 1,), float64.

        :raises ValueError: for a warm-up without transitions and for a schedule with a ladder per item.
        """
        if self.num_warmup < 1:
            raise ValueError(f"num_warmup={self.num_warmup}: the annealing is the warm-up, so this must be at least 1")
        beta = inverse_temperatures(self.settings.schedule, self.num_warmup)
        if beta.ndim != 1:
            raise ValueError(f"schedule={self.settings.schedule}: block Gibbs requires one ladder for all items")
        return beta

    def log_density(self, state: GibbsState) -> Array:
        return state.particles.lp

    def path(self, state: GibbsState, info: GibbsInfo) -> dict[str, Array]:
        return {
            "beta": info.beta[0],
            "lp": info.lp.mean(),
            "weight_ess": effective_fraction(info.log_weight - jnp.max(info.log_weight)),
            "ancestors": distinct(info.ancestor),
            "log_evidence": log_mean_exp(info.population_log_evidence),
        }

    def init(self, target: Target, key: Array, start: Start) -> GibbsState:
        own, beta = target.own or Own(), real(self.ladder[1:])
        forward_key, reverse_key = (key, key) if own.exact is None else jax.random.split(key)
        u, pinned = start.positions(target, forward_key), None
        if own.exact is not None:
            pinned = self._reversed_path(target, reverse_key, real(own.exact), beta)
            u = u.at[self._pinned_slots].set(pinned[0])
        chain, zeros = jnp.arange(self.num_chains), jnp.zeros(self.num_chains)
        known = jax.vmap(lambda u: look(target, u))(u)
        population = chain // (self.num_chains // self.populations)
        particles = GibbsParticles(u, *known, log_weight=Sum(zeros, zeros), ancestor=chain, population=population)
        return GibbsState(jnp.int32(0), particles, population_evidence(particles, self.populations), pinned)

    def step(self, target: Target, key: Array, state: GibbsState) -> tuple[GibbsState, GibbsInfo]:
        annealing, ladder = state.iteration < self.num_warmup, real(self.ladder)
        level = jnp.minimum(state.iteration, self.num_warmup - 1)
        beta, before = ladder[level + 1], jnp.where(annealing, ladder[level], 1.0)
        rise = jnp.where(annealing, real(np.diff(self.ladder))[level], 0.0)  # differences in float64
        particles, hidden = state.particles, target.layers.hidden
        gain = hidden.log_means(beta * particles.slope) - hidden.log_means(before * particles.slope)
        particles = add_log_weight(particles, particles.increment.times(rise) + compensated_sum(gain))
        found = population_evidence(particles, self.populations)
        evidence = jnp.where(annealing, found, state.population_log_evidence)
        uniform_key, move_key = jax.random.split(key)
        particles = self._resampled(uniform_key, particles, annealing, state.iteration == self.num_warmup)

        def moved(key: Array, u: Array, slope: Array) -> Array:
            return move(target, key, u, slope, beta)

        u = jax.vmap(moved)(chain_keys(move_key, self.num_chains), particles.u, particles.slope)
        if state.pinned is not None:
            u = u.at[self._pinned_slots].set(state.pinned[jnp.minimum(state.iteration + 1, self.num_warmup)])
        lp, increment, slope = jax.vmap(lambda u: look(target, u))(u)
        particles = particles._replace(u=u, lp=lp, increment=increment, slope=slope)
        info = GibbsInfo(
            beta=jnp.full(self.num_chains, beta),
            lp=lp,
            n_steps=jnp.ones(self.num_chains, jnp.int32),
            log_weight=particles.log_weight.value,
            ancestor=particles.ancestor,
            population=particles.population,
            population_log_evidence=evidence,
        )
        return GibbsState(state.iteration + 1, particles, evidence, state.pinned), info

    def _resampled(self, key: Array, particles: GibbsParticles, annealing: Array, draws_begin: Array) -> GibbsParticles:
        if self.settings.resample_threshold == 0:
            return particles
        uniform = jax.vmap(jax.random.uniform)(chain_keys(key, self.num_chains))
        threshold = jnp.where(annealing, self.settings.resample_threshold, -1.0)
        if self.settings.around is not None:
            return resample_conditionally(uniform, particles, self.populations, threshold)
        return resample(uniform, particles, self.populations, threshold, everyone=draws_begin)

    @property
    def _pinned_slots(self) -> np.ndarray:
        """The first slot of every population."""
        return np.arange(self.populations) * (self.num_chains // self.populations)

    def _reversed_path(self, target: Target, key: Array, exact: Array, beta: Array) -> Array:
        """The path of the reversed transitions from the exact draw down to beta = 0, (transition + 1, population, dim).

        The reversed transitions are the transitions themselves (see `pinned_path`).
        """
        if exact.shape != (target.dim,):
            raise ValueError(f"exact draws have {exact.shape[0]} coordinates, the model has {target.dim}")

        def back(u: Array, k: Array) -> tuple[Array, Array]:
            keys = chain_keys(jax.random.fold_in(key, k), self.populations)
            u = jax.vmap(lambda key, u: move(target, key, u, look(target, u)[2], beta[k]))(keys, u)
            return u, u

        end = jnp.broadcast_to(exact, (self.populations, target.dim))
        _, path = jax.lax.scan(back, end, jnp.arange(self.num_warmup), reverse=True)
        return jnp.concatenate([path, end[None]])


def look(target: Target, u: Array) -> tuple[Array, Sum, Array]:
    """Evaluate the visible units of u (dim,): their log density at beta = 1, t(v, 0), and dt/dh (hidden,)."""
    visible, hidden = target.layers.split(u)

    def increment(hidden: Array) -> tuple[Array, tuple[Array, Array]]:
        reference, terms = target.terms(jnp.concatenate([visible, hidden]))
        return terms.sum(), (reference[: len(visible)], terms)

    slope, (reference, terms) = jax.grad(increment, has_aux=True)(jnp.zeros_like(hidden))
    at_zero = compensated_sum(terms)
    lp = compensated_sum(reference).value + at_zero.value + target.layers.hidden.log_means(slope).sum()
    return lp, at_zero, slope


def move(target: Target, key: Array, u: Array, slope: Array, beta: Array) -> Array:
    """Draw the hidden units given the visible ones, then the visible given the hidden, at an inverse temperature.

    :param slope: dt/dh at u.
    """
    layers = target.layers
    hidden_key, visible_key = jax.random.split(key)
    hidden = layers.hidden.tilted(hidden_key, beta * slope)

    def increment(visible: Array) -> Array:
        return target.increment(jnp.concatenate([visible, hidden])).sum()

    visible = layers.visible.tilted(visible_key, beta * jax.grad(increment)(jnp.zeros(layers.num_visible, u.dtype)))
    return jnp.concatenate([visible, hidden])


class BlockGibbs(EnsembleKernel, settings=BlockGibbsSettings, kernel=BlockGibbsKernel):
    """Annealed block Gibbs for NumPyro models of two layers of units, for ``infer`` or ``numpyro.infer.MCMC``.

    The warm-up transitions follow the schedule from q0, where the layers are independent, to the posterior; the sample
    transitions stay at beta = 1.
    """

    settings: BlockGibbsSettings

    def for_model(self, model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> BlockGibbs:
        check_layers(model, args, kwargs, hidden=self.settings.hidden)
        return self

    def target(
        self,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        model: Model | None = None,
        own: Own | None = None,
    ) -> Target:
        model = self._bound_model() if model is None else model
        return layered_target(model, args, kwargs, hidden=self.settings.hidden)._replace(own=own or Own())

    def position(self, model: Model, args: tuple[object, ...], values: Mapping[str, Array | np.ndarray]) -> Array:
        return layered_position(model, args, values, hidden=self.settings.hidden)

    def postprocess_fn(
        self, model_args: tuple[object, ...], model_kwargs: Mapping[str, object] | None
    ) -> Callable[[Sites], Sites]:
        return dict  # positions are already constrained values

"""Annealed Hamiltonian Monte Carlo: annealed importance sampling and tempered SMC with HMC transitions.

All chains of an item move from beta = 0 to 1 together. At every new temperature

    log w += (beta_t - beta_{t-1}) increment(u),        increment = log p(z, y) - log q0(z),

the particles of a population whose effective sample size is below a threshold are resampled (never: annealed importance
sampling), and M trajectories of L leapfrog steps leave pi_beta = q0^(1 - beta) p(z, y)^beta invariant. mean(w) is an
unbiased estimate of the evidence p(y) if the step sizes are not adapted in the same run.

    Neal (2001), Annealed importance sampling, Eqs. 3-8;
    Fang and Schwing (2019), Co-generation with GANs using AIS based HMC, section 3;
    Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, section 3.3.1 (resampling).

Departures from Fang and Schwing: the path ends at p(z) p(y | z), not at p(y | z) alone (theirs: ``flat_prior=True``); the
schedule starts at 0 and ends at 1; the weights are computed; chains can be resampled; each item has one step size. Their method
is ``resample_threshold=0, step_size=MovingAverage(), schedule=Sigmoid(-10, 2), flat_prior=True, num_leapfrog=20, jitter=0``.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.bridge import Bridge, advance
from cogen.inference.annealing.populations import (
    add_log_weight,
    cleaned,
    distinct,
    effective_fraction,
    log_mean_exp,
    population_evidence,
    resample,
    resample_conditionally,
    select,
)
from cogen.inference.annealing.schedules import Adaptive, conditional_ess
from cogen.inference.kernels.annealing_settings import AnnealingKernel, AnnealingSettings
from cogen.inference.kernels.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.kernels.kernel import Own, Start
from cogen.inference.kernels.pinned_path import pin, reversed_path
from cogen.inference.targets.sums import Sum, compensated_sum, real
from cogen.inference.targets.target import Point, Target, evaluate

Array = jax.Array


class Particles(NamedTuple):
    """The values copied when a particle is resampled; the leading axis is the chain."""

    point: Point
    log_weight: Sum
    ancestor: Array
    population: Array


class ChosenStart(NamedTuple):
    """Chains selected from more exact draws of q0, at the first temperature; all but the last two are (chain, ...)."""

    u: Array
    log_weight: Sum
    ancestor: Array
    """The first chain with the same draw."""
    beta: Array
    conditional_ess: Array
    """The effective number of draws per chain, at most one."""


def start_log_weight(target: Target, u: Array) -> Sum:
    """The log weights (chain,) of exact draws (chain, dim): zero unless a part of the model is not tempered."""
    zeros = jnp.zeros(len(u))
    if (weight := target.start_weight) is None:
        return Sum(zeros, zeros)
    return cleaned(jax.vmap(lambda v: compensated_sum(weight(v)))(u))


class AnnealedState(NamedTuple):
    """The input of the next transition of an item's chains."""

    iteration: Array
    """Transitions requested."""
    made: Array
    """Transitions made: fewer if the item waited at beta = 1 for the end of the warm-up."""
    arrived: Array
    """Whether the annealing reached beta = 1."""
    beta: Array
    """The inverse temperature of the last transition."""
    step_size: Array
    """The step size of the last transition, also used for the draws."""
    particles: Particles
    nonfinite: Array
    """The number of trajectories with a non-finite gradient or log density, (chain,)."""
    population_log_evidence: Array
    """The evidence estimate of the population of each slot, (chain,)."""
    bridge: Bridge | None
    """The state of the bridge estimate of the evidence, if used."""
    conditional_ess: Array
    """The conditional effective sample size of the last rise of beta, as a fraction."""
    inverse_mass: Array | None
    """The inverse mass matrices, (population, dim, dim), if learned from the particles."""
    pinned: Point | None
    """The path that ends in the exact draw, before each transition and after the last: (transition + 1, population)."""
    ladder: Array | None
    """The item's own inverse temperatures, (T + 1,)."""
    adaptation: Any
    waiting: AnnealedInfo | None
    """The last info, if items wait at beta = 1."""

    @property
    def position(self) -> Array:
        return self.particles.point.u


class AnnealedInfo(NamedTuple):
    """Statistics of a transition for every chain."""

    beta: Array
    """The inverse temperature."""
    acceptance_rate: Array
    """The acceptance probability of the trajectory."""
    step_size: Array
    diverging: Array
    """Whether the trajectory's energy error exceeded 1000 nats or was non-finite (it is rejected)."""
    nonfinite: Array
    """The number of the chain's trajectories so far that had a non-finite gradient or log density (rejected)."""
    lp: Array
    """The unnormalised log density at beta = 1, in unconstrained coordinates."""
    energy: Array
    n_steps: Array
    """Gradient evaluations."""
    log_weight: Array
    """The log weight of the particle; all equal after resampling."""
    ancestor: Array
    """The initial chain from which the particle descends."""
    population: Array
    """The population of that chain."""
    population_log_evidence: Array
    """The evidence estimate of the population of this slot."""


@dataclass(frozen=True, eq=False)
class AnnealedHMCSettings(AnnealingSettings):
    """Settings for NumPyro models only.

    :param start_draws: exact draws of q0 per chain, K >= 1. With K > 1 the chains of each population are resampled from K
        times as many draws at the first temperature, which an `Adaptive` schedule chooses so that the effective number of draws
        is the one it keeps of the chains later. A draw costs one evaluation of the density and no gradient; more draws can
        save temperatures or find more modes, and the evidence stays unbiased. Requires resampling; ignored for chains with
        given starts.
    :param around: exact posterior draws (item, dim), unconstrained. The first slot of every population holds a path that ends
        in one. The draws of such a run must not be used; its evidence is an upper bound (`pinned_path`).
    """

    start_draws: int = 1
    around: np.ndarray | None = None
    may_learn_metric: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start_draws < 1:
            raise ValueError(f"start_draws={self.start_draws}: it must be at least 1")
        if self.start_draws > 1 and self.resample_threshold == 0:
            raise ValueError(
                f"start_draws={self.start_draws} with resample_threshold=0: more than one draw per chain requires resampling;"
                " give a threshold above 0, or start_draws=1"
            )
        if self.around is None:
            return
        object.__setattr__(self, "around", np.asarray(self.around, dtype=np.float64))  # the dataclass is frozen
        self.check_bounds()
        if self.adapts:
            raise ValueError("the kernel adapts during the run, which invalidates the bound: freeze it by kernel.frozen(pilot)")

    def check_bounds(self) -> None:
        """Check that the evidence has bounds.

        :raises ValueError: for settings without.
        """
        if self.flat_prior:
            raise ValueError("a run with flat_prior=True has no evidence to bound")
        if self.bridge:
            raise ValueError("the evidence of a kernel with bridge=True is not a bound: use bridge=False")
        if self.start_draws > 1:
            raise ValueError(f"the evidence with start_draws={self.start_draws} has no upper bound: use start_draws=1")

    def own(self, num_warmup: int) -> Own:
        return super().own(num_warmup)._replace(exact=self.around)


@dataclass(frozen=True, eq=False)
class AnnealedHMCKernel(AnnealingKernel):
    """The transitions of annealed HMC."""

    settings: AnnealedHMCSettings
    num_warmup: int
    num_chains: int
    unroll: bool = False

    @cached_property
    def ladder(self) -> np.ndarray | None:
        """The inverse temperatures common to all items, (T + 1,), float64; None if they are per item or adaptive."""
        beta = self.settings.temperatures(self.num_warmup)
        return beta if beta is not None and beta.ndim == 1 else None

    def unrolled(self) -> Self:
        return dataclasses.replace(self, unroll=True)

    def log_density(self, state: AnnealedState) -> Array:
        return jax.vmap(lambda point: point.log_density(real(1.0)))(state.particles.point)

    def warmed_up(self, state: AnnealedState) -> Array:
        return state.arrived

    def path(self, state: AnnealedState, info: AnnealedInfo) -> dict[str, Array]:
        path = {
            "beta": state.beta,
            "acceptance_rate": info.acceptance_rate.mean(),
            "step_size": info.step_size[0],
            "conditional_ess": state.conditional_ess,
            "weight_ess": effective_fraction(info.log_weight - jnp.max(info.log_weight)),
            "ancestors": distinct(info.ancestor),
            "diverging": info.diverging.sum(),
            "nonfinite": info.nonfinite.sum(),
            "log_evidence": log_mean_exp(info.population_log_evidence),
        }
        return self.kept(path)

    def init(self, target: Target, key: Array, start: Start) -> AnnealedState:
        self.settings.check_dim(target.dim)
        own = target.own or Own()
        forward_key, reverse_key = (key, key) if own.exact is None else jax.random.split(key)
        chain, zeros = jnp.arange(self.num_chains), jnp.zeros(self.num_chains)
        adaptation = self.settings.rule.init(own.steps)
        ladder = own.ladder if own.ladder is not None else self.ladder
        begun = None
        if self.settings.start_draws > 1 and start.exact:
            begun = self._chosen_of_more(target, forward_key, start, ladder)
            u, ancestor = begun.u, begun.ancestor
        else:
            u, ancestor = start.positions(target, forward_key), chain
        point = jax.vmap(lambda u: evaluate(target, u))(u)
        pinned = None
        if own.exact is not None:
            beta = real(ladder)[1 + np.arange(self.num_warmup) // self.moves_per_temperature]
            steps = jax.vmap(lambda b: self.settings.rule.step_size(adaptation, b))(beta)
            pinned = reversed_path(target, reverse_key, own.exact, beta, steps, self._trajectories, self.populations)
            point = pin(point, jax.tree.map(lambda a: a[0], pinned))
        weight = start_log_weight(target, point.u) if begun is None else begun.log_weight
        particles = Particles(point, weight, ancestor, chain // (self.num_chains // self.populations))
        evidence = population_evidence(particles, self.populations)
        return AnnealedState(
            iteration=jnp.int32(0),
            made=jnp.int32(0),
            arrived=jnp.bool_(False),
            beta=real(0.0) if begun is None else begun.beta,
            step_size=self.settings.rule.step_size(adaptation, real(0.0)),
            particles=particles,
            nonfinite=jnp.zeros_like(chain),
            population_log_evidence=evidence,
            bridge=Bridge(point.increment.value, weight.value, zeros, evidence) if self.settings.bridge else None,
            conditional_ess=real(1.0) if begun is None else begun.conditional_ess,
            inverse_mass=self._identities(target.dim) if self.settings.learns_metric else None,
            pinned=pinned,
            ladder=None if own.ladder is None else real(own.ladder),
            adaptation=adaptation,
            waiting=self._info(real(0.0), particles, zeros, real(0.0), zeros > 0, 0 * chain, zeros, 0, evidence)
            if self.settings.waits
            else None,
        )

    def step(self, target: Target, key: Array, state: AnnealedState) -> tuple[AnnealedState, AnnealedInfo]:
        annealing = state.iteration < self.num_warmup
        new_temperature = annealing & (state.made % self.moves_per_temperature == 0)
        momentum, uniform = transition_noise(key, self.num_chains, target.dim)

        beta, rise = self._next_temperature(state, new_temperature)
        new_metric = new_temperature
        if self.settings.start_draws > 1:  # the chains may have been selected for the first temperature at the start
            new_temperature &= (state.made > 0) | (state.beta == 0)
        increment, log_weight = state.particles.point.increment, state.particles.log_weight
        effective = jnp.where(new_temperature, conditional_ess(rise, increment, log_weight.value), state.conditional_ess)
        particles = add_log_weight(state.particles, increment.times(rise))
        evidence, bridge = self._evidence(state, particles, rise, new_temperature)
        if self.settings.resample_threshold > 0:
            particles = self._resampled(uniform[:, 2], particles, new_temperature, state.iteration == self.num_warmup)

        step = jnp.where(annealing, self.settings.rule.step_size(state.adaptation, beta), state.step_size)
        metric = self._metric(state, particles, new_metric)
        moved = self._trajectories(target, momentum, uniform, particles.point, beta, step, metric)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(annealing, new, old),
            self.settings.rule.update(state.adaptation, mean_acceptance(moved.acceptance, particles.point)),
            state.adaptation,
        )
        point = moved.point
        if state.pinned is not None:
            after = jnp.minimum(state.made + 1, self.num_warmup)
            point = pin(point, jax.tree.map(lambda a: a[after], state.pinned))
        particles = particles._replace(point=point)
        nonfinite = state.nonfinite + moved.nonfinite
        length = self.settings.num_leapfrog
        info = self._info(beta, particles, moved.acceptance, step, moved.diverging, nonfinite, moved.energy, length, evidence)
        new = state._replace(
            made=state.made + 1,
            arrived=(beta == 1.0) & ((state.made + 1) % self.moves_per_temperature == 0),
            beta=beta,
            step_size=step,
            particles=particles,
            nonfinite=nonfinite,
            population_log_evidence=evidence,
            bridge=bridge,
            conditional_ess=effective,
            inverse_mass=metric,
            adaptation=adaptation,
        )
        if state.waiting is not None:
            waits = annealing & state.arrived
            still = state.waiting._replace(n_steps=jnp.zeros_like(info.n_steps))
            info = jax.tree.map(lambda new, old: jnp.where(waits, old, new), info, still)
            new = jax.tree.map(lambda moved, old: jnp.where(waits, old, moved), new, state)._replace(waiting=info)
        return new._replace(iteration=state.iteration + 1), info

    def _trajectories(
        self,
        target: Target,
        normal: Array,
        uniform: Array,
        start: Point,
        beta: Array,
        step: Array,
        learned: Array | None = None,
    ) -> Any:
        """Make one trajectory from every point (n, ...), each with its own jitter.

        :param learned: the inverse mass matrices of the populations, (population, dim, dim).
        """

        def one(normal: Array, uniform: Array, start: Point, inverse_mass: Array | None) -> Any:
            jittered = step * (1.0 + self.settings.jitter * (2.0 * uniform[1] - 1.0))
            length = self.settings.num_leapfrog
            return trajectory(target, normal, uniform[0], start, beta, jittered, length, inverse_mass, self.unroll)

        each = jax.vmap(one, in_axes=(0, 0, 0, None))
        if learned is None:
            return each(normal, uniform, start, self.settings.inverse_mass)
        normal, uniform, start = jax.tree.map(lambda a: a.reshape(self.populations, -1, *a.shape[1:]), (normal, uniform, start))
        moved = jax.vmap(each)(normal, uniform, start, learned)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), moved)

    def _identities(self, dim: int) -> Array:
        if self.populations < 2:
            raise ValueError(
                f"inverse_mass=ParticleCovariance() requires at least two populations, but the {self.num_chains} chains form"
                " one: use more chains or num_populations, or a fixed inverse mass matrix"
            )
        return jnp.broadcast_to(jnp.eye(dim), (self.populations, dim, dim))

    def _metric(self, state: AnnealedState, particles: Particles, new: Array) -> Array | None:
        """The inverse mass matrices of the populations for the next transition, if learned."""
        if state.inverse_mass is None:
            return None
        weight = particles.log_weight.value if self.weighted else jnp.zeros(self.num_chains)
        learned = self.settings.inverse_mass.of_the_others(particles.point.u, weight, self.populations)
        return jnp.where(new, learned, state.inverse_mass)

    def _chosen_of_more(self, target: Target, key: Array, start: Start, ladder: Any) -> ChosenStart:
        """Select the chains from ``start_draws`` times as many exact draws, for the first temperature."""
        number = self.settings.start_draws
        draw_key, select_key = jax.random.split(key)
        u = start.positions(target, draw_key, number)  # (chain, draw, dim)

        def weigh(u: Array) -> tuple[Sum, Sum]:
            return jax.vmap(lambda v: compensated_sum(target.increment(v)))(u), start_log_weight(target, u)

        rounds = jnp.swapaxes(u, 0, 1)  # batches of one draw per chain
        if self.unroll:
            each = [weigh(rounds[k]) for k in range(number)]
            found = jax.tree.map(lambda *parts: jnp.stack(parts), *each)
        else:
            found = jax.lax.map(weigh, rounds)
        increment, weight = jax.tree.map(lambda a: a.T.ravel(), found)  # the draws of a chain are contiguous
        beta = self._first_temperature(increment, weight, ladder)
        effective = jnp.minimum(1.0, number * conditional_ess(beta, increment, weight.value))
        uniform = jax.random.uniform(select_key, (self.populations,))
        survivors = self.num_chains // self.populations
        index, level, ancestor = select(uniform, cleaned(weight + increment.times(beta)), self.populations, survivors)
        return ChosenStart(u.reshape(-1, target.dim)[index], level, ancestor, beta, effective)

    def _first_temperature(self, increment: Sum, log_weight: Sum, ladder: Any) -> Array:
        if ladder is not None:
            return real(ladder)[1]
        if self.num_warmup <= self.moves_per_temperature:
            return real(1.0)
        return self.settings.schedule.next(real(0.0), increment, log_weight.value, surplus=self.settings.start_draws)  # type: ignore[union-attr]

    def _next_temperature(self, state: AnnealedState, new_temperature: Array) -> tuple[Array, Array]:
        """The inverse temperature of the next transition, and its rise: zero if the start already reached the first one."""
        beta, rise = self._risen(state, new_temperature)
        if self.settings.start_draws == 1:
            return beta, rise
        reached = (state.made == 0) & (state.beta > 0)
        return jnp.where(reached, state.beta, beta), jnp.where(reached, 0.0, rise)

    def _risen(self, state: AnnealedState, new_temperature: Array) -> tuple[Array, Array]:
        if isinstance(self.settings.schedule, Adaptive):
            particles = state.particles
            chosen = self.settings.schedule.next(state.beta, particles.point.increment, particles.log_weight.value)
            last = state.iteration >= self.num_warmup - self.moves_per_temperature
            beta = jnp.where(new_temperature, jnp.where(last, 1.0, chosen), state.beta)
            return beta, beta - state.beta
        if self.ladder is None:
            assert state.ladder is not None
            ladder, rises = state.ladder, jnp.diff(state.ladder, prepend=0.0)
        else:
            ladder, rises = real(self.ladder), real(np.diff(self.ladder, prepend=0.0))  # differences in float64
        level = jnp.minimum(state.made // self.moves_per_temperature + 1, len(ladder) - 1)
        beta = jnp.where(new_temperature, ladder[level], state.beta)
        return beta, jnp.where(new_temperature, rises[level], 0.0)

    def _evidence(
        self, state: AnnealedState, weighted: Particles, rise: Array, new_temperature: Array
    ) -> tuple[Array, Bridge | None]:
        """The evidence estimate of every slot's population, from the weights or the bridge."""
        if state.bridge is None:
            found = population_evidence(weighted, self.populations)
            return jnp.where(state.iteration < self.num_warmup, found, state.population_log_evidence), None
        arrives = (new_temperature & (state.made > 0)) | (state.iteration == self.num_warmup)
        increment, log_weight = state.particles.point.increment.value, state.particles.log_weight.value
        bridge = advance(state.bridge, increment, log_weight, rise, new_temperature, arrives, self.populations)
        return bridge.log_evidence, bridge

    def _resampled(self, uniform: Array, particles: Particles, new_temperature: Array, draws_begin: Array) -> Particles:
        threshold = jnp.where(new_temperature, self.settings.resample_threshold, -1.0)
        if self.settings.around is not None:
            return resample_conditionally(uniform, particles, self.populations, threshold)
        return resample(uniform, particles, self.populations, threshold, everyone=draws_begin)

    def _info(
        self,
        beta: Array,
        particles: Particles,
        acceptance: Array,
        step: Array,
        diverging: Array,
        nonfinite: Array,
        energy: Array,
        n_steps: int,
        evidence: Array,
    ) -> AnnealedInfo:
        return AnnealedInfo(
            beta=jnp.full(self.num_chains, beta),
            acceptance_rate=acceptance,
            step_size=jnp.full(self.num_chains, step),
            diverging=diverging,
            nonfinite=nonfinite,
            lp=jax.vmap(lambda point: point.log_density(real(1.0)))(particles.point),
            energy=energy,
            n_steps=jnp.full(self.num_chains, n_steps, jnp.int32),
            log_weight=particles.log_weight.value,
            ancestor=particles.ancestor,
            population=particles.population,
            population_log_evidence=evidence,
        )


class AnnealedHMC(EnsembleKernel, settings=AnnealedHMCSettings, kernel=AnnealedHMCKernel):
    """Annealed HMC for any NumPyro model, for ``infer`` or plain ``numpyro.infer.MCMC`` with vectorised chains.

    The warm-up transitions follow the schedule from q0 to the posterior; the sample transitions stay at beta = 1 with the
    last step size. ``num_warmup`` must be a multiple of ``moves_per_temperature``.
    """

    settings: AnnealedHMCSettings

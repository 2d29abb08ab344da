"""Annealed Hamiltonian Monte Carlo: annealed importance sampling whose transitions are HMC, and tempered SMC.

All chains of an item walk beta from 0 to 1 together. At every new temperature

    log w += (beta_t - beta_{t-1}) tilt(u),        tilt = log p(z, y) - log q0(z),

the particles of a population whose effective sample size fell below a threshold are resampled (never: annealed importance
sampling), and M trajectories of L leapfrog steps leave pi_beta = q0^(1 - beta) p(z, y)^beta invariant. mean(w) is an
unbiased estimate of the evidence p(y) when the step sizes were not adapted on the way.

    Neal (2001), Annealed importance sampling, Eqs. 3-8;
    Fang and Schwing (2019), Co-generation with GANs using AIS based HMC, section 3;
    Del Moral, Doucet and Jasra (2006), Sequential Monte Carlo samplers, section 3.3.1 (resampling).

Departures from Fang and Schwing: the path ends at p(z) p(y | z), not at p(y | z) alone (theirs: ``flat_prior=True``); the
schedule starts at 0 and ends at 1; the weights are computed; chains can be resampled; the step size is one per item. With
``resample_threshold=0, step_size=PaperRule(), schedule=Sigmoid(-10, 2), flat_prior=True, num_leapfrog=20, jitter=0`` it is
theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.bridge import Bridge, advance
from cogen.inference.annealing.populations import (
    add_log_weight,
    cleaned,
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    resample,
)
from cogen.inference.annealing.schedules import Adaptive, Ladder, Schedule, Sigmoid, conditional_ess
from cogen.inference.annealing.step_size import ConstantGain, StepSizeRule
from cogen.inference.kernels.annealing_settings import AnnealingSettings
from cogen.inference.kernels.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.targets.numpyro_target import Initial, Point, Target, evaluate
from cogen.inference.targets.sums import Sum, compensated_sum, real

Array = jax.Array


class Particles(NamedTuple):
    """What is copied when a particle is resampled; leading axis chain."""

    point: Point
    log_weight: Sum
    ancestor: Array
    population: Array


class AnnealedState(NamedTuple):
    """The state of all chains of one item. Every field has a chain axis but the first three and the last six."""

    i: Array
    """Transitions asked for."""
    made: Array
    """Transitions made: fewer where the item waited at beta = 1 for the end of the warm-up."""
    arrived: Array
    """Whether the annealing is over."""
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    beta: Array
    """The inverse temperature of the last transition."""
    acceptance_rate: Array
    """Acceptance probability of the last transition (its mean over the moves at one transition: one)."""
    step_size: Array
    diverging: Array
    """Whether the last trajectory's energy error passed 1000 nats or was not finite (it is rejected)."""
    nonfinite: Array
    """How many of the chain's trajectories, since the start, met a gradient or density that was no number (rejected)."""
    lp: Array
    """Log density at beta = 1, unnormalised, in unconstrained coordinates."""
    energy: Array
    n_steps: Array
    """Gradient evaluations of the last transition."""
    log_weight: Array
    """Log weight of the particle; all equal after a resampling."""
    ancestor: Array
    """The initial chain from which the particle descends."""
    population: Array
    """The population of that chain."""
    population_log_evidence: Array
    """The evidence estimate of the population of this slot."""
    particles: Particles
    bridge: Bridge | None
    """For the evidence from both ends of every rise, where the kernel estimates it so."""
    conditional_ess: Array
    """The fraction of the weighted particles that the last rise of beta left effective."""
    extra: Any
    """What a kind of this kernel carries along."""
    adaptation: Any
    rng_key: Array


class AnnealedHMC(AnnealingSettings, EnsembleKernel):
    """Annealed HMC for any NumPyro model, in ``infer`` or in plain ``numpyro.infer.MCMC`` with vectorised chains.

    The warm-up transitions walk the schedule from q0 to the posterior; the sample transitions stay at beta = 1 with the
    last step size. ``num_warmup`` must be a multiple of ``moves_per_temperature``.

    :param model: a conditioned NumPyro model, or None for a recipe that `infer` binds.
    :param schedule: `Sigmoid`, `Linear`, `Geometric`, or any callable from T to T + 1 rising inverse temperatures;
        `Adaptive` chooses them as it runs, and `Ladder` holds what a pilot chose, item by item: with these two
        ``num_warmup`` is a limit, and an item that has arrived at beta = 1 waits for the draws.
    :param num_leapfrog: gradient evaluations per transition, L >= 1.
    :param step_size: a rule (`ConstantGain`, `PaperRule`, `Recorded`) or a fixed positive number.
    :param moves_per_temperature: transitions at each temperature, M >= 1.
    :param resample_threshold: resample a population whose weight ESS, as a fraction, falls below this value in [0, 1];
        0 never does. Above 0, a last resampling at beta = 1 over all chains leaves equal weights.
    :param initial: q0, a NumPyro distribution over the latent site (or a mapping over sites), or a `GuideStart`; default
        the prior.
    :param temper: names of the observed sites (``factor`` sites are such) to temper; the others count fully at every
        beta, and the chains start weighted by them. Default: all.
    :param flat_prior: leave the prior out at beta = 1, as the paper does. Such a run has no evidence.
    :param num_populations: groups of chains that never exchange particles; default four.
    :param inverse_mass: None (identity), (dim,) a diagonal or (dim, dim) a dense inverse mass matrix.
    :param jitter: each chain's step is multiplied by a uniform draw from [1 - jitter, 1 + jitter], in [0, 1), at every
        transition, so that no trajectory length is in step with an orbit.
    :param bridge: estimate the evidence from both ends of every rise of beta (see `bridge`): less noise where the
        rises are large, in exchange for unbiasedness.

    Raises ValueError for values out of these ranges.
    """

    chain_fields = AnnealedState._fields[3:-6]
    carried_fields = ("particles", "bridge")
    gradients_to_start = 1

    def __init__(
        self,
        model: Callable | None = None,
        *,
        schedule: Schedule | Adaptive = Sigmoid(-10.0, 4.0),
        num_leapfrog: int = 10,
        step_size: StepSizeRule | float = ConstantGain(),
        moves_per_temperature: int = 1,
        resample_threshold: float = 0.5,
        initial: Initial = None,
        temper: Sequence[str] | None = None,
        flat_prior: bool = False,
        num_populations: int | None = None,
        inverse_mass: Any = None,
        jitter: float = 0.2,
        bridge: bool = False,
    ) -> None:
        super().__init__(model)
        self._settle(
            schedule=schedule,
            num_leapfrog=num_leapfrog,
            step_size=step_size,
            moves_per_temperature=moves_per_temperature,
            resample_threshold=resample_threshold,
            temper=temper,
            flat_prior=flat_prior,
            num_populations=num_populations,
            inverse_mass=inverse_mass,
            jitter=jitter,
        )
        if bridge and flat_prior:
            raise ValueError("a run with flat_prior=True has no evidence, so there is nothing to bridge")
        self.bridge = bridge
        if bridge:
            self.evidence_kind = "bridged"
        self.initial = initial

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        self._check_warmup(num_warmup, f"num_warmup={num_warmup}")
        self._populations = population_count(num_chains, self.num_populations, self.resample_threshold > 0)
        self._beta = self._inverse_temperatures(num_warmup, self._num_items)

    def _target_settings(self) -> dict[str, Any]:
        return {"temper": self.temper, "flat_prior": self.flat_prior}

    def warmed_up(self, state: AnnealedState) -> Array:
        return state.arrived

    def path(self, state: AnnealedState) -> dict[str, Array]:
        relative = state.log_weight - jnp.max(state.log_weight)
        return {
            "beta": state.beta[0],
            "acceptance_rate": state.acceptance_rate.mean(),
            "step_size": state.step_size[0],
            "conditional_ess": state.conditional_ess,
            "weight_ess": effective_fraction(relative),
            "ancestors": distinct(state.ancestor),
            "diverging": state.diverging.sum(),
            "nonfinite": state.nonfinite.sum(),
            "log_evidence": log_mean_exp(state.population_log_evidence),
        }

    def get_diagnostics_str(self, state: AnnealedState) -> str:
        beta, acceptance = jnp.ravel(state.beta)[0], jnp.mean(state.acceptance_rate)
        return f"beta {beta:.3g}, acc. prob {acceptance:.2f}, step {jnp.ravel(state.step_size)[0]:.2e}"

    def _init(self, target: Target, key: Array, num_chains: int) -> AnnealedState:
        self._check_mass(target.dim)
        init_key, rng_key = jax.random.split(key)
        point = jax.vmap(lambda k: evaluate(target, target.draw(k)))(chain_keys(init_key, num_chains))
        chain = jnp.arange(num_chains)
        zeros = jnp.zeros(num_chains)
        weight = Sum(zeros, zeros)
        if (start_weight := target.start_weight) is not None:
            weight = cleaned(jax.vmap(lambda u: compensated_sum(start_weight(u)))(point.u))
        particles = Particles(point, weight, chain, chain // (num_chains // self._populations))
        adaptation = self.step_size.init(self._item)
        beta = real(0.0)
        evidence = population_evidence(particles, self._populations)
        return self._state(
            target,
            i=jnp.int32(0),
            made=jnp.int32(0),
            arrived=jnp.bool_(False),
            beta=beta,
            particles=particles,
            acceptance_rate=zeros,
            step=self.step_size.step_size(adaptation, beta),
            diverging=zeros > 0,
            nonfinite=jnp.zeros(num_chains, jnp.int32),
            energy=-jax.vmap(lambda p: p.log_density(beta))(point),
            n_steps=jnp.ones(num_chains, jnp.int32),
            population_log_evidence=evidence,
            bridge=Bridge(point.tilt.value, weight.value, zeros, evidence) if self.bridge else None,
            conditional_ess=real(1.0),
            extra=(),
            adaptation=adaptation,
            rng_key=rng_key,
        )

    def _sample(self, target: Target, state: AnnealedState) -> AnnealedState:
        warmup, moves = self._num_warmup, self.moves_per_temperature
        annealing = state.i < warmup
        waiting = annealing & state.arrived
        new_temperature = annealing & (state.made % moves == 0)
        num_chains = state.particles.ancestor.shape[0]
        momentum, uniform = transition_noise(jax.random.fold_in(state.rng_key, state.made), num_chains, target.dim)

        beta, rise = self._next_temperature(state, new_temperature)
        tilt, log_weight = state.particles.point.tilt, state.particles.log_weight
        effective = jnp.where(new_temperature, conditional_ess(rise, tilt, log_weight.value), state.conditional_ess)
        particles = add_log_weight(state.particles, tilt.times(rise))
        evidence, bridge = self._evidence(state, particles, rise, new_temperature)
        if self.resample_threshold > 0:
            threshold = jnp.where(new_temperature, self.resample_threshold, -1.0)
            particles = self._resampled(uniform[:, 2], particles, threshold, everyone=state.i == warmup)

        step = self.step_size.step_size(state.adaptation, beta)
        step = jnp.where(annealing, step, state.step_size[0])
        moved = jax.vmap(
            lambda normal, u, point: trajectory(
                target,
                normal,
                u[0],
                point,
                beta,
                step * (1.0 + self.jitter * (2.0 * u[1] - 1.0)),
                self.num_leapfrog,
                self.inverse_mass,
                self._unroll,
            )
        )(momentum, uniform, particles.point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(annealing, new, old),
            self.step_size.update(state.adaptation, mean_acceptance(moved.acceptance, particles.point)),
            state.adaptation,
        )
        new = self._state(
            target,
            i=state.i,
            made=state.made + 1,
            arrived=(beta == 1.0) & ((state.made + 1) % moves == 0),
            beta=beta,
            particles=particles._replace(point=self._moved(state, moved.point)),
            acceptance_rate=moved.acceptance,
            step=step,
            diverging=moved.diverging,
            nonfinite=state.nonfinite + moved.nonfinite,
            energy=moved.energy,
            n_steps=jnp.full(num_chains, self.num_leapfrog, jnp.int32),
            population_log_evidence=evidence,
            bridge=bridge,
            conditional_ess=effective,
            extra=state.extra,
            adaptation=adaptation,
            rng_key=state.rng_key,
        )
        if isinstance(self.schedule, Adaptive | Ladder):
            still = state._replace(n_steps=jnp.zeros_like(state.n_steps))
            new = jax.tree.map(lambda moved, old: jnp.where(waiting, old, moved), new, still)
        return new._replace(i=state.i + 1)

    def _next_temperature(self, state: AnnealedState, new_temperature: Array) -> tuple[Array, Array]:
        """The inverse temperature of the coming transition, and its rise."""
        now = state.beta[0]
        if self._beta is None:
            chosen = self.schedule.next(now, state.particles.point.tilt, state.particles.log_weight.value)  # type: ignore[union-attr]
            last = state.i >= self._num_warmup - self.moves_per_temperature
            beta = jnp.where(new_temperature, jnp.where(last, 1.0, chosen), now)
            return beta, beta - now
        level = jnp.minimum(state.made // self.moves_per_temperature + 1, self._beta.shape[-1] - 1)
        rises = np.diff(self._beta, prepend=0.0, axis=-1)  # taken in float64
        ladders = [real(values) for values in (self._beta, rises)]
        beta, rise = (values[level] if values.ndim == 1 else values[self._item][level] for values in ladders)
        return beta, jnp.where(new_temperature, rise, 0.0)

    def _evidence(
        self, state: AnnealedState, weighted: Particles, rise: Array, new_temperature: Array
    ) -> tuple[Array, Bridge | None]:
        """The evidence estimate of every slot's population, from the weights or from the bridge."""
        if state.bridge is None:
            found = population_evidence(weighted, self._populations)
            return jnp.where(state.i < self._num_warmup, found, state.population_log_evidence), None
        arrives = (new_temperature & (state.made > 0)) | (state.i == self._num_warmup)
        before = state.particles
        bridge = advance(
            state.bridge, before.point.tilt.value, before.log_weight.value, rise, new_temperature, arrives, self._populations
        )
        return bridge.log_evidence, bridge

    def _resampled(self, uniform: Array, particles: Particles, threshold: Array, everyone: Array) -> Particles:
        return resample(uniform, particles, self._populations, threshold, everyone=everyone)

    def _moved(self, state: AnnealedState, point: Point) -> Point:
        return point

    def _state(self, target: Target, *, beta: Array, particles: Particles, step: Array, **fields: Any) -> AnnealedState:
        num_chains = particles.ancestor.shape[0]
        return AnnealedState(
            z=jax.vmap(target.sites)(particles.point.u),
            beta=jnp.full(num_chains, beta),
            step_size=jnp.full(num_chains, step),
            lp=jax.vmap(lambda p: p.log_density(real(1.0)))(particles.point),
            log_weight=particles.log_weight.value,
            ancestor=particles.ancestor,
            population=particles.population,
            particles=particles,
            **fields,
        )

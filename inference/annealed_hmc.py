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
``resample_threshold=0, step_size=PaperRule(), schedule=Sigmoid(-10, 2), flat_prior=True, num_leapfrog=20`` it is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from cogen.inference.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.populations import (
    add_log_weight,
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    resample,
)
from cogen.inference.schedules import Schedule, Sigmoid, inverse_temperatures
from cogen.inference.step_size import ConstantGain, Fixed, Recorded, StepSizeRule
from cogen.inference.sums import Sum
from cogen.inference.targets import Point, Target, evaluate, gradient_at, numpyro_target

Array = jax.Array

DIVERGENCE = 1000.0
"""An energy error above this many nats is a divergence, as in NumPyro."""


class Particles(NamedTuple):
    """What is copied when a particle is resampled; leading axis chain."""

    point: Point
    log_weight: Sum
    ancestor: Array
    population: Array


class AnnealedState(NamedTuple):
    """The state of all chains of one item. Every field but ``i``, ``adaptation`` and ``rng_key`` has a chain axis."""

    i: Array
    """Transitions made."""
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    beta: Array
    """The inverse temperature of the last transition."""
    acceptance_rate: Array
    """Acceptance probability of the last transition (its mean over the moves at one transition: one)."""
    step_size: Array
    diverging: Array
    """Whether the last trajectory's energy error passed 1000 nats or was not finite (it is rejected)."""
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
    adaptation: Any
    rng_key: Array


class AnnealedHMC(EnsembleKernel):
    """Annealed HMC for any NumPyro model, in ``infer`` or in plain ``numpyro.infer.MCMC`` with vectorised chains.

    The warm-up transitions walk the schedule from q0 to the posterior; the sample transitions stay at beta = 1 with the
    last step size. ``num_warmup`` must be a multiple of ``moves_per_temperature``.

    :param model: a conditioned NumPyro model, or None for a recipe that `infer` binds.
    :param schedule: `Sigmoid`, `Linear`, `Geometric`, or any callable from T to T + 1 rising inverse temperatures.
    :param num_leapfrog: gradient evaluations per transition, L >= 1.
    :param step_size: a rule (`ConstantGain`, `PaperRule`, `Recorded`) or a fixed positive number.
    :param moves_per_temperature: transitions at each temperature, M >= 1.
    :param resample_threshold: resample a population whose weight ESS, as a fraction, falls below this value in [0, 1];
        0 never does. Above 0, a last resampling at beta = 1 over all chains leaves equal weights.
    :param initial: q0, a NumPyro distribution over the latent site (or a mapping over sites); default the prior.
    :param flat_prior: leave the prior out at beta = 1, as the paper does. Such a run has no evidence.
    :param num_populations: groups of chains that never exchange particles; default four.
    :param inverse_mass: None (identity), (dim,) a diagonal or (dim, dim) a dense inverse mass matrix.
    :param jitter: each chain's step is multiplied by a uniform draw from [1 - jitter, 1 + jitter], in [0, 1), at every
        transition, so that no trajectory length is in step with an orbit.

    Raises ValueError for values out of these ranges.
    """

    chain_fields = AnnealedState._fields[1:-3]
    gradients_to_start = 1

    def __init__(
        self,
        model: Callable | None = None,
        *,
        schedule: Schedule = Sigmoid(-10.0, 4.0),
        num_leapfrog: int = 10,
        step_size: StepSizeRule | float = ConstantGain(),
        moves_per_temperature: int = 1,
        resample_threshold: float = 0.5,
        initial: dist.Distribution | Mapping[str, dist.Distribution] | None = None,
        flat_prior: bool = False,
        num_populations: int | None = None,
        inverse_mass: Any = None,
        jitter: float = 0.2,
    ) -> None:
        super().__init__(model)
        for name, value in (("num_leapfrog", num_leapfrog), ("moves_per_temperature", moves_per_temperature)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least one is needed")
        if not 0.0 <= resample_threshold <= 1.0:
            raise ValueError(f"resample_threshold={resample_threshold}: a fraction of the chains, from 0 (never) to 1")
        if not 0.0 <= jitter < 1.0:
            raise ValueError(f"jitter={jitter}: it lies in [0, 1)")
        self.schedule = schedule
        self.num_leapfrog = num_leapfrog
        self.step_size: StepSizeRule = Fixed(float(step_size)) if isinstance(step_size, int | float) else step_size
        self.moves_per_temperature = moves_per_temperature
        self.resample_threshold = resample_threshold
        self.initial = initial
        self.flat_prior = flat_prior
        self.num_populations = num_populations
        self.inverse_mass = None if inverse_mass is None else jnp.asarray(inverse_mass, jnp.float32)
        self.jitter = jitter
        self.evidence_kind = "" if flat_prior else "annealed"

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        if num_warmup < 1 or num_warmup % self.moves_per_temperature:
            raise ValueError(
                f"num_warmup={num_warmup}: the annealing is the warm-up, so it takes a positive multiple of"
                f" moves_per_temperature={self.moves_per_temperature} transitions to reach beta = 1"
            )
        if isinstance(self.step_size, Recorded) and len(self.step_size.steps) != self._num_items:
            raise ValueError(
                f"the step sizes of {len(self.step_size.steps)} items were recorded, and this run has {self._num_items}"
            )
        self._populations = population_count(num_chains, self.num_populations, self.resample_threshold > 0)
        self._beta = inverse_temperatures(self.schedule, num_warmup // self.moves_per_temperature)

    def target(self, args: tuple, kwargs: dict | None) -> Target:
        if self._model is None:
            return super().target(args, kwargs)
        return numpyro_target(self._model, args, kwargs, initial=self.initial, flat_prior=self.flat_prior)

    def path(self, state: AnnealedState) -> dict[str, Array]:
        relative = state.log_weight - jnp.max(state.log_weight)
        return {
            "beta": state.beta[0],
            "acceptance_rate": state.acceptance_rate.mean(),
            "step_size": state.step_size[0],
            "weight_ess": effective_fraction(relative),
            "ancestors": distinct(state.ancestor),
            "diverging": state.diverging.sum(),
            "log_evidence": log_mean_exp(state.population_log_evidence),
        }

    def get_diagnostics_str(self, state: AnnealedState) -> str:
        beta, acceptance = jnp.ravel(state.beta)[0], jnp.mean(state.acceptance_rate)
        return f"beta {beta:.3g}, acc. prob {acceptance:.2f}, step {jnp.ravel(state.step_size)[0]:.2e}"

    def _init(self, target: Target, key: Array, num_chains: int) -> AnnealedState:
        if self.inverse_mass is not None and self.inverse_mass.shape not in ((target.dim,), (target.dim, target.dim)):
            raise ValueError(
                f"inverse_mass has shape {self.inverse_mass.shape}, the model has {target.dim} unconstrained coordinates"
            )
        init_key, rng_key = jax.random.split(key)
        point = jax.vmap(lambda k: evaluate(target, target.draw(k)))(chain_keys(init_key, num_chains))
        chain = jnp.arange(num_chains)
        zeros = jnp.zeros(num_chains)
        particles = Particles(point, Sum(zeros, zeros), chain, chain // (num_chains // self._populations))
        adaptation = self.step_size.init(self._item)
        beta = jnp.float32(0.0)
        return self._state(
            target,
            jnp.int32(0),
            beta,
            particles,
            acceptance=zeros,
            step=self.step_size.step_size(adaptation, beta),
            diverging=zeros > 0,
            energy=-jax.vmap(lambda p: p.log_density(beta))(point),
            n_steps=jnp.ones(num_chains, jnp.int32),
            evidence=zeros,
            adaptation=adaptation,
            rng_key=rng_key,
        )

    def _sample(self, target: Target, state: AnnealedState) -> AnnealedState:
        moves, warmup = self.moves_per_temperature, self._num_warmup
        last = len(self._beta) - 1
        level = jnp.minimum(state.i // moves + 1, last)
        ladder = jnp.asarray(self._beta, jnp.float32)
        rises = jnp.concatenate([jnp.zeros(1), jnp.asarray(jnp.diff(self._beta), jnp.float32)])
        beta = ladder[level]
        annealing = state.i < warmup
        new_temperature = annealing & (state.i % moves == 0)
        num_chains = state.particles.ancestor.shape[0]
        momentum, uniform = _noise(jax.random.fold_in(state.rng_key, state.i), num_chains, target.dim)

        rise = jnp.where(new_temperature, rises[level], 0.0)
        particles = add_log_weight(state.particles, state.particles.point.tilt.times(rise))
        evidence = jnp.where(annealing, population_evidence(particles, self._populations), state.population_log_evidence)
        if self.resample_threshold > 0:
            particles = resample(
                uniform[:, 2],
                particles,
                self._populations,
                jnp.where(new_temperature, self.resample_threshold, -1.0),
                everyone=state.i == warmup,
            )

        step = self.step_size.step_size(state.adaptation, beta)
        step = jnp.where(annealing, step, state.step_size[0])
        point, acceptance, diverging, energy = jax.vmap(
            lambda normal, u, p: _trajectory(
                target,
                normal,
                u[0],
                p,
                beta,
                step * (1.0 + self.jitter * (2.0 * u[1] - 1.0)),
                self.num_leapfrog,
                self.inverse_mass,
                self._unroll,
            )
        )(momentum, uniform, particles.point)
        particles = particles._replace(point=point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(annealing, new, old),
            self.step_size.update(state.adaptation, acceptance.mean()),
            state.adaptation,
        )
        return self._state(
            target,
            state.i + 1,
            beta,
            particles,
            acceptance=acceptance,
            step=step,
            diverging=diverging,
            energy=energy,
            n_steps=jnp.full(num_chains, self.num_leapfrog, jnp.int32),
            evidence=evidence,
            adaptation=adaptation,
            rng_key=state.rng_key,
        )

    def _state(
        self,
        target: Target,
        i: Array,
        beta: Array,
        particles: Particles,
        *,
        acceptance: Array,
        step: Array,
        diverging: Array,
        energy: Array,
        n_steps: Array,
        evidence: Array,
        adaptation: Any,
        rng_key: Array,
    ) -> AnnealedState:
        num_chains = particles.ancestor.shape[0]
        return AnnealedState(
            i=i,
            z=jax.vmap(target.sites)(particles.point.u),
            beta=jnp.full(num_chains, beta),
            acceptance_rate=acceptance,
            step_size=jnp.full(num_chains, step),
            diverging=diverging,
            lp=jax.vmap(lambda p: p.log_density(jnp.float32(1.0)))(particles.point),
            energy=energy,
            n_steps=n_steps,
            log_weight=particles.log_weight.value,
            ancestor=particles.ancestor,
            population=particles.population,
            population_log_evidence=evidence,
            particles=particles,
            adaptation=adaptation,
            rng_key=rng_key,
        )


def _noise(key: Array, num_chains: int, dim: int) -> tuple[Array, Array]:
    """All randomness of one transition: (chain, dim) normals and (chain, 3) uniforms on (0, 1).

    One call, because every call is compiled anew. A chain's numbers do not depend on how many chains there are.
    """
    tiny = jnp.finfo(jnp.float32).tiny
    uniform = jax.random.uniform(key, (num_chains, dim + 3), minval=tiny)
    normal = jnp.sqrt(2.0) * jax.scipy.special.erfinv(jnp.clip(2.0 * uniform[:, 3:] - 1.0, -1.0 + 1e-7, 1.0 - 1e-7))
    return normal, uniform[:, :3]


def _trajectory(
    target: Target,
    normal: Array,
    uniform: Array,
    start: Point,
    beta: Array,
    step: Array,
    num_leapfrog: int,
    inverse_mass: Array | None,
    unroll: bool,
) -> tuple[Point, Array, Array, Array]:
    """One HMC transition of one chain at one temperature: the new point, acceptance, divergence, energy."""
    momentum = _momentum(normal, inverse_mass)

    def leap(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        u, p = carry
        u = u + step * _velocity(p, inverse_mass)
        return u, p + step * gradient_at(target, u, beta)

    carry = (start.u, momentum + 0.5 * step * start.gradient(beta))
    if unroll:
        for i in range(num_leapfrog - 1):
            carry = leap(i, carry)
    else:
        carry = jax.lax.fori_loop(0, num_leapfrog - 1, leap, carry)
    u, p = carry
    end = evaluate(target, u + step * _velocity(p, inverse_mass))
    p = p + 0.5 * step * end.gradient(beta)

    kinetic, kinetic_start = (0.5 * jnp.dot(q, _velocity(q, inverse_mass)) for q in (p, momentum))
    gain = end.log_density_gain(start, beta) - (kinetic - kinetic_start)
    diverging = ~(gain > -DIVERGENCE)
    acceptance = jnp.where(jnp.isnan(gain), 0.0, jnp.minimum(1.0, jnp.exp(gain)))
    accepted = uniform < acceptance
    point = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, start)
    energy = jnp.where(accepted, kinetic, kinetic_start) - point.log_density(beta)
    return point, acceptance, diverging, energy


def _momentum(normal: Array, inverse_mass: Array | None) -> Array:
    if inverse_mass is None:
        return normal
    if inverse_mass.ndim == 1:
        return normal / jnp.sqrt(inverse_mass)
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(inverse_mass), normal, trans=1, lower=True)


def _velocity(momentum: Array, inverse_mass: Array | None) -> Array:
    if inverse_mass is None:
        return momentum
    return inverse_mass * momentum if inverse_mass.ndim == 1 else inverse_mass @ momentum

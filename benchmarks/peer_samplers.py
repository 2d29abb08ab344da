"""The samplers that `peers.py` compares, each as a single compiled function of a key.

All sample the same target, built from the same generator and observation, and return the same `Outcome`. Settings that are
tuned without a new compilation (leapfrog steps, the fraction of effective particles that determines the next inverse
temperature, the step size and its rule) are arguments; settings that change shapes or programs (particles, moves) are static.

    annealed       AnnealedHMC, the kernel itself: warm-up to beta = 1, then one draw. Any kernel object can be given.
    tempered       blackjax.adaptive_tempered_smc with blackjax.hmc, used as in its documentation: a loop of its steps until
                   the tempering parameter is 1. Depending on the setting, the step size is adapted to the acceptance rate by
                   the rule of blackjax.smc.tuning, and the inverse mass matrix is the variance of the particles.
    tfp_annealed   tfp.mcmc.sample_annealed_importance_chain with its HMC: linear inverse temperatures, one step size.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from blackjax.smc.resampling import systematic
from blackjax.smc.tuning.from_kernel_info import update_scale_from_acceptance_rate
from jax.scipy.special import logsumexp

from cogen.inference import Adaptive, AnnealedHMC, ConstantGain
from cogen.inference.kernels.annealed_hmc import AnnealedHMCSettings
from cogen.inference.kernels.kernel import ExactDraws
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.targets.target import Target
from cogen.models import CoGenerator

Array = jax.Array

LIMIT = 200
"""Largest number of temperatures."""


class Outcome(NamedTuple):
    """The result of a run of a sampler."""

    z: Array
    """(particle, latent)."""
    log_weight: Array
    log_evidence: Array
    gradients: Array
    """Gradient evaluations per particle."""
    temperatures: Array


class Numbers(NamedTuple):
    """Settings that vary without a new compilation."""

    leapfrog: Any
    ess: Any
    """The fraction of particles that are effective after a step in the inverse temperature."""
    step: Any
    """The step size, or its initial value."""
    acceptance: Any
    """Target acceptance rate of the step size."""
    follows: Any
    """1.0 if the step size adapts to this target, 0.0 if it is fixed."""
    mass: Any
    """1.0 if BlackJAX's inverse mass matrix is the variance of the particles, or 0.0."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid."""

    particles: int
    moves: int
    numbers: Numbers

    def __str__(self) -> str:
        n = self.numbers
        rule = f"step to acceptance {n.acceptance:g}" if n.follows else f"step {n.step:g}"
        mass = ", mass from particles" if n.mass else ""
        return f"{self.particles} particles, {self.moves} moves of {n.leapfrog} leapfrogs, ESS {n.ess:g}, {rule}{mass}"


class Program:
    """A compiled sampler, of which only the calls are timed. It is run once when it is made, since the first call is slower."""

    def __init__(self, function: Callable, numbers: Numbers | None, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        start = time.perf_counter()
        key = jax.random.key(0)
        self._compiled = jax.jit(function).lower(key, _arrays(numbers)).compile()
        self.compile_seconds = time.perf_counter() - start
        memory = self._compiled.memory_analysis()
        self.peak_bytes = memory.temp_size_in_bytes + memory.output_size_in_bytes + memory.argument_size_in_bytes
        self(0, numbers)

    def __call__(self, seed: int, numbers: Numbers | None = None) -> tuple[Outcome, float]:
        key, arguments = jax.random.key(seed), _arrays(numbers)
        start = self._clock()
        outcome = jax.block_until_ready(self._compiled(key, arguments))
        return outcome, self._clock() - start


def _arrays(numbers: Numbers | None) -> Any:
    if numbers is None:
        return ()
    return Numbers(jnp.int32(numbers.leapfrog), *(jnp.float32(value) for value in numbers[1:]))


def model_of(seen: CoGenerator) -> Callable:
    """The NumPyro model of the single item of a conditioned generator."""
    data = jax.tree.map(jnp.asarray, dict(seen.item_data))
    return lambda: seen.numpyro(data)


def target_of(seen: CoGenerator) -> Target:
    return numpyro_target(model_of(seen))


# --- ours ----------------------------------------------------------------------------------------------------------


def annealed(model: Callable, particles: int, warmup: int, make: Callable[[Any], AnnealedHMC]) -> Callable:
    """Annealed HMC as a function of a key and numbers; ``make`` returns the kernel for these numbers."""

    def run(key: Array, numbers: Any) -> Outcome:
        recipe = make(numbers)
        kernel, target = recipe.kernel(warmup, particles), recipe.target(model=model)
        init_key, rng_key = jax.random.split(key)
        state = kernel.init(target, init_key, ExactDraws(particles))

        def climbing(carry: tuple) -> Array:
            return (carry[0].iteration < warmup) & ~kernel.warmed_up(carry[0])

        def transition(state: Any, cost: Array) -> tuple:
            state, info = kernel.step(target, jax.random.fold_in(rng_key, state.iteration), state)
            return state, cost + info.n_steps[0], info

        state, cost = jax.lax.while_loop(climbing, lambda carry: transition(*carry)[:2], (state, jnp.int32(1)))
        temperatures = state.made // kernel.moves_per_temperature
        state, cost, info = transition(state._replace(iteration=jnp.int32(warmup)), cost)
        evidence = logsumexp(info.population_log_evidence) - jnp.log(particles)
        return Outcome(state.position, info.log_weight, evidence, cost, temperatures)

    return run


def adaptive(
    moves: int, bridge: bool = True, inverse_mass: Any = None, start_draws: int = 1
) -> Callable[[Numbers], AnnealedHMC]:
    """A function for an adaptive AnnealedHMC that accepts traced numbers; it resamples at every temperature."""

    def make(numbers: Numbers) -> AnnealedHMC:
        rule = {"initial": numbers.step, "target": numbers.acceptance, "gain": 0.25 * numbers.follows}
        recipe = AnnealedHMC()
        recipe.settings = _with(
            AnnealedHMCSettings,
            schedule=_with(Adaptive, conditional_ess=numbers.ess),
            num_leapfrog=numbers.leapfrog,
            step_size=_with(ConstantGain, **rule),
            moves_per_temperature=moves,
            resample_threshold=1.0,
            bridge=bridge,
            inverse_mass=inverse_mass,
            start_draws=start_draws,
        )
        return recipe

    return make


def _with(kind: type, **values: Any) -> Any:
    """An instance without range checks, which fail for traced numbers."""
    made = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


# --- theirs --------------------------------------------------------------------------------------------------------


def tempered(target: Target, particles: int, moves: int, dense: bool = False) -> Callable:
    """BlackJAX's tempered SMC as a function of a key and numbers.

    :param dense: use the covariance matrix of the particles instead of their variances
        (``blackjax.smc.tuning.from_particles.particles_covariance_matrix``), if the mass is that of the particles.
    """
    step = blackjax.hmc.build_kernel()
    ones = jnp.eye(target.dim) if dense else jnp.ones(target.dim)

    def run(key: Array, numbers: Numbers) -> Outcome:
        smc = blackjax.adaptive_tempered_smc.build_kernel(
            lambda u: target.reference(u).sum(),
            lambda u: target.increment(u).sum(),
            step,
            blackjax.hmc.init,
            systematic,
            numbers.ess,
        )
        start_key, key = jax.random.split(key)
        start = blackjax.adaptive_tempered_smc.init(jax.vmap(target.draw)(jax.random.split(start_key, particles)))
        start = start._replace(tempering_param=jnp.float32(0.0))
        zero = jnp.int32(0)

        def climbing(carry: tuple) -> Array:
            return (carry[0].tempering_param < 1.0) & (carry[4] < LIMIT)

        def one(carry: tuple) -> tuple:
            state, step_size, mass, evidence, k = carry
            parameters = {"step_size": step_size, "inverse_mass_matrix": mass, "num_integration_steps": numbers.leapfrog[None]}
            state, info = smc(jax.random.fold_in(key, k), state, moves, parameters)
            rate = info.update_info.acceptance_rate.mean()[None]
            followed = update_scale_from_acceptance_rate(step_size, rate, numbers.acceptance)
            step_size = jnp.where(numbers.follows > 0, followed, step_size)
            mass = jnp.where(numbers.mass > 0, (_covariance if dense else _variance)(state), ones)[None]
            return state, step_size, mass, evidence + info.log_likelihood_increment, k + 1

        carry = (start, numbers.step[None], ones[None], jnp.float32(0.0), zero)
        state, _, _, evidence, k = jax.lax.while_loop(climbing, one, carry)
        return Outcome(state.particles, jnp.log(state.weights), evidence, k * (moves * numbers.leapfrog + 1), k)

    return run


def _variance(state: Any) -> Array:
    mean = state.weights @ state.particles
    return jnp.maximum(state.weights @ (state.particles - mean) ** 2, 1e-6)


def _covariance(state: Any) -> Array:
    deviation = state.particles - state.weights @ state.particles
    return (state.weights[:, None] * deviation).T @ deviation + 1e-6 * jnp.eye(deviation.shape[1])


def prior_importance(target: Target, draws: int, at_once: int) -> Callable:
    """Importance sampling from the prior, the simplest estimate of the evidence."""

    def run(key: Array, _: Any) -> Outcome:
        def weigh(key: Array) -> tuple[Array, Array]:
            u = jax.vmap(target.draw)(jax.random.split(key, at_once))
            return u, jax.vmap(lambda v: target.increment(v).sum())(u)

        u, log_weight = jax.lax.map(weigh, jax.random.split(key, draws // at_once))
        log_weight = log_weight.ravel()
        none = jnp.int32(0)
        return Outcome(u.reshape(draws, -1), log_weight, logsumexp(log_weight) - jnp.log(draws), none, none)

    return run


def tfp_annealed(target: Target, particles: int, steps: int, leapfrog: int, step_size: float) -> Callable:
    """TFP's annealed importance sampling as a function of a key and numbers.

    :raises ImportError: if TFP is not installed. TFP may raise other errors on import if it does not support this JAX version.
    """
    import tensorflow_probability.substrates.jax as tfp

    def run(key: Array, _: Any) -> Outcome:
        start_key, key = jax.random.split(key)
        start = jax.vmap(target.draw)(jax.random.split(start_key, particles))
        z, log_weight, _ = tfp.mcmc.sample_annealed_importance_chain(
            num_steps=steps,
            proposal_log_prob_fn=jax.vmap(lambda u: target.reference(u).sum()),
            target_log_prob_fn=jax.vmap(lambda u: target.reference(u).sum() + target.increment(u).sum()),
            current_state=start,
            make_kernel_fn=lambda density: tfp.mcmc.HamiltonianMonteCarlo(density, step_size, leapfrog),
            seed=key,
        )
        evidence = logsumexp(log_weight) - jnp.log(particles)
        return Outcome(z, log_weight, evidence, jnp.int32(steps * (leapfrog + 1)), jnp.int32(steps))

    return run


def effective(outcome: Outcome) -> float:
    """The effective fraction of the particles, by weight."""
    weight = np.exp(np.asarray(outcome.log_weight, float) - np.max(outcome.log_weight))
    return float(weight.sum() ** 2 / (weight**2).sum() / weight.size)

"""Annealed Hamiltonian Monte Carlo for Pyro models, all chains of all items in one batch: the counterpart of `annealed_hmc`.

The algorithm, its papers and its departures from them are those of `cogen.inference.AnnealedHMC`:

    log w += (beta_t - beta_{t-1}) increment(u),        increment = log p(z, y) - log q0(z),

then resampling if the effective sample size of the weights is below a threshold, then HMC that leaves pi_beta = q0^(1 - beta)
p(z, y)^beta invariant. Each gradient evaluates the torch generator on one batch of (chain, item); each chain has its own accept
decision and each item its own step size (Neal 2001; Fang and Schwing 2019; Del Moral, Doucet and Jasra 2006).

Differences from the JAX version: sums, energies and log weights are float64, and torch draws the starts of an item's chains
together, so that they depend on the number of chains (the random numbers of a transition do not).
"""

# mypy: disable-error-code="override"
# Arrays of one item in Kernel are tensors of all items here.

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor

from cogen.inference.annealing.bridge import Bridge, advance
from cogen.inference.annealing.schedules import conditional_ess
from cogen.inference.kernels.annealing_settings import AnnealingKernel, AnnealingSettings
from cogen.inference.kernels.kernel import Start
from cogen.inference.torch.ensemble_kernel import PyroEnsembleKernel
from cogen.inference.torch.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.torch.jax_rules import StepSizes, to_jax, to_jax_sum, to_torch
from cogen.inference.torch.populations import effective_fraction, log_mean_exp, population_evidence, resampling_indices
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import Point, PyroTarget


class Particles(NamedTuple):
    """The values copied when a particle is resampled; leading axes (chain, item)."""

    point: Point
    log_weight: Tensor
    ancestor: Tensor
    population: Tensor


class AnnealedState(NamedTuple):
    """The input of the next transition."""

    iteration: int
    """Transitions requested."""
    arrived: Tensor
    """Whether the annealing reached beta = 1, (item,)."""
    beta: Tensor
    """The inverse temperature of the last transition, (item,)."""
    step_size: Tensor
    """The step size of the last transition, also used for the draws, (item,)."""
    particles: Particles
    nonfinite: Tensor
    """The number of trajectories with a non-finite gradient or log density, (chain, item)."""
    population_log_evidence: Tensor
    """The evidence estimate of the population of each slot, (chain, item)."""
    bridge: Bridge | None
    """The state of the bridge estimate of the evidence, if used; JAX arrays (item, chain)."""
    conditional_ess: Tensor
    """The conditional effective sample size of the last rise of beta, as a fraction, (item,)."""
    ladder: Tensor | None
    """The inverse temperatures, (T + 1, item); None for an adaptive schedule."""
    adaptation: Any
    waiting: AnnealedInfo | None
    """The last info, if items wait at beta = 1."""

    @property
    def point(self) -> Point:
        return self.particles.point


class AnnealedInfo(NamedTuple):
    """Statistics of a transition, arrays (chain, item), with the fields of the JAX version."""

    beta: Tensor
    acceptance_rate: Tensor
    step_size: Tensor
    diverging: Tensor
    """Whether the trajectory's energy error exceeded 1000 nats or was non-finite (it is rejected)."""
    nonfinite: Tensor
    """The number of trajectories so far that had a non-finite gradient or log density (rejected)."""
    lp: Tensor
    energy: Tensor
    n_steps: Tensor
    """Gradient evaluations; zero while the item waits at beta = 1."""
    log_weight: Tensor
    """All equal within an item after the last resampling."""
    ancestor: Tensor
    population: Tensor
    population_log_evidence: Tensor


@dataclass(frozen=True, eq=False)
class AnnealedHMCKernel(AnnealingKernel):
    """The transitions of annealed HMC."""

    settings: AnnealingSettings
    num_warmup: int
    num_chains: int

    @cached_property
    def _step_sizes(self) -> StepSizes:
        return StepSizes(self.settings.rule)

    @cached_property
    def _conditional_ess(self) -> Any:
        return jax.jit(jax.vmap(conditional_ess))

    @cached_property
    def _choose_beta(self) -> Any:
        return jax.jit(jax.vmap(self.settings.schedule.next))  # type: ignore[union-attr]

    @cached_property
    def _advance_bridge(self) -> Any:
        return jax.jit(jax.vmap(functools.partial(advance, count=self.populations), in_axes=(0, 0, 0, 0, None, None)))

    def log_density(self, state: AnnealedState) -> Tensor:
        return state.point.reference + state.point.increment

    def warmed_up(self, state: AnnealedState) -> Any:
        return state.arrived

    def path(self, state: AnnealedState, info: AnnealedInfo) -> dict[str, Tensor]:
        slots = torch.zeros_like(info.ancestor).scatter_(0, info.ancestor, 1)
        path = {
            "beta": state.beta,
            "acceptance_rate": info.acceptance_rate.mean(0),
            "step_size": state.step_size,
            "conditional_ess": state.conditional_ess,
            "weight_ess": effective_fraction(info.log_weight),
            "ancestors": slots.sum(0),
            "diverging": info.diverging.sum(0),
            "nonfinite": info.nonfinite.sum(0),
            "log_evidence": log_mean_exp(info.population_log_evidence),
        }
        return self.kept(path)

    def init(self, target: PyroTarget, random: Random, start: Start) -> AnnealedState:
        self.settings.check_dim(target.dim)
        point = target.evaluate(target.positions(start, random))
        chains, items = point.increment.shape
        chain = torch.arange(chains, device=point.u.device)[:, None].expand(chains, items)
        beta = torch.zeros(items, dtype=torch.float64, device=point.u.device)
        ladder = self.settings.temperatures(self.num_warmup) if target.own.ladder is None else target.own.ladder
        weight = _cleaned(target.start_weight(point.u))
        particles = Particles(point, weight, chain, chain // (chains // self.populations))
        evidence = population_evidence(weight, self.populations)
        adaptation = self._step_sizes.init(target.own.steps, items)
        zeros = torch.zeros_like(point.increment)
        return AnnealedState(
            iteration=0,
            arrived=beta > 0,
            beta=beta,
            step_size=self._step_sizes.step_size(adaptation, beta),
            particles=particles,
            nonfinite=torch.zeros_like(chain),
            population_log_evidence=evidence,
            bridge=Bridge(*(to_jax(each.T) for each in (point.increment, weight, zeros, evidence)))
            if self.settings.bridge
            else None,
            conditional_ess=torch.ones_like(beta),
            ladder=None if ladder is None else torch.tensor(np.broadcast_to(ladder, (items, ladder.shape[-1])).T).to(beta),
            adaptation=adaptation,
            waiting=self._info(beta, particles, zeros, beta, zeros > 0, 0 * chain, zeros, 0, evidence)
            if self.settings.waits
            else None,
        )

    def step(self, target: PyroTarget, random: Random, state: AnnealedState) -> tuple[AnnealedState, AnnealedInfo]:
        settings, annealing = self.settings, state.iteration < self.num_warmup
        waits = state.arrived & (annealing and settings.waits)
        still = None if state.waiting is None else state.waiting._replace(n_steps=torch.zeros_like(state.waiting.n_steps))
        if still is not None and waits.all():
            return state._replace(iteration=state.iteration + 1, waiting=still), still
        momentum, uniform = transition_noise(random, self.num_chains, target.dim, state.point.u)

        new_temperature = annealing and state.iteration % self.moves_per_temperature == 0
        beta = self._next_temperature(state) if new_temperature else state.beta
        particles, increment, rise, effective = state.particles, state.point.increment, beta - state.beta, state.conditional_ess
        if new_temperature:
            found = self._conditional_ess(to_jax(rise), to_jax_sum(increment.T), to_jax(particles.log_weight.T))
            effective = to_torch(found, beta)
            particles = particles._replace(log_weight=_cleaned(particles.log_weight + rise * increment))
        evidence, bridge = self._evidence(state, particles, rise, new_temperature)
        if settings.resample_threshold > 0 and new_temperature:
            particles = resample(uniform[..., 2], particles, self.populations, settings.resample_threshold)
        elif settings.resample_threshold > 0 and state.iteration == self.num_warmup:
            particles = resample(uniform[..., 2], particles, 1, torch.inf)

        step = self._step_sizes.step_size(state.adaptation, beta) if annealing else state.step_size
        jittered = step * (1.0 + settings.jitter * (2.0 * uniform[..., 1] - 1.0))
        mass = None if settings.inverse_mass is None else torch.tensor(settings.inverse_mass).to(momentum)
        length = settings.num_leapfrog
        moved = trajectory(target, momentum, uniform[..., 0], particles.point, beta, jittered.to(momentum), length, mass)
        adaptation = state.adaptation
        if annealing:
            adaptation = self._step_sizes.update(adaptation, mean_acceptance(moved.acceptance, particles.point))
        particles = particles._replace(point=moved.point)
        nonfinite = state.nonfinite + moved.nonfinite
        info = self._info(beta, particles, moved.acceptance, step, moved.diverging, nonfinite, moved.energy, length, evidence)
        new = state._replace(
            arrived=(beta == 1.0) & ((state.iteration + 1) % self.moves_per_temperature == 0),
            beta=beta,
            step_size=step,
            particles=particles,
            nonfinite=nonfinite,
            population_log_evidence=evidence,
            bridge=bridge,
            conditional_ess=effective,
            adaptation=adaptation,
        )
        if still is not None:
            if waits.any():
                new, info = (_where_waiting(waits, *each) for each in ((state, new), (still, info)))
            new = new._replace(waiting=info)
        return new._replace(iteration=state.iteration + 1), info

    def _next_temperature(self, state: AnnealedState) -> Tensor:
        """The inverse temperatures of the next transition, (item,)."""
        if state.ladder is not None:
            return state.ladder[min(state.iteration // self.moves_per_temperature + 1, len(state.ladder) - 1)]
        if state.iteration >= self.num_warmup - self.moves_per_temperature:
            return torch.ones_like(state.beta)
        weight = to_jax(state.particles.log_weight.T)
        return to_torch(self._choose_beta(to_jax(state.beta), to_jax_sum(state.point.increment.T), weight), state.beta)

    def _evidence(
        self, state: AnnealedState, weighted: Particles, rise: Tensor, new_temperature: bool
    ) -> tuple[Tensor, Bridge | None]:
        """The evidence estimate of every slot's population, from the weights or the bridge."""
        annealing = state.iteration < self.num_warmup
        if state.bridge is None:
            found = population_evidence(weighted.log_weight, self.populations) if annealing else state.population_log_evidence
            return found, None
        arrives = (new_temperature and state.iteration > 0) or state.iteration == self.num_warmup
        ends = (to_jax(each.T) for each in (state.point.increment, state.particles.log_weight))
        bridge = self._advance_bridge(state.bridge, *ends, to_jax(rise), new_temperature, arrives)
        return to_torch(bridge.log_evidence, state.population_log_evidence).T, bridge

    def _info(
        self,
        beta: Tensor,
        particles: Particles,
        acceptance: Tensor,
        step: Tensor,
        diverging: Tensor,
        nonfinite: Tensor,
        energy: Tensor,
        n_steps: int,
        evidence: Tensor,
    ) -> AnnealedInfo:
        return AnnealedInfo(
            beta=beta.expand_as(acceptance),
            acceptance_rate=acceptance,
            step_size=step.expand_as(acceptance),
            diverging=diverging,
            nonfinite=nonfinite,
            lp=particles.point.reference + particles.point.increment,
            energy=energy,
            n_steps=torch.full_like(nonfinite, n_steps),
            log_weight=particles.log_weight,
            ancestor=particles.ancestor,
            population=particles.population,
            population_log_evidence=evidence,
        )


class PyroAnnealedHMC(PyroEnsembleKernel, settings=AnnealingSettings, kernel=AnnealedHMCKernel):
    """Annealed HMC for any Pyro model, for ``cogen.inference.infer`` or plain ``pyro.infer.MCMC``.

    >>> import pyro, pyro.distributions as dist, torch
    >>> from pyro.infer import MCMC
    >>> from cogen.inference import PyroAnnealedHMC
    >>> def model():
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
    >>> mcmc = MCMC(PyroAnnealedHMC(model, num_chains=64), num_samples=10, warmup_steps=50, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["z"].shape  # (draw, chain, ...); with items (draw, chain, item, ...)
    torch.Size([10, 64])

    The warm-up transitions follow the schedule from exact draws of q0 to the posterior; the sample transitions stay at beta = 1
    with the last step size. ``warmup_steps`` must be a positive multiple of ``moves_per_temperature``. The kernel runs all
    chains itself: leave ``MCMC(num_chains=1)``. ``mcmc.diagnostics()`` has weights, ancestors and evidence. The chains of an
    item share one step size; items share nothing.
    """

    settings: AnnealingSettings


def resample(uniform: Tensor, particles: Particles, count: int, threshold: float) -> Particles:
    """Resample within those of ``count`` populations whose effective fraction is below the threshold."""
    found = resampling_indices(uniform, particles.log_weight, count, threshold)
    if found is None:
        return particles
    index, log_weight = found
    column = torch.arange(index.shape[1], device=index.device)

    def pick(value: Tensor) -> Tensor:
        return value[index, column]

    return Particles(particles.point.map(pick), log_weight, pick(particles.ancestor), pick(particles.population))


def _cleaned(log_weight: Tensor) -> Tensor:
    """Log weights with non-finite values replaced by -inf (dead particles)."""
    return torch.where(log_weight.isfinite(), log_weight, -torch.inf)


def _where_waiting(waits: Tensor, old: Any, new: Any) -> Any:
    """The new values, with the old ones for items that wait."""
    rows = jnp.asarray(waits.cpu().numpy())

    def by_item(stays: Any, moves: Any) -> Any:
        if isinstance(moves, Tensor):  # (item,) or (chain, item, ...)
            return torch.where(waits.reshape(waits.shape + (1,) * max(0, moves.ndim - 2)), stays, moves)
        if isinstance(moves, jax.Array):  # (item, ...)
            return jnp.where(rows.reshape(rows.shape + (1,) * (moves.ndim - 1)), stays, moves)
        return moves

    return jax.tree.map(by_item, old, new)

"""Non-reversible parallel tempering with an adaptive ladder, and the evidence from its replicas.

A chain has R replicas, one at each of 0 = beta_1 < ... < beta_R = 1. A transition draws the replica at beta = 0 independently
from q0, moves every other replica by an HMC trajectory at its own beta and step size, and proposes swaps of the pairs (1, 2),
(3, 4), ... in even transitions and of (2, 3), (4, 5), ... in odd ones, each accepted with the probability

    alpha_k = min(1, exp((beta_{k+1} - beta_k) (increment(x_k) - increment(x_{k+1})))).

With swaps in this deterministic order a replica keeps its direction until a rejection, so that round trips between q0 and the
posterior do not become rarer as replicas are added. Sum_{j<k} E[1 - alpha_j] estimates the barrier Lambda(beta_k); in rounds of
doubling length during the warm-up the ladder is respaced to equal rises of Lambda between neighbours, which equalises the
rejections and maximises the rate of round trips, 1 / (2 + 2 sum_k r_k / (1 - r_k)). About 2 Lambda(1) replicas are a good
number.

Every neighbouring pair is a bridge between its normalising constants,

    Z_{k+1} / Z_k = E_k[exp(d_k increment / 2)] / E_{k+1}[exp(-d_k increment / 2)],        d_k = beta_{k+1} - beta_k,

and log Z is the sum of the logarithms, with means over the sample transitions, during which the ladder is fixed. The bridge
spans half the step of plain stepping stones, log mean_k exp(d_k increment). Both means have the same relative variance per
draw, Z_k Z_{k+1} / Z_{k+1/2}^2 - 1 (with k + 1/2 the middle inverse temperature), which is finite for every posterior; the
biases of the two logarithms, of order 1 / draws, therefore cancel to first order. The estimate is consistent, not unbiased.

    Syed, Bouchard-Cote, Deligiannidis and Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme (the order of the swaps, the barrier, the ladder, the rate of round trips);
    Xie, Lewis, Fan, Kuo and Chen (2011), Improving marginal likelihood estimation (stepping stones);
    Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity (the geometric bridge).

Departures from Syed et al.: Lambda is interpolated linearly, not by a monotone cubic (over the rounds the difference vanishes);
all pairs contribute to its estimate at every transition, swapped or not; all chains of an item share one ladder.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.populations import log_mean_exp, population_count
from cogen.inference.annealing.schedules import Schedule, Sigmoid, inverse_temperatures
from cogen.inference.annealing.step_size import ConstantGain, StepSizeRule, step_size_rule
from cogen.inference.kernels.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.kernels.kernel import Kernel, Own, Start, chain_keys
from cogen.inference.kernels.replicas import (
    Replicas,
    Tally,
    empty_tally,
    exchange,
    increments,
    interpolated,
    respaced,
    starting,
    swap_probability,
    tally_up,
    turned,
)
from cogen.inference.kernels.warmup_rounds import round_ends
from cogen.inference.targets.numpyro_target import Initial
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Point, Target, evaluate

Array = jax.Array


class TemperingState(NamedTuple):
    """The input of the next transition of an item's chains."""

    iteration: Array
    """The number of transitions made."""
    replicas: Replicas
    ladder: Array
    """The inverse temperatures, (R,)."""
    tally: Tally
    nonfinite: Array
    """The number of trajectories with a non-finite gradient or log density, (chain,)."""
    adaptation: Any
    """The step-size rule's state, with a leading axis for the replicas above beta = 0."""

    @property
    def position(self) -> Array:
        return self.replicas.point.u[:, -1]


class TemperingInfo(NamedTuple):
    """Statistics of a transition for every chain."""

    acceptance_rate: Array
    """The acceptance probability of the trajectory at beta = 1."""
    step_size: Array
    """The step size at beta = 1."""
    swap_rejection: Array
    """The mean rejection probability of a swap over the R - 1 pairs."""
    round_trips: Array
    """The number of round trips of replicas from beta = 0 to 1 and back since the ladder last changed or the draws began."""
    barrier: Array
    """Lambda(1), the sum over pairs of the mean rejections since then, one value for all chains."""
    diverging: Array
    """Whether the energy error of any replica's trajectory exceeded 1000 nats or was non-finite (it is rejected)."""
    nonfinite: Array
    """The number of the replicas' trajectories so far that had a non-finite gradient or log density (rejected)."""
    lp: Array
    """The unnormalised log density at beta = 1, in unconstrained coordinates."""
    energy: Array
    """The energy of the trajectory at beta = 1, before the swap."""
    n_steps: Array
    """Gradient evaluations: (R - 1) L, plus one for the draw of q0."""
    population: Array
    population_log_evidence: Array
    """The evidence estimate of the chain's population from all sample transitions so far; the last draw has the result."""


@dataclass(frozen=True, eq=False)
class TemperingSettings:
    """Settings of parallel tempering.

    :param num_replicas: the number of inverse temperatures R >= 2, including 0 and 1.
    :param num_leapfrog: gradient evaluations per replica and transition, L >= 1.
    :param step_size: an adaptation rule, applied to each replica separately during the warm-up, or a fixed positive number.
    :param schedule: the initial ladder: `Sigmoid`, `Linear`, `Geometric`, or any callable from R - 1 to R rising values.
    :param initial: q0, a NumPyro distribution over the latent site (or a mapping over sites), or a `GuideStart`; default
        the prior.
    :param num_populations: groups of chains with separate evidence estimates; default four.
    :param jitter: each trajectory's step is multiplied by a uniform draw from [1 - jitter, 1 + jitter], in [0, 1).
    :raises ValueError: for values out of these ranges.
    :raises TypeError: for a schedule that is not a function.
    """

    num_replicas: int = 10
    num_leapfrog: int = 5
    step_size: StepSizeRule | float = ConstantGain()
    schedule: Schedule = Sigmoid(-10.0, 4.0)
    initial: Initial = None
    num_populations: int | None = None
    jitter: float = 0.2

    def __post_init__(self) -> None:
        if self.num_replicas < 2:
            raise ValueError(f"num_replicas={self.num_replicas}: at least two are needed, at beta = 0 and beta = 1")
        if self.num_leapfrog < 1:
            raise ValueError(f"num_leapfrog={self.num_leapfrog}: at least one is needed")
        if not 0.0 <= self.jitter < 1.0:
            raise ValueError(f"jitter={self.jitter}: it must be in [0, 1)")
        if not callable(self.schedule):
            raise TypeError(f"schedule={self.schedule}: give a function from R - 1 to the R inverse temperatures of the ladder")
        object.__setattr__(self, "step_size", step_size_rule(self.step_size))  # the dataclass is frozen
        if self.first_ladder.ndim != 1:
            name = type(self.schedule).__name__
            raise ValueError(f"{name} returned a ladder per item: parallel tempering requires one initial ladder for all items")

    @property
    def rule(self) -> StepSizeRule:
        """``step_size`` as a rule."""
        return self.step_size  # type: ignore[return-value]

    @cached_property
    def first_ladder(self) -> np.ndarray:
        """The initial inverse temperatures, (R,)."""
        return inverse_temperatures(self.schedule, self.num_replicas - 1)

    def own(self, num_warmup: int) -> Own:
        """The per-item values of the settings."""
        return Own.of(self.rule, self.initial)


@dataclass(frozen=True, eq=False)
class TemperingKernel(Kernel):
    """The transitions of parallel tempering."""

    settings: TemperingSettings
    num_warmup: int
    num_chains: int
    unroll: bool = False

    evidence_kind = "stepping-stone"

    @property
    def gradients_to_start(self) -> int:
        return self.settings.num_replicas

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, resampling=False)

    def unrolled(self) -> Self:
        return dataclasses.replace(self, unroll=True)

    def log_density(self, state: TemperingState) -> Array:
        return jax.vmap(lambda p: p.log_density(real(1.0)))(_at(state.replicas.point, -1))

    def path(self, state: TemperingState, info: TemperingInfo) -> dict[str, Array]:
        return {
            "acceptance_rate": info.acceptance_rate.mean(),
            "step_size": info.step_size[0],
            "swap_rejection": info.swap_rejection.mean(),
            "barrier": info.barrier[0],
            "round_trips": info.round_trips.sum(),
            "diverging": info.diverging.sum(),
            "log_evidence": log_mean_exp(info.population_log_evidence),
        }

    def init(self, target: Target, key: Array, start: Start) -> TemperingState:
        replicas = self.settings.num_replicas
        u = start.positions(target, key, replicas)
        one = self.settings.rule.init((target.own or Own()).steps)
        return TemperingState(
            iteration=jnp.int32(0),
            replicas=starting(jax.vmap(jax.vmap(lambda v: evaluate(target, v)))(u)),
            ladder=real(self.settings.first_ladder),
            tally=empty_tally(self.num_chains, replicas),
            nonfinite=jnp.zeros(self.num_chains, jnp.int32),
            adaptation=jax.tree.map(lambda a: jnp.broadcast_to(a, (replicas - 1, *a.shape)), one),
        )

    def step(self, target: Target, key: Array, state: TemperingState) -> tuple[TemperingState, TemperingInfo]:
        settings, num_chains, above = self.settings, self.num_chains, self.settings.num_replicas - 1
        ladder, adaptation, tally = self._renewed(state)
        draw_key, noise_key = jax.random.split(key)
        normal, uniform = transition_noise(noise_key, num_chains * above, target.dim)
        normal, uniform = normal.reshape(num_chains, above, -1), uniform.reshape(num_chains, above, -1)

        fresh = jax.vmap(lambda k: evaluate(target, target.draw(k)))(chain_keys(draw_key, num_chains))
        steps = jax.vmap(settings.rule.step_size)(adaptation, ladder[1:])

        def move(normal: Array, uniform: Array, start: Point, beta: Array, step: Array) -> Any:
            step = step * (1.0 + settings.jitter * (2.0 * uniform[1] - 1.0))
            return trajectory(target, normal, uniform[0], start, beta, step, settings.num_leapfrog, None, self.unroll)

        over_chains = jax.vmap(jax.vmap(move), in_axes=(0, 0, 0, None, None))
        start = jax.tree.map(lambda a: a[:, 1:], state.replicas.point)
        moved = over_chains(normal, uniform, start, ladder[1:], steps)
        point = jax.tree.map(lambda new, rest: jnp.concatenate([new[:, None], rest], axis=1), fresh, moved.point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(state.iteration < self.num_warmup, new, old),
            jax.vmap(settings.rule.update)(adaptation, mean_acceptance(moved.acceptance, start)),
            adaptation,
        )

        increment = increments(point)
        probability = swap_probability(increment, ladder)
        tally = tally_up(tally, increment.value, ladder, 1.0 - probability)
        offered = (jnp.arange(above) + state.iteration) % 2 == 0
        replicas = exchange(state.replicas._replace(point=point), offered & (uniform[..., 2] < probability))
        heading, arrived = turned(replicas.heading)
        tally = tally._replace(round_trips=tally.round_trips + arrived)
        new = TemperingState(
            iteration=state.iteration + 1,
            replicas=replicas._replace(heading=heading),
            ladder=ladder,
            tally=tally,
            nonfinite=state.nonfinite + moved.nonfinite.sum(axis=1, dtype=jnp.int32),
            adaptation=adaptation,
        )
        step = settings.rule.step_size(jax.tree.map(lambda a: a[-1], adaptation), real(1.0))
        return new, TemperingInfo(
            acceptance_rate=moved.acceptance[:, -1],
            step_size=jnp.full(num_chains, step),
            swap_rejection=1.0 - probability.mean(axis=1),
            round_trips=tally.round_trips,
            barrier=jnp.full(num_chains, tally.rejection.sum() / jnp.maximum(tally.transitions, 1)),
            diverging=moved.diverging.any(axis=1),
            nonfinite=new.nonfinite,
            lp=self.log_density(new),
            energy=moved.energy[:, -1],
            n_steps=jnp.full(num_chains, above * settings.num_leapfrog + 1, jnp.int32),
            population=jnp.arange(num_chains) // (num_chains // self.populations),
            population_log_evidence=self._evidence(tally),
        )

    def _renewed(self, state: TemperingState) -> tuple[Array, Any, Tally]:
        """Ladder, step sizes and tally for the next transition.

        When a round ends, the ladder is respaced and the tally reset; the tally is also reset when the draws begin. The
        replicas keep their positions.
        """
        round_over = (state.iteration == np.asarray(round_ends(self.num_warmup), np.int32)).any()
        ladder = jnp.where(round_over, respaced(state.ladder, state.tally.rejection / state.tally.transitions), state.ladder)
        # A replica's step size is interpolated from the old ones at the neighbouring inverse temperatures.
        adaptation = jax.tree.map(
            lambda a: jnp.where(round_over, interpolated(ladder[1:], state.ladder[1:], a), a), state.adaptation
        )
        afresh = round_over | (state.iteration == self.num_warmup)
        empty = empty_tally(self.num_chains, self.settings.num_replicas)
        return ladder, adaptation, jax.tree.map(lambda new, old: jnp.where(afresh, new, old), empty, state.tally)

    def _evidence(self, tally: Tally) -> Array:
        bridges = tally.up.over_groups(self.populations) - tally.down.over_groups(self.populations)
        size = self.num_chains // self.populations
        return jnp.repeat(bridges.sum(axis=1), size, total_repeat_length=self.num_chains)


class ParallelTempering(EnsembleKernel, settings=TemperingSettings, kernel=TemperingKernel):
    """Parallel tempering from exact draws of q0; each chain has its own replicas.

    Draws are equally weighted, and each chain moves between modes as its replicas make round trips (``round_trips``). The
    ladder is in the state: ``Run(...).last_state.ladder`` (item, R). A warm-up shorter than 11 transitions keeps the
    initial ladder.
    """

    settings: TemperingSettings


def _at(point: Point, replica: int) -> Point:
    return jax.tree.map(lambda a: a[:, replica], point)

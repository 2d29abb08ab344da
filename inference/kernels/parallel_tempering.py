"""Non-reversible parallel tempering with a ladder that learns, and the evidence from its replicas.

A chain is R replicas, one at each of 0 = beta_1 < ... < beta_R = 1. A transition draws the replica at beta = 0 anew from q0,
moves every other one by an HMC trajectory at its own beta and step size, and offers swaps to the pairs (1, 2), (3, 4), ... in
even transitions and to (2, 3), (4, 5), ... in odd ones, each accepted with the probability

    alpha_k = min(1, exp((beta_{k+1} - beta_k) (tilt(x_k) - tilt(x_{k+1})))).

With swaps in this deterministic order a replica keeps its direction until it is rejected, so that round trips between q0
and the posterior do not become rarer as replicas are added. Sum_{j<k} E[1 - alpha_j] estimates the barrier Lambda(beta_k); in
rounds of doubling length during the warm-up the ladder is laid anew with equal rises of Lambda between neighbours, which
makes all rejections equal and the rate of round trips, 1 / (2 + 2 sum_k r_k / (1 - r_k)), the largest. About 2 Lambda(1)
replicas are a good number.

Every neighbouring pair is a bridge between its normalising constants,

    Z_{k+1} / Z_k = E_k[exp(d_k tilt / 2)] / E_{k+1}[exp(-d_k tilt / 2)],        d_k = beta_{k+1} - beta_k,

and log Z is the sum of the logarithms, with means over the sample transitions, where the ladder stands still. The bridge is
half as far as the step of plain stepping stones, log mean_k exp(d_k tilt), and both means have the same relative variance per
draw, Z_k Z_{k+1} / Z_{k+1/2}^2 - 1 (k + 1/2 being the inverse temperature in the middle), which is finite whatever the
posterior; so the biases of the two logarithms, of order 1 / draws, cancel to first order. The estimate is consistent, not
unbiased.

    Syed, Bouchard-Cote, Deligiannidis and Doucet (2022), Non-reversible parallel tempering: a scalable highly parallel
    MCMC scheme (the order of the swaps, the barrier, the ladder, the rate of round trips);
    Xie, Lewis, Fan, Kuo and Chen (2011), Improving marginal likelihood estimation (stepping stones);
    Meng and Wong (1996), Simulating ratios of normalizing constants via a simple identity (the geometric bridge).

Departures from Syed et al.: Lambda is interpolated linearly, not by a monotone cubic (the rounds make the difference vanish);
all pairs contribute to its estimate at every transition, swapped or not; all chains of an item share one ladder.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.populations import log_mean_exp, population_count
from cogen.inference.annealing.schedules import Schedule, Sigmoid, inverse_temperatures
from cogen.inference.annealing.step_size import ConstantGain, StepSizeRule, check_recorded, step_size_rule
from cogen.inference.kernels.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.kernels.replicas import (
    Replicas,
    Tally,
    empty_tally,
    exchange,
    interpolated,
    respaced,
    starting,
    swap_probability,
    tally_up,
    tilts,
    turned,
)
from cogen.inference.kernels.warmup_rounds import round_ends
from cogen.inference.targets.numpyro_target import Initial, Point, Target, evaluate
from cogen.inference.targets.sums import real

Array = jax.Array


class TemperingState(NamedTuple):
    """The state of all chains of one item."""

    i: Array
    """Transitions made."""
    z: dict[str, Array]
    """Unconstrained values of the latent sites, at beta = 1."""
    acceptance_rate: Array
    """Acceptance probability of the last trajectory at beta = 1."""
    step_size: Array
    """The step size at beta = 1."""
    swap_rejection: Array
    """Mean probability over the R - 1 pairs that a swap is rejected, at the last transition."""
    round_trips: Array
    """Journeys of replicas from beta = 0 to 1 and back so far, since the ladder last changed or the draws began."""
    barrier: Array
    """Lambda(1), the sum over pairs of the mean rejections over the same time, one value for all chains."""
    diverging: Array
    """Whether the energy error of any replica's trajectory passed 1000 nats or was not finite (it is rejected)."""
    nonfinite: Array
    """How many of the replicas' trajectories, since the start, met a gradient or density that was no number (rejected)."""
    lp: Array
    """Log density at beta = 1, unnormalised, in unconstrained coordinates."""
    energy: Array
    """Of the trajectory at beta = 1, before the swap."""
    n_steps: Array
    """Gradient evaluations of the last transition: (R - 1) L, and one for the draw of q0."""
    population: Array
    population_log_evidence: Array
    """The evidence estimate of the chain's population from all sample transitions so far: the last draw's is the answer."""
    replicas: Replicas
    ladder: Array
    """(R,) inverse temperatures."""
    tally: Tally
    adaptation: Any
    """The step-size rule's state, with a leading axis for the replicas above beta = 0."""
    rng_key: Array


class ParallelTempering(EnsembleKernel):
    """Parallel tempering from exact draws of q0, each chain an ensemble of replicas of its own.

    Draws are equally weighted, and each chain moves between modes as its replicas make round trips (``round_trips``). The
    ladder stands in the state: ``Inference(...).last_state.ladder`` (item, R). A warm-up shorter than 11 transitions leaves
    the first ladder as it is.

    :param model: a conditioned NumPyro model, or None for a recipe that `infer` binds.
    :param num_replicas: inverse temperatures R >= 2, the ends 0 and 1 included.
    :param num_leapfrog: gradient evaluations per replica and transition, L >= 1.
    :param step_size: a rule, followed by each replica for itself during the warm-up, or a fixed positive number.
    :param schedule: the first ladder: `Sigmoid`, `Linear`, `Geometric`, or any callable from R - 1 to R rising values.
    :param initial: q0, a NumPyro distribution over the latent site (or a mapping over sites), or a `GuideStart`; default
        the prior.
    :param num_populations: groups of chains whose evidences are estimated apart; default four.
    :param jitter: each trajectory's step is multiplied by a uniform draw from [1 - jitter, 1 + jitter], in [0, 1).

    Raises ValueError for values out of these ranges and TypeError for a schedule that is not a function.
    """

    chain_fields = TemperingState._fields[1:-5]
    evidence_kind = "stepping-stone"

    def __init__(
        self,
        model: Callable | None = None,
        *,
        num_replicas: int = 10,
        num_leapfrog: int = 5,
        step_size: StepSizeRule | float = ConstantGain(),
        schedule: Schedule = Sigmoid(-10.0, 4.0),
        initial: Initial = None,
        num_populations: int | None = None,
        jitter: float = 0.2,
    ) -> None:
        super().__init__(model)
        if num_replicas < 2:
            raise ValueError(f"num_replicas={num_replicas}: at least two are needed, at beta = 0 and at beta = 1")
        if num_leapfrog < 1:
            raise ValueError(f"num_leapfrog={num_leapfrog}: at least one is needed")
        if not 0.0 <= jitter < 1.0:
            raise ValueError(f"jitter={jitter}: it lies in [0, 1)")
        if not callable(schedule):
            raise TypeError(f"schedule={schedule}: a function from R - 1 to R inverse temperatures starts the ladder")
        first = inverse_temperatures(schedule, num_replicas - 1)
        if first.ndim != 1:
            raise ValueError(f"{type(schedule).__name__} gave a ladder per item: the replicas start from one for all items")
        self.num_replicas = num_replicas
        self.num_leapfrog = num_leapfrog
        self.step_size = step_size_rule(step_size)
        self.initial = initial
        self.num_populations = num_populations
        self.jitter = jitter
        self.gradients_to_start = num_replicas
        self._first_ladder = first

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        check_recorded(self.step_size, self._num_items)
        self._populations = population_count(num_chains, self.num_populations, resampling=False)
        self._round_ends = np.asarray(round_ends(num_warmup), np.int32)

    def path(self, state: TemperingState) -> dict[str, Array]:
        return {
            "acceptance_rate": state.acceptance_rate.mean(),
            "step_size": state.step_size[0],
            "swap_rejection": state.swap_rejection.mean(),
            "barrier": state.barrier[0],
            "round_trips": state.round_trips.sum(),
            "diverging": state.diverging.sum(),
            "log_evidence": log_mean_exp(state.population_log_evidence),
        }

    def get_diagnostics_str(self, state: TemperingState) -> str:
        acceptance, rejection = jnp.mean(state.acceptance_rate), jnp.mean(state.swap_rejection)
        return f"acc. prob {acceptance:.2f}, swaps rejected {rejection:.2f}, barrier {jnp.ravel(state.barrier)[0]:.2f}"

    def _init(self, target: Target, key: Array, num_chains: int) -> TemperingState:
        init_key, rng_key = jax.random.split(key)
        keys = jax.vmap(lambda k: chain_keys(k, self.num_replicas))(chain_keys(init_key, num_chains))
        point = jax.vmap(jax.vmap(lambda k: evaluate(target, target.draw(k))))(keys)
        replicas = starting(point)
        one = self.step_size.init(self._item)
        nothing = jnp.zeros(num_chains)
        return self._state(
            target,
            jnp.int32(0),
            replicas,
            real(self._first_ladder),
            empty_tally(num_chains, self.num_replicas),
            jax.tree.map(lambda a: jnp.broadcast_to(a, (self.num_replicas - 1, *a.shape)), one),
            rng_key,
            acceptance=nothing,
            rejection=nothing,
            diverging=nothing > 0,
            nonfinite=jnp.zeros(num_chains, jnp.int32),
            energy=-jax.vmap(lambda p: p.log_density(real(1.0)))(_at(point, -1)),
            n_steps=self.num_replicas,
            evidence=nothing,
        )

    def _sample(self, target: Target, state: TemperingState) -> TemperingState:
        num_chains, above = state.lp.shape[0], self.num_replicas - 1
        ladder, adaptation, tally = self._renewed(state)
        draw_key, noise_key = jax.random.split(jax.random.fold_in(state.rng_key, state.i))
        normal, uniform = transition_noise(noise_key, num_chains * above, target.dim)
        normal, uniform = normal.reshape(num_chains, above, -1), uniform.reshape(num_chains, above, -1)

        fresh = jax.vmap(lambda k: evaluate(target, target.draw(k)))(chain_keys(draw_key, num_chains))
        steps = jax.vmap(self.step_size.step_size)(adaptation, ladder[1:])

        def move(normal: Array, uniform: Array, start: Point, beta: Array, step: Array) -> Any:
            step = step * (1.0 + self.jitter * (2.0 * uniform[1] - 1.0))
            return trajectory(target, normal, uniform[0], start, beta, step, self.num_leapfrog, None, self._unroll)

        over_chains = jax.vmap(jax.vmap(move), in_axes=(0, 0, 0, None, None))
        start = jax.tree.map(lambda a: a[:, 1:], state.replicas.point)
        moved = over_chains(normal, uniform, start, ladder[1:], steps)
        point = jax.tree.map(lambda new, rest: jnp.concatenate([new[:, None], rest], axis=1), fresh, moved.point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(state.i < self._num_warmup, new, old),
            jax.vmap(self.step_size.update)(adaptation, mean_acceptance(moved.acceptance, start)),
            adaptation,
        )

        tilt = tilts(point)
        probability = swap_probability(tilt, ladder)
        tally = tally_up(tally, tilt.value, ladder, 1.0 - probability)
        offered = (jnp.arange(above) + state.i) % 2 == 0
        replicas = exchange(state.replicas._replace(point=point), offered & (uniform[..., 2] < probability))
        heading, arrived = turned(replicas.heading)
        return self._state(
            target,
            state.i + 1,
            replicas._replace(heading=heading),
            ladder,
            tally._replace(round_trips=tally.round_trips + arrived),
            adaptation,
            state.rng_key,
            acceptance=moved.acceptance[:, -1],
            rejection=1.0 - probability.mean(axis=1),
            diverging=moved.diverging.any(axis=1),
            nonfinite=state.nonfinite + moved.nonfinite.sum(axis=1, dtype=jnp.int32),
            energy=moved.energy[:, -1],
            n_steps=above * self.num_leapfrog + 1,
            evidence=self._evidence(tally),
        )

    def _renewed(self, state: TemperingState) -> tuple[Array, Any, Tally]:
        """Ladder, step sizes and tally for the coming transition: laid anew where a round ended, emptied there and where
        the draws begin. The replicas stay where they are."""
        round_over = (state.i == self._round_ends).any()
        ladder = jnp.where(round_over, respaced(state.ladder, state.tally.rejection / state.tally.transitions), state.ladder)
        # A replica takes its step size from those that were at the neighbouring inverse temperatures.
        adaptation = jax.tree.map(
            lambda a: jnp.where(round_over, interpolated(ladder[1:], state.ladder[1:], a), a), state.adaptation
        )
        afresh = round_over | (state.i == self._num_warmup)
        empty = empty_tally(state.lp.shape[0], self.num_replicas)
        return ladder, adaptation, jax.tree.map(lambda new, old: jnp.where(afresh, new, old), empty, state.tally)

    def _evidence(self, tally: Tally) -> Array:
        bridges = tally.up.over_groups(self._populations) - tally.down.over_groups(self._populations)
        num_chains = tally.round_trips.shape[0]
        return jnp.repeat(bridges.sum(axis=1), num_chains // self._populations, total_repeat_length=num_chains)

    def _state(
        self,
        target: Target,
        i: Array,
        replicas: Replicas,
        ladder: Array,
        tally: Tally,
        adaptation: Any,
        rng_key: Array,
        *,
        acceptance: Array,
        rejection: Array,
        diverging: Array,
        nonfinite: Array,
        energy: Array,
        n_steps: int,
        evidence: Array,
    ) -> TemperingState:
        num_chains = acceptance.shape[0]
        coldest = _at(replicas.point, -1)
        step = self.step_size.step_size(jax.tree.map(lambda a: a[-1], adaptation), real(1.0))
        return TemperingState(
            i=i,
            z=jax.vmap(target.sites)(coldest.u),
            acceptance_rate=acceptance,
            step_size=jnp.full(num_chains, step),
            swap_rejection=rejection,
            round_trips=tally.round_trips,
            barrier=jnp.full(num_chains, tally.rejection.sum() / jnp.maximum(tally.transitions, 1)),
            diverging=diverging,
            nonfinite=nonfinite,
            lp=jax.vmap(lambda p: p.log_density(real(1.0)))(coldest),
            energy=energy,
            n_steps=jnp.full(num_chains, n_steps, jnp.int32),
            population=jnp.arange(num_chains) // (num_chains // self._populations),
            population_log_evidence=evidence,
            replicas=replicas,
            ladder=ladder,
            tally=tally,
            adaptation=adaptation,
            rng_key=rng_key,
        )


def _at(point: Point, replica: int) -> Point:
    return jax.tree.map(lambda a: a[:, replica], point)

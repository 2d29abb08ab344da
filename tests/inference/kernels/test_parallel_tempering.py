"""Parallel tempering: exact draws, mode weights, evidence, its ladder, and broken swaps that the same tests find.

Statistical bounds: a false-alarm rate of at most 1e-4 each, with fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import LinearCase, moments_p_value, repeated_means_p_value

from cogen.diagnostics import diagnose, log_evidence
from cogen.inference import Geometric, Linear, ParallelTempering, Run, infer
from cogen.inference.annealing.schedules import Adaptive
from cogen.inference.kernels import parallel_tempering, replicas
from cogen.inference.kernels.kernel import GivenPositions
from cogen.inference.targets.sums import Sum

FALSE_ALARM = 1e-4


# --- a linear generator --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24)


@pytest.fixture(scope="module")
def linear_run(case):
    kernel = ParallelTempering(num_replicas=8, num_leapfrog=4, schedule=Linear())
    return Run(case.conditioned, kernel, num_warmup=200, num_chains=8, seed=1, progress=False)


@pytest.fixture(scope="module")
def linear(linear_run):
    return linear_run.draw(150)


def test_the_draws_are_exact(case, linear):
    assert moments_p_value(case, linear) > FALSE_ALARM
    assert linear["sample_stats"]["diverging"].values.mean() < 0.01
    assert (linear["sample_stats"]["nonfinite"].values == 0).all()
    assert diagnose(linear) == []
    assert linear["posterior"].attrs["adapted"] == 0  # what the warm-up learnt, the evidence does not see


def test_the_evidence_is_within_a_twentieth_of_a_nat(case, linear):
    found = log_evidence(linear)
    assert found.attrs["kind"] == "stepping-stone"
    error = found["estimate"].values - case.log_evidence
    assert repeated_means_p_value(error[:, None]) > FALSE_ALARM
    assert np.abs(error.mean()) < 0.05
    assert np.sqrt(np.mean(error**2)) < 0.13
    # The populations' standard error says what it is: t with 3 degrees of freedom has a mean square of 3.
    assert np.mean((error / found["standard_error"].values) ** 2) < 8
    growing = linear["sample_stats"]["population_log_evidence"].values  # (chain, draw, item)
    assert np.abs(growing[:, -1] - case.log_evidence).mean() < np.abs(growing[:, 0] - case.log_evidence).mean()
    np.testing.assert_array_equal(growing[0], growing[1])  # of one population


def test_the_ladder_makes_rejections_equal(linear, linear_run):
    tally, ladder = linear_run.last_state.tally, np.asarray(linear_run.last_state.ladder)
    rejection = np.asarray(tally.rejection / tally.transitions[:, None])  # (item, pair)
    assert (tally.transitions == 150).all()
    assert (np.diff(ladder, axis=1) > 0).all()
    assert (ladder[:, 0] == 0).all()
    assert (ladder[:, -1] == 1).all()
    spread = np.ptp(rejection, axis=1)  # with Monte Carlo errors of 0.02 per pair, in the ladder and here
    assert spread.mean() < 0.1
    assert spread.max() < 0.25
    assert (np.abs(ladder - np.linspace(0, 1, 8)).max(axis=1) > 0.2).all()
    barrier = linear["sample_stats"]["barrier"].values[:, -1]
    np.testing.assert_allclose(barrier, np.broadcast_to(rejection.sum(axis=1), barrier.shape), rtol=1e-5)


def test_round_trips_come_at_their_rate(linear, linear_run):
    """1 / (2 + 2 sum r / (1 - r)) a transition where a move forgets the increment, which four leapfrogs nearly do."""
    tally = linear_run.last_state.tally
    r = np.asarray(tally.rejection / tally.transitions[:, None])
    expected = 150 / (2 + 2 * (r / (1 - r)).sum(axis=1)).mean()
    trips = linear["sample_stats"]["round_trips"].values
    assert (np.diff(trips, axis=1) >= 0).all()
    # The first trips begin at the bottom only, and the last ones are cut: about one of a chain's replicas' worth.
    assert 0.6 * expected < trips[:, -1].mean() < 1.1 * expected


def test_what_is_counted(linear, linear_run):
    steps = linear["sample_stats"]["n_steps"].values
    assert (steps == 7 * 4 + 1).all()
    assert linear["sample_stats"]["gradient_evaluations"].values.tolist() == [8 * (8 + 350 * 29)] * 24
    assert "log_weight" not in linear["sample_stats"]


# --- invariance ----------------------------------------------------------------------------------------------------

LADDER, NOISE, SEEN = np.array([0.0, 0.05, 0.2, 0.5, 1.0]), 0.3, np.array([1.0, -0.5])


def gauss():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z, NOISE).to_event(1), obs=jnp.asarray(SEEN))


RIGHT, FLIPPED, WITHOUT_BETAS, STALE = range(4)


@pytest.fixture(scope="module")
def invariance_p_value():
    """Exact draws at every inverse temperature, ten transitions, and tests that every replica still has its distribution.

    The kernel is compiled once, with what may be broken chosen by a number when it runs.
    """
    chains = 4096
    kernel = ParallelTempering(gauss, num_replicas=5, num_leapfrog=1, step_size=0.4, schedule=lambda count: LADDER)
    precision = 1 + LADDER / NOISE**2
    mean, sd = LADDER[:, None] * SEEN / NOISE**2 / precision[:, None], np.sqrt(1 / precision)[:, None]
    exact = mean + sd * np.random.default_rng(3).normal(size=(chains, 5, 2))
    target, pure = kernel.target(), kernel.kernel(0, chains)
    probability, exchange = parallel_tempering.swap_probability, parallel_tempering.exchange

    def run(key, u, version):
        def chosen_probability(increment, ladder):
            flipped, without = probability(increment, -ladder), probability(increment, jnp.arange(5.0))
            right = probability(increment, ladder)
            return jnp.where(version == FLIPPED, flipped, jnp.where(version == WITHOUT_BETAS, without, right))

        def chosen_exchange(before, accepted):
            new, old = exchange(before, accepted), before.point
            stale = {
                name: jnp.where(version == STALE, getattr(old, name), getattr(new.point, name))
                for name in ("reference_gradient", "increment_gradient")
            }
            return new._replace(point=new.point._replace(**stale))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel_tempering, "swap_probability", chosen_probability)
            patch.setattr(parallel_tempering, "exchange", chosen_exchange)

            def step(k, state):
                return pure.step(target, jax.random.fold_in(key, k), state)[0]

            return jax.lax.fori_loop(0, 10, step, pure.init(target, key, GivenPositions(u))).replicas.point.u

    compiled = jax.jit(run)

    def p_value(version):
        u = compiled(jax.random.key(0), jnp.asarray(exact, jnp.float32), version)
        white = ((np.asarray(u) - mean) / sd).reshape(chains, -1)
        return min(1.0, 2 * min(repeated_means_p_value(white), repeated_means_p_value(white**2 - 1)))

    return p_value


def test_every_replica_keeps_its_distribution(invariance_p_value):
    assert invariance_p_value(RIGHT) > FALSE_ALARM


@pytest.mark.parametrize("version", [FLIPPED, WITHOUT_BETAS, STALE], ids=["sign flipped", "without betas", "stale gradient"])
def test_a_broken_swap_fails(version, invariance_p_value):
    assert invariance_p_value(version) < FALSE_ALARM


# --- its parts -----------------------------------------------------------------------------------------------------


def test_respaced_rises_equally_on_a_known_barrier():
    """Lambda(beta) = 3 beta^(1/4): after a few rounds the ladder is (k / R)^4, whatever it was."""
    ladder = jnp.linspace(0.0, 1.0, 9)
    for _ in range(8):
        ladder = replicas.respaced(ladder, 3 * jnp.diff(ladder**0.25))
    np.testing.assert_allclose(ladder, np.linspace(0, 1, 9) ** 4, atol=2e-3)
    still = replicas.respaced(ladder, jnp.zeros(8))  # nothing is ever rejected: nothing to learn
    np.testing.assert_allclose(still, ladder, atol=1e-6)


def test_a_log_sum_counts_beyond_what_float32_logarithms_can():
    """A running logaddexp of 100,000 terms near 10,000 would stand still."""
    values = 1e4 + np.random.default_rng(0).normal(size=(100_000, 1)).astype(np.float32)
    empty = replicas.LogSum(jnp.full(1, -jnp.inf), jnp.zeros(1))
    total, _ = jax.lax.scan(lambda s, v: (s.add(v), None), empty, jnp.asarray(values, jnp.float32))
    expected = 1e4 + np.log(np.exp(values.astype(np.float32).astype(float) - 1e4).sum())
    assert float(total.peak[0] - 1e4 + np.log(total.scaled[0])) == pytest.approx(expected - 1e4, abs=1e-3)
    dead = empty.add(jnp.full(1, -jnp.inf))
    assert float(dead.over_groups(1)[0]) == -np.inf
    assert float(dead.add(jnp.ones(1)).over_groups(1)[0]) == pytest.approx(1.0)


def test_tilts_that_are_no_numbers_move_down_only():
    increment = Sum(jnp.array([[1.0, -jnp.inf, 2.0, 3.0]]), jnp.zeros((1, 4)))
    probability = replicas.swap_probability(increment, jnp.array([0.0, 0.2, 0.5, 1.0]))
    np.testing.assert_allclose(probability, [[1.0, 0.0, np.exp(-0.5)]], rtol=1e-6)


# --- single chains, and refusals -----------------------------------------------------------------------------------


def test_a_single_chain_has_no_chain_axis():
    kernel = ParallelTempering(gauss, num_replicas=2, num_leapfrog=2)
    state = jax.eval_shape(lambda key: kernel.init(key, 40, None, (), {}), jax.random.key(0))
    after = jax.eval_shape(lambda s: kernel.sample(s, (), {}), state)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert after.z["z"].shape == (2,)
    assert {value.shape for value in after.info} == {()}


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"num_replicas": 1}, ValueError, "num_replicas=1"),
        ({"num_leapfrog": 0}, ValueError, "num_leapfrog=0"),
        ({"jitter": 1.0}, ValueError, "jitter=1.0"),
        ({"step_size": -1.0}, ValueError, "step_size=-1.0"),
        ({"schedule": lambda count: np.linspace(0.1, 1, count + 1)}, ValueError, "must rise from 0 to 1"),
        ({"schedule": lambda count: np.linspace(0, 1, count + 1)[None]}, ValueError, "a ladder per item"),
        ({"schedule": Adaptive()}, TypeError, "inverse temperatures of the ladder"),
        ({"schedule": Geometric(0.1), "num_populations": 5}, ValueError, "does not divide into 5"),
        ({"initial": dist.Normal(jnp.zeros(3), 1.0)}, ValueError, "initial for site 'z'"),
    ],
)
def test_refusals(settings, error, said):
    with pytest.raises(error, match=said):
        infer(gauss, ParallelTempering(**settings), num_warmup=10, num_samples=1, num_chains=8, seed=0, progress=False)

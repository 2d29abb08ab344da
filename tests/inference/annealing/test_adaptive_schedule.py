"""Inverse temperatures that are chosen as the run goes, and the same frozen."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from known import LinearCase, moments_p_value

from cogen.diagnostics import diagnose, log_evidence
from cogen.inference import Adaptive, AnnealedHMC, Ladder, PyroAnnealedHMC, RecordedSteps, Sigmoid, infer
from cogen.inference.annealing.schedules import conditional_ess, inverse_temperatures
from cogen.inference.targets.sums import Sum


def test_the_conditional_ess_of_a_rise():
    rng = np.random.default_rng(0)
    increment, weight = rng.normal(size=100) * 5, rng.random(100)
    v = np.exp(0.3 * increment)
    w = weight / weight.sum()
    wanted = (w @ v) ** 2 / (w @ v**2)
    found = conditional_ess(jnp.float32(0.3), Sum(jnp.asarray(increment, jnp.float32), jnp.zeros(100)), jnp.log(weight))
    assert float(found) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_the_next_beta_has_that_conditional_ess(target):
    rng = np.random.default_rng(1)
    increment = Sum(jnp.asarray(rng.normal(size=500) * 40 - 1e5, jnp.float32), jnp.zeros(500))
    weight = jnp.asarray(rng.normal(size=500), jnp.float32)
    beta = Adaptive(target).next(jnp.float32(0.2), increment, weight)
    assert float(conditional_ess(beta - 0.2, increment, weight)) == pytest.approx(target, abs=0.01)
    assert float(Adaptive(target).next(jnp.float32(0.2), Sum(0 * increment.high, increment.low), weight)) == 1.0


def test_dead_particles_do_not_stop_the_annealing():
    increment = Sum(jnp.asarray([-jnp.inf, 1.0, 2.0, jnp.nan]), jnp.zeros(4))
    weight = jnp.asarray([0.0, 0.0, 0.0, -jnp.inf])
    assert float(Adaptive(0.5).next(jnp.float32(0.0), increment, weight)) == 1.0


@pytest.fixture(scope="module")
def case():
    return LinearCase(24)


def options(**changes):
    return {"num_warmup": 100, "num_samples": 2, "num_chains": 64, "seed": 3, "progress": False, "items_at_once": 24} | changes


@pytest.fixture(scope="module")
def frozen(case):
    return infer(case.conditioned, AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.95)), pilot=32, **options())


def test_pilot_and_frozen_run_are_exact(case, frozen):
    """False alarms: 1e-4."""
    assert frozen["posterior"].attrs["adapted"] == 0
    assert moments_p_value(case, frozen) > 1e-4
    error = log_evidence(frozen)["estimate"].values - case.log_evidence
    assert abs(np.log(np.exp(error).mean())) < 0.1


def test_items_walk_their_own_ladders_and_wait(case, frozen):
    beta = frozen["warmup_sample_stats"]["beta"].values
    needed = (beta < 1).sum(axis=0) + 1
    assert needed.min() < needed.max() < 60
    assert (frozen["warmup_sample_stats"]["conditional_ess"].values > 0.8).all()
    pilot_chains, run_chains, L = 32, 64, 5
    gradients = frozen["sample_stats"]["gradient_evaluations"].values
    assert (gradients == pilot_chains * (1 + L * (needed + 1)) + run_chains * (1 + L * (needed + 2))).all()


def test_what_was_frozen_can_be_read_again(case, frozen):
    ladder, steps = Ladder.of(frozen), RecordedSteps.of(frozen)
    assert ladder.beta.shape[0] == 24
    kernel = AnnealedHMC(num_leapfrog=5, schedule=ladder, step_size=steps)
    again = infer(case.conditioned, kernel, **options())
    np.testing.assert_allclose(again["posterior"]["z"].values, frozen["posterior"]["z"].values, atol=1e-3)
    with pytest.raises(ValueError, match="num_warmup allows 3"):
        infer(case.conditioned, kernel, **options(num_warmup=3))
    with pytest.raises(ValueError, match="of 24 items were recorded, but this run has 4"):
        infer(LinearCase(4).conditioned, kernel, **options())


def test_several_moves_at_a_temperature():
    case = LinearCase(4)
    kernel = AnnealedHMC(num_leapfrog=3, schedule=Adaptive(0.9), moves_per_temperature=3)
    run = infer(case.conditioned, kernel, pilot=32, **options(num_warmup=150))
    beta = run["warmup_sample_stats"]["beta"].values[:, 0]
    arrived = int(np.argmax(beta == 1)) + 3
    assert (np.diff(beta[:arrived].reshape(-1, 3), axis=1) == 0).all()
    assert Ladder.of(run).beta.shape[1] - 1 == (run["warmup_sample_stats"]["beta"].values < 1).sum(axis=0).max() // 3 + 1


@pytest.mark.parametrize("library", ["numpyro", "pyro"])
def test_a_ladder_is_whole(library):
    """The path keeps 200 points of more temperatures than that; what is frozen keeps every one."""
    case, warmup = LinearCase(2), 1000
    kind = AnnealedHMC if library == "numpyro" else PyroAnnealedHMC
    run = infer(case.conditioned, kind(num_leapfrog=1, schedule=Adaptive(0.9999)), **options(num_warmup=warmup, num_chains=16))
    path = run["warmup_sample_stats"]
    ladder, steps = Ladder.of(run), RecordedSteps.of(run)
    assert path["beta"].shape[0] <= 200 < ladder.beta.shape[1] - 1
    at = path["transition"].values
    np.testing.assert_array_equal(path["ladder_beta"].values[at], path["beta"].values)
    for item in range(2):
        walked = path["ladder_beta"].values[:, item]
        count = int((walked < 1).sum()) + 1
        np.testing.assert_array_equal(ladder.beta[item, : count + 1], [0.0, *walked[:count]])
        assert (ladder.beta[item, count:] == 1).all()
    np.testing.assert_array_equal(steps.steps, path["ladder_step_size"].values.T)


def test_a_fixed_schedule_is_a_ladder_where_its_path_is_whole():
    model = LinearCase(1).conditioned
    few, many = (infer(model, AnnealedHMC(num_leapfrog=1), **options(num_warmup=count)) for count in (20, 500))
    np.testing.assert_allclose(Ladder.of(few).beta[0], Sigmoid(-10, 4)(20), rtol=1e-6)
    with pytest.raises(ValueError, match="recorded path is thinned"):
        Ladder.of(many)


def test_a_limit_that_is_too_small_shows(case):
    short = infer(case.conditioned, AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.99)), **options(num_warmup=3))
    assert (short["warmup_sample_stats"]["beta"].values[-1] == 1).all()
    assert short["warmup_sample_stats"]["conditional_ess"].values[-1].min() < 0.3
    assert any("step in beta" in sentence for sentence in diagnose(short))


def test_an_adaptive_run_says_so(case):
    run = infer(case.conditioned, AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9), step_size=0.2), **options())
    assert run["posterior"].attrs["adapted"] == 1
    assert abs(np.mean(log_evidence(run)["estimate"].values - case.log_evidence)) < 0.3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_fractions_out_of_range(fraction):
    with pytest.raises(ValueError, match="between 0 and 1"):
        Adaptive(fraction)


def test_ladders_are_checked():
    with pytest.raises(ValueError, match="rise from 0 to 1"):
        Ladder(np.array([[0.0, 0.5, 0.4, 1.0]]))
    with pytest.raises(ValueError, match="item, points"):
        Ladder(np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="not annealed"):
        Ladder.of({"warmup_sample_stats": xr.Dataset()})
    assert inverse_temperatures(Ladder(np.array([[0.0, 0.5, 1.0], [0.0, 1.0, 1.0]])), 3).shape == (2, 4)


def test_a_pilot_needs_something_to_freeze(case):
    import numpyro.infer

    from cogen.inference import GradientDescent

    with pytest.raises(ValueError, match="a pilot requires a kernel of cogen"):
        infer(case.conditioned, GradientDescent(), pilot=4, **options())
    with pytest.raises(ValueError, match="a kernel of cogen that adapts"):
        infer(case.conditioned, numpyro.infer.NUTS, pilot=4, **options())
    with pytest.raises(ValueError, match="pilot=-1"):
        infer(case.conditioned, AnnealedHMC(), pilot=-1, **options())

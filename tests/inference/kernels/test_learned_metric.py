"""A metric learned from the other populations, and chains drawn from more exact draws, beside broken ones."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from known import LinearCase, moments_p_value

from cogen.diagnostics import evidence_bounds, log_evidence, simulate
from cogen.inference import Adaptive, AnnealedHMC, ParticleCovariance, PyroAnnealedHMC, infer
from cogen.inference.annealing.populations import select
from cogen.inference.kernels import annealed_hmc
from cogen.inference.targets.sums import Sum

ITEMS = 24


def run(case, kernel, *, num_warmup=40, num_chains=64, seed=3):
    options = {"num_warmup": num_warmup, "num_chains": num_chains, "seed": seed}
    return infer(case.conditioned, kernel, num_samples=1, progress=False, items_at_once=ITEMS, **options)


def relative_bias(case, posterior):
    """The mean over items of Zhat / Z, less one, in standard errors."""
    ratio = np.exp(log_evidence(posterior)["estimate"].values - case.log_evidence)
    return (ratio.mean() - 1.0) / (ratio.std(ddof=1) / np.sqrt(len(ratio)))


# --- the metric ----------------------------------------------------------------------------------------------------


def test_it_is_the_shrunken_covariance_of_the_others():
    rng = np.random.default_rng(0)
    u, log_weight = rng.normal(size=(40, 3)) @ rng.normal(size=(3, 3)) + 5.0, rng.normal(size=40)
    log_weight[[1, 25]] = -np.inf
    learn = functools.partial(ParticleCovariance().of_the_others, count=4)
    found = np.asarray(learn(jnp.asarray(u), jnp.asarray(log_weight)))
    for p in range(4):
        others = np.arange(40) // 10 != p
        weight = np.exp(log_weight[others]) / np.exp(log_weight[others]).sum()
        share = 3 / (3 + 1 / (weight**2).sum())
        expected = np.cov(u[others].T, aweights=weight, ddof=0)
        np.testing.assert_allclose(found[p], np.where(np.eye(3), expected, (1 - share) * expected), rtol=1e-4)
        elsewhere = np.where(others[:, None], u, 100.0)  # its own particles do not matter
        np.testing.assert_allclose(np.asarray(learn(jnp.asarray(elsewhere), jnp.asarray(log_weight)))[p], found[p], rtol=1e-4)


def test_copies_of_one_particle_and_dead_ones_leave_a_positive_matrix():
    learn = functools.partial(ParticleCovariance().of_the_others, count=2)
    for u, log_weight in ((jnp.ones((8, 2)), jnp.zeros(8)), (jnp.arange(16.0).reshape(8, 2), jnp.full(8, -jnp.inf))):
        assert (np.linalg.eigvalsh(np.asarray(learn(u, log_weight), float)) > 0).all()


@pytest.fixture(scope="module")
def wide():
    """As many latents as there are chains in a population."""
    return LinearCase(ITEMS, latent_dim=16, outputs=40, seen=24)


WIDE = AnnealedHMC(
    inverse_mass=ParticleCovariance(), schedule=Adaptive(0.6), num_leapfrog=3, moves_per_temperature=2, step_size=0.6
)


def test_the_evidence_has_no_bias_that_shows(wide):
    posterior = run(wide, WIDE)
    assert posterior["posterior"].attrs["adapted"] == 1
    assert abs(relative_bias(wide, posterior)) < 4


def test_a_covariance_of_the_particles_that_it_moves_fails(wide, monkeypatch):
    def of_all(self, u, log_weight, count):
        return jnp.broadcast_to(jnp.cov(u.T) + 1e-6 * jnp.eye(u.shape[1]), (count, u.shape[1], u.shape[1]))

    monkeypatch.setattr(ParticleCovariance, "of_the_others", of_all)
    assert relative_bias(wide, run(wide, WIDE)) < -4


@pytest.mark.parametrize("weighted", [pytest.param(True, marks=pytest.mark.slow), False])
def test_without_resampling_it_goes_by_the_weights_or_all_chains_alike(wide, weighted):
    kernel = AnnealedHMC(inverse_mass=ParticleCovariance(), resample_threshold=0, weighted=weighted, num_leapfrog=3)
    posterior = run(wide, kernel, num_chains=16, num_warmup=20)
    assert np.isfinite(posterior["posterior"]["z"].values).all()
    assert ("log_weight" in posterior["sample_stats"]) == weighted


def test_what_it_cannot_do_is_said(wide):
    kernel = AnnealedHMC(inverse_mass=ParticleCovariance())
    with pytest.raises(ValueError, match="requires at least two populations"):
        run(wide, kernel.replace(num_populations=1), num_chains=4)
    with pytest.raises(ValueError, match="is not recorded by a pilot"):
        kernel.frozen(run(wide, kernel, num_chains=8, num_warmup=4))
    with pytest.raises(ValueError, match="requires a NumPyro model"):
        PyroAnnealedHMC(inverse_mass=ParticleCovariance())


# --- more draws at the start ---------------------------------------------------------------------------------------


def test_select_levels_and_names_what_it_copies():
    log_weight = jnp.log(jnp.asarray([0.0, 0.0, 1.0, 3.0, 4.0, 4.0, 4.0, 4.0]))
    index, level, first = select(jnp.asarray([0.5, 0.5]), Sum(log_weight, jnp.zeros(8)), 2, 2)
    assert index.tolist() == [2, 3, 4, 6] or index.tolist() == [3, 3, 4, 6]
    np.testing.assert_allclose(level.value, np.log([1.0, 1.0, 4.0, 4.0]), rtol=1e-6)
    same = index[:, None] == index
    assert first.tolist() == np.argmax(same, axis=1).tolist()


@pytest.fixture(scope="module")
def case():
    return LinearCase(ITEMS)


@pytest.mark.slow
def test_more_draws_on_a_fixed_schedule_keep_moments_and_evidence(case):
    posterior = run(case, AnnealedHMC(step_size=0.15, moves_per_temperature=2, start_draws=16), num_warmup=60)
    assert posterior["posterior"].attrs["adapted"] == 0
    assert moments_p_value(case, posterior) > 1e-4


@pytest.mark.slow
def test_more_draws_spare_temperatures_and_keep_the_evidence(case):
    settings = {"schedule": Adaptive(0.5), "step_size": 0.15, "num_leapfrog": 5}
    few, more = (run(case, AnnealedHMC(start_draws=k, **settings)) for k in (1, 16))
    assert abs(relative_bias(case, more)) < 4
    assert moments_p_value(case, more) > 1e-4
    ancestors = more["sample_stats"]["ancestor"].values
    assert ((ancestors >= 0) & (ancestors < 64)).all()
    beta = [each["warmup_sample_stats"]["ladder_beta"].values[0] for each in (few, more)]
    assert (beta[1] > beta[0]).all()
    gradients = [each["posterior"].attrs["gradient_evaluations"] for each in (few, more)]
    assert gradients[1] < gradients[0]


def test_chains_that_are_chosen_without_their_weights_fail(case, monkeypatch):
    right = annealed_hmc.select

    def careless(uniform, log_weight, count, survivors):
        _, level, first = right(uniform, log_weight, count, survivors)
        index, _, _ = right(uniform, Sum(*(0.0 * part for part in log_weight)), count, survivors)
        return index, level, first

    monkeypatch.setattr(annealed_hmc, "select", careless)
    kernel = AnnealedHMC(step_size=0.15, num_leapfrog=2, start_draws=16, schedule=Adaptive(0.5))
    assert moments_p_value(case, run(case, kernel, num_warmup=40)) < 1e-4


@pytest.mark.slow
def test_it_goes_with_a_pilot_and_with_the_bridge(case):
    kernel = AnnealedHMC(schedule=Adaptive(0.7), num_leapfrog=5, moves_per_temperature=2, start_draws=8)
    options = {"num_warmup": 60, "num_samples": 1, "num_chains": 64, "seed": 5, "progress": False, "items_at_once": ITEMS}
    frozen = infer(case.conditioned, kernel, pilot=32, **options)
    assert frozen["posterior"].attrs["adapted"] == 0
    assert moments_p_value(case, frozen) > 1e-4
    bridged = infer(case.conditioned, kernel.replace(bridge=True), **options)
    error = log_evidence(bridged)["estimate"].values - case.log_evidence
    assert abs(error.mean()) < 4 * error.std(ddof=1) / np.sqrt(ITEMS)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start_draws": 0}, "start_draws=0: it must be at least 1"),
        ({"start_draws": 4, "resample_threshold": 0.0}, "resample_threshold=0"),
    ],
)
def test_wrong_counts_of_draws_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AnnealedHMC(**settings)


def test_more_draws_have_no_upper_bound(case):
    items, truth = simulate(case.model, 2, seed=0)
    kernel = AnnealedHMC(step_size=0.1, start_draws=4)
    with pytest.raises(ValueError, match="no upper bound"):
        evidence_bounds(items, kernel, truth, num_warmup=4, num_chains=8, seed=0, progress=False)

"""Langevin dynamics: MALA's exactness, ULA's known bias, preconditioners, and broken versions that the same test finds.

Statistical bounds: a false-alarm rate of at most 1e-4 each, with fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import LinearCase, moments_p_value, repeated_means_p_value

from cogen.inference import Langevin, MovingAverage, Run, Tuning, infer
from cogen.inference.items import take_items
from cogen.inference.kernels import langevin
from cogen.inference.kernels.kernel import GivenPositions

FALSE_ALARM = 1e-4


# --- a linear generator --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24)


@pytest.fixture(scope="module")
def mala_run(case):
    kernel = Langevin(adapt_preconditioner=True)
    return Run(case.conditioned, kernel, num_warmup=300, num_chains=8, seed=1, progress=False)


@pytest.fixture(scope="module")
def mala(mala_run):
    return mala_run.draw(200)


def test_mala_is_exact(case, mala):
    assert moments_p_value(case, mala) > FALSE_ALARM
    assert mala["posterior"].attrs["evidence_kind"] == ""
    assert mala["sample_stats"]["gradient_evaluations"].values.tolist() == [8 * (1 + 500)] * 24


def test_the_step_size_went_to_the_best_acceptance_and_stands(mala):
    acceptance, step = (mala["sample_stats"][name].values for name in ("acceptance_rate", "step_size"))
    assert acceptance.mean(axis=(0, 1)) == pytest.approx(0.574, abs=0.12)  # one step size for each item, from the last moves
    assert acceptance.mean() == pytest.approx(0.574, abs=0.04)
    assert np.ptp(step, axis=(0, 1)).max() == 0
    assert np.ptp(step) > 0


def test_the_preconditioner_is_the_posterior_s_variance(case, mala_run):
    """Standard deviations from 8 chains over the last of the rounds, 120 transitions that are correlated: about 10 %."""
    scale = np.asarray(mala_run.last_state.scale)  # (item, dim)
    np.testing.assert_allclose(scale.mean(axis=0), np.sqrt(np.diag(case.covariance)), rtol=0.1)
    np.testing.assert_allclose(scale, np.broadcast_to(np.sqrt(np.diag(case.covariance)), scale.shape), rtol=0.5)


# --- invariance, and ULA's bias ------------------------------------------------------------------------------------

SCALES = np.array([0.1, 2.0])
COVARIANCE = np.outer(SCALES, SCALES) * np.array([[1.0, 0.7], [0.7, 1.0]])
MEAN = np.array([0.5, -1.0])


def correlated():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    exact = dist.MultivariateNormal(jnp.asarray(MEAN), jnp.asarray(COVARIANCE)).log_prob(z)
    numpyro.factor("y", exact - dist.Normal(0, 3.0).log_prob(z).sum())


RIGHT, NO_WAY_BACK, STALE = range(3)


def whitened_draws(kernel, transitions, chains=4096):
    """A function from a version of the kernel to its draws, whitened, from exact draws of the posterior; compiled once."""
    root = np.linalg.cholesky(COVARIANCE)
    exact = MEAN + np.random.default_rng(2).normal(size=(chains, 2)) @ root.T
    target, pure = kernel.target(), kernel.kernel(0, chains)
    ratio, choose = langevin.proposal_log_ratio, langevin.choose

    def run(key, u, version):
        def chosen_ratio(normal, pull):
            return jnp.where(version == NO_WAY_BACK, 0.0, ratio(normal, pull))

        def chosen_point(accepted, end, start):
            new = choose(accepted, end, start)
            return new._replace(
                increment_gradient=jnp.where(version == STALE, start.increment_gradient, new.increment_gradient)
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(langevin, "proposal_log_ratio", chosen_ratio)
            patch.setattr(langevin, "choose", chosen_point)
            state = pure.init(target, key, GivenPositions(u))

            def step(k, state):
                return pure.step(target, jax.random.fold_in(key, k), state)[0]

            return jax.lax.fori_loop(0, transitions, step, state).position

    compiled = jax.jit(run)

    def draws(version):
        u = compiled(jax.random.key(0), jnp.asarray(exact, jnp.float32), version)
        return np.linalg.solve(root, (np.asarray(u, float) - MEAN).T).T

    return draws


def moments_of(white):
    products = np.stack([white[:, 0] ** 2 - 1, white[:, 1] ** 2 - 1, white[:, 0] * white[:, 1]], axis=1)
    return repeated_means_p_value(np.concatenate([white, products], axis=1))


@pytest.fixture(scope="module")
def mala_draws():
    return whitened_draws(Langevin(correlated, step_size=0.9, preconditioner=SCALES**2), transitions=10)


def test_mala_keeps_the_posterior(mala_draws):
    assert moments_of(mala_draws(RIGHT)) > FALSE_ALARM


@pytest.mark.parametrize("version", [NO_WAY_BACK, STALE], ids=["no way back", "stale gradient"])
def test_broken_mala_does_not(mala_draws, version):
    assert moments_of(mala_draws(version)) < FALSE_ALARM


def test_ula_has_the_variance_that_theory_says():
    """M = covariance: every direction is an AR(1) series with the stationary variance 1 / (1 - h^2 / 4), here 4/3."""
    step, chains = 1.0, 8192
    kernel = Langevin(correlated, metropolis=False, step_size=step, preconditioner=COVARIANCE)
    white = whitened_draws(kernel, transitions=20, chains=chains)(RIGHT)
    variance = 1 / (1 - step**2 / 4)
    assert moments_of(white / np.sqrt(variance)) > FALSE_ALARM
    assert moments_of(white) < FALSE_ALARM


# --- states, statistics and refusals -------------------------------------------------------------------------------


def test_ula_has_no_acceptance_and_mala_has():
    shapes = [
        jax.eval_shape(lambda key, kernel=kernel: kernel.sample(kernel.init(key, 20, None, (), {}), (), {}), jax.random.key(0))
        for kernel in (Langevin(correlated), Langevin(correlated, metropolis=False, step_size=0.1))
    ]
    assert shapes[0].z["z"].shape == (2,)
    assert shapes[0].acceptance_rate.shape == shapes[0].lp.shape == shapes[0].n_steps.shape == ()
    assert shapes[1].acceptance_rate is None


def test_proposals_that_are_no_numbers_are_rejected_and_counted():
    """log z of a negative z is no number; ULA would walk there."""

    def positive():
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.factor("y", -jnp.where(z > 0, z, jnp.sqrt(z)))

    kernel = Langevin(positive, metropolis=False, step_size=1.0)
    target, pure = kernel.target(), kernel.kernel(0, 64)

    @jax.jit
    def run(key):
        state = pure.init(target, key, GivenPositions(jnp.ones((64, 1))))

        def step(k, state):
            return pure.step(target, jax.random.fold_in(key, k), state)[0]

        return jax.lax.fori_loop(0, 10, step, state)

    after = run(jax.random.key(0))
    assert (after.position > 0).all()
    assert 0 < after.nonfinite.sum() < 640
    assert np.isfinite(pure.log_density(after)).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"metropolis": False}, "ULA rejects no proposals"),
        ({"metropolis": False, "step_size": MovingAverage()}, "ULA rejects no proposals"),
        ({"preconditioner": np.ones(2), "adapt_preconditioner": True}, "choose one"),
        ({"preconditioner": np.array([1.0, -1.0])}, "must be positive"),
        ({"preconditioner": np.array([[1.0, 2.0], [2.0, 1.0]])}, "positive definite"),
        ({"preconditioner": np.array([[1.0, 0.5], [0.0, 1.0]])}, "positive definite"),
        ({"preconditioner": np.ones((2, 3))}, "has shape"),
        ({"preconditioner": np.ones(3)}, "2 unconstrained coordinates"),
        ({"initial": dist.Normal(jnp.zeros(3), 1.0)}, "initial for site 'z'"),
    ],
)
def test_refusals(settings, said):
    with pytest.raises(ValueError, match=said):
        infer(correlated, Langevin(**settings), num_warmup=10, num_samples=1, num_chains=4, seed=0, progress=False)


# --- a pilot -------------------------------------------------------------------------------------------------------


def test_a_pilot_freezes_the_step_sizes_and_the_metric(case, tmp_path):
    run = Run(case.conditioned, Langevin(adapt_preconditioner=True), num_warmup=150, num_chains=8, seed=3, progress=False)
    tuning = run.pilot(8)
    assert tuning.beta.shape == tuning.step_size.shape == (24, 1)
    np.testing.assert_allclose(tuning.variance.mean(axis=0), np.diag(case.covariance), rtol=0.25)
    posterior = run.draw(200)
    assert moments_p_value(case, posterior) > FALSE_ALARM
    np.testing.assert_allclose(posterior["sample_stats"]["step_size"].values[0, 0], tuning.step_size[:, 0], rtol=1e-6)
    np.testing.assert_allclose(np.asarray(run.last_state.scale) ** 2, tuning.variance, rtol=1e-5)

    loaded = Tuning.load(tuning.save(tmp_path / "tuning"))
    assert (loaded.variance == tuning.variance).all()
    some = take_items(case.conditioned.item_data, np.array([7, 2]))
    few = case.conditioned.of_items(some).with_ids([7, 2])
    again = Run(few, Langevin(adapt_preconditioner=True).frozen(loaded), num_warmup=5, num_chains=2, seed=0, progress=False)
    again.draw(1)
    np.testing.assert_allclose(np.asarray(again.last_state.scale) ** 2, tuning.variance[[7, 2]], rtol=1e-5)
    other = few.with_ids([7, 99])
    with pytest.raises(ValueError, match=r"the items with the ids \[99\] were not recorded"):
        Run(other, Langevin(adapt_preconditioner=True).frozen(loaded), num_warmup=5, num_chains=2, seed=0, progress=False)


def test_a_pilot_of_ula_finds_a_metric_and_leaves_its_step_alone(case):
    kernel = Langevin(metropolis=False, step_size=0.3, adapt_preconditioner=True)
    run = Run(case.conditioned, kernel, num_warmup=50, num_chains=4, seed=3, progress=False)
    tuning = run.pilot(4)
    posterior = run.draw(1)
    assert (posterior["sample_stats"]["step_size"].values == np.float32(0.3)).all()
    np.testing.assert_allclose(np.asarray(run.last_state.scale) ** 2, tuning.variance, rtol=1e-5)
    swapped = case.conditioned.with_ids([1, 0, *range(2, 24)])
    other = Run(swapped, kernel.frozen(tuning), num_warmup=5, num_chains=2, seed=0, progress=False)
    other.draw(1)  # rows are found by their ids
    np.testing.assert_allclose(np.asarray(other.last_state.scale)[0] ** 2, tuning.variance[1], rtol=1e-5)


def test_what_learns_nothing_has_no_pilot(case):
    with pytest.raises(ValueError, match="a pilot requires a kernel of cogen that adapts"):
        infer(case.conditioned, Langevin(metropolis=False, step_size=0.1), num_warmup=5, pilot=4, seed=0, progress=False)

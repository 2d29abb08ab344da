"""BlackJAX's samplers through the adapter: exact draws, tempered SMC's evidence, broken versions that the same tests find.

Statistical bounds: a false-alarm rate of at most 1e-4 each, with fixed seeds.
"""

import functools
import sys

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from blackjax.mcmc.hmc import hmc_proposal
from blackjax.smc.base import extend_params
from blackjax.smc.resampling import systematic
from known import LinearCase, moments_p_value, relative_weights, repeated_means_p_value

from cogen.diagnostics import log_evidence
from cogen.inference import Run
from cogen.inference.adapters.blackjax_kernel import BlackJAX

FALSE_ALARM = 1e-4
CHAINS, PARTICLES = 4, 64


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24)


def drawn(case, kernel, warmup, samples, chains=CHAINS):
    run = Run(case.conditioned, kernel, num_warmup=warmup, num_chains=chains, seed=1, progress=False)
    return run.draw(samples), run


# --- Markov chains -------------------------------------------------------------------------------------------------


CHAINS_OF_BLACKJAX = {
    "nuts": (BlackJAX(blackjax.nuts, adapt=True), 100, 40),
    "mala": (BlackJAX(blackjax.mala, adapt=True, target_acceptance=0.574), 200, 200),
    "elliptical_slice": (BlackJAX(blackjax.elliptical_slice, mean=jnp.full(8, 0.3), cov=0.8 * jnp.eye(8)), 40, 30),
}


@pytest.fixture(scope="module", params=CHAINS_OF_BLACKJAX)
def chain(request, case):
    return request.param, *drawn(case, *CHAINS_OF_BLACKJAX[request.param])


def test_chains_are_exact_and_tell_what_they_know(case, chain):
    name, posterior, _ = chain
    assert moments_p_value(case, posterior) > FALSE_ALARM
    told = set(posterior["sample_stats"].data_vars)
    always = {"gradient_evaluations", "lp", "n_steps", "seen_misfit"}  # the last is of the model
    assert (
        told
        == {
            "nuts": always | {"acceptance_rate", "diverging", "energy", "step_size"},
            "mala": always | {"acceptance_rate", "step_size"},
            "elliptical_slice": always,
        }[name]
    )
    attributes = posterior["posterior"].attrs
    assert attributes["evidence_kind"] == ""
    assert attributes["adapted"] == 0
    assert attributes["num_populations"] == 0
    z = posterior["posterior"]["z"].values[0, -1].astype(float)  # (item, latent): lp is the joint's, on this scale
    white = case.whitened(z)
    constant = posterior["sample_stats"]["lp"].values[0, -1] - case.log_evidence + 0.5 * (white**2).sum(axis=1)
    normalisation = -0.5 * np.linalg.slogdet(2 * np.pi * case.covariance)[1]
    np.testing.assert_allclose(constant, normalisation, atol=1e-3)


def test_what_was_learnt_stands_and_gradients_are_counted(chain):
    name, posterior, run = chain
    statistics = posterior["sample_stats"]
    gradients = statistics["gradient_evaluations"].values.tolist()
    if name == "elliptical_slice":
        assert gradients == [0] * 24
        return
    step = statistics["step_size"].values
    assert np.ptp(step, axis=1).max() == 0  # of every chain, over its draws
    assert (np.ptp(step, axis=0) > 0).all()  # each chain learns for itself
    if name == "mala":
        assert statistics["acceptance_rate"].values.mean() == pytest.approx(0.574, abs=0.1)
        assert gradients == [CHAINS * (1 + 400)] * 24
    else:
        assert statistics["acceptance_rate"].values.mean() == pytest.approx(0.85, abs=0.1)
        assert statistics["n_steps"].values.min() >= 1
        mass = np.asarray(run.last_state.adaptation[1].inverse_mass_matrix)  # (item, chain, dim)
        assert mass.shape == (24, CHAINS, 8)
        assert mass.max() < 0.9  # not one any more: variances of the posterior


def accept_always(key, log_p_accept, proposal, new_proposal):
    return new_proposal, (True, jnp.exp(log_p_accept), None)


def test_hmc_with_given_numbers_is_exact_and_without_its_rejections_is_not(case):
    numbers = {"step_size": 0.6, "inverse_mass_matrix": np.diag(case.covariance), "num_integration_steps": 3}
    posterior, _ = drawn(case, BlackJAX(blackjax.hmc, **numbers), 150, 80)
    assert moments_p_value(case, posterior) > FALSE_ALARM
    assert posterior["sample_stats"]["gradient_evaluations"].values.tolist() == [CHAINS * (1 + 3 * 230)] * 24
    np.testing.assert_allclose(posterior["sample_stats"]["step_size"].values, 0.6)
    assert 0.3 < posterior["sample_stats"]["acceptance_rate"].values.mean() < 0.95
    broken = functools.partial(hmc_proposal, sample_proposal=accept_always)
    posterior, _ = drawn(case, BlackJAX(blackjax.hmc, build_proposal=broken, **numbers), 150, 80)
    assert moments_p_value(case, posterior) < FALSE_ALARM


# --- tempered SMC --------------------------------------------------------------------------------------------------


def tempered(case, **changed):
    numbers = {"step_size": 0.6, "inverse_mass_matrix": jnp.asarray(np.diag(case.covariance)), "num_integration_steps": 4}
    settings = {
        "mcmc_step_fn": blackjax.hmc.build_kernel(),
        "mcmc_init_fn": blackjax.hmc.init,
        "mcmc_parameters": extend_params(numbers),
        "resampling_fn": systematic,
        "target_ess": 0.6,
        "num_mcmc_steps": 4,
    }
    return BlackJAX(blackjax.adaptive_tempered_smc, **{**settings, **changed})


@pytest.fixture(scope="module")
def smc(case):
    return drawn(case, tempered(case), 40, 4, PARTICLES)


def test_tempered_smc_has_the_evidence_and_the_posterior(case, smc):
    posterior, _ = smc
    found = log_evidence(posterior)
    assert found.attrs == {"kind": "annealed", "num_populations": 1, "adapted": 1}
    error = found["estimate"].values - case.log_evidence
    assert np.isnan(found["standard_error"].values).all()
    assert np.sqrt(np.mean(error**2)) < 0.4
    # The choice of temperatures biases the estimate by O(1 / N); of 64 particles that is below what 24 items can see.
    assert repeated_means_p_value(np.expm1(error)[:, None]) > FALSE_ALARM
    assert np.abs(posterior["posterior"]["z"].values.mean(axis=(0, 1)) - case.mean).max() < 0.25
    weight = relative_weights(posterior, case.log_evidence)
    np.testing.assert_allclose(weight, np.broadcast_to(np.exp(error), weight.shape), rtol=1e-3)  # resampled at beta = 1
    assert moments_p_value(case, posterior) > FALSE_ALARM


def test_particles_wait_at_the_end_of_their_path(case, smc):
    posterior, _ = smc
    beta = posterior["warmup_sample_stats"]["beta"].values  # (point, item)
    assert (np.diff(beta, axis=0) >= 0).all()
    assert (beta[-1] == 1).all()
    assert len(beta) < 40
    steps = (beta < 1).sum(axis=0) + 1 + 4  # a rise each, then the draws
    cost = posterior["sample_stats"]["gradient_evaluations"].values
    np.testing.assert_array_equal(cost, PARTICLES * (4 * 4 + 1) * steps)


# --- states and refusals -------------------------------------------------------------------------------------------


def two():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z.sum(), 1.0), obs=0.5)


def test_a_warmup_that_is_too_short_takes_all_that_is_left():
    step = blackjax.additive_step_random_walk.build_kernel()
    settings = {
        "mcmc_step_fn": lambda key, state, density: step(key, state, density, normal_step),
        "mcmc_init_fn": blackjax.additive_step_random_walk.init,
        "mcmc_parameters": {},
        "resampling_fn": systematic,
        "target_ess": 0.999,
        "num_mcmc_steps": 2,
        "root_solver": lambda function, low, high: 0.125,
    }
    kernel = BlackJAX(blackjax.adaptive_tempered_smc, two, **settings)
    reported = set()

    @jax.jit
    def run(keys):
        def transition(state, _):
            state = kernel.sample(state, (), {})
            reported.update(name for name, value in state.info._asdict().items() if value is not None)
            return state, (state.state.beta, state.n_steps, state.state.arrived)

        return jax.lax.scan(transition, kernel.init(keys, 3, None, (), {}), length=4)[1]

    beta, n_steps, arrived = run(jax.random.split(jax.random.key(0), 16))
    assert beta.tolist() == [0.125, 0.25, 1.0, 1.0]
    assert arrived.tolist() == [False, False, True, True]
    assert (n_steps == 0).all()  # no gradient anywhere
    assert {"acceptance_rate", "log_weight"} <= reported
    assert not {"step_size", "energy"} & reported


def normal_step(key, position):
    return 0.5 * jax.random.normal(key, position.shape)


def test_one_chain_under_numpyro_s_own_mcmc():
    kernel = BlackJAX(blackjax.mala, two, step_size=0.5)

    def transition(key):
        return kernel.sample(kernel.init(key, 5, None, (), {}), (), {})

    one, many = (jax.eval_shape(transition, key) for key in (jax.random.key(0), jax.random.split(jax.random.key(0), 3)))
    assert one.z["z"].shape == (2,)
    assert one.lp.shape == one.n_steps.shape == ()
    assert many.z["z"].shape == (3, 2)
    assert many.acceptance_rate.shape == (3,)


@pytest.mark.parametrize(
    ("algorithm", "settings", "said"),
    [
        (blackjax.nuts, {}, "nuts requires inverse_mass_matrix, step_size.* or adapt=True"),
        (
            blackjax.hmc,
            {"adapt": True},
            "hmc requires num_integration_steps: BlackJAX\\(blackjax.hmc, num_integration_steps=...\\)$",
        ),
        (blackjax.mala, {"step_size": 0.1, "length": 3}, "mala has no length: it takes step_size"),
        (blackjax.elliptical_slice, {"adapt": True, "mean": 0.0, "cov": 1.0}, "has no step_size"),
        (blackjax.nuts, {"adapt": True, "target_acceptance": 1.0}, "target_acceptance=1.0"),
        (blackjax.nuts, {"step_size": 0.1, "inverse_mass_matrix": jnp.ones(3)}, "shape \\(3,\\), the model has 2"),
        (
            blackjax.adaptive_tempered_smc,
            {"target_ess": 0.5},
            "requires mcmc_init_fn, mcmc_parameters, mcmc_step_fn, resampling_fn",
        ),
        (blackjax.mgrad_gaussian, {"covariance": jnp.eye(2)}, "mgrad_gaussian does not sample exactly"),
        (blackjax.sgld, {}, "sgld does not sample exactly"),
        (blackjax.tempered_smc, {}, "adaptive_tempered_smc"),
    ],
)
def test_refusals(algorithm, settings, said):
    with pytest.raises(ValueError, match=said):
        Run(two, BlackJAX(algorithm, **settings), num_warmup=10, num_chains=4, seed=0)


def test_what_is_no_algorithm_and_what_cannot_be_prepared(monkeypatch):
    with pytest.raises(TypeError, match="not a sampling algorithm"):
        BlackJAX(blackjax.nuts.build_kernel)
    with pytest.raises(TypeError, match="not a sampling algorithm"):
        BlackJAX(blackjax.pathfinder)
    with pytest.raises(ValueError, match=r"num_warmup=0: blackjax\.nuts adapts"):
        Run(two, BlackJAX(blackjax.nuts, adapt=True), num_warmup=0, num_chains=4, seed=0)
    monkeypatch.setitem(sys.modules, "blackjax", None)
    with pytest.raises(ValueError, match="pip install blackjax"):
        BlackJAX(blackjax.nuts, adapt=True)

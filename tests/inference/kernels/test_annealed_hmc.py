"""The annealed kernel: what it refuses, what it counts, its masses, other paths, and its life inside NumPyro's MCMC.

Statistical bounds: a false-alarm rate of at most 1e-4 each, with fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pytest
import torch
from known import Repeated, repeated_means_p_value
from numpyro.infer import MCMC

from cogen.diagnostics import diagnose, independent_groups, log_evidence
from cogen.inference import AnnealedHMC, MovingAverage, PyroAnnealedHMC, Sigmoid, infer
from cogen.inference.kernels import hamiltonian

FALSE_ALARM = 1e-4
QUICK = {"num_samples": 2, "num_chains": 8, "seed": 0, "progress": False}


def gauss():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z.sum(), 0.5), obs=1.0)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_leapfrog": 0}, "num_leapfrog=0"),
        ({"moves_per_temperature": 0}, "moves_per_temperature=0"),
        ({"resample_threshold": 1.5}, "resample_threshold=1.5"),
        ({"jitter": 1.0}, "jitter=1.0"),
        ({"weighted": False}, "chains of equal weight are not resampled"),
        ({"step_size": 0.0}, "step_size=0.0"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(ValueError, match=said):
        AnnealedHMC(**settings)


@pytest.mark.parametrize(
    ("settings", "run", "said"),
    [
        ({}, {"num_warmup": 0}, "num_warmup=0"),
        ({"moves_per_temperature": 3}, {"num_warmup": 10}, "moves_per_temperature=3"),
        ({}, {"num_warmup": 10, "num_chains": 6}, "does not divide"),
        ({}, {"num_warmup": 10, "num_chains": 1}, "cannot be resampled"),
        ({"num_populations": 8}, {"num_warmup": 10}, "cannot be resampled"),
        ({"inverse_mass": np.ones(3)}, {"num_warmup": 10}, "inverse_mass has shape"),
        ({"inverse_mass": np.array([1.0, -1.0])}, {"num_warmup": 10}, "give positive numbers"),
        ({"inverse_mass": np.array([[1.0, 0.5], [0.0, 1.0]])}, {"num_warmup": 10}, "a symmetric positive definite matrix"),
        ({"initial": dist.Normal(jnp.zeros(3), 1)}, {"num_warmup": 10}, "initial for site 'z'"),
    ],
)
def test_runs_that_cannot_be(settings, run, said):
    with pytest.raises(ValueError, match=said):
        infer(gauss, AnnealedHMC(**settings), **{**QUICK, **run})


def test_a_recipe_has_no_model_and_a_kernel_with_a_model_is_no_recipe():
    with pytest.raises(ValueError, match="no model yet"):
        AnnealedHMC().target()
    with pytest.raises(ValueError, match="was constructed with a model"):
        infer(gauss, AnnealedHMC(gauss), num_warmup=10, **QUICK)


def test_starting_points_would_void_the_weights():
    with pytest.raises(ValueError, match="init_params"):
        AnnealedHMC(gauss).init(jax.random.split(jax.random.key(0), 8), 10, {"z": jnp.zeros((8, 2))}, (), {})


def test_single_chains_cannot_be_resampled_but_can_be_annealed():
    with pytest.raises(ValueError, match="cannot be resampled"):
        AnnealedHMC(gauss).init(jax.random.key(0), 10, None, (), {})
    kernel = AnnealedHMC(gauss, resample_threshold=0.0, num_leapfrog=2)
    mcmc = MCMC(kernel, num_warmup=10, num_samples=3, num_chains=1, progress_bar=False)
    mcmc.run(jax.random.key(0), extra_fields=("beta", "log_weight"))
    assert mcmc.get_samples()["z"].shape == (3, 2)
    assert (np.asarray(mcmc.get_extra_fields()["beta"]) == 1.0).all()
    assert np.ptp(mcmc.get_extra_fields()["log_weight"]) == 0


# --- badly scaled targets ------------------------------------------------------------------------------------------

SCALES = np.array([0.02, 3.0])
CORRELATED = np.array([[1.0, 0.9], [0.9, 1.0]])


def badly_scaled(covariance):
    root = jnp.asarray(np.linalg.cholesky(covariance), jnp.float32)

    def model():
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 3.0).to_event(1))
        with numpyro.handlers.mask(mask=True):
            exact = dist.MultivariateNormal(jnp.zeros(2), scale_tril=root).log_prob(z)
            numpyro.factor("y", exact - dist.Normal(0, 3.0).log_prob(z).sum())

    return model


def test_an_inverse_mass_leaves_the_posterior_as_it_is():
    """A wrong one would only be slow; here it is the right one, without which ten steps of this size would diverge."""
    covariance = np.outer(SCALES, SCALES) * CORRELATED
    posterior = infer(
        badly_scaled(covariance),
        AnnealedHMC(
            schedule=Sigmoid(-12, 4),
            inverse_mass=covariance,
            step_size=0.3,
            num_leapfrog=4,
            moves_per_temperature=2,
            resample_threshold=0.5,
        ),
        num_warmup=200,
        num_samples=3,
        num_chains=1024,
        seed=0,
        progress=False,
    )
    z = posterior["posterior"]["z"].values[:, -1]
    whitened = np.linalg.solve(np.linalg.cholesky(covariance), z.T)
    # 1,024 chains, at least about 400 of them of different descent: standard errors of 0.05 and 0.07
    np.testing.assert_allclose(whitened.mean(axis=1), 0.0, atol=0.2)
    np.testing.assert_allclose(np.cov(whitened), np.eye(2), atol=0.3)
    assert float(log_evidence(posterior)["estimate"]) == pytest.approx(0.0, abs=0.3)
    # one at the start, then L per transition, for each chain
    assert posterior["posterior"].attrs["gradient_evaluations"] == 1024 * (1 + 4 * (200 + 3))
    beta = posterior["warmup_sample_stats"]["beta"].values
    assert (beta[0::2] == beta[1::2]).all()
    assert (np.diff(beta[::2]) > 0).all()
    assert beta[-1] == 1.0


def test_a_diagonal_inverse_mass_is_a_dense_one():
    normal = jnp.array([0.3, -1.2])
    for of in (hamiltonian._momentum, hamiltonian._velocity):
        np.testing.assert_allclose(of(normal, SCALES**2), of(normal, np.diag(SCALES**2)), rtol=1e-5)


# --- other paths ---------------------------------------------------------------------------------------------------


def log_likelihood(z):
    return dist.Normal(z, 0.5).log_prob(1.0)


ANSWER = float(dist.Normal(0.0, np.sqrt(1 + 0.25)).log_prob(1.0))


def test_another_start_has_the_same_evidence():
    kernel = AnnealedHMC(initial=dist.Normal(1.5, 0.8), num_leapfrog=3, step_size=0.3, resample_threshold=0.6)
    posterior = infer(
        Repeated(log_likelihood, 1.0, items=48), kernel, num_warmup=30, num_samples=1, num_chains=32, seed=1, progress=False
    )
    weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0].astype(float) - ANSWER)
    z = posterior["posterior"]["z"].values[:, 0, :, 0]
    quantities = np.stack([weight.mean(0) - 1, (weight * (z - 0.8)).mean(0), (weight * ((z - 0.8) ** 2 - 0.2)).mean(0)], axis=1)
    assert repeated_means_p_value(quantities) > FALSE_ALARM


def test_the_paper_s_own_path_has_no_evidence():
    kernel = AnnealedHMC(
        schedule=Sigmoid(-10, 2), num_leapfrog=20, step_size=MovingAverage(initial=0.2), resample_threshold=0.0, flat_prior=True
    )
    posterior = infer(
        Repeated(log_likelihood, 1.0, items=4), kernel, num_warmup=60, num_samples=4, num_chains=64, seed=1, progress=False
    )
    assert posterior["posterior"].attrs["evidence_kind"] == ""
    with pytest.raises(ValueError, match="no evidence"):
        log_evidence(posterior)
    z = posterior["posterior"]["z"].values[:, -1, :, 0]
    assert z.mean() == pytest.approx(1.0, abs=0.2)  # the likelihood's mean, where the posterior's would be 0.8
    assert z.std() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("library", ["numpyro", "pyro"])
def test_chains_that_count_the_same_are_those_of_the_weighted_run_without_weights_and_evidence(library):
    if library == "numpyro":
        model, kind = Repeated(log_likelihood, 1.0, items=4), AnnealedHMC
    else:
        model, kind = pyro_gauss, PyroAnnealedHMC
    runs = [
        infer(
            model, kind(resample_threshold=0.0, num_leapfrog=3, weighted=weighted), num_warmup=40, num_samples=2, num_chains=64,
            seed=0, progress=False,
        )
        for weighted in (True, False)
    ]  # fmt: skip
    # Compiled apart, so that the last bits may differ.
    np.testing.assert_allclose(*(run["posterior"]["z"].values for run in runs), rtol=1e-4, atol=1e-5)
    assert {"log_weight", "population", "ancestor"} <= set(runs[0]["sample_stats"])
    assert not {"log_weight", "population", "ancestor", "population_log_evidence"} & set(runs[1]["sample_stats"])
    assert runs[1]["posterior"].attrs["evidence_kind"] == ""
    with pytest.raises(ValueError, match="no evidence"):
        log_evidence(runs[1])
    path = set(runs[1]["warmup_sample_stats"])
    assert "beta" in path
    assert not {"conditional_ess", "weight_ess", "ancestors", "log_evidence"} & path
    assert not any("effective" in finding for finding in diagnose(runs[1]))
    groups = independent_groups(runs[1]).values
    assert len(np.unique(groups)) == 64  # every chain is independent


def test_chains_that_stay_in_their_modes_are_told_to_be_weighed():
    def two_modes():
        z = numpyro.sample("z", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(jnp.abs(z), 0.05), obs=3.0)

    kernel = AnnealedHMC(resample_threshold=0.0, weighted=False)
    posterior = infer(two_modes, kernel, num_warmup=60, num_samples=20, num_chains=8, seed=0, progress=False)
    (finding,) = [found for found in diagnose(posterior) if "R-hat" in found]
    assert "or weights (weighted=True)" in finding


def pyro_gauss():
    z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
    pyro.sample("y", pyro.distributions.Normal(z, 0.5), obs=torch.tensor(1.0))

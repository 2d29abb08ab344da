"""What is no exact Markov kernel, where its answer is known all the same.

* A variational family that holds the posterior: the fitted guide is the posterior, every log ratio is the log evidence, and
  whatever the fit, E_q[ratio / Z h] = E_posterior[h] (the importance identity).
* A descent arrives at the optimum, which a linear generator and weighted observations have in closed form.
* The evidence of a bridge is consistent, not unbiased: its error falls as one over the root of the number of particles.

(ULA keeps a law of its own: see the invariance contract. Importance resampling is unbiased: see the moments contract.)

False alarms: 1e-4 per test of a p-value, for fixed seeds.
"""

import numpy as np
import numpyro.infer.autoguide
import numpyro.optim
import pyro.infer.autoguide
import pyro.optim
import pytest
from broken import DETECTED, a_beta_that_is_3_percent_low, a_guide_density_that_is_3_percent_off, break_trajectory
from known import LinearCase, repeated_means_p_value, standard_normal_moments
from targets import WeightedCase

from cogen.diagnostics import log_evidence
from cogen.inference import SVI, AnnealedHMC, GradientDescent, PyroSVI, infer
from cogen.inference.kernels import annealed_hmc

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4


def run(case, kernel, **counts):
    return infer(case.conditioned, kernel, seed=1, progress=False, items_at_once=len(case.mean), **counts)


# --- variational families that hold the posterior ------------------------------------------------------------------------

STEPS = 600


def in_jax(guide):
    decaying = numpyro.optim.Adam(lambda step: 0.05 * 0.01 ** (step / STEPS))
    return SVI(getattr(numpyro.infer.autoguide, guide), optimizer=decaying)


def in_torch(guide):
    decaying = pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.01 ** (1 / STEPS)})
    return PyroSVI(getattr(pyro.infer.autoguide, guide), optimizer=decaying)


def fitted(make, guide):
    """A posterior in one dimension is in the diagonal families too."""
    case = LinearCase(4, latent_dim=2 if guide == "AutoMultivariateNormal" else 1, outputs=6, seen=4)
    return case, run(case, make(guide), num_warmup=STEPS, num_samples=50, num_chains=16)


def importance_p_value(case, posterior) -> float:
    z = case.whitened(posterior["posterior"]["z"].values.astype(float))  # (chain, draw, item, dim)
    weight = np.exp(posterior["sample_stats"]["log_ratio"].values - case.log_evidence)[..., None]
    quantities = np.concatenate([weight * standard_normal_moments(z), weight - 1.0], axis=-1)
    return repeated_means_p_value(quantities.reshape(-1, quantities.shape[-1]))


@pytest.mark.parametrize(
    ("make", "guide"),
    [
        pytest.param(in_jax, "AutoMultivariateNormal", marks=pytest.mark.slow),
        (in_jax, "AutoNormal"),
        (in_jax, "AutoDiagonalNormal"),
        pytest.param(in_torch, "AutoMultivariateNormal", marks=pytest.mark.slow),
        (in_torch, "AutoNormal"),
        pytest.param(in_torch, "AutoDiagonalNormal", marks=pytest.mark.slow),
    ],
)
def test_a_guide_that_can_be_the_posterior_becomes_it(make, guide):
    """What is left of Adam's noise is about 0.05 posterior standard deviations; 800 draws add 0.035."""
    case, posterior = fitted(make, guide)
    z = case.whitened(posterior["posterior"]["z"].values.astype(float))
    assert np.abs(z.mean(axis=(0, 1))).max() < 0.25
    assert np.abs(z.std(axis=(0, 1)) - 1).max() < 0.2
    log_ratio = posterior["sample_stats"]["log_ratio"].values - case.log_evidence
    assert np.sqrt(np.mean(log_ratio**2)) < 0.2
    assert np.abs(log_evidence(posterior)["estimate"].values - case.log_evidence).max() < 0.03
    assert importance_p_value(case, posterior) > FALSE_ALARM


def test_a_guide_whose_density_is_not_the_one_it_draws_from(monkeypatch):
    a_guide_density_that_is_3_percent_off(monkeypatch)
    assert importance_p_value(*fitted(in_jax, "AutoNormal")) < DETECTED


# --- descents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [True, False], ids=["posterior", "likelihood"])
@pytest.mark.parametrize("case", [LinearCase(4, latent_dim=3, outputs=8, seen=6), WeightedCase(4)], ids=["linear", "weighted"])
def test_a_descent_arrives(case, prior):
    kernel = GradientDescent(step_size=0.1, prior=prior)
    posterior = run(case, kernel, num_warmup=600, num_samples=1, num_chains=4)
    best_fit = np.einsum("...ij,...j->...i", np.linalg.inv(case.precision), case.pull)
    optimum = case.mean if prior else best_fit
    np.testing.assert_allclose(posterior["posterior"]["z"].values[:, 0], np.broadcast_to(optimum, (4, 4, 3)), atol=1e-4)


# --- bridges -------------------------------------------------------------------------------------------------------------


def errors_of_bridges(case, num_chains):
    kernel = AnnealedHMC(num_leapfrog=3, step_size=0.25, bridge=True)
    posterior = run(case, kernel, num_warmup=20, num_samples=1, num_chains=num_chains)
    assert posterior["posterior"].attrs["evidence_kind"] == "bridged"
    return log_evidence(posterior)["estimate"].values - case.log_evidence


@pytest.mark.slow
def test_the_evidence_of_a_bridge_is_consistent(monkeypatch):
    """Sixteen times the particles quarter the error; its bias, which falls faster, then is below what 48 items can see."""
    case = LinearCase(48)
    few, many = (errors_of_bridges(case, num_chains) for num_chains in (64, 1024))
    assert np.sqrt(np.mean(many**2)) < 0.15
    assert np.sqrt(np.mean(many**2)) < np.sqrt(np.mean(few**2)) / 2.5
    assert repeated_means_p_value(many[:, None]) > FALSE_ALARM
    break_trajectory(monkeypatch, annealed_hmc, a_beta_that_is_3_percent_low)
    assert repeated_means_p_value(errors_of_bridges(case, 1024)[:, None]) < DETECTED

"""Forward and reverse bounds around a known evidence.

E[Zhat / Z] = 1 for the forward run and E[Z / Zhat] = 1 for the run around an exact draw, whatever the number of chains and
temperatures: t-tests over simulated items. False alarms: 1e-4 per test, with fixed seeds.
"""

import sys
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

sys.path.insert(0, str(Path(__file__).parent.parent / "inference"))

from known import NOISE, LinearCase, repeated_means_p_value

from cogen.diagnostics import evidence_bounds, simulate
from cogen.inference import Adaptive, AnnealedHMC, infer
from cogen.inference.kernels import annealed_hmc

ITEMS = 48


@pytest.fixture(scope="module")
def simulated():
    case = LinearCase(1, latent_dim=3, outputs=8, seen=6)
    model, truth = simulate(case.model, ITEMS, seed=2)
    weight, bias = (p.detach().double().numpy() for p in case.model.generator.parameters())
    seen = case.model.views["seen"].mask.numpy()
    marginal = weight[seen] @ weight[seen].T + NOISE**2 * np.eye(seen.sum())
    y = model.item_data["seen"]["value"][:, seen].astype(float) - bias[seen]
    return model, truth, stats.multivariate_normal(np.zeros(seen.sum()), marginal).logpdf(y)


def bounds(model, truth, threshold=0.7, **options):
    given = {"num_warmup": 8, "num_chains": 64, "seed": 0, "progress": False, "items_at_once": ITEMS} | options
    kernel = AnnealedHMC(num_leapfrog=3, step_size=0.25, resample_threshold=threshold)
    return evidence_bounds(model, kernel, truth, **given)


def p_values(found, exact) -> tuple[float, float]:
    below, above = np.exp(found["lower"].values - exact) - 1, np.exp(exact - found["upper"].values) - 1
    return repeated_means_p_value(below[:, None]), repeated_means_p_value(above[:, None])


@pytest.mark.parametrize("threshold", [0.0, 0.7], ids=["ais", "resampling"])
def test_bounds_hold_and_both_are_unbiased(simulated, threshold):
    model, truth, exact = simulated
    found = bounds(model, truth, threshold)
    assert min(p_values(found, exact)) > 1e-4
    assert stats.ttest_1samp(found["lower"].values - exact, 0.0, alternative="greater").pvalue > 1e-4
    assert stats.ttest_1samp(found["upper"].values - exact, 0.0, alternative="less").pvalue > 1e-4
    assert (found["gap"].values == found["upper"].values - found["lower"].values).all()
    assert set(found.data_vars) >= {"lower_se", "upper_se", "spread", "weight_ess", "pareto_k", "ancestors"}


def test_an_upper_bound_that_forgets_the_path_is_none(simulated, monkeypatch):
    monkeypatch.setattr(annealed_hmc, "pin", lambda point, pinned: point)
    model, truth, exact = simulated
    found = bounds(model, truth, num_warmup=4, num_chains=8)
    assert stats.ttest_1samp(found["upper"].values - exact, 0.0, alternative="less").pvalue < 1e-4


@pytest.mark.slow
def test_a_pilot_freezes_what_adapts(simulated):
    model, truth, exact = simulated
    kernel = AnnealedHMC(num_leapfrog=3, schedule=Adaptive(0.9))
    options = {"num_warmup": 60, "num_chains": 32, "seed": 0, "progress": False, "items_at_once": ITEMS}
    found = evidence_bounds(model, kernel, truth, pilot=16, **options)
    assert min(p_values(found, exact)) > 1e-4
    with pytest.raises(ValueError, match=r"adapts as it runs, .*: set pilot="):
        evidence_bounds(model, kernel, truth, **options)


def test_a_general_model():
    def model():
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        numpyro.sample("y", dist.Normal(0.0, scale).expand([3]).to_event(1), obs=np.array([0.4, -1.1, 0.9]))

    kernel = AnnealedHMC(num_leapfrog=3, step_size=0.3)
    found = evidence_bounds(model, kernel, {"scale": 0.9}, num_warmup=40, num_chains=512, seed=0, progress=False)
    assert found["lower"].dims == ()
    grid = np.exp(np.linspace(-4, 4, 4001))
    prior = np.exp(-0.5 * (np.log(grid) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))
    likelihood = np.exp(-0.5 * (0.4**2 + 1.1**2 + 0.9**2) / grid**2) / (np.sqrt(2 * np.pi) * grid) ** 3
    exact = np.log((prior * likelihood).sum() * 8 / 4000)
    assert float(found["lower"]) == pytest.approx(exact, abs=0.1)
    assert float(found["upper"]) == pytest.approx(exact, abs=0.1)


def test_what_cannot_be_bounded(simulated):
    model, truth, _ = simulated
    with pytest.raises(ValueError, match="adapts during the run"):
        AnnealedHMC(around=truth["z"])
    with pytest.raises(ValueError, match="no evidence to bound"):
        AnnealedHMC(step_size=0.1, flat_prior=True, around=truth["z"])
    with pytest.raises(ValueError, match=r"47.*the model is conditioned on 48"):
        bounds(model, {"z": truth["z"][:-1]})
    around = AnnealedHMC(step_size=0.1, around=truth["z"][:, :2])
    with pytest.raises(ValueError, match="exact draws have 2 coordinates, the model has 3"):
        infer(model, around, num_warmup=4, num_samples=1, num_chains=8, seed=0, progress=False)
    with pytest.raises(TypeError, match="has no items"):
        simulate(lambda: None, 3, seed=0)
    with pytest.raises(ValueError, match="num_items=0"):
        simulate(model, 0, seed=0)

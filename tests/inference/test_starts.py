"""Chains that start where they are told to, and what such a run does not claim."""

from functools import partial

import blackjax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.distributions
import pyro.infer
import pytest
import torch
from known import LinearCase, moments_p_value

from cogen.diagnostics import log_evidence
from cogen.inference import (
    AnnealedHMC,
    BlackJAX,
    ImportanceResampling,
    Langevin,
    ParallelTempering,
    PyroAnnealedHMC,
    PyroLangevin,
    Run,
    infer,
)

QUICK = {"num_warmup": 1, "num_samples": 1, "num_chains": 8, "seed": 0, "progress": False}


@pytest.fixture(scope="module")
def case():
    return LinearCase(24, latent_dim=3, outputs=6, seen=4)


def test_chains_start_at_the_given_values(case):
    z = np.random.default_rng(0).normal(size=(8, 24, 3)).astype(np.float32)
    run = Run(case.conditioned, Langevin(metropolis=False, step_size=1e-5), start={"z": z}, **QUICK)
    assert np.abs(run.draw()["posterior"]["z"].values[:, 0] - z).max() < 1e-3
    alone = infer(case.conditioned, Langevin(metropolis=False, step_size=1e-5), start={"z": z + 1.0}, **QUICK)
    assert np.abs(alone["posterior"]["z"].values[:, 0] - z - 1.0).max() < 1e-3


STILL = {"step_size": 1e-5, "adapt_step_size": False, "adapt_mass_matrix": False}
HARDLY_MOVING = [
    Langevin(metropolis=False, step_size=1e-5),
    PyroLangevin(metropolis=False, step_size=1e-5),
    PyroAnnealedHMC(step_size=1e-5, resample_threshold=0),
    partial(numpyro.infer.HMC, num_steps=1, trajectory_length=None, **STILL),
    partial(pyro.infer.HMC, num_steps=1, **STILL),
    BlackJAX(blackjax.mala, step_size=1e-10),
]


@pytest.mark.parametrize("kernel", HARDLY_MOVING, ids=lambda kernel: type(kernel).__name__)
def test_of_every_library(kernel):
    few = LinearCase(3, latent_dim=3, outputs=6, seen=4).conditioned
    z = np.random.default_rng(0).normal(size=(8, 3, 3)).astype(np.float32)
    found = infer(few, kernel, start={"z": z}, **QUICK)
    assert np.abs(found["posterior"]["z"].values[:, 0] - z).max() < 1e-3
    assert found["posterior"].attrs["evidence_kind"] == ""


@pytest.mark.parametrize("kernel", [HARDLY_MOVING[1], HARDLY_MOVING[4]], ids=lambda kernel: type(kernel).__name__)
def test_values_of_pyro_models_are_constrained_ones(kernel):
    def model():
        scale = pyro.sample("scale", pyro.distributions.HalfNormal(1.0))
        mean = pyro.sample("mean", pyro.distributions.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", pyro.distributions.Normal(mean, scale).to_event(1), obs=torch.ones(2))

    start = {"scale": np.linspace(0.5, 2.0, 8), "mean": np.linspace(-1, 1, 16).reshape(8, 2)}
    found = infer(model, kernel, start=start, **QUICK)["posterior"]
    np.testing.assert_allclose(found["scale"].values[:, 0], start["scale"], atol=1e-3)
    np.testing.assert_allclose(found["mean"].values[:, 0], start["mean"], atol=1e-3)
    for broken, said in (
        ({**start, "scale": -start["scale"]}, "outside of the supports"),
        ({"scale": start["scale"]}, r"start has the sites \['scale'\]"),
        ({**start, "mean": np.zeros((8, 3))}, "start's site 'mean' has shape"),
    ):
        with pytest.raises(ValueError, match=said):
            infer(model, kernel, start=broken, **QUICK)


def test_values_are_constrained_ones():
    def model():
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=np.ones(2))

    start = {"scale": np.linspace(0.5, 2.0, 8), "mean": np.linspace(-1, 1, 16).reshape(8, 2)}
    found = infer(model, Langevin(metropolis=False, step_size=1e-5), start=start, **QUICK)["posterior"]
    np.testing.assert_allclose(found["scale"].values[:, 0], start["scale"], atol=1e-3)
    np.testing.assert_allclose(found["mean"].values[:, 0], start["mean"], atol=1e-3)
    with pytest.raises(ValueError, match=r"start has values outside of the supports of the sites \['mean', 'scale'\]"):
        infer(model, Langevin(), start={**start, "scale": np.array([-1.0, *start["scale"][1:]])}, **QUICK)


def test_from_exact_posterior_draws_mala_has_the_posterior_at_once(case):
    z = case.draw(64, np.random.default_rng(1)).astype(np.float32)
    counts = {**QUICK, "num_warmup": 0, "num_chains": 64, "items_at_once": 24}
    assert moments_p_value(case, infer(case.conditioned, Langevin(step_size=0.2), start={"z": z}, **counts)) > 1e-4
    assert moments_p_value(case, infer(case.conditioned, Langevin(step_size=0.2), **counts)) < 1e-6  # from the prior


@pytest.mark.parametrize(
    "kernel", [AnnealedHMC(num_leapfrog=2), ParallelTempering(num_replicas=3, num_leapfrog=2), PyroAnnealedHMC()]
)
def test_such_a_run_has_no_evidence(case, kernel):
    z = np.zeros((8, 24, 3), np.float32)
    run = infer(case.conditioned, kernel, start={"z": z}, **QUICK)
    assert run["posterior"].attrs["evidence_kind"] == ""
    assert not {"log_weight", "population_log_evidence"} & set(run["sample_stats"].data_vars)
    with pytest.raises(ValueError, match=r"has no evidence: .* without start="):
        log_evidence(run)


@pytest.mark.parametrize(
    ("start", "kernel", "said"),
    [
        ({"z": np.zeros((8, 23, 3))}, Langevin(), r"it must be \(chain, item, ...\), beginning with \(8, 24\)"),
        ({"w": np.zeros((8, 24, 3))}, Langevin(), r"values are given for the sites \['w'\]"),
        ({"z": np.full((8, 24, 3), np.nan)}, Langevin(), "has non-finite values"),
        ({"z": np.zeros((8, 24, 3))}, ImportanceResampling(), "proposes draws of the prior: omit start="),
        ({"z": np.zeros((8, 23, 3))}, PyroAnnealedHMC(), r"it must be \(chain, item, ...\), beginning with \(8, 24\)"),
        ({"z": np.zeros((8, 24, 2))}, PyroAnnealedHMC(), r"start's site 'z' has shape \(8, 2\), the model's has \(8, 3\)"),
    ],
)
def test_starts_that_cannot_be(case, start, kernel, said):
    with pytest.raises(ValueError, match=said):
        infer(case.conditioned, kernel, start=start, **QUICK)

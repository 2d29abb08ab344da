"""Class probabilities from the evidence of the classes: the formula, its error, and what has none."""

import numpy as np
import pytest
import xarray as xr
from synthetic import annealed_run, inference_data

from cogen.diagnostics import context_probabilities

PRIOR = np.array([0.2, 0.3, 0.5])


def run_with(log_z, populations, prior=PRIOR):
    """A run whose populations estimate log Z_c as ``log_z`` (population, item, class) says."""
    chains = 2 * populations
    slots = np.repeat(log_z, 2, axis=0)[:, None]  # (chain, draw, item, class)
    dims = ("chain", "draw", "item", "class")
    draws = xr.Dataset({"label": (dims[:3], np.zeros(slots.shape[:3], int))}, attrs={"num_populations": populations})
    draws.attrs |= {"evidence_kind": "annealed", "kernel": "AnnealedHMC"}
    stats = xr.Dataset({"context_log_evidence": (dims, slots)}, {"chain": np.arange(chains)})
    known = xr.Dataset({"label_log_prior": (("class",), np.log(prior))})
    return inference_data({"posterior": draws, "sample_stats": stats, "constant_data": known})


def estimates(rng, populations, items, spread):
    """Unbiased estimates of Z = exp(true) with a lognormal error, and the true log Z (item, class)."""
    true = rng.normal(-50, 1, (items, 3))
    return true + spread * rng.standard_normal((populations, items, 3)) - spread**2 / 2, true


def test_the_probabilities_are_prior_times_mean_evidence():
    log_z, _ = estimates(np.random.default_rng(0), 4, 5, 0.3)
    joint = PRIOR * np.exp(log_z + 50).mean(0)
    found = context_probabilities(run_with(log_z, 4))
    assert found["label"].dims == found["label_se"].dims == ("item", "class")
    assert found.attrs["num_populations"] == 4
    np.testing.assert_allclose(found["label"], joint / joint.sum(1, keepdims=True))
    rest = np.stack([PRIOR * np.exp(np.delete(log_z, p, 0) + 50).mean(0) for p in range(4)])
    rest = rest / rest.sum(2, keepdims=True)
    np.testing.assert_allclose(found["label_se"], np.sqrt(3 / 4 * ((rest - rest.mean(0)) ** 2).sum(0)))


@pytest.mark.parametrize("populations", [4, 16])
def test_the_standard_error_is_the_spread_of_the_errors(populations):
    log_z, true = estimates(np.random.default_rng(1), populations, 2000, 0.2)
    found = context_probabilities(run_with(log_z, populations))
    joint = PRIOR * np.exp(true + 50)
    error = found["label"].values - joint / joint.sum(1, keepdims=True)
    ratio = np.sqrt((error**2).mean() / (found["label_se"].values ** 2).mean())
    assert 0.9 < ratio < 1.1


def test_a_single_population_has_no_error_and_dead_classes_have_no_share():
    log_z, _ = estimates(np.random.default_rng(2), 1, 2, 0.1)
    log_z[:, 0, 1] = -np.inf
    log_z[:, 1] = -np.inf
    found = context_probabilities(run_with(log_z, 1))
    assert found["label"].values[0, 1] == 0
    assert found["label"].values[0].sum() == pytest.approx(1)
    assert np.isnan(found["label"].values[1]).all()
    assert np.isnan(found["label_se"]).all()


def test_evidence_of_any_size_does_not_overflow():
    log_z, _ = estimates(np.random.default_rng(3), 4, 2, 0.1)
    moved = context_probabilities(run_with(log_z - 1e5, 4))
    np.testing.assert_allclose(moved["label"], context_probabilities(run_with(log_z, 4))["label"], rtol=1e-6)


def test_a_run_without_unknown_classes_names_the_remedy():
    with pytest.raises(ValueError, match=r"has inferred no class by its evidence: .*unknown='exact'"):
        context_probabilities(annealed_run()[0])

"""The evidence's estimate and standard error, from populations whose truth is known."""

import numpy as np
import pytest
from synthetic import annealed_run, plain_run

from cogen.diagnostics import log_evidence


def test_estimate_and_error_by_hand():
    run, made = annealed_run(items=2)
    found = log_evidence(run)
    z = np.exp(made.log_z + 100)
    np.testing.assert_allclose(found["estimate"], np.log(z.mean(axis=0)) - 100)
    np.testing.assert_allclose(found["standard_error"], z.std(axis=0, ddof=1) / 2 / z.mean(axis=0))
    np.testing.assert_allclose(found["spread"], made.log_z.std(axis=0, ddof=1))
    assert found.attrs == {"kind": "annealed", "num_populations": 4, "adapted": 0}


def test_standard_error_is_calibrated():
    """Lognormal population estimates with mean one: (estimate - 0) / se has a t-like spread over 2,000 items."""
    run, _ = annealed_run(chains=8, draws=1, items=2000, populations=8)
    log_z = np.random.default_rng(10).normal(-(0.2**2) / 2, 0.2, (8, 2000))
    run["sample_stats"]["population_log_evidence"][...] = log_z[:, None, :]
    found = log_evidence(run)
    z = found["estimate"] / found["standard_error"]
    within = float((np.abs(z) < 2.365).mean())  # 95 % of Student's t with 7 degrees of freedom
    assert 0.93 < within < 0.97


def test_scale_does_not_matter_and_dead_populations_are_zeros():
    run, _ = annealed_run(items=3)
    estimates = run["sample_stats"]["population_log_evidence"]
    estimates.values[:4] = -np.inf  # the first population of every item
    estimates.values[..., 2] = -np.inf  # all populations of one
    found = log_evidence(run)
    assert np.isfinite(found["estimate"].values[:2]).all()
    assert np.isinf(found["spread"].values[:2]).all()
    assert found["estimate"].values[2] == -np.inf


def test_one_population_has_no_standard_error():
    run, _ = annealed_run(populations=1)
    assert np.isnan(log_evidence(run)["standard_error"]).all()
    assert np.isfinite(log_evidence(run)["estimate"]).all()


def test_runs_without_evidence_and_cut_runs_are_refused():
    with pytest.raises(ValueError, match="NUTS has no evidence"):
        log_evidence(plain_run())
    run, _ = annealed_run()
    run["posterior"].attrs["num_populations"] = 5
    with pytest.raises(ValueError, match="16 chains do not divide"):
        log_evidence(run)


def test_an_estimate_that_grows_with_the_draws_is_read_at_the_last():
    run, made = annealed_run(items=2)
    recorded = run["sample_stats"]["population_log_evidence"]
    recorded.values[:, :-1] += 5.0
    z = np.exp(made.log_z + 100)
    np.testing.assert_allclose(log_evidence(run)["estimate"], np.log(z.mean(axis=0)) - 100)

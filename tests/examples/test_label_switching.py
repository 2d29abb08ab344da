"""The example of the label switching runs end to end with tiny arguments; its quadrature is right where the sum is short."""

import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp


def test_the_quadrature(script):
    """Against the sum over all 27 allocations of three observations, each of which is a normal density."""
    y = np.array([-1.0, 0.5, 3.0])
    log_terms = []
    for allocation in np.ndindex(3, 3, 3):
        same = np.equal.outer(allocation, allocation)
        covariance = np.eye(3) + script.PRIOR_SD**2 * same
        log_terms.append(stats.multivariate_normal(np.zeros(3), covariance).logpdf(y) - 3 * np.log(3))
    # The grid ends at 2.4 standard deviations of the prior: what a component without observations has beyond is lost.
    assert script.quadrature(y, 80) == pytest.approx(logsumexp(log_terms), abs=0.05)


def test_shares_and_loyalty(script):
    mu = np.array([[[0.0, 1.0, 2.0]] * 4, [[0.0, 1.0, 2.0]] * 3 + [[2.0, 1.0, 0.0]]])
    assert script.shares(mu) == pytest.approx([7 / 8, 0, 0, 0, 0, 1 / 8])
    assert script.loyalty(mu) == pytest.approx([1.0, 3 / 4])


def test_the_errors_of_the_shares_count_families(script):
    mu = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])[np.arange(400) % 2]
    alone = script.share_errors(mu, np.arange(400))
    assert alone[0] == pytest.approx(np.sqrt(0.25 / 400))
    families_of_four = script.share_errors(mu[np.arange(400) // 4], np.arange(400) // 4)
    assert families_of_four[0] == pytest.approx(2 * alone[0])


@pytest.mark.slow
def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        points=9,
        chains=256,
        temperatures=20,
        leapfrog=2,
        pilot=0,
        nuts_chains=2,
        nuts_draws=10,
        grid=60,
        output=tmp_path / "labels",
    )
    record = script.main(options)
    assert "quadrature" in capsys.readouterr().out
    assert json.loads((tmp_path / "labels.json").read_text())["rows"].keys() == record["rows"].keys()
    assert (tmp_path / "labels.png").stat().st_size > 0
    for name in ("annealed HMC, infer", "annealed HMC, NumPyro"):
        row = record["rows"][name]
        # 256 chains: a standard error of about 0.1
        assert row["log_evidence"] == pytest.approx(record["log_evidence_quadrature"], abs=0.6)
        assert sum(row["shares"]) == pytest.approx(1.0)

"""The funnel example runs end to end with tiny arguments; its quadrature agrees with plain importance sampling."""

import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp


def test_the_quadrature(script):
    v = 3 * np.random.default_rng(0).normal(size=200_000)
    log_weight = stats.norm(0, np.sqrt(np.exp(v) + 1)[:, None]).logpdf(script.SEEN.astype(float)).sum(axis=1)
    truth, grid, density = script.quadrature()
    assert truth["log_evidence"] == pytest.approx(logsumexp(log_weight) - np.log(len(v)), abs=0.02)
    weight = np.exp(log_weight - logsumexp(log_weight))
    assert truth["v_mean"] == pytest.approx((weight * v).sum(), abs=0.05)
    assert truth["neck"] == pytest.approx(weight[v < script.NECK].sum(), abs=0.01)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-6)
    coarser, _, _ = script.quadrature(1_000)
    assert coarser == pytest.approx(truth, rel=2e-3)


@pytest.mark.filterwarnings("ignore:.*trajectories had a non-finite gradient")  # the funnel's mouth overflows
def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        chains=256, temperatures=40, leapfrog=3, draws=2, pilot=0, nuts_chains=2, nuts_draws=10, output=tmp_path / "funnel"
    )
    record = script.main(options)
    assert "NUTS" in capsys.readouterr().out
    assert json.loads((tmp_path / "funnel.json").read_text())["rows"].keys() == {"quadrature", "annealed HMC", "NUTS"}
    assert (tmp_path / "funnel.png").stat().st_size > 0
    truth, ours = record["rows"]["quadrature"], record["rows"]["annealed HMC"]
    # 256 chains: a standard error of about 0.1
    assert abs(ours["log_evidence"] - truth["log_evidence"]) < 0.5

"""The example of the eight schools runs end to end with tiny arguments; its quadrature agrees with draws of the prior."""

import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp


def test_the_quadrature(script):
    """Against importance sampling from the prior of (mu, tau), of which the script integrates mu by hand."""
    rng = np.random.default_rng(0)
    mu, tau = 5 * rng.normal(size=400_000), stats.halfcauchy(scale=5.0).rvs(400_000, random_state=rng)
    effect, error = script.EFFECT.astype(float), script.ERROR.astype(float)
    log_weight = stats.norm(mu[:, None], np.sqrt(tau[:, None] ** 2 + error**2)).logpdf(effect).sum(axis=1)
    weight = np.exp(log_weight - logsumexp(log_weight))
    truth, grid, density = script.quadrature()
    assert truth["log_evidence"] == pytest.approx(logsumexp(log_weight) - np.log(len(mu)), abs=0.01)
    assert truth["tau_mean"] == pytest.approx((weight * tau).sum(), abs=0.05)
    assert truth["tau_below_1"] == pytest.approx(weight[tau < 1].sum(), abs=0.01)
    assert truth["mu_mean"] == pytest.approx((weight * mu).sum(), abs=0.05)
    first = (effect[0] * tau**2 + mu * error[0] ** 2) / (error[0] ** 2 + tau**2)
    assert truth["theta_1_mean"] == pytest.approx((weight * first).sum(), abs=0.05)
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=1e-3)
    coarser, _, _ = script.quadrature(1_000)
    assert coarser == pytest.approx(truth, rel=2e-3)


def test_the_two_models_are_the_same_posterior(script):
    """The non-centred density at z is the centred one at theta = mu + tau z, with its Jacobian tau^8."""
    from numpyro.infer.util import log_density

    mu, tau, z = 1.5, 2.5, np.linspace(-1, 1, 8, dtype=np.float32)
    there = float(log_density(script.non_centred, (), {}, {"mu": mu, "tau": tau, "standard": z})[0])
    here = float(log_density(script.centred, (), {}, {"mu": mu, "tau": tau, "theta": mu + tau * z})[0])
    assert there == pytest.approx(here + 8 * np.log(tau), rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*trajectories had a non-finite gradient")  # the prior of tau has a tail without end
def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        parametrisations=("non-centred",),
        chains=64,
        temperatures=20,
        leapfrog=3,
        draws=1,
        pilot=0,
        nuts_chains=1,
        nuts_draws=5,
        output=tmp_path / "schools",
    )
    record = script.main(options)
    assert "quadrature" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "schools.json").read_text())["rows"]) == 2
    assert (tmp_path / "schools.png").stat().st_size > 0
    ours = record["rows"]["annealed HMC, non-centred"]
    # 64 chains: a standard error of about 0.15
    assert abs(ours["log_evidence"] - record["quadrature"]["log_evidence"]) < 0.8

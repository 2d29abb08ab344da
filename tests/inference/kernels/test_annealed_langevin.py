"""Annealed Langevin dynamics against the law that its recursion has on a Gaussian, level by level, in closed form.

On the score -(x - m) / (v + sigma^2) a step is x' = m + (1 - h^2 / 2 (v + sigma^2)) (x - m) + h xi, so that mean and
variance of the draws are known exactly, whatever the steps. False alarms: 1e-4 per test, for fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy import stats

from cogen.inference import AnnealedLangevin, infer
from cogen.inference.kernels import annealed_langevin

FALSE_ALARM = 1e-4
MEAN, SD, LEAST, GREATEST = np.array([1.0, -0.5]), np.array([0.3, 1.0]), 0.05, 3.0
CHAINS, WARMUP = 2_048, 16


def noisy():
    """A Gaussian with noise, from a prior that is no part of it."""
    level = numpyro.param("noise_level", LEAST, constraint=constraints.interval(LEAST, GREATEST))
    prior = dist.Normal(0.0, GREATEST).expand([2]).to_event(1)
    z = numpyro.sample("z", prior)
    density = dist.Normal(jnp.asarray(MEAN), jnp.sqrt(jnp.asarray(SD) ** 2 + level**2)).log_prob(z).sum()
    numpyro.factor("density", density - prior.log_prob(z))


def levels_of(count):
    return GREATEST * (LEAST / GREATEST) ** (np.arange(count) / (count - 1))


def law(levels, step_size=0.45):
    """Mean and variance after a step at each of the levels."""
    mean, variance = np.zeros(2), np.full(2, GREATEST**2)
    for level in levels:
        h = step_size * level
        shrink = 1 - 0.5 * h**2 / (SD**2 + level**2)
        mean, variance = MEAN + shrink * (mean - MEAN), shrink**2 * variance + h**2
    return mean, variance


def p_value(z, levels, **settings):
    """Of draws (chain, 2), independent: means and variances together, chi-square."""
    mean, variance = law(levels, **settings)
    of_means = (z.mean(0) - mean) ** 2 / (variance / len(z))
    of_variances = (z.var(0) / variance - 1) ** 2 / (2 / len(z))
    return stats.chi2.sf(of_means.sum() + of_variances.sum(), 4)


def draws(num_warmup=WARMUP, model=noisy, **settings):
    run = {"num_warmup": num_warmup, "num_samples": 1, "num_chains": CHAINS, "seed": 3, "progress": False}
    return infer(model, AnnealedLangevin(**settings), **run)


@pytest.fixture(scope="module")
def annealed():
    return draws()


def test_it_has_the_law_of_its_recursion(annealed):
    levels = np.append(levels_of(WARMUP), LEAST)  # and the draw itself
    assert p_value(annealed["posterior"]["z"].values[:, 0], levels) > FALSE_ALARM
    assert annealed["posterior"].attrs["evidence_kind"] == ""
    assert "log_weight" not in annealed["sample_stats"]
    found = annealed["warmup_sample_stats"]
    np.testing.assert_allclose(found["noise_level"].values, levels_of(WARMUP)[found["transition"].values], rtol=1e-4)
    np.testing.assert_allclose(annealed["sample_stats"]["step_size"].values, 0.45 * LEAST, rtol=1e-5)


def test_another_law_is_told_from_it(annealed):
    """That of steps a tenth longer, and that of noise that falls by equal amounts."""
    z = annealed["posterior"]["z"].values[:, 0]
    assert p_value(z, np.append(levels_of(WARMUP), LEAST), step_size=0.5) < 1e-6
    assert p_value(z, np.append(np.linspace(GREATEST, LEAST, WARMUP), LEAST)) < 1e-6


@pytest.mark.slow
def test_several_moves_at_a_level():
    """Algorithm 1 has few levels, and many steps at each."""
    z = draws(num_warmup=17, moves_per_level=3)["posterior"]["z"].values[:, 0]
    assert p_value(z, np.append(np.repeat(levels_of(5), 3), [LEAST] * 3)) > FALSE_ALARM


def test_a_broken_drift_is_found(monkeypatch):
    """h for h^2 / 2."""
    euler = annealed_langevin.euler

    def broken(u, gradient, normal, step, scale):
        return euler(u, 2.0 * gradient / step * 0.45, normal, step, scale)

    monkeypatch.setattr(annealed_langevin, "euler", broken)
    assert p_value(draws()["posterior"]["z"].values[:, 0], np.append(levels_of(WARMUP), LEAST)) < 1e-6


@pytest.mark.slow
def test_it_runs_in_numpyro_s_mcmc():
    options = {"num_warmup": WARMUP, "num_samples": 1, "num_chains": 512, "chain_method": "vectorized", "progress_bar": False}
    mcmc = numpyro.infer.MCMC(AnnealedLangevin(noisy), **options)
    mcmc.run(jax.random.key(0))
    z = np.asarray(mcmc.get_samples(group_by_chain=True)["z"])[:, 0]
    assert p_value(z, np.append(levels_of(WARMUP), LEAST)) > FALSE_ALARM


def test_a_score_that_is_no_number_leaves_the_chain_where_it_is():
    def holed():
        level = numpyro.param("noise_level", LEAST, constraint=constraints.interval(LEAST, GREATEST))
        z = numpyro.sample("z", dist.Normal(0.0, GREATEST))
        numpyro.factor("density", jnp.sqrt(1.0 - z) - 0.5 * z**2 / (1 + level**2))

    with pytest.warns(UserWarning, match="non-finite"):
        posterior = draws(num_warmup=10, model=holed)
    z, lost = posterior["posterior"]["z"].values, posterior["sample_stats"]["nonfinite"].values
    assert np.isfinite(z).all()
    assert (z[lost == 11] > 1).all()


def without_limits():
    numpyro.param("noise_level", 1.0)
    numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("density", 0.0)


def without_level():
    numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=0.0)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: AnnealedLangevin(step_size=1.5), "step_size=1.5: it must be between 0 and 1.4"),
        (lambda: AnnealedLangevin(moves_per_level=0), "moves_per_level=0"),
        (lambda: draws(num_warmup=3, moves_per_level=2), "num_warmup=3 with moves_per_level=2: .* at least 2 x"),
        (lambda: draws(model=without_level), "the model has no noise levels, .* use a ScorePrior"),
        (lambda: draws(model=without_limits), "the model has no noise levels"),
    ],
)
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(ValueError, match=said):
        make()

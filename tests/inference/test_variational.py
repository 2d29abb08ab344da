"""SVI as a kernel, and annealing that starts from what it fitted.

The linear generator's posterior is normal, so a full-rank guide and Laplace's approximation are exact and their evidence is;
the two-mode posterior is not, and a fitted normal sits in one of the modes. False alarms: 1e-4 per test, with fixed seeds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import LinearCase, Repeated, moments_p_value, repeated_means_p_value
from numpyro.infer import MCMC
from numpyro.infer.autoguide import AutoDelta, AutoLaplaceApproximation, AutoMultivariateNormal, AutoNormal

from cogen.diagnostics import log_evidence
from cogen.inference import SVI, AnnealedHMC, GuideStart, Run, infer
from cogen.inference.annealing import guide_start

ITEMS = 16


@pytest.fixture(scope="module")
def case():
    return LinearCase(ITEMS, latent_dim=3, outputs=8, seen=6)


def fit(model, guide, *, num_warmup=600, num_chains=16, **options) -> Run:
    run = Run(
        model, SVI(guide, **options), num_warmup=num_warmup, num_chains=num_chains, seed=0, progress=False, items_at_once=ITEMS
    )
    run.posterior = run.draw(20)
    return run


@pytest.fixture(scope="module")
def mean_field(case):
    return fit(case.conditioned, AutoNormal)


@pytest.mark.parametrize("guide", [AutoMultivariateNormal, AutoLaplaceApproximation])
def test_guides_that_hold_the_posterior_find_it_and_its_evidence(case, guide):
    run = fit(case.conditioned, functools.partial(guide), num_warmup=1200, num_particles=2)
    z = case.whitened(run.posterior["posterior"]["z"].values)
    assert np.abs(z.mean(axis=(0, 1))).max() < 0.5
    assert 0.7 < z.var(axis=(0, 1)).mean() < 1.4
    error = log_evidence(run.posterior)["estimate"].values - case.log_evidence
    assert np.abs(error).max() < 0.15
    assert run.posterior["posterior"].attrs["evidence_kind"] == "importance"
    assert run.posterior["sample_stats"]["gradient_evaluations"].values.tolist() == [2400] * ITEMS


def test_the_elbo_is_below_the_evidence_and_ratios_correct_it(case, mean_field):
    elbo = mean_field.posterior["warmup_sample_stats"]["elbo"].values[-50:].mean(axis=0)
    assert (elbo < case.log_evidence + 0.3).all()
    error = log_evidence(mean_field.posterior)["estimate"].values - case.log_evidence
    assert abs(np.log(np.exp(error).mean())) < 0.2
    assert np.isfinite(mean_field.posterior["sample_stats"]["log_ratio"].values).all()


def test_annealing_from_a_guide_is_exact(case, mean_field):
    kernel = AnnealedHMC(num_leapfrog=4, step_size=0.25, initial=GuideStart.of(mean_field, prior_share=0.1))
    run = infer(
        case.conditioned,
        kernel,
        num_warmup=15,
        num_samples=2,
        num_chains=64,
        seed=1,
        progress=False,
        items_at_once=ITEMS,
    )
    assert moments_p_value(case, run) > 1e-4
    error = log_evidence(run)["estimate"].values - case.log_evidence
    assert abs(np.log(np.exp(error).mean())) < 0.1


def test_a_start_whose_density_is_not_the_one_it_draws_from_fails(case, mean_field, monkeypatch):
    right = guide_start.GuideStart.log_density
    monkeypatch.setattr(guide_start.GuideStart, "log_density", lambda self, u, *rest: 0.8 * right(self, u, *rest))
    kernel = AnnealedHMC(num_leapfrog=4, step_size=0.25, initial=GuideStart.of(mean_field, prior_share=0.1))
    run = infer(
        case.conditioned, kernel, num_warmup=15, num_samples=2, num_chains=64, seed=1, progress=False, items_at_once=ITEMS
    )
    assert moments_p_value(case, run) < 1e-4


# --- two modes ------------------------------------------------------------------------------------------------------


def two_modes(z):
    """Weights 0.9 at -4 and 0.1 at 4, evidence one under the prior Normal(0, 5)."""
    mixture = jnp.logaddexp(jnp.log(0.9) + dist.Normal(-4.0, 1.0).log_prob(z), jnp.log(0.1) + dist.Normal(4.0, 1.0).log_prob(z))
    return mixture - dist.Normal(0.0, 5.0).log_prob(z)


def share_of_the_right_mode(prior_share: float):
    repeated = Repeated(two_modes, 5.0, items=64)
    start = GuideStart(dist.MultivariateNormal(jnp.array([-4.0]), jnp.eye(1)), prior_share=prior_share)
    kernel = AnnealedHMC(num_leapfrog=5, step_size=0.5, initial=start)
    run = infer(repeated, kernel, num_warmup=30, num_samples=1, num_chains=64, seed=0, progress=False, items_at_once=64)
    weight = np.exp(run["sample_stats"]["log_weight"].values[:, 0].astype(float))  # (chain, item)
    right = run["posterior"]["z"].values[:, 0, :, 0] > 0
    return np.stack([(weight * right).mean(axis=0) - 0.1, weight.mean(axis=0) - 1.0], axis=1)


def test_the_prior_s_share_keeps_the_mode_that_the_guide_has_lost():
    assert repeated_means_p_value(share_of_the_right_mode(0.3)) > 1e-4


def test_a_guide_without_the_prior_loses_it():
    assert np.median(share_of_the_right_mode(0.0)[:, 0]) < -0.099  # a tenth of the mass


# --- guides of several sites ------------------------------------------------------------------------------------------


def two_sites():
    """Sites out of alphabetical order, one of them positive."""
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    mean = numpyro.sample("mean", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(mean, scale).to_event(1), obs=jnp.array([1.0, -0.5]))


def evidence_of_two_sites() -> float:
    scale = np.exp(np.linspace(-4, 4, 4001))
    prior = np.exp(-0.5 * (np.log(scale) / 0.5) ** 2) / (0.5 * np.sqrt(2 * np.pi))  # of log scale
    variance = scale**2 + 4.0
    likelihood = np.exp(-0.5 * (1.0 + 0.25) / variance) / (2 * np.pi * variance)
    return float(np.log((prior * likelihood).sum() * 8 / 4000))


def a_guide_function():
    scale = numpyro.param("s", jnp.array(-0.2))
    numpyro.sample("mean", dist.Normal(jnp.array([0.8, -0.4]), 1.0).to_event(1))
    numpyro.sample("scale", dist.LogNormal(scale, 0.6))


@pytest.mark.parametrize("guide", [AutoLaplaceApproximation, None])
def test_guides_of_several_constrained_sites(guide):
    if guide is None:
        start = GuideStart(a_guide_function, {"s": jnp.array(-0.1)}, prior_share=0.2)
    else:
        run = Run(two_sites, SVI(guide), num_warmup=400, num_chains=4, seed=0, progress=False)
        run.draw(1)
        start = GuideStart.of(run, prior_share=0.2)
    kernel = AnnealedHMC(two_sites, initial=start, num_leapfrog=4, step_size=0.3)
    mcmc = MCMC(kernel, num_warmup=10, num_samples=1, num_chains=4096, chain_method="vectorized", progress_bar=False)
    mcmc.run(jax.random.key(0), extra_fields=("log_weight",))
    found = float(mcmc.get_extra_fields(group_by_chain=True)["log_weight"][0, 0])
    assert found == pytest.approx(evidence_of_two_sites(), abs=0.05)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_bad_guides(case):
    def wrong_site():
        numpyro.sample("w", dist.Normal(0.0, 1.0))

    def wrong_shape():
        numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("scale", dist.LogNormal(0.0, 1.0))

    def anneal(start):
        return infer(two_sites, AnnealedHMC(initial=start), num_warmup=4, num_samples=1, num_chains=8, seed=0, progress=False)

    with pytest.raises(ValueError, match=r"guide has the sites \['w'\], the model has the latent sites \['mean', 'scale'\]"):
        anneal(GuideStart(wrong_site))
    with pytest.raises(ValueError, match="guide's site 'mean' has shape"):
        anneal(GuideStart(wrong_shape))
    with pytest.raises(ValueError, match="the model has 3 latent coordinates"):
        anneal(GuideStart(dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))))
    with pytest.raises(ValueError, match="prior_share"):
        GuideStart(wrong_site, prior_share=1.5)
    with pytest.raises(ValueError, match="no density"):
        SVI(AutoDelta)
    with pytest.raises(ValueError, match="pass the class"):
        SVI(AutoNormal(two_sites))
    with pytest.raises(ValueError, match="num_particles=0"):
        SVI(AutoNormal, num_particles=0)
    run = Run(case.conditioned, AnnealedHMC(), num_warmup=4, num_chains=8, seed=0, progress=False)
    with pytest.raises(ValueError, match="fits no guide"):
        GuideStart.of(run)
    run = Run(case.conditioned, SVI(AutoNormal), num_warmup=4, num_chains=8, seed=0, progress=False)
    with pytest.raises(ValueError, match="no transition yet"):
        GuideStart.of(run)

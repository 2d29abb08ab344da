"""Two modes of weights 0.9 and 0.1, eight standard deviations apart: both found, with their weights.

The prior is Normal(0, 5) and the likelihood is normalised so that the evidence is one. Items are repetitions, so that the
means over items have an honest standard error; false alarms at most 1e-4 per test, with fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import Repeated, repeated_means_p_value
from numpyro.infer import MCMC

from cogen.inference import AnnealedHMC, infer

FALSE_ALARM = 1e-4


def log_likelihood(z):
    mixture = jnp.logaddexp(jnp.log(0.9) + dist.Normal(-4.0, 1.0).log_prob(z), jnp.log(0.1) + dist.Normal(4.0, 1.0).log_prob(z))
    return mixture - dist.Normal(0.0, 5.0).log_prob(z)


def plain():
    z = numpyro.sample("z", dist.Normal(0.0, 5.0))
    numpyro.factor("data", log_likelihood(z))


def kernel(threshold: float, model=None) -> AnnealedHMC:
    return AnnealedHMC(model, num_leapfrog=5, step_size=0.5, resample_threshold=threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.7], ids=["ais", "resampling"])
def test_both_modes_have_their_weights(threshold):
    repeated = Repeated(log_likelihood, 5.0, items=64)
    counts = {"num_warmup": 100, "num_samples": 1, "num_chains": 64, "items_at_once": 64}
    posterior = infer(repeated, kernel(threshold), seed=0, progress=False, **counts)
    weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0].astype(float))  # (chain, item), Z = 1
    right = posterior["posterior"]["z"].values[:, 0, :, 0] > 0
    quantities = np.stack([(weight * right).mean(axis=0) - 0.1, weight.mean(axis=0) - 1.0], axis=1)
    assert repeated_means_p_value(quantities) > FALSE_ALARM
    share = (weight * right).sum(axis=0) / weight.sum(axis=0)
    assert share.mean() == pytest.approx(0.1, abs=0.02)


def test_a_plain_model_through_numpyro_s_own_mcmc():
    mcmc = MCMC(
        kernel(0.7, plain), num_warmup=100, num_samples=2, num_chains=2048, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(0), extra_fields=("log_weight", "beta", "ancestor"))
    z, extra = mcmc.get_samples(group_by_chain=True)["z"], mcmc.get_extra_fields(group_by_chain=True)
    assert z.shape == (2048, 2)
    assert (np.asarray(z[:, 0]) > 0).mean() == pytest.approx(0.1, abs=0.04)
    assert (np.asarray(extra["beta"]) == 1.0).all()
    assert np.ptp(extra["log_weight"]) == 0
    assert float(extra["log_weight"][0, 0]) == pytest.approx(0.0, abs=0.1)

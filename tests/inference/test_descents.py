"""Descents as a function: they end at the mode, and chains start from there."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import LinearCase

from cogen.inference import Langevin, descend, infer


def test_descents_end_at_the_modes_of_all_items():
    case = LinearCase(3, latent_dim=3, outputs=6, seen=4)
    ends = descend(case.conditioned, num_steps=800, num_chains=4, prior=True, seed=0, progress=False)
    assert ends["z"].shape == (4, 3, 3)
    np.testing.assert_allclose(ends["z"], np.broadcast_to(case.mean, ends["z"].shape), atol=1e-3)
    posterior = infer(
        case.conditioned, Langevin(), num_warmup=2, num_samples=1, num_chains=4, start=ends, seed=0, progress=False
    )
    assert posterior["posterior"].attrs["evidence_kind"] == ""


def test_values_are_those_of_the_latent_sites_alone():
    def model():
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.deterministic("half", rate / 2)
        numpyro.sample("y", dist.Poisson(rate).expand([4]), obs=np.array([3, 4, 2, 5]))

    ends = descend(model, num_steps=600, num_chains=2, step_size=0.02, seed=0, progress=False)
    assert set(ends) == {"rate"}
    np.testing.assert_allclose(ends["rate"], np.full(2, 3.5), rtol=1e-3)  # of the likelihood alone


def test_bad_counts_are_named():
    with pytest.raises(ValueError, match="num_steps=0: it must be at least 1"):
        descend(LinearCase(2).conditioned, num_steps=0, seed=0)
    with pytest.raises(ValueError, match="best_of=0"):
        descend(LinearCase(2).conditioned, num_steps=2, best_of=0, seed=0)

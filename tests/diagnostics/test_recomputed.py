"""x and log-likelihoods of a posterior that was stored: what the model says of its draws, in closed form."""

import warnings

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from cogen.diagnostics import decoded, with_log_likelihood
from cogen.diagnostics.groups import group
from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator, views


@pytest.fixture(scope="module")
def run():
    torch.manual_seed(0)
    generator = nn.Linear(2, 6)
    mask = np.arange(6) < 4
    model = CoGenerator(
        generator,
        latent_dim=2,
        views={"seen": views.Mask(mask, scale=0.5), "sum": views.Linear(np.ones((1, 6)), scale=2.0)},
    )
    y = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    seen = model.condition(seen=y, sum=y.sum(1, keepdims=True))
    kernel = AnnealedHMC(weighted=False, resample_threshold=0.0)
    counts = {"num_warmup": 20, "num_samples": 10, "num_chains": 4, "seed": 0, "progress": False}
    return infer(seen, kernel, **counts, keep_x=True), seen, y


def test_x_of_every_draw(run):
    posterior, seen, _ = run
    x = decoded(posterior, seen)
    kept = group(posterior, "posterior")["x"]
    assert x.dims == kept.dims
    np.testing.assert_allclose(x.values, kept.transpose(*x.dims).values, atol=1e-5)


@pytest.mark.parametrize("item", [0, 2])
def test_the_log_likelihood_of_every_seen_entry(run, item):
    posterior, seen, y = run
    found = group(with_log_likelihood(posterior, seen, item), "log_likelihood")
    x = decoded(posterior, seen).values[:, :, item]
    assert found["seen"].dims == ("chain", "draw", "seen_seen")
    np.testing.assert_allclose(found["seen"].values, norm.logpdf(y[item, :4], x[..., :4], 0.5), rtol=1e-4, atol=1e-4)
    expected = norm.logpdf(y[item].sum(), x.sum(-1, keepdims=True), 2.0)
    np.testing.assert_allclose(found["sum"].values, expected, rtol=1e-4, atol=1e-4)


def test_arviz_reads_it(run):
    import arviz

    posterior, seen, _ = run
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forty draws are few
        loo = arviz.loo(with_log_likelihood(posterior, seen, 0), var_name="seen")
    assert loo.n_data_points == 4
    assert np.isfinite(float(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd))


def test_another_model_is_refused(run):
    posterior, seen, y = run
    other = CoGenerator(nn.Linear(3, 6), latent_dim=3, views={"seen": views.Identity(scale=0.5)})
    with pytest.raises(ValueError, match="the posterior has 2 latents and the model 3"):
        decoded(posterior, other.condition(seen=y))
    with pytest.raises(ValueError, match="the posterior has 3 items and the model 2"):
        decoded(posterior, other.condition(seen=y[:2]))
    with pytest.raises(ValueError, match="there is no item 7"):
        with_log_likelihood(posterior, seen, 7)

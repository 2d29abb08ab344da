"""The certificate on a linear generator: uniform where the model is right, extreme where it is wrong, and a gap where the
sampler is cut short.

Each test of uniformity has false alarms of 1e-4, with fixed seeds.
"""

import jax.numpy as jnp
import numpy as np
import pyro.distributions as dist
import pytest
import xarray as xr
from numpyro.distributions import MultivariateNormal
from scipy.stats import binomtest, ttest_1samp
from synthetic import inference_data

from cogen.diagnostics import certificate, certify, diagnose, simulate, with_certificate
from cogen.diagnostics.certificate import CHANCE, MISFIT, NOT_ARRIVED, NOTHING, misfits
from cogen.diagnostics.rank_uniformity import chi_squared_p_value, envelope_p_value
from cogen.inference import AnnealedHMC, GuideStart
from cogen.models import Classes, CoGenerator, views
from cogen.output import read_posterior

OUTPUTS, LATENTS, NOISE, ITEMS, RANKS = 24, 2, 0.5, 60, 11
WEIGHT = np.random.default_rng(0).normal(size=(LATENTS, OUTPUTS)).astype(np.float32)
MASK = np.arange(OUTPUTS) < 18
KERNEL = AnnealedHMC(num_leapfrog=3, step_size=0.15)
RUN = {"seed": 3, "num_chains": 16, "num_warmup": 12, "num_replicates": 200, "progress": False}


def generator(z):
    return z @ WEIGHT


def build(masks, scale=NOISE):
    return CoGenerator(generator, latent_dim=LATENTS, views={"seen": views.Mask(masks, scale=scale)})


def run_of(**draws):
    """A posterior of these draws, (chain, draw, item[, size]) each."""
    dims = ("chain", "draw", "item")
    named = {name: ((*dims, *[f"{name}_dim"] * (np.ndim(values) - 3)), values) for name, values in draws.items()}
    return inference_data({"posterior": xr.Dataset(named)})


def exact_run(seen, noise=NOISE, chains=8, draws=25):
    """Exact draws of the posterior."""
    data, rng = seen.item_data["seen"], np.random.default_rng(6)
    z = np.empty((chains, draws, seen.num_items, LATENTS))
    for item, (y, mask) in enumerate(zip(data["value"], data["mask"], strict=True)):
        weight = WEIGHT[:, mask]
        covariance = np.linalg.inv(np.eye(LATENTS) + weight @ weight.T / noise**2)
        z[:, :, item] = rng.multivariate_normal(covariance @ weight @ y[mask] / noise**2, covariance, (chains, draws))
    return run_of(z=z)


def rank_p_value(found):
    ranks = found["evidence_rank"].values
    return 2 * min(chi_squared_p_value(ranks, RANKS), envelope_p_value(ranks, RANKS))


def test_simulated_items_are_not_accused_however_rough_the_evidence(monkeypatch):
    """Each item has a mask of its own: half of them show two outputs, half of them sixteen and more."""
    rng = np.random.default_rng(1)
    masks = np.stack([rng.permutation(OUTPUTS) < (2 if k % 2 else 16 + k % 3) for k in range(ITEMS)])
    seen, _ = simulate(build(masks), ITEMS, seed=2)
    posterior = exact_run(seen)
    rough = RUN | {"num_chains": 8, "num_warmup": 2, "num_simulations": RANKS, "items_at_once": ITEMS * (RANKS + 1)}
    found = certify(seen, posterior, KERNEL, **rough)
    assert rank_p_value(found) > 1e-4
    assert ttest_1samp(found["predictive_p"].values, 0.5).pvalue > 1e-4
    alarms = int((found["predictive_tail"] <= 0.05).sum())
    assert binomtest(alarms, ITEMS, 0.05, alternative="greater").pvalue > 1e-4
    assert binomtest(int(misfits(found).sum()), ITEMS, 2 * CHANCE, alternative="greater").pvalue > 1e-4
    # Simulated under another item's mask the rank is not uniform, and the test sees it.
    monkeypatch.setattr(certificate, "_alike", lambda data: (np.zeros(ITEMS, int), np.arange(ITEMS)))
    assert rank_p_value(certify(seen, posterior, KERNEL, **rough)) < 1e-4


def test_data_of_a_wrong_model_are_extreme():
    rng, factor = np.random.default_rng(7), np.array([[6.0], [6.0], [0.05], [0.05]])
    wrong = rng.normal(size=(4, LATENTS)) @ WEIGHT + factor * NOISE * rng.normal(size=(4, OUTPUTS))
    seen = build(MASK).condition(seen=wrong)
    found = certify(seen, exact_run(seen), KERNEL, items_at_once=83, **RUN)
    assert misfits(found).all()
    assert all(verdict.startswith(MISFIT) for verdict in found["verdict"].values)
    assert found["evidence_rank"].values[:2].tolist() == [0, 0]
    assert found["evidence_rank"].values[2:].min() >= 77  # of 79
    assert ((found["predictive_p"] < 0.01).values == [True, True, False, False]).all()
    assert ((found["predictive_p"] > 0.9).values == [False, False, True, True]).all()
    said = [s for s in diagnose(with_certificate(exact_run(seen), found)) if MISFIT in s]
    assert [s.split(":")[0] for s in said] == ["items 0 and 1", "items 2 and 3"]
    assert "less likely than data simulated from the model" in said[0]
    assert "more likely than data simulated from the model" in said[1]


@pytest.mark.slow
def test_a_sampler_that_is_cut_short_has_a_gap(tmp_path):
    """Three temperatures are too few from the prior, and enough from the posterior itself as a guide."""
    noise, options = 0.05, {"num_leapfrog": 10, "step_size": 0.01}
    seen, _ = simulate(build(MASK, scale=noise), 3, seed=4)
    posterior = exact_run(seen, noise, chains=16, draws=250)

    def guided(model):
        weight = WEIGHT[:, MASK]
        covariance = np.linalg.inv(np.eye(LATENTS) + weight @ weight.T / noise**2)
        means = model.item_data["seen"]["value"][:, MASK] @ weight.T @ covariance / noise**2
        exact = {"loc": means, "covariance_matrix": np.broadcast_to(covariance, (len(means), LATENTS, LATENTS))}
        return AnnealedHMC(initial=GuideStart(MultivariateNormal, exact, prior_share=0.1, per_item=True), **options)

    counts = RUN | {"num_chains": 32, "num_warmup": 3, "num_simulations": 1}
    short, arrives = (certify(seen, posterior, kernel, **counts) for kernel in (AnnealedHMC(**options), guided))
    assert short["verdict"].values.tolist() == [NOT_ARRIVED] * 3
    assert arrives["verdict"].values.tolist() == [NOTHING] * 3
    for name, found in {"short": short, "arrives": arrives}.items():
        with_certificate(posterior, found).to_netcdf(str(tmp_path / name), engine="h5netcdf")
    assert diagnose(read_posterior(tmp_path / "arrives")) == []
    (sentence,) = diagnose(read_posterior(tmp_path / "short"))
    assert sentence.startswith("all 3 items: the chains have not converged: the bounds of the log evidence of simulated")


@pytest.mark.slow
def test_contexts_and_a_sampled_scale_are_those_of_the_item():
    """Items of two classes, which differ by far: each is ranked among items of its own class."""
    model = CoGenerator(
        lambda z, label: z @ WEIGHT + 50.0 * (label @ jnp.array([[1.0], [-1.0]])),
        latent_dim=LATENTS,
        contexts={"label": Classes(2)},
        views={"seen": views.Mask(MASK, scale=dist.LogNormal(-1.0, 0.2))},
    )
    seen, truth = simulate(model.given(label=[0, 1, 1]), 3, seed=0)
    posterior = run_of(**{name: np.broadcast_to(values, (4, 2, *values.shape)) for name, values in truth.items()})
    options = RUN | {"num_simulations": 3, "num_neighbours": 2, "num_warmup": 40}
    found = certify(seen, posterior, KERNEL, **options)
    made = 16 * 3 * 40 * (3 + 2 * 3 + 2 * 6)  # chains, leapfrogs, temperatures; the items, three of either class, neighbours
    assert made <= found.attrs["gradient_evaluations"] < 1.2 * made
    assert (found["log_evidence"] > -60).all()


def test_what_cannot_be_certified():
    seen, _ = simulate(build(MASK), 4, seed=4)
    posterior = exact_run(seen)
    with pytest.raises(TypeError, match="needs a conditioned model of items"):
        certify(lambda: None, posterior, KERNEL, **RUN)
    with pytest.raises(ValueError, match="num_simulations=0, num_neighbours=-1: at least 1"):
        certify(seen, posterior, KERNEL, num_simulations=0, num_neighbours=-1, **RUN)
    with pytest.raises(ValueError, match="the posterior has 4 items, the model is conditioned on 2"):
        certify(seen.of_items({"seen": {n: v[:2] for n, v in seen.item_data["seen"].items()}}), posterior, KERNEL, **RUN)
    with pytest.raises(ValueError, match="weighted=False has no evidence"):
        certify(seen, posterior, AnnealedHMC(weighted=False, resample_threshold=0, step_size=0.1), **RUN)
    with pytest.raises(ValueError, match="bridge=True is not a bound"):
        certify(seen, posterior, AnnealedHMC(bridge=True, step_size=0.1), **RUN)
    with pytest.raises(ValueError, match=r"adapts as it runs, .*: set pilot="):
        certify(seen, posterior, AnnealedHMC(), **RUN)

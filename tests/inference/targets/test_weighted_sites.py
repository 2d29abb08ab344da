"""Scales and masks: the density of every site is its library's, a latent site's too, whatever the shapes."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.distributions as pyro_dist
import pytest
import torch
from numpyro.infer.util import log_density
from scipy import stats

from cogen.diagnostics import diagnose, log_evidence, summary
from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.torch.targets import PyroTarget

N, M = 3, 2
DATA = np.array([[1.0, 2.0], [3.0, 5.0], [-1.0, 0.5]], np.float32)
WEIGHTS = np.array([[0.5, 1.5], [2.0, 0.25], [1.0, 3.0]], np.float32)
SEEN = np.array([[True, False], [True, True], [False, True]])
SHAPES = {"(N, M)": WEIGHTS, "(N, 1)": WEIGHTS[:, :1], "(1, M)": WEIGHTS[:1], "(M,)": WEIGHTS[0], "()": WEIGHTS[0, 1]}


def numpyro_model(weights, *, rows=False, plates=False, latent=False, masked=False):
    """Observations with weights; ``rows``: events of a row (weights of rows); ``latent``: a weighted latent site too."""
    scale, mask = numpyro.handlers.scale, numpyro.handlers.mask
    seen = (SEEN[:, 0] if rows else SEEN) if masked else np.True_

    def model():
        with scale(scale=jnp.asarray(weights[:, 0]) if latent else 1.0), numpyro.plate("site", N, dim=-1):
            level = numpyro.sample("level", dist.Normal(0.0, 2.0))
        noise = dist.Normal(level[:, None], 1.0).expand((N, M))
        with mask(mask=jnp.asarray(seen)), scale(scale=jnp.asarray(weights[:, 0] if rows else weights)):
            if plates:
                with numpyro.plate("column", M, dim=-1), numpyro.plate("row", N, dim=-2):
                    numpyro.sample("y", noise, obs=jnp.asarray(DATA))
            else:
                numpyro.sample("y", noise.to_event(1) if rows else noise, obs=jnp.asarray(DATA))

    return model


def pyro_model(weights, *, rows=False, plates=False, latent=False, masked=False):
    def model():
        with pyro.poutine.scale(scale=torch.tensor(weights[:, 0]) if latent else 1.0), pyro.plate("site", N, dim=-1):
            level = pyro.sample("level", pyro_dist.Normal(0.0, 2.0))
        noise = pyro_dist.Normal(level[:, None], 1.0).expand((N, M))
        with (
            pyro.poutine.mask(mask=torch.tensor(SEEN[:, 0] if rows else SEEN) if masked else torch.tensor(True)),
            pyro.poutine.scale(scale=torch.tensor(weights[:, 0] if rows else weights)),
        ):
            if plates:
                with pyro.plate("column", M, dim=-1), pyro.plate("row", N, dim=-2):
                    pyro.sample("y", noise, obs=torch.tensor(DATA))
            else:
                pyro.sample("y", noise.to_event(1) if rows else noise, obs=torch.tensor(DATA))

    return model


CASES = [
    *[
        pytest.param(weights, {"plates": plates}, id=name + " in plates" * plates)
        for name, weights in SHAPES.items()
        for plates in (False, True)
    ],
    pytest.param(WEIGHTS, {"rows": True}, id="(N,) of rows"),
    pytest.param(WEIGHTS, {"rows": True, "masked": True}, id="(N,) of rows, masked"),
    pytest.param(WEIGHTS, {"masked": True}, id="(N, M) masked"),
    pytest.param(WEIGHTS, {"latent": True}, id="latent too"),
]
LEVELS = np.array([[0.3, -1.0, 2.0], [1.0, 0.0, -0.5]], np.float32)


@pytest.mark.parametrize(("weights", "options"), CASES)
def test_the_end_of_the_path_is_numpyro_s_density(weights, options):
    model = numpyro_model(weights, **options)
    target = numpyro_target(model)
    for level in LEVELS:
        wanted, _ = log_density(model, (), {}, {"level": level})
        assert float(target.reference(level).sum() + target.increment(level).sum()) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize(("weights", "options"), CASES)
def test_the_end_of_the_path_is_pyro_s_density(weights, options):
    model = pyro_model(weights, **options)
    target = PyroTarget(model, (), {}, num_chains=len(LEVELS))
    point = target.evaluate(torch.tensor(LEVELS)[:, None])
    conditioned = [pyro.poutine.trace(pyro.condition(model, {"level": torch.tensor(level)})) for level in LEVELS]
    wanted = [float(trace.get_trace().log_prob_sum()) for trace in conditioned]
    np.testing.assert_allclose((point.reference + point.increment)[:, 0].numpy(), wanted, rtol=1e-5)


def test_q0_is_the_density_of_its_draws():
    """A weighted latent site is drawn without its weight, which the increment has."""
    target = numpyro_target(numpyro_model(WEIGHTS, latent=True))
    reference = float(target.reference(jnp.asarray(LEVELS[0])).sum())
    assert reference == pytest.approx(stats.norm(0, 2).logpdf(LEVELS[0]).sum(), rel=1e-5)


@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC])
def test_a_weighted_latent_site(kernel):
    """p(z)^3 p(y | z) in closed form: mean and evidence within five standard errors of a run over four populations."""

    def numpyro_weighted():
        with numpyro.handlers.scale(scale=3.0):
            z = numpyro.sample("z", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=2.0)

    def pyro_weighted():
        with pyro.poutine.scale(scale=3.0):
            z = pyro.sample("z", pyro_dist.Normal(0.0, 2.0))
        pyro.sample("y", pyro_dist.Normal(z, 1.0), obs=torch.tensor(2.0))

    model = numpyro_weighted if kernel is AnnealedHMC else pyro_weighted
    run = infer(model, kernel(step_size=0.5), num_warmup=100, num_samples=5, num_chains=1024, seed=0, progress=False)
    precision = 3 / 4 + 1
    evidence = -1.5 * np.log(2 * np.pi * 4) - 0.5 * np.log(precision) - 2 + 2 / precision
    assert abs(run["posterior"]["z"].values.mean() - 2 / precision) < 5 * precision**-0.5 / np.sqrt(1024) * 2
    found = log_evidence(run)
    assert abs(found["estimate"].item() - evidence) < 5 * found["standard_error"].item()
    assert found["standard_error"].item() < 0.05


def test_a_subsample_that_is_fixed_counts_with_its_scale_and_one_that_changes_is_refused():
    def numpyro_subsampled():
        z = numpyro.sample("z", dist.Normal(0.0, 2.0))
        with numpyro.plate("n", 4, subsample_size=2) as index, numpyro.handlers.scale(scale=jnp.array([2.0, 1.0])):
            numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.array([1.0, 2.0, 3.0, 4.0])[index])

    def pyro_subsampled():
        z = pyro.sample("z", pyro_dist.Normal(0.0, 2.0))
        with pyro.plate("n", 4, subsample=torch.tensor([0, 3])) as index, pyro.poutine.scale(scale=torch.tensor([2.0, 1.0])):
            pyro.sample("y", pyro_dist.Normal(z, 1.0), obs=torch.tensor([1.0, 2.0, 3.0, 4.0])[index])

    fixed = numpyro.handlers.substitute(numpyro_subsampled, data={"n": jnp.array([0, 3])})
    wanted = [stats.norm(0, 2).logpdf(z) + 4 * stats.norm(z, 1).logpdf(1) + 2 * stats.norm(z, 1).logpdf(4) for z in (0.3, -1.0)]
    target = numpyro_target(fixed)
    found = [float(target.reference(u).sum() + target.increment(u).sum()) for u in (jnp.array([0.3]), jnp.array([-1.0]))]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    torch_target = PyroTarget(pyro_subsampled, (), {}, num_chains=2)
    point = torch_target.evaluate(torch.tensor([[[0.3]], [[-1.0]]]))
    np.testing.assert_allclose((point.reference + point.increment)[:, 0].numpy(), wanted, rtol=1e-5)
    with pytest.raises(ValueError, match="subsample of 2 of 4"):
        numpyro_target(numpyro_subsampled)


# --- obs_mask -----------------------------------------------------------------------------------------------------------

OBSERVED = np.array([1.0, np.nan, 3.0, np.nan], np.float32)


def numpyro_partly_observed():
    z = numpyro.sample("z", dist.Normal(0.0, 2.0))
    with numpyro.plate("n", 4):
        numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.asarray(OBSERVED), obs_mask=jnp.asarray(~np.isnan(OBSERVED)))


def pyro_partly_observed():
    z = pyro.sample("z", pyro_dist.Normal(0.0, 2.0))
    seen = torch.tensor(~np.isnan(OBSERVED))
    with pyro.plate("n", 4):
        pyro.sample("y", pyro_dist.Normal(z, 1.0), obs=torch.tensor(np.nan_to_num(OBSERVED)), obs_mask=seen)


@pytest.mark.filterwarnings("ignore:trying to observe")  # Pyro, of y_observed outside of inference
@pytest.mark.parametrize("kernel", [AnnealedHMC, PyroAnnealedHMC, numpyro.infer.NUTS])
def test_what_obs_mask_hides_has_its_prior(kernel):
    """In the place of a flat density: y_unobserved is standard about z everywhere, and the evidence is that of two numbers."""
    model = pyro_partly_observed if kernel is PyroAnnealedHMC else numpyro_partly_observed
    ours = kernel is not numpyro.infer.NUTS
    samples, chains = (5, 512) if ours else (500, 2)
    run = infer(
        model,
        kernel(step_size=0.3) if ours else kernel,
        num_warmup=200,
        num_samples=samples,
        num_chains=chains,
        seed=0,
        progress=False,
    )
    posterior = run["posterior"]
    precision = 1 / 4 + 2
    assert abs(posterior["z"].values.mean() - 4 / precision) < 0.1
    excess = posterior["y_unobserved"].values - posterior["z"].values[..., None]
    assert abs(excess.std(axis=(0, 1)) - 1).max() < 0.15  # 0.03 from the draws, and their autocorrelation
    assert not [sentence for sentence in diagnose(run) if "disagree" in sentence or "mixed" in sentence]
    if ours:
        evidence = stats.multivariate_normal([0, 0], 4 + np.eye(2)).logpdf([1, 3])
        assert abs(log_evidence(run)["estimate"].item() - evidence) < 0.15


@pytest.mark.filterwarnings("ignore:trying to observe", "ignore:.*non-finite gradient or log density")  # at tiny sds
@pytest.mark.parametrize("weight", [2.0, 0.5])
@pytest.mark.parametrize("library", ["numpyro", "pyro"])
def test_a_weight_of_what_obs_mask_hides_counts_as_the_library_has_it(library, weight):
    """An unknown sd, four values seen and one hidden: p(y_hidden)^w integrates to a function of the sd, by quadrature."""
    values, seen = np.array([1.0, 2.0, -1.0, 0.5, 0.0], np.float32), np.array([True, True, True, True, False])

    def numpyro_model():
        sd = numpyro.sample("sd", dist.LogNormal(0.0, 1.0))
        with numpyro.handlers.scale(scale=weight), numpyro.plate("n", 5):
            numpyro.sample("y", dist.Normal(0.0, sd), obs=jnp.asarray(values), obs_mask=jnp.asarray(seen))

    def pyro_model():
        sd = pyro.sample("sd", pyro_dist.LogNormal(0.0, 1.0))
        with pyro.poutine.scale(scale=weight), pyro.plate("n", 5):
            pyro.sample("y", pyro_dist.Normal(0.0, sd), obs=torch.tensor(values), obs_mask=torch.tensor(seen))

    logs = np.linspace(-4, 5, 20_001)
    hidden = 0.5 * (1 - weight) * (np.log(2 * np.pi) + 2 * logs) - 0.5 * np.log(weight)
    joint = stats.norm.logpdf(logs) + weight * stats.norm.logpdf(values[seen][:, None], 0, np.exp(logs)).sum(0) + hidden
    evidence = np.log(np.trapezoid(np.exp(joint), logs))
    model, kernel = (numpyro_model, AnnealedHMC()) if library == "numpyro" else (pyro_model, PyroAnnealedHMC())
    run = infer(model, kernel, num_warmup=100, num_samples=5, num_chains=256, seed=0, progress=False)
    assert abs(log_evidence(run)["estimate"].item() - evidence) < 0.3  # without the weights it is one to eight nats off
    mean = np.trapezoid(np.exp(joint - evidence + logs), logs)
    assert summary(run)["mean"]["sd"] == pytest.approx(mean, rel=0.15)

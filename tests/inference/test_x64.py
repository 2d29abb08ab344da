"""Every kernel in 64 bits: right, in float64, also through a generator of float32 weights. It runs where JAX has them enabled
(``JAX_ENABLE_X64=1``, as `.ci/run` does, or ``numpyro.enable_x64()``).

The toy is z ~ Normal(0, 1), y_k ~ Normal(z, 1) at 1 and 2: mean 1, sd 3^-1/2, and a log evidence that is that of a Gaussian
with covariance I + 11'. Means are held to 5 standard errors of independent draws, evidences to 5 of their own.
"""

import blackjax
import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import numpyro.infer
import pytest
import torch
from blackjax.smc import extend_params
from blackjax.smc.resampling import systematic
from numpyro.infer.autoguide import AutoNormal
from scipy import stats

from cogen.diagnostics import diagnose, log_evidence
from cogen.diagnostics.evidence import has_evidence
from cogen.inference import (
    SVI,
    Adaptive,
    AnnealedHMC,
    BlackJAX,
    GradientDescent,
    GuideStart,
    ImportanceResampling,
    Langevin,
    ParallelTempering,
    PyroAnnealedHMC,
    Run,
    infer,
)
from cogen.models import CoGenerator, load_generator, shipped_images, views

pytestmark = [
    pytest.mark.skipif(
        not jax.config.jax_enable_x64, reason="run it in 64 bits: JAX_ENABLE_X64=1 pytest tests/inference/test_x64.py"
    ),
    pytest.mark.usefixtures("one_torch_thread"),
]
EVIDENCE = stats.multivariate_normal([0, 0], np.eye(2) + 1).logpdf([1, 2])


def model():
    z = numpyro.sample("z", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(z, 1), obs=np.array([1.0, 2.0]))


def guided():
    fit = Run(model, SVI(AutoNormal), num_warmup=200, num_chains=4, seed=0, progress=False)
    fit.draw(1)
    return AnnealedHMC(initial=GuideStart.of(fit, prior_share=0.5))


def tempered_smc():
    numbers = {"step_size": 0.3, "inverse_mass_matrix": np.ones(1), "num_integration_steps": 5}
    return BlackJAX(
        blackjax.adaptive_tempered_smc,
        mcmc_step_fn=blackjax.hmc.build_kernel(),
        mcmc_init_fn=blackjax.hmc.init,
        mcmc_parameters=extend_params(numbers),
        resampling_fn=systematic,
        target_ess=0.6,
        num_mcmc_steps=4,
    )


KERNELS = {
    "annealed": (AnnealedHMC, 0),
    "annealed, frozen ladder": (lambda: AnnealedHMC(schedule=Adaptive(0.9)), 64),
    "annealed, bridge": (lambda: AnnealedHMC(bridge=True), 0),
    "annealed, from a guide": (guided, 0),
    "annealed, inverse mass": (lambda: AnnealedHMC(inverse_mass=np.full(1, 0.5), resample_threshold=0.0), 16),
    "parallel tempering": (ParallelTempering, 0),
    "importance resampling": (lambda: ImportanceResampling(num_proposals=50), 0),
    "MALA": (lambda: Langevin(adapt_preconditioner=True), 0),
    "ULA": (lambda: Langevin(metropolis=False, step_size=0.1, preconditioner=np.ones(1)), 0),
    "SVI": (lambda: SVI(AutoNormal), 0),
    "BlackJAX's NUTS": (lambda: BlackJAX(blackjax.nuts, adapt=True), 0),
    "BlackJAX's SMC": (tempered_smc, 0),
    "NumPyro's NUTS": (lambda: numpyro.infer.NUTS, 0),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels(name):
    make, pilot = KERNELS[name]
    run = infer(model, make(), num_warmup=400, num_samples=20, num_chains=256, seed=0, progress=False, pilot=pilot)
    z = run["posterior"]["z"].values
    assert z.dtype == np.float64
    assert run["sample_stats"]["lp"].dtype == np.float64
    assert abs(z[:, -1].mean() - 1) < 5 * 3**-0.5 / 16
    assert abs(z[:, -1].std() - 3**-0.5) < 5 * 3**-0.5 / np.sqrt(512)
    assert isinstance(diagnose(run), list)
    if has_evidence(run):
        found = log_evidence(run)
        error = found["standard_error"].item()
        assert abs(found["estimate"].item() - EVIDENCE) < 5 * (error if np.isfinite(error) else 0.1)


def test_descent_finds_the_mode():
    kernel = GradientDescent(prior=True, step_size=0.1)
    run = infer(model, kernel, num_warmup=500, num_samples=1, num_chains=4, seed=0, progress=False)
    np.testing.assert_allclose(run["posterior"]["z"].values, 1.0, atol=1e-6)


def test_a_shipped_generator_with_each_library_and_the_bounds_of_its_evidence():
    pixels, _ = shipped_images("mnist")
    generator = load_generator("mnist_vae")
    mask = views.half((1, 28, 28), "top")
    seen = CoGenerator(generator, views={"visible": views.Mask(mask, scale=0.5)}).condition(visible=pixels[:2])
    counts = {"num_warmup": 60, "num_samples": 2, "num_chains": 16, "seed": 0, "progress": False}
    ours = infer(seen, AnnealedHMC(num_leapfrog=5), **counts)
    with torch.no_grad():
        theirs = infer(seen, PyroAnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.8)), **counts)
    assert ours["posterior"]["z"].dtype == np.float64
    kernel = AnnealedHMC(num_leapfrog=5, step_size=0.05, around=np.zeros((2, generator.config.latent_dim)))
    bound = infer(seen, kernel, **counts)
    for run in (ours, theirs, bound):
        assert np.isfinite(log_evidence(run)["estimate"].values).all()


def test_a_run_that_was_killed_goes_on(tmp_path):
    run = lambda: infer(  # noqa: E731
        model, AnnealedHMC(), num_warmup=40, num_samples=4, num_chains=8, seed=0, progress=False, checkpoint=tmp_path / "run"
    )
    np.testing.assert_array_equal(run()["posterior"]["z"].values, run()["posterior"]["z"].values)

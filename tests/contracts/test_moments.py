"""One contract for all kernels: moments and evidence of six known posteriors, and a broken kernel that fails it.

Every kernel runs on 16 repetitions of every target. With log weights log w, the identity

    E[ mean w / Z h(z) ] = E_posterior[h]

holds exactly for annealed kernels at any number of chains (see `known`), and with w / Z = 1 for the others once they have
converged; seven quantities a target are put to t-tests over the repetitions, with Bonferroni's correction. Kernels that cannot
cross between modes are spared the mixture.

False alarms: 1e-4 per kernel and test, for fixed seeds.
"""

import functools

import numpy as np
import numpyro.infer
import pytest
from broken import an_acceptance_of_everything
from known import repeated_means_p_value
from numpyro.infer.autoguide import AutoNormal
from targets import MULTIMODAL, NAMES, Known, Targets, statistics

from cogen.diagnostics import log_evidence
from cogen.inference import (
    Adaptive,
    AnnealedHMC,
    GuideStart,
    Inference,
    Langevin,
    ParallelTempering,
    PyroAnnealedHMC,
    infer,
)

# From far out in the prior, steps into the funnel and the banana overflow, are rejected and counted: said by a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient or a density that is no number"),
    pytest.mark.usefixtures("one_torch_thread"),
]

FALSE_ALARM = 1e-4
REPEATS = 16
UNIMODAL = tuple(name for name in NAMES if name not in MULTIMODAL)


@pytest.fixture(scope="module")
def known():
    return Known()


def moments_p_value(known: Known, model: Targets, posterior) -> float:
    """The smallest p-value over the targets, times their number."""
    z = posterior["posterior"]["z"].values.astype(float)  # (chain, draw, item, 2)
    stored = posterior["sample_stats"]
    weighted = "log_weight" in stored
    log_weight = stored["log_weight"].values.astype(float) if weighted else np.zeros(z.shape[:3])
    weight = np.exp(log_weight - (known.log_evidence[model.which] if weighted else 0.0))
    centred = statistics(z) - known.means[model.which]
    per_item = (weight[..., None] * centred).mean(axis=(0, 1))  # (item, quantity)
    if weighted:
        per_item = np.concatenate([per_item, (weight - 1.0).mean(axis=(0, 1))[:, None]], axis=1)
    blocks = per_item.reshape(len(model.names), model.repeats, -1)
    return min(1.0, len(blocks) * min(repeated_means_p_value(block) for block in blocks))


def run(model, kernel, **options):
    given = {"num_warmup": 50, "num_samples": 2, "num_chains": 64, "seed": 1, "progress": False} | options
    return infer(model, kernel, items_at_once=len(model.which), **given)


def guided(model) -> AnnealedHMC:
    from cogen.inference import SVI

    fit = Inference(model, SVI(AutoNormal), num_warmup=300, num_chains=4, seed=0, progress=False, items_at_once=96)
    fit.draw(1)
    return AnnealedHMC(num_leapfrog=5, step_size=0.35, initial=GuideStart.of(fit, prior_share=0.5))


ANNEALED = {
    "ais": lambda model: (AnnealedHMC(num_leapfrog=5, step_size=0.35, resample_threshold=0.0), {}),
    "resampling": lambda model: (AnnealedHMC(num_leapfrog=5, step_size=0.35), {}),
    "adaptive, frozen": lambda model: (AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
    "from a guide": lambda model: (guided(model), {}),
    "torch, ais": lambda model: (PyroAnnealedHMC(num_leapfrog=5, step_size=0.35, resample_threshold=0.0), {}),
    "torch, resampling": lambda model: (PyroAnnealedHMC(num_leapfrog=5, step_size=0.35), {}),
    "torch, adaptive, frozen": lambda model: (PyroAnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
}


@pytest.mark.parametrize("name", ANNEALED)
def test_annealed_kernels(known, name):
    model = Targets(REPEATS)
    kernel, options = ANNEALED[name](model)
    posterior = run(model, kernel, **options)
    assert posterior["posterior"].attrs["adapted"] == 0
    assert moments_p_value(known, model, posterior) > FALSE_ALARM
    error = log_evidence(posterior)["estimate"].values - known.log_evidence[model.which]
    assert abs(np.log(np.mean(np.exp(error)))) < 0.1


def test_parallel_tempering(known):
    model = Targets(REPEATS)
    kernel = ParallelTempering(num_replicas=6, num_leapfrog=5)
    posterior = run(model, kernel, num_warmup=150, num_samples=60, num_chains=8)
    assert moments_p_value(known, model, posterior) > FALSE_ALARM
    error = log_evidence(posterior)["estimate"].values - known.log_evidence[model.which]
    assert abs(np.mean(error)) < 0.1


LOCAL = {
    "mala": lambda: (Langevin(), {"num_warmup": 300, "num_samples": 150, "num_chains": 16}),
    "nuts": lambda: (
        functools.partial(numpyro.infer.NUTS, max_tree_depth=5),
        {"num_warmup": 80, "num_samples": 30, "num_chains": 4},
    ),
    "hmc": lambda: (
        functools.partial(numpyro.infer.HMC, num_steps=8, trajectory_length=None),
        {"num_warmup": 100, "num_samples": 40, "num_chains": 8},
    ),
}


@pytest.mark.parametrize("name", LOCAL)
def test_kernels_that_stay_in_their_mode(known, name):
    model = Targets(REPEATS, UNIMODAL)
    kernel, options = LOCAL[name]()
    assert moments_p_value(known, model, run(model, kernel, **options)) > FALSE_ALARM


def test_a_broken_kernel_has_the_wrong_moments(known, monkeypatch):
    an_acceptance_of_everything(monkeypatch)
    model = Targets(REPEATS)
    kernel, options = ANNEALED["resampling"](model)
    assert moments_p_value(known, model, run(model, kernel, **options)) < FALSE_ALARM

"""One contract for all kernels: moments and evidence of known posteriors through `infer`.

Every kernel runs on repetitions (items) of six shapes over two latents, of a linear generator and of weighted observations.
With log weights log w, the identity

    E[ mean w / Z h(z) ] = E_posterior[h]

holds exactly for annealed kernels and importance sampling at any number of chains (see `known`), and with w / Z = 1 for the
others once they have converged; components, products, the log density and the evidence are put to t-tests over the
repetitions, with Bonferroni's correction. Kernels that cannot cross between modes are spared the mixture.

False alarms: 1e-4 per kernel and target, for fixed seeds. Broken kernels: see `test_broken_kernels`.
"""

import functools
from dataclasses import dataclass
from typing import Any

import blackjax
import numpy as np
import numpyro.infer
import pyro.infer
import pytest
from known import GaussianPosteriors, LinearCase, moments_p_value, repeated_means_p_value
from numpyro.infer.autoguide import AutoNormal
from targets import MULTIMODAL, NAMES, Known, Targets, WeightedCase

from cogen.diagnostics import log_evidence
from cogen.inference import (
    SVI,
    Adaptive,
    AnnealedHMC,
    BlackJAX,
    GuideStart,
    ImportanceResampling,
    Langevin,
    ParallelTempering,
    PyroAnnealedHMC,
    PyroLangevin,
    Run,
    infer,
)

# From far out in the prior, steps into the funnel and the banana overflow, are rejected and counted: said by a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*gradient or a density that is no number"),
    pytest.mark.usefixtures("one_torch_thread"),
]

FALSE_ALARM = 1e-4


@dataclass(frozen=True)
class Shapes:
    """Sixteen repetitions of every shape, or of those with one mode."""

    known: Known
    model: Targets
    step = 0.35

    @property
    def log_evidence(self) -> np.ndarray:
        return self.known.log_evidence[self.model.which]

    def p_value(self, posterior: Any) -> float:
        """The smallest p-value over the targets, times their number."""
        z = posterior["posterior"]["z"].values.astype(float)  # (chain, draw, item, 2)
        departures, weight = self.known.departures(z, self.model.which), np.ones(z.shape[:3])
        stored = posterior["sample_stats"]
        if weighted := "log_weight" in stored:
            weight = np.exp(stored["log_weight"].values.astype(float) - self.log_evidence)
        per_item = (weight[..., None] * departures).mean(axis=(0, 1))  # (item, quantity)
        if weighted:
            per_item = np.concatenate([per_item, (weight - 1.0).mean(axis=(0, 1))[:, None]], axis=1)
        blocks = per_item.reshape(len(self.model.names), self.model.repeats, -1)
        return min(1.0, len(blocks) * min(repeated_means_p_value(block) for block in blocks))


@dataclass(frozen=True)
class Gaussians:
    case: GaussianPosteriors
    step = 0.25

    @property
    def model(self) -> Any:
        return self.case.conditioned

    @property
    def log_evidence(self) -> np.ndarray:
        return self.case.log_evidence

    def p_value(self, posterior: Any) -> float:
        return moments_p_value(self.case, posterior)


CASES = {
    "shapes": lambda: Shapes(Known(), Targets(16)),
    "linear": lambda: Gaussians(LinearCase(24)),
    "weighted": lambda: Gaussians(WeightedCase(24)),
}
WITH_ONE_MODE = {**CASES, "shapes": lambda: Shapes(Known(), Targets(16, tuple(n for n in NAMES if n not in MULTIMODAL)))}


def run(case, kernel, **options):
    given = {"num_warmup": 50, "num_samples": 2, "num_chains": 64, "seed": 1, "progress": False} | options
    return infer(case.model, kernel, items_at_once=len(case.log_evidence), **given)


# --- kernels with weights -------------------------------------------------------------------------------------------------


def guided(case) -> AnnealedHMC:
    items = len(case.log_evidence)
    fit = Run(case.model, SVI(AutoNormal), num_warmup=300, num_chains=4, seed=0, progress=False, items_at_once=items)
    fit.draw(1)
    return AnnealedHMC(num_leapfrog=5, step_size=case.step, initial=GuideStart.of(fit, prior_share=0.5))


ANNEALED = {
    "ais": lambda case: (AnnealedHMC(num_leapfrog=5, step_size=case.step, resample_threshold=0.0), {}),
    "resampling": lambda case: (AnnealedHMC(num_leapfrog=5, step_size=case.step), {}),
    "bridge": lambda case: (AnnealedHMC(num_leapfrog=5, step_size=case.step, bridge=True), {}),
    "adaptive, frozen": lambda case: (AnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
    "from a guide": lambda case: (guided(case), {}),
    "torch, ais": lambda case: (PyroAnnealedHMC(num_leapfrog=5, step_size=case.step, resample_threshold=0.0), {}),
    "torch, resampling": lambda case: (PyroAnnealedHMC(num_leapfrog=5, step_size=case.step), {}),
    "torch, bridge": lambda case: (PyroAnnealedHMC(num_leapfrog=5, step_size=case.step, bridge=True), {}),
    "torch, adaptive, frozen": lambda case: (PyroAnnealedHMC(num_leapfrog=5, schedule=Adaptive(0.9)), {"pilot": 32}),
    "importance": lambda case: (ImportanceResampling(num_proposals=40), {"num_warmup": 19}),
}


@pytest.mark.parametrize("target", CASES)
@pytest.mark.parametrize("name", ANNEALED)
def test_kernels_with_weights(name, target):
    case = CASES[target]()
    kernel, options = ANNEALED[name](case)
    posterior = run(case, kernel, **options)
    assert posterior["posterior"].attrs["adapted"] == 0
    assert case.p_value(posterior) > FALSE_ALARM
    ratio = np.exp(log_evidence(posterior)["estimate"].values - case.log_evidence)
    assert abs(np.log(ratio.mean())) < 0.2
    assert repeated_means_p_value(ratio[:, None] - 1) > FALSE_ALARM


# --- kernels without --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", CASES)
def test_parallel_tempering(target):
    case = CASES[target]()
    posterior = run(case, ParallelTempering(num_replicas=6, num_leapfrog=5), num_warmup=150, num_samples=60, num_chains=8)
    assert case.p_value(posterior) > FALSE_ALARM
    error = log_evidence(posterior)["estimate"].values - case.log_evidence
    assert abs(np.mean(error)) < 0.1


LOCAL = {
    "mala": (Langevin(), {"num_warmup": 300, "num_samples": 150, "num_chains": 16}),
    "torch, mala": (PyroLangevin(), {"num_warmup": 300, "num_samples": 150, "num_chains": 16}),
    "nuts": (
        functools.partial(numpyro.infer.NUTS, max_tree_depth=5),
        {"num_warmup": 80, "num_samples": 30, "num_chains": 4},
    ),
    "hmc": (
        functools.partial(numpyro.infer.HMC, num_steps=8, trajectory_length=None),
        {"num_warmup": 100, "num_samples": 40, "num_chains": 8},
    ),
    "blackjax, nuts": (
        BlackJAX(blackjax.nuts, adapt=True, max_num_doublings=5),
        {"num_warmup": 100, "num_samples": 30, "num_chains": 4},
    ),
    "blackjax, hmc": (
        BlackJAX(blackjax.hmc, adapt=True, num_integration_steps=8),
        {"num_warmup": 100, "num_samples": 40, "num_chains": 8},
    ),
    "blackjax, mala": (
        BlackJAX(blackjax.mala, adapt=True, target_acceptance=0.574),
        {"num_warmup": 300, "num_samples": 150, "num_chains": 16},
    ),
}


@pytest.mark.parametrize("target", WITH_ONE_MODE)
@pytest.mark.parametrize("name", LOCAL)
def test_kernels_that_stay_in_their_mode(name, target):
    case = WITH_ONE_MODE[target]()
    kernel, options = LOCAL[name]
    posterior = run(case, kernel, **options)
    assert case.p_value(posterior) > FALSE_ALARM


PYRO = {
    "nuts": functools.partial(pyro.infer.NUTS, step_size=0.3, max_tree_depth=4),
    "hmc": functools.partial(pyro.infer.HMC, step_size=0.25, num_steps=4),
}


@pytest.mark.parametrize("name", PYRO)
def test_pyro_s_kernels(name):
    """One short chain per item, since Pyro runs chain by chain."""
    case = Gaussians(LinearCase(12, latent_dim=2, outputs=5, seen=3))
    posterior = run(case, PYRO[name], num_warmup=30, num_samples=60, num_chains=1)
    assert case.p_value(posterior) > FALSE_ALARM

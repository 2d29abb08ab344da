"""One contract for all kernels: moments and evidence of known posteriors through `infer`.

Every kernel runs on repetitions (items) of six shapes over two latents, of a linear generator and of weighted observations.
With log weights log w, the identity

    E[ mean w / Z h(z) ] = E_posterior[h]

holds exactly for annealed kernels and importance sampling at any number of chains (see `known`), and with w / Z = 1 for the
others once they have converged; components, products, the log density and the evidence are put to t-tests over the
repetitions, with Bonferroni's correction. Kernels that cannot cross between modes are spared the mixture.

False alarms: 1e-4 per kernel and target, for fixed seeds. Broken kernels: see `test_broken_kernels`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known import GaussianPosteriors, LinearCase, moments_p_value, repeated_means_p_value
from registry import DRIVEN
from targets import MULTIMODAL, NAMES, Known, Targets, WeightedCase

from cogen.diagnostics import log_evidence
from cogen.inference import infer

# From far out in the prior, steps into the funnel and the banana overflow, are rejected and counted: said by a warning.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*non-finite gradient or log density"),
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


def cases_of(entry) -> dict:
    if entry.chain_by_chain:
        return {"linear": lambda: Gaussians(LinearCase(12, latent_dim=2, outputs=5, seen=3))}
    return CASES if entry.crosses_modes else WITH_ONE_MODE


ON_EVERY_TARGET = ("ais", "resampling", "torch, resampling")
"""These are put to every target by default; the others to the linear generator, and to the rest in the slow tests."""

LINEAR_ELSEWHERE = {
    "ais": "inference/test_exactness.py",
    "resampling": "inference/test_exactness.py",
    "bridge": "inference/kernels/test_bridge.py",
    "adaptive, frozen": "inference/annealing/test_adaptive_schedule.py",
    "from a guide": "inference/test_variational.py",
    "importance": "inference/test_driver.py",
    "parallel tempering": "inference/kernels/test_parallel_tempering.py",
    "mala": "inference/kernels/test_langevin.py",
    "torch, mala": "inference/torch/test_pyro_langevin.py",
    "blackjax, nuts": "inference/adapters/test_blackjax_kernel.py",
    "blackjax, mala": "inference/adapters/test_blackjax_kernel.py",
}
"""Where a default test of the kernel's own puts it to a linear generator: here then in the slow tests."""


def by_default(name: str, target: str) -> bool:
    return name not in LINEAR_ELSEWHERE if target == "linear" else name in ON_EVERY_TARGET


def pairings() -> list:
    pairs = [(name, target) for name, entry in DRIVEN.items() for target in cases_of(entry)]
    return [pytest.param(*pair, marks=() if by_default(*pair) else pytest.mark.slow) for pair in pairs]


def test_what_is_spared_is_tested_elsewhere():
    assert LINEAR_ELSEWHERE.keys() <= DRIVEN.keys()
    for file in LINEAR_ELSEWHERE.values():
        assert "moments_p_value(case, " in (Path(__file__).parents[1] / file).read_text(encoding="utf-8"), file


@pytest.mark.parametrize(("name", "target"), pairings())
def test_moments_and_evidence(name, target):
    entry = DRIVEN[name]
    case = cases_of(entry)[target]()
    posterior = run(case, entry.make(case), **entry.counts)
    learns = name == "metric of the others"  # as it runs: a pilot does not freeze it
    assert posterior["posterior"].attrs["adapted"] == learns
    assert case.p_value(posterior) > FALSE_ALARM
    if entry.evidence == "weights":
        ratio = np.exp(log_evidence(posterior)["estimate"].values - case.log_evidence)
        assert abs(np.log(ratio.mean())) < 0.2
        assert repeated_means_p_value(ratio[:, None] - 1) > FALSE_ALARM
    elif entry.evidence == "bridges":
        assert abs(np.mean(log_evidence(posterior)["estimate"].values - case.log_evidence)) < 0.1

"""Whether transitions from exact draws leave a posterior what it is: the p-value of a way to run a kernel.

Chains start from exact draws z0 of known posteriors p(z) p(y | z)^beta, at beta = 1 and below where the kernel goes there, and
end at z. Functions h with the mean zero under that posterior (components, products, the log density) still have it,

    E[ h(z) - b h(z0) ] = 0,        b = Cov(h(z), h(z0)) / Var(h(z0)),

where the start is a control variate. Each is put to a z-test, with Bonferroni's correction. The targets are six shapes over two
latents, and a linear generator with eight and weighted observations, whose items are one sample once they are whitened. The
steps are so large that a fourth of the trajectories is rejected, for a wrong acceptance to matter.
"""

from __future__ import annotations

import functools
from typing import Any

import chains
import numpy as np
from known import GaussianPosteriors, LinearCase, standard_normal_moments
from registry import BELOW_ONE, step
from scipy import stats
from targets import NAMES, Known, Targets, WeightedCase

LADDER = (BELOW_ONE, 0.6, 1.0)


class Shapes:
    """The six posteriors over two latents: exact draws, and functions of draws with the mean zero."""

    chains, dim = 4096, 2

    def __init__(self) -> None:
        self.model = Targets(1)
        self.known = functools.cache(Known)

    def draw(self, beta: float, rng: np.random.Generator) -> np.ndarray:
        return np.stack([self.known(beta).draw(k, self.chains, rng) for k in range(len(NAMES))], axis=1)

    def departures(self, z: np.ndarray, beta: float) -> np.ndarray:
        """(chain, item, dim) -> (n, function)."""
        return self.known(beta).departures(z, self.model.which).reshape(len(z), -1)


class Gaussians:
    """Posteriors in closed form, whose items are alike once they are whitened."""

    chains = 2048

    def __init__(self, case: GaussianPosteriors, model: Any = None) -> None:
        self.case, self.model, self.dim = case, model or case.conditioned, case.mean.shape[1]

    def draw(self, beta, rng):
        return self.case.draw(self.chains, rng, beta)

    def departures(self, z, beta):
        moments = standard_normal_moments(self.case.whitened(z, beta))
        return moments.reshape(-1, moments.shape[-1])


CASES = {
    "shapes": Shapes,
    "linear": lambda: Gaussians(LinearCase(24)),
    "weighted": lambda: Gaussians(WeightedCase(24)),
}
case_named = functools.cache(lambda name: CASES[name]())


def no_change_p_value(before: np.ndarray, after: np.ndarray) -> float:
    """That functions (n, function) whose means were zero still have them."""
    if not np.isfinite(after).all():
        return 0.0
    centred = before - before.mean(axis=0)
    slope = (centred * after).sum(axis=0) / (centred**2).sum(axis=0)
    left = after - slope * before
    z = left.mean(axis=0) / (left.std(axis=0) / np.sqrt(len(left)))
    return min(1.0, z.size * 2 * stats.norm.sf(np.abs(z).max()))


def invariance_p_value(case, run, beta: float = 1.0) -> float:
    start = case.draw(beta, np.random.default_rng(5))
    end = run(case.model, start, beta)
    assert (end != start.astype(np.float32)).any(axis=-1).mean() > 0.5  # chains that stand still would pass
    return no_change_p_value(case.departures(start, beta), case.departures(end.astype(float), beta))


def replicas_p_value(case, step: float) -> float:
    """Of all replicas of a ladder, each at its own inverse temperature."""
    rng = np.random.default_rng(5)
    start = {beta: case.draw(beta, rng)[:1024] for beta in LADDER}
    end = chains.tempered_replicas(step, case.model, start)
    p = [no_change_p_value(case.departures(start[b], b), case.departures(end[b].astype(float), b)) for b in LADDER]
    return min(1.0, len(LADDER) * min(p))


def replica_step(name: str) -> float:
    """One for all inverse temperatures."""
    return 1.2 * step(name)

"""The posteriors on which samplers are compared, with their reference values."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
import torch
from peer_samplers import LIMIT, Outcome, annealed, model_of

from cogen.inference import Adaptive, AnnealedHMC, infer
from cogen.models import CoGenerator, load_generator, shipped_images, views

EXAMPLES = Path(__file__).parents[1] / "examples"


@dataclass
class Case:
    """A posterior with its reference values."""

    name: str
    seen: CoGenerator
    errors: tuple[float, float]
    """Target errors of the log evidence and of the distance."""
    log_evidence: float
    known: str
    """Source and precision of the reference values."""
    distance: Callable[[np.ndarray, np.ndarray], float]
    """Distance from the posterior, of draws (n, latent) with normalised weights (n,)."""


class Shifted(torch.nn.Module):
    """A generator with x2 shifted, so that `quadrature`, which is for x2 = 0, applies."""

    def __init__(self, generator: torch.nn.Module, x2: float) -> None:
        super().__init__()
        self.generator, self.x2 = generator, x2

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.generator(z) - torch.tensor([0.0, self.x2], dtype=z.dtype)


def five_gaussians(errors: tuple[float, float], iterations: int, resolution: float, x2: float = 0.0) -> Case:
    """The GAN of five Gaussians with x2 observed. The distance is the Wasserstein distance of x1 from quadrature (the integral
    of |F - F*|)."""
    sys.path.insert(0, str(EXAMPLES))
    import five_gaussians as toy

    settings = toy.Options(iterations=(iterations,))
    generator = _trained(iterations)
    edges = np.linspace(-2.5, 2.5, 1_001)
    modes, toy.MODES = toy.MODES, {k: (edges[k], edges[k + 1]) for k in range(1_000)}
    log_evidence, share = toy.quadrature(Shifted(generator, x2), settings.scale, resolution)
    toy.MODES = modes
    model = CoGenerator(generator, latent_dim=2, views={"x2": views.Columns(["x2"], of=toy.COLUMNS, scale=settings.scale)})
    seen = model.condition(x2=np.full((1, 1), x2, np.float32))

    def distance(z: np.ndarray, weight: np.ndarray) -> float:
        found, _ = np.histogram(model.decode(z)[:, 0], bins=edges, weights=weight)
        return float(np.abs(np.cumsum(found - share)).sum() * (edges[1] - edges[0]))

    return Case("five_gaussians", seen, errors, log_evidence, f"log evidence {log_evidence:.3f} by quadrature", distance)


@functools.cache
def _trained(iterations: int) -> torch.nn.Module:
    import five_gaussians as toy

    return toy.train(toy.Options(iterations=(iterations,)))[iterations]


def image(errors: tuple[float, float], name: str, digit: int, chains: int, runs: int, ess: float) -> Case:
    """A shipped generator with the top half of a test digit seen. The distance is the root mean square error of the posterior
    mean over hidden pixels. The reference is long runs with step sizes and temperatures of a pilot run, so that their evidence
    is unbiased."""
    generator = load_generator(name)
    shape = tuple(generator.config.event_shape)
    mask = views.half(shape, "top")
    model = CoGenerator(generator, views={"seen": views.Mask(mask, scale=generator.config.noise_scale)})
    seen = model.condition(seen=shipped_images(name)[0][digit : digit + 1])
    start = time.perf_counter()
    kernel = AnnealedHMC(schedule=Adaptive(ess), moves_per_temperature=3)
    frozen = frozen_by_pilot(seen, kernel, min(256, chains), seed=1_000)[0]
    run = jax.jit(annealed(model_of(seen), chains, 3 * LIMIT, lambda _: frozen))
    found = [run(jax.random.key(1_001 + k), ()) for k in range(runs)]
    log_z = np.array([float(run.log_evidence) for run in found])
    share = np.exp(log_z - log_z.max())
    error = float(share.std(ddof=1) / share.mean() / np.sqrt(len(share))) if len(share) > 1 else float("nan")
    hidden = ~np.broadcast_to(mask, shape)

    def mean(z: np.ndarray, weight: np.ndarray) -> np.ndarray:
        return weight @ model.decode(z)[:, hidden]

    each = [mean(*draws(run)) for run in found]
    reference = np.average(each, axis=0, weights=share)
    own = np.sqrt(np.mean(np.var(each, axis=0) / max(1, len(each) - 1)))
    log_evidence = float(log_z.max() + np.log(share.mean()))
    known = (
        f"log evidence {log_evidence:.3f} (s.e. {error:.3f}) from {runs} runs of {chains} chains with"
        f" {int(found[0].gradients)} gradients each, the posterior mean to {own:.4f} a pixel,"
        f" in {time.perf_counter() - start:.0f} s"
    )

    def distance(z: np.ndarray, weight: np.ndarray) -> float:
        return float(np.sqrt(np.mean((mean(z, weight) - reference) ** 2)))

    return Case("image", seen, errors, log_evidence, f"{name}: {known}", distance)


def frozen_by_pilot(seen: CoGenerator, kernel: AnnealedHMC, chains: int, seed: int) -> tuple[AnnealedHMC, float]:
    """The kernel with the settings of a pilot run with ``chains`` chains, and the seconds of the pilot run."""
    warmup = LIMIT * kernel.settings.moves_per_temperature
    pilot = infer(seen, kernel, num_warmup=warmup, num_samples=1, num_chains=chains, seed=seed, progress=False)
    attributes = pilot["posterior"].attrs
    return kernel.frozen(pilot), attributes["seconds"] - attributes["compile_seconds"]


def draws(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    """Positions and normalised weights."""
    weight = np.exp(np.asarray(outcome.log_weight, float) - np.max(outcome.log_weight))
    return np.asarray(outcome.z), weight / weight.sum()

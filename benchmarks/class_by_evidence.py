"""Are the probabilities of a class that come from evidence right? Digits simulated from a conditional generator, top half seen.

    cogen train cvae --data mnist --network dense --latent-dim 8 --widths 256 256 --epochs 12 --batch 128 --output cvae
    python benchmarks/class_by_evidence.py --generator cvae --output class_by_evidence.json

A class c is uniform, z ~ Normal(0, I), and the top half of x = G(z, c) is seen with noise. The class is declared unknown, so
that ``infer`` makes one annealed run a class, and p(c | y) is proportional to p(c) Z_c. If these probabilities are right, then
over digits

    E[-log p(true class | y)] = E[entropy of p(. | y)],

and of the classes that are given a probability near p, a share p is true. Printed: both means with the standard error of their
difference, and the reliability table. The noise is so large that the view leaves the class open.
"""

import itertools
import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from cogen.diagnostics import context_probabilities
from cogen.inference import AnnealedHMC, infer
from cogen.models import Classes, CoGenerator, load_generator, views

EDGES = (0.0, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)


@dataclass
class Options:
    generator: str = "cvae"
    """A conditional generator that `cogen train` stored."""
    digits: int = 256
    """Simulated digits."""
    noise: float = 1.0
    """Standard deviation of the noise of a pixel, in the generator's units."""
    chains: int = 16
    """Chains per digit and class."""
    warmup: int = 100
    """Temperatures."""
    leapfrog: int = 5
    """Gradients per transition."""
    pilot: int = 8
    """Chains of the pilot."""
    items_at_once: int = 64
    """Digits times classes of a block."""
    seed: int = 0
    """Digits, noise and chains follow from it."""
    output: Path = Path("class_by_evidence.json")
    """The record."""


def simulated(options: Options) -> tuple[CoGenerator, np.ndarray]:
    """The model conditioned on digits drawn from it, and their classes."""
    generator = load_generator(options.generator)
    classes = generator.config.contexts["label"].count
    mask = views.half(tuple(generator.config.event_shape), "top")
    model = CoGenerator(
        generator,
        contexts={"label": Classes(classes, unknown="exact")},
        views={"seen": views.Mask(mask, scale=options.noise)},
    )
    rng = np.random.default_rng(options.seed)
    truth = rng.integers(classes, size=options.digits)
    z = torch.as_tensor(rng.normal(size=(options.digits, generator.config.latent_dim)), dtype=torch.float32)
    with torch.no_grad():
        x = generator(z, label=torch.eye(classes)[truth]).numpy()
    return model.condition(seen=x + options.noise * rng.normal(size=x.shape).astype(np.float32)), truth


def judged(probability: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The two means, and how often a class with so much probability was true."""
    safe = np.maximum(probability, 1e-300)
    surprise, entropy = -np.log(safe[np.arange(len(truth)), truth]), -(probability * np.log(safe)).sum(axis=1)
    difference = surprise - entropy
    hit = np.arange(probability.shape[1]) == truth[:, None]
    rows = []
    for low, high in itertools.pairwise(EDGES):
        inside = (probability >= low) & ((probability < high) | (high == 1.0))
        if inside.any():
            mean = probability[inside].mean()
            error = np.sqrt((probability[inside] * (1 - probability[inside])).sum()) / inside.sum()
            row = {"from": low, "to": high, "count": inside.sum(), "mean": mean, "true": hit[inside].mean(), "error": error}
            rows.append({name: float(value) for name, value in row.items()})
    return {
        "surprise": float(surprise.mean()),
        "entropy": float(entropy.mean()),
        "difference": float(difference.mean()),
        "standard_error": float(difference.std(ddof=1) / np.sqrt(len(truth))),
        "reliability": rows,
    }


def main(options: Options) -> None:
    seen, truth = simulated(options)
    begun = time.perf_counter()
    posterior = infer(
        seen,
        AnnealedHMC(num_leapfrog=options.leapfrog),
        num_warmup=options.warmup,
        num_samples=1,
        num_chains=options.chains,
        pilot=options.pilot,
        seed=options.seed,
        items_at_once=options.items_at_once,
    )
    found = context_probabilities(posterior)
    record = {
        "command": shlex.join(["python", "benchmarks/class_by_evidence.py", *sys.argv[1:]]),
        **judged(found["label"].values, truth),
        "jackknife_standard_error": float(found["label_se"].mean()),
        "seconds": time.perf_counter() - begun,
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"-log p(true class), mean over {options.digits} digits   {record['surprise']:.3f} nat")
    print(f"entropy of p(class | y)                      {record['entropy']:.3f} nat")
    print(f"difference                                   {record['difference']:.3f} ({record['standard_error']:.3f})")
    print(f"\n{'probability':>14} {'classes':>8} {'mean':>7} {'true':>7} {'s.e.':>7}")
    for row in record["reliability"]:
        between = f"{row['from']:.2f} to {row['to']:.2f}"
        print(f"{between:>14} {row['count']:8.0f} {row['mean']:7.3f} {row['true']:7.3f} {row['error']:7.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

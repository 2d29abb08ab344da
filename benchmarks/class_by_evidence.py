"""Calibration of class probabilities by evidence, on digits simulated from a conditional generator with the top half seen.

    cogen train cvae --data mnist --network dense --latent-dim 8 --widths 256 256 --epochs 12 --batch 128 --output cvae
    python benchmarks/class_by_evidence.py --generator cvae --output class_by_evidence.json

The class c is uniform, z ~ Normal(0, I), and the top half of x = G(z, c) is observed with noise. The class is declared unknown,
so that ``infer`` makes one annealed run per class, and p(c | y) is proportional to p(c) Z_c. If these probabilities are
correct, then over digits

    E[-log p(true class | y)] = E[entropy of p(. | y)],

and a share p of the classes with a probability near p is true. Both means, the standard error of their difference, and the
reliability table are printed. The noise is so large that the seen part does not determine the class.

With ``--reference-draws`` the probabilities are also estimated from draws of the prior, the same for all digits and classes,
weighted by their likelihood, which is possible for a generator with few latents. The two probabilities of the true class are
compared digit by digit, which removes the variation between digits.
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
    """A conditional generator of `cogen train`."""
    digits: int = 256
    """Simulated digits."""
    noise: float = 1.0
    """Standard deviation of the pixel noise, in the generator's units."""
    chains: int = 16
    """Chains per digit and class."""
    warmup: int = 100
    """Temperatures."""
    leapfrog: int = 5
    """Gradients per transition."""
    pilot: int = 8
    """Chains of the pilot run."""
    items_at_once: int = 64
    """Digits times classes per block."""
    reference_draws: int = 0
    """Draws of the prior for the reference; 0 for none."""
    seed: int = 0
    """Seed of digits, noise and chains."""
    output: Path = Path("class_by_evidence.json")
    """JSON file for the record."""


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


def reference(options: Options, seen: CoGenerator) -> tuple[np.ndarray, float]:
    """p(class | y) by importance sampling from the prior, (digit, class), and the smallest effective number of draws of the
    true or likely classes (with a probability above 0.05)."""
    generator, at_once = seen.generator, 20_000
    classes = generator.config.contexts["label"].count
    mask = torch.as_tensor(views.half(tuple(generator.config.event_shape), "top")).flatten()
    y = torch.as_tensor(seen.observed["seen"]["value"]).flatten(1)[:, mask]
    sums = torch.full((2, len(y), classes), -torch.inf, dtype=torch.float64)  # log sums of the weights, and of their squares
    random = torch.Generator().manual_seed(options.seed)
    for _ in range(-(-options.reference_draws // at_once)):
        z = torch.randn(at_once, seen.latent_dim, generator=random)
        for index, label in enumerate(torch.eye(classes)):
            with torch.no_grad():
                x = generator(z, label=label.expand(at_once, classes)).flatten(1)[:, mask]
            log_weight = ((y @ x.T - 0.5 * (x**2).sum(1)) / options.noise**2).double()
            found = torch.stack([log_weight.logsumexp(1), (2 * log_weight).logsumexp(1)])
            sums[:, :, index] = torch.logaddexp(sums[:, :, index], found)
    probability = sums[0].softmax(1)
    effective = (2 * sums[0] - sums[1]).exp()
    return probability.numpy(), float(effective[probability > 0.05].min())


def judged(probability: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The two means, and the share of true classes by predicted probability."""
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
    if options.reference_draws:
        exact, effective = reference(options, seen)
        gain = -np.log(exact[np.arange(len(truth)), truth]) + np.log(found["label"].values[np.arange(len(truth)), truth])
        record["reference"] = {
            **{name: value for name, value in judged(exact, truth).items() if name != "reliability"},
            "smallest_effective_draws": effective,
            "annealed_better_by": float(gain.mean()),
            "annealed_better_by_standard_error": float(gain.std(ddof=1) / np.sqrt(len(truth))),
            "mean_absolute_difference": float(np.abs(exact - found["label"].values).mean()),
        }
    options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"-log p(true class), mean over {options.digits} digits   {record['surprise']:.3f} nat")
    print(f"entropy of p(class | y)                      {record['entropy']:.3f} nat")
    print(f"difference                                   {record['difference']:.3f} ({record['standard_error']:.3f})")
    if "reference" in record:
        other = record["reference"]
        print(f"difference of the reference                  {other['difference']:.3f} ({other['standard_error']:.3f})")
        error = other["annealed_better_by_standard_error"]
        print(f"-log p(true class), reference less annealed  {other['annealed_better_by']:.3f} ({error:.3f})")
    print(f"\n{'probability':>14} {'classes':>8} {'mean':>7} {'true':>7} {'s.e.':>7}")
    for row in record["reliability"]:
        between = f"{row['from']:.2f} to {row['to']:.2f}"
        print(f"{between:>14} {row['count']:8.0f} {row['mean']:7.3f} {row['true']:7.3f} {row['error']:7.3f}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

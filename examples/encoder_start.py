"""Does an encoder help the annealing? Compare completions from the prior and from an encoder at the same budget.

    python examples/encoder_start.py --output encoder_start

An encoder of whole images cannot be used for half of an image. Here q(z | seen part, mask) is trained on simulated pairs of the
shipped generator, x = G(z) + noise with random masks (halves, boxes, random pixels, brush strokes). Mixed with the prior, q0 =
(1 - share) q + share prior, it is the start of the annealing for test digits. Both starts have the same temperatures, leapfrog
steps and chains. A pilot run chooses the step sizes, so the evidence is unbiased, and a larger mean of log p(y) is better.

    log p(y)     mean over images of the estimated log evidence (a lower bound in expectation), and its mean standard error
    CRPS         fair CRPS of the hidden pixels of the real digit, from pairs of draws of different populations
    ancestors    distinct ancestors of the posterior's chains, median over images
    guide alone  draws of q(z | y) without annealing

The training time of the encoder is spent once, for all images and masks of these kinds. OUTPUT.json has the table and the
command. The share of the prior was not tuned.
"""

from __future__ import annotations

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

from cogen.diagnostics import independent_groups, item_summary, score_completions
from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator, EncoderGuide, load_generator, shipped_images, views
from cogen.models.families.amortized import Amortized
from cogen.models.networks.architectures import DenseEncoder
from cogen.models.networks.encoders import MaskedEncoder


@dataclass
class Options:
    """Completions of shipped test digits from two starts."""

    generator: str = "mnist"
    """A shipped generator of digits."""
    steps: int = 20_000
    """Training steps of the encoder."""
    batch: int = 128
    """Pairs per step."""
    widths: tuple[int, ...] = (512, 512)
    """Hidden layers of the encoder."""
    learning_rate: float = 1e-3
    """Learning rate of Adam; it falls to zero over the second half."""
    masks: int = 2_000
    """Masks that are drawn in advance."""
    views: tuple[str, ...] = ("half", "block")
    """Seen part: half, the top half; block, all but the middle 14 x 14 pixels."""
    count: int = 16
    """Test digits."""
    warmups: tuple[int, ...] = (30, 100, 300)
    """Temperatures of the annealing."""
    leapfrog: int = 10
    """Gradients per temperature."""
    chains: int = 32
    """Chains per image; the pilot run has half as many."""
    samples: int = 10
    """Draws per chain."""
    share: float = 0.1
    """Share of the prior in the start."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    seed: int = 0
    """Seed of weights, pairs and chains."""
    output: Path = Path("encoder_start")
    """Output path: writes OUTPUT.json."""


def scores(posterior: Any, model: CoGenerator, truth: np.ndarray, hidden: np.ndarray) -> dict[str, float]:
    z = posterior["posterior"]["z"].values
    x = model.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *truth.shape[1:])
    table = item_summary(posterior)
    log_weight, group = posterior["sample_stats"]["log_weight"].values, independent_groups(posterior).values
    found = score_completions(x, truth, hidden, value_range=model.value_range, log_weight=log_weight, group=group)
    return {
        "log_evidence": float(table["log_evidence"].mean()),
        "log_evidence_se": float(table["log_evidence_se"].mean()),
        "crps": float(found["crps"].mean()),
        "ancestors": float(table["ancestors"].median()),
        "gradients": float(posterior["sample_stats"]["gradient_evaluations"].mean()) / posterior["posterior"].sizes["chain"],
    }


def main(options: Options) -> list[dict[str, Any]]:
    if options.threads:
        torch.set_num_threads(options.threads)
    generator = load_generator(options.generator)
    shape, noise = tuple(generator.config.event_shape), generator.config.noise_scale
    truth = shipped_images("mnist")[0][: options.count]
    torch.manual_seed(options.seed)
    network = MaskedEncoder(DenseEncoder(generator.config.latent_dim, (2 * shape[0], *shape[1:]), options.widths))
    family = Amortized(
        generator,
        network,
        generator.config.latent_dim,
        views=[views.Mask(views.assorted(shape, options.masks, seed=options.seed), scale=noise)],
        learning_rate=options.learning_rate,
    )
    trained = family.fit(options.steps, options.batch, seed=options.seed)
    loss = float(np.mean(trained.losses["encoder"][-200:]))
    print(f"encoder: -log q(z | y) = {loss:.2f} nats up to a constant, {trained.seconds:.0f} s")

    rows: list[dict[str, Any]] = []
    for name in options.views:
        mask = views.half(shape, "top") if name == "half" else views.centre(shape, 14)
        model = CoGenerator(generator, views={"seen": views.Mask(mask, scale=noise)})
        seen, hidden = model.condition(seen=truth), np.broadcast_to(~mask, truth.shape)
        guide = EncoderGuide(network, seen)
        drawn = guide.mean + guide.sd * torch.randn(options.chains, 10, *guide.mean.shape)
        x = model.decode(drawn.flatten(0, 2).numpy()).reshape(options.chains, 10, *truth.shape)
        alone = score_completions(x, truth, hidden, value_range=model.value_range)
        rows.append({"view": name, "start": "guide alone", "crps": float(alone["crps"].mean())})
        for warmup in options.warmups:
            for start, initial in (("prior", None), ("encoder", guide.start(options.share))):
                began = time.perf_counter()
                posterior = infer(
                    seen,
                    AnnealedHMC(num_leapfrog=options.leapfrog, initial=initial),
                    num_warmup=warmup,
                    num_samples=options.samples,
                    num_chains=options.chains,
                    seed=options.seed,
                    pilot=max(8, options.chains // 2),
                )
                found = scores(posterior, model, truth, hidden)
                rows.append({"view": name, "start": start, "temperatures": warmup, **found})
                rows[-1]["seconds"] = time.perf_counter() - began
    print("\n" + table_of(rows))
    record = {
        "command": shlex.join(["python", "examples/encoder_start.py", *sys.argv[1:]]),
        "encoder": {"loss": loss, "seconds": trained.seconds},
        "rows": rows,
    }
    path = options.output.with_name(f"{options.output.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'view':8} {'start':12} {'temperatures':>12} {'log p(y)':>10} {'(s.e.)':>7} {'CRPS':>7} {'ancestors':>10}"]
    for row in rows:
        numbers = [("temperatures", "12d"), ("log_evidence", "10.2f"), ("log_evidence_se", "7.2f"), ("crps", "7.4f")]
        cells = [f"{row[key]:{form}}" if key in row else " " * int(form.split(".")[0].rstrip("d")) for key, form in numbers]
        ancestors = f"{row['ancestors']:10.0f}" if "ancestors" in row else ""
        lines.append(f"{row['view']:8} {row['start']:12} {' '.join(cells)} {ancestors}")
    return "\n".join(lines)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

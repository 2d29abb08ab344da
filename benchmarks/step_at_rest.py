"""The factor of the last tuned step size (`cogen.algorithms.AT_REST`) on held-out images of the training set.

    python benchmarks/step_at_rest.py --folder data/mnist --output docs/step_at_rest.json

`cogen tune` finds step sizes on simulated images. Real images are fitted less well, their posteriors are narrower, and the last
step size is too large for some of them. Every factor completes the same images from the same starts. Differences of the CRPS
from the factor 1 are paired over images, with their standard errors.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import cogen.algorithms
from cogen.completion import complete
from cogen.diagnostics import diagnose
from cogen.models.data.datasets import held_out_split, load_image_data
from cogen.options import Complete
from cogen.output import read_posterior


@dataclass
class Options:
    data: str = "mnist"
    folder: Path | None = None
    generator: str = "digits"
    views: tuple[str, ...] = ("half", "centre")
    factors: tuple[float, ...] = (1.0, 0.8, 0.6, 0.4)
    images: int = 64
    chains: int = 16
    seed: int = 0
    output: Path | None = None


def main(options: Options) -> None:
    data = load_image_data(options.data, folder=options.folder)
    _, held_out = held_out_split(len(data.train))
    chosen = np.random.default_rng(options.seed).choice(np.arange(len(data.train))[held_out], options.images, replace=False)
    record: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "images": options.images, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/images.npy", data.train[chosen])
        for view in options.views:
            scores = []
            for factor in options.factors:
                cogen.algorithms.AT_REST = factor
                made = Complete(
                    generator=options.generator,
                    images=Path(folder, "images.npy"),
                    count=options.images,
                    view=(view,),  # type: ignore[arg-type]
                    chains=options.chains,
                    seed=options.seed,
                    output=Path(folder, "out"),
                )
                complete(made)
                metrics = json.loads(Path(folder, "out", "metrics.json").read_text(encoding="utf-8"))
                posterior = read_posterior(Path(folder, "out", "posterior.nc"))
                scores.append(np.array(metrics["per_item"]["hidden_crps"]))
                apart = scores[-1] - scores[0]
                row = {
                    "view": view,
                    "factor": factor,
                    "crps": float(scores[-1].mean()),
                    "difference": float(apart.mean()),
                    "difference_se": float(apart.std(ddof=1) / np.sqrt(len(apart))),
                    "acceptance_rate": metrics["acceptance_rate"],
                    "diverging": float(np.mean(posterior["sample_stats"]["diverging"].values)),
                    "findings": diagnose(posterior),
                }
                record["rows"].append(row)
    for row in record["rows"]:
        print("  ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()))
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""A schedule of `cogen tune` at other noise scales than its own (`cogen.schedules.NOISE`).

    python benchmarks/schedule_noise.py --output docs/schedule_noise.json

A schedule is tuned at one noise scale. Simulated images are then completed at other scales, with this schedule and with one
that was tuned at their scale, from the same starts and with the same number of gradients. Differences of the CRPS are paired
over images, with their standard errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from records import write_record

from cogen.compiled_before import remember_compiled
from cogen.conditions import view_named
from cogen.diagnostics import decoded, score_completions
from cogen.diagnostics.evidence_bounds import simulate
from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator, FlowGuide, load_generator, load_guide
from cogen.options import Tune
from cogen.tuning import tuned


@dataclass
class Options:
    generator: str = "digits"
    noise: float = 0.3
    ratios: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.35, 1.5, 2.0)
    temperatures: tuple[int, ...] = (16,)
    items: int = 64
    chains: int = 16
    seed: int = 0
    output: Path | None = None


def main(options: Options) -> None:
    remember_compiled()
    generator, guide = load_generator(options.generator), load_guide(options.generator)
    assert guide is not None

    def schedule(noise: float) -> Any:
        asked = Tune(generator=options.generator, noise=noise, temperatures=options.temperatures, seed=options.seed)
        return tuned(asked, generator, guide)

    fixed, rows = schedule(options.noise), []
    for ratio in options.ratios:
        noise = ratio * options.noise
        view = view_named("half", generator, noise=noise)
        seen, truth = simulate(CoGenerator(generator, views={"seen": view}), options.items, seed=options.seed + 100)
        x, mask = seen.decode(truth["z"]), view.mask
        assert mask is not None
        hidden = np.broadcast_to(~mask.numpy(), x.shape)
        row: dict[str, Any] = {"ratio": ratio, "noise": noise}
        scores = {}
        for name, settings in (("fixed", fixed), ("own", fixed if ratio == 1 else schedule(noise))):
            kernel = AnnealedHMC(
                weighted=False, resample_threshold=0.0, initial=FlowGuide(guide, seen).start(), **settings.annealing()
            )
            counts: dict[str, Any] = {"num_warmup": fixed.temperatures, "num_samples": 1, "num_chains": options.chains}
            posterior = infer(seen, kernel, seed=options.seed, **counts)
            score = score_completions(decoded(posterior, seen), x, hidden, value_range=generator.config.value_range)
            scores[name] = score["crps"].values
            row[f"crps_{name}"] = float(scores[name].mean())
            row[f"acceptance_{name}"] = float(posterior["sample_stats"]["acceptance_rate"].mean())
        apart = scores["fixed"] - scores["own"]
        row |= {"difference": float(apart.mean()), "difference_se": float(apart.std(ddof=1) / np.sqrt(len(apart)))}
        rows.append(row)
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()))
    write_record(options.output, temperatures=fixed.temperatures, rows=rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

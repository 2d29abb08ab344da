"""Choice of the defaults of AnnealedHMC, by calibration on digits simulated from the shipped generator.

z is drawn from the prior, x = G(z), and the top half is observed with the model's noise. The truth is then a draw from the
exact posterior, so 50 % and 90 % intervals must cover 50 % and 90 % of all hidden pixels (also saturated ones, with ties broken
at random) for any generator; a sampler that misses modes has a smaller coverage. Settings are compared at equal numbers of
gradient evaluations, by fair scores, from pairs of draws of different populations.

    python benchmarks/calibration.py --output docs/calibration.json
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from cogen.diagnostics import independent_groups, item_summary, pit_p_value, score_completions
from cogen.inference import AnnealedHMC, ConstantGain, Sigmoid, infer
from cogen.models import CoGenerator, load_generator, load_idx_folder, views
from cogen.models.data.datasets import from_bytes

REPORTED = (
    *("crps", "energy_score", "coverage_50", "coverage_90", "joint_coverage_50", "joint_coverage_90"),
    *("interval_width_90", "pit_mean", "pit_dispersion"),
)


@dataclass
class Options:
    generator: str = "mnist"
    items: int = 32
    """Simulated digits."""
    chains: tuple[int, ...] = (32,)
    warmup: tuple[int, ...] = (300,)
    thresholds: tuple[float, ...] = (0.0, 0.25, 0.5)
    lows: tuple[float, ...] = (-10.0,)
    highs: tuple[float, ...] = (4.0,)
    targets: tuple[float, ...] = (0.8,)
    """Target acceptance rates of the step size."""
    noises: tuple[float, ...] = ()
    """Noise scales; default the generator's own."""
    images: Path | None = None
    """Folder of MNIST's idx files: complete the last training digits (held out from training) instead of simulated ones. The
    truth is then not a draw from the model, and the noise scale matters."""
    samples: int = 20
    seed: int = 1
    output: Path | None = None


def run(options: Options) -> list[dict[str, float]]:
    generator = load_generator(options.generator)
    shape = tuple(generator.config.event_shape)
    mask = views.half(shape, "top")
    if options.images is not None:
        training = load_idx_folder(options.images)[0]
        truth = from_bytes(training[-options.items :], generator.config.value_range)[:, None]
    rows = []
    for scale, chains, warmup, threshold, low, high, target in itertools.product(
        options.noises or (generator.config.noise_scale,),
        options.chains,
        options.warmup,
        options.thresholds,
        options.lows,
        options.highs,
        options.targets,
    ):
        model = CoGenerator(generator, views={"seen": views.Mask(mask, scale=scale)})
        if options.images is None:
            rng = np.random.default_rng(options.seed)
            truth = model.decode(rng.standard_normal((options.items, model.latent_dim)).astype(np.float32))
            seen = model.condition(seen=truth + scale * rng.standard_normal(truth.shape).astype(np.float32))
        else:
            seen = model.condition(seen=truth)
        kernel = AnnealedHMC(schedule=Sigmoid(low, high), resample_threshold=threshold, step_size=ConstantGain(target=target))
        posterior = infer(
            seen,
            kernel,
            num_warmup=warmup,
            num_samples=options.samples,
            num_chains=chains,
            seed=options.seed,
            progress=False,
        )
        z = posterior["posterior"]["z"].values[:, ::4]
        x = model.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *shape)
        table = item_summary(posterior)
        for weights in ("weighted", "equal") if threshold == 0 else ("weighted",):
            log_weight = posterior["sample_stats"]["log_weight"].values[:, ::4] if weights == "weighted" else None
            scores = score_completions(
                x,
                truth,
                ~mask,
                value_range=model.value_range,
                noise_scale=0.0 if options.images is None else scale,
                log_weight=log_weight,
                group=independent_groups(posterior).values[:, ::4],
                seed=options.seed,
            )
            rows.append(
                {
                    "noise": scale,
                    "chains": chains,
                    "warmup": warmup,
                    "threshold": threshold,
                    "weights": weights,
                    "low": low,
                    "high": high,
                    "target": target,
                    **{name: float(scores[name].mean()) for name in REPORTED},
                    "coverage_90_se": float(scores["coverage_90"].std(ddof=1)) / np.sqrt(options.items),
                    "items_with_fair_scores": int(scores["crps"].notnull().sum()),
                    "pit_p_value": pit_p_value(scores["joint_pit"]),
                    "weight_ess": float(table["weight_ess"].median()),
                    "ancestors": float(table["ancestors"].median()),
                    "evidence_spread": float(table["log_evidence_spread"].median()),
                    "nested_rhat": float(table["nested_rhat_max"].median()),
                    "gradients_per_item": float(posterior["sample_stats"]["gradient_evaluations"].mean()),
                    "seconds": float(posterior["posterior"].attrs["seconds"]),
                }
            )
            print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True)
    return rows


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    rows = run(options)
    if options.output:
        command = {name: str(value) for name, value in vars(options).items()}
        options.output.write_text(json.dumps({"options": command, "rows": rows}, indent=1) + "\n", encoding="utf-8")

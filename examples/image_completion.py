"""Completing images: annealed HMC against gradient descent with the same number of gradient evaluations.

The image experiment of Fang and Schwing (2019), section 4.2 and Figure 4, on digits instead of faces: one start of gradient
descent, the best of n starts (by the error of the seen part), and AIS-based HMC, on masked images and on super-resolution,
for generators after different numbers of training iterations. Beside them the ensemble of all n starts, since an answer to
"what could the rest be" is a distribution. All are judged by what a posterior is for (`cogen.diagnostics.score_completions`):
fair CRPS and energy score of the hidden part, coverage of predictive intervals over all hidden pixels, error of the mean, and
error of the seen part. One descent, or the best of several, is a point: its CRPS is the absolute error.

The paper's finding: AIS-based HMC beats gradient descent from one start and from the best of 5,000 in MSE of the hidden part
and MS-SSIM, most of all for well-trained generators (CelebA and LSUN, 64 to 256 pixels). What differs here: MNIST and
Fashion-MNIST, 28 pixels, sixteen images, dense generators of 0.2 million weights, Gaussian noise fitted on held-out data.

    python examples/image_completion.py --output examples/results/image_completion
    python examples/image_completion.py --generators mnist_vae --views half --output examples/results/image_completion_vae
    python examples/image_completion.py --generators out/mnist-2000 out/mnist-4000 out/mnist-8000 out/mnist \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 \
        --output examples/results/training_mnist

    python examples/image_completion.py --generators out/fashion-500 out/fashion-1500 out/fashion-3000 out/fashion \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 --images data/fashion_mnist \
        --output examples/results/training_fashion

where out/ holds the snapshots of ``train_mnist.py --iterations 16000 --snapshots 2000 4000 8000 --bf16 --threads 1`` and of
``train_mnist.py --data data/fashion_mnist --output out/fashion --iterations 6000 --snapshots 500 1500 3000`` with the same.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import tyro
import xarray as xr
from matplotlib.figure import Figure

from cogen.diagnostics import compare_scores, independent_groups, mean_of_draws, ms_ssim, mse_of_draws, score_completions
from cogen.inference import AnnealedHMC, GradientDescent, infer
from cogen.models import CoGenerator, load_generator, load_idx_folder, shipped_images, views
from cogen.models.data.datasets import from_bytes

ANNEALED = "annealed HMC"

REPORTED = {
    "hidden_crps": "crps",
    "hidden_energy_score": "energy_score",
    "coverage_50": "coverage_50",
    "coverage_90": "coverage_90",
    "joint_coverage_90": "joint_coverage_90",
    "pit_dispersion": "pit_dispersion",
    "interval_width_90": "interval_width_90",
    "mse_of_mean": "mse_of_mean",
    "mse_best_of_10": "mse_of_best",
    "seen_error": "seen_error",
    "ms_ssim_of_mean": "ms_ssim_of_mean",
}
"""Names in the recorded result, and those of the scores; means over the images for which every method has a CRPS."""


@dataclass
class Options:
    generators: tuple[str, ...] = ("mnist",)
    """Shipped names, or paths of .safetensors files (such as the snapshots of `train_mnist.py --snapshots`)."""
    views: tuple[str, ...] = ("half", "block", "thumbnail")
    """half: the top half is seen; block: all but a central block of 14 pixels; thumbnail: a 7 x 7 thumbnail."""
    images: Path | None = None
    """A folder of idx files (MNIST, Fashion-MNIST), of which the first test images are taken; the default is the sixteen
    test digits that are shipped."""
    count: int = 16
    chains: int = 32
    """Chains of annealed HMC, and n, the number of starts of gradient descent."""
    warmup: int = 300
    samples: int = 20
    leapfrog: int = 10
    starts: int | None = None
    """Also the best of so many starts, whatever it costs (the paper: 5,000), with the same steps per start."""
    noise: float | None = None
    """Noise scale; by default each generator's own."""
    seed: int = 0
    output: Path = Path("image-completion")
    """Folder-and-stem of the JSON and the PNG."""


def view_of(name: str, shape: tuple[int, ...], scale: float) -> views.View:
    if name == "half":
        return views.Mask(views.half(shape, "top"), scale=scale)
    if name == "block":
        return views.Mask(views.centre(shape, shape[-1] // 2), scale=scale)
    if name == "thumbnail":
        return views.Thumbnail(4, scale=scale / 4)  # the mean of sixteen pixels, each with noise of that scale
    raise SystemExit(f"--views {name}: choose from half, block, thumbnail")


class Answer(NamedTuple):
    """What a method gives: draws, their weights, and what they cost."""

    z: np.ndarray  # (chain, draw, item, latent)
    gradient_evaluations: float
    is_sample: bool = False
    """Whether the draws are a sample of the method's answer, as those of a posterior; otherwise they are the whole answer."""
    log_weight: np.ndarray | None = None
    group: np.ndarray | None = None


def judge(model: CoGenerator, seen: CoGenerator, images: np.ndarray, noise: float, answer: Answer) -> xr.Dataset:
    """Scores of every image."""
    view, entry = model.views["seen"], seen.item_data["seen"]
    hidden = ~entry["mask"] if "mask" in entry else None
    z, log_weight = answer.z, answer.log_weight
    x = model.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *images.shape[1:])
    scores = score_completions(
        x,
        images,
        hidden,
        value_range=model.value_range,
        noise_scale=noise,
        log_weight=log_weight,
        group=answer.group,
        is_sample=answer.is_sample,
    )
    looked = view(torch.from_numpy(x.reshape(-1, *x.shape[3:]))).numpy().reshape(*x.shape[:3], *entry["value"].shape[1:])
    found = {
        "seen_error": mse_of_draws(looked, entry["value"], entry.get("mask"), log_weight),
        "ms_ssim_of_mean": ms_ssim(mean_of_draws(x, log_weight), images, model.value_range),
    }
    return scores.assign({name: ("item", values) for name, values in found.items()})


def compare(options: Options, name: str, view: str, images: np.ndarray) -> list[dict[str, Any]]:
    generator = load_generator(name)
    scale = options.noise or generator.config.noise_scale
    model = CoGenerator(generator, views={"seen": view_of(view, tuple(generator.config.event_shape), scale)})
    seen = model.condition(seen=model.views["seen"](torch.from_numpy(images)).numpy())
    evaluations = options.chains * (options.warmup + options.samples) * options.leapfrog  # per image
    each = evaluations // options.chains

    def descend(chains: int, steps: int, best_of: int = 1) -> Any:
        kernel = GradientDescent(best_of=best_of)
        return infer(seen, kernel, num_warmup=steps - 1, num_samples=1, num_chains=chains, seed=options.seed)

    def point(run: Any, cost: float) -> Answer:
        return Answer(run["posterior"]["z"].values, cost)

    answers: dict[str, Answer] = {}
    short = options.warmup + options.samples
    answers[f"descent, {short} steps"] = point(descend(1, short), short)
    answers["descent, one start"] = point(descend(1, evaluations), evaluations)
    ensemble = descend(options.chains, each)
    z = ensemble["posterior"]["z"].values
    best = ensemble["sample_stats"]["lp"].values[:, 0].argmax(axis=0)  # (item,)
    chosen = z[best, :, np.arange(len(images))].swapaxes(0, 1)[None]
    answers[f"descent, best of {options.chains}"] = Answer(chosen, evaluations)
    answers[f"descent, all {options.chains}"] = Answer(z, evaluations, is_sample=True)
    if options.starts:
        answers[f"descent, best of {options.starts}"] = point(descend(1, each, best_of=options.starts), each * options.starts)
    annealed = infer(
        seen,
        AnnealedHMC(num_leapfrog=options.leapfrog),
        num_warmup=options.warmup,
        num_samples=options.samples,
        num_chains=options.chains,
        seed=options.seed,
    )
    answers[ANNEALED] = Answer(
        annealed["posterior"]["z"].values,
        evaluations,
        is_sample=True,
        log_weight=annealed["sample_stats"]["log_weight"].values,
        group=independent_groups(annealed).values,
    )
    figures = generator.config.figures
    scores = {method: judge(model, seen, images, scale, answer) for method, answer in answers.items()}
    against = compare_scores(scores, "crps", reference=ANNEALED)
    compared = np.isfinite([found["crps"].values for found in scores.values()]).all(axis=0)  # (item,)
    return [
        {
            "generator": generator.config.name or name,
            "iterations": figures.get("iteration", figures.get("iterations")),
            "view": view,
            "method": method,
            "noise": scale,
            "gradient_evaluations": answers[method].gradient_evaluations,
            **{reported: float(found[score][compared].mean()) for reported, score in REPORTED.items()},
            "images_compared": int(compared.sum()),
            "crps_difference": float(against.loc[method, "difference"]),
            "crps_difference_se": float(against.loc[method, "difference_se"]),
        }
        for method, found in scores.items()
    ]


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Scores, a column per view: against training iterations (Figure 4 of the paper), or bars for one generator."""
    shown = [
        ("hidden_crps", "CRPS, hidden"),
        ("mse_of_mean", "error of the mean, hidden"),
        ("ms_ssim_of_mean", "MS-SSIM"),
    ]
    columns, methods = (list(dict.fromkeys(row[key] for row in rows)) for key in ("view", "method"))
    iterations = sorted({row["iterations"] or 0 for row in rows})
    figure = Figure(figsize=(4 * len(columns), 2.6 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(columns), squeeze=False)
    for column, view in enumerate(columns):
        for line, (score, label) in enumerate(shown):
            panel = axes[line, column]
            found = {(r["method"], r["iterations"] or 0): r[score] for r in rows if r["view"] == view}
            for place, method in enumerate(methods):
                values = [found[method, iteration] for iteration in iterations]
                if len(iterations) == 1:
                    panel.barh(place, values[0], color=f"C{place}")
                else:
                    panel.plot(range(len(values)), values, "o-", label=method)
            if len(iterations) == 1:
                panel.set_yticks(range(len(methods)), methods if column == 0 else [""] * len(methods))
                panel.invert_yaxis()
                panel.set(title=f"{view}: {label}" if line == 0 else label)
            else:
                panel.set_xticks(range(len(iterations)), [f"{n:,}" for n in iterations])
                panel.set(title=view if line == 0 else "", ylabel=label if column == 0 else "")
                if line == len(shown) - 1:
                    panel.set_xlabel("training iterations of the generator")
    if len(iterations) > 1:
        axes[0, -1].legend(fontsize=7)
    return figure


def main(options: Options) -> dict[str, Any]:
    if options.images is None:
        images = shipped_images("mnist")[0][: options.count]
    else:
        images = from_bytes(load_idx_folder(options.images)[2][: options.count], (-1.0, 1.0))[:, None]
    rows: list[dict[str, Any]] = []
    for name in options.generators:
        for view in options.views:
            rows += compare(options, name, view, images)
            print(f"\n{name}, {view}")
            print(
                f"{'':24} {'CRPS':>8} {'- annealed (s.e.)':>19} {'energy':>8} {'50 %':>7} {'90 %':>7} {'mean^2':>8} "
                f"{'seen^2':>8} {'MS-SSIM':>8}"
            )
            for row in [r for r in rows[-6:] if r["view"] == view]:
                difference = (
                    f"{row['crps_difference']:+.4f} ({row['crps_difference_se']:.4f})" if row["method"] != ANNEALED else ""
                )
                print(
                    f"{row['method']:24} {row['hidden_crps']:8.4f} {difference:>19} {row['hidden_energy_score']:8.3f} "
                    f"{row['coverage_50']:7.3f} {row['coverage_90']:7.3f} {row['mse_of_mean']:8.4f} {row['seen_error']:8.4f} "
                    f"{row['ms_ssim_of_mean']:8.4f}"
                )
            if (compared := rows[-1]["images_compared"]) < len(images):
                print(
                    f"compared over {compared} of {len(images)} images: all draws of annealed HMC for the others descend "
                    "from one population, and a fair score takes two (more chains or temperatures)"
                )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": " ".join(["python", "examples/image_completion.py", *sys.argv[1:]]), "rows": rows}
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    figure_of(rows).savefig(options.output.with_suffix(".png"), dpi=80)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

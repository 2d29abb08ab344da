"""Completing images: annealed HMC against nearest neighbours and descents, on real images that no model has seen.

Everybody answers the same question, what the rest of an image could be, with a distribution, and one scorer judges it
(`cogen.diagnostics.score_completions`): fair CRPS and energy score of the hidden part, randomised PIT and coverage of the
predictive over all hidden pixels, error of the mean, error of the seen part. The methods:

* annealed HMC on the generator's own likelihood, learned or Gaussian, or on a power of it (`--exponents`);
* the ensemble of as many descents (`GradientDescent`), stopped after so many steps each: early stopping matters, so their
  number is chosen on validation images; one descent with all the gradients, and the best of all starts by
  the error of the seen part, which are points: their CRPS is the absolute error (Fang and Schwing 2019, section 4.2);
* the k nearest training images by the seen part, no model at all; k is chosen on validation images too;
* draws of the prior, which have not looked.

The paper's finding: AIS-based HMC beats gradient descent from one start and from the best of 5,000 in MSE of the hidden part
and MS-SSIM, most of all for well-trained generators (CelebA and LSUN, 64 to 256 pixels). What differs here: MNIST and
Fashion-MNIST, 28 pixels, generators of 0.2 to 0.4 million weights.

The choice, on the first 64 images that training held out, and then the figures, on the first test images:

    python examples/image_completion.py --generators digits --views half block --images data/mnist --part held-out --count 64 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --exponents 0.3 1 0.1 --neighbours 2 3 4 6 8 16 32 \
        --steps 100 300 810 --output examples/results/digits_held_out
    python examples/image_completion.py --generators digits --views half left block thumbnail --images data/mnist --count 64 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --exponents 1 --neighbours 2 3 4 8 --steps 300 \
        --output examples/results/digits

and the second with fashion and data/fashion_mnist, or with colour and data/cifar10.

Earlier tables, of the generators with Gaussian noise:

    python examples/image_completion.py --points --output examples/results/image_completion
    python examples/image_completion.py --points --generators mnist_vae --views half \
        --output examples/results/image_completion_vae
    python examples/image_completion.py --points --generators out/mnist-2000 out/mnist-4000 out/mnist-8000 out/mnist \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 \
        --output examples/results/training_mnist
    python examples/image_completion.py --points --generators out/fashion-500 out/fashion-1500 out/fashion-3000 out/fashion \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 --images data/fashion_mnist \
        --output examples/results/training_fashion

where out/ holds the snapshots of ``train_mnist.py --iterations 16000 --snapshots 2000 4000 8000 --bf16 --threads 1`` and of
``train_mnist.py --data data/fashion_mnist --output out/fashion --iterations 6000 --snapshots 500 1500 3000`` with the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
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
from cogen.models import CoGenerator, load_generator, load_image_data, pixel_noise_of, shipped_images, views
from cogen.models.data.datasets import from_bytes, held_out_split

ANNEALED = "annealed HMC"

REPORTED = {
    "hidden_crps": "crps",
    "hidden_energy_score": "energy_score",
    "coverage_50": "coverage_50",
    "coverage_90": "coverage_90",
    "joint_coverage_50": "joint_coverage_50",
    "joint_coverage_90": "joint_coverage_90",
    "pit_dispersion": "pit_dispersion",
    "interval_width_90": "interval_width_90",
    "descriptive_coverage_50": "descriptive_coverage_50",
    "descriptive_coverage_90": "descriptive_coverage_90",
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
    """What is seen: half, the top half; left, the left half; block, all but a central block of 14 pixels; thumbnail, a 7 x 7
    thumbnail."""
    images: Path | None = None
    """A data set, as `load_image_data` reads it: a folder of idx files, data/cifar10; the default is the sixteen test digits
    that are shipped."""
    part: str = "test"
    """Of that folder: test, or held-out, what `cogen train` keeps of the training images for choices. Or simulated: images that
    the generator makes, with the view's noise, for which its posterior (of exponent 1) is the right answer."""
    count: int = 16
    chains: int = 32
    """Chains of annealed HMC, draws of the prior, and n, the number of starts of gradient descent."""
    warmup: int = 300
    samples: int = 20
    leapfrog: int = 10
    independent: bool = False
    """Every chain counts the same, and none is resampled: the annealing is a warm-up. The scores are then those of independent
    draws, which pairs of a few populations are not when these collapse."""
    exponents: tuple[float, ...] = (1.0,)
    """Exponents of a learned likelihood. The first is what the others are compared with."""
    steps: tuple[int, ...] = ()
    """Steps of the ensembles of descents; the default is as many as annealed HMC has gradients for each chain."""
    points: bool = False
    """Also the answers of one descent: after as many steps as annealed HMC makes transitions, with all its gradients, and the
    best of all starts."""
    neighbours: tuple[int, ...] = ()
    """How many nearest training images; they need --images."""
    starts: int | None = None
    """Also the best of so many starts, whatever it costs (the paper: 5,000), with the same steps per start."""
    noise: float | None = None
    """Scale of Gaussian noise; by default each generator's own, learned or Gaussian."""
    seed: int = 0
    output: Path = Path("image-completion")
    """Folder-and-stem of the JSON and the PNG."""


def view_of(name: str, shape: tuple[int, ...], scale: float, likelihood: Any = None) -> views.View:
    """A view with a learned likelihood of its pixels if there is one, else with Gaussian noise."""
    noise: dict[str, Any] = {"scale": scale} if likelihood is None else {"likelihood": likelihood}
    if name in ("half", "left"):
        return views.Mask(views.half(shape, "top" if name == "half" else name), **noise)
    if name == "block":
        return views.Mask(views.centre(shape, shape[-1] // 2), **noise)
    if name == "thumbnail":
        return views.Thumbnail(4, scale=scale / 4)  # the mean of sixteen pixels, each with noise of that scale
    raise SystemExit(f"--views {name}: choose from half, left, block, thumbnail")


class Answer(NamedTuple):
    """What a method gives: draws of x, their weights, and what they cost."""

    x: np.ndarray  # (chain, draw, item, channel, height, width)
    gradient_evaluations: float = 0.0
    is_sample: bool = False
    """Whether the draws are a sample of the method's answer, as those of a posterior; otherwise they are the whole answer."""
    noise: Any = None
    """Of the predictive: a scale, or a learned noise; the draws are of observations where there is none."""
    log_weight: np.ndarray | None = None
    group: np.ndarray | None = None


def judge(seen: CoGenerator, images: np.ndarray, answer: Answer) -> xr.Dataset:
    """Scores of every image."""
    view, entry = seen.views["seen"], seen.item_data["seen"]
    hidden = ~entry["mask"] if "mask" in entry else None
    x, log_weight = answer.x, answer.log_weight
    scores = score_completions(
        x,
        images,
        hidden,
        value_range=seen.value_range,
        log_weight=log_weight,
        group=answer.group,
        is_sample=answer.is_sample,
        **({"noise_scale": answer.noise or 0.0} if not hasattr(answer.noise, "noisy") else {"noise": answer.noise}),
    )
    looked = view(torch.from_numpy(x.reshape(-1, *x.shape[3:]))).numpy().reshape(*x.shape[:3], *entry["value"].shape[1:])
    found = {
        "seen_error": mse_of_draws(looked, entry["value"], entry.get("mask"), log_weight),
        "ms_ssim_of_mean": ms_ssim(mean_of_draws(x, log_weight), images, seen.value_range),
    }
    return scores.assign({name: ("item", values) for name, values in found.items()})


def nearest(view: views.View, seen: np.ndarray, training: np.ndarray, count: int) -> np.ndarray:
    """The nearest training images by what the view shows, in squared distance: (neighbour, item, *event), the nearest first."""
    shown = np.concatenate([view(torch.from_numpy(part)).numpy() for part in np.array_split(training, 20)])
    mask = np.broadcast_to(True if view.mask is None else view.mask.numpy(), shown.shape[1:])
    of_training, of_seen = shown[:, mask], seen[:, mask]
    square = (of_training**2).sum(1) - 2 * of_seen @ of_training.T  # but for a constant an item
    return training[np.argsort(square, axis=1, kind="stable")[:, :count].T]


def simulated(options: Options, generator: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images that the generator makes, and what the view shows of them, both (item, ...). A view of pixels has the noise of the
    hidden ones too: then the images are what would be observed of all."""
    learned = None if options.noise else pixel_noise_of(generator, 1.0)
    scale = options.noise or generator.config.noise_scale
    view = view_of(name, tuple(generator.config.event_shape), scale, learned)
    model = CoGenerator(generator, views={"seen": view})
    z = np.random.default_rng(options.seed + 1).standard_normal((options.count, model.latent_dim))
    x = model.decode(z)
    shown = model.simulate(x, {}, seed=options.seed)["seen"]
    return (x if view.mask is None else shown), shown


def answers_of(
    options: Options, generator: Any, name: str, images: np.ndarray, shown: np.ndarray | None, training: np.ndarray | None
) -> Iterator[tuple[str, CoGenerator, Answer]]:
    """The answers by method, each with the model that it was given; that of annealed HMC first. ``shown`` None: what the view
    shows of the images."""
    shape = tuple(generator.config.event_shape)
    scale = options.noise or generator.config.noise_scale
    learned = None if options.noise else pixel_noise_of(generator)

    def conditioned(exponent: float) -> CoGenerator:
        likelihood = None if learned is None else pixel_noise_of(generator, exponent)
        model = CoGenerator(generator, views={"seen": view_of(name, shape, scale, likelihood)})
        return model.condition(seen=model.views["seen"](torch.from_numpy(images)).numpy() if shown is None else shown)

    def decoded(z: np.ndarray) -> np.ndarray:
        return seen.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *shape)

    seen = conditioned(options.exponents[0])
    noise: Any = scale if learned is None else learned
    if options.part == "simulated" and seen.views["seen"].mask is None:
        noise = None  # the truth is x itself
    each = (options.warmup + options.samples) * options.leapfrog
    evaluations = options.chains * each  # per image

    kernel = AnnealedHMC(num_leapfrog=options.leapfrog)
    if options.independent:
        kernel = AnnealedHMC(num_leapfrog=options.leapfrog, resample_threshold=0, weighted=False)

    for exponent in options.exponents[: 1 if learned is None or name == "thumbnail" else None]:
        model = conditioned(exponent)
        annealed = infer(
            model,
            kernel,
            num_warmup=options.warmup,
            num_samples=options.samples,
            num_chains=options.chains,
            seed=options.seed,
        )
        weight = None if options.independent else annealed["sample_stats"]["log_weight"].values
        group = independent_groups(annealed).values
        x = decoded(annealed["posterior"]["z"].values)
        method = ANNEALED if exponent == options.exponents[0] else f"{ANNEALED}, exponent {exponent:g}"
        yield method, model, Answer(x, evaluations, True, noise, weight, group)

    def descend(chains: int, steps: int, best_of: int = 1) -> Any:
        kernel = GradientDescent(best_of=best_of)
        return infer(seen, kernel, num_warmup=steps - 1, num_samples=1, num_chains=chains, seed=options.seed)

    for steps in options.steps or (each,):
        ensemble = descend(options.chains, steps)
        z = ensemble["posterior"]["z"].values
        answer = Answer(decoded(z), steps * options.chains, True, noise)
        yield f"descent, all {options.chains}, {steps} steps", seen, answer
    if options.points:
        best = ensemble["sample_stats"]["lp"].values[:, 0].argmax(axis=0)  # (item,)
        chosen = z[best, :, np.arange(len(images))].swapaxes(0, 1)[None]
        yield f"descent, best of {options.chains}", seen, Answer(decoded(chosen), evaluations, noise=noise)
        for steps in (options.warmup + options.samples, evaluations):
            z = descend(1, steps)["posterior"]["z"].values
            yield f"descent, {steps} steps", seen, Answer(decoded(z), steps, noise=noise)
    if options.starts:
        z = descend(1, each, best_of=options.starts)["posterior"]["z"].values
        yield f"descent, best of {options.starts}", seen, Answer(decoded(z), each * options.starts, noise=noise)
    if options.neighbours:
        if training is None:
            raise SystemExit("--neighbours: they are training images, so give --images")
        found = nearest(seen.views["seen"], seen.item_data["seen"]["value"], training, max(options.neighbours))
        for count in options.neighbours:
            yield f"{count} nearest images", seen, Answer(found[:count, None], 0, True)
    z = np.random.default_rng(options.seed).standard_normal((options.chains, 1, len(images), seen.latent_dim))
    yield "draws of the prior", seen, Answer(decoded(z), 0, True, noise)


def compare(
    options: Options, name: str, view: str, images: np.ndarray, training: np.ndarray | None = None
) -> list[dict[str, Any]]:
    generator, shown = load_generator(name), None
    if options.part == "simulated":
        images, shown = simulated(options, generator, view)
    scores, costs, seconds = {}, {}, {}
    started = time.perf_counter()
    for method, seen, answer in answers_of(options, generator, view, images, shown, training):
        seconds[method] = time.perf_counter() - started
        scores[method], costs[method] = judge(seen, images, answer), answer.gradient_evaluations
        started = time.perf_counter()
    against = compare_scores(scores, "crps", reference=ANNEALED)
    compared = np.isfinite([found["crps"].values for found in scores.values()]).all(axis=0)  # (item,)
    figures = generator.config.figures
    return [
        {
            "generator": generator.config.name or name,
            "iterations": figures.get("iteration", figures.get("iterations")),
            "view": view,
            "method": method,
            "noise": options.noise or generator.config.noise_scale,
            "gradient_evaluations": costs[method],
            "seconds": round(seconds[method], 1),
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
                values = [found.get((method, iteration), np.nan) for iteration in iterations]  # a view has not all methods
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


def images_of(options: Options) -> tuple[np.ndarray, np.ndarray | None]:
    """The images to complete, and those that a method may look at, (item, channel, height, width) in [-1, 1]."""
    if options.part not in ("test", "held-out", "simulated"):
        raise SystemExit(f"--part {options.part}: choose test, held-out or simulated")
    if options.images is None:
        if options.part == "held-out":
            raise SystemExit("--part held-out: give --images")
        return shipped_images("mnist")[0][: options.count], None
    data = load_image_data(options.images)
    kept, held_out = held_out_split(len(data.train))
    chosen = data.test if options.part == "test" else data.train[held_out]
    return from_bytes(chosen[: options.count], (-1.0, 1.0)), from_bytes(data.train[kept], (-1.0, 1.0))


def main(options: Options) -> dict[str, Any]:
    images, training = images_of(options)
    rows: list[dict[str, Any]] = []
    for name in options.generators:
        for view in options.views:
            found = compare(options, name, view, images, training)
            rows += found
            print(f"\n{name}, {view}")
            print(
                f"{'':32} {'CRPS':>8} {'- annealed (s.e.)':>19} {'energy':>8} {'50 %':>7} {'90 %':>7} {'mean^2':>8} "
                f"{'seen^2':>8} {'MS-SSIM':>8}"
            )
            for row in found:
                difference = (
                    f"{row['crps_difference']:+.4f} ({row['crps_difference_se']:.4f})" if row["method"] != ANNEALED else ""
                )
                print(
                    f"{row['method']:32} {row['hidden_crps']:8.4f} {difference:>19} {row['hidden_energy_score']:8.3f} "
                    f"{row['coverage_50']:7.3f} {row['coverage_90']:7.3f} {row['mse_of_mean']:8.4f} {row['seen_error']:8.4f} "
                    f"{row['ms_ssim_of_mean']:8.4f}",
                    flush=True,
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

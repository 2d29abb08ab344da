"""Image completion: compare annealed HMC with other inference, nearest neighbours and a network trained for the task.

Each method gives a distribution of the hidden part, which `cogen.diagnostics.score_completions` scores: fair CRPS and energy
score of the hidden part, randomised PIT and coverage of the predictive distribution over all hidden pixels, error of the mean,
error of the seen part. The log score of a hidden pixel is that of the mixture of a method's draws with the noise. It grows with
the number of draws: compare methods with equal numbers. The methods, by their names for ``--methods``
(`completion_methods.py`):

* guided: annealed HMC from the guide stored with the generator, with the settings of `cogen tune`, as in `cogen complete`;
* annealed: annealed HMC from the prior, with the generator's likelihood, learned or Gaussian, or a power of it
  (`--exponents`);
* descent: an ensemble of descents (`GradientDescent`), one per chain, stopped after `--steps` steps; early stopping matters, so
  the number is chosen on validation images; map: the same with the prior;
* points: one descent with all the gradients, and the best of all starts by the error of the seen part (best-of-starts: of
  many more starts). They are point estimates, whose CRPS is the absolute error (Fang and Schwing 2019, section 4.2);
* randomised-map: descents with noise added to the data, and a draw of the prior as the prior's mean; svi, langevin, nuts;
* neighbours: the k nearest training images by the seen part, without a model, scored as a sample of size k, which favours small
  k; k is chosen on validation images. kernel: nearest images with weights exp(-d / h), scored as a weighted sample in the same
  way, and independent draws by these weights; k and h of both are tuned by the script on the last 128 held-out training images;
* guide: draws of the guide alone, and draws of it picked by importance weights;
* direct: a network trained to complete images with any mask (`arbitrary_conditioning.py`);
* prior: draws of the prior, which ignore the data.

The paper finds that AIS-based HMC is better than gradient descent from one start and from the best of 5,000 in MSE of the
hidden part and MS-SSIM, especially for well-trained generators (CelebA and LSUN, 64 to 256 pixels). Here the data are MNIST and
Fashion-MNIST (28 pixels), and generators have 0.2 to 0.4 million weights.

The first command chooses settings on the first 64 held-out training images, the others score the first test images:

    python examples/image_completion.py --generators digits --views half block --images data/mnist --part held-out --count 64 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --exponents 0.3 1 0.1 --neighbours 2 3 4 6 8 16 32 \
        --steps 100 300 810 --output examples/results/digits_held_out
    python examples/image_completion.py --generators digits --views half left block thumbnail --images data/mnist --count 256 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --temperatures 8 16 --steps 90 300 \
        --neighbours 2 3 4 8 32 --methods guided descent guide neighbours kernel direct prior --direct direct_digits \
        --output examples/results/digits_256
    python examples/image_completion.py --generators digits --views half block --images data/mnist --count 24 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --steps 300 \
        --methods guided annealed descent map randomised-map svi langevin nuts --output examples/results/digits_others

and the second command with fashion, data/fashion_mnist and direct_fashion. For simulated images the posterior is the correct
distribution:

    python examples/image_completion.py --generators digits --views half block --part simulated --count 24 \
        --chains 8 --warmup 80 --samples 1 --leapfrog 10 --independent --steps 300 \
        --methods guided annealed descent map randomised-map svi langevin nuts guide prior \
        --output examples/results/digits_simulated

`benchmarks/tables.py` writes the tables of the documentation from the records.

Commands of earlier tables, for generators with Gaussian noise:

    python examples/image_completion.py --points --output examples/results/image_completion
    python examples/image_completion.py --points --generators mnist_vae --views half \
        --output examples/results/image_completion_vae
    python examples/image_completion.py --points --generators out/mnist-2000 out/mnist-4000 out/mnist-8000 out/mnist \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 \
        --output examples/results/training_mnist
    python examples/image_completion.py --points --generators out/fashion-500 out/fashion-1500 out/fashion-3000 out/fashion \
        --views block thumbnail --noise 0.75 --count 8 --chains 16 --warmup 100 --samples 10 --images data/fashion_mnist \
        --output examples/results/training_fashion

where out/ has the snapshots of ``train_mnist.py --iterations 16000 --snapshots 2000 4000 8000 --bf16 --threads 1`` and of
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
from completion_methods import METHODS, Answer, Settings, Task
from matplotlib.figure import Figure
from torch.distributions import Normal

from cogen.diagnostics import mean_of_draws, ms_ssim, mse_of_draws, score_completions
from cogen.diagnostics.completion_scores import paired_difference
from cogen.models import (
    CoGenerator,
    FlowGuide,
    load_generator,
    load_guide,
    load_image_data,
    pixel_noise_of,
    shipped_images,
    views,
)
from cogen.models.data.datasets import from_bytes, held_out_split
from cogen.models.storage.tunings import load_tuning

TUNED_AS = {"half": "half", "left": "half", "block": "centre", "thumbnail": "thumbnail"}
"""The views by the names of `cogen tune`; both halves use the tuning of the top half."""

TUNING = 128
"""Number of held-out training images, the last ones, on which the script chooses settings."""

REPORTED = {
    "hidden_crps": "crps",
    "hidden_energy_score": "energy_score",
    "log_score": "log_score",
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
"""Names in the record, and names of the scores; means over the images for which every method has a CRPS."""


@dataclass
class Options(Settings):
    generators: tuple[str, ...] = ("mnist",)
    """Shipped names, or paths of .safetensors files (such as the snapshots of `train_mnist.py --snapshots`)."""
    views: tuple[str, ...] = ("half", "block", "thumbnail")
    """Seen parts: half, the top half; left, the left half; block, all but a central block of 14 pixels; thumbnail, a 7 x 7
    thumbnail."""
    methods: tuple[str, ...] = ("annealed", "descent", "prior")
    """Methods to compare; --points, --neighbours, --starts and --direct add theirs."""
    images: Path | None = None
    """Data set for `load_image_data`: a folder of idx files, or data/cifar10; default the sixteen shipped test digits."""
    part: str = "test"
    """Part of the data set: test, or held-out (training images that `cogen train` holds out); or simulated: images simulated by
    the generator with the view's noise, for which the posterior with exponent 1 is the correct distribution."""
    count: int = 16
    points: bool = False
    """Also compare point estimates: one descent with as many steps as annealed HMC has transitions, one with all its gradients,
    and the best of all starts."""
    starts_views: tuple[str, ...] | None = None
    """Views for --starts; default all."""
    noise: float | None = None
    """Scale of Gaussian noise; default each generator's own noise, learned or Gaussian."""
    output: Path = Path("image-completion")
    """Output path: writes a JSON and a PNG file."""


class Images(NamedTuple):
    """Images (item, 1, height, width) in [-1, 1]."""

    judged: np.ndarray
    training: np.ndarray | None = None
    """Images that a method may use."""
    tuning: np.ndarray | None = None
    """Images on which a method may choose its settings."""


def view_of(name: str, shape: tuple[int, ...], scale: float, likelihood: Any = None) -> views.View:
    """A view with the learned likelihood of its pixels if there is one, or with Gaussian noise."""
    noise: dict[str, Any] = {"scale": scale} if likelihood is None else {"likelihood": likelihood}
    if name in ("half", "left"):
        return views.Mask(views.half(shape, "top" if name == "half" else name), **noise)
    if name == "block":
        return views.Mask(views.centre(shape, shape[-1] // 2), **noise)
    if name == "thumbnail":
        return views.Thumbnail(4, scale=scale / 4)  # the mean of sixteen pixels, each with noise of that scale
    raise SystemExit(f"--views {name}: choose from half, left, block, thumbnail")


def judge(seen: CoGenerator, images: np.ndarray, answer: Answer) -> xr.Dataset:
    """Scores of every image; NaN for images without an answer."""
    x, log_weight = answer.x, answer.log_weight
    answered = x.shape[2]
    view, entry = seen.views["seen"], {name: values[:answered] for name, values in seen.item_data["seen"].items()}
    hidden = ~entry["mask"] if "mask" in entry else None
    truth = images[:answered]
    scores = score_completions(
        x,
        truth,
        hidden,
        value_range=seen.value_range,
        log_weight=log_weight,
        group=answer.group,
        is_sample=answer.is_sample,
        **({"noise_scale": answer.noise or 0.0} if not hasattr(answer.noise, "noisy") else {"noise": answer.noise}),
    )
    looked = view(torch.from_numpy(x.reshape(-1, *x.shape[3:]))).numpy().reshape(*x.shape[:3], *entry["value"].shape[1:])
    found = {
        "log_score": log_score(answer, truth, hidden),
        "seen_error": mse_of_draws(looked, entry["value"], entry.get("mask"), log_weight),
        "ms_ssim_of_mean": ms_ssim(mean_of_draws(x, log_weight), truth, seen.value_range),
    }
    return scores.assign({name: ("item", values) for name, values in found.items()}).reindex(item=np.arange(len(images)))


def log_score(answer: Answer, truth: np.ndarray, hidden: np.ndarray | None) -> np.ndarray:
    """Mean over the hidden pixels of log sum_i w_i p(y | x_i), (item,); NaN without noise.

    This is the score of the mixture of the draws, which is lower than that of the distribution from which they come.
    """
    if answer.noise is None:
        return np.full(len(truth), np.nan)
    x, y = torch.from_numpy(answer.x).flatten(0, 1), torch.from_numpy(truth)
    weight = torch.zeros(x.shape[:2]) if answer.log_weight is None else torch.from_numpy(answer.log_weight).flatten(0, 1)
    weight = weight.log_softmax(0)[(..., *[None] * (y.ndim - 1))]  # (draw, item, 1, 1, 1)
    learned = hasattr(answer.noise, "noisy")
    density = answer.noise.noise.log_prob(y, x) if learned else Normal(x, answer.noise).log_prob(y)
    density = (weight + density).logsumexp(0).detach().numpy()
    judged = np.broadcast_to(True if hidden is None else hidden, truth.shape)
    return np.array([one[where].mean() for one, where in zip(density, judged, strict=True)])


def simulated(options: Options, generator: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Simulated images and their views, both (item, ...). For views of pixels the images include noise at hidden pixels too."""
    learned = None if options.noise else pixel_noise_of(generator, 1.0)
    scale = options.noise or generator.config.noise_scale
    view = view_of(name, tuple(generator.config.event_shape), scale, learned)
    model = CoGenerator(generator, views={"seen": view})
    z = np.random.default_rng(options.seed + 1).standard_normal((options.count, model.latent_dim))
    x = model.decode(z)
    shown = model.simulate(x, {}, seed=options.seed)["seen"]
    return (x if view.mask is None else shown), shown


def task_of(options: Options, generator_name: str, generator: Any, name: str, images: Images) -> tuple[Task, np.ndarray]:
    """The task for the methods, and the images with which completions are compared."""
    shape = tuple(generator.config.event_shape)
    scale = options.noise or generator.config.noise_scale
    learned = None if options.noise else pixel_noise_of(generator)
    judged, shown = images.judged, None
    if options.part == "simulated":
        judged, shown = simulated(options, generator, name)

    def conditioned(exponent: float) -> CoGenerator:
        likelihood = None if learned is None else pixel_noise_of(generator, exponent)
        model = CoGenerator(generator, views={"seen": view_of(name, shape, scale, likelihood)})
        return model.condition(seen=model.views["seen"](torch.from_numpy(judged)).numpy() if shown is None else shown)

    noise: Any = scale if learned is None else learned
    if options.part == "simulated" and name == "thumbnail":
        noise = None  # the truth is x itself
    powers = conditioned if learned is not None and name != "thumbnail" else None
    seen = conditioned(options.exponents[0])
    flow = load_guide(generator_name)
    guide = None if flow is None else FlowGuide(flow, seen)
    tuned = load_tuning(generator_name, TUNED_AS[name])
    return Task(seen, options, noise, powers, images.training, images.tuning, guide, tuned), judged


def methods_of(options: Options) -> list[str]:
    """The selected methods in the order of the rows; the others are compared with the first."""
    if unknown := [name for name in options.methods if name not in METHODS]:
        raise SystemExit(f"--methods {unknown[0]}: choose from {', '.join(METHODS)}")
    given = {"points": options.points, "neighbours": options.neighbours, "best-of-starts": options.starts}
    given["direct"] = options.direct
    asked = {*options.methods, *(name for name, value in given.items() if value)}
    remedies = {
        "neighbours": ("give --neighbours, the numbers of neighbours", not options.neighbours),
        "kernel": ("its k and h are tuned on held-out training images: give --images", options.images is None),
        "direct": ("give --direct, the weights written by arbitrary_conditioning.py", options.direct is None),
        "best-of-starts": ("give --starts", not options.starts),
    }
    if options.neighbours and options.images is None:
        raise SystemExit("--neighbours: neighbours are training images, so give --images")
    for name, (remedy, missing) in remedies.items():
        if name in asked and missing:
            raise SystemExit(f"--methods {name}: {remedy}")
    return [name for name in METHODS if name in asked]


def compare(options: Options, name: str, view: str, images: Images) -> list[dict[str, Any]]:
    """The rows of the record for a generator and a view."""
    generator = load_generator(name)
    task, judged = task_of(options, name, generator, view, images)
    answers: dict[str, Answer] = {}
    scores: dict[str, xr.Dataset] = {}
    for asked in methods_of(options):
        if asked == "best-of-starts" and view not in (options.starts_views or options.views):
            continue
        for method, answer in METHODS[asked](task):
            scores[method] = judge(task.seen, judged, answer)
            answers[method] = answer._replace(x=answer.x[:1, :1], log_weight=None, group=None)  # pixels are not needed any more
    reference = next(iter(scores))
    whole = [method for method, answer in answers.items() if answer.x.shape[2] == len(judged)]
    compared = np.isfinite([scores[method]["crps"].values for method in whole]).all(axis=0)  # (item,)
    figures = generator.config.figures
    rows = []
    for method, found in scores.items():
        answer, where = answers[method], compared & np.isfinite(found["crps"].values)

        def difference(score: str, found: xr.Dataset = found, where: np.ndarray = where) -> tuple[float, float]:
            return paired_difference(found[score].values[where], scores[reference][score].values[where])

        crps, energy = difference("crps"), difference("energy_score")
        rows.append(
            {
                "generator": generator.config.name or name,
                "iterations": figures.get("iteration", figures.get("iterations", figures.get("steps"))),
                "part": options.part,
                "view": view,
                "method": method,
                "noise": options.noise or generator.config.noise_scale,
                "gradient_evaluations": answer.gradient_evaluations,
                "seconds": round(answer.seconds, 2),
                "compile_seconds": round(answer.compile_seconds, 2),
                **{reported: _mean(found[score].values[where]) for reported, score in REPORTED.items()},
                "images_compared": int(where.sum()),
                "crps_difference": _number(crps[0]),
                "crps_difference_se": _number(crps[1]),
                "energy_score_difference": _number(energy[0]),
                "energy_score_difference_se": _number(energy[1]),
                **({"chosen": answer.chosen} if answer.chosen else {}),
            }
        )
    return rows


def _number(value: Any) -> float | None:
    """The value for JSON: None if it is not finite."""
    return float(value) if np.isfinite(value) else None


def _mean(values: np.ndarray) -> float | None:
    return _number(values.mean()) if values.size else None


def figure_of(rows: list[dict[str, Any]]) -> Figure:
    """Draw scores, a column per view: against training iterations (Figure 4 of the paper), or as bars for one generator."""
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
            known = [row for row in rows if row["view"] == view and row[score] is not None]
            found = {(row["method"], row["iterations"] or 0): row[score] for row in known}
            for position, method in enumerate(methods):
                values = [found.get((method, iteration), np.nan) for iteration in iterations]  # some views lack some methods
                if len(iterations) == 1:
                    panel.barh(position, values[0], color=f"C{position}")
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


def images_of(options: Options) -> Images:
    """The images to complete, and those that a method may use."""
    if options.part not in ("test", "held-out", "simulated"):
        raise SystemExit(f"--part {options.part}: choose test, held-out or simulated")
    if options.images is None:
        if options.part == "held-out":
            raise SystemExit("--part held-out: give --images")
        return Images(shipped_images("mnist")[0][: options.count])
    data = load_image_data(options.images)
    kept, held_out = held_out_split(len(data.train))
    chosen = data.test if options.part == "test" else data.train[held_out]
    parts = (chosen[: options.count], data.train[kept], data.train[held_out[-TUNING:]])
    return Images(*(from_bytes(part, (-1.0, 1.0)) for part in parts))


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print the rows of a generator and a view."""
    print(f"\n{rows[0]['generator']}, {rows[0]['view']}")
    print(
        f"{'':32} {'CRPS':>8} {'- the first (s.e.)':>19} {'energy':>8} {'log p':>8} {'50 %':>7} {'90 %':>7} {'mean^2':>8} "
        f"{'seen^2':>8} {'MS-SSIM':>8} {'seconds':>8} {'ratio':>6}"
    )
    for row in rows:
        number = {key: np.nan if value is None else value for key, value in row.items()}
        difference = ""
        if row is not rows[0]:
            difference = f"{number['crps_difference']:+.4f} ({number['crps_difference_se']:.4f})"
        print(
            f"{row['method']:32} {number['hidden_crps']:8.4f} {difference:>19} {number['hidden_energy_score']:8.3f} "
            f"{number['log_score']:8.4f} {number['coverage_50']:7.3f} {number['coverage_90']:7.3f} "
            f"{number['mse_of_mean']:8.4f} {number['seen_error']:8.4f} {number['ms_ssim_of_mean']:8.4f} "
            f"{row['seconds']:8.1f} {row['seconds'] / max(rows[0]['seconds'], 0.01):6.2f}",
            flush=True,
        )


def main(options: Options) -> dict[str, Any]:
    methods_of(options)  # check the options before anything runs
    images = images_of(options)
    rows: list[dict[str, Any]] = []
    for name in options.generators:
        for view in options.views:
            rows += (found := compare(options, name, view, images))
            print_rows(found)
            if (compared := found[0]["images_compared"]) < options.count:
                print(
                    f"compared over {compared} of {options.count} images: for the others some method has all weight on one draw"
                    " or one population, and a fair score needs two. For annealed HMC use more chains or temperatures"
                )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": " ".join(["python", "examples/image_completion.py", *sys.argv[1:]]), "rows": rows}
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    figure_of(rows).savefig(options.output.with_suffix(".png"), dpi=80)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

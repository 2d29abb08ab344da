"""Compare two kinds of completion: by the latent of a generator, and by an energy of the image.

    cogen train coopnets --data mnist --output pair
    python examples/two_routes.py --pair pair --output two_routes

The top half of test images is seen. Every route gives `--chains` draws of the hidden part:

    initializer          z of the pair's initializer given the seen half, by annealed HMC
    initializer, refined the same draws, with hidden pixels moved by the solver's Langevin steps and seen pixels fixed
    draws, refined       prior draws of the initializer, with hidden pixels moved by the solver
    energy               the solver alone: hidden pixels start as noise
    density              an energy that is a density (`cogen train ebm-density`): hidden pixels by annealed HMC
    density, denoised    the same; since the density is of images with noise, each draw is replaced by the mean of the image
                         without noise (Tweedie's formula)
    NAME                 z of a shipped generator, by annealed HMC from its guide if it has one

The first four are of one trained pair. The solver makes `--rounds` times the steps of its training run. All draws are scored
without a view's noise (`cogen.diagnostics.score_completions`), over the hidden pixels, with standard errors of the paired
differences from the first row.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.2.4: inpainting moves the hidden pixels alone).
    Efron. Tweedie's formula and selection bias. JASA 2011 (the mean of x given y = x + noise).
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from cogen.conditions import view_named
from cogen.diagnostics import score_completions
from cogen.inference import AnnealedHMC, infer
from cogen.models import (
    CoGenerator,
    EnergyModel,
    FlowGuide,
    load_energy,
    load_generator,
    load_guide,
    load_image_data,
    load_solver,
    views,
)
from cogen.models.families.ebm import NOISE
from cogen.models.training.preparation import as_floats

SCORES = ("crps", "energy_score", "coverage_50", "coverage_90", "psnr", "mse_of_best")


@dataclass
class Options:
    pair: str = "pair"
    """Initializer and solver without classes, as `cogen train coopnets` stores them."""
    density: str | None = None
    """An energy of `cogen train ebm-density`, for the rows "density"."""
    shipped: tuple[str, ...] = ("digits", "mnist")
    """Other generators of the same images."""
    data: str = "mnist"
    folder: Path | None = None
    """Folder of the data set; default data/NAME."""
    count: int = 64
    """Test images."""
    chains: int = 16
    temperatures: int = 60
    sweeps: int = 200
    """Temperatures of the density."""
    leapfrog: int = 10
    rounds: tuple[int, ...] = (1, 10)
    """Steps of the solver, in multiples of its training run; one row each."""
    shown: int = 8
    """Images in the figure."""
    seed: int = 0
    output: Path = Path("two_routes")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


@dataclass
class Answer:
    """Draws (chain, draw, item, *event) with independent chains, and their cost."""

    x: np.ndarray
    seconds: float


def through_latent(name: str, generator: Any, images: np.ndarray, options: Options) -> Answer:
    """Draws of G(z), z given the top half."""
    begun = time.perf_counter()
    model = CoGenerator(generator, views={"seen": view_named("half", generator)})
    model = model.condition(seen=images)
    flow = load_guide(name)
    initial = None if flow is None else FlowGuide(flow, model).start()
    # As in `cogen complete`: chains are equally weighted, and the annealing is a warm-up.
    kernel = AnnealedHMC(num_leapfrog=options.leapfrog, initial=initial, weighted=False, resample_threshold=0.0)
    counts = {"num_warmup": options.temperatures, "num_samples": 1, "num_chains": options.chains, "seed": options.seed}
    posterior = infer(model, kernel, **counts, progress=False)
    z = posterior["posterior"]["z"].values
    x = np.concatenate([model.decode(chain.reshape(-1, z.shape[-1])) for chain in z])
    return Answer(x.reshape(*z.shape[:3], *x.shape[1:]), time.perf_counter() - begun)


def by_density(options: Options, images: np.ndarray, seen: Tensor) -> tuple[Answer, Answer]:
    """Draws of the hidden pixels, and the same without the density's noise."""
    assert options.density is not None
    begun = time.perf_counter()
    energy: Any = load_energy(options.density)
    scale = energy.config.run.reference_scale
    model = EnergyModel(energy, reference_scale=scale, event_shape=images.shape[1:]).clamp(seen.numpy(), images)
    kernel = AnnealedHMC(num_leapfrog=options.leapfrog, weighted=False, resample_threshold=0.0)
    counts = {"num_warmup": options.sweeps, "num_samples": 1, "num_chains": options.chains, "seed": options.seed}
    z = infer(model, kernel, **counts, progress=False)["posterior"]["z"].values
    x = np.concatenate([model.decode(chain.reshape(-1, z.shape[-1])) for chain in z]).reshape(*z.shape[:3], *images.shape[1:])
    noisy = Answer(x, time.perf_counter() - begun)
    y = torch.from_numpy(x.astype(np.float32)).flatten(0, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(energy(y).sum(), y)
    clean = y.detach() + NOISE**2 * (gradient - y.detach() / scale**2)
    made = torch.where(seen, y.detach(), clean).numpy().reshape(x.shape)
    return noisy, Answer(made, time.perf_counter() - begun)


def refined(start: np.ndarray, energy: Any, images: np.ndarray, seen: Tensor, rounds: int, seed: int) -> np.ndarray:
    """Images (chain, draw, item, *event) after the solver's steps on the hidden pixels, with the seen pixels fixed."""
    x = torch.where(seen, torch.from_numpy(images), torch.from_numpy(start.astype(np.float32)))
    run = replace(energy.config.run, steps=rounds * energy.config.run.steps)
    torch.manual_seed(seed)
    return torch.stack([run(energy, chain.flatten(0, 1), free=~seen).unflatten(0, chain.shape[:2]) for chain in x]).numpy()


def routes(options: Options, images: np.ndarray, seen: Tensor) -> Iterator[tuple[str, Answer]]:
    """The rows of the table."""
    initializer: Any = load_generator(options.pair)
    energy: Any = load_solver(options.pair)
    if energy is None or energy.config.contexts:
        raise ValueError(f"--pair {options.pair}: it needs a solver without classes, as `cogen train coopnets` stores it")
    latent = through_latent(options.pair, initializer, images, options)
    yield "initializer", latent
    torch.manual_seed(options.seed)
    with torch.no_grad():
        prior = torch.stack(
            [initializer(torch.randn(len(images), initializer.config.latent_dim)) for _ in range(options.chains)]
        )
    starts = {
        "initializer, refined": latent,
        "draws, refined": Answer(prior.numpy()[:, None], 0.0),
        "energy": Answer(0.5 * torch.randn_like(prior).numpy()[:, None], 0.0),
    }
    for name, start in starts.items():
        for rounds in options.rounds:
            begun = time.perf_counter()
            x = refined(start.x, energy, images, seen, rounds, options.seed)
            shown = f"{name}, {rounds} x {energy.config.run.steps} steps"
            yield shown, Answer(x, start.seconds + time.perf_counter() - begun)
    if options.density is not None:
        for shown, answer in zip(("density", "density, denoised"), by_density(options, images, seen), strict=True):
            yield shown, answer
    for name in options.shipped:
        yield name, through_latent(name, load_generator(name), images, options)


def scored(answer: Answer, images: np.ndarray, seen: Tensor, seed: int) -> dict[str, np.ndarray]:
    """The scores of every image, (item,)."""
    hidden = np.broadcast_to(~seen.numpy(), images.shape)
    found = score_completions(answer.x, images, hidden, value_range=(-1.0, 1.0), best_of=10, seed=seed)
    return {name: found[name].values for name in SCORES}


def draw(rows: dict[str, np.ndarray], images: np.ndarray, seen: Tensor, path: Path, shown: int) -> None:
    """Draw the images, their seen parts, and two draws of every route."""
    from matplotlib.figure import Figure

    grey = np.where(seen.numpy(), images, 0.0)
    lines = [images[:shown], grey[:shown], *(x[chain, 0, :shown] for x in rows.values() for chain in (0, 1))]
    grid = np.stack(lines)[:, :, 0].transpose(0, 2, 1, 3)
    side = images.shape[-1]
    figure = Figure(figsize=(3.2 + 0.5 * shown, 0.5 * len(lines)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid.reshape(len(lines) * side, -1), cmap="gray_r", vmin=-1, vmax=1)
    names = ["truth", "seen", *(name for row in rows for name in (row, ""))]
    axes.set_yticks([side * (k + 0.5) for k in range(len(names))], names, fontsize=8)
    axes.set_xticks([])
    figure.savefig(path, dpi=90)


def main(options: Options) -> dict[str, Any]:
    try:
        data = load_image_data(options.data, folder=options.folder)
        images = as_floats(torch.from_numpy(data.test[: options.count])).numpy()
        seen = torch.as_tensor(views.half(tuple(images.shape[1:]), "top"))
        rows: list[dict[str, Any]] = []
        pictures: dict[str, np.ndarray] = {}
        first: dict[str, np.ndarray] = {}
        print(f"{'':36} {'CRPS':>7} {'- first (s.e.)':>16} {'energy':>7} {'50 %':>5} {'90 %':>5} {'PSNR':>6} {'seconds':>8}")
        for name, answer in routes(options, images, seen):
            found = scored(answer, images, seen, options.seed)
            first = first or found
            pictures[name] = answer.x
            difference = found["crps"] - first["crps"]
            error = difference.std(ddof=1) / len(difference) ** 0.5
            row = {score: float(np.mean(values)) for score, values in found.items()}
            row |= {"crps_difference": float(difference.mean()), "crps_difference_se": float(error), "seconds": answer.seconds}
            rows.append({"route": name, **row})
            against = f"{difference.mean():+.4f} ({error:.4f})"
            coverage = f"{row['coverage_50']:5.2f} {row['coverage_90']:5.2f}"
            print(
                f"{name:36} {row['crps']:7.4f} {against:>16} {row['energy_score']:7.3f} {coverage} {row['psnr']:6.2f}"
                f" {answer.seconds:8.1f}"
            )
    except (OSError, ValueError) as error:
        sys.exit(f"two_routes: {error}")
    record = {"command": shlex.join(["python", "examples/two_routes.py", *sys.argv[1:]]), "count": options.count, "rows": rows}
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(pictures, images, seen, options.output.with_name(f"{options.output.name}.png"), options.shown)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

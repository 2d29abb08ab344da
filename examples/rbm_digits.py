"""Restricted Boltzmann machines (RBMs) of digits: training, test log likelihood, and completion of halves.

    python examples/rbm_digits.py --data data/mnist --output examples/results/rbm_digits

Two RBMs with 500 hidden units are trained on MNIST, with binary pixels drawn with probabilities given by their gray values: by
CD-1, and by persistent contrastive divergence (PCD) with one sweep per step, with the same steps, batches and learning rates.
The results for each, with one fixed draw of the pixels of every digit:

* the free energies of training digits and of held-out digits during training: if the second rises relative to the first, the
  RBM overfits;
* log Z by annealed importance sampling (`BlockGibbs` without resampling, one estimate per chain), and the mean log likelihood
  of the test digits, in nats. The standard error includes that of log Z and that of the mean over digits. AIS underestimates
  log Z on average, and so overestimates the likelihood;
* the lower halves of test digits, completed by Gibbs sampling with the upper half clamped, and scored as in
  `image_completion.py` (fair CRPS and energy score, PSNR of the mean), compared with the nearest training digits by the upper
  half, and with independent pixels with the base rates of the data.

OUTPUT.json has the numbers, the command, and the differences from the paper; OUTPUT.png shows the filters (the weights of
single hidden units), draws, the curves of the free energy, and completions.

Salakhutdinov and Murray (ICML 2008) report RBMs with 500 hidden units trained by CD-1, CD-3 and CD-25; their rounded numbers
are shown with ours.
"""

import json
import math
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from torch import Tensor

from cogen.diagnostics import independent_groups, log_partition, paired_difference, resample, score_completions
from cogen.inference import BlockGibbs, infer
from cogen.models import BernoulliRBM, ContrastiveDivergence, EnergyConfig, RBMModel, save_energy, views
from cogen.models.data.datasets import load_idx_folder
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import binarised
from cogen.models.training.trainer import train

SHAPE = (1, 28, 28)
SEEN = views.half(SHAPE, "top")
MACHINES = {"CD-1": 0, "PCD": 1}
"""Methods, with the number of persistent chains per item of a batch."""
PAPER = {"CD-1": -125, "CD-3": -106, "CD-25": -86}
"""The paper's mean log likelihoods of test digits, with 500 hidden units."""
DIFFERS = (
    "the paper's RBMs were trained for longer, with other settings, and its test digits are another draw of the pixels; ours,"
    " CD-1 and PCD, have the same budget"
)
CURVE = 12
"""Points of the curve of the free energy."""


@dataclass
class Options:
    """Train two RBMs, estimate their likelihoods, and complete digits with them."""

    data: Path = Path("data/mnist")
    """Folder of the four idx files, plain or gzipped."""
    output: Path = Path("rbm-digits")
    """Output path: writes a JSON and a PNG file."""
    weights: Path | None = None
    """Path for storing the RBMs, as WEIGHTS-cd-1 and WEIGHTS-pcd."""
    learning: tuple[Literal["CD-1", "PCD"], ...] = ("CD-1", "PCD")
    """Training methods; completions are compared with those of the last."""
    hidden: int = 500
    """Hidden units."""
    steps: int = 6_600
    """Training steps (12 epochs)."""
    batch: int = 100
    """Digits per step, and persistent chains."""
    learning_rate: float = 0.05
    """Learning rate; it falls linearly to zero over the second half."""
    held_out: int = 5_000
    """Number of training digits, the last ones, that are held out."""
    temperatures: int = 10_000
    """Temperatures of annealed importance sampling."""
    chains: int = 100
    """Chains of annealed importance sampling."""
    count: int = 64
    """Test digits to complete."""
    sweeps: int = 200
    """Temperatures of the annealing of completions."""
    completions: int = 32
    """Completions of each digit."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    seed: int = 0
    """Seed of all random numbers."""


def drawn(images: Tensor, seed: int) -> Tensor:
    """One draw of binary pixels."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return binarised(images)


def learn(options: Options, name: str, images: Tensor, held_out: Tensor) -> tuple[BernoulliRBM, dict[str, Any]]:
    """A trained RBM, and its free energies during training."""
    torch.manual_seed(options.seed)
    rbm = BernoulliRBM(SHAPE, options.hidden)
    family = ContrastiveDivergence(rbm, chains=options.batch * MACHINES[name], learning_rate=options.learning_rate)
    family.initialise(drawn(images, options.seed))
    known, new = drawn(images[: len(held_out)], options.seed), drawn(held_out, options.seed + 1)
    curve: list[dict[str, float]] = []

    def watch(step: int, *_: Any) -> None:
        free = {"training": rbm.free_energy(known), "held_out": rbm.free_energy(new)}
        curve.append({"step": step, **{part: round(float(each.detach().mean()), 2) for part, each in free.items()}})

    trained = train(
        family,
        images,
        num_steps=options.steps,
        batch_size=options.batch,
        seed=options.seed,
        schedule=Falling(options.steps),
        prepare=binarised,
        watch=watch,
        watch_every=max(1, options.steps // CURVE),
    )
    return rbm.requires_grad_(False), {"free_energy": curve, "training_seconds": round(trained.seconds, 1)}


def likelihoods(options: Options, rbm: BernoulliRBM, parts: dict[str, Tensor]) -> tuple[dict[str, Any], np.ndarray]:
    """log Z, the mean log likelihood of digits with its standard error, and draws picked by weight, (draw, *SHAPE)."""
    started = time.perf_counter()
    kernel = BlockGibbs(resample_threshold=0.0, num_populations=options.chains)
    counts = {"num_warmup": options.temperatures, "num_samples": 1, "num_chains": options.chains, "seed": options.seed}
    posterior = infer(RBMModel(rbm).items(1), kernel, **counts, keep_x=True)
    found = log_partition(posterior).isel(item=0)
    log_z, error = float(found["estimate"]), float(found["standard_error"])
    row: dict[str, Any] = {"log_z": log_z, "log_z_se": error, "spread": float(found["spread"])}
    for part, x in parts.items():
        log_density = -rbm.free_energy(x).double() - log_z
        own = float(log_density.std()) / math.sqrt(len(x))
        row |= {f"{part}_log_likelihood": float(log_density.mean()), f"{part}_se": math.hypot(own, error)}
    row["ais_seconds"] = round(time.perf_counter() - started, 1)
    return row, resample(posterior, seed=options.seed)["posterior"]["x"].values[:, 0, 0]


def completed(options: Options, rbm: BernoulliRBM, truth: np.ndarray) -> tuple[np.ndarray, Any]:
    """Digits (chain, draw, item, *SHAPE) completed by clamped Gibbs sampling, and the labels of independent draws."""
    counts = {"num_warmup": options.sweeps, "num_samples": 1, "num_chains": options.completions, "seed": options.seed}
    posterior = infer(RBMModel(rbm).clamp(SEEN, truth), BlockGibbs(), **counts, keep_x=True)
    return posterior["posterior"]["x"].values, independent_groups(posterior).values


def neighbours(truth: np.ndarray, training: np.ndarray, count: int) -> np.ndarray:
    """The nearest training digits by the seen half: (neighbour, 1, item, *SHAPE)."""
    seen = torch.from_numpy(np.ascontiguousarray(truth[:, SEEN])), torch.from_numpy(np.ascontiguousarray(training[:, SEEN]))
    nearest = torch.cdist(*seen).topk(count, largest=False).indices.numpy()  # (item, neighbour)
    return training[nearest].swapaxes(0, 1)[:, None]


def scored(draws: np.ndarray, truth: np.ndarray, group: Any = None) -> Any:
    return score_completions(draws, truth, ~SEEN, value_range=(0.0, 1.0), group=group)


def table(rows: list[dict[str, Any]], columns: dict[str, str]) -> str:
    lines = [list(columns.values())]
    for row in rows:
        lines.append([f"{v:.4g}" if isinstance(v := row[name], float) else str(v) for name in columns])
    return "\n".join("  ".join(cell.rjust(14) for cell in line) for line in lines)


def picture(machines: dict[str, dict[str, Any]], answers: dict[str, np.ndarray], truth: np.ndarray) -> Figure:
    """Draw filters and samples of both RBMs, free energies, and completions."""
    figure = Figure(figsize=(12, 9), layout="constrained")
    axes = figure.subplots(2, 3)  # a line for each machine
    for line, (name, machine) in zip(axes, machines.items(), strict=False):
        filters = machine["rbm"].weight.numpy()[:64].reshape(-1, 28, 28)
        limit = float(np.abs(filters).max()) / 2
        line[0].imshow(mosaic(filters, 8), cmap="RdBu_r", vmin=-limit, vmax=limit)
        line[0].set_title(f"{name}: filters of 64 hidden units")
        line[1].imshow(mosaic(machine["draws"][:64, 0], 8), cmap="gray", vmin=0, vmax=1)
        line[1].set_title(f"{name}: draws")
        for part in ("training", "held_out"):
            curve = [(row["step"], row[part]) for row in machine["free_energy"]]
            axes[0, 2].plot(
                *zip(*curve, strict=True), "-" if part == "training" else "--", label=f"{name}, {part.replace('_', ' ')}"
            )
    axes[0, 2].set(title="free energy", xlabel="step")
    axes[0, 2].legend(fontsize=8)
    shown = min(10, len(truth))
    seen = np.where(SEEN, truth, 0.5)[:shown, 0]
    rows = [truth[:shown, 0], seen]
    for draws in answers.values():
        rows += [draws[0, 0, :shown, 0], draws.mean((0, 1))[:shown, 0]]
    axes[1, 2].imshow(mosaic(np.concatenate(rows), shown), cmap="gray", vmin=0, vmax=1)
    named = [f"{name}, {what}" for name in answers for what in ("a draw", "the mean")]
    axes[1, 2].set_yticks(29 * np.arange(len(rows)) + 14, ["truth", "seen", *named], fontsize=8)
    axes[1, 2].set_title("completions")
    for panel in (*axes[:, 0], *axes[:, 1]):
        panel.set_axis_off()
    axes[1, 2].set_xticks([])
    return figure


def mosaic(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (n, 28, 28) side by side with lines between them; the last row is padded."""
    rows = -(-len(images) // columns)
    padded = np.full((rows * columns, 29, 29), np.nan)
    padded[: len(images), :28, :28] = images
    return padded.reshape(rows, columns, 29, 29).swapaxes(1, 2).reshape(29 * rows, 29 * columns)


def main(options: Options) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        files = load_idx_folder(options.data, None)
    except (OSError, ValueError) as error:
        sys.exit(f"rbm_digits: {error}")
    images, test = (torch.tensor(files[k]).unsqueeze(1) for k in (0, 2))
    if images.shape[1:] != SHAPE or not 0 < options.held_out < len(images):
        sys.exit(
            f"rbm_digits: {len(images)} images of shape {tuple(images.shape[1:])}; needed are more than {options.held_out}"
            f" (--held-out) of shape {SHAPE}"
        )
    images, held_out = images[: -options.held_out], images[-options.held_out :]
    parts = {"test": drawn(test, options.seed + 2), "training": drawn(images[: len(test)], options.seed)}
    truth = parts["test"][: options.count].numpy()

    machines: dict[str, dict[str, Any]] = {}
    answers: dict[str, np.ndarray] = {}
    scores: dict[str, Any] = {}
    for name in options.learning:
        rbm, figures = learn(options, name, images, held_out)
        row, draws = likelihoods(options, rbm, parts)
        machines[name] = {"rbm": rbm, "draws": draws, **figures, **row}
        answers[name], group = completed(options, rbm, truth)
        scores[f"clamped Gibbs, {name}"] = scored(answers[name], truth, group)
        if options.weights is not None:
            arguments, about = {"event_shape": SHAPE, "hidden": options.hidden}, {"training_data": options.data.name}
            config = EnergyConfig("BernoulliRBM", arguments, SHAPE, (0, 1), name=name, figures=row, **about)
            save_energy(options.weights.with_name(f"{options.weights.name}-{name.lower()}"), rbm, config)
    training = drawn(images, options.seed).numpy()
    scores["nearest training digits"] = scored(neighbours(truth, training, options.completions), truth)
    rates = np.random.default_rng(options.seed).random((options.completions, 1, *truth.shape)) < training.mean(0)
    scores["base rates"] = scored(rates.astype(np.float32), truth)

    kept = [
        {"learning": name, "paper": PAPER.get(name), **{k: v for k, v in machine.items() if k not in ("rbm", "draws")}}
        for name, machine in machines.items()
    ]
    first = scores[f"clamped Gibbs, {options.learning[-1]}"]
    judged = []
    for method, found in scores.items():
        difference, error = paired_difference(found["crps"].values, first["crps"].values)
        judged.append(
            {
                "method": method,
                **{name: float(found[name].mean()) for name in ("crps", "energy_score", "psnr")},
                "crps_difference": difference,
                "crps_difference_se": error,
            }
        )
    columns = {
        "learning": "learning",
        "log_z": "log Z",
        "log_z_se": "s.e.",
        "test_log_likelihood": "test, nats",
        "test_se": "s.e.",
    }
    columns |= {"training_log_likelihood": "training, nats", "paper": "the paper's", "training_seconds": "seconds"}
    print(table(kept, columns))
    print(f"the paper's test log likelihoods: {', '.join(f'{name} {value}' for name, value in PAPER.items())}; {DIFFERS}")
    shown = {"method": "method", "crps": "CRPS", "energy_score": "energy score", "psnr": "PSNR of mean"}
    print(table(judged, shown))
    record = {
        "command": shlex.join(["python", "examples/rbm_digits.py", *sys.argv[1:]]),
        "options": {name: str(value) for name, value in vars(options).items() if name not in ("data", "output", "weights")},
        "differs": DIFFERS,
        "paper": PAPER,
        "machines": kept,
        "completions": judged,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    picture(machines, answers, truth).savefig(options.output.with_suffix(".png"), dpi=70)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

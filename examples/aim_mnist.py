"""Adversarial inference on MNIST: a GAN, ALI, ALICE, AIM- and AIM side by side (AIM's Table 1; Figures 2, 4, 5 and 8).

    python examples/aim_mnist.py --data mnist --output aim_mnist

Every family trains the same generator, critic features and encoder widths for the same epochs, with Adam.
Measured on the test set, pixels in [0, 1] as the paper's:

    MSE    mean squared error of G(mean of q(z | x)); a plain GAN has no encoder
    IS     inception score of 50,000 samples by a classifier (that of digits ships), ten splits; beside it the test set's own

Along the way the validation set (the last 5,000 training images) gives the curve of MSE against epochs; settings were chosen
with a GAN and AIM on it, and the rate of ALI and ALICE, which want half (`docs/families.md`). Each family is a row of
OUTPUT.json, written when it is done: a later run with other `--families` adds to it. OUTPUT-FAMILY.png holds samples, and
reconstructions and neighbours of test images; OUTPUT-curves.png the curves.

What differs from the paper: its networks (Tables 3 and 4) were not at hand, ours have two convolutions each way, no batch norm
in the critic, and R1 on it; the value range is [-1, 1]; the budget is 20 epochs and once 200, not 400, so the learning rate is
larger and falls to zero over the second half of it instead of with the root of the epoch. The paper's classifier is not known,
so its IS compares only by its distance to the test set's own.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cogen.diagnostics.sample_quality import Score, inception_score, outputs
from cogen.models.data.datasets import load_image_data
from cogen.models.families.family import Family
from cogen.models.families.gan import with_penalty
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import weighted
from cogen.models.families.sizes import Sizes
from cogen.models.networks.encoders import neighbours, reconstruct
from cogen.models.storage.classifiers import load_classifier
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train

PAPER = {"mnist": {"aim": {"mse": 0.026, "inception_score": 9.4}}}
"""Of Table 1, by data set: what the text of the paper gives for MNIST (other rows were not at hand)."""


@dataclass
class Options:
    """Train the families on MNIST at one budget, and measure reconstructions and samples."""

    data: str = "mnist"
    """A known data set's name, or the path of images whose sides divide by four."""
    folder: Path | None = None
    """Where the known data set lies; default data/NAME."""
    families: tuple[str, ...] = ("gan", "ali", "alice", "aim-minus", "aim")
    """Which to train, of all that take images without labels (docs/families.md). alice:W has the weight W of its cycle term
    (appendix A.1; else 1), aim:W and aim-minus:W the weight W of the encoder's term (else 1 / latent_dim)."""
    epochs: float = 20.0
    """Passes over the training images."""
    batch: int = 64
    """Images in a step."""
    latent_dim: int = 32
    """Size of z."""
    learning_rate: float = 2e-3
    """Adam's, with betas of 0 and 0.99, falling to zero over the second half."""
    gamma: float = 0.5
    """Weight of R1 on every critic."""
    average: float = 0.999
    """Decay of the generator's moving average, which is what is measured."""
    validation: int = 5_000
    """How many of the last training images are held out."""
    classifier: str | None = "mnist_classifier"
    """Judges the samples: a shipped one, or the path of one that examples/train_classifier.py made for these images; None
    measures no inception score."""
    points: int = 12
    """Points of the curve."""
    samples: int = 50_000
    """For the inception score."""
    bf16: bool = False
    """Train in mixed precision: faster on CPUs with AMX and on GPUs."""
    accelerator: str = "cpu"
    """Or cuda."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    seed: int = 0
    """Of weights, batches and latents."""
    checkpoints: Path | None = None
    """A folder: a killed run goes on from there."""
    output: Path = Path("aim_mnist")
    """Where to write: OUTPUT.json, OUTPUT-curves.png, and OUTPUT-FAMILY.png for each."""


# ------------------------------------------------------------------------------------------------------- families


def build(name: str, options: Options, shape: tuple[int, ...]) -> tuple[Recipe, Family]:
    """A recipe and its family, with the networks that all share. Raises ValueError for a name that cannot be trained here."""
    made, weight = weighted(name, Kind.IMAGES)
    if made.labelled:
        raise ValueError(f"family {name!r} needs labels, and these families learn without them")
    sizes = Sizes(shape, options.latent_dim, convolutional=True, head_widths=(256,))
    penalty = with_penalty(made, options.gamma)
    return made, made.family(sizes, learning_rate=options.learning_rate, betas=(0.0, 0.99), **penalty, **weight)


# ------------------------------------------------------------------------------------------------------- measures


def squared_error(generator: nn.Module, encoder: nn.Module, images: Tensor) -> float:
    """Mean over images and pixels, in units of a range of one; images in [-1, 1]."""
    total = sum((reconstruct(generator, encoder, x) - x).square().sum().item() for x in images.split(1000))
    return total / images.numel() / 4


def score(generator: nn.Module, latent_dim: int, options: Options, judge: Any) -> Score:
    """Of the generator's samples."""
    torch.manual_seed(options.seed + 1)

    def of_latents(z: Tensor) -> Tensor:
        return judge(generator(z)).softmax(-1)

    return inception_score(outputs(of_latents, torch.randn(options.samples, latent_dim)), network=judge.name)


def measure(name: str, options: Options, train_x: Tensor, held_out: Tensor, test: Tensor, judge: Any) -> dict[str, Any]:
    """Train one family and measure it: its row, and its pictures (rows of images in [0, 1])."""
    torch.manual_seed(options.seed)
    made, family = build(name, options, tuple(test.shape[1:]))
    family.initialise(made.prepare(train_x[:1_000]))
    steps = max(1, round(options.epochs * (len(train_x) // options.batch)))
    curve: list[dict[str, float]] = []
    started = time.perf_counter()

    def watch(step: int, family: Family, averaged: Callable[[], nn.Module | None]) -> None:
        family.eval()
        generator, encoder = averaged() or family.generator, getattr(family, "encoder", None)
        if encoder is not None:
            point = {"epoch": step * options.batch / len(train_x), "mse": squared_error(generator, encoder, held_out)}
            curve.append(point | {"seconds": time.perf_counter() - started})
            print(f"{name}: epoch {point['epoch']:.1f}, validation MSE {point['mse']:.4f}", flush=True)

    trained = train(
        family,
        train_x,
        num_steps=steps,
        batch_size=options.batch,
        seed=options.seed,
        schedule=Falling(steps),
        average=options.average,
        prepare=made.prepare,
        checkpoint=None if options.checkpoints is None else options.checkpoints / name.replace(":", "-"),
        watch=watch,
        watch_every=max(1, steps // options.points),
        precision="bf16-mixed" if options.bf16 else "32-true",
        accelerator=options.accelerator,
    )
    family.cpu().eval()
    generator = (trained.average or family.generator).cpu()

    row: dict[str, Any] = {"family": name}
    if judge is not None:
        found = score(generator, family.latent_dim, options, judge)
        row |= {"inception_score": found.mean, "inception_score_sd": found.sd}
    encoder = getattr(family, "encoder", None)
    if encoder is not None:
        row["mse"] = squared_error(generator, encoder, test)
    row |= {"epochs": options.epochs, "steps": steps, "seconds": trained.seconds, "curve": curve}
    with torch.no_grad():
        torch.manual_seed(options.seed + 2)
        pictures = [generator(torch.randn(20, family.latent_dim))]
        if encoder is not None:
            first = test[:10]
            pictures += [first, reconstruct(generator, encoder, first)]
            pictures += list(neighbours(generator, encoder, first, 3).transpose(0, 1))
    row["pictures"] = [((p.clamp(-1, 1) + 1) / 2).numpy() for p in pictures]
    return row


# ------------------------------------------------------------------------------------------------------- output


def table(rows: list[dict[str, Any]], paper: dict[str, dict[str, float]], own: float | None) -> str:
    lines = [f"{'':14} {'MSE':>8} {'paper':>8} {'IS':>8} {'paper':>8} {'epochs':>8} {'seconds':>8}"]
    for row in rows:
        theirs = paper.get(row["family"], {})
        cells = [row.get("mse"), theirs.get("mse"), row.get("inception_score"), theirs.get("inception_score")]
        shown = " ".join(f"{'' if cell is None else f'{cell:.4g}':>8}" for cell in cells)
        lines.append(f"{row['family']:14} {shown} {row['epochs']:8.3g} {row['seconds']:8.0f}")
    return "\n".join(lines if own is None else [*lines, f"{'test set':14} {'':8} {'':8} {own:8.4g}"])


def draw(row: dict[str, Any], path: Path) -> None:
    """Samples; then test images, reconstructions and three neighbours of each."""
    from matplotlib.figure import Figure

    samples, *others = row["pictures"]
    lines = [samples[:10], samples[10:], *others]
    labels = ["samples", "", "test", "reconstructed", "neighbours", "", ""][: len(lines)]
    figure = Figure(figsize=(3.4, 0.33 * len(lines) + 0.3), layout="constrained")
    axes = figure.subplots()
    sheet = np.concatenate([np.concatenate(list(line), axis=2) for line in lines], axis=1).transpose(1, 2, 0)
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)  # the colours of the map are for images of one channel
    axes.set(xticks=[], title=row["family"])
    height = len(sheet) / len(lines)
    axes.set_yticks([height * (k + 0.5) for k in range(len(lines))], labels, fontsize=7)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Validation MSE against epochs, like the paper's Figure 8."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    for row in rows:
        if row["curve"]:
            axes.plot([p["epoch"] for p in row["curve"]], [p["mse"] for p in row["curve"]], ".-", label=row["family"])
    axes.set(xlabel="epoch", ylabel="validation MSE", ylim=(0, None))
    if axes.lines:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path, dpi=90)


def main(options: Options) -> list[dict[str, Any]]:
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        data = load_image_data(options.data, folder=options.folder)
        for name in options.families:
            build(name, options, data.test.shape[1:])
        judge: Any = None if options.classifier is None else load_classifier(options.classifier)
        if judge is not None and judge.config.event_shape != data.test.shape[1:]:
            raise ValueError(
                f"{judge.name} judges images of shape {judge.config.event_shape}, and these have {data.test.shape[1:]}: "
                "give a --classifier of them, or None"
            )
    except (OSError, ValueError) as error:
        sys.exit(f"aim_mnist: {error}")
    everything = torch.from_numpy(data.train)
    train_x, held_out = everything[: -options.validation], as_floats(everything[-options.validation :])
    test = as_floats(torch.from_numpy(data.test))
    own = None
    if judge is not None:
        own = inception_score(outputs(lambda x: judge(x).softmax(-1), test), network=judge.name)
        print(f"the test set's own inception score: {own}")

    paper = PAPER.get(data.name, {})
    path = options.output.with_name(f"{options.output.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"data": data.name, "paper": paper}
    if own is not None:
        about |= {"classifier": own.network, "test_set_inception_score": own.mean}
    if path.exists() and (before := {k: v for k, v in json.loads(path.read_text()).items() if k != "rows"}) != about:
        sys.exit(f"aim_mnist: {path} is of other data or another classifier ({before}): give another --output, or remove it")
    fresh: list[dict[str, Any]] = []
    for name in options.families:
        row = measure(name, options, train_x, held_out, test, judge)
        fresh.append(row)
        stored = {k: v for k, v in row.items() if k != "pictures"}
        stored["command"] = shlex.join(["python", "examples/aim_mnist.py", *sys.argv[1:]])
        stored["options"] = {k: str(v) for k, v in vars(options).items()}
        kept = json.loads(path.read_text())["rows"] if path.exists() else []  # another run may have added to it
        kept = [r for r in kept if r["family"] != name] + [stored]
        path.write_text(json.dumps(about | {"rows": kept}, indent=1) + "\n", encoding="utf-8")
        draw(row, options.output.with_name(f"{options.output.name}-{name.replace(':', '-')}.png"))
    print("\n" + table(kept, paper, None if own is None else own.mean))
    draw_curves(kept, options.output.with_name(f"{options.output.name}-curves.png"))
    return fresh


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

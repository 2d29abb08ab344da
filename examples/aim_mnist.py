"""Compare a GAN, ALI, ALICE, AIM- and AIM on images (Table 1 and Figures 2, 4, 8, 9 and 10 of the AIM paper).

    python examples/aim_mnist.py --data mnist --output aim_mnist                            our networks, 20 epochs
    python examples/aim_mnist.py --recipe published --families gan aim --output aim_mnist   the paper's, 400 epochs
    python examples/aim_mnist.py --report aim_mnist-runs --output aim_mnist                 tables of finished runs

On a GPU, --accelerator cuda --graph trains all families and seeds of a command at the same time.

Measured on the test set:

    MSE    mean squared error of G(mean of q(z | x)), for pixels in [0, 1] and for pixels in [-1, 1] (four times as large)
    IS     inception score of 50,000 samples by a classifier (one for digits is shipped), ten splits, and its ratio to the
           score of the test set; scores of different classifiers are not comparable

During training, the validation set (the last 5,000 training images) gives the curves of the MSE and of the score of 10,000
samples. Every run writes two files in OUTPUT-runs: its numbers with the curve, and its images. OUTPUT.json, OUTPUT-curves.png
(Figure 8), OUTPUT-ROW.png (Figures 2, 9 and 10) and, for runs with two latents, OUTPUT-ROW-latents.png (Figure 4) are made from
all runs there. --report makes them without training, from runs in several folders, and from files OUTPUT.json, which have the
numbers and the curves but no images.

The recipe `published` has the networks, initial weights, losses, batches and learning rates of the paper's Tables 3 and 4
(`cogen.models.families.published_aim` lists what they do not specify), for the GAN, AIM- and AIM; the paper took ALI and ALICE
from Li et al. (NeurIPS 2017). The recipe `ours` has smaller networks with two convolutions each way, no batch norm in the
critic, R1 on the critic, a moving average of the generator, values in [-1, 1], batches of 64, and a learning rate that falls to
zero over the second half of 20 epochs. Its settings were chosen with a GAN and AIM on the validation set; ALI and ALICE need
half their learning rate (`docs/families.md`).

The paper's numbers are not fully comparable: its classifier of digits is unknown; its MSEs of ALI and ALICE (.48 on digits)
cannot be means over pixels in [0, 1], where two random digits differ by .13; its own MSEs are probably in [0, 1] for digits,
with a sigmoid, and in [-1, 1] for CIFAR-10, with a tanh.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from aim_report import report
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from cogen.diagnostics.sample_quality import Score, inception_score, outputs
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.families import published_aim
from cogen.models.families.family import Family
from cogen.models.families.gan import with_penalty
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import weighted
from cogen.models.families.sizes import Sizes
from cogen.models.networks.encoders import neighbours, reconstruct
from cogen.models.storage.classifiers import load_classifier
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import interleaved, training_steps

RATES = {"ali": 1e-3, "alice": 1e-3}
"""Learning rates of Adam in the recipe `ours` that differ from 2e-3."""

Run = Generator[int, None, tuple[dict[str, Any], dict[str, np.ndarray]]]
"""A training, step by step; returns its numbers, and its images by name."""


@dataclass
class Options:
    """Train the families on images with the same budget, and measure reconstructions and samples."""

    data: str = "mnist"
    """Name of a known data set, or path of images whose sides are divisible by four."""
    folder: Path | None = None
    """Folder of the known data set; default data/NAME."""
    recipe: Literal["ours", "published"] = "ours"
    """Networks and settings: ours, or the paper's, of Table 3 (digits) and Table 4 (32 x 32 colour images, enlarged)."""
    families: tuple[str, ...] = ("gan", "ali", "alice", "aim-minus", "aim")
    """Families to train: any for images without labels (docs/families.md); with the published recipe gan, aim-minus and aim.
    alice:W sets the weight W of the cycle term (appendix A.1; default 1), aim:W and aim-minus:W the weight W of the encoder's
    term (default 1 / latent_dim)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of weights, batches and latents; one run each."""
    epochs: float | None = None
    """Passes over the training images; default 20, or 400 or 300 with the published recipe."""
    batch: int | None = None
    """Images per step; default 64, or 100 with the published recipe."""
    latent_dim: int | None = None
    """Size of z; default 32, or 64 with the published recipe for colour images."""
    learning_rate: float | None = None
    """Learning rate of Adam; default 2e-3 (ALI and ALICE 1e-3), falling to zero over the second half; with the published
    recipe 2e-4 divided by the square root of the epoch."""
    together: bool | None = None
    """Update AIM's generator and encoder together (algorithm 1), or in turn; default in turn, or together with the published
    recipe."""
    gamma: float = 0.5
    """Weight of R1 on the critics of our recipe."""
    average: float = 0.999
    """Decay of the moving average of the generators of our recipe, which are measured."""
    validation: int = 5_000
    """Number of training images, the last ones, that are held out."""
    classifier: str | None = "mnist_classifier"
    """Classifier for the inception score: a shipped one, or the path of one that examples/train_classifier.py trained on these
    images; None for no inception score."""
    points: int = 12
    """Points of the curves."""
    samples: int = 50_000
    """Samples for the inception score."""
    bf16: bool = False
    """Train in mixed precision: faster on CPUs with AMX and on GPUs."""
    accelerator: str = "cpu"
    """cpu or cuda."""
    graph: bool = False
    """On a GPU: run each step as a CUDA graph, and train all runs at the same time."""
    seconds: float = float("inf")
    """Time limit of each training, after which it ends."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    checkpoints: Path | None = None
    """Folder of checkpoints, from which an interrupted run continues."""
    report: tuple[Path, ...] = ()
    """Folders of runs, or files OUTPUT.json: make the tables from these, without training."""
    output: Path = Path("aim_mnist")
    """Output path: writes the folder OUTPUT-runs, OUTPUT.json, OUTPUT-curves.png and OUTPUT-ROW.png."""


# ------------------------------------------------------------------------------------------------------- families


def build(name: str, options: Options, shape: tuple[int, ...]) -> tuple[Recipe, Family]:
    """A recipe and its family for images of this shape.

    :raises ValueError: for a family that needs labels, or that the recipe does not have.
    """
    made, settings = weighted(name, Kind.IMAGES)
    plain = name.partition(":")[0]
    if made.labelled:
        raise ValueError(f"family {name!r} needs labels: give a family for images without labels")
    given: dict[str, Any] = dict(settings)
    if options.together is not None and "together" in made.settings:
        given["together"] = options.together
    if options.recipe == "published":
        recipes = published_aim.DIGITS if shape[0] == 1 else published_aim.CIFAR
        if plain not in recipes:
            raise ValueError(f"family {name!r}: the paper has only networks of {', '.join(recipes)}; use --recipe ours")
        made = recipes[plain]
        shape = tuple(made.prepare(torch.zeros(1, *shape, dtype=torch.uint8)).shape[1:])
        return made, made.family(
            Sizes(shape, options.latent_dim or made.latent_dim), learning_rate=options.learning_rate, **given
        )
    sizes = Sizes(shape, options.latent_dim or 32, convolutional=True, head_widths=(256,))
    rate = options.learning_rate or RATES.get(plain, 2e-3)
    penalty = with_penalty(made, options.gamma)
    return made, made.family(sizes, learning_rate=rate, betas=(0.0, 0.99), **penalty, **given)


# ------------------------------------------------------------------------------------------------------- measures


class Judge(NamedTuple):
    """The classifier for the inception score, or None."""

    network: Any
    own: Score | None
    """The inception score of the test set."""

    def score(self, generator: nn.Module, z: Tensor, value_range: tuple[float, float]) -> Score:
        """The inception score of the samples G(z)."""
        low, high = value_range
        side = self.network.config.event_shape[-1]

        def probabilities(z: Tensor) -> Tensor:
            x = generator(z)
            x = avg_pool2d(2 * (x - low) / (high - low) - 1, x.shape[-1] // side)  # enlarged images at their original size
            return self.network(x).softmax(-1)

        return inception_score(outputs(probabilities, z), network=self.network.name)


def squared_error(generator: nn.Module, encoder: nn.Module, images: Tensor, made: Recipe, device: Any) -> float:
    """Mean squared error of reconstructions of bytes (item, *event_shape), for pixels in [0, 1]."""
    total, count = 0.0, 0
    for part in images.split(1000):
        x = made.prepare(part.to(device))
        total, count = total + (reconstruct(generator, encoder, x) - x).square().sum().item(), count + x.numel()
    return total / count / (made.value_range[1] - made.value_range[0]) ** 2


def run(name: str, seed: int, options: Options, data: ImageData, judge: Judge) -> Run:
    """Train one family from one seed, and measure it."""
    torch.manual_seed(seed)
    everything, test = torch.from_numpy(data.train), torch.from_numpy(data.test)
    train_x, held_out = everything[: -options.validation], everything[-options.validation :]
    made, family = build(name, options, tuple(test.shape[1:]))
    ours = options.recipe == "ours"
    batch = options.batch or (64 if ours else made.batch_size)
    epochs = options.epochs or (20.0 if ours else made.epochs)
    family.initialise(made.prepare(train_x[:1_000]))
    per_epoch = len(train_x) // batch
    steps = max(1, round(epochs * per_epoch))
    curve: list[dict[str, float]] = []
    started = time.perf_counter()

    def watch(step: int, family: Family, averaged: Callable[[], nn.Module | None]) -> None:
        family.eval()
        generator, encoder = averaged() or family.generator, getattr(family, "encoder", None)
        device = next(generator.parameters()).device
        point = {"epoch": step / per_epoch, "seconds": time.perf_counter() - started}
        if encoder is not None:
            point["mse"] = squared_error(generator, encoder, held_out, made, device)
        if judge.network is not None:
            z = torch.randn(min(10_000, options.samples), family.latent_dim, device=device)
            point["inception_score"] = judge.score(generator, z, made.value_range).mean
        curve.append(point)
        shown = ", ".join(f"{key} {point[key]:.4f}" for key in ("mse", "inception_score") if key in point)
        print(f"{options.recipe} {name}, seed {seed}: epoch {point['epoch']:.1f}, {shown}", flush=True)

    trained = yield from training_steps(
        family,
        train_x,
        num_steps=steps,
        batch_size=batch,
        seed=seed,
        schedule=Falling(steps) if ours else made.schedule(steps),
        average=options.average if ours else made.average,
        prepare=made.prepare,
        checkpoint=None if options.checkpoints is None else options.checkpoints / _name(name, seed, options),
        watch=watch,
        watch_every=max(1, steps // options.points),
        precision="bf16-mixed" if options.bf16 else "32-true",
        accelerator=options.accelerator,
        graph=options.graph,
        seconds=options.seconds,
        progress=not options.graph,
    )
    generator, encoder = trained.average or family.generator, getattr(family, "encoder", None)
    device = next(generator.parameters()).device
    done = len(next(iter(trained.losses.values())))
    row: dict[str, Any] = {"family": name, "recipe": options.recipe, "together": getattr(family, "together", None)}
    row |= {"latent_dim": family.latent_dim, "batch": batch, "seed": seed, "data": data.name}
    row |= {"epochs_asked": epochs, "epochs": done / per_epoch, "steps": done, "seconds": trained.seconds, "curve": curve}
    if judge.network is not None:
        assert judge.own is not None
        torch.manual_seed(seed + 1)
        found = judge.score(generator, torch.randn(options.samples, family.latent_dim).to(device), made.value_range)
        row |= {"inception_score": found.mean, "inception_score_sd": found.sd}
        row |= {"classifier": judge.own.network, "test_set_inception_score": judge.own.mean}
    if encoder is not None:
        row["mse"] = squared_error(generator, encoder, test, made, device)
    row |= {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"}
    row |= {"command": command(name, seed, options)}
    return row, pictures_of(generator, encoder, family.latent_dim, seed, data, made, device)


def command(name: str, seed: int, options: Options) -> str:
    """The command of this single run, with the options that differ from the defaults."""
    words = ["python", "examples/aim_mnist.py", "--families", name, "--seeds", str(seed)]
    for field in fields(options):
        value = getattr(options, field.name)
        if value == field.default or field.name in ("families", "seeds", "output", "checkpoints", "folder", "report"):
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", f"{value:g}" if isinstance(value, float) else str(value)]
    return shlex.join(words)


@torch.no_grad()
def pictures_of(
    generator: nn.Module, encoder: Any, latent_dim: int, seed: int, data: ImageData, made: Recipe, device: Any
) -> dict[str, np.ndarray]:
    """Samples, test images with reconstructions and neighbours, and images of the plane of two latents, as bytes."""
    low, high = made.value_range

    def as_bytes(x: Tensor) -> np.ndarray:
        return (255 * (x.clamp(low, high) - low) / (high - low)).round().byte().cpu().numpy()

    torch.manual_seed(seed + 2)
    pictures = {"samples": as_bytes(generator(torch.randn(100, latent_dim).to(device)))}
    if encoder is None:
        return pictures
    test = torch.from_numpy(data.test)
    some = made.prepare(test[:20].to(device))
    pictures |= {"test": as_bytes(some), "reconstructed": as_bytes(reconstruct(generator, encoder, some))}
    pictures |= {"neighbours": as_bytes(neighbours(generator, encoder, some[:10], 9).flatten(0, 1))}
    if latent_dim == 2:
        codes = [encoder(made.prepare(part.to(device)))[0] for part in test.split(1000)]
        pictures["codes"] = torch.cat(codes).cpu().numpy()
        if data.test_labels is not None:
            pictures["labels"] = data.test_labels.astype(np.uint8)
        line = torch.linspace(-2, 2, 20)
        plane = torch.stack([line.repeat(20), line.flip(0).repeat_interleave(20)], 1)  # upwards and to the right
        pictures["plane"] = as_bytes(generator(plane.to(device)))
    return pictures


def _name(name: str, seed: int, options: Options) -> str:
    turns = "" if options.together is None else "-together" if options.together else "-turns"
    parts = [options.recipe, name.replace(":", "-") + turns, f"latents-{options.latent_dim}" if options.latent_dim else ""]
    parts += [f"epochs-{options.epochs:g}" if options.epochs else "", f"seed-{seed}"]
    return "-".join(part for part in parts if part)


def kept(name: str, seed: int, options: Options, data: ImageData, judge: Judge) -> Generator[int, None, None]:
    """`run`, writing its two files; a run that diverges writes none and does not stop the others."""
    try:
        row, pictures = yield from run(name, seed, options, data, judge)
    except FloatingPointError as error:
        print(f"{options.recipe} {name}, seed {seed}: {error}", file=sys.stderr, flush=True)
        return
    folder = options.output.with_name(f"{options.output.name}-runs")
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{_name(name, seed, options)}.npz", **pictures)  # type: ignore[arg-type]
    (folder / f"{_name(name, seed, options)}.json").write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")


# ------------------------------------------------------------------------------------------------------- all


def load(options: Options) -> tuple[ImageData, Judge]:
    """The data and the classifier.

    :raises OSError: for files that cannot be read.
    :raises ValueError: for invalid options.
    """
    data = load_image_data(options.data, folder=options.folder)
    for name in options.families:
        build(name, options, tuple(data.test.shape[1:]))
    if options.classifier is None:
        return data, Judge(None, None)
    judge: Any = load_classifier(options.classifier)
    if judge.config.event_shape != data.test.shape[1:]:
        raise ValueError(
            f"{judge.name} classifies images of shape {judge.config.event_shape}, and these have {data.test.shape[1:]}: "
            "give a --classifier for them, or None"
        )
    test = as_floats(torch.from_numpy(data.test))
    own = inception_score(outputs(lambda x: judge(x).softmax(-1), test), network=judge.name)
    print(f"inception score of the test set: {own}")
    return data, Judge(judge.to("cuda" if options.accelerator == "cuda" else "cpu"), own)


def main(options: Options) -> dict[str, Any]:
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        if options.report:
            return report(options.report, options.output)
        data, judge = load(options)
        runs = [kept(name, seed, options, data, judge) for seed in options.seeds for name in options.families]
        for some in [runs] if options.graph else [[each] for each in runs]:
            interleaved(some)
        return report((options.output.with_name(f"{options.output.name}-runs"),), options.output)
    except (OSError, ValueError) as error:
        sys.exit(f"aim_mnist: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

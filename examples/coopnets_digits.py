"""Compare cooperative networks with a conditional GAN, from classes to images (CCoopNets: Figures 5 to 8, Tables 1 and 2).

    python examples/coopnets_digits.py --folder data/mnist --output coopnets_digits
    python examples/coopnets_digits.py --data fashion-mnist --classifier fashion_classifier --output coopnets_fashion
    python examples/coopnets_digits.py --recipe published --minutes 0 --output published      the paper's, 1,600 epochs
    python examples/coopnets_digits.py --families --plain gan glo glf coopnets --output plain      without a class (Table 1)
    python examples/coopnets_digits.py --report one.json another.json --output both           one table of several files

Every run is one training with one seed: the cooperative pair with a number of Langevin steps, or the GAN with the initializer
as its generator and the solver's network as its critic. `--plain` adds families of `cogen train` without classes, each with its
own recipe. All runs of a call have the same processor time (`--minutes`): the cost of a step of each is measured first, in
alternation, and determines the number of steps.

The measures compare 10,000 samples, with equal shares of the classes, with 10,000 test images, by the features of a shipped
classifier:

    frechet      squared Frechet distance (Heusel et al. 2017, equation 6; with our features, not Inception's as in the paper)
    read         share of the samples that the classifier assigns to their class
    recall       share of the test images in the neighbourhoods of samples of their class: with 1,000 of each, those at most as
                 far from some sample as this sample's third neighbour (Kynkaanniemi et al. 2019)

They are computed for samples of the initializer and of the solver; the row "real" uses training images as samples.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (sections 4.1.2 and 4.1.3).
    Kynkaanniemi, Karras, Laine, Lehtinen, Aila. Improved precision and recall metric for assessing generative models. NeurIPS
        2019.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from step_costs import step_costs
from torch import Tensor

from cogen.diagnostics import frechet_distance
from cogen.diagnostics.sample_quality import outputs, recall
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.families import published_coopnets
from cogen.models.families.coopnets import CoopNets
from cogen.models.families.family import Family
from cogen.models.families.gan import GAN, NonSaturating
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import Sizes
from cogen.models.networks.architectures import count_parameters
from cogen.models.storage.classifiers import load_classifier
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train

PAPER = {
    "mnist": {"coopnets": 4.50, "cgan": 5.91, "gan": 4.54, "glo": 49.60, "glf": 5.80},
    "fashion-mnist": {"coopnets": 8.20, "cgan": 11.92, "gan": 8.22, "glo": 57.70, "glf": 10.30},
}
"""The paper's Table 1, with Inception features."""


@dataclass
class Options:
    data: str = "mnist"
    """Labelled data, as for `cogen train --data`."""
    folder: Path | None = None
    """Folder of the data; default data/NAME."""
    classifier: str = "mnist_classifier"
    """Classifier whose features and classes are used for the measures."""
    families: tuple[Literal["coopnets", "cgan"], ...] = ("coopnets", "cgan")
    recipe: Literal["ours", "published"] = "ours"
    """Networks and constants of `cogen train ccoopnets` (ours), or of the paper."""
    langevin: tuple[int, ...] = (1, 4, 16, 32)
    """Steps of the solver; one run each (l in Figure 8)."""
    learning_rate: float = 4e-3
    """Learning rate of the initializer and solver of our recipe."""
    plain: tuple[str, ...] = ()
    """Additional families of `cogen train` without classes."""
    gan_rate: float = 2e-3
    """Learning rate of the GAN's generator and critic."""
    gan_gamma: float = 3.0
    """Weight of the GAN's R1."""
    latent_dim: tuple[int, ...] = (128,)
    """Sizes of z; one run each (d in Figure 8)."""
    seeds: tuple[int, ...] = (0,)
    minutes: float = 4.0
    """Processor time of each training; 0 for the recipe's number of epochs."""
    timed: int = 8
    """Steps per turn for measuring the cost of a step."""
    batch: int | None = None
    """Batch size; default that of the recipe."""
    average: float = 0.999
    """Decay of the moving average of our recipe's initializer and of the GAN's generator, which are measured; 0 for none."""
    samples: int = 10_000
    points: int = 4
    """Number of times the samples are measured during training, including the end."""
    pictures: int = 10
    """Samples of each class in the image."""
    threads: int = 1
    report: tuple[Path, ...] = ()
    """Files of earlier calls: make the table from these, without training."""
    output: Path = Path("coopnets_digits")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


# ------------------------------------------------------------------------------------------------------- families


@dataclass(frozen=True)
class Case:
    """One training."""

    family: str
    langevin: int
    latent_dim: int
    seed: int
    classes: bool = True

    def __str__(self) -> str:
        steps = f", {self.langevin} Langevin steps" if self.langevin else ""
        without = "" if self.classes else " without a class"
        return f"{self.family}{without}{steps}, {self.latent_dim} latents, seed {self.seed}"


def cases(options: Options) -> list[Case]:
    """All trainings of a call."""
    found = []
    for seed in options.seeds:
        for size in options.latent_dim:
            for name in options.families:
                steps = options.langevin if name == "coopnets" else (0,)
                found += [Case(name, each, size, seed) for each in steps]
        for name in options.plain:
            found.append(Case(name, 0, recipe(name, Kind.IMAGES).latent_dim, seed, classes=False))
    return found


def build(case: Case, options: Options, data: ImageData) -> tuple[Recipe, Family]:
    """The recipe of the cooperative pair, and the pair, or the GAN with its networks; without classes, the family's own recipe
    and the family."""
    shape = tuple(data.train.shape[1:])
    if not case.classes:
        own = recipe(case.family, Kind.IMAGES)
        torch.manual_seed(case.seed)
        return own, own.family(Sizes(shape, case.latent_dim, num_items=len(data.train)))
    made = recipe("ccoopnets", Kind.IMAGES)
    if options.recipe == "published":
        made = published_coopnets.DIGITS if shape[0] == 1 else published_coopnets.CIFAR
    sizes = Sizes(shape, case.latent_dim, data.num_classes, convolutional=True)
    torch.manual_seed(case.seed)
    rate = options.learning_rate if options.recipe == "ours" else None
    pair = made.family(sizes, learning_rate=rate, steps=max(1, case.langevin))
    if case.family == "coopnets":
        return made, pair
    # R1 on every eighth step, as in the library's conditional GAN.
    game = NonSaturating(options.gan_gamma, 8)
    return made, GAN(pair.generator, pair.energy, case.latent_dim, game, learning_rate=options.gan_rate)


def batches(case: Case, made: Recipe, options: Options, data: ImageData) -> tuple[int, list[Tensor]]:
    images = torch.from_numpy(data.train)
    labels = [torch.from_numpy(data.train_labels)] if case.classes else []
    return options.batch or made.batch_size, [images, *labels]


def costs(options: Options, data: ImageData) -> dict[Case, float]:
    """Processor seconds per step of each case."""
    running = {}
    for case in cases(replace(options, seeds=options.seeds[:1])):
        made, family = build(case, options, data)
        size, (images, *labels) = batches(case, made, options, data)
        size *= family.batches_per_step
        items = [torch.arange(size)] if family.takes_items else []
        running[case] = (family, (made.prepare(images[:size]), *(each[:size] for each in labels), *items))
    return step_costs(running, options.timed)


# ------------------------------------------------------------------------------------------------------- measures


class Judge:
    """Compares samples with test images."""

    def __init__(self, name: str, data: ImageData, count: int) -> None:
        self.network: Any = load_classifier(name)
        if self.network.config.event_shape != data.test.shape[1:]:
            raise ValueError(
                f"{name} classifies images of shape {self.network.config.event_shape}, and these have {data.test.shape[1:]}:"
                " give a --classifier for them"
            )
        self.labels, self.classes = data.test_labels[:count], data.num_classes
        self.features = outputs(self.network.features, as_floats(torch.from_numpy(data.test[:count])))

    def __call__(self, x: Tensor, label: Tensor | None) -> dict[str, float]:
        """The measures of samples (item, *event) in [-1, 1] and their classes (item,); without classes only the distance."""
        features = outputs(self.network.features, x)
        distance = {"frechet": frechet_distance(features, self.features, network=self.network.name).mean}
        if label is None:
            return distance
        read = outputs(self.network, x).argmax(1)
        shares = [
            recall(self.features[self.labels == k][:1_000], features[label.numpy() == k][:1_000]) for k in range(self.classes)
        ]
        return {
            **distance,
            "read": float((read == label.numpy()).mean()),
            "recall": float(np.mean(shares)),
        }


def drawn(family: Family, generator: Any, label: Tensor, classes: bool, seed: int) -> dict[str, Tensor]:
    """Samples of the initializer for these classes (or as many without classes), and of the solver."""
    found: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in label.split(500):
            given = (part,) if classes else ()
            with torch.no_grad():
                x = generator(family.latent(len(part)), *given)
            found.setdefault("initializer", []).append(x)
            if isinstance(family, CoopNets):
                found.setdefault("solver", []).append(family.refined(x, *given).clamp(-1, 1))
    return {name: torch.cat(parts) for name, parts in found.items()}


# ------------------------------------------------------------------------------------------------------- runs


def run(case: Case, steps: int, cost: float, options: Options, data: ImageData, judge: Judge) -> tuple[dict[str, Any], Any]:
    """One training: its record with the measures during training, and its last samples."""
    made, family = build(case, options, data)
    size, tensors = batches(case, made, options, data)
    label = torch.arange(options.samples) % data.num_classes
    curve: list[dict[str, Any]] = []
    kept: dict[str, Tensor] = {}
    begun = time.process_time()

    def watch(step: int, family: Family, averaged: Any) -> None:
        spent = time.process_time() - begun
        family.eval()
        made_of = drawn(family, averaged() or family.generator, label, case.classes, seed=1)
        judged = {name: judge(x, label if case.classes else None) for name, x in made_of.items()}
        curve.append({"step": step, "seconds": spent, **judged})
        kept.update({name: x[: options.pictures * data.num_classes] for name, x in made_of.items()})
        print(f"{case}: step {step}, {curve[-1]}", flush=True)

    stopped = None
    try:
        train(
            family,
            tensors,
            num_steps=steps,
            batch_size=size,
            seed=case.seed,
            schedule=Falling(steps) if options.recipe == "ours" else made.schedule(steps),
            average=options.average if options.recipe == "ours" else made.average,
            prepare=made.prepare,
            watch=watch,
            watch_every=max(1, steps // options.points),
            progress=False,
        )
    except FloatingPointError as error:
        stopped = str(error)
        print(f"{case}: {error}", file=sys.stderr, flush=True)
    langevin = family.run.steps if isinstance(family, CoopNets) else case.langevin
    row: dict[str, Any] = {"family": case.family, "langevin": langevin, "latent_dim": case.latent_dim, "seed": case.seed}
    row |= {"classes": case.classes}
    row |= {"recipe": options.recipe, "data": data.name, "steps": steps, "batch": size, "seconds_a_step": cost}
    row |= {"weights": {name: count_parameters(network) for name, network in family.named_children()}}
    return {**row, "curve": curve, "stopped": stopped}, kept


def real(options: Options, data: ImageData, judge: Judge) -> dict[str, float]:
    """The measures of training images."""
    some = np.random.default_rng(0).permutation(len(data.train))[: options.samples]
    return judge(as_floats(torch.from_numpy(data.train[some])), torch.from_numpy(data.train_labels[some]))


def table(record: dict[str, Any]) -> str:
    """The table of the last measures of every run."""
    lines = [f"{'':44} {'steps':>7} {'ms a step':>9}  {'frechet':>9} {'read':>6} {'recall':>6}"]
    for row in record["runs"]:
        name = str(Case(row["family"], row["langevin"], row["latent_dim"], row["seed"], row.get("classes", True)))
        if not row["curve"]:
            lines.append(f"{name}: {row['stopped']}")
            continue
        end = row["curve"][-1]
        for part in ("initializer", "solver"):
            if part in end:
                about = f"{name}" if part == "initializer" else "  its solver"
                cells = f"{end['step']:7} {1e3 * row['seconds_a_step']:9.1f}" if part == "initializer" else " " * 17
                found = end[part]
                read = f" {found['read']:6.3f} {found['recall']:6.3f}" if "read" in found else ""
                lines.append(f"{about:44} {cells}  {found['frechet']:9.2f}{read}")
    found = record["real"]
    lines.append(f"{'real':44} {'':17}  {found['frechet']:9.2f} {found['read']:6.3f} {found['recall']:6.3f}")
    return "\n".join(lines)


def draw(rows: list[tuple[str, Tensor]], classes: int, path: Path) -> None:
    """Draw samples, with one row per class and one panel per run."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(rows), figsize=(2.6 * len(rows), 3.0), squeeze=False)
    for axis, (name, x) in zip(axes[0], rows, strict=True):
        grid = x.unflatten(0, (-1, classes)).permute(1, 3, 0, 4, 2).flatten(0, 1).flatten(1, 2)
        axis.imshow(((grid.clamp(-1, 1) + 1) / 2).squeeze(-1).numpy(), cmap="gray")
        axis.set_title(name, fontsize=7)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def write(record: dict[str, Any], path: Path) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    if options.report:
        records = [json.loads(path.read_text(encoding="utf-8")) for path in options.report]
        commands = "; ".join(dict.fromkeys(each["command"] for each in records))
        record = {**records[0], "command": commands, "runs": [row for each in records for row in each["runs"]]}
        print(table(record))
        write(record, options.output)
        return record
    try:
        data = load_image_data(options.data, folder=options.folder)
        if data.train_labels is None or data.test_labels is None:
            raise ValueError(f"{options.data} has no labels")
        judge = Judge(options.classifier, data, options.samples)
    except (OSError, ValueError) as error:
        sys.exit(f"coopnets_digits: {error}")
    cost = costs(options, data)
    record: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "classifier": judge.network.name,
        "minutes": options.minutes,
        "paper": PAPER.get(options.data),
        "real": real(options, data, judge),
        "runs": [],
    }
    pictures = []
    for case in cases(options):
        made, made_of = build(case, options, data)
        a_step = cost[replace(case, seed=options.seeds[0])]
        per_epoch = len(data.train) // ((options.batch or made.batch_size) * made_of.batches_per_step)
        steps = round(60 * options.minutes / a_step if options.minutes else made.epochs * per_epoch)
        row, kept = run(case, max(1, steps), a_step, options, data, judge)
        record["runs"].append(row)
        if case.seed == options.seeds[0]:
            pictures += [(f"{case.family} {case.langevin or ''} {name}", x) for name, x in kept.items()]
        write(record, options.output)
    print(table(record))
    if pictures:
        draw(pictures, data.num_classes, options.output.with_name(f"{options.output.name}.png"))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

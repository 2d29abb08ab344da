"""Compare cooperative networks with pix2pix and related methods on image translation (Tables 5, 6, Figures 13, 14, 16).

    python examples/coopnets_translation.py --data data/facades --output facades_centre             the hidden centre
    python examples/coopnets_translation.py --task labels --data data/facades --output facades      photographs from labels
    python examples/coopnets_translation.py --task sketch --data data/olivetti/olivetti_faces.npz --no-pairs --output faces
    python examples/coopnets_translation.py --report one.json another.json --output both            one table of several files

Every run is one training with one seed. All families of a call have the same U-Net (except the context encoder), the same batch
size, and the same processor time (`--minutes`): the cost of a step of each is measured first, in alternation, and determines
the number of steps. NAME:WEIGHT sets the weight of a family's distance from x. With `--validate` scores are computed on
held-out training images, for choosing weights.

Each trained model gives `--draws` draws for every condition, which are scored on the hidden part, or on the whole image if no
part was seen:

    PSNR, SSIM      of single draws (mean over draws), and of the mean of the draws
    energy score    fair score of the draws as a sample of the predictive distribution (lower is better); unlike PSNR it also
                    rewards a correct spread
    distance        between two draws, root mean square over pixels: 0 if all draws are equal
    with noise      the energy score of the draws with normal noise on every pixel, whose standard deviation is the best of a
                    grid on held-out training images, so that no family is worse only for lack of noise

"nearest" has no model: its draws are the training images with the most similar conditions, scored as a sample.

The noise of U-Nets is dropout, except with a latent z (cvae-gan and related families). The solver's weights are not averaged.
The paper's setting is `--recipe published --minutes 0 --batch 1 --size 256 --crop-from 286 --width 64 --average 0`.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.2).
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from step_costs import step_costs
from torch import Tensor

from cogen.diagnostics import energy_score, paired_difference, psnr, ssim
from cogen.models.data.datasets import held_out_split, load_image_data
from cogen.models.data.pairs import GRAY, PairData, centre_hidden, hidden_where, load_pairs, paired
from cogen.models.families.coopnets import CoopNets
from cogen.models.families.family import Family
from cogen.models.families.published_coopnets import PAIRS
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import weighted
from cogen.models.families.sizes import PairSizes
from cogen.models.networks.architectures import count_parameters
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import Alike, as_floats
from cogen.models.training.trainer import train
from cogen.pairs import MADE

RANGE = (-1.0, 1.0)
NOISES = tuple(round(0.05 * k, 2) for k in range(9))

PAPER = {
    "pix2pix": (19.34, 0.74),
    "cvae-gan": (19.43, 0.68),
    "cvae-gan++": (19.14, 0.64),
    "bicyclegan": (19.07, 0.64),
    "coopnets-unet": (20.47, 0.77),
}
"""The paper's PSNR and SSIM of the hidden centre of facades with 256 pixels a side (Table 5)."""


@dataclass
class Options:
    task: Literal["centre", "labels", "sketch", "edges"] = "centre"
    """The condition: the image around its hidden centre, the label map in the other half of the file, or a drawing of x."""
    data: str = "data/facades"
    """Folder of images, or other data as for `cogen train --data`."""
    folder: Path | None = None
    """Folder of a known data set; default data/NAME."""
    pairs: bool = True
    """A file has two images side by side, and x is the left one."""
    size: int = 64
    crop_from: int = 72
    """Size of the images from which training images are cropped; they are also mirrored (286 for 256 in the paper)."""
    families: tuple[str, ...] = ("coopnets-unet", "pix2pix", "unet-l1", *("cvae-gan", "cvae-gan++", "bicyclegan"))
    """Families: NAME or NAME:WEIGHT, with @RATE for the learning rate; context-encoder is for the hidden centre. The others are
    compared with the first one, which `--between` also uses."""
    recipe: Literal["ours", "published"] = "ours"
    """Recipe of coopnets-unet."""
    langevin: int | None = None
    """Steps of its solver; default the recipe's."""
    width: int = 16
    """Feature maps of the first layer; 64 in the paper."""
    latent_dim: int | None = None
    """Size of z; default that of each family: 8, or none with dropout as the noise."""
    batch: int = 4
    seeds: tuple[int, ...] = (0,)
    minutes: float = 2.0
    """Processor time of each training; 0 for each recipe's number of epochs."""
    average: float = 0.999
    """Decay of the moving average of the generators' weights, which is scored; 0 for none."""
    draws: int = 16
    validate: bool = False
    """Score on held-out training images instead of the test images."""
    pictures: int = 6
    """Conditions in the image."""
    between: int = 0
    """Number of images from one condition to another, in a second file (Figure 14b)."""
    threads: int = 1
    report: tuple[Path, ...] = ()
    """Files of earlier calls: make the table from these, without training."""
    output: Path = Path("coopnets_translation")
    """Output path: writes OUTPUT.json, OUTPUT.png and OUTPUT-between.png."""


# ------------------------------------------------------------------------------------------------------- data, families


@dataclass(frozen=True)
class Split:
    """Pairs (x, condition): training pairs in bytes, and, in [-1, 1], test pairs and held-out pairs for choosing the noise."""

    train: tuple[Tensor, ...]
    library: tuple[Tensor, ...]
    """The training pairs in the form of the test pairs."""
    judge: tuple[Tensor, ...]
    held_out: tuple[Tensor, ...]


def pairs_of(options: Options, size: int) -> PairData:
    if options.task == "labels" and not options.pairs:
        raise ValueError("--task labels --no-pairs: the labels are the right half of each picture")
    source = load_pairs if options.pairs else load_image_data
    folder = {} if options.pairs else {"folder": options.folder}
    data = source(options.data, size=size, **folder)
    return data if isinstance(data, PairData) and options.task == "labels" else paired(data, MADE[options.task])


def split_of(options: Options) -> Split:
    """The training, test and held-out pairs.

    :raises OSError: for data that cannot be read.
    :raises ValueError: for invalid options.
    """
    larger, data = pairs_of(options, options.crop_from), pairs_of(options, options.size)
    trained_on, held_out = held_out_split(len(larger.train))
    tensors = torch.from_numpy(larger.train)[trained_on], torch.from_numpy(larger.train_conditions)[trained_on]
    if options.task == "centre":  # the centre is hidden after cropping
        tensors = (tensors[0], tensors[0])
    library, test, kept = (
        tuple(as_floats(torch.from_numpy(each)) for each in pairs)
        for pairs in (
            (data.train[trained_on], data.train_conditions[trained_on]),
            (data.test, data.test_conditions),
            (data.train[held_out], data.train_conditions[held_out]),
        )
    )
    return Split(tensors, library, kept if options.validate else test, kept)


class Prepared(Alike):
    """Crops and mirrors pairs, then hides the centre if that is the task."""

    def __init__(self, options: Options) -> None:
        super().__init__(options.size, mirror=True)
        self.hides = options.task == "centre"

    def __call__(self, *images: Tensor) -> tuple[Tensor, ...]:
        x, condition = super().__call__(*images)
        return x, hide_centre(x) if self.hides else condition


def hide_centre(x: Tensor) -> Tensor:
    """`centre_hidden` for values in [-1, 1]."""
    seen = centre_hidden(np.zeros((1, 1, *x.shape[2:]), np.uint8))[0, -1] > 0
    return torch.from_numpy(hidden_where(x.numpy(), seen, GRAY / 127.5 - 1, RANGE))


def build(text: str, seed: int, options: Options, split: Split) -> tuple[Recipe, Family]:
    """The recipe of NAME or NAME:WEIGHT, either with @RATE, and a new family with its networks."""
    text, _, rate = text.partition("@")
    made, settings = weighted(text, Kind.PAIRS)
    if rate:
        settings = {**settings, "learning_rate": float(rate)}
    if text.startswith("coopnets"):
        made = PAIRS if options.recipe == "published" else made
        settings = settings if options.langevin is None else {**settings, "steps": options.langevin}
    x, condition = split.judge
    latent_dim = made.latent_dim if options.latent_dim is None else options.latent_dim
    shapes = (tuple(x.shape[1:]), tuple(condition.shape[1:]))
    torch.manual_seed(seed)
    return made, made.family(PairSizes(*shapes, latent_dim, options.width, fills=options.task == "centre"), **settings)


# ------------------------------------------------------------------------------------------------------- measures


@torch.no_grad()
def drawn(family: Family, generator: Any, condition: Tensor, count: int, seed: int) -> dict[str, Tensor]:
    """Draws of the trained model, (draw, item, *event): of the generator, and of the solver if there is one."""
    name = "initializer" if isinstance(family, CoopNets) else "generator"
    found: dict[str, list[Tensor]] = {}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(count):
            x = generator(family.latent(len(condition)), condition)
            found.setdefault(name, []).append(x)
            if isinstance(family, CoopNets):
                found.setdefault("solver", []).append(family.refined(x, condition).clamp(*RANGE))
    return {name: torch.stack(draws) for name, draws in found.items()}


def judged(draws: Tensor, x: Tensor, condition: Tensor, task: str) -> tuple[np.ndarray, np.ndarray]:
    """The scored part of draws (draw, item, *event) and of the truth (item, *event): the hidden box, or the whole image."""
    made, truth = draws.numpy(), x.numpy()
    if task != "centre":
        return made, truth
    rows, columns = (np.flatnonzero((condition[0, -1] < 0).any(axis).numpy()) for axis in (1, 0))
    box = (..., slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    return made[box], truth[box]


def noisy_energy_score(made: np.ndarray, truth: np.ndarray, noise: float) -> np.ndarray:
    """Energy score of draws with normal noise, (item,); the noise is the same for every model."""
    random = np.random.default_rng(0)
    return energy_score((made + noise * random.normal(size=made.shape))[:, None], truth)


def best_noise(made: np.ndarray, truth: np.ndarray) -> float:
    """The standard deviation, from a grid, with the least energy score."""
    return min(NOISES, key=lambda noise: noisy_energy_score(made, truth, noise).mean())


def scores(made: np.ndarray, truth: np.ndarray, noise: float) -> dict[str, np.ndarray]:
    """All scores of the parts returned by `judged`, each (item,)."""
    difference = made[0::2] - made[1::2]
    return {
        "psnr": np.mean([psnr(each, truth, RANGE) for each in made], axis=0),
        "ssim": np.mean([ssim(each, truth, RANGE) for each in made], axis=0),
        "psnr_mean": psnr(made.mean(0), truth, RANGE),
        "ssim_mean": ssim(made.mean(0), truth, RANGE),
        "energy_score": energy_score(made[:, None], truth),
        "noisy_energy_score": noisy_energy_score(made, truth, noise),
        "distance": np.sqrt(np.square(difference).mean((0, 2, 3, 4))),
    }


def nearest(split: Split, pairs: tuple[Tensor, ...], options: Options) -> Tensor:
    """The training images with the most similar conditions, (draw, item, *event), by squared differences."""
    x, condition = split.library
    order = torch.cdist(pairs[1].flatten(1), condition.flatten(1)).topk(options.draws, largest=False).indices
    found = x[order].transpose(0, 1)
    if options.task == "centre":
        seen = pairs[1]
        found = torch.where(seen[:, -1:] > 0, seen[:, :-1], found)
    return found


# ------------------------------------------------------------------------------------------------------- runs


def run(
    text: str, seed: int, steps: int, cost: float, options: Options, split: Split
) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """One training: its rows, its draws by part, and the family."""
    made, family = build(text, seed, options, split)
    row: dict[str, Any] = {"family": text, "seed": seed, "steps": steps, "seconds_a_step": cost}
    row["weights"] = {name: count_parameters(network) for name, network in family.named_children()}
    x, condition = split.judge
    begun = time.process_time()
    try:
        trained = train(
            family,
            split.train,
            num_steps=steps,
            batch_size=options.batch,
            seed=seed,
            schedule=Falling(steps) if options.minutes else made.schedule(steps),
            average=options.average,
            prepare=Prepared(options),
            progress=False,
        )
        row["seconds"] = time.process_time() - begun
        family.generator = trained.average or family.generator
        family.eval()
        parts = drawn(family, family.generator, condition, options.draws, seed=1)
        kept = drawn(family, family.generator, split.held_out[1], options.draws, seed=2)
    except FloatingPointError as error:
        print(f"{text}, seed {seed}: {error}", file=sys.stderr, flush=True)
        return {**row, "stopped": str(error)}, {}, family
    row["noise"] = {name: best_noise(*judged(draws, *split.held_out, options.task)) for name, draws in kept.items()}
    row["parts"] = {
        name: scores(*judged(draws, x, condition, options.task), row["noise"][name]) for name, draws in parts.items()
    }
    for name, found in row["parts"].items():
        print(f"{text}, seed {seed}, {name}: " + ", ".join(f"{k} {v.mean():.4g}" for k, v in found.items()), flush=True)
    return row, parts, family


@torch.no_grad()
def between(family: Any, start: Tensor, end: Tensor, count: int, seed: int) -> Tensor:
    """Images between two conditions, (count, *event): features of the condition are interpolated, with fixed z and dropout; a
    solver refines them, given the interpolated condition."""
    found = []
    features = [family.generator.encode(torch.zeros(1, family.latent_dim), each[None]) for each in (start, end)]
    for share in torch.linspace(0, 1, count):
        mixed = [(1 - share) * a + share * b for a, b in zip(*features, strict=True)]
        torch.manual_seed(seed)
        x = family.generator.decode(mixed)
        condition = ((1 - share) * start + share * end)[None]
        found.append(family.refined(x, condition).clamp(*RANGE) if isinstance(family, CoopNets) else x)
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------------- tables, pictures

SCORES = ("psnr", "ssim", "psnr_mean", "ssim_mean", "energy_score", "noisy_energy_score", "distance")


def table_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each family and part: means over seeds and images, the number of runs that stopped early, and the paired
    differences in scores from the first family's last part, with standard errors over images."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in runs:
        for part in row.get("parts", {}):
            found.setdefault((row["family"], part), []).append(row)
    rows, first = [], {}
    for (name, part), of_seeds in found.items():
        of_item = {score: np.mean([row["parts"][part][score] for row in of_seeds], axis=0) for score in SCORES}
        first = of_item if name == runs[0]["family"] else first
        line: dict[str, Any] = {"family": name, "part": part, "seeds": len(of_seeds)}
        line["stopped"] = sum("stopped" in row for row in runs if row["family"] == name)
        line["parameters"] = sum(of_seeds[0].get("weights", {}).values())
        line |= {
            k: float(np.mean([row[k] for row in of_seeds])) for k in ("steps", "seconds_a_step", "seconds") if k in of_seeds[0]
        }
        line["noise"] = float(np.mean([row["noise"][part] for row in of_seeds]))
        line |= {score: float(values.mean()) for score, values in of_item.items()}
        rows.append((line, of_item))
    for line, of_item in rows:
        for score in ("psnr", "energy_score", "noisy_energy_score"):
            difference = paired_difference(of_item[score], first[score]) if first and first is not of_item else (0.0, 0.0)
            line[f"{score}_difference"], line[f"{score}_difference_se"] = difference
    return [line for line, _ in rows]


def printed(record: dict[str, Any]) -> str:
    """The table as text, with the paper's PSNR and SSIM if it has the task."""
    lines = [
        f"{'':34} {'seeds':>5} {'steps':>6} {'ms':>4} {'weights':>8}  {'PSNR':>6} {'SSIM':>6} {'of mean':>8} {'SSIM':>6}"
        f" {'distance':>8} {'energy':>7} {'noise':>6} {'energy':>7} {'- first solver':>16} {'paper':>12}"
    ]
    for row in record["rows"]:
        paper = record["paper"].get(row["family"].partition("@")[0].partition(":")[0]) if row["part"] != "initializer" else None
        difference = f"{row['noisy_energy_score_difference']:+.2f} ({row['noisy_energy_score_difference_se']:.2f})"
        lines.append(
            f"{row['family'] + ', ' + row['part']:34} {row['seeds']:5} {row.get('steps', 0):6.0f}"
            f" {1e3 * row.get('seconds_a_step', 0):4.0f} {row['parameters']:8}  {row['psnr']:6.2f} {row['ssim']:6.3f}"
            f" {row['psnr_mean']:8.2f} {row['ssim_mean']:6.3f} {row['distance']:8.2f} {row['energy_score']:7.2f}"
            f" {row['noise']:6.2f} {row['noisy_energy_score']:7.2f} {difference:>16}"
            f" {f'{paper[0]} / {paper[1]}' if paper else '':>12}{' stopped: ' + str(row['stopped']) if row['stopped'] else ''}"
        )
    if record["paper"]:
        shown = record["settings"]
        lines.append(
            f"ours: {shown['size']} pixels, width {shown['width']}, batches of {shown['batch']}, {shown['minutes']:g} minutes"
            " of a processor; the paper: 256, 64, 1, 3,000 epochs"
        )
    return "\n".join(lines)


def draw(columns: dict[str, Tensor], path: Path) -> None:
    """Draw images (item, channel, height, width), one column per name."""
    from matplotlib.figure import Figure

    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.1 * len(columns), 1.1 * count + 0.3), layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, (name, images) in zip(axes, columns.items(), strict=True):
        colours = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
        column = (colours.clamp(*RANGE) + 1).permute(0, 2, 3, 1).flatten(0, 1) / 2
        axis.imshow(column.numpy(), interpolation="nearest")
        axis.set_title(name, fontsize=6)
        axis.axis("off")
    figure.savefig(path, dpi=110)


def write(record: dict[str, Any], path: Path) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(record, default=short) + "\n", encoding="utf-8")


def short(values: np.ndarray) -> list[float]:
    """The scores of the items, rounded as they are stored."""
    return [float(f"{value:.5g}") for value in values]


def joined(paths: tuple[Path, ...]) -> dict[str, Any]:
    """Join several records.

    :raises ValueError: for records of different experiments, and for a run that is in two of them.
    """
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    for path, each in zip(paths, records, strict=True):
        for name in ("settings", "images"):
            if each[name] != records[0][name]:
                raise ValueError(
                    f"{path}: {name} {each[name]}, and {paths[0]} has {records[0][name]}: records must be of one experiment"
                )
    runs = {(row["family"], row["seed"]): row for each in records for row in each["runs"]}
    if len(runs) < sum(row["family"] != "nearest" for each in records for row in each["runs"]):
        raise ValueError("two of the files have the same family with the same seed")
    known = runs.pop(("nearest", 0), None)
    ordered = [*runs.values(), *([known] if known else [])]
    commands = "; ".join(dict.fromkeys(each["command"] for each in records))
    return {**records[0], "command": commands, "rows": table_rows(ordered), "runs": ordered}


def check(options: Options, split: Split) -> None:
    """Check the options that are used after the training.

    :raises ValueError: for invalid options.
    """
    images, side = len(split.train[0]), options.size // (2 if options.task == "centre" else 1)
    if options.draws < 2 or options.draws % 2 or options.draws > images:
        raise ValueError(f"--draws {options.draws}: give an even number, at most the {images} training images")
    if not 1 <= options.batch <= images:
        raise ValueError(f"--batch {options.batch}: give 1 to the {images} training images")
    if side < 11:
        raise ValueError(f"--size {options.size}: the scored part has {side} pixels a side, and SSIM needs 11")
    if options.between and (options.between < 2 or options.task == "centre" or len(split.judge[0]) < 2):
        raise ValueError(
            f"--between {options.between} --task {options.task}: give 2 or more images, another task than centre, and two"
            " conditions"
        )


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        if options.report:
            record = joined(options.report)
            print(printed(record))
            write(record, options.output)
            return record
        split = split_of(options)
        check(options, split)
        batch = Prepared(options)(*(each[: options.batch] for each in split.train))
        built = {text: build(text, options.seeds[0], options, split) for text in options.families}
        costs = step_costs({text: (family, batch) for text, (_, family) in built.items()})
    except (OSError, ValueError, ImportError, FloatingPointError) as error:
        sys.exit(f"coopnets_translation: {error}")
    x, condition = split.judge
    known, of_held_out = (nearest(split, pairs, options) for pairs in (split.judge, split.held_out))
    runs: list[dict[str, Any]] = []
    columns = {"condition": condition[: options.pictures], "x": x[: options.pictures], "nearest": known[0, : options.pictures]}
    varied = ("families", "seeds", "pictures", "between", "threads", "report", "output", "folder", "data")
    record = {"command": shlex.join(["python", *sys.argv]), "task": options.task, "rows": []}
    record |= {"settings": {name: value for name, value in vars(options).items() if name not in varied}}
    record |= {"images": len(x), "paper": PAPER if options.task == "centre" else {}, "runs": runs}
    for seed in options.seeds:
        for text, (made, _) in built.items():
            epochs = made.epochs * (len(split.train[0]) // options.batch)
            steps = max(1, round(60 * options.minutes / costs[text] if options.minutes else epochs))
            row, parts, family = run(text, seed, steps, costs[text], options, split)
            runs.append(row)
            if seed == options.seeds[0]:
                columns |= {f"{text}\n{name}": draws[0, : options.pictures] for name, draws in parts.items()}
                if options.between and text == options.families[0]:
                    ends = list(zip(condition[::2], condition[1::2], strict=False))[:3]
                    way = [between(family, *pair, options.between, seed) for pair in ends]
                    shown = {
                        f"{k / (options.between - 1):.2g}": torch.stack([each[k] for each in way])
                        for k in range(options.between)
                    }
                    draw(shown, options.output.with_name(f"{options.output.name}-between.png"))
            write(record, options.output)
    noise = best_noise(*judged(of_held_out, *split.held_out, options.task))
    found = scores(*judged(known, x, condition, options.task), noise)
    runs.append({"family": "nearest", "seed": 0, "noise": {"images": noise}, "parts": {"images": found}})
    record["rows"] = table_rows(runs)
    print(printed(record))
    write(record, options.output)
    draw(columns, options.output.with_name(f"{options.output.name}.png"))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

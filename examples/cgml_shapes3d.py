"""cGML on solids in spectral space: completion of noisy, partly hidden maps of coefficients (section 5.4).

    python examples/cgml_shapes3d.py --output cgml_shapes3d
    python examples/cgml_shapes3d.py --basis zernike --output cgml_zernike
    python examples/cgml_shapes3d.py --folder ModelNet10 --size 64 --output cgml_modelnet

Shapes are twelve families of solids, or the meshes of a folder (with the layout of ModelNet). A map contains

    harmonics    the coefficients of the surface's distance from the centre, size x size numbers (`cogen.models.data.spectral`)
    zernike      the 220 real moments up to order 9 of the density of its points, padded with zeros to 16 x 16

each minus its mean over the training set, in units of four standard deviations, and clipped to [-1, 1]. The condition is a map
with normal noise and a square of zeros, and the mask. `cgml_runs` describes the table and its rows. Further columns, for the
mean of the draws in the units of the coefficients:

    error       |made - true| / |true - mean|
    map         mean average precision of retrieving training shapes of the same class, by the distance of coefficients

"corrupted" is the condition itself, and "true" the true shape. "classified" is the accuracy of linear classifiers on the
smallest features of every trained encoder, of an untrained encoder, and on the coefficients.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.4, Tables 4
        and 6, Figure 20, appendix 3.12 and 4). It reports on ModelNet, with networks trained on ShapeNet.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from cgml_report import add
from cgml_runs import Common, Task, classes_read, experiment
from torch import Tensor

from cogen.models.data.shapes import Shapes, load_shapes, radial, solids
from cogen.models.data.spectral import Zernike, directions, from_harmonics, harmonics
from cogen.models.training.preparation import Joint

DEVIATIONS = 4.0
PAPER = {"map on ModelNet10": 84.2, "map of a context encoder": 10.3, "accuracy on ModelNet10": 92.4}
"""The paper's results, in per cent (Tables 4 and 6)."""


@dataclass
class Options(Common):
    families: tuple[str, ...] = ("cgml", "l1")
    """Methods: cgml, l1, context-encoder; NAME@RATE sets the learning rate."""
    minutes: float = 2.0
    basis: Literal["harmonics", "zernike"] = "harmonics"
    folder: Path | None = None
    """Folder of meshes, CLASS/train and CLASS/test; default the solids."""
    count: int = 80
    """Solids of each class, a quarter of which is the test set."""
    points: int = 2048
    """Points per cloud."""
    size: int = 32
    """Degrees of the harmonics."""
    noise: float = 0.5
    """Standard deviation of the noise, in standard deviations of the coefficients."""
    hidden: float = 0.4
    """Side of the hidden square, as a share of the side of the map."""


@dataclass(frozen=True)
class Maps:
    """Maps of the coefficients, centred and scaled, (item, 1, side, side)."""

    train: Tensor
    test: Tensor
    mean: Tensor
    scale: Tensor
    """The unit of each coefficient."""

    def coefficients(self, maps: Tensor) -> np.ndarray:
        """The coefficients of maps, minus their mean, (item, coefficient)."""
        return (maps * self.scale).flatten(1).numpy()


def maps_of(shapes: Shapes, options: Options) -> Maps:
    if options.basis == "harmonics":
        found = [harmonics(np.stack([radial(each, options.size) for each in part])) for part in (shapes.train, shapes.test)]
    else:
        zernike = Zernike(9)
        found = []
        for part in (shapes.train, shapes.test):
            moments = np.stack([zernike.moments(each) for each in part])
            padded = np.zeros((len(part), 256))
            padded[:, : moments.shape[1]] = moments
            found.append(padded.reshape(-1, 16, 16))
    train, test = (torch.from_numpy(each.astype(np.float32))[:, None] for each in found)
    mean, deviation = train.mean(0, keepdim=True), train.std(0, keepdim=True)
    scale = DEVIATIONS * deviation.clamp(min=1e-6 * float(deviation.max()))
    return Maps(*(((each - mean) / scale).clamp(-1, 1) for each in (train, test)), mean, scale)


class Corrupted(Joint):
    """Maps as pairs: x, and as its condition x with noise and a square of zeros, and the mask."""

    def __init__(self, noise: float, hidden: float) -> None:
        self.noise, self.hidden = noise / DEVIATIONS, hidden

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        (x,) = tensors
        side = x.shape[-1]
        width = max(1, round(self.hidden * side))
        top, left = ((torch.rand(len(x), 1, 1, 1) * (side - width + 1)).long() for _ in range(2))
        index = torch.arange(side)
        rows, columns = index[:, None] - top, index - left
        hidden = (rows >= 0) & (rows < width) & (columns >= 0) & (columns < width)
        noisy = (x + self.noise * torch.randn_like(x)).clamp(-1, 1)
        return x, torch.cat([torch.where(hidden, 0.0, noisy), 1.0 - 2.0 * hidden.float()], dim=1)


def average_precision(query: np.ndarray, library: np.ndarray, of_query: np.ndarray, of_library: np.ndarray) -> np.ndarray:
    """Average precision of retrieving items of the same class by Euclidean distance, for queries (item, feature): (item,)."""
    distance = np.square(query).sum(1)[:, None] + np.square(library).sum(1) - 2 * query @ library.T
    right = of_library[np.argsort(distance, axis=1)] == of_query[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, right.shape[1] + 1)
    return (precision * right).sum(1) / right.sum(1)


def pictures(maps: Maps, options: Options) -> Any:
    """A function for images of the solids of maps, seen from the side and above; near points are bright."""
    toward = np.array([0.6, 0.5, 0.62])
    toward /= np.linalg.norm(toward)
    across = np.cross([0.0, 0.0, 1.0], toward)
    across /= np.linalg.norm(across)
    frame = np.stack([across, np.cross(toward, across), toward])
    ways = directions(48).reshape(-1, 3)
    fine = Zernike(9)
    inner = ways[::7]

    def surface(coefficients: np.ndarray) -> np.ndarray:
        if options.basis == "harmonics":
            size = min(48, len(coefficients))
            padded = np.zeros((48, 48))
            padded[:size, :size] = coefficients[:size, :size]
            return from_harmonics(padded[None])[0].reshape(-1, 1) * ways
        shells = np.concatenate([inner * r for r in np.linspace(0.1, 1.0, 12)])
        density = fine.density(coefficients.reshape(-1)[: len(fine.indices)], shells)
        return shells[density > np.quantile(density, 0.85)]

    def show(x: Tensor, condition: Tensor) -> Tensor:
        images = np.full((len(x), 1, 64, 64), -1.0, np.float32)
        for image, coefficients in zip(images, (x * maps.scale + maps.mean).numpy()[:, 0], strict=True):
            seen = surface(coefficients) @ frame.T
            columns, rows = (np.clip(32 + 28 * seen[:, k], 0, 63).astype(int) for k in (0, 1))
            np.maximum.at(image[0], (63 - rows, columns), np.clip(seen[:, 2], -1, 1).astype(np.float32))
        return torch.from_numpy(images)

    return show


def task_of(shapes: Shapes, maps: Maps, options: Options) -> Task:
    torch.manual_seed(0)
    corrupt = Corrupted(options.noise, options.hidden)
    x, condition = corrupt(maps.test)
    library = maps.coefficients(maps.train)

    def extra(draws: Tensor) -> dict[str, np.ndarray]:
        items = draws.shape[1]
        made, true = maps.coefficients(draws.mean(0)), maps.coefficients(x[:items])
        found = average_precision(made, library, shapes.test_labels[:items], shapes.train_labels)
        return {"error": np.linalg.norm(made - true, axis=1) / np.linalg.norm(true, axis=1), "map": found}

    return Task((maps.train,), corrupt, x, condition, show=pictures(maps, options), extra=extra)


def of_shapes(shapes: Shapes, maps: Maps, options: Options, task: Task, families: dict[str, Any]) -> dict[str, float]:
    """Accuracies of classifiers on coefficients and on the features of every encoder (`cgml_runs.classes_read`)."""
    raw = {"coefficients": [maps.coefficients(part) for part in (maps.train, maps.test)]}
    whole = [torch.cat([part, torch.ones_like(part)], dim=1) for part in (maps.train, maps.test)]
    return classes_read(raw, whole, (shapes.train_labels, shapes.test_labels), families, options, task)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        if options.folder is None:
            shapes = solids(options.count, seed=0, points=options.points)
        else:
            shapes = load_shapes(options.folder, points=options.points)
        mixed = np.random.default_rng(0).permutation(len(shapes.test))
        shapes = replace(shapes, test=shapes.test[mixed], test_labels=shapes.test_labels[mixed])
        maps = maps_of(shapes, options)
        task = task_of(shapes, maps, options)
        few = slice(options.pictures)
        about = {"basis": options.basis, "classes": list(shapes.classes), "paper": PAPER}
        as_they_are = {"corrupted": task.condition[None, :, :1], "true": task.x[None]}
        known = {name: task.extra(each) for name, each in as_they_are.items()}
        about["known"] = {name: {score: float(v.mean()) for score, v in found.items()} for name, found in known.items()}
        shown = {"corrupted": task.show(task.condition[few, :1], task.condition[few])}
        record = experiment(options, task, about, shown, keep=True)
        record["classified"] = of_shapes(shapes, maps, options, task, record.pop("families"))
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_shapes3d: {error}")
    for name, found in record["known"].items():
        print(f"{name}: " + ", ".join(f"{key} {value:.3f}" for key, value in found.items()))
    for name, share in record["classified"].items():
        print(f"classified by the features of {name}: {share:.3f}")
    add(options.output, classified=record["classified"])
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

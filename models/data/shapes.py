"""Solids as clouds of points: families of them with parameters, meshes and clouds from files, and what is made of a cloud.

    from cogen.models.data.shapes import load_shapes, solids
    shapes = solids(count=100, seed=0)               # of each of twelve classes
    shapes = load_shapes("ModelNet10")               # CLASS/train/*.off and CLASS/test/*.off, or CLASS/*.off

A cloud is (point, 3), drawn evenly from the surface, moved to its mean and scaled into the unit ball. Meshes are read by
trimesh (pip install 'cogen-ppl[shapes]').

Every error names the file, what is wrong with it, and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from cogen.models.data.spectral import directions

SUFFIXES = (".off", ".obj", ".ply", ".stl")
NEAREST = 4
"""Points whose radii a direction's is the mean of."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """Clouds of points with their classes.

    :param train: (item, point, 3); ``test`` the same.
    :param train_labels: (item,); ``test_labels`` the same.
    :param classes: their names.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]


def in_ball(points: np.ndarray, name: str = "the cloud") -> np.ndarray:
    """A cloud (point, 3) moved to its mean, and scaled so that its farthest point has the distance one.

    Raises ValueError for fewer than two different points, and for values that are not finite.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has shape {points.shape}: points are (point, 3)")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} holds values that are not finite; remove these points")
    centred = points - points.mean(axis=0) if len(points) else points
    farthest = np.linalg.norm(centred, axis=1).max(initial=0.0)
    if farthest <= 1e-12:
        raise ValueError(f"{name} has {len(points)} points at one place: a shape has two points or more that differ")
    return centred / farthest


def radial(points: np.ndarray, size: int) -> np.ndarray:
    """The distance of a cloud's surface from the origin in every direction of the grid of `spectral.grid`, (2 size, 2 size):
    the mean of the points that lie nearest to the direction. Of a shape that a ray leaves several times it is something in
    between.

    Raises ValueError for a cloud with fewer points than that takes.
    """
    from scipy.spatial import cKDTree

    points = np.asarray(points, dtype=np.float64)
    radius = np.linalg.norm(points, axis=1)
    away = radius > 1e-12
    if away.sum() < NEAREST:
        raise ValueError(f"the cloud has {away.sum()} points beside the origin: a surface takes {NEAREST} or more")
    tree = cKDTree(points[away] / radius[away, None])
    _, nearest = tree.query(directions(size).reshape(-1, 3), k=NEAREST)
    return radius[away][nearest].mean(axis=1).reshape(2 * size, 2 * size)


# --- families of solids --------------------------------------------------------------------------------------------


def solids(count: int, seed: int, *, points: int = 1024, test_share: float = 0.25) -> Shapes:
    """Solids of `FAMILIES`, so many of each, with random parameters, turned about the vertical axis; the last of each are the
    test set.

    Raises ValueError for fewer than two of each, and ImportError without trimesh.
    """
    if count < 2 or not 0 < test_share < 1 or points < 2:
        raise ValueError(
            f"count={count}, points={points}, test_share={test_share}: two or more of each, points likewise, a share in (0, 1)"
        )
    rng = np.random.default_rng(seed)
    clouds = np.stack([[_cloud(make, rng, points) for _ in range(count)] for make in FAMILIES.values()])
    kept = count - max(1, round(test_share * count))
    labels = np.repeat(np.arange(len(FAMILIES)), count).reshape(len(FAMILIES), count)
    train, test = slice(None, kept), slice(kept, None)
    return Shapes(
        clouds[:, train].reshape(-1, points, 3),
        clouds[:, test].reshape(-1, points, 3),
        labels[:, train].ravel(),
        labels[:, test].ravel(),
        tuple(FAMILIES),
    )


def _cloud(make: Callable[[Any, np.random.Generator], Any], rng: np.random.Generator, points: int) -> np.ndarray:
    creation = _trimesh("trimesh.creation")
    mesh = make(creation, rng)
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return in_ball(_sampled(mesh, points, rng) @ turn.T)


def _sampled(mesh: Any, points: int, rng: np.random.Generator) -> np.ndarray:
    sample = _trimesh("trimesh.sample").sample_surface
    return np.asarray(sample(mesh, points, seed=int(rng.integers(2**31)))[0])


def _joined(*meshes: Any) -> Any:
    return _trimesh("trimesh").util.concatenate(list(meshes))


def _moved(mesh: Any, *offset: float) -> Any:
    mesh.apply_translation(offset)
    return mesh


def _scaled(mesh: Any, rng: np.random.Generator, least: float = 0.6) -> Any:
    mesh.apply_scale(rng.uniform(least, 1.0, 3))
    return mesh


FAMILIES: dict[str, Callable[[Any, np.random.Generator], Any]] = {
    "ellipsoid": lambda make, rng: _scaled(make.icosphere(3), rng, 0.4),
    "box": lambda make, rng: make.box(rng.uniform(0.5, 1.5, 3)),
    "cylinder": lambda make, rng: make.cylinder(rng.uniform(0.3, 0.6), rng.uniform(1.0, 2.0)),
    "cone": lambda make, rng: make.cone(rng.uniform(0.4, 0.8), rng.uniform(1.0, 2.0)),
    "torus": lambda make, rng: make.torus(1.0, rng.uniform(0.15, 0.4)),
    "capsule": lambda make, rng: make.capsule(rng.uniform(1.0, 2.0), rng.uniform(0.3, 0.6)),
    "pyramid": lambda make, rng: make.cone(rng.uniform(0.6, 1.0), rng.uniform(0.8, 1.6), sections=4),
    "prism": lambda make, rng: make.cylinder(rng.uniform(0.5, 0.8), rng.uniform(0.8, 1.6), sections=3),
    "tube": lambda make, rng: make.annulus(rng.uniform(0.3, 0.45), rng.uniform(0.55, 0.7), rng.uniform(0.6, 1.6)),
    "cross": lambda make, rng: _joined(
        *(make.box(np.roll([rng.uniform(1.6, 2.0), *rng.uniform(0.2, 0.4, 2)], k)) for k in range(3))
    ),
    "table": lambda make, rng: _joined(
        _moved(make.box([*rng.uniform(1.4, 2.0, 2), 0.12]), 0, 0, 0.5),
        *(_moved(make.cylinder(rng.uniform(0.05, 0.1), 1.0), 0.5 * x, 0.5 * y, 0) for x in (-1, 1) for y in (-1, 1)),
    ),
    "dumbbell": lambda make, rng: _joined(
        make.cylinder(rng.uniform(0.08, 0.16), 1.4),
        *(_moved(make.icosphere(2, rng.uniform(0.3, 0.5)), 0, 0, end) for end in (-0.7, 0.7)),
    ),
}
"""Meshes of random parameters, by class."""


# --- files ---------------------------------------------------------------------------------------------------------


def load_cloud(path: str | Path, *, points: int = 1024, seed: int = 0) -> np.ndarray:
    """A cloud (points, 3) in the unit ball from a mesh (.off, .obj, .ply, .stl), or from an .npy array of points (point, 3).

    Raises FileNotFoundError where there is no file, ValueError for one that is broken or empty, and ImportError for a mesh
    without trimesh.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    rng = np.random.default_rng(seed)
    if path.suffix.lower() == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is no array of numbers ({error})") from None
        cloud = in_ball(found, str(path))
        return cloud[rng.choice(len(cloud), points, replace=len(cloud) < points)]
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: meshes are {', '.join(SUFFIXES)}, clouds .npy")
    trimesh = _trimesh("trimesh")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
        faces, area = len(mesh.faces), float(mesh.area)
    except Exception as error:  # a parser raises what it likes
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a mesh ({reason}); export it again") from None
    if not faces or not area > 0 or not np.isfinite(area):
        raise ValueError(f"{path} holds {faces} faces of area {area:g}: a mesh has a surface; export it again")
    return in_ball(_sampled(mesh, points, rng), str(path))


def load_shapes(folder: str | Path, *, points: int = 1024, test_share: float = 0.25, seed: int = 0) -> Shapes:
    """Meshes by class: a subfolder a class, with its files in ``train`` and ``test`` (the layout of ModelNet) or as they are,
    when a share of each class becomes the test set.

    Raises FileNotFoundError where there is no such folder, and ValueError for one without meshes and for files that are broken.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    found: dict[str, list[list[Path]]] = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = [_meshes(place / part) for part in ("train", "test")]
        if not any(split):
            every = _meshes(place)
            kept = len(every) - max(1, round(test_share * len(every)))
            split = [every[:kept], every[kept:]]
        if split[0]:
            found[place.name] = split
    if len(found) < 2 or not all(test for _, test in found.values()):
        raise ValueError(
            f"{folder} holds {len(found)} classes with meshes to train on and to test by: a subfolder a class, two classes or"
            f" more, each with {', '.join(SUFFIXES)} files, in train and test or as they are"
        )
    arrays = []
    for part in (0, 1):
        files = [(path, label) for label, split in enumerate(found.values()) for path in split[part]]
        clouds = [load_cloud(path, points=points, seed=seed + k) for k, (path, _) in enumerate(files)]
        arrays.append((np.stack(clouds), np.array([label for _, label in files])))
    (train, train_labels), (test, test_labels) = arrays
    return Shapes(train, test, train_labels, test_labels, tuple(found))


def _meshes(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in (*SUFFIXES, ".npy"))


def _trimesh(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(
            "meshes are read and made by trimesh, which is not installed: pip install 'cogen-ppl[shapes]'"
        ) from None

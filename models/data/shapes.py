"""Point clouds of solids: from parametric families, from files of meshes and clouds, and as radial functions.

    from cogen.models.data.shapes import load_shapes, solids
    shapes = solids(count=100, seed=0)               # 100 of each of twelve classes
    shapes = load_shapes("ModelNet10")               # CLASS/train/*.off and CLASS/test/*.off, or CLASS/*.off

A cloud is (point, 3), sampled uniformly from the surface, centred at its mean and scaled into the unit ball. Meshes are read by
trimesh (pip install 'cogen-ppl[shapes]').

Every error names the file, the problem and the remedy.
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
"""Number of points whose radii are averaged for a direction."""


@dataclass(frozen=True, eq=False)
class Shapes:
    """Point clouds with their classes.

    :param train: (item, point, 3); ``test`` the same.
    :param train_labels: (item,); ``test_labels`` the same.
    :param classes: names of the classes.
    """

    train: np.ndarray
    test: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray
    classes: tuple[str, ...]


def in_ball(points: np.ndarray, name: str = "the cloud") -> np.ndarray:
    """Centre a cloud (point, 3) at its mean, and scale it so that its farthest point has distance one.

    :param name: the cloud, for messages.
    :raises ValueError: for another shape, fewer than two distinct points, and non-finite values.
    """
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name} has shape {points.shape}, expected (point, 3)")
    if not np.isfinite(points).all():
        raise ValueError(f"{name} contains non-finite values: remove these points")
    centred = points - points.mean(axis=0) if len(points) else points
    farthest = np.linalg.norm(centred, axis=1).max(initial=0.0)
    if farthest <= 1e-12:
        raise ValueError(f"{name} has {len(points)} points at one position: at least two distinct points are required")
    return centred / farthest


def radial(points: np.ndarray, size: int) -> np.ndarray:
    """The distance of a cloud's surface from the origin in every direction of `spectral.grid`, (2 size, 2 size).

    It is the mean radius of the `NEAREST` points closest to the direction, also where a ray crosses the surface several times.

    :raises ValueError: for a cloud with too few points.
    """
    from scipy.spatial import cKDTree

    points = np.asarray(points, dtype=np.float64)
    radius = np.linalg.norm(points, axis=1)
    away = radius > 1e-12
    if away.sum() < NEAREST:
        raise ValueError(f"the cloud has {away.sum()} points away from the origin: at least {NEAREST} are required")
    tree = cKDTree(points[away] / radius[away, None])
    _, nearest = tree.query(directions(size).reshape(-1, 3), k=NEAREST)
    return radius[away][nearest].mean(axis=1).reshape(2 * size, 2 * size)


# --- families of solids --------------------------------------------------------------------------------------------


def solids(count: int, seed: int, *, points: int = 1024, test_share: float = 0.25) -> Shapes:
    """Solids of `FAMILIES` with random parameters and random rotations about the vertical axis.

    :param count: solids of each class, at least 2; the last ones of each class are the test set.
    :param points: points of each cloud, at least 2.
    :param test_share: fraction of the test set, in (0, 1).
    :raises ValueError: for other values of these.
    :raises ImportError: without trimesh.
    """
    if count < 2 or not 0 < test_share < 1 or points < 2:
        raise ValueError(
            f"count={count}, points={points}, test_share={test_share}: count and points must be at least 2, test_share within"
            " (0, 1)"
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
"""Functions that make a mesh with random parameters, by class."""


# --- files ---------------------------------------------------------------------------------------------------------


def load_cloud(path: str | Path, *, points: int = 1024, seed: int = 0) -> np.ndarray:
    """A cloud (points, 3) in the unit ball from a mesh (.off, .obj, .ply, .stl), or from an .npy array of points (point, 3).

    :raises FileNotFoundError: if there is no file.
    :raises ValueError: for a file that is invalid or empty.
    :raises ImportError: for a mesh without trimesh.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}")
    rng = np.random.default_rng(seed)
    if path.suffix.lower() == ".npy":
        try:
            found = np.load(path, allow_pickle=False)
        except ValueError as error:
            raise ValueError(f"{path} is not an array of numbers ({error})") from None
        cloud = in_ball(found, str(path))
        return cloud[rng.choice(len(cloud), points, replace=len(cloud) < points)]
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: unknown kind of file; meshes are {', '.join(SUFFIXES)}, clouds .npy")
    trimesh = _trimesh("trimesh")
    try:
        mesh = trimesh.load(path, force="mesh", process=False)
        faces, area = len(mesh.faces), float(mesh.area)
    except Exception as error:  # a parser can raise any error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} cannot be read as a mesh ({reason}): export it again") from None
    if not faces or not area > 0 or not np.isfinite(area):
        raise ValueError(f"{path} has {faces} faces of total area {area:g}, but a mesh needs a surface: export it again")
    return in_ball(_sampled(mesh, points, rng), str(path))


def load_shapes(folder: str | Path, *, points: int = 1024, test_share: float = 0.25, seed: int = 0) -> Shapes:
    """Load meshes with one subfolder per class, either with subfolders ``train`` and ``test`` (the layout of ModelNet) or not.

    :param points: points of each cloud.
    :param test_share: fraction of each class that becomes the test set, without ``train`` and ``test``.
    :raises FileNotFoundError: if there is no such folder.
    :raises ValueError: for fewer than two classes with training and test meshes, and for invalid files.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder at {folder}")
    found: dict[str, list[list[Path]]] = {}
    for subfolder in sorted(path for path in folder.iterdir() if path.is_dir()):
        split = [_meshes(subfolder / part) for part in ("train", "test")]
        if not any(split):
            every = _meshes(subfolder)
            kept = len(every) - max(1, round(test_share * len(every)))
            split = [every[:kept], every[kept:]]
        if split[0]:
            found[subfolder.name] = split
    if len(found) < 2 or not all(test for _, test in found.values()):
        raise ValueError(
            f"{folder} has {len(found)} classes with training and test meshes: give at least two classes, one subfolder each"
            f" with {', '.join(SUFFIXES)} files, directly or in train and test"
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
        raise ImportError("meshes require trimesh, which is not installed: pip install 'cogen-ppl[shapes]'") from None

"""Checkpoints: the state of a run is written to a folder, from which the same call resumes after an interruption.

Each block of items is one file, replaced atomically, so that the folder always holds a complete earlier state. The folder also
holds the identity of the run (kernel, model and data, counts, seed, versions); the folder of another run is refused with an
error that states the difference. A resumed run repeats the same compiled transitions on the same numbers: on the same machine
its results are bitwise those of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote, unquote

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from cogen.inference.signatures import JSON
from cogen.inference.whole_files import write_whole

_IDENTITY = "run.json"

Arrays: TypeAlias = "Mapping[str, np.ndarray | Arrays]"
"""A nested mapping of arrays."""


class Checkpoint:
    """A folder with the state of one run.

    :param folder: created if it does not exist.
    :param every: seconds between writes of the current block; 0 writes after every chunk of transitions.
    :raises ValueError: for a folder with other files or of another run.
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: float = 30.0) -> None:
        if not every >= 0:
            raise ValueError(f"every={every}: the seconds between checkpoints must not be negative")
        self.folder, self.every = Path(folder), every
        self._written = time.monotonic()

    def part(self, name: str) -> Checkpoint:
        """A separate checkpoint inside this folder (for a pilot)."""
        return Checkpoint(self.folder / name, every=self.every)

    def open(self, identity: Mapping[str, JSON]) -> None:
        """Create the checkpoint, or resume it if the folder belongs to this run."""
        identity = json.loads(json.dumps(identity))
        path = self.folder / _IDENTITY
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"checkpoint {self.folder} is a file: give a folder")
        if not path.exists():
            others = [p.name for p in self.folder.iterdir() if not p.name.startswith(".")] if self.folder.exists() else []
            others = [name for name in others if name != "pilot"]
            if others:
                raise ValueError(
                    f"checkpoint {self.folder}: the folder holds {others[0]!r} but no {_IDENTITY}; give an empty one"
                )
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(identity, indent=1).encode())
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("not a JSON object")
        except ValueError as error:
            raise ValueError(f"checkpoint {self.folder}: {_IDENTITY} cannot be read ({error}); remove the folder") from None
        for name in {**identity, **found}:
            there, here = found.get(name), identity.get(name)
            if there != here:
                raise ValueError(
                    f"checkpoint {self.folder} is of another run: {name} was {there!r} there and is {here!r} here;"
                    " give another folder, or remove this one"
                )

    def due(self) -> bool:
        """Whether the next write is due."""
        return time.monotonic() - self._written >= self.every

    def has(self, block: int) -> bool:
        """Whether a state of a block was saved."""
        return self._path(block).exists()

    def save(self, block: int, tree: Arrays) -> None:
        """Write a nested mapping of arrays."""
        stream = io.BytesIO()
        np.savez(stream, **flat(tree))  # type: ignore[arg-type]
        write_whole(self._path(block), stream.getvalue())
        self._written = time.monotonic()

    def load(self, block: int) -> Arrays | None:
        """The saved state of a block, or None.

        :raises ValueError: for a damaged file.
        """
        path = self._path(block)
        if not path.exists():
            return None
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                return nested({name: stored[name] for name in stored.files})
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise ValueError(
                f"checkpoint {self.folder}: {path.name} is damaged ({error}); remove this file to repeat its items"
            ) from None

    def _path(self, block: int) -> Path:
        return self.folder / f"block_{block:05d}.npz"


def flat(tree: Mapping[str, Any], lead: str = "") -> dict[str, np.ndarray]:
    """Flatten a nested mapping of arrays; the keys are paths of quoted names."""
    found: dict[str, np.ndarray] = {}
    for name, value in tree.items():
        path = lead + quote(name, safe="")
        found |= flat(value, f"{path}/") if isinstance(value, Mapping) else {path: np.asarray(value)}
    return found


def nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The inverse of `flat`, without empty mappings."""
    tree: dict[str, Any] = {}
    for path, value in arrays.items():
        *folders, name = map(unquote, path.split("/"))
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[name] = value
    return tree


def tree_to_arrays(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a pytree of arrays by number; random keys are stored as their data."""
    leaves = jax.tree.leaves(tree)
    return {str(k): np.asarray(jax.random.key_data(a) if _is_key(a) else a) for k, a in enumerate(leaves)}


def tree_from_arrays(template: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `tree_to_arrays`, for a pytree with the structure of ``template``."""
    leaves, structure = jax.tree.flatten(template)
    found = [jnp.asarray(arrays[str(k)]) for k in range(len(leaves))]
    restored = [jax.random.wrap_key_data(v) if _is_key(t) else v for t, v in zip(leaves, found, strict=True)]
    return jax.tree.unflatten(structure, restored)


def fingerprint(jaxpr: ClosedJaxpr, data: Any) -> dict[str, str]:
    """Hashes of a transition's program, including its constants (a generator's weights), and of its data."""
    program, observed = hashlib.sha256(), hashlib.sha256()
    program.update(re.sub(r" at 0x[0-9a-f]+", "", str(jaxpr.jaxpr)).encode())
    _add_constants(jaxpr, program)
    for leaf in jax.tree.leaves(data):
        observed.update(np.asarray(leaf).tobytes())
    return {"data": observed.hexdigest()[:16], "model and kernel": program.hexdigest()[:16]}


def digest(array: np.ndarray) -> str:
    """The hash of an array's values."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _add_constants(jaxpr: Any, digest: Any) -> None:
    if isinstance(jaxpr, ClosedJaxpr):
        for constant in jaxpr.consts:
            digest.update(np.asarray(jax.random.key_data(constant) if _is_key(constant) else constant).tobytes())
        jaxpr = jaxpr.jaxpr
    for equation in jaxpr.eqns:
        for variable in equation.invars:
            if isinstance(variable, Literal) and not _is_key(variable.val):
                digest.update(np.asarray(variable.val).tobytes())
        for parameter in equation.params.values():
            for inner in parameter if isinstance(parameter, tuple | list) else (parameter,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    _add_constants(inner, digest)


def _is_key(value: Any) -> bool:
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)

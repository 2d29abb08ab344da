"""Merging of shards into one result, read lazily from the files."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cogen.inference.results import as_arviz

_SUMS = ("gradient_evaluations", "seconds", "compile_seconds")
"""Attributes that are summed over shards."""


def merged(paths: Sequence[Path], *, in_memory: bool = False) -> Any:
    """Merge shards, in their order, into an ArviZ object of dask arrays, which read a shard when they are computed.

    Without dask, or with ``in_memory``, everything is read at once.

    :raises ValueError: for a file that cannot be read.
    """
    lazy = not in_memory and importlib.util.find_spec("dask") is not None
    if not lazy and not in_memory:
        warnings.warn(
            "dask is not installed: all results are read into memory; to read them lazily, pip install 'cogen-ppl[ray]'",
            stacklevel=2,
        )
    shards = [_groups(path, lazy) for path in paths]
    groups = {name: _side_by_side([each[name] for each in shards]) for name in shards[0]}
    attributes = [each["posterior"].attrs for each in shards]
    groups["posterior"].attrs.update({name: sum(each[name] for each in attributes) for name in _SUMS})
    return as_arviz(groups)


def _groups(path: Path, lazy: bool) -> dict[str, Any]:
    import h5netcdf
    import xarray

    try:
        with h5netcdf.File(path) as file:
            names = list(file.groups)
        opened = {name: xarray.open_dataset(path, group=name, engine="h5netcdf", chunks={} if lazy else None) for name in names}
        return opened if lazy else {name: dataset.load() for name, dataset in opened.items()}
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is damaged ({error}); remove this file to repeat its items") from None


def _side_by_side(parts: list[Any]) -> Any:
    """Concatenate the datasets of a group over items; without an item dimension, use the first."""
    import xarray

    if "item" not in parts[0].dims:
        return parts[0]
    parts = _of_one_length(parts)
    of_the_first: Any = dict.fromkeys(("compat", "join", "combine_attrs"), "override")
    whole = xarray.concat(parts, "item", data_vars="minimal", coords="minimal", **of_the_first)
    return whole.assign_coords(item=np.arange(whole.sizes["item"]))


def _of_one_length(parts: list[Any]) -> list[Any]:
    """Bring warm-up paths to the points of the longest; a path that ended earlier repeats its last point."""
    if "transition" in parts[0]:
        numbers = [part["transition"].values for part in parts]
        common = max(numbers, key=lambda n: n[-1])
        indices = [np.maximum(np.searchsorted(n, common, side="right") - 1, 0) for n in numbers]
        moved = [_at(part, "draw", index) for part, index in zip(parts, indices, strict=True)]
        parts = [part.assign(transition=("draw", common)) for part in moved]
    if "warmup_transition" in parts[0].dims:
        longest = np.arange(max(part.sizes["warmup_transition"] for part in parts))
        parts = [_at(p, "warmup_transition", np.minimum(longest, p.sizes["warmup_transition"] - 1)) for p in parts]
    return parts


def _at(part: Any, dim: str, indices: np.ndarray) -> Any:
    if np.array_equal(indices, np.arange(part.sizes[dim])):
        return part
    return part.isel({dim: indices}).assign_coords({dim: np.arange(len(indices))})

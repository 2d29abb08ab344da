"""Reading the ArviZ object that `infer` returns: InferenceData of ArviZ 0.x and DataTree of 1.x through one door.

Every room of this wing asks here for a group as a plain xarray Dataset, so that none has to know which ArviZ made it.
A run of a `CoGenerator` has an `item` dimension (one independent posterior per item); a general Pyro or NumPyro model
has none. Everything here takes both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

DRAWS = ("chain", "draw")


def has_group(posterior: Any, name: str) -> bool:
    """Whether the object has a group `name`."""
    return name in posterior


def group(posterior: Any, name: str) -> xr.Dataset:
    """The group as an xarray Dataset. Raises ValueError when it is not there."""
    if not has_group(posterior, name):
        raise ValueError(f"the object has no group '{name}'; it has {_names(posterior)}. Was it made by cogen's infer?")
    node = posterior[name]
    return node.to_dataset() if isinstance(node, xr.DataTree) else node


def _names(posterior: Any) -> list[str]:
    groups = getattr(posterior, "groups", None)
    if isinstance(posterior, xr.DataTree) or groups is None:
        return [str(name) for name in posterior]
    return list(groups())


def all_groups(posterior: Any) -> dict[str, xr.Dataset]:
    """Every group, by name."""
    return {name: group(posterior, name) for name in _names(posterior)}


def statistic(posterior: Any, name: str) -> xr.DataArray | None:
    """A variable of `sample_stats` with dims (chain, draw[, item]), or None when the run has not recorded it."""
    if not has_group(posterior, "sample_stats"):
        return None
    stats = group(posterior, "sample_stats")
    if name not in stats:
        return None
    return stats[name].transpose(*DRAWS, ...)


def attributes(posterior: Any) -> Mapping[str, Any]:
    """The run's attributes (kernel, num_populations, ...)."""
    return group(posterior, "posterior").attrs


def parameters(posterior: Any, var_names: Sequence[str] | None = None) -> xr.Dataset:
    """What was sampled, dims (chain, draw[, item], ...): these variables, or all but the pixels `x` made from z.

    Raises ValueError for a name that the posterior does not have.
    """
    draws = group(posterior, "posterior")
    if var_names is not None:
        unknown = [name for name in var_names if name not in draws]
        if unknown:
            raise ValueError(f"the posterior has no variable '{unknown[0]}'; it has {list(draws.data_vars)}")
        draws = draws[list(var_names)]
    elif "z" in draws and "x" in draws:
        draws = draws.drop_vars("x")
    numeric = [name for name in draws.data_vars if np.issubdtype(draws[name].dtype, np.number)]
    return draws[numeric].transpose(*DRAWS, ...)


def item_labels(posterior: Any) -> list[Any]:
    """The names of the items; `["all"]` for a general model, which is one item."""
    draws = group(posterior, "posterior")
    if "item" not in draws.dims:
        return ["all"]
    return list(draws["item"].values) if "item" in draws.coords else list(range(draws.sizes["item"]))


def num_populations(posterior: Any) -> int:
    """Chains of an item that never exchange particles form a population; 1 when the run says nothing."""
    return int(attributes(posterior).get("num_populations", 1))


def independent_groups(posterior: Any) -> xr.DataArray:
    """Labels of draws, dims (chain, draw[, item]): two draws are independent where their labels differ.

    The population that a draw descends from, where the run has populations: their chains share ancestors after a resampling.
    Otherwise the chain.
    """
    population = statistic(posterior, "population")
    if population is not None:
        return population.rename("group")
    draws = group(posterior, "posterior")
    dims = [dim for dim in (*DRAWS, "item") if dim in draws.dims]
    shape = [draws.sizes[dim] for dim in dims]
    labels = np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)
    return xr.DataArray(labels, {dim: draws[dim] for dim in dims if dim in draws.coords}, dims, name="group")


def assemble(like: Any, groups: Mapping[str, xr.Dataset]) -> Any:
    """An object of the same kind as `like` (InferenceData or DataTree) from Datasets."""
    if isinstance(like, xr.DataTree):
        return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})
    return type(like)(**groups)

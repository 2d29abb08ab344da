"""Access to the ArviZ object that `infer` returns: InferenceData of ArviZ 0.x or DataTree of 1.x.

The other modules of this package read groups as plain xarray Datasets through this one, independently of the ArviZ version. A
run of a `CoGenerator` has an `item` dimension (one independent posterior per item); that of a general Pyro or NumPyro model has
none. All functions accept both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from cogen.inference.results import dataset
from cogen.inference.signatures import ArvizObject

DRAWS = ("chain", "draw")


def has_group(posterior: ArvizObject, name: str) -> bool:
    """Whether the object has a group `name`."""
    return name in posterior


def group(posterior: ArvizObject, name: str) -> xr.Dataset:
    """The group as an xarray Dataset.

    :raises ValueError: if the group does not exist.
    """
    if not has_group(posterior, name):
        raise ValueError(f"the object has no group '{name}'; it has {_names(posterior)}. Was it made by cogen's infer?")
    return dataset(posterior, name)


def _names(posterior: ArvizObject) -> list[str]:
    groups = getattr(posterior, "groups", None)
    if isinstance(posterior, xr.DataTree) or groups is None:
        return [str(name) for name in posterior]
    return list(groups())


def all_groups(posterior: ArvizObject) -> dict[str, xr.Dataset]:
    """Every group, by name."""
    return {name: group(posterior, name) for name in _names(posterior)}


def statistic(posterior: ArvizObject, name: str) -> xr.DataArray | None:
    """A variable of `sample_stats` with dims (chain, draw[, item]), or None if the run has not recorded it."""
    if not has_group(posterior, "sample_stats"):
        return None
    stats = group(posterior, "sample_stats")
    if name not in stats:
        return None
    return stats[name].transpose(*DRAWS, ...)


def attributes(posterior: ArvizObject) -> Mapping[str, Any]:
    """The run's attributes (kernel, num_populations, ...)."""
    return group(posterior, "posterior").attrs


def parameters(posterior: ArvizObject, var_names: Sequence[str] | None = None) -> xr.Dataset:
    """The sampled variables, dims (chain, draw[, item], ...).

    :param var_names: variables of the posterior; all but the pixels `x` made from z when None.
    :raises ValueError: for a variable that the posterior does not have.
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


def item_labels(posterior: ArvizObject) -> list[Hashable]:
    """The labels of the items: their names, if the run has some (`cogen complete`), or their coordinates; `["all"]` for a
    general model, which counts as one item."""
    draws = group(posterior, "posterior")
    if "item" not in draws.dims:
        return ["all"]
    names = [str(name) for name in np.atleast_1d(draws.attrs.get("item_names", []))]
    if len(names) == draws.sizes["item"] and names != ["all"]:
        return list(names)
    return list(draws["item"].values) if "item" in draws.coords else list(range(draws.sizes["item"]))


def num_populations(posterior: ArvizObject) -> int:
    """Number of populations (groups of chains that resample among themselves) per item; 1 if the run has not recorded it."""
    return int(attributes(posterior).get("num_populations", 1))


def is_tuned(posterior: ArvizObject) -> bool:
    """Whether `cogen tune` chose the step sizes and the length of the annealing. Each chain is then annealed independently and
    stays in the mode where its annealing ended, so R-hat and the effective sample size do not apply."""
    return bool(int(attributes(posterior).get("tuned", 0)))


def independent_groups(posterior: ArvizObject) -> xr.DataArray:
    """Labels of draws, dims (chain, draw[, item]): two draws are independent if their labels differ.

    The label is the population from which a draw descends, if the run has populations, since their chains share ancestors
    after resampling; otherwise the chain.
    """
    population = statistic(posterior, "population")
    if population is not None:
        return population.rename("group")
    draws = group(posterior, "posterior")
    dims = [dim for dim in (*DRAWS, "item") if dim in draws.dims]
    shape = [draws.sizes[dim] for dim in dims]
    labels = np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)
    return xr.DataArray(labels, {dim: draws[dim] for dim in dims if dim in draws.coords}, dims, name="group")


def assemble(like: ArvizObject, groups: Mapping[str, xr.Dataset]) -> ArvizObject:
    """An object of the same kind as `like` (InferenceData or DataTree) from Datasets."""
    if isinstance(like, xr.DataTree):
        return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})
    made: Callable[..., ArvizObject] = type(like)
    return made(**groups)

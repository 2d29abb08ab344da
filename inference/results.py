"""Results: conversion of a nested dictionary to an ArviZ object, for every kernel.

Groups are xarray Datasets, so that nothing is dropped and every dimension is named; the only difference between ArviZ 0.23
(InferenceData) and 1.x (xarray's DataTree) is the container.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    import xarray

Group = Mapping[str, tuple[tuple[str, ...], np.ndarray]]


def variable_name(site: str) -> str:
    """The name of a site in the results, without slashes (of a scope or a network's parameter), which netCDF reads as paths."""
    return site.replace("/", ".")


def check_names(dims: Mapping[str, Sequence[str]], lead: Sequence[str]) -> None:
    """Check that the sites can be stored in one result.

    :param dims: the names of each site's dimensions after the leading ones.
    :raises ValueError: for names that conflict.
    """
    taken = dict.fromkeys(lead, "every result")
    names: dict[str, str] = {}
    for site, own in dims.items():
        name = variable_name(site)
        if name in names:
            raise ValueError(f"sites {names[name]!r} and {site!r} would both be called {name!r} in the results: rename one")
        names[name] = site
        taken.update(dict.fromkeys(own, f"site {site!r}"))
    for name, site in names.items():
        if name in taken:
            raise ValueError(f"site {site!r} has the name of a dimension of {taken[name]}, which ArviZ cannot hold: rename it")


def to_arviz(groups: Mapping[str, Group], attributes: Mapping[str, object], *, first_draw: int = 0) -> ArvizObject:
    """An ArviZ object of groups, each a mapping from variable to (dims, values).

    :param attributes: stored with the posterior.
    :param first_draw: the number of the first draw.
    """
    import xarray

    datasets = {}
    for name, group in groups.items():
        if not group:
            continue
        sizes = {dim: size for dims, values in group.values() for dim, size in zip(dims, np.shape(values), strict=True)}
        datasets[name] = xarray.Dataset(
            {variable_name(site): (dims, np.asarray(values)) for site, (dims, values) in group.items()},
            coords={dim: np.arange(size) + _first(name, dim, first_draw) for dim, size in sizes.items()},
        )
    datasets["posterior"].attrs.update(attributes)
    return as_arviz(datasets)


def as_arviz(datasets: Mapping[str, xarray.Dataset]) -> ArvizObject:
    """An ArviZ object of xarray Datasets by group."""
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # importing ArviZ 0.x announces 1.0
        import arviz
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**datasets)  # type: ignore[arg-type]
    return xarray.DataTree.from_dict(dict(datasets))


def dataset(posterior: ArvizObject, name: str) -> xarray.Dataset:
    """The group of this name, of either generation of ArviZ, as a Dataset.

    :raises KeyError: if there is no such group.
    :raises ValueError: if the name is that of a variable.
    """
    import xarray

    found = posterior[name]
    if isinstance(found, xarray.DataArray):
        raise ValueError(f"{name!r} is a variable of the object, not a group")
    return found.to_dataset() if isinstance(found, xarray.DataTree) else found


def _first(group: str, dim: str, first_draw: int) -> int:
    return first_draw if dim == "draw" and not group.startswith("warmup_") else 0


def warn_of_nonfinite(counts: np.ndarray, items: bool, *, first_item: int, stacklevel: int) -> None:
    """Warn of items with non-finite gradients.

    :param counts: rejected trajectories, (item,); the first is item ``first_item``.
    """
    suffered = np.flatnonzero(counts)
    if suffered.size:
        shown = ", ".join(f"{first_item + k} ({counts[k]})" for k in suffered[:8]) + (", ..." if suffered.size > 8 else "")
        where = f"item{'s' if suffered.size > 1 else ''} {shown}" if items else "the run"
        warnings.warn(
            f"{int(counts.sum())} trajectories had a non-finite gradient or log density and were rejected: {where}",
            stacklevel=stacklevel,
        )

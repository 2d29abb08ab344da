"""Results: one nested dictionary becomes one ArviZ object, whatever ran.

Groups are made of xarray Datasets, so that nothing is dropped and every dimension has its name; the only difference between
ArviZ 0.23 (InferenceData) and 1.x (xarray's DataTree) is the container.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Group = Mapping[str, tuple[tuple[str, ...], np.ndarray]]


def variable_name(site: str) -> str:
    """What a site is called in the results: a slash (of a scope or a network's parameter) would be a path in a file."""
    return site.replace("/", ".")


def check_names(dims: Mapping[str, Sequence[str]], lead: Sequence[str]) -> None:
    """Raises ValueError for sites, with the names of their dimensions after the leading ones, that one result cannot hold."""
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


def to_arviz(groups: Mapping[str, Group], attributes: Mapping[str, Any], *, first_draw: int = 0) -> Any:
    """An ArviZ object of groups, each a mapping from variable to (dims, values); attributes go to the posterior. Draws are
    numbered from ``first_draw`` on."""
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


def as_arviz(datasets: Mapping[str, Any]) -> Any:
    """An ArviZ object of xarray Datasets, by group."""
    import xarray

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces 1.0 when it is imported
        import arviz
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**datasets)  # type: ignore[arg-type]
    return xarray.DataTree.from_dict(dict(datasets))


def _first(group: str, dim: str, first_draw: int) -> int:
    return first_draw if dim == "draw" and group != "warmup_sample_stats" else 0


def warn_of_nonfinite(counts: np.ndarray, items: bool, *, first_item: int, stacklevel: int) -> None:
    """Warn of the items (item,) that met non-finite gradients, and how often; the first is the item ``first_item``."""
    suffered = np.flatnonzero(counts)
    if suffered.size:
        shown = ", ".join(f"{first_item + k} ({counts[k]})" for k in suffered[:8]) + (", ..." if suffered.size > 8 else "")
        where = f"item{'s' if suffered.size > 1 else ''} {shown}" if items else "the run"
        warnings.warn(
            f"{int(counts.sum())} trajectories met a non-finite gradient or density and were rejected: {where}",
            stacklevel=stacklevel,
        )

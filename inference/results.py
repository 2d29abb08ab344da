"""Results: one nested dictionary becomes one ArviZ object, whatever ran.

Groups are made of xarray Datasets, so that nothing is dropped and every dimension has its name; the only difference between
ArviZ 0.23 (InferenceData) and 1.x (xarray's DataTree) is the container.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

Group = Mapping[str, tuple[tuple[str, ...], np.ndarray]]


def to_arviz(groups: Mapping[str, Group], attributes: Mapping[str, Any]) -> Any:
    """An ArviZ object of groups, each a mapping from variable to (dims, values); attributes go to the posterior."""
    import xarray

    datasets = {}
    for name, group in groups.items():
        if not group:
            continue
        sizes = {dim: size for dims, values in group.values() for dim, size in zip(dims, np.shape(values), strict=True)}
        datasets[name] = xarray.Dataset(
            {variable: (dims, np.asarray(values)) for variable, (dims, values) in group.items()},
            coords={dim: np.arange(size) for dim, size in sizes.items()},
        )
    datasets["posterior"].attrs.update(attributes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ 0.x announces 1.0 when it is imported
        import arviz
    if arviz.__version__.startswith("0."):
        return arviz.InferenceData(**datasets)  # type: ignore[arg-type]
    return xarray.DataTree.from_dict(datasets)


def warn_of_nonfinite(counts: np.ndarray, items: bool, *, stacklevel: int) -> None:
    """Say which items (item,) met gradients that are no numbers, and how often."""
    suffered = np.flatnonzero(counts)
    if suffered.size:
        shown = ", ".join(f"{k} ({counts[k]})" for k in suffered[:8]) + (", ..." if suffered.size > 8 else "")
        where = f"item{'s' if suffered.size > 1 else ''} {shown}" if items else "the run"
        warnings.warn(
            f"{int(counts.sum())} trajectories met a gradient or a density that is no number, and were rejected: {where}",
            stacklevel=stacklevel,
        )

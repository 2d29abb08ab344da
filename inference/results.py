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

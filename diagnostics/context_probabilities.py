"""The probabilities of an unknown class, from the evidence of every class.

With the estimates Z_pc of P populations, Z_c = mean_p Z_pc and the prior p(c),

    p(c | y) = p(c) Z_c / sum_c' p(c') Z_c'.

The standard error is the jackknife's over populations: with theta_p the same without population p,

    se^2 = (P - 1) / P sum_p (theta_p - mean_p theta_p)^2.

It says how far the run may lie from the model's own probabilities, not whether these are calibrated; and where the evidence of
single populations spreads by more than a nat or so (`log_evidence`), it is too small itself.

Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 11.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cogen.diagnostics.evidence import population_estimates
from cogen.diagnostics.groups import group, statistic

_PRIOR = "_log_prior"


def context_probabilities(posterior: Any) -> xr.Dataset:
    """p(class | y) of every item of a run with unknown classes (``Classes(..., unknown="exact")``).

    :param posterior: what `infer` returned.
    :returns: for every unknown context its probabilities (item, class) under its name, and their standard error under
        ``<name>_se`` (NaN for a single population). Of several unknown contexts each has its marginal probabilities, and the
        dimension is ``<name>_class``. Items without an answer (no class explains them) are NaN.

    Raises ValueError for a run that inferred no class this way.
    """
    if statistic(posterior, "context_log_evidence") is None:
        raise ValueError(
            "this run has inferred no class by its evidence: declare it so, as in contexts={'label': Classes(10,"
            " unknown='exact')}, and do not give it (the weights of a relaxed class are no probabilities)"
        )
    log_evidence = population_estimates(posterior, "context_log_evidence")
    known = group(posterior, "constant_data")
    names = [str(name) for name in group(posterior, "posterior").data_vars if f"{name}{_PRIOR}" in known]
    log_joint = (log_evidence + sum(known[name + _PRIOR] for name in names)).transpose("population", "item", ...)
    count = log_joint.sizes["population"]
    whole = _probabilities(log_joint)
    found: dict[str, xr.DataArray] = {}
    for name in names:
        dims = ("item", *known[name + _PRIOR].dims)
        others = [dim for dim in log_joint.dims if dim not in ("population", *dims)]
        probability = whole.sum(others, skipna=False)
        error = xr.full_like(probability, np.nan)
        if count > 1:
            rest = [log_joint.isel(population=np.arange(count) != p) for p in range(count)]
            each = xr.concat([_probabilities(part).sum(others, skipna=False) for part in rest], "population")
            error = each.std("population", skipna=False) * (count - 1) ** 0.5  # of the divisor count
        found |= {name: probability.transpose(*dims), f"{name}_se": error.transpose(*dims)}
    return xr.Dataset(found, attrs={"num_populations": count})


def _probabilities(log_joint: xr.DataArray) -> xr.DataArray:
    """p(c | y) over all classes together, from log p(c) Z_pc of some populations."""
    classes = [dim for dim in log_joint.dims if dim not in ("population", "item")]
    highest = log_joint.max(["population", *classes])
    share: xr.DataArray = np.exp(log_joint - highest.where(np.isfinite(highest)))  # type: ignore[assignment]
    mean = share.mean("population", skipna=False)
    return mean / mean.sum(classes, skipna=False)

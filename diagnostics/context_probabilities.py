"""Probabilities of an unknown class, from the evidence of every class.

With the estimates Z_pc of P populations, Z_c = mean_p Z_pc and the prior p(c),

    p(c | y) = p(c) Z_c / sum_c' p(c') Z_c'.

The standard error is the jackknife over populations: with theta_p the estimate without population p,

    se^2 = (P - 1) / P sum_p (theta_p - mean_p theta_p)^2.

It measures the Monte Carlo error, not whether the model's probabilities are calibrated. It is too small if the log evidences of
the populations spread by more than about a nat (`log_evidence`).

Reference: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 11.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from cogen.diagnostics.evidence import population_estimates
from cogen.diagnostics.groups import group, statistic
from cogen.inference.signatures import ArvizObject

_PRIOR = "_log_prior"


def context_probabilities(posterior: ArvizObject) -> xr.Dataset:
    """p(class | y) of every item of a run with unknown classes (``Classes(..., unknown="exact")``).

    :param posterior: what `infer` returned.
    :returns: for every unknown context its probabilities (item, class) under its name, and their standard error under
        ``<name>_se`` (NaN for a single population). If several contexts are unknown, each has its marginal probabilities with
        the dimension ``<name>_class``. NaN for items whose evidence is zero for all classes.
    :raises ValueError: for a run that inferred no class by its evidence.
    """
    if statistic(posterior, "context_log_evidence") is None:
        raise ValueError(
            "this run has inferred no class by its evidence: declare the context as unknown, as in contexts={'label':"
            " Classes(10, unknown='exact')}, and do not give its values (weights of a relaxed class are not probabilities)"
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
            error = each.std("population", skipna=False) * (count - 1) ** 0.5  # std divides by count
        found |= {name: probability.transpose(*dims), f"{name}_se": error.transpose(*dims)}
    return xr.Dataset(found, attrs={"num_populations": count})


def _probabilities(log_joint: xr.DataArray) -> xr.DataArray:
    """p(c | y), normalised over all classes, from log p(c) Z_pc of some populations."""
    classes = [dim for dim in log_joint.dims if dim not in ("population", "item")]
    highest = log_joint.max(["population", *classes])
    share: xr.DataArray = np.exp(log_joint - highest.where(np.isfinite(highest)))  # type: ignore[assignment]
    mean = share.mean("population", skipna=False)
    return mean / mean.sum(classes, skipna=False)

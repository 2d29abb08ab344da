"""The evidence log p(y) of every item, with a standard error that resampling does not fool.

The chains of an item form P populations that never exchange particles, so their estimates Z_p of the evidence are
independent and unbiased, whatever was resampled inside (those of parallel tempering and of a bridge are consistent). With
l_p = log Z_p and m = max_p l_p:

    estimate       = log mean_p exp(l_p)
    standard error = sd_p(exp(l_p - m)) / (sqrt(P) mean_p exp(l_p - m))            (delta method, sd with P - 1)
    spread         = sd_p(l_p)

The standard error cannot exceed one, however far the populations lie apart (one of them then has all the mass): read it
together with the spread, and believe it only where the spread is below one nat or so. exp of the estimate is
unbiased, so the estimate itself lies below log p(y) on average: it is a stochastic lower bound (but for parallel tempering,
and a bridged run, whose estimates err to either side).

References: Neal (2001), "Annealed importance sampling"; Del Moral, Doucet and Jasra (2006), "Sequential Monte Carlo
samplers".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import attributes, num_populations, statistic


def has_evidence(posterior: Any) -> bool:
    """Whether the run estimates log p(y): annealed and importance runs do, NUTS, HMC and descent do not."""
    return bool(attributes(posterior).get("evidence_kind", ""))


def population_estimates(posterior: Any, name: str = "population_log_evidence") -> xr.DataArray:
    """l_p, one log evidence per population: dims (population[, item]); "context_log_evidence" has the class as well."""
    attrs = attributes(posterior)
    recorded = statistic(posterior, name)
    if not has_evidence(posterior) or recorded is None:
        raise ValueError(
            f"a run of {attrs.get('kernel', 'this kernel')} has no evidence: its chains start at beta = 1. "
            "Use AnnealedHMC, ParallelTempering or ImportanceResampling to estimate log p(y)"
        )
    # Most kernels hold one value at every draw; parallel tempering's estimate grows with the draws, and the last is the answer.
    slots = recorded.isel(draw=-1, drop=True).transpose("chain", ...)
    count = num_populations(posterior)
    if count < 1 or slots.sizes["chain"] % count:
        raise ValueError(
            f"{slots.sizes['chain']} chains do not divide into num_populations = {count}: the object was cut along "
            "`chain`; read the evidence of the whole run"
        )
    # Slots p C / P ... (p + 1) C / P - 1 hold population p's estimate, so its first slot speaks for it.
    first = slots.isel(chain=slice(None, None, slots.sizes["chain"] // count))
    return first.drop_vars("chain", errors="ignore").rename(chain="population").astype(np.float64)


def log_evidence(posterior: Any) -> xr.Dataset:
    """Estimate and standard error of log p(y) per item, in nats.

    Returns a Dataset with the variables `estimate`, `standard_error` and `spread` (dims ([item]); the module says
    what they are; the last two are NaN for a single population) and the attributes `kind` ("annealed", "bridged",
    "importance" or "stepping-stone"), `num_populations` and `adapted` (1 when the step size or the inverse
    temperatures adapted along the annealing: the weights are then not exact and the estimate may be biased). An item whose
    populations all died has the estimate -inf. Raises ValueError for a run without evidence.
    """
    estimates = population_estimates(posterior)
    log_z = estimates.values
    count = log_z.shape[0]
    highest = log_z.max(axis=0)
    reference = np.where(np.isfinite(highest), highest, 0.0)
    share = np.exp(log_z - reference)
    mean = share.mean(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = reference + np.log(mean)
        if count > 1:
            error = share.std(axis=0, ddof=1) / (np.sqrt(count) * mean)
            # One dead population (-inf) means that the estimates disagree without bound.
            spread = np.where(np.isfinite(log_z).all(axis=0), log_z.std(axis=0, ddof=1), np.inf)
        else:
            error = spread = np.full_like(estimate, np.nan)
    template = estimates.isel(population=0, drop=True)
    attrs = attributes(posterior)
    return xr.Dataset(
        {
            "estimate": template.copy(data=estimate),
            "standard_error": template.copy(data=error),
            "spread": template.copy(data=spread),
        },
        attrs={
            "kind": attrs["evidence_kind"],
            "num_populations": count,
            "adapted": int(attrs.get("adapted", 0)),
        },
    )


def log_partition(posterior: Any) -> xr.Dataset:
    """log Z of an `EnergyModel`, item by item: as `log_evidence`, whose estimate is that of Z over the reference's volume,
    (2 pi s^2)^(d / 2), with d the entries that move.

    Raises ValueError for a run of another model, and where there is no evidence.
    """
    volume = attributes(posterior).get("log_reference_volume")
    if volume is None:
        raise ValueError("this is no run of an EnergyModel: of others log_evidence says all")
    found = log_evidence(posterior)
    return found.assign(estimate=found["estimate"] + volume)

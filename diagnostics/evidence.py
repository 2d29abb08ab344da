"""The evidence log p(y) of every item, with a standard error that is valid with resampling.

The chains of an item form P populations that never exchange particles, so their estimates Z_p of the evidence are independent
and unbiased, also with resampling inside the populations (those of parallel tempering and of a bridge are consistent). With
l_p = log Z_p and m = max_p l_p:

    estimate       = log mean_p exp(l_p)
    standard error = sd_p(exp(l_p - m)) / (sqrt(P) mean_p exp(l_p - m))            (delta method, sd with P - 1)
    spread         = sd_p(l_p)

The standard error cannot exceed one, however much the populations differ, so it is reliable only where the spread is below
about one nat. exp of the estimate is unbiased, so the estimate is below log p(y) on average: it is a stochastic lower bound
(except for parallel tempering and bridged runs, whose estimates may err in either direction).

References: Neal (2001), "Annealed importance sampling"; Del Moral, Doucet and Jasra (2006), "Sequential Monte Carlo
samplers".
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import attributes, num_populations, statistic
from cogen.inference.signatures import ArvizObject


def has_evidence(posterior: ArvizObject) -> bool:
    """Whether the run estimates log p(y): annealed and importance runs do, NUTS, HMC and descent do not."""
    return bool(attributes(posterior).get("evidence_kind", ""))


def population_estimates(posterior: ArvizObject, name: str = "population_log_evidence") -> xr.DataArray:
    """l_p, the log evidence of every population: dims (population[, item]), and the class for "context_log_evidence".

    :raises ValueError: for a run without evidence, and for one of which a part of the chains was selected.
    """
    attrs = attributes(posterior)
    recorded = statistic(posterior, name)
    if not has_evidence(posterior) or recorded is None:
        raise ValueError(
            f"a run of {attrs.get('kernel', 'this kernel')} has no evidence: to estimate log p(y), use "
            "AnnealedHMC, ParallelTempering or ImportanceResampling, with weights and without start="
        )
    # Most kernels store the same value at every draw; that of parallel tempering improves with the draws: the last one is used.
    slots = recorded.isel(draw=-1, drop=True).transpose("chain", ...)
    count = num_populations(posterior)
    if count < 1 or slots.sizes["chain"] % count:
        raise ValueError(
            f"{slots.sizes['chain']} chains do not divide into num_populations = {count}: chains of the run are missing. "
            "Compute the evidence from the whole run"
        )
    # Slots p C / P ... (p + 1) C / P - 1 all hold population p's estimate; the first is taken.
    first = slots.isel(chain=slice(None, None, slots.sizes["chain"] // count))
    return first.drop_vars("chain", errors="ignore").rename(chain="population").astype(np.float64)


def log_evidence(posterior: ArvizObject) -> xr.Dataset:
    """Estimate and standard error of log p(y) per item, in nats.

    :param posterior: what `infer` returned.
    :returns: a Dataset with the variables `estimate`, `standard_error` and `spread` (dims ([item]); the module defines them;
        the last two are NaN for a single population) and the attributes `kind` ("annealed", "bridged", "importance" or
        "stepping-stone"), `num_populations` and `adapted` (1 if the step size or the inverse temperatures adapted during the
        annealing, so that the weights are not exact and the estimate may be biased). The estimate is -inf for an item without
        a chain of positive weight.
    :raises ValueError: for a run without evidence.
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
            # The spread is infinite if a population has the estimate -inf.
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


def log_partition(posterior: ArvizObject) -> xr.Dataset:
    """log Z of an `EnergyModel` per item, as `log_evidence`, with the log volume of the reference distribution added.

    The volume is (2 pi s^2)^(d / 2), with d the number of entries that are sampled.

    :param posterior: what `infer` returned.
    :returns: a Dataset as that of `log_evidence`.
    :raises ValueError: for a run of another model, and for one without evidence.
    """
    volume = attributes(posterior).get("log_reference_volume")
    if volume is None:
        raise ValueError("this is not a run of an EnergyModel: use log_evidence")
    found = log_evidence(posterior)
    return found.assign(estimate=found["estimate"] + volume)

"""Tables of a run: one row per parameter (`summary`), one row per item (`item_summary`).

Both use the weights of annealed runs, and both accept runs of general models, which have no items. Annealed runs have nested
R-hat over their populations; runs without populations have the usual R-hat.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.convergence import nested_rhat, rhat_and_ess
from cogen.diagnostics.evidence import has_evidence, log_evidence
from cogen.diagnostics.groups import is_tuned, item_labels, num_populations, parameters, statistic
from cogen.diagnostics.weights import chain_weights, draw_weights, weight_ess, weighted_mean, weighted_quantile, weighted_sd
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    import pandas as pd


def has_populations(posterior: ArvizObject) -> bool:
    """Whether the chains form at least two populations, so that nested R-hat applies."""
    label = statistic(posterior, "population")
    return label is not None and num_populations(posterior) > 1


def summary(
    posterior: ArvizObject, var_names: list[str] | None = None, quantiles: Sequence[float] = (0.05, 0.5, 0.95)
) -> pd.DataFrame:
    """Weighted summary with a row for every scalar parameter, `z[item, latent]` or `name[index]`.

    ess_bulk and ess_tail ignore weights and common ancestors, so for a weighted run check `weight_ess` and `ancestors` of
    `item_summary` first.

    :param posterior: what `infer` returned.
    :param var_names: variables of the posterior; all but the pixels `x` made from z when None.
    :param quantiles: probabilities between 0 and 1.
    :returns: a DataFrame with the columns mean, sd, the quantiles (q5, q50, q95), and, except for tuned runs of independent
        chains, ess_bulk, ess_tail, and rhat (nested_rhat for annealed runs).
    :raises ValueError: for unknown variables and quantiles outside [0, 1].
    """
    import pandas as pd

    sampled = parameters(posterior, var_names)
    weight = draw_weights(posterior)
    nested = nested_rhat(posterior, [str(name) for name in sampled.data_vars]) if has_populations(posterior) else None
    tables = []
    for name, values in sampled.data_vars.items():
        checks = rhat_and_ess(values)
        columns: dict[str, xr.DataArray] = {"mean": weighted_mean(values, weight), "sd": weighted_sd(values, weight)}
        found = weighted_quantile(values, quantiles, weight)
        for number, q in enumerate(quantiles):
            columns[f"q{100 * q:g}"] = found.isel(quantile=number)
        if not is_tuned(posterior):
            columns["ess_bulk"], columns["ess_tail"] = checks.ess_bulk, checks.ess_tail
            columns["rhat" if nested is None else "nested_rhat"] = checks.rhat if nested is None else nested[name]
        dims = checks.rhat.dims
        flat = {key: column.transpose(*dims).values.reshape(-1) for key, column in columns.items()}
        tables.append(pd.DataFrame(flat, index=_row_names(str(name), checks.rhat)))
    return pd.concat(tables)


def _row_names(name: str, template: xr.DataArray) -> list[str]:
    if not template.dims:
        return [name]
    axes = [template[dim].values if dim in template.coords else range(template.sizes[dim]) for dim in template.dims]
    return [f"{name}[{', '.join(str(label) for label in labels)}]" for labels in product(*axes)]


def item_summary(posterior: ArvizObject) -> pd.DataFrame:
    """Summary with a row for every item (a single row "all" for a general model).

    Columns, NaN where they do not apply: acceptance_rate, step_size: means over chains and draws at beta = 1. divergences:
    their number there. ess_min: the smallest bulk ESS of the item's latents, times weight_ess / chains (too large for annealed
    runs, since common ancestors are ignored). rhat_max: the largest R-hat of its latents, or
    nested_rhat_max for annealed runs; neither these nor ess_min apply to tuned runs, whose chains are independent.
    weight_ess: effective number of chains by weight, out of `chains`. ancestors: number of distinct initial chains from which
    chains of positive weight descend. log_evidence, log_evidence_se: estimate and standard error in nats. log_evidence_spread:
    standard deviation over populations.

    :param posterior: what `infer` returned.
    """
    import pandas as pd

    labels = item_labels(posterior)
    per_item = labels != ["all"]
    table: dict[str, np.ndarray] = {}

    def column(values: xr.DataArray) -> np.ndarray:
        """(item,) of values ([item])."""
        return np.broadcast_to(np.asarray(values.values), (len(labels),))

    nothing = np.full(len(labels), np.nan)
    for name in ("acceptance_rate", "step_size"):
        recorded = statistic(posterior, name)
        table[name] = nothing if recorded is None else column(recorded.mean(("chain", "draw"), dtype=np.float64))
    diverging = statistic(posterior, "diverging")
    table["divergences"] = nothing if diverging is None else column(diverging.sum(("chain", "draw")))

    sampled = parameters(posterior)
    checks = {name: rhat_and_ess(values) for name, values in sampled.data_vars.items()}
    effective = weight_ess(posterior)
    num_chains = chain_weights(posterior).sizes["chain"]
    ess = _over_latents({name: check.ess_bulk for name, check in checks.items()}, per_item, np.fmin)
    table["ess_min"] = nothing if is_tuned(posterior) else ess * column(effective) / num_chains
    if is_tuned(posterior):
        table["rhat_max"] = nothing
    elif has_populations(posterior):
        nested = nested_rhat(posterior)
        table["nested_rhat_max"] = _over_latents(dict(nested.data_vars), per_item, np.fmax)
    else:
        table["rhat_max"] = _over_latents({name: check.rhat for name, check in checks.items()}, per_item, np.fmax)
    table["weight_ess"] = column(effective)
    table["chains"] = np.full(len(labels), num_chains)
    table["ancestors"] = column(distinct_ancestors(posterior)) if statistic(posterior, "ancestor") is not None else nothing
    if has_evidence(posterior):
        evidence = log_evidence(posterior)
        table["log_evidence"] = column(evidence["estimate"])
        table["log_evidence_se"] = column(evidence["standard_error"])
        table["log_evidence_spread"] = column(evidence["spread"])
    else:
        table["log_evidence"] = table["log_evidence_se"] = table["log_evidence_spread"] = nothing
    return pd.DataFrame(table, index=pd.Index(labels, name="item"))


def _over_latents(parts: dict[Any, xr.DataArray], per_item: bool, reduce: np.ufunc) -> np.ndarray:
    """Reduce every variable to (item,); fmin and fmax give NaN only if all values are NaN."""
    rows = []
    for part in parts.values():
        ordered = part.transpose("item", ...) if per_item and "item" in part.dims else part
        lead = ordered.sizes["item"] if per_item and "item" in ordered.dims else 1
        rows.append(reduce.reduce(ordered.values.reshape(lead, -1), axis=1))
    return reduce.reduce(np.stack(np.broadcast_arrays(*rows)), axis=0)


def distinct_ancestors(posterior: ArvizObject) -> xr.DataArray:
    """Number of distinct ancestors of the chains of positive weight, ([item]).

    :raises ValueError: for a run that recorded no ancestors.
    """
    recorded = statistic(posterior, "ancestor")
    if recorded is None:
        raise ValueError("the run recorded no ancestors: only annealed and importance runs record them")
    ancestor = recorded.isel(draw=0, drop=True).transpose("chain", ...)
    alive = chain_weights(posterior).transpose("chain", ...).values > 0
    columns = zip(ancestor.values.reshape(ancestor.shape[0], -1).T, alive.reshape(alive.shape[0], -1).T, strict=True)
    counts = np.array([np.unique(names[living]).size for names, living in columns])
    template = ancestor.isel(chain=0, drop=True)
    return template.copy(data=counts.reshape(template.shape)).rename("ancestors")

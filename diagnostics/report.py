"""Tables of a run: one row per parameter (`summary`), one row per item (`item_summary`).

Both honour the weights of annealed runs, and both take runs of general models, which have no items.
Annealed runs are judged by nested R-hat over their populations; runs without populations by plain R-hat.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.convergence import nested_rhat, rhat_and_ess
from cogen.diagnostics.evidence import has_evidence, log_evidence
from cogen.diagnostics.groups import item_labels, num_populations, parameters, statistic
from cogen.diagnostics.weights import chain_weights, draw_weights, weight_ess, weighted_mean, weighted_quantile, weighted_sd

if TYPE_CHECKING:
    import pandas as pd


def has_populations(posterior: Any) -> bool:
    """Whether the chains form at least two populations, so that nested R-hat applies."""
    label = statistic(posterior, "population")
    return label is not None and num_populations(posterior) > 1


def summary(posterior: Any, var_names: list[str] | None = None, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
    """The weighted table: a row for every scalar parameter, `z[item, latent]` or `name[index]`.

    Columns: mean, sd, the quantiles (as q5, q50, q95), ess_bulk, ess_tail, and rhat (nested_rhat for annealed runs).
    The two ess look at the chains alone: they know nothing of weights or common ancestors, so for a weighted run read
    `weight_ess` and `ancestors` of `item_summary` first. Pixels (`x`) are left out unless named.
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
    return [f"{name}[{', '.join(str(index) for index in place)}]" for place in product(*axes)]


def item_summary(posterior: Any) -> pd.DataFrame:
    """A row for every item (a single row "all" for a general model). Columns, NaN where the run has no such thing:

    acceptance_rate, step_size: means over chains and draws at beta = 1. divergences: their number there.
    ess_min: the smallest bulk ESS of the item's latents, times weight_ess / chains when the run is weighted (an
    optimistic number for annealed runs: it does not see common ancestors). rhat_max: the largest R-hat of its
    latents, or nested_rhat_max for annealed runs. weight_ess: effective number of chains by weight, out of `chains`.
    ancestors: distinct first chains that living chains descend from. log_evidence, its standard error, and the spread
    over populations.
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
    table["ess_min"] = ess * column(effective) / num_chains
    if has_populations(posterior):
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
    """Reduce every variable to (item,), NaN only where all are (fmin, fmax)."""
    rows = []
    for part in parts.values():
        ordered = part.transpose("item", ...) if per_item and "item" in part.dims else part
        lead = ordered.sizes["item"] if per_item and "item" in ordered.dims else 1
        rows.append(reduce.reduce(ordered.values.reshape(lead, -1), axis=1))
    return reduce.reduce(np.stack(np.broadcast_arrays(*rows)), axis=0)


def distinct_ancestors(posterior: Any) -> xr.DataArray:
    """Number of distinct ancestors of the living chains, ([item])."""
    recorded = statistic(posterior, "ancestor")
    if recorded is None:
        raise ValueError("the run has recorded no ancestors: only annealed and importance runs do")
    ancestor = recorded.isel(draw=0, drop=True).transpose("chain", ...)
    alive = chain_weights(posterior).transpose("chain", ...).values > 0
    columns = zip(ancestor.values.reshape(ancestor.shape[0], -1).T, alive.reshape(alive.shape[0], -1).T, strict=True)
    counts = np.array([np.unique(names[living]).size for names, living in columns])
    template = ancestor.isel(chain=0, drop=True)
    return template.copy(data=counts.reshape(template.shape)).rename("ancestors")

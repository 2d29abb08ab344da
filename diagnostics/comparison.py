"""Comparison of models by their evidence on the same items, with the conventions of ArviZ's ``compare``.

Items are independent given the model, so that log p(y) = sum_i log p(y_i), and the variation over items gives the standard
error for another sample of items. With l_ki the log evidence of model k on item i, n items, and b the best model:

    log_evidence = sum_i l_ki         se  = sqrt(n) sd_i(l_ki)
    log_evidence_diff = sum_i (l_bi - l_ki)         dse = sqrt(n) sd_i(l_bi - l_ki)
    mc_se = sqrt(sum_i s_ki^2),        s_ki the standard error of l_ki from populations that never exchange particles

(Vehtari, Gelman and Gabry 2017, Practical Bayesian model evaluation using leave-one-out cross-validation, section 5, with the
evidence of an item in place of its predictive density). se and dse include the Monte Carlo error of the l_ki; mc_se is the part
that more computation would remove.

Weights are those of stacking, the mixture of models that maximizes the probability of the items,

    max_w sum_i log sum_k w_k p(y_i | model k),        w >= 0, sum w = 1

(Yao, Vehtari, Simpson and Gelman 2018, Using stacking to average Bayesian predictive distributions, section 3), by the EM
algorithm for mixture proportions. Pseudo-BMA weights would be 0 and 1 for nearly any two image generators, whose log evidences
differ by hundreds of nats.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from cogen.diagnostics.diagnosis import EVIDENCE_SPREAD
from cogen.diagnostics.evidence import has_evidence, log_evidence
from cogen.diagnostics.groups import attributes, group, has_group
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    import pandas as pd


def compare(posteriors: Mapping[str, ArvizObject]) -> pd.DataFrame:
    """Compare models (generators, views, noise levels, or kernels as a check) by log p(y) of the same items.

    Weights hold for these items only: compare ``log_evidence_diff`` with ``dse``. General models record no observed data, so
    that theirs is not checked to be the same.

    :param posteriors: what `infer` returned, by the name of the model.
    :returns: a DataFrame, best model first, with the index ``name`` and the columns ``rank`` (0 is the best), ``log_evidence``
        and ``log_evidence_diff`` (nats, sums over items; the second is 0 for the best and positive for the others), ``weight``
        (stacking; they sum to 1), ``se`` and ``dse`` (standard errors over items; NaN for one item, and dse 0 for the best),
        ``mc_se`` (the Monte Carlo error alone; NaN for a single population), and ``warning``: the step size adapted during the
        annealing, or the populations of an item spread by more than a nat, so that the errors may be larger than stated.
    :raises ValueError: for fewer than two runs, a run without evidence, runs with different items or different observed data,
        and an item without a finite evidence under any model.
    """
    import pandas as pd

    if len(posteriors) < 2:
        raise ValueError(
            f"{len(posteriors)} runs given: a comparison needs at least two, as in compare({{'gan': a, 'vae': b}})"
        )
    for name, posterior in posteriors.items():
        if not has_evidence(posterior):
            kernel = attributes(posterior).get("kernel", "this kernel")
            raise ValueError(f"run {name!r} ({kernel}) has no evidence to compare: use AnnealedHMC or ImportanceResampling")
    _check_same_data(posteriors)
    found = {name: log_evidence(posterior) for name, posterior in posteriors.items()}
    per_item = np.stack([np.atleast_1d(one["estimate"].values) for one in found.values()])  # (model, item)
    lost = np.flatnonzero(~np.isfinite(per_item).any(axis=0)).tolist()
    if lost:
        raise ValueError(f"items {lost} have no finite evidence under any model: drop them, or use more temperatures")
    total = per_item.sum(axis=1)
    best = int(total.argmax())
    with np.errstate(invalid="ignore"):  # a model with an evidence of zero for an item has the total -inf and no errors
        difference = per_item[best] - per_item
        table = pd.DataFrame(
            {
                "log_evidence": total,
                "log_evidence_diff": difference.sum(axis=1),
                "weight": stacking_weights(per_item),
                "se": _error_of_sum(per_item),
                "dse": _error_of_sum(difference),
                "mc_se": [float(np.sqrt((one["standard_error"].values ** 2).sum())) for one in found.values()],
                "warning": [
                    bool(one.attrs["adapted"]) or bool((one["spread"].values > EVIDENCE_SPREAD).any()) for one in found.values()
                ],
            },
            index=pd.Index(list(found), name="name"),
        )
    table.loc[table.index[best], "dse"] = 0.0
    table = table.sort_values("log_evidence", ascending=False, kind="stable")
    table.insert(0, "rank", np.arange(len(table)))
    return table


def stacking_weights(log_densities: np.ndarray) -> np.ndarray:
    """The weights (model,) of the mixture that maximizes the probability of the items, from log densities (model, item).

    EM for mixture proportions: w_k <- mean_i of w_k p_ki / sum_j w_j p_ji, from equal weights; the objective is concave.
    """
    density = np.exp(log_densities - log_densities.max(axis=0))
    weight = np.full(len(density), 1.0 / len(density))
    for _ in range(100_000):
        joint = weight[:, None] * density
        updated = (joint / joint.sum(axis=0)).mean(axis=1)
        if np.abs(updated - weight).max() < 1e-10:
            return updated
        weight = updated
    return weight


def _error_of_sum(values: np.ndarray) -> np.ndarray:
    """The standard error of a sum over independent items: (model, item) -> (model,); NaN for one item."""
    items = values.shape[1]
    return np.sqrt(items) * values.std(axis=1, ddof=1) if items > 1 else np.full(len(values), np.nan)


def _check_same_data(posteriors: Mapping[str, ArvizObject]) -> None:
    """Check that all runs observed the same data.

    :raises ValueError: for two runs, which it names, with different items, views, masks or values.
    """
    (first, reference), *others = posteriors.items()
    seen = _observed(reference)
    for name, posterior in others:
        runs = f"runs {first!r} and {name!r}"
        counts = [group(run, "posterior").sizes.get("item", 1) for run in (reference, posterior)]
        if counts[0] != counts[1]:
            raise ValueError(f"{runs} have {counts[0]} and {counts[1]} items: evidences are compared over the same items")
        other = _observed(posterior)
        if sorted(map(str, seen)) != sorted(map(str, other)):
            raise ValueError(
                f"{runs} observed different views, {sorted(map(str, seen))} and {sorted(map(str, other))}: condition both on"
                " the same views"
            )
        for view, values in seen.items():
            if values.shape != other[view].shape or not np.array_equal(values.values, other[view].values, equal_nan=True):
                raise ValueError(
                    f"{runs} observed different data of view {str(view)!r}, or with different masks: evidences are comparable"
                    " only for identical data"
                )


def _observed(posterior: ArvizObject) -> dict[Hashable, xr.DataArray]:
    return dict(group(posterior, "observed_data").data_vars) if has_group(posterior, "observed_data") else {}

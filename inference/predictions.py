"""Predictions of x from draws of the latent.

Without ``keep_x`` only the weighted mean and standard deviation of x per item are kept, accumulated in float64, and the misfit
of every draw to what is seen, so that memory does not grow with x times the number of draws. With ``keep_x`` every x and one
predictive draw of every view are kept too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from cogen.inference.items import Divisible, ItemModel, Judged, context_rows, item_ids, latent_contexts, take_items
from cogen.inference.results import Group

_AT_ONCE = 4096
"""The number of latents decoded in one batch."""


def predictive_groups(
    items: ItemModel, groups: Mapping[str, Group], *, keep_x: bool, seed: int
) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
    """The groups ``predictions`` (x_mean, x_sd per item) and ``sample_stats`` (with <view>_misfit), with ``keep_x`` also x and
    ``posterior_predictive``; ``posterior`` with the contexts that follow from the latents, if there are any.

    ``groups["posterior"]["z"]`` is (chain, draw, item, latent). Items are decoded one after the other, so that the results of
    one item do not depend on the others.
    """
    posterior = {name: values for name, (_, values) in groups["posterior"].items()}
    inferred = latent_contexts(items, posterior)
    chains, draws, count = posterior["z"].shape[:3]
    weight = _chain_weights(groups, chains, count)  # (chain, item)
    found = []
    for item, number in enumerate(item_ids(items).tolist()):
        sites = {n: v[:, :, item].reshape(chains * draws, *v.shape[3:]) for n, v in (posterior | inferred).items()}
        own = np.random.SeedSequence([seed, number]).generate_state(1)[0] if keep_x else None
        found.append(_of_item(items, item, sites, np.repeat(weight[:, item], draws) / draws, own))
    event, lead = items.dims["x"], ("chain", "draw", "item")
    result: dict[str, dict[str, Any]] = {
        "predictions": {n: (("item", *event), np.stack([each[n] for each in found])) for n in ("x_mean", "x_sd")}
    }

    def by_draw(key: str, name: str, dims: tuple[str, ...]) -> tuple[tuple[str, ...], np.ndarray]:
        values = np.stack([each[key][name] for each in found], axis=1)  # (row, item, ...)
        return (*lead, *dims), values.reshape(chains, draws, *values.shape[1:])

    if found[0]["misfit"]:
        far = {f"{view}_misfit": by_draw("misfit", view, ()) for view in found[0]["misfit"]}
        result["sample_stats"] = {**groups["sample_stats"], **far}
    if inferred or keep_x:
        more = {name: ((*lead, *items.dims[name]), values) for name, values in inferred.items()}
        result["posterior"] = {**groups["posterior"], **more}
    if keep_x:
        result["posterior"]["x"] = by_draw("x", "x", event)
        result["posterior_predictive"] = {name: by_draw("views", name, items.dims[name]) for name in found[0]["views"]}
    return result


def _of_item(
    items: ItemModel, item: int, sites: Mapping[str, np.ndarray], weight: np.ndarray, seed: int | None
) -> dict[str, Any]:
    """The predictions of one item from its sites (row, ...) and row weights (row,): mean and standard deviation of x, its
    misfit, and with a seed every x with one draw of every view."""
    alone = items.of_items(take_items(items.item_data, np.array([item]))) if isinstance(items, Divisible) else None
    kept: dict[str, list[dict[str, np.ndarray]]] = {"misfit": [], "x": [], "views": []}
    total: Any = 0.0
    square: Any = 0.0
    for part, first in enumerate(range(0, len(weight), _AT_ONCE)):
        rows = {name: values[first : first + _AT_ONCE] for name, values in sites.items()}
        context = context_rows(items, rows, np.full(len(rows["z"]), item))
        x, w = items.decode(rows["z"], **context), weight[first : first + _AT_ONCE]
        total = total + np.einsum("r,r...->...", w, x, dtype=np.float64)
        square = square + np.einsum("r,r...->...", w, np.square(x, dtype=np.float64))
        if isinstance(alone, Judged):
            far = alone.misfit(x[:, None], {name: values[:, None] for name, values in rows.items()})
            kept["misfit"].append({view: values[:, 0] for view, values in far.items()})
        if seed is not None:
            kept["x"].append({"x": x})
            kept["views"].append(items.simulate(x, {**rows, **context}, seed=int(seed) + part))
    joined = {
        key: {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
        for key, parts in kept.items()
    }
    deviation = np.sqrt(np.maximum(square - total**2, 0.0))
    return {"x_mean": total.astype(np.float32), "x_sd": deviation.astype(np.float32), **joined}


def _chain_weights(groups: Mapping[str, Group], chains: int, count: int) -> np.ndarray:
    if "log_weight" not in groups["sample_stats"]:
        return np.full((chains, count), 1.0 / chains)
    log_weight = np.asarray(groups["sample_stats"]["log_weight"][1][:, 0], dtype=np.float64)
    best = log_weight.max(axis=0)
    # NaN for an item without a chain of positive weight
    weight = np.exp(log_weight - np.where(np.isfinite(best), best, np.nan))
    return weight / weight.sum(axis=0)

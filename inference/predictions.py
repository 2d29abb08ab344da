"""From draws of the latent to what they say about x.

Without ``keep_x`` only the weighted mean and standard deviation of x per item are kept, accumulated draw by draw in float64,
so that memory does not grow with the number of draws, and of every draw how far what is seen lies from it. With it, every x
and one predictive draw of every view are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cogen.inference.items import ItemModel, Judged, context_rows, latent_contexts
from cogen.inference.results import Group
from cogen.inference.seeds import torch_seed

_AT_ONCE = 4096
"""How many latents are decoded at once."""


def predictive_groups(
    items: ItemModel, groups: Mapping[str, Group], *, keep_x: bool, seed: int
) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
    """The groups ``predictions`` (x_mean, x_sd per item) and ``sample_stats`` (with <view>_misfit), with ``keep_x`` also x and
    ``posterior_predictive``; ``posterior`` with the contexts that follow from the latents, where there are any.

    ``groups["posterior"]["z"]`` is (chain, draw, item, latent).
    """
    posterior = {name: values for name, (_, values) in groups["posterior"].items()}
    inferred = latent_contexts(items, posterior)
    z = posterior["z"]
    chains, draws, count = z.shape[:3]
    rows = np.tile(np.arange(count), chains)
    weight = _chain_weights(groups, chains, count)  # (chain, item)
    kept, views, misfits = [], [], []
    total = square = 0.0
    for draw in range(draws):
        flat = {name: v[:, draw].reshape(chains * count, *v.shape[3:]) for name, v in posterior.items()}
        flat_x = _decode(items, flat, rows)
        x = flat_x.reshape(chains, count, *items.event_shape)
        if isinstance(items, Judged):
            misfits.append(items.misfit(x, {name: v[:, draw] for name, v in (posterior | inferred).items()}))
        total = total + np.einsum("ci,ci...->i...", weight, x, dtype=np.float64)
        square = square + np.einsum("ci,ci...->i...", weight, np.square(x, dtype=np.float64))
        if keep_x:
            kept.append(x)
            sites = {**flat, **context_rows(items, flat, rows)}
            views.append(items.simulate(flat_x, sites, seed=torch_seed(seed) * 1_000_003 + draw))
    mean = total / draws
    deviation = np.sqrt(np.maximum(square / draws - mean**2, 0.0))
    event = items.dims["x"]
    result: dict[str, dict] = {
        "predictions": {
            "x_mean": (("item", *event), mean.astype(np.float32)),
            "x_sd": (("item", *event), deviation.astype(np.float32)),
        }
    }
    lead = ("chain", "draw", "item")
    if misfits:
        far = {f"{view}_misfit": (lead, np.stack([each[view] for each in misfits], axis=1)) for view in misfits[0]}
        result["sample_stats"] = {**groups["sample_stats"], **far}
    if inferred or keep_x:
        more = {name: ((*lead, *items.dims[name]), values) for name, values in inferred.items()}
        result["posterior"] = {**groups["posterior"], **more}
    if keep_x:
        result["posterior"]["x"] = ((*lead, *event), np.stack(kept, axis=1))
        result["posterior_predictive"] = {
            name: (
                (*lead, *items.dims[name]),
                np.stack([v[name].reshape(chains, count, *v[name].shape[1:]) for v in views], axis=1),
            )
            for name in views[0]
        }
    return result


def _decode(items: ItemModel, sites: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """x of rows of the latent sites, each of the item that ``rows`` says."""
    parts = []
    for k in range(0, len(rows), _AT_ONCE):
        part = {name: values[k : k + _AT_ONCE] for name, values in sites.items()}
        parts.append(items.decode(part["z"], **context_rows(items, part, rows[k : k + _AT_ONCE])))
    return np.concatenate(parts)


def _chain_weights(groups: Mapping[str, Group], chains: int, count: int) -> np.ndarray:
    if "log_weight" not in groups["sample_stats"]:
        return np.full((chains, count), 1.0 / chains)
    log_weight = np.asarray(groups["sample_stats"]["log_weight"][1][:, 0], dtype=np.float64)
    best = log_weight.max(axis=0)
    # NaN for an item without a chain of positive weight
    weight = np.exp(log_weight - np.where(np.isfinite(best), best, np.nan))
    return weight / weight.sum(axis=0)

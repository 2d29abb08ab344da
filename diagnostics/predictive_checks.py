"""Posterior predictive checks: does the model fit the seen parts of the data?

Calibration on simulated items tests the sampler; these checks test the model on real items. For draws z_s of the posterior a
replicate y_s ~ p(y | z_s) is simulated, and a discrepancy T between data and draw is compared with that of the replicate:

    p = P( T(y_rep, z) >= T(y, z) | y ),        T of the residuals r = y - A(G(z)) over the seen entries.

    rms: sqrt(mean r^2)                      the chi-squared discrepancy; the noise level
    largest: max |r|                         a few entries that the generator cannot produce
    neighbours: sum r_i r_j / sum r_i^2      over neighbouring seen entries; correlated residuals, unlike noise

p near 0: T of the data exceeds that of replicates (poor fit, or the noise scale is too small); p near 1: it is below. Under the
true model such a p-value is not uniform but closer to 1/2, since the draws depend on the data: false alarms are rarer than
stated.

    Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies, section 2.

With a model, A(G(z)) is estimated by the mean of a few further simulations; for a run with ``keep_x=True`` and no model it is
replaced by x itself. Both are the same for data and replicate, so the p-value is valid for any view; the test has more power
the closer they are to A(G(z)).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import DRAWS, group, has_group, item_labels
from cogen.diagnostics.thinning import pick_draws, take_draws
from cogen.diagnostics.weights import draw_weights
from cogen.inference.signatures import ArvizObject, Model

CENTRE_DRAWS = 16
"""Simulations whose mean estimates A(G(z)); residuals of data and replicates are then 3 % larger than the noise."""

STATISTICS = ("rms", "largest", "neighbours")


def predictive_checks(posterior: ArvizObject, model: Model | None = None, *, num_draws: int = 200, seed: int = 0) -> xr.Dataset:
    """Posterior predictive p-values of the seen part, for every view and item.

    :param posterior: a run of items; without ``model`` it must have been made with ``keep_x=True``, and views whose shape
        differs from that of x are left out.
    :param model: the model of the run, as `infer` took it, which decodes the draws and simulates replicates.
    :param num_draws: with a model, draws per item (picked by weight; all if the run has fewer). Stored replicates are all used.
    :param seed: of the picked draws and the simulations.
    :returns: a Dataset with ``p_value``, ``observed`` and ``replicated`` (the mean of T over draws), dims (view, statistic,
        item), and ``effective_draws`` (item), which limits the resolution of the p-values. NaN where an item has no seen entry
        (or no seen neighbours) of a view.
    :raises ValueError: for a run without observed views or, without a model, without stored replicates, and for a model without
        items.
    """
    observed = _observed(posterior)
    if not observed:
        raise ValueError(
            "the run has no observed_data: predictive checks need a conditioned model of items, such as a CoGenerator"
        )
    if model is None and not can_check(posterior):
        raise ValueError(
            "the run has no stored replicates of a view with the shape of x: give the model,"
            " predictive_checks(posterior, seen), or run infer(..., keep_x=True)"
        )
    items = len(item_labels(posterior))
    if model is None:
        views = _stored_views(posterior)
        weight = draw_weights(posterior).transpose(*DRAWS, "item").values
        triples, weight = _stored(posterior, views), np.moveaxis(weight, 1, 0).reshape(-1, items)
    else:
        views = list(observed)
        draws = group(posterior, "posterior").sizes
        num_draws = min(num_draws, draws["chain"] * draws["draw"])
        triples, weight = _simulated(posterior, model, views, num_draws, seed), np.full((num_draws, items), 1 / num_draws)
    made: dict[str, list[np.ndarray]] = {"observed": [], "replicated": []}
    for centre, replicate in triples:
        for name in made:
            data = observed if name == "observed" else replicate
            residuals = [_discrepancies(data[view] - centre[view], np.isfinite(observed[view])) for view in views]
            made[name].append(np.stack(residuals))
    # (draw, view, statistic, item); values of draws of zero weight are ignored, also NaN
    real, fake = (np.stack(values) for values in made.values())
    shown = weight[:, None, None, :]
    exceeds = (fake > real) + 0.5 * (fake == real)
    nothing = (np.isnan(real) & (shown > 0)).any(axis=0)
    p_value = np.where(nothing, np.nan, (shown * exceeds).sum(axis=0))
    means = {
        name: np.where(shown > 0, shown * values, 0.0).sum(axis=0)
        for name, values in (("observed", real), ("replicated", fake))
    }
    dims = ("view", "statistic", "item")
    return xr.Dataset(
        {
            "p_value": (dims, p_value),
            **{name: (dims, values) for name, values in means.items()},
            "effective_draws": (("item",), 1.0 / (weight**2).sum(axis=0)),
        },
        {"view": views, "statistic": list(STATISTICS), "item": item_labels(posterior)},
    )


def can_check(posterior: ArvizObject) -> bool:
    """Whether the run has the stored replicates that `predictive_checks` needs without a model."""
    return bool(_stored_views(posterior))


def tail_probability(checks: xr.Dataset) -> xr.DataArray:
    """Two-sided p-values (view, statistic, item), corrected for the number of draws: twice the smaller of the two one-sided
    (p E + 1) / (E + 1), for E effective draws, so that a few draws never give a small value (Phipson and Smyth 2010)."""
    draws, p_value = checks["effective_draws"], checks["p_value"]
    smaller = p_value.where(p_value < 0.5, 1 - p_value)
    return (2 * (smaller * draws + 1) / (draws + 1)).clip(max=1.0)


def _observed(posterior: ArvizObject) -> dict[str, np.ndarray]:
    """Observed views (item, ...), NaN where hidden."""
    if not has_group(posterior, "observed_data"):
        return {}
    found = {str(name): values for name, values in group(posterior, "observed_data").data_vars.items() if "item" in values.dims}
    return {name: values.transpose("item", ...).values.astype(np.float64) for name, values in found.items()}


def _stored_views(posterior: ArvizObject) -> list[str]:
    """Observed views with the shape of x and with replicates, if the run has x."""
    draws = group(posterior, "posterior")
    if "x" not in draws or "item" not in draws.dims or not has_group(posterior, "posterior_predictive"):
        return []
    shape = tuple(draws["x"].transpose(*DRAWS, "item", ...).shape[2:])
    replicates = group(posterior, "posterior_predictive")
    return [name for name, values in _observed(posterior).items() if name in replicates and values.shape == shape]


Triple = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]


def _stored(posterior: ArvizObject, views: list[str]) -> Iterator[Triple]:
    """Centre and replicate of every stored draw, each {view: (item, ...)}; the chain varies fastest."""
    x = group(posterior, "posterior")["x"].transpose(*DRAWS, "item", ...)
    replicates = {view: group(posterior, "posterior_predictive")[view].transpose(*DRAWS, "item", ...) for view in views}
    for draw in range(x.sizes["draw"]):
        for chain in range(x.sizes["chain"]):
            centre = x.values[chain, draw]
            yield dict.fromkeys(views, centre), {view: values.values[chain, draw] for view, values in replicates.items()}


def _simulated(posterior: ArvizObject, model: Model, views: list[str], num_draws: int, seed: int) -> Iterator[Triple]:
    """Centre and replicate of the picked draws, simulated by the model."""
    from cogen.inference.items import context_rows, find_items

    items = find_items(model)
    if items is None:
        raise ValueError(f"{model!r} is not a model of items: give the conditioned CoGenerator that infer took")
    count = len(item_labels(posterior))
    rng = np.random.default_rng(seed)
    picks = pick_draws(posterior, num_draws, rng)
    sites = {
        str(name): take_draws(values, picks) for name, values in group(posterior, "posterior").data_vars.items() if name != "x"
    }
    for draw in range(num_draws):
        one = {name: values[draw] for name, values in sites.items()}
        context = context_rows(items, one, np.arange(count))
        many = {name: np.repeat(values, CENTRE_DRAWS + 1, axis=0) for name, values in {**one, **context}.items()}
        x = np.repeat(items.decode(one["z"], **context), CENTRE_DRAWS + 1, axis=0)
        simulated = items.simulate(x, many, seed=int(rng.integers(2**31)))
        made = {view: simulated[view].reshape(count, CENTRE_DRAWS + 1, *simulated[view].shape[1:]) for view in views}
        yield {view: values[:, 1:].mean(axis=1) for view, values in made.items()}, {view: v[:, 0] for view, v in made.items()}


def _discrepancies(residual: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The discrepancies T of residuals (item, ...) over the seen entries: (statistic, item); NaN where nothing is seen."""
    count = len(residual)
    kept = np.where(seen, residual, 0.0)
    entries = seen.reshape(count, -1).sum(axis=1)
    square = (kept.reshape(count, -1) ** 2).sum(axis=1)
    product = pairs = np.zeros(count)
    for axis in range(max(1, residual.ndim - 2), residual.ndim):  # height and width; columns of a table
        one, next_one = (np.take(kept, range(start, stop), axis=axis) for start, stop in _neighbours(residual.shape[axis]))
        both = np.logical_and(*(np.take(seen, range(a, b), axis=axis) for a, b in _neighbours(residual.shape[axis])))
        product = product + (one * next_one).reshape(count, -1).sum(axis=1)
        pairs = pairs + both.reshape(count, -1).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        rms = np.where(entries > 0, np.sqrt(square / entries), np.nan)
        largest = np.where(entries > 0, np.abs(kept).reshape(count, -1).max(axis=1), np.nan)
        neighbours = np.where(pairs > 0, product / square, np.nan)
    return np.stack([rms, largest, neighbours])


def _neighbours(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    return (0, size - 1), (1, size)

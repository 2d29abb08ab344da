"""Weighted draws: means, quantiles, effective sample sizes, Pareto k and resampling, which ArviZ does not provide.

An annealed run gives every chain c of an item an importance weight, `sample_stats["log_weight"]`; the draws of the
chain share it. With w normalised over chain x draw,

    mean = sum_i w_i x_i,   sd^2 = sum_i w_i (x_i - mean)^2,
    Q(q) = min { x : F(x) >= q },   F(x) = sum_i w_i 1{x_i <= x}

(Q is the inverse of the weighted empirical distribution, numpy's "inverted_cdf" if the weights are equal). An object without
log weights is equally weighted. Draws of weight zero (log weight -inf) are ignored, even if they are NaN. If the weights of an
item are all zero, or one is NaN or +inf, its normalised weights and everything computed from them are NaN.

References: Kong, Liu and Wong (1994) for the effective sample size 1 / sum w^2; Vehtari, Simpson, Gelman, Yao and Gabry
(2024), "Pareto smoothed importance sampling", with the estimator of Zhang and Stephens (2009), for k.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import DRAWS, all_groups, assemble, group, item_labels, statistic
from cogen.inference.signatures import ArvizObject


def log_weights(posterior: ArvizObject) -> xr.DataArray:
    """Unnormalised log weights, dims (chain, draw[, item]), float64; zeros for a run without weights."""
    recorded = statistic(posterior, "log_weight")
    if recorded is not None:
        return recorded.astype(np.float64)
    draws = group(posterior, "posterior")
    dims = [dim for dim in (*DRAWS, "item") if dim in draws.dims]
    coords = {dim: draws[dim] for dim in dims if dim in draws.coords}
    return xr.DataArray(np.zeros([draws.sizes[dim] for dim in dims]), coords, dims, name="log_weight")


def normalise(log_weight: np.ndarray) -> np.ndarray:
    """Weights that sum to one over the first two axes (chain, draw) for every item; NaN for an item without valid weights."""
    log_weight = np.asarray(log_weight, dtype=np.float64)
    highest = log_weight.max(axis=(0, 1), keepdims=True)  # NaN where any is
    weights = np.exp(log_weight - np.where(np.isfinite(highest), highest, np.nan))
    return weights / weights.sum(axis=(0, 1), keepdims=True)


def draw_weights(posterior: ArvizObject) -> xr.DataArray:
    """Normalised weights, dims (chain, draw[, item]); they sum to one over chain x draw for every item."""
    log_weight = log_weights(posterior)
    return log_weight.copy(data=normalise(log_weight.values)).rename("weight")


def chain_weights(posterior: ArvizObject) -> xr.DataArray:
    """Normalised weight of each chain (chain[, item]): the sum over its draws."""
    return draw_weights(posterior).sum("draw", skipna=False)


def _alive(values: xr.DataArray, weight: xr.DataArray) -> xr.DataArray:
    """Values with zeros where the weight is zero, since these may be NaN (0 * NaN = NaN)."""
    return values.where(~(weight == 0), 0.0) if bool((weight == 0).any()) else values


def weighted_mean(values: xr.DataArray, weight: xr.DataArray) -> xr.DataArray:
    """Mean over chain x draw of values (chain, draw[, item], ...) under normalised weights (chain, draw[, item])."""
    return xr.dot(_alive(values.astype(np.float64), weight), weight, dim=DRAWS)


def weighted_sd(values: xr.DataArray, weight: xr.DataArray) -> xr.DataArray:
    """Standard deviation over chain x draw, without a small-sample correction."""
    centred = _alive(values.astype(np.float64), weight) - weighted_mean(values, weight)
    return np.sqrt(xr.dot(centred**2, weight, dim=DRAWS))


def quantile_of_sorted(ordered: np.ndarray, cumulative: np.ndarray, q: float) -> np.ndarray:
    """Q(q) along the first axis of sorted values, given their cumulative weights (same shape)."""
    reached = cumulative >= max(q - 1e-12, np.finfo(float).tiny)  # tiny: a weight of zero is never selected, even for q = 0
    reached[-1] = True  # the sum of the weights may miss one by rounding
    first = reached.argmax(axis=0)
    return np.take_along_axis(ordered, first[np.newaxis], axis=0)[0]


def weighted_quantile(values: xr.DataArray, q: float | Sequence[float], weight: xr.DataArray) -> xr.DataArray:
    """Quantiles over chain x draw: the smallest value whose cumulative weight reaches q (see the module's formula).

    :param q: probabilities in [0, 1]; the result has a leading dimension `quantile` for a sequence.
    :raises ValueError: for q outside [0, 1].
    """
    probabilities = (q,) if isinstance(q, int | float) else tuple(q)
    outside = [p for p in probabilities if not 0 <= p <= 1]
    if outside:
        raise ValueError(f"quantile {outside[0]} is outside [0, 1]")
    stacked = values.transpose(*DRAWS, ...)
    spread_out = weight.broadcast_like(stacked).transpose(*stacked.dims).values
    flat = stacked.values.reshape(-1, *stacked.shape[2:])
    flat_weight = spread_out.reshape(flat.shape)
    # Draws of weight zero are sorted to the front, where their cumulative weight is zero.
    order = np.argsort(np.where(flat_weight > 0, flat, -np.inf), axis=0, kind="stable")
    ordered = np.take_along_axis(flat, order, axis=0)
    cumulative = np.cumsum(np.take_along_axis(flat_weight, order, axis=0), axis=0)
    answers = np.stack([quantile_of_sorted(ordered, cumulative, p) for p in probabilities])
    answers = np.where(np.isnan(flat_weight).any(axis=0), np.nan, answers)
    template = stacked.isel(chain=0, draw=0, drop=True)
    result = xr.DataArray(
        answers, {"quantile": list(probabilities), **template.coords}, ("quantile", *template.dims), name=values.name
    )
    return result.isel(quantile=0) if isinstance(q, int | float) else result


def weight_ess(posterior: ArvizObject) -> xr.DataArray:
    """Effective number of chains 1 / sum_c w_c^2, per item: between 1 (one chain has all the weight) and the number of chains.

    The unit is chains, not draws, because the draws of a chain share its weight.
    """
    return (1.0 / (chain_weights(posterior) ** 2).sum("chain", skipna=False)).rename("weight_ess")


def pareto_k(posterior: ArvizObject) -> xr.DataArray:
    """Pareto k (tail index) of the chains' weights, per item: good below 0.5; above 0.7 weighted means are unreliable.

    A generalised Pareto distribution is fitted to the largest min(C / 5, 3 sqrt(C)) of the C weights. NaN if fewer than five
    weights are in the tail (few chains, or equal weights after resampling).
    """
    shares = chain_weights(posterior)
    shares = shares.transpose("chain", ...)
    flat = shares.values.reshape(shares.sizes["chain"], -1)
    ks = np.array([_tail_index(column) for column in flat.T]).reshape(shares.shape[1:])
    return shares.isel(chain=0, drop=True).copy(data=ks).rename("pareto_k")


def pareto_k_of_ratios(posterior: ArvizObject) -> xr.DataArray:
    """Pareto k of the ratios p(z, y) / q(z) of draws of a fitted guide, per item, over all chains and draws.

    :raises ValueError: for a run that recorded no log ratios.
    """
    log_ratio = statistic(posterior, "log_ratio")
    if log_ratio is None:
        raise ValueError("the run recorded no log ratios: only SVI and PyroSVI record them")
    weight = normalise(log_ratio.values)
    flat = weight.reshape(weight.shape[0] * weight.shape[1], -1)
    ks = np.array([_tail_index(column) for column in flat.T]).reshape(weight.shape[2:])
    return log_ratio.isel(chain=0, draw=0, drop=True).copy(data=ks).rename("pareto_k")


def _tail_index(weight: np.ndarray) -> float:
    count = int(np.ceil(min(0.2 * weight.size, 3 * np.sqrt(weight.size))))
    ordered = np.sort(weight)
    if weight.size < 6 or count < 5 or np.isnan(weight).any():
        return np.nan
    cutoff = max(ordered[-count - 1], np.finfo(float).tiny)
    tail = ordered[ordered > cutoff] - cutoff
    if tail.size < 5 or tail[-1] <= 1e-10 * cutoff:
        return np.nan
    return _generalised_pareto_shape(tail)


def _generalised_pareto_shape(exceedances: np.ndarray) -> float:
    """The quasi-Bayesian grid estimate of Zhang and Stephens (2009), shrunk towards 0.5 as by Vehtari et al. (2024)."""
    size = exceedances.size
    grid_size = 30 + int(np.sqrt(size))
    quartile = exceedances[int(size / 4 + 0.5) - 1]
    grid = (1 - np.sqrt(grid_size / (np.arange(1, grid_size + 1) - 0.5))) / (3 * quartile) + 1 / exceedances[-1]
    shape = np.log1p(-grid[:, None] * exceedances).mean(axis=1)
    profile = size * (np.log(-grid / shape) - shape - 1)
    posterior_weight = 1 / np.exp(profile - profile[:, None]).sum(axis=1)
    posterior_weight[posterior_weight < 10 * np.finfo(float).eps] = 0
    theta = (grid * posterior_weight).sum() / posterior_weight.sum()
    k = np.log1p(-theta * exceedances).mean()
    return float((size * k + 5) / (size + 10))


def check_positive(share: np.ndarray) -> None:
    """Check that every item of normalised weights (chain, item) has a chain of positive weight.

    :raises ValueError: for items without one.
    """
    lost = np.flatnonzero(np.isnan(share).any(axis=0))
    if lost.size:
        raise ValueError(
            f"item(s) {lost.tolist()} have no chain of positive weight (the data have zero density for all chains) and no"
            " posterior draws: drop these items"
        )


def systematic_indices(weight: np.ndarray, count: int, uniform: float) -> np.ndarray:
    """Systematic resampling: `count` sorted indices; index i is drawn floor or ceil of count * weight_i times."""
    cumulative = np.cumsum(weight)
    positions = (np.arange(count) + uniform) / count * cumulative[-1]
    last_alive = np.flatnonzero(weight)[-1]  # rounding must not select a later index of weight zero
    return np.minimum(np.searchsorted(cumulative, positions, side="right"), last_alive)


def resample(posterior: ArvizObject, num_draws: int | None = None, seed: int = 0) -> ArvizObject:
    """The same run with equal weights, for ArviZ functions that do not use weights.

    Whole chains are resampled in proportion to their weight, systematically and separately for each item. A chain of large
    weight is then repeated, so ESS and R-hat of the result are not valid. A run without weights is only thinned.

    :param posterior: what `infer` returned.
    :param num_draws: evenly spaced draws that are kept of each chain; all when None.
    :param seed: of the resampling.
    :returns: an object of the same type with log weights of zero.
    :raises ValueError: for `num_draws` out of range, and for items without a chain of positive weight.
    """
    draws = group(posterior, "posterior")
    num_chains, available = draws.sizes["chain"], draws.sizes["draw"]
    if num_draws is not None and not 1 <= num_draws <= available:
        raise ValueError(f"num_draws is {num_draws}; the run has {available} draws per chain: give 1 to {available}")
    kept = np.arange(available) if num_draws is None else np.linspace(0, available - 1, num_draws).round().astype(int)
    weighted = statistic(posterior, "log_weight") is not None
    indices = None
    if weighted:
        share = chain_weights(posterior).transpose("chain", ...).values.reshape(num_chains, -1)
        check_positive(share)
        starts = np.random.default_rng(seed).random(share.shape[1])
        columns = [systematic_indices(share[:, i], num_chains, u) for i, u in enumerate(starts)]
        indices = np.stack(columns, axis=1)  # (chain, item)
    chosen = {}
    for name, dataset in all_groups(posterior).items():
        if set(DRAWS) <= set(dataset.dims) and not name.startswith(("warmup", "prior")):
            dataset = dataset.isel(draw=kept)
            dataset = dataset if indices is None else _take_chains(dataset, indices, per_item=item_labels(posterior) != ["all"])
            if name == "sample_stats" and weighted:
                dataset["log_weight"] = xr.zeros_like(dataset["log_weight"])
        chosen[name] = dataset
    return assemble(posterior, chosen)


def _take_chains(dataset: xr.Dataset, indices: np.ndarray, per_item: bool) -> xr.Dataset:
    """Take chains indices[:, item] of variables with an item dimension, and chains indices[:, 0] of a general model's."""
    taken = {}
    for name, variable in dataset.data_vars.items():
        if "chain" not in variable.dims or (per_item and "item" not in variable.dims):
            taken[name] = variable
        elif not per_item:
            taken[name] = variable.isel(chain=indices[:, 0]).drop_vars("chain", errors="ignore")
        else:
            ordered = variable.transpose("chain", "item", ...)
            picked = ordered.values[indices, np.arange(indices.shape[1])]
            taken[name] = xr.DataArray(picked, dims=ordered.dims, attrs=variable.attrs).transpose(*variable.dims)
    coords = {name: value for name, value in dataset.coords.items() if name not in ("chain",)}
    result = xr.Dataset(taken, attrs=dataset.attrs).assign_coords(coords)
    return result.assign_coords(chain=np.arange(indices.shape[0]))

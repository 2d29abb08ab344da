"""Fair CRPS and energy score: their expectation does not depend on the number of draws.

With X and X' independent draws of the predictive distribution and y the truth,

    CRPS = E|X - y| - E|X - X'| / 2                      of one pixel,
    ES   = E||X - y|| - E||X - X'|| / 2                  of all judged pixels together (Euclidean norm),

both proper: in expectation the true distribution scores lowest (Gneiting and Raftery, 2007, eq. 20-22). If the truth has noise
and the draws have none, draws that are slightly too wide score lowest. All pairs of draws, including a draw with itself, would
score the empirical distribution, which is worse than the distribution it was drawn from by E|X - X'| / 2n for n independent
draws. A fair score uses pairs of independent draws only (Ferro, 2014, "Fair scores for ensemble forecasts"). Draws of one chain
are not independent, and chains of one population share ancestors after resampling. Draws therefore have the label of a group
(`groups.independent_groups`), and with W_g the weight of group g

    E||X - X'|| ~ sum_{g != h} sum_{i in g, j in h} w_i w_j ||x_i - x_j|| / (1 - sum_g W_g^2),

a weighted U-statistic. For equally weighted independent groups both scores are unbiased, for any number of draws and any
dependence inside a group. Self-normalised weights make them ratios of unbiased estimates, with a bias of O(1 / groups), as does
resampling over all populations, which makes the size of a population random. If one group has all the weight there are no
pairs, and the score is NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from cogen.diagnostics.scores import counted_pixels, shares
from cogen.inference.signatures import ArrayLike

ROWS = 512
"""Rows of the distance matrix that are computed at once."""


Difference = TypeVar("Difference", float, np.ndarray)


class ItemDraws(NamedTuple):
    """The draws of positive weight of one item, at its judged pixels."""

    draws: np.ndarray  # (draw, pixel), float64
    truth: np.ndarray  # (pixel,)
    weight: np.ndarray  # (draw,), sums to one
    group: np.ndarray  # (draw,)


def items_of(
    draws: ArrayLike,
    truth: ArrayLike,
    mask: ArrayLike | None = None,
    log_weight: ArrayLike | None = None,
    group: ArrayLike | None = None,
) -> Iterator[ItemDraws | None]:
    """One `ItemDraws` per item; None for an item without weights or judged pixels, or with non-finite values at these.

    :param draws: (chain, draw, item, ...).
    :param truth: (item, ...).
    :param mask: boolean, True where a pixel is judged, (item, ...) or (...); all pixels when None.
    :param log_weight: (chain, draw, item); equal weights when None.
    :param group: labels of independent groups, integers (chain, draw, item); chains when None.
    :raises ValueError: for shapes that do not match.
    :raises TypeError: for a mask that is not boolean.
    """
    values, target = np.asarray(draws), np.asarray(truth)
    if values.ndim < 3 or values.shape[2:] != target.shape:
        raise ValueError(
            f"draws have shape {values.shape}, the truth {target.shape}: draws must be (chain, draw, *truth.shape)"
        )
    judged = counted_pixels(mask, target.shape)
    share = shares(values, log_weight)
    label = np.broadcast_to(np.arange(values.shape[0])[:, None, None], share.shape) if group is None else np.asarray(group)
    if label.shape != share.shape:
        raise ValueError(f"group has shape {label.shape}; it must be (chain, draw, item) = {share.shape}")
    return _items(values, target, judged, share, label)


def _items(
    values: np.ndarray, target: np.ndarray, judged: np.ndarray, share: np.ndarray, label: np.ndarray
) -> Iterator[ItemDraws | None]:
    for item in range(target.shape[0]):  # item by item, to hold the draws of only one item in float64
        weight, chosen = share[:, :, item].reshape(-1), judged[item]
        if np.isnan(weight).any() or not chosen.any():
            yield None
            continue
        alive = weight > 0
        pixels = values[:, :, item][:, :, chosen].reshape(weight.size, -1)[alive].astype(np.float64)
        truth = target[item][chosen].astype(np.float64)
        if not (np.isfinite(pixels).all() and np.isfinite(truth).all()):
            yield None
            continue
        yield ItemDraws(pixels, truth, weight[alive], label[:, :, item].reshape(-1)[alive])


def absolute_difference(draws: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """sum_ij w_i w_j |x_i - x_j| per pixel: draws (draw, pixel), weights (draw,) of any sum; O(n log n)."""
    order = np.argsort(draws, axis=0)
    below = np.cumsum(weight[order], axis=0)[:-1]
    return 2 * (below * (weight.sum() - below) * np.diff(np.take_along_axis(draws, order, axis=0), axis=0)).sum(axis=0)


def euclidean_difference(draws: np.ndarray, weight: np.ndarray) -> float:
    """sum_ij w_i w_j ||x_i - x_j||: draws (draw, pixel), weights (draw,) of any sum; O(n^2) distances."""
    draws = draws - draws.mean(axis=0)  # less cancellation
    square = (draws**2).sum(axis=1)
    total = 0.0
    for start in range(0, len(draws), ROWS):
        rows = slice(start, start + ROWS)
        squared = square[rows, None] + square - 2 * draws[rows] @ draws.T
        total += weight[rows] @ np.sqrt(np.maximum(squared, 0.0)) @ weight
    return float(total)


def pair_weight(one: ItemDraws, is_sample: bool = True) -> float:
    """1 - sum_g W_g^2, the weight of pairs from different groups (1 for a whole distribution); NaN without such pairs."""
    if not is_sample:
        return 1.0
    _, group = np.unique(one.group, return_inverse=True)
    weight = float(1 - (np.bincount(group, weights=one.weight) ** 2).sum())
    return weight if weight > 1e-9 else float("nan")  # smaller values are rounding errors


def mean_difference(
    one: ItemDraws, difference: Callable[[np.ndarray, np.ndarray], Difference], is_sample: bool = True
) -> Difference:
    """E||X - X'|| from pairs of different groups.

    :param difference: `absolute_difference` or `euclidean_difference`.
    :param is_sample: False if the draws are the whole distribution; then all pairs are used.
    """
    total = difference(one.draws, one.weight)
    if is_sample:
        labels, size = np.unique(one.group, return_counts=True)
        for label in labels[size > 1]:  # a single draw has distance 0 to itself
            inside = one.group == label
            total = total - difference(one.draws[inside], one.weight[inside])
    return total / pair_weight(one, is_sample)


def crps_of(one: ItemDraws, is_sample: bool = True) -> np.ndarray:
    """CRPS of each judged pixel of an item, (pixel,); fair unless the draws are the whole distribution."""
    error = one.weight @ np.abs(one.draws - one.truth)
    return error - mean_difference(one, absolute_difference, is_sample) / 2


def energy_score_of(one: ItemDraws, is_sample: bool = True) -> tuple[float, float]:
    """Energy score of the judged pixels of an item, and E||X - X'||; fair unless the draws are the whole distribution."""
    error = one.weight @ np.linalg.norm(one.draws - one.truth, axis=1)
    distance = mean_difference(one, euclidean_difference, is_sample)
    return float(error - distance / 2), float(distance)


def fair_crps(
    draws: ArrayLike,
    truth: ArrayLike,
    mask: ArrayLike | None = None,
    log_weight: ArrayLike | None = None,
    group: ArrayLike | None = None,
) -> np.ndarray:
    """Mean fair CRPS of the judged pixels, (item,); NaN for a single group. Arguments are those of `items_of`."""
    found = items_of(draws, truth, mask, log_weight, group)
    return np.array([np.nan if one is None else crps_of(one).mean() for one in found])


def energy_score(
    draws: ArrayLike,
    truth: ArrayLike,
    mask: ArrayLike | None = None,
    log_weight: ArrayLike | None = None,
    group: ArrayLike | None = None,
) -> np.ndarray:
    """Fair energy score of all judged pixels together, (item,); NaN for a single group. Arguments are those of `items_of`."""
    found = items_of(draws, truth, mask, log_weight, group)
    return np.array([np.nan if one is None else energy_score_of(one)[0] for one in found])

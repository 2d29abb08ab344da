"""Scores of a completion whose truth is known: CRPS, interval coverage, squared error, PSNR.

The continuous ranked probability score (CRPS) scores the whole posterior of a pixel, not one draw. With F the weighted
distribution of the draws and y the truth,

    CRPS = integral (F(x) - 1{x >= y})^2 dx = sum_i w_i |x_i - y| - sum_k F_k (1 - F_k) (x_(k+1) - x_(k))

where x_(k) are the sorted draws and F_k their cumulative weights: exact, O(n log n) (Gneiting and Raftery, 2007,
"Strictly proper scoring rules", eq. 20-21). It is in the units of the pixel; for one draw, or equal draws, it is the
absolute error. This is the score of the empirical distribution; that of the distribution from which the draws were taken is
lower, and `fair_scores` estimates it without bias.

Draws have the axes (chain, draw, item, ...), truth and mask (item, ...), log weights (chain, draw, item), as arrays or
DataArrays. The mask is True at counted pixels (for example, hidden and not saturated); means over it are per item, NaN where
it is empty. The truth of a noisy pixel is generator output plus noise: add noise to the draws first, or coverage counts the
noise as an error (`score_completions` adds it).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cogen.diagnostics.weights import normalise, quantile_of_sorted
from cogen.inference.signatures import ArrayLike


def masked_mean(values: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Mean over the counted pixels (all when mask is None), values (item, ...) -> (item,); NaN if there are none."""
    array = np.asarray(values, dtype=np.float64)
    counted = counted_pixels(mask, array.shape)
    axes = tuple(range(1, array.ndim))
    number = counted.sum(axis=axes)
    total = np.where(counted, array, 0.0).sum(axis=axes)
    return np.divide(total, number, out=np.full(array.shape[0], np.nan), where=number > 0)


def counted_pixels(mask: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """The mask as an array of this shape (item, ...).

    :param mask: boolean, of this shape or without the item axis; all True when None.
    :raises TypeError: for a mask that is not boolean.
    :raises ValueError: for another shape.
    """
    if mask is None:
        return np.ones(shape, dtype=bool)
    array = np.asarray(mask)
    if array.dtype != bool:
        raise TypeError(f"the mask has dtype {array.dtype}; it must be boolean, True where a pixel counts")
    if array.shape not in (shape, shape[1:]):
        raise ValueError(f"the mask has shape {array.shape}; the values have {shape}: give {shape} or {shape[1:]}")
    return np.broadcast_to(array, shape)


def crps_pixels(draws: ArrayLike, truth: ArrayLike, log_weight: ArrayLike | None = None) -> np.ndarray:
    """CRPS of every pixel, (item, ...); NaN where the truth is NaN."""

    def score(ordered: np.ndarray, cumulative: np.ndarray, weight: np.ndarray, target: np.ndarray) -> np.ndarray:
        error = (weight * np.abs(ordered - target)).sum(axis=0)
        below = cumulative[:-1]
        return error - (below * (1 - below) * np.diff(ordered, axis=0)).sum(axis=0)

    return _per_item(score, draws, truth, log_weight)


def crps(draws: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None, log_weight: ArrayLike | None = None) -> np.ndarray:
    """Mean CRPS of the counted pixels, (item,)."""
    return masked_mean(crps_pixels(draws, truth, log_weight), mask)


def covered_pixels(draws: ArrayLike, truth: ArrayLike, level: float, log_weight: ArrayLike | None = None) -> np.ndarray:
    """1 where the central interval of the draws contains the truth, 0 elsewhere: (item, ...).

    The interval is [Q((1 - level) / 2), Q((1 + level) / 2)] with the weighted quantiles of `weights`, ends included. NaN where
    the truth is NaN, and for items without weights.

    :raises ValueError: for a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"interval level {level} is not between 0 and 1: give, for example, 0.9")

    def inside(ordered: np.ndarray, cumulative: np.ndarray, weight: np.ndarray, target: np.ndarray) -> np.ndarray:
        low = quantile_of_sorted(ordered, cumulative, (1 - level) / 2)
        high = quantile_of_sorted(ordered, cumulative, (1 + level) / 2)
        return np.where(np.isnan(target), np.nan, (low <= target) & (target <= high))

    return _per_item(inside, draws, truth, log_weight)


def coverage(
    draws: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None, level: float = 0.9, log_weight: ArrayLike | None = None
) -> np.ndarray:
    """Share of the counted pixels inside the central interval, (item,): `level` on average if calibrated."""
    return masked_mean(covered_pixels(draws, truth, level, log_weight), mask)


def _per_item(score: Callable[..., np.ndarray], draws: ArrayLike, truth: ArrayLike, log_weight: ArrayLike | None) -> np.ndarray:
    """Sort the draws of each item by pixel and call `score` with (ordered, cumulative weights, weights, truth)."""
    values, target = np.asarray(draws), np.asarray(truth)
    if values.ndim < 3 or values.shape[2:] != target.shape:
        raise ValueError(
            f"draws have shape {values.shape}, the truth {target.shape}: draws must be (chain, draw, *truth.shape)"
        )
    weight = shares(values, log_weight)
    answers = np.empty(target.shape)
    for item in range(target.shape[0]):  # item by item, to hold the draws of only one item in float64
        share = weight[:, :, item].reshape(-1)
        if np.isnan(share).any():
            answers[item] = np.nan
            continue
        pixels = values[:, :, item].reshape(share.size, -1)[share > 0].astype(np.float64)
        order = np.argsort(pixels, axis=0)
        ordered = np.take_along_axis(pixels, order, axis=0)
        weight_ordered = share[share > 0][order]
        cumulative = np.cumsum(weight_ordered, axis=0)
        answer = score(ordered, cumulative, weight_ordered, target[item].reshape(-1).astype(np.float64))
        answers[item] = answer.reshape(target.shape[1:])
    return answers


def shares(draws: np.ndarray, log_weight: ArrayLike | None) -> np.ndarray:
    """The normalised weights of the draws (chain, draw, item); equal weights without log weights."""
    if log_weight is None:
        return np.full(draws.shape[:3], 1.0 / (draws.shape[0] * draws.shape[1]))
    weight = normalise(np.asarray(log_weight))
    if weight.shape != draws.shape[:3]:
        raise ValueError(f"log_weight has shape {weight.shape}, the draws (chain, draw, item) = {draws.shape[:3]}")
    return weight


def mean_of_draws(draws: ArrayLike, log_weight: ArrayLike | None = None) -> np.ndarray:
    """The weighted mean over chains and draws: (chain, draw, item, ...) -> (item, ...)."""
    values = np.asarray(draws)
    weight = shares(values, log_weight)
    if (weight == 0).any():  # draws of zero weight may be NaN, and 0 * NaN is NaN
        values = np.where((weight > 0).reshape(*weight.shape, *[1] * (values.ndim - 3)), values, 0)
    return np.einsum("cdi,cdi...->i...", weight, values)


def mse_of_draws(
    draws: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None, log_weight: ArrayLike | None = None
) -> np.ndarray:
    """The weighted mean over draws of each draw's mean squared error over the counted pixels, (item,).

    It is the squared error of the mean plus the variance of the draws, so it does not measure calibration.
    """
    values = np.asarray(draws)
    error = np.stack([[mse(draw, truth, mask) for draw in chain] for chain in values])
    weight = shares(values, log_weight)
    return np.where(weight == 0, 0.0, weight * error).sum(axis=(0, 1))


def mse(estimate: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> np.ndarray:
    """Mean squared error over the counted pixels, (item, ...) -> (item,)."""
    first, second = same_shape(estimate, truth)
    return masked_mean((first - second) ** 2, mask)


def psnr(estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float], mask: ArrayLike | None = None) -> np.ndarray:
    """Peak signal-to-noise ratio of the counted pixels in dB, 10 log10((high - low)^2 / mse); inf if the error is zero."""
    peak = peak_to_peak(value_range)
    with np.errstate(divide="ignore"):
        return 10 * np.log10(peak**2 / mse(estimate, truth, mask))


def peak_to_peak(value_range: tuple[float, float]) -> float:
    """high - low of a value range such as (-1, 1).

    :raises ValueError: for an empty range.
    """
    low, high = (float(value) for value in value_range)
    if not low < high:
        raise ValueError(f"value range ({low}, {high}) is empty: give (low, high), e.g. (-1, 1), of the generator's pixels")
    return high - low


def same_shape(estimate: ArrayLike, truth: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64 arrays.

    :raises ValueError: for different shapes.
    """
    first, second = np.asarray(estimate, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"the estimate has shape {first.shape}, the truth {second.shape}; both must be (item, ...)")
    return first, second

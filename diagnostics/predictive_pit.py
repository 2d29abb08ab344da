"""Is the predictive distribution calibrated? The randomised probability integral transform (PIT) of the truth.

For draws x_i of what would be observed, noise included, with normalised weights w_i, and U uniform on (0, 1),

    PIT(y) = (sum_i w_i 1{x_i < y} + U (w_0 + sum_i w_i 1{x_i = y})) / (1 + w_0),        w_0 = sum_i w_i^2

(1 / n for n equal weights): the truth ranked among the draws as one of them, ties broken at random. When y comes from the
distribution of independent, equally weighted draws, PIT(y) is uniform, exactly and for any n, for distributions with atoms too
(saturated pixels). It is uniform over ALL pixels: those that are chosen by the value of y have another distribution. Its mean
is 1/2 and its dispersion 12 E (PIT - 1/2)^2 is 1; more means a predictive that is too narrow, less one that is too wide.
Draws that are copies of A independent ones, after a resampling or in a chain that hardly moves, have a dispersion of up to
1 + 2 / A even when all is right: read it beside the number of ancestors.
A central interval of level q holds y when |PIT - 1/2| <= q / 2, which has probability q, ties or not.

All pixels of an item together are ranked by their distance T(v) = ||v - m|| to the mean m of draws and truth pooled, in which
all n + 1 are exchangeable, so that the joint PIT is uniform too, whatever the pixels' dependence; the region {T <= its
q-quantile} has joint coverage q.

References: Czado, Gneiting and Held (2009), "Predictive model assessment for count data", eq. 1, for the randomisation;
Gneiting, Stanberry, Grimit, Held and Johnson (2008), "Assessing probabilistic forecasts of multivariate quantities", for ranks
of many pixels at once.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import kstest

NUM_BINS = 10
"""Bins of a histogram of PIT values."""


def randomised_pit(draws: np.ndarray, truth: np.ndarray, weight: np.ndarray, uniform: np.ndarray, own: float) -> np.ndarray:
    """PIT of each pixel: draws (draw, pixel), truth and uniform (pixel,), normalised weights (draw,).

    :param own: the weight w_0 of the truth among the draws; 0 when the draws are the whole distribution.
    """
    below, ties = weight @ (draws < truth), weight @ (draws == truth)
    return np.where(np.isnan(truth), np.nan, (below + uniform * (own + ties)) / (1 + own))


def joint_pit(draws: np.ndarray, truth: np.ndarray, weight: np.ndarray, uniform: float, own: float) -> float:
    """PIT of the truth's distance to the pooled mean: 0 in the middle of the predictive, 1 outside of all draws."""
    centre = (weight @ draws + own * truth) / (1 + own)
    distance = ((draws - centre) ** 2).sum(axis=1, keepdims=True)
    at_truth = ((truth - centre) ** 2).sum(keepdims=True)
    return float(randomised_pit(distance, at_truth, weight, np.array([uniform]), own)[0])


def dispersion(pit: np.ndarray) -> float:
    """12 times the mean square of PIT - 1/2: 1 when uniform, above it for a predictive that is too narrow."""
    return float(12 * ((pit - 0.5) ** 2).mean())


def histogram(pit: np.ndarray) -> np.ndarray:
    """Shares of the PIT values in `NUM_BINS` bins of equal width."""
    inside = pit[np.isfinite(pit)]
    counts = np.bincount(np.minimum((inside * NUM_BINS).astype(int), NUM_BINS - 1), minlength=NUM_BINS)
    return counts / max(inside.size, 1)


def pit_p_value(joint_pit: np.ndarray) -> float:
    """Is the predictive calibrated? The p-value of Kolmogorov and Smirnov's test of the joint PITs of items, (item,).

    Pixels of an item depend on each other, items do not: the joint PIT of an item is uniform whatever its pixels' dependence,
    so that the test is exact for any number of items whose draws are independent and equally weighted. (A test of the items'
    mean PIT and dispersion is not: where pixels depend strongly on each other and items are few, it rejects too often.) Items
    without a value are left out; NaN where none has one.
    """
    known = np.asarray(joint_pit, dtype=float)
    known = known[np.isfinite(known)]
    return float(kstest(known, "uniform").pvalue) if known.size else float("nan")

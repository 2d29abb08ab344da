"""Calibration of a predictive distribution: the randomised probability integral transform (PIT) of the truth.

For predictive draws x_i, noise included, with normalised weights w_i, and U uniform on (0, 1),

    PIT(y) = (sum_i w_i 1{x_i < y} + U (w_0 + sum_i w_i 1{x_i = y})) / (1 + w_0),        w_0 = sum_i w_i^2

(1 / n for n equal weights): the rank of the truth among draws and truth, ties broken at random. If y has the distribution of
independent, equally weighted draws, PIT(y) is exactly uniform for any n, also for distributions with atoms (saturated pixels).
This holds over ALL pixels, not over pixels selected by the value of y. The mean is 1/2 and the dispersion 12 E (PIT - 1/2)^2
is 1; a larger one means a predictive distribution that is too narrow, a smaller one that it is too wide. Draws that are copies
of A independent ones, after resampling or in a chain that hardly moves, have a dispersion of up to 1 + 2 / A even if they are
calibrated: compare it with the number of ancestors.
A central interval of level q contains y if |PIT - 1/2| <= q / 2, which has probability q, with or without ties.

All pixels of an item together are ranked by their distance T(v) = ||v - m|| to the mean m of the pooled draws and truth. All
n + 1 are exchangeable, so that the joint PIT is uniform too, for any dependence of the pixels; the region {T <= its q-quantile}
has joint coverage q.

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

    :param own: the weight w_0 of the truth among the draws; 0 if the draws are the whole distribution.
    """
    below, ties = weight @ (draws < truth), weight @ (draws == truth)
    return np.where(np.isnan(truth), np.nan, (below + uniform * (own + ties)) / (1 + own))


def joint_pit(draws: np.ndarray, truth: np.ndarray, weight: np.ndarray, uniform: float, own: float) -> float:
    """PIT of the truth's distance to the pooled mean: 0 at the centre of the draws, 1 beyond all of them."""
    centre = (weight @ draws + own * truth) / (1 + own)
    distance = ((draws - centre) ** 2).sum(axis=1, keepdims=True)
    at_truth = ((truth - centre) ** 2).sum(keepdims=True)
    return float(randomised_pit(distance, at_truth, weight, np.array([uniform]), own)[0])


def dispersion(pit: np.ndarray) -> float:
    """12 times the mean square of PIT - 1/2: 1 if uniform, larger if the predictive distribution is too narrow."""
    return float(12 * ((pit - 0.5) ** 2).mean())


def histogram(pit: np.ndarray) -> np.ndarray:
    """Shares of the PIT values in `NUM_BINS` bins of equal width."""
    inside = pit[np.isfinite(pit)]
    counts = np.bincount(np.minimum((inside * NUM_BINS).astype(int), NUM_BINS - 1), minlength=NUM_BINS)
    return counts / max(inside.size, 1)


def pit_p_value(joint_pit: np.ndarray) -> float:
    """The p-value of the Kolmogorov-Smirnov test that the joint PITs of items, (item,), are uniform.

    Pixels of an item are dependent, items are not. The joint PIT of an item is uniform for any dependence of its pixels, so
    that the test is exact for any number of items with independent, equally weighted draws. (A test of the items' mean PIT and
    dispersion rejects too often if pixels are strongly dependent and items are few.) Items with a non-finite PIT are left out;
    NaN if none remains.
    """
    known = np.asarray(joint_pit, dtype=float)
    known = known[np.isfinite(known)]
    return float(kstest(known, "uniform").pvalue) if known.size else float("nan")

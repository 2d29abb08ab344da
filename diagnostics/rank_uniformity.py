"""Uniformity of ranks: two tests with known false alarm rates, and the simultaneous envelope of the ECDF.

N ranks, each in 0, ..., L, are uniform if the sampler is correct. Let R_k be the number of ranks below k, binomial with N
and k / (L + 1), and

    p_k = min(1, 2 min(P[Bin <= R_k], P[Bin >= R_k])),        gamma = min_k p_k,    k = 1, ..., L.

gamma is not a p-value, since it is a minimum over L positions. Under uniformity R_1, R_2, ... is a Markov chain,
R_(k+1) - R_k ~ Bin(N - R_k, 1 / (L + 1 - k)), so that the probability of p_k > gamma at every k follows from one pass over k;
one minus it is the p-value, exact for every N and L. The envelope is the band that contains the whole ECDF with the stated
probability. The other test is Pearson's chi-squared test of the histogram, which has more power against single bins.

    Saeilynoja, Buerkner and Vehtari (2022), Graphical test for discrete uniformity and its applications in goodness-of-fit
    evaluation and multiple sample comparison, section 2 (their recursion, on the ranks' own grid).

Departure: a p-value is computed from the distribution of gamma, not only a decision at one level.
"""

from __future__ import annotations

import numpy as np
from scipy.special import bdtr, bdtrc, chdtrc, gammaln

LEAST_EXPECTED = 5
"""Least expected count of a bin of the chi-squared test, for which its distribution is close to the limit."""


def check_ranks(ranks: np.ndarray, num_ranks: int) -> np.ndarray:
    """The (simulation,) ranks as integers.

    :raises ValueError: for ranks that are not integers in 0, ..., num_ranks, and if there are none.
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or not ranks.size:
        raise ValueError(f"ranks have shape {ranks.shape}; they must be the ranks of one quantity, (simulation,)")
    if num_ranks < 1 or not np.issubdtype(ranks.dtype, np.integer) or ranks.min() < 0 or ranks.max() > num_ranks:
        raise ValueError(
            f"ranks among {num_ranks} draws must be integers from 0 to {num_ranks}; these are {ranks.dtype} from"
            f" {ranks.min()} to {ranks.max()}"
        )
    return ranks


def num_bins(num_simulations: int, num_ranks: int) -> int:
    """The largest number of bins of equal width with at least five expected ranks each; 1 if two bins have fewer."""
    values = num_ranks + 1
    return max(d for d in range(1, values + 1) if values % d == 0 and (d == 1 or num_simulations >= LEAST_EXPECTED * d))


def chi_squared_p_value(ranks: np.ndarray, num_ranks: int) -> float:
    """The p-value of Pearson's chi-squared test of the histogram; NaN if there are too few ranks for two bins."""
    ranks = check_ranks(ranks, num_ranks)
    bins = num_bins(ranks.size, num_ranks)
    if bins < 2:
        return float("nan")
    counts = np.bincount(ranks * bins // (num_ranks + 1), minlength=bins)
    expected = ranks.size / bins
    return float(chdtrc(bins - 1, ((counts - expected) ** 2).sum() / expected))


def envelope_p_value(ranks: np.ndarray, num_ranks: int) -> float:
    """The probability that the ECDF of uniform ranks has a gamma at most as large as this one."""
    ranks = check_ranks(ranks, num_ranks)
    below = np.cumsum(np.bincount(ranks, minlength=num_ranks + 1))[:-1]  # (num_ranks,): R_1, ..., R_L
    pointwise = _pointwise(ranks.size, num_ranks)
    gamma = float(pointwise[np.arange(num_ranks), below].min())
    if gamma < 1e-10:
        return num_ranks * gamma  # the union bound: one minus the probability below would be a rounding error
    return max(0.0, 1.0 - _stays(pointwise > gamma * (1 + 1e-9)))


def ecdf_envelope(num_simulations: int, num_ranks: int, coverage: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The simultaneous band of the share of ranks below k = 1, ..., num_ranks: lower and upper, (num_ranks,) each.

    :param coverage: least probability that the whole ECDF of uniform ranks lies in the band (ends included).
    :raises ValueError: for a coverage outside (0, 1).
    """
    if not 0.0 < coverage < 1.0:
        raise ValueError(f"coverage={coverage}: give a probability between 0 and 1")
    pointwise = _pointwise(num_simulations, num_ranks)
    low, high = np.log((1 - coverage) / num_ranks) - 1.0, np.log(1 - coverage) + 1.0
    for _ in range(25):  # bisection for the largest level with this coverage, which falls as the level rises
        middle = (low + high) / 2
        low, high = (middle, high) if _stays(pointwise >= np.exp(middle)) >= coverage else (low, middle)
    inside = pointwise >= np.exp(low)
    lower = inside.argmax(axis=1)
    upper = num_simulations - inside[:, ::-1].argmax(axis=1)
    return lower / num_simulations, upper / num_simulations


def _pointwise(num_simulations: int, num_ranks: int) -> np.ndarray:
    """p_k of every count, (num_ranks, num_simulations + 1)."""
    count = np.arange(num_simulations + 1.0)
    share = (np.arange(1, num_ranks + 1) / (num_ranks + 1))[:, None]
    at_least = np.where(count > 0, bdtrc(np.maximum(count - 1, 0), num_simulations, share), 1.0)
    return np.minimum(1.0, 2 * np.minimum(bdtr(count, num_simulations, share), at_least))


def _stays(allowed: np.ndarray) -> float:
    """The probability that the counts of uniform ranks are allowed at every k, given allowed counts (num_ranks, N + 1)."""
    num_ranks, size = allowed.shape[0], allowed.shape[1] - 1
    log_factorial = gammaln(np.arange(size + 1) + 1.0)
    before, probability = np.zeros(1, dtype=int), np.ones(1)
    for k in range(num_ranks):
        after = np.flatnonzero(allowed[k])
        share = 1.0 / (num_ranks + 1 - k)
        rise = after - before[:, None]
        log_step = (
            (log_factorial[size - before])[:, None]
            - log_factorial[np.maximum(rise, 0)]
            - log_factorial[size - after]
            + rise * np.log(share)
            + (size - after) * np.log1p(-share)
        )
        before, probability = after, probability @ np.where(rise >= 0, np.exp(np.where(rise >= 0, log_step, 0.0)), 0.0)
    return float(probability.sum())

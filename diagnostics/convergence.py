"""R-hat, effective sample size and nested R-hat for thousands of scalars at once.

R-hat is the larger of the rank-normalised split R-hat of the draws and of their distance from the median; ESS sums
Geyer's initial monotone sequence over the split chains, for the ranks (bulk) and for the 5 % and 95 % quantiles (tail):
Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization, folding, and localization", eq. 1-4, 10,
13, 14. The results equal ArviZ's, including its conventions for ties, constants, odd lengths and few draws. ArviZ computes
scalar by scalar; here all scalars share each sort and each Fourier transform (the autocovariances are averaged over chains
as power spectra, so that one inverse transform serves all chains of a scalar).

Nested R-hat (Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari and Gelman, 2024, "Nested R-hat: assessing the
convergence of Markov chain Monte Carlo when running many short chains") compares groups of chains: see `nested_rhat`.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar, overload

import numpy as np
import xarray as xr
from scipy import fft
from scipy.special import ndtri

from cogen.diagnostics.groups import DRAWS, group, parameters, statistic
from cogen.diagnostics.weights import chain_weights
from cogen.inference.signatures import ArvizObject

Values = TypeVar("Values")

BLOCK = 1 << 16  # numbers processed at a time: a few arrays of this size fit a core's cache


class Convergence(NamedTuple, Generic[Values]):
    """R-hat, bulk and tail effective sample size of every scalar: arrays or DataArrays, dims (...)."""

    rhat: Values
    ess_bulk: Values
    ess_tail: Values


@overload
def rhat_and_ess(values: xr.DataArray) -> Convergence[xr.DataArray]: ...


@overload
def rhat_and_ess(values: np.ndarray) -> Convergence[np.ndarray | np.float64]: ...


def rhat_and_ess(
    values: np.ndarray | xr.DataArray,
) -> Convergence[xr.DataArray] | Convergence[np.ndarray | np.float64]:
    """R-hat and both effective sample sizes with one sort: values (chain, draw, ...) -> `Convergence` of (...).

    Arrays give arrays, DataArrays give DataArrays. NaN for values that contain NaN and for fewer than four draws; R-hat is
    also NaN for a single chain and for a constant.

    :raises ValueError: for values without the axes chain and draw.
    """
    if isinstance(values, xr.DataArray):
        ordered = values.transpose(*DRAWS, ...)
        template = ordered.isel(chain=0, draw=0, drop=True)
        return Convergence(*(template.copy(data=part) for part in rhat_and_ess(ordered.values)))
    array = np.asarray(values)
    if array.ndim < 2:
        raise ValueError(f"values have shape {array.shape}; they must have the axes (chain, draw, ...)")
    num_chains, num_draws, *event = array.shape
    flat = array.reshape(num_chains, num_draws, -1)
    answer = np.full((3, flat.shape[2]), np.nan)
    if num_draws >= 4:
        step = max(1, BLOCK // (num_chains * num_draws))
        for start in range(0, flat.shape[2], step):
            piece = np.ascontiguousarray(np.moveaxis(flat[..., start : start + step], 2, 0), dtype=np.float64)
            valid = ~np.isnan(piece).any(axis=(1, 2))
            if valid.any():
                answer[:, start : start + step][:, valid] = _convergence_block(piece[valid])
    if num_chains < 2:
        answer[0] = np.nan
    return Convergence(*answer.reshape(3, *event))


@overload
def rhat(values: xr.DataArray) -> xr.DataArray: ...


@overload
def rhat(values: np.ndarray) -> np.ndarray | np.float64: ...


def rhat(values: np.ndarray | xr.DataArray) -> np.ndarray | np.float64 | xr.DataArray:
    """Rank-normalised split R-hat of values (chain, draw, ...)."""
    return rhat_and_ess(values).rhat


@overload
def ess_bulk(values: xr.DataArray) -> xr.DataArray: ...


@overload
def ess_bulk(values: np.ndarray) -> np.ndarray | np.float64: ...


def ess_bulk(values: np.ndarray | xr.DataArray) -> np.ndarray | np.float64 | xr.DataArray:
    """Effective sample size of the bulk of values (chain, draw, ...)."""
    return rhat_and_ess(values).ess_bulk


@overload
def ess_tail(values: xr.DataArray) -> xr.DataArray: ...


@overload
def ess_tail(values: np.ndarray) -> np.ndarray | np.float64: ...


def ess_tail(values: np.ndarray | xr.DataArray) -> np.ndarray | np.float64 | xr.DataArray:
    """The smaller of the effective sample sizes of the 5 % and 95 % quantiles of values (chain, draw, ...)."""
    return rhat_and_ess(values).ess_tail


def _convergence_block(values: np.ndarray) -> np.ndarray:
    """(scalar, chain, draw) -> (3, scalar)."""
    split = split_chains(values)
    shape = split.shape
    flat = split.reshape(shape[0], -1)
    size = flat.shape[1]
    order = np.argsort(flat, axis=1)
    ordered = np.take_along_axis(flat, order, axis=1)
    bulk = _normal_scores(order, ordered).reshape(shape)
    # The distance from the median falls, then rises along the sorted values: a stable sort only merges the two runs.
    median = (ordered[:, (size - 1) // 2] + ordered[:, size // 2]) / 2
    distance = np.abs(ordered - median[:, None])
    nearest = np.argsort(distance, axis=1, kind="stable")
    folded = _normal_scores(np.take_along_axis(order, nearest, axis=1), np.take_along_axis(distance, nearest, axis=1)).reshape(
        shape
    )
    # Quantiles are of all draws, including the middle draw of an odd length, which the halves leave out.
    every = ordered if values.shape[2] % 2 == 0 else np.sort(values.reshape(shape[0], -1), axis=1)
    tails = [ess_of_split((split <= _quantile(every, q)[:, None, None]).astype(np.float64)) for q in (0.05, 0.95)]
    return np.stack([np.fmax(_plain_rhat(bulk), _plain_rhat(folded)), ess_of_split(bulk), np.minimum(*tails)])


def split_chains(values: np.ndarray) -> np.ndarray:
    """(scalar, chain, draw) -> (scalar, 2 chain, draw // 2): first and last halves, without the middle of an odd length."""
    half = values.shape[-1] // 2
    return np.concatenate([values[..., :half], values[..., -half:]], axis=1)


def _quantile(ordered: np.ndarray, q: float) -> np.ndarray:
    """Quantile by linear interpolation (R's type 7). Between ties it is exactly their value; ArviZ's may differ by rounding."""
    position = q * (ordered.shape[1] - 1)
    low, high = ordered[:, int(position)], ordered[:, int(position) + 1]
    return low + (position - int(position)) * (high - low)


def _normal_scores(order: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Inverse normal of the ranks (Blom's 3/8 offset, ties share their mean rank), in the original order of the values."""
    num_scalars, size = order.shape
    # Twice the mean rank is an integer (first + last position of a tie), so the inverse normal is a table.
    table = ndtri((np.arange(2, 2 * size + 1) / 2 - 0.375) / (size + 0.25))
    sorted_scores = np.tile(table[::2], num_scalars)
    repeats = np.zeros(order.shape, dtype=bool)
    np.equal(ordered[:, 1:], ordered[:, :-1], out=repeats[:, 1:])
    tied = np.flatnonzero(repeats)  # each position whose value equals the one before; never the first of a row
    if tied.size:
        breaks = np.diff(tied) != 1
        first = tied[np.append(True, breaks)] - 1
        last = tied[np.append(breaks, True)]
        length = last - first + 1
        members = np.arange(length.sum()) + np.repeat(first - (np.cumsum(length) - length), length)
        sorted_scores[members] = np.repeat(table[first % size + last % size], length)
    scores = np.empty(order.size)
    scores[(order + np.arange(0, order.size, size)[:, None]).reshape(-1)] = sorted_scores
    return scores


def _plain_rhat(chains: np.ndarray) -> np.ndarray:
    """sqrt(((N - 1) / N W + B / N) / W) of (scalar, chain, draw)."""
    size = chains.shape[-1]
    within = chains.var(axis=2, ddof=1).mean(axis=1)
    between = size * chains.mean(axis=2).var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((between / within + size - 1) / size)


def ess_of_split(chains: np.ndarray) -> np.ndarray:
    """N C / tau of (scalar, chain, draw), tau by Geyer's initial monotone sequence of pairs.

    A constant has the nominal size, as in ArviZ.
    """
    num_scalars, num_chains, size = chains.shape
    nominal = num_chains * size
    means = chains.mean(axis=2)
    padded = fft.next_fast_len(2 * size, real=True)
    spectrum = fft.rfft(chains - means[..., None], n=padded, axis=2)
    power = (spectrum.real**2 + spectrum.imag**2).mean(axis=1)
    autocovariance = fft.irfft(power, n=padded, axis=1)[:, :size] / size  # (scalar, lag), mean over chains
    within = autocovariance[:, 0] * size / (size - 1)
    total = autocovariance[:, 0].copy()
    if num_chains > 1:
        total += means.var(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within[:, None] - autocovariance) / total[:, None]
    rho[:, 0] = 1.0
    num_pairs = max(1, (size - 1) // 2)  # without the last lags, as in ArviZ
    pairs = rho[:, 0 : 2 * num_pairs : 2] + rho[:, 1 : 2 * num_pairs : 2]  # (scalar, pair)
    falls = pairs <= 0
    stop = np.where(falls.any(axis=1), falls.argmax(axis=1), num_pairs - 1)  # the first pair that is not counted twice
    counted = np.arange(num_pairs) < stop[:, None]
    monotone = np.minimum.accumulate(pairs, axis=1)
    rows = np.arange(num_scalars)
    even = rho[rows, 2 * stop]
    final = np.where((even > 0) | (pairs[rows, stop] >= 0), even, 0.0)
    tau = -1 + 2 * np.where(counted, monotone, 0.0).sum(axis=1) + final
    ess = nominal / np.maximum(tau, 1 / np.log10(nominal))
    constant = np.ptp(chains.reshape(num_scalars, -1), axis=1) < 1e-15
    return np.where(constant, nominal, ess)


def nested_rhat(posterior: ArvizObject, var_names: list[str] | None = None) -> xr.Dataset:
    """Nested R-hat of every scalar of the posterior group, over the populations of an annealed run.

    Superchain k is the set of chains whose ancestor belonged to population k (`sample_stats["population"]`). With w_c the
    weight of chain c, W_k the weight of its superchain, u_c = w_c / W_k, m_c and s_c^2 the mean and variance of the chain's
    draws:

        mean_k    = sum_c u_c m_c
        within_k  = sum_c u_c (m_c - mean_k)^2 / (1 - sum_c u_c^2)  +  sum_c u_c s_c^2
        within    = sum_k W_k within_k
        between   = sum_k W_k (mean_k - mean)^2 / (1 - sum_k W_k^2),        mean = sum_k W_k mean_k
        nested R-hat = sqrt(1 + between / within)

    With K equal superchains of M equal chains this is the paper's definition: 1 / (1 - sum u^2) = M / (M - 1) makes the first
    term the sample variance, and W_k = 1 / K the between term. `between` is half the mean squared distance between the means of
    two different superchains picked by weight, so a superchain with one chain of small weight has little influence. A single
    chain has no between-chain variance, a single draw no within-chain variance (zero, as in the paper). With M independent
    chains per superchain even a converged run has about sqrt(1 + 1 / M); see `cogen.diagnostics.diagnosis`.

    The value is inf if all chains of positive weight descend from one population, and NaN for constants.

    :param posterior: what `infer` returned.
    :param var_names: variables of the posterior; all but the pixels `x` made from z when None.
    :returns: a Dataset with dims ([item], ...).
    :raises ValueError: for a run without populations (for NUTS or HMC use `rhat`).
    """
    label = statistic(posterior, "population")
    if label is None:
        kernel = group(posterior, "posterior").attrs.get("kernel", "this kernel")
        raise ValueError(f"{kernel} has no populations, so nested R-hat is not defined: use rhat")
    sampled = parameters(posterior, var_names)
    membership = label.isel(draw=0).transpose("chain", ...)
    share = chain_weights(posterior).transpose("chain", ...)
    single = "item" not in membership.dims
    labels = np.unique(membership.values)
    belongs = membership.values[None] == labels.reshape(-1, *[1] * membership.ndim)
    if single:
        belongs = belongs[..., None]
    # (group, chain, item) weights
    weight = belongs * (share.values[:, None] if single else share.values)
    answer = {}
    for name, variable in sampled.data_vars.items():
        has_item = "item" in variable.dims
        ordered = variable.transpose(*DRAWS, *(["item"] if has_item else []), ...)
        values = ordered.values.reshape(*ordered.shape[:2], ordered.sizes["item"] if has_item else 1, -1)
        nested = _nested_rhat_block(values, weight)
        template = ordered.isel(chain=0, draw=0, drop=True)
        answer[name] = template.copy(data=nested.reshape(template.shape))
    return xr.Dataset(answer)


def _nested_rhat_block(values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """values (chain, draw, item, scalar), weight (group, chain, item) -> (item, scalar)."""
    alive = weight.sum(axis=0) > 0  # (chain, item)
    anchor = np.take_along_axis(values[:, 0], alive.argmax(axis=0)[None, :, None], axis=0)  # constants become zero
    values = np.where(alive[:, None, :, None], values - anchor, 0.0)
    means = values.mean(axis=1, dtype=np.float64)  # (chain, item, scalar)
    variances = values.var(axis=1, ddof=1, dtype=np.float64) if values.shape[1] > 1 else np.zeros_like(means)
    mass = weight.sum(axis=1)  # (group, item)
    with np.errstate(divide="ignore", invalid="ignore"):
        inside = np.where(mass[:, None] > 0, weight / mass[:, None], 0.0)  # (group, chain, item)
        group_means = np.einsum("gci,cis->gis", inside, means)
        # Deviations from the mean, since the two large terms of E[m^2] - E[m]^2 would cancel.
        between_chains = np.stack(
            [np.einsum("ci,cis->is", u, (means - m) ** 2) for u, m in zip(inside, group_means, strict=True)]
        )
        lack = 1 - (inside**2).sum(axis=1)  # (group, item): zero for a single chain
        between_chains = np.where(lack[..., None] > 1e-9, between_chains / lack[..., None], 0.0)
        within_groups = between_chains + np.einsum("gci,cis->gis", inside, variances)
        within = np.einsum("gi,gis->is", mass, within_groups)
        grand = np.einsum("gi,gis->is", mass, group_means)
        spare = 1 - (mass**2).sum(axis=0)
        between = np.einsum("gi,gis->is", mass, (group_means - grand) ** 2) / spare[:, None]
        nested = np.sqrt(1 + between / within)
    return np.where(((mass > 0).sum(axis=0) < 2)[:, None] | (spare < 1e-12)[:, None], np.inf, nested)

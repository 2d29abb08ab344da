"""Scores of completions whose truth is known, for examples, benchmarks and the command line.

`score_completions` scores draws of the hidden part, item by item. A pixel is judged where the mask of judged pixels is True.

* ``crps``, ``energy_score``: fair scores of each pixel and of all judged pixels together (`fair_scores`), of x without noise:
  if the truth has noise, draws that are slightly too wide score lowest. Lower is better.
* ``pit_mean``, ``pit_dispersion``, ``pit_histogram``: randomised PIT of the predictive distribution over ALL judged pixels
  (`predictive_pit`): 1/2, 1 and flat if calibrated.
* ``coverage_50``, ``coverage_90``: of central predictive intervals; ``joint_coverage_50``, ``joint_coverage_90``, from
  ``joint_pit``: whether a region of all judged pixels together contains the truth.
* ``descriptive_coverage_50``, ``descriptive_coverage_90``: of intervals without the noise. The truth of a real image has noise,
  so these are descriptive and need not be 50 % and 90 %.
* ``interval_width_50``, ``interval_width_90`` (mean width with noise) and ``pairwise_distance`` (E||X - X'|| without noise):
  sharpness, to be compared between calibrated methods only, since large noise covers any truth. With fewer than twenty draws
  the quantiles are closer together and the widths too small.
* ``mse_of_mean``, ``psnr``, ``ssim`` of the mean; ``mse_of_draws``; ``mse_of_best``: the expected least error of K draws.

`compare_scores` compares methods on the same items, with the standard errors of their differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import xarray as xr

from cogen.diagnostics.fair_scores import ItemDraws, crps_of, energy_score_of, items_of
from cogen.diagnostics.image_quality import WINDOW, hidden_ssim
from cogen.diagnostics.predictive_pit import NUM_BINS, dispersion, histogram, joint_pit, randomised_pit
from cogen.diagnostics.scores import counted_pixels, mean_of_draws, mse, psnr
from cogen.diagnostics.weights import quantile_of_sorted
from cogen.inference.signatures import ArrayLike

if TYPE_CHECKING:
    import pandas as pd

LEVELS = (50, 90)
"""Levels of central intervals and joint regions, in per cent."""

_NAMES = (
    *("crps", "energy_score", "pit_mean", "pit_dispersion", "joint_pit", "pairwise_distance", "mse_of_draws", "mse_of_best"),
    *("coverage_50", "coverage_90", "joint_coverage_50", "joint_coverage_90", "interval_width_50", "interval_width_90"),
    *("descriptive_coverage_50", "descriptive_coverage_90"),
)
"""Scores of an item that are computed from its draws."""

NOISY_DRAWS = 1000
"""Number of noisy copies that represent the predictive distribution if a few draws are the whole distribution."""


class Noise(Protocol):
    """The observation noise of a pixel."""

    def noisy(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Simulate observations of x (...)."""
        ...

    def recorded(self, y: np.ndarray) -> np.ndarray:
        """Values y (...) as they are recorded: censored values at the end of the range."""
        ...


def score_completions(
    draws: ArrayLike,
    truth: ArrayLike,
    hidden: ArrayLike | None = None,
    *,
    value_range: tuple[float, float],
    noise_scale: float = 0.0,
    noise: Noise | None = None,
    log_weight: ArrayLike | None = None,
    group: ArrayLike | None = None,
    mean: ArrayLike | None = None,
    is_sample: bool = True,
    best_of: int = 10,
    seed: int = 0,
) -> xr.Dataset:
    """Score the completions of every item; the module describes the scores.

    :param draws: completions x = G(z) without noise, (chain, draw, item, ...). The energy score uses all distances between the
        n draws of an item, so n should be about a thousand at most.
    :param truth: (item, ...); NaN is allowed where it is not judged.
    :param hidden: boolean, True where a pixel is judged, (item, ...) or (...); all pixels when None. Do not select pixels by
        their true values: the scores are then no longer calibrated.
    :param value_range: (low, high) of the pixels, for PSNR and SSIM.
    :param noise_scale: standard deviation of the view's normal pixel noise; 0 if the truth is G(z) itself.
    :param noise: the pixel noise if it is not normal, such as `cogen.models.pixels.censored.Censored`.
    :param log_weight: (chain, draw, item); equal weights when None.
    :param group: labels of independent groups of draws (chain, draw, item), from `independent_groups`; chains when None.
    :param mean: the posterior mean (item, ...), if ``draws`` are thinned; the weighted mean of the draws when None.
    :param is_sample: False if the draws are the whole predictive distribution and not a sample of it, as a point estimate is:
        CRPS and energy score are then not corrected for the number of draws.
    :param best_of: K, the number of draws from which ``mse_of_best`` takes the best (with replacement, by weight).
    :param seed: of the noise and of random ties.
    :returns: a Dataset with the dimension item (``pit_histogram``: item, bin). NaN for an item without weights or judged
        pixels; the fair scores are NaN if all draws are of one group, and SSIM for images below 11 x 11 pixels.
    :raises ValueError: for shapes that do not match, a negative or non-finite noise scale, ``noise_scale`` together with
        ``noise``, and ``best_of`` below 1.
    :raises TypeError: for a mask that is not boolean.
    """
    if noise is not None and noise_scale:
        raise ValueError(f"both noise_scale={noise_scale} and noise are given: give one of them")
    if not (np.isfinite(noise_scale) and noise_scale >= 0):
        raise ValueError(f"noise_scale {noise_scale}: give the standard deviation of the pixel noise, 0 or more")
    if best_of < 1:
        raise ValueError(f"best_of {best_of}: give a number of draws, 1 or more")
    target = np.asarray(truth)
    added = _NormalNoise(noise_scale) if noise is None else noise
    rows = [
        {} if one is None else _scores_of(one, added, is_sample, best_of, np.random.default_rng([seed, item]))
        for item, one in enumerate(items_of(draws, target, hidden, log_weight, group))
    ]
    judged = counted_pixels(hidden, target.shape)
    estimate = mean_of_draws(draws, log_weight) if mean is None else np.asarray(mean)
    images = target.ndim == 4 and min(target.shape[-2:]) >= WINDOW
    values = {
        **{name: np.array([row.get(name, np.nan) for row in rows]) for name in _NAMES},
        "mse_of_mean": mse(estimate, target, judged),
        "psnr": psnr(estimate, target, value_range, judged),
        "ssim": _ssim(estimate, target, judged, value_range) if images else np.full(len(target), np.nan),
    }
    empty = np.full(NUM_BINS, np.nan)
    return xr.Dataset(
        {
            **{name: (("item",), value) for name, value in values.items()},
            "pit_histogram": (("item", "bin"), np.stack([row.get("pit_histogram", empty) for row in rows])),
        },
        {"item": np.arange(len(target))},
        {"best_of": best_of, "noise_scale": float(noise_scale), "is_sample": int(is_sample), "seed": seed},
    )


def _ssim(estimate: np.ndarray, truth: np.ndarray, judged: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """SSIM of the judged pixels; the other pixels are set to the same value in both images."""
    shown, known = (np.where(judged, image, np.float64(value_range[0])) for image in (estimate, truth))
    return hidden_ssim(shown, known, judged, value_range)


def _scores_of(one: ItemDraws, noise: Noise, is_sample: bool, best_of: int, random: np.random.Generator) -> dict[str, Any]:
    own = float((one.weight**2).sum()) if is_sample else 0.0
    uniform = random.random(one.truth.size)
    noisy, weight = _with_noise(one, noise, is_sample, random)
    recorded = noise.recorded(one.truth)
    pit = randomised_pit(noisy, recorded, weight, uniform, own)
    joint = joint_pit(noisy, recorded, weight, random.random(), own)
    described = randomised_pit(one.draws, one.truth, one.weight, uniform, own)
    width = _interval_widths(noisy, weight)
    energy, distance = energy_score_of(one, is_sample)
    error = ((one.draws - one.truth) ** 2).mean(axis=1)
    scores: dict[str, Any] = {
        "crps": crps_of(one, is_sample).mean(),
        "energy_score": energy,
        "pit_mean": pit.mean(),
        "pit_dispersion": dispersion(pit),
        "pit_histogram": histogram(pit),
        "joint_pit": joint,
        "pairwise_distance": distance,
        "mse_of_draws": one.weight @ error,
        "mse_of_best": _least_of(error, one.weight, best_of),
    }
    for level in LEVELS:
        scores |= {
            f"coverage_{level}": _covered(pit, level),
            f"joint_coverage_{level}": float(joint <= level / 100),
            f"descriptive_coverage_{level}": _covered(described, level),
            f"interval_width_{level}": width[level],
        }
    return scores


def _with_noise(one: ItemDraws, noise: Noise, is_sample: bool, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Predictive draws, noise included, and their weights: one per draw, or many if the draws are the whole distribution."""
    if isinstance(noise, _NormalNoise) and noise.scale == 0:
        return one.draws, one.weight
    copies = 1 if is_sample else -(-NOISY_DRAWS // len(one.draws))
    draws = np.repeat(one.draws, copies, axis=0)
    return noise.noisy(draws, random), np.repeat(one.weight / copies, copies)


@dataclass(frozen=True)
class _NormalNoise:
    scale: float

    def noisy(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        return x + self.scale * random.standard_normal(x.shape)

    def recorded(self, y: np.ndarray) -> np.ndarray:
        return y


def _covered(pit: np.ndarray, level: int) -> float:
    """Share of the pixels inside the central interval of a level in per cent."""
    return float(np.where(np.isnan(pit), np.nan, np.abs(pit - 0.5) <= level / 200).mean())


def _interval_widths(draws: np.ndarray, weight: np.ndarray) -> dict[int, float]:
    """Mean width over pixels of the central interval of each level."""
    order = np.argsort(draws, axis=0)
    ordered, cumulative = np.take_along_axis(draws, order, axis=0), np.cumsum(weight[order], axis=0)

    def ends(level: int) -> tuple[np.ndarray, np.ndarray]:
        tail = (1 - level / 100) / 2
        return quantile_of_sorted(ordered, cumulative, tail), quantile_of_sorted(ordered, cumulative, 1 - tail)

    return {level: float((high - low).mean()) for level in LEVELS for low, high in [ends(level)]}


def _least_of(error: np.ndarray, weight: np.ndarray, count: int) -> float:
    """E min of `count` errors drawn by weight: sum_i e_(i) ((1 - F_(i-1))^count - (1 - F_i)^count)."""
    order = np.argsort(error)
    above = np.clip(1 - np.concatenate([[0.0], np.cumsum(weight[order])]), 0.0, 1.0)
    return float(error[order] @ -np.diff(above**count))


def paired_difference(first: ArrayLike, second: ArrayLike) -> tuple[float, float]:
    """Mean and standard error of first - second over the same items, (item,) each.

    Items where either is not finite are left out; the error is NaN for fewer than two items. Items must be independent given
    the methods.

    :raises ValueError: for different numbers of items.
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape:
        raise ValueError(f"scores have shapes {one.shape} and {other.shape}: a paired difference needs the same items, (item,)")
    with np.errstate(invalid="ignore"):
        return _mean_and_error((one - other)[np.isfinite(one) & np.isfinite(other)])


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    if not values.size:
        return float("nan"), float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def compare_scores(scores: Mapping[str, xr.Dataset], name: str = "crps", reference: str | None = None) -> pd.DataFrame:
    """Compare methods by one score over the same items, with paired standard errors.

    :param scores: results of `score_completions`, by method.
    :param name: the score, a variable with the dimension item only.
    :param reference: the method that the others are compared with; the first when None.
    :returns: a DataFrame with a row for each method, in the given order, and the columns ``mean`` and ``se`` (over items),
        ``difference`` (method minus reference) and ``difference_se`` (of the paired difference), and ``items``: the number of
        items with finite scores of all methods; only these are used.
    :raises ValueError: for fewer than two methods, an unknown score or reference, and runs of different items.
    """
    import pandas as pd

    if len(scores) < 2:
        raise ValueError(f"{len(scores)} methods given: a comparison needs at least two, as in {{'hmc': a, 'descent': b}}")
    reference = next(iter(scores)) if reference is None else reference
    if reference not in scores:
        raise ValueError(f"reference {reference!r} is not among the methods {list(scores)}")
    items = {method: found["item"].values.tolist() for method, found in scores.items()}
    if any(found != items[reference] for found in items.values()):
        counts = {method: len(found) for method, found in items.items()}
        raise ValueError(f"methods are compared over the same items, in the same order; the items differ (numbers: {counts})")
    for method, found in scores.items():
        usable = [str(key) for key, values in found.data_vars.items() if values.dims == ("item",)]
        if name not in usable:
            raise ValueError(f"the scores of {method!r} have no {name!r} with one value per item; they have {usable}")
    values = np.stack([found[name].values for found in scores.values()])  # (method, item)
    kept = values[:, np.isfinite(values).all(axis=0)]
    compared = kept[list(scores).index(reference)]
    rows = {
        method: (*_mean_and_error(row), *paired_difference(row, compared), row.size)
        for method, row in zip(scores, kept, strict=True)
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "se", "difference", "difference_se", "items"])

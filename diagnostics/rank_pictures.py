"""Plots of a calibration: rank histograms with binomial bands, and ECDFs minus the diagonal with their envelope.

A U-shaped histogram means that the draws are too narrow, a hump that they are too wide, a slope that they are biased. Figures
are created without pyplot, so no window opens and the backend does not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.special import bdtrik

from cogen.diagnostics.pictures import LINE_COLOUR, MEDIAN_COLOUR
from cogen.diagnostics.rank_uniformity import ecdf_envelope, num_bins
from cogen.diagnostics.simulation_based_calibration import POOLED, stratum_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COVERAGE = 0.99
"""Of the band of each single bin of a histogram, and of the envelope of a whole ECDF."""


def plot_rank_histograms(calibration: xr.Dataset, stratum: str = POOLED) -> Figure:
    """Plot, in a column per quantity, the histogram of ranks and the ECDF minus the diagonal, each with its 99 % band.

    The band of the histogram is for each single bin, that of the ECDF for the whole curve.

    :param calibration: what `simulation_based_calibration` returned.
    :raises ValueError: for an unknown stratum.
    """
    from matplotlib.figure import Figure

    ranks = stratum_ranks(calibration, stratum)
    most = int(calibration.attrs["num_ranks"])
    figure = Figure(figsize=(2.3 * ranks.sizes["quantity"], 3.6), dpi=150, layout="constrained")
    axes = figure.subplots(2, ranks.sizes["quantity"], squeeze=False)
    envelope = ecdf_envelope(ranks.sizes["simulation"], most, COVERAGE)
    for column, (name, values) in enumerate(zip(ranks["quantity"].values, ranks.values, strict=True)):
        axes[0, column].set_title(str(name), fontsize=8)
        _histogram(axes[0, column], values, most)
        _ecdf(axes[1, column], values, most, envelope)
        axes[1, column].set_xlabel("rank / draws", fontsize=7)
    axes[0, 0].set_ylabel("simulations", fontsize=7)
    axes[1, 0].set_ylabel("ECDF - uniform", fontsize=7)
    return figure


def plot_rank_ecdfs(calibrations: Mapping[str, xr.Dataset], stratum: str = POOLED) -> Figure:
    """Plot the ECDF minus the diagonal for several samplers: a row per sampler, a column per quantity.

    :param calibrations: what `simulation_based_calibration` returned, by the name of the sampler.
    :raises ValueError: without runs, if their quantities differ, or for an unknown stratum.
    """
    from matplotlib.figure import Figure

    quantities = {name: tuple(found["quantity"].values.tolist()) for name, found in calibrations.items()}
    if len(set(quantities.values())) != 1:
        raise ValueError(f"calibrations in one plot must have the same quantities; these have {quantities}")
    columns = next(iter(quantities.values()))
    figure = Figure(figsize=(1.1 + 1.7 * len(columns), 0.4 + 1.15 * len(calibrations)), dpi=150, layout="constrained")
    axes = figure.subplots(len(calibrations), len(columns), squeeze=False, sharex=True)
    envelopes: dict[tuple[int, int], Any] = {}
    for row, (name, found) in enumerate(calibrations.items()):
        ranks, most = stratum_ranks(found, stratum), int(found.attrs["num_ranks"])
        size = (ranks.sizes["simulation"], most)
        envelopes.setdefault(size, ecdf_envelope(*size, COVERAGE))
        for column, values in enumerate(ranks.values):
            _ecdf(axes[row, column], values, most, envelopes[size])
            if row == 0:
                axes[row, column].set_title(str(columns[column]), fontsize=8)
        axes[row, 0].set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    return figure


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=6, length=2)
    axes.spines[["top", "right"]].set_visible(False)


def _histogram(axes: Axes, ranks: np.ndarray, most: int) -> None:
    bins = num_bins(ranks.size, most)
    counts = np.bincount(ranks * bins // (most + 1), minlength=bins)
    tail = (1 - COVERAGE) / 2
    low, high = (np.ceil(bdtrik(q, ranks.size, 1 / bins)) for q in (tail, 1 - tail))
    axes.axhspan(low, high, color="0.88", linewidth=0)
    axes.axhline(ranks.size / bins, color="0.6", linewidth=0.8)
    axes.bar((np.arange(bins) + 0.5) / bins, counts, width=0.9 / bins, color=LINE_COLOUR)
    _plain(axes)


def _ecdf(axes: Axes, ranks: np.ndarray, most: int, envelope: tuple[np.ndarray, np.ndarray]) -> None:
    uniform = np.arange(1, most + 1) / (most + 1)
    share = np.cumsum(np.bincount(ranks, minlength=most + 1))[:-1] / ranks.size
    positions = np.concatenate([[0.0], uniform, [1.0]])

    def closed(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], values - uniform, [0.0]])

    axes.fill_between(positions, closed(envelope[0]), closed(envelope[1]), color="0.88", linewidth=0)
    outside = bool(((share < envelope[0]) | (share > envelope[1])).any())
    axes.plot(positions, closed(share), color=MEDIAN_COLOUR if outside else LINE_COLOUR, linewidth=1.2)
    axes.axhline(0.0, color="0.6", linewidth=0.6)
    _plain(axes)

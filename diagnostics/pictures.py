"""Plots of a run. Every function returns a matplotlib Figure: save it with `figure.savefig("completions.png")`.

Figures are created without pyplot, so no window opens and the backend does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cogen.diagnostics.groups import attributes, group, has_group, item_labels
from cogen.diagnostics.thinning import pick_draws, take_draws
from cogen.inference.signatures import ArrayLike, ArvizObject

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HIDDEN_COLOUR = (0.80, 0.84, 0.90)  # a bluish grey, distinct from the greys of an image
LINE_COLOUR = "#3b6ea5"
MEDIAN_COLOUR = "#c8501e"

LONGEST_LABEL = 20
"""Characters of a row's label; of longer ones the end is shown."""


def plot_completions(
    posterior: ArvizObject,
    *,
    truth: ArrayLike | None = None,
    draws: ArrayLike | None = None,
    num_draws: int = 4,
    items: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    seed: int = 0,
) -> Figure:
    """A grid with one row per item: seen part, truth (if given), posterior mean, draws, posterior sd of the pixels.

    Hidden pixels are bluish grey.

    :param posterior: what `infer` returned.
    :param truth: (item, channel, height, width), or None.
    :param draws: images of posterior draws (draw, item, channel, height, width), of which the first ``num_draws`` are shown;
        when None they are picked by weight from the `x` of a run with ``keep_x=True``, or left out.
    :param items: positions of the items to show, in two columns if there are more than 8; the first 16 when None.
    :param value_range: pixel values shown as black and white; from the run's attributes when None.
    :param seed: of the picked draws.
    :raises ValueError: for a run without images, items that do not exist, a truth or draws of other shapes, and an empty range.
    """
    if not has_group(posterior, "predictions") or "x_mean" not in group(posterior, "predictions"):
        raise ValueError("the run has no predictions x_mean: only runs of a CoGenerator over images can be plotted")
    predictions = group(posterior, "predictions")
    mean, deviation = (predictions[name].transpose("item", ...).values for name in ("x_mean", "x_sd"))
    if mean.ndim != 4 or mean.shape[1] not in (1, 3):
        raise ValueError(f"x_mean has shape {mean.shape}; images must be (item, channel, height, width) with 1 or 3 channels")
    chosen = list(range(min(16, len(mean)))) if items is None else [int(item) for item in items]
    missing = [item for item in chosen if not 0 <= item < len(mean)]
    if missing or not chosen:
        raise ValueError(f"items {missing or chosen} cannot be shown; the run has items 0 to {len(mean) - 1}")
    black, white = _value_range(posterior, value_range)

    def picture(image: np.ndarray) -> np.ndarray:
        return np.clip((np.moveaxis(np.asarray(image, dtype=float), 0, -1) - black) / (white - black), 0, 1)

    columns: list[tuple[str, list[np.ndarray]]] = []
    for view, observed in _seen(posterior).items():
        title = "seen" if view in ("visible", "seen") else f"seen: {view}"
        columns.append((title, [_paint_hidden(picture(observed[item]), observed[item]) for item in chosen]))
    if truth is not None:
        truth = np.asarray(truth)
        if truth.shape != mean.shape:
            raise ValueError(f"the truth has shape {truth.shape}; it must have the shape of the run's images, {mean.shape}")
        columns.append(("truth", [picture(truth[item]) for item in chosen]))
    columns.append(("mean", [picture(mean[item]) for item in chosen]))
    drawn = _stored_draws(posterior, num_draws, seed) if draws is None else np.asarray(draws)[:num_draws]
    if drawn is not None and (drawn.ndim != 5 or drawn.shape[1:] != mean.shape):
        raise ValueError(f"draws have shape {drawn.shape}; they must be (draw, *{mean.shape})")
    for number, one in enumerate([] if drawn is None else drawn):
        columns.append((f"draw {number + 1}", [picture(one[item]) for item in chosen]))
    columns.append(("sd", [deviation[item].mean(axis=0) for item in chosen]))
    labels = item_labels(posterior)
    return _grid(columns, [str(labels[item]) for item in chosen])


def _grid(columns: list[tuple[str, list[np.ndarray]]], labels: list[str]) -> Figure:
    """One row per label, in two bands if there are more than 8; the last column is the sd, with a colour bar."""
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.textpath import TextPath

    bands = 2 if len(labels) > 8 else 1
    rows = -(-len(labels) // bands)
    labels = [label if len(label) <= LONGEST_LABEL else f"…{label[1 - LONGEST_LABEL :]}" for label in labels]
    labels = [label.replace("$", r"\$") for label in labels]  # not mathematics
    text_width = 1.06 * max(TextPath((0, 0), label, size=7).get_extents().width for label in labels) / 72  # hinting
    cell, title, side, between, bar = 0.72, 0.34, 0.13 + text_width, 0.22, 0.62  # inches
    width = side + bands * len(columns) * cell + (bands - 1) * (between + side) + bar
    height = title + rows * cell + 0.08
    figure = Figure(figsize=(width, height), dpi=150)
    page = figure.add_axes((0, 0, 1, 1))  # in inches; separate axes for every image would take seconds
    page.set_axis_off()
    shades = Normalize(0, max(float(np.max(columns[-1][1])), 1e-12))
    for position, label in enumerate(labels):
        band, row = divmod(position, rows)
        bottom = height - title - (row + 1) * cell
        for column, (heading, pictures) in enumerate(columns):
            left = side + band * (len(columns) * cell + between + side) + column * cell
            extent = (left, left + 0.95 * cell, bottom, bottom + 0.95 * cell)
            if heading == "sd":
                shaded = page.imshow(pictures[position], cmap="magma", norm=shades, extent=extent, interpolation="nearest")
            else:
                _show(page, pictures[position], extent)
            if row == 0:
                page.text(left + 0.475 * cell, bottom + 0.95 * cell + 0.04, heading, ha="center", va="baseline", fontsize=8)
            if column == 0:
                page.text(left - 0.07, bottom + 0.475 * cell, label, ha="right", va="center", fontsize=7)
    page.set(xlim=(0, width), ylim=(0, height), aspect="auto")
    bar_axes = figure.add_axes(((width - bar + 0.08) / width, 0.08 / height, 0.1 / width, (rows * cell - 0.04) / height))
    figure.colorbar(shaded, cax=bar_axes)
    bar_axes.tick_params(labelsize=6, length=2, pad=1)
    return figure


def _show(page: Axes, image: np.ndarray, extent: tuple[float, float, float, float]) -> None:
    if image.shape[-1] == 1:
        page.imshow(image[..., 0], cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="nearest")
    else:
        page.imshow(image, extent=extent, interpolation="nearest")


def _paint_hidden(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """The image (height, width, channel) in colour, with hidden pixels (NaN in every channel) in HIDDEN_COLOUR."""
    coloured = np.nan_to_num(np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image)
    coloured[np.isnan(seen).all(axis=0)] = HIDDEN_COLOUR
    return coloured


def _seen(posterior: ArvizObject) -> dict[str, np.ndarray]:
    """The observed views that are images, (item, channel, height, width) each."""
    if not has_group(posterior, "observed_data"):
        return {}
    found = {}
    for name, values in group(posterior, "observed_data").data_vars.items():
        if "item" in values.dims and values.ndim == 4:
            array = values.transpose("item", ...).values
            if array.shape[1] in (1, 3):
                found[str(name)] = array
    return found


def _value_range(posterior: ArvizObject, value_range: tuple[float, float] | None) -> tuple[float, float]:
    recorded = attributes(posterior).get("value_range")
    if value_range is None and recorded is None:
        means = group(posterior, "predictions")["x_mean"].values
        return float(means.min()), max(float(means.max()), float(means.min()) + 1e-6)
    low, high = (float(value) for value in (value_range if value_range is not None else recorded))  # type: ignore[union-attr]
    if not low < high:
        raise ValueError(f"value range ({low}, {high}) is empty: give (low, high), e.g. (-1, 1)")
    return low, high


def _stored_draws(posterior: ArvizObject, count: int, seed: int) -> np.ndarray | None:
    """Up to `count` stored images of every item, picked by weight: (draw, item, channel, height, width)."""
    draws = group(posterior, "posterior")
    if "x" not in draws or count < 1:
        return None
    count = min(count, draws.sizes["chain"] * draws.sizes["draw"])
    return take_draws(draws["x"], pick_draws(posterior, count, np.random.default_rng(seed)))


def plot_annealing(posterior: ArvizObject) -> Figure:
    """Plot the annealing path, from q0 to the posterior, against the number of the transition.

    Panels: beta, acceptance rate, step size, weight ESS and distinct ancestors; a thin line per item and a thick line for the
    median.

    :raises ValueError: for a run that was not annealed.
    """
    from matplotlib.figure import Figure

    path = group(posterior, "warmup_sample_stats") if has_group(posterior, "warmup_sample_stats") else None
    if path is None or "beta" not in path:
        kernel = attributes(posterior).get("kernel", "this kernel")
        raise ValueError(f"{kernel} recorded no annealing path (warmup_sample_stats): only annealed runs have one")
    panels = {
        "beta": "inverse temperature",
        "acceptance_rate": "acceptance",
        "step_size": "step size",
        "weight_ess": "weight ESS (share of chains)",
        "ancestors": "distinct ancestors",
    }
    shown = {name: label for name, label in panels.items() if name in path}
    transition = path["transition"].values if "transition" in path else np.arange(path.sizes["draw"])
    figure = Figure(figsize=(2.5 * len(shown), 2.5), dpi=150, layout="constrained")
    for axes, (name, label) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        lines = path[name].transpose("draw", ...).values.reshape(len(transition), -1).astype(float)
        axes.plot(transition, lines, color=LINE_COLOUR, linewidth=0.6, alpha=max(0.15, min(0.7, 4 / lines.shape[1])))
        axes.plot(transition, np.nanmedian(lines, axis=1), color=MEDIAN_COLOUR, linewidth=1.6, label="median item")
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("transition", fontsize=8)
        axes.tick_params(which="both", labelsize=7)
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.spines[["top", "right"]].set_visible(False)
        if name == "step_size" and (lines > 0).all():
            axes.set_yscale("log")
        elif name == "ancestors":
            axes.set_ylim(0, None)
        else:
            axes.set_ylim(-0.03, 1.03)
    figure.axes[0].legend(fontsize=7, frameon=False, loc="upper left")
    return figure

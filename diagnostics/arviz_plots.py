"""ArviZ's trace, rank and energy plots for one item of a run; weighted runs are resampled first.

The only module that uses ArviZ's plots, and that distinguishes its two generations: 0.x draws on given axes; 1.x makes its own
figure, which is closed in pyplot so that no window opens.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.groups import assemble, group, parameters, statistic
from cogen.diagnostics.weights import resample
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def one_item(posterior: ArvizObject, item: int = 0, latents: Sequence[int] | None = (0, 1, 2, 3)) -> ArvizObject:
    """The equally weighted run of one item: groups posterior and sample_stats without the item dimension.

    :param posterior: what `infer` returned; that of a general model is returned whole.
    :param item: position of the item.
    :param latents: positions along the `latent` dimension; all when None.
    :raises ValueError: for an item that does not exist, and if none of the latents exists.
    """
    equal = resample(posterior) if statistic(posterior, "log_weight") is not None else posterior
    groups = {"posterior": parameters(equal), "sample_stats": group(equal, "sample_stats")}
    for name, dataset in groups.items():
        if "item" in dataset.dims:
            if not 0 <= item < dataset.sizes["item"]:
                raise ValueError(f"there is no item {item}; the run has items 0 to {dataset.sizes['item'] - 1}")
            dataset = dataset.isel(item=item, drop=True)
        if latents is not None and "latent" in dataset.dims:
            kept = [latent for latent in latents if 0 <= latent < dataset.sizes["latent"]]
            if not kept:
                raise ValueError(f"no latent of {list(latents)} exists; the run has latents 0 to {dataset.sizes['latent'] - 1}")
            dataset = dataset.isel(latent=kept).assign_coords(latent=kept)
        # ArviZ 1.x requires a coordinate on every dimension.
        bare = {dim: np.arange(size) for dim, size in dataset.sizes.items() if dim not in dataset.coords}
        groups[name] = dataset.assign_coords(bare)
    return assemble(posterior, groups)


def plot_trace(posterior: ArvizObject, item: int = 0, latents: Sequence[int] | None = (0, 1, 2, 3)) -> Figure:
    """ArviZ's trace plot: density and trace of every chain, one row per latent."""
    chosen = one_item(posterior, item, latents)
    rows = _num_scalars(chosen)
    return _draw("plot_trace", chosen, (rows, 2), (9, 1.4 * rows + 0.4), "axes", _trace_options(chosen))


def plot_rank(posterior: ArvizObject, item: int = 0, latents: Sequence[int] | None = (0, 1, 2, 3)) -> Figure:
    """ArviZ's rank plot: chains that sample the same distribution have flat rank histograms."""
    chosen = one_item(posterior, item, latents)
    columns = min(4, _num_scalars(chosen))
    rows = -(-_num_scalars(chosen) // columns)
    chains = group(chosen, "posterior").sizes["chain"]
    height = min(1.2 + 0.25 * chains, 6.0)
    return _draw("plot_rank", chosen, (rows, columns), (3.2 * columns, height * rows), "ax", {})


def plot_energy(posterior: ArvizObject, item: int = 0) -> Figure:
    """ArviZ's energy plot: the marginal energy and the energy transitions should have similar distributions.

    :raises ValueError: for a run that recorded no energy.
    """
    if statistic(posterior, "energy") is None:
        raise ValueError("the run recorded no energy: only HMC, NUTS and annealed HMC record it")
    chosen = one_item(posterior, item, None)
    many = group(chosen, "posterior").sizes["chain"] > 8 and not isinstance(chosen, xr.DataTree)
    # 0.x lists the BFMI of every chain in a legend, which would cover the plot if there are many chains.
    return _draw("plot_energy", chosen, (1, 1), (5, 3), "ax", {"bfmi": False} if many else {})


def _trace_options(chosen: ArvizObject) -> dict[str, object]:
    return {"compact": False, "divergences": None} if not isinstance(chosen, xr.DataTree) else {}


def _num_scalars(chosen: ArvizObject) -> int:
    draws = group(chosen, "posterior")
    per_draw = draws.sizes["chain"] * draws.sizes["draw"]
    return sum(values.size // per_draw for values in draws.data_vars.values())


def _draw(
    name: str, data: ArvizObject, grid: tuple[int, int], size: tuple[float, float], keyword: str, options: dict[str, object]
) -> Figure:
    with warnings.catch_warnings():
        # ArviZ warns of its refactoring, of matplotlib's deprecations, and of more chains than draws.
        warnings.simplefilter("ignore")
        import arviz

        plot = getattr(arviz, name)
        if isinstance(data, xr.DataTree):
            return _of_collection(plot(data, backend="matplotlib", **options))
        return _on_our_axes(plot, data, grid, size, keyword, options)


def _of_collection(made: Any) -> Figure:
    """ArviZ 1.x: the figure of a PlotCollection, closed in pyplot."""
    from matplotlib import pyplot

    figure = made.viz["figure"].item()
    pyplot.close(figure)
    figure.set_layout_engine("constrained")
    return figure


def _on_our_axes(
    plot: Callable[..., Any],
    data: ArvizObject,
    grid: tuple[int, int],
    size: tuple[float, float],
    keyword: str,
    options: dict[str, object],
) -> Figure:
    """ArviZ 0.x: draw on the axes of a figure that pyplot does not manage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, squeeze=False)
    plot(data, **{keyword: axes if axes.size > 1 else axes[0, 0]}, show=False, **options)
    for one in axes.ravel():
        one.set_visible(one.has_data())
        one.title.set_fontsize(9)
        one.tick_params(labelsize=7)
        one.xaxis.label.set_fontsize(8)
        one.yaxis.label.set_fontsize(8)
    return figure

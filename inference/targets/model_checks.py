"""Checks of a NumPyro model by one execution before a run.

A NaN in the data freezes every chain; a site whose name cannot be stored would be lost after hours; a weight that NumPyro
multiplies with a whole density counts observations several times. These checks report each with the site and the remedy.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from numpyro import handlers

from cogen.inference.items import site_dims
from cogen.inference.results import check_names
from cogen.inference.signatures import Model
from cogen.inference.targets.masked_sites import seen


def check_numpyro_model(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Check a NumPyro model by running it once. Warns of a scale that multiplies a whole density.

    :raises ValueError: for non-finite observed values that are not masked, for sites that results cannot store, and for items
        inside a wrapper.
    :raises TypeError: for a Pyro model.
    """
    samples: dict[str, tuple[Any, Any]] = {}
    kept: dict[str, int] = {}

    def observed() -> dict[str, tuple[Any, ...]]:
        """The observed values with their masks; also records the shapes of scales and densities."""
        trace = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
        values = {}
        for name, site in trace.items():
            if site["type"] == "sample":
                density = jax.eval_shape(site["fn"].log_prob, site["value"]).shape
                samples[name] = None if site.get("scale") is None else np.shape(site["scale"]), density
            if site["type"] == "sample" and site["is_observed"]:
                values[name] = site["value"], seen(site["fn"])
            elif site["type"] in ("sample", "deterministic"):
                kept[name] = np.ndim(site["value"])
        return values

    try:
        values = jax.jit(observed)()  # values that are not returned are not computed
    except NotImplementedError:
        return  # the model cannot be drawn from; the annealing path raises this error
    if not samples and runs_in_pyro(model, args, kwargs):
        raise TypeError(
            "this is a Pyro model, but the kernel is for NumPyro models: pass a Pyro kernel, such as PyroAnnealedHMC() or"
            " pyro.infer.NUTS, or write the model with numpyro.sample"
        )
    for name, (value, counted) in values.items():
        check_observed(name, np.asarray(value), counted)
    for name, (scale, density) in samples.items():
        if scale is not None:
            check_scale(name, scale, density)
    check_names({name: site_dims(None, name, count) for name, count in kept.items()}, ("chain", "draw"))


def check_observed(
    name: str,
    value: np.ndarray,
    counted: Any,
    remedy: str = "leave such values out, or hide them with obs_mask= or a mask handler",
) -> None:
    """Check the value of an observed site.

    :param counted: a mask of the entries that count, which broadcasts against the value; None: all.
    :param remedy: the advice in the error message.
    :raises ValueError: for NaN or infinite entries that count.
    """
    if not np.issubdtype(value.dtype, np.inexact):
        return
    wrong = ~np.isfinite(value)
    if counted is not None:
        wrong = wrong & np.asarray(counted)
    if wrong.any():
        index = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"observed site {name!r} holds {value[index]} at index {index} ({int(wrong.sum())} of {value.size} values are"
            f" non-finite): {remedy}"
        )


def check_scale(name: str, scale: tuple[int, ...], density: tuple[int, ...]) -> None:
    """Check the shape of a site's scale. Warns if a scale makes more terms than the log density has.

    :param scale: the shape of the scale.
    :param density: the shape of the log density.
    :raises ValueError: if the shapes do not broadcast.
    """
    remedy = "weighted dimensions must not be in to_event"
    try:
        together = np.broadcast_shapes(scale, density)
    except ValueError:
        raise ValueError(
            f"site {name!r}: a scale of shape {scale} does not fit a log density of shape {density}: {remedy}"
        ) from None
    if together != density:
        times = int(np.prod(together)) // max(int(np.prod(density)), 1)
        warnings.warn(
            f"site {name!r}: a scale of shape {scale} multiplies a log density of shape {density}, so that each of its values"
            f" counts {times} times, once for every weight: {remedy}",
            stacklevel=4,
        )


def runs_in_pyro(model: Model, args: Iterable[Any], kwargs: Mapping[str, object]) -> bool:
    """Whether Pyro finds sample sites in the model."""
    if "pyro" not in sys.modules:
        return False
    import torch
    from pyro import poutine

    with torch.random.fork_rng(devices=[]):
        try:
            trace = poutine.trace(model).get_trace(*args, **kwargs)
        except Exception:
            return False
    return any(site["type"] == "sample" for site in trace.nodes.values())


def runs_in_numpyro(model: Model, args: Iterable[Any], kwargs: Mapping[str, object]) -> bool:
    """Whether NumPyro finds sample sites in the model, even if it fails later."""
    trace = handlers.trace(handlers.seed(model, jax.random.key(0)))
    with suppress(Exception):
        trace.get_trace(*args, **kwargs)
    return any(site["type"] == "sample" for site in getattr(trace, "trace", {}).values())


def check_supports(sites: Iterable[str], coordinates: Iterable[Any]) -> None:
    """Check that starting values lie in the supports of their sites.

    :param coordinates: the unconstrained coordinates of the values.
    :raises ValueError: if they are not finite.
    """
    if not all(np.isfinite(np.asarray(each)).all() for each in coordinates):
        raise ValueError(f"start has values outside of the supports of the sites {sorted(sites)}")


def check_starts(lost: np.ndarray, num_chains: int, items: bool) -> None:
    """Report items without a chain whose starting log density is finite.

    :param lost: the ids of such items.
    :raises ValueError: if there are any.
    """
    if lost.size:
        where = f"item{'s' if lost.size > 1 else ''} {', '.join(map(str, lost[:8].tolist()))}" if items else "the model"
        raise ValueError(
            f"{where}{', ...' if lost.size > 8 else ''}: the log density is non-finite at all {num_chains} starts, which are"
            " draws of the prior (or of initial=). If the likelihood is zero almost everywhere, use more chains, a start closer"
            " to the data (initial=) or a softer constraint; if it is NaN, check the model's arithmetic (a score has no log"
            " density: use AnnealedLangevin)"
        )

"""What can be wrong with a NumPyro model, found by running it once before a run.

A NaN among the data freezes every chain, a site whose name no result can hold is lost after hours, a weight that NumPyro
multiplies with a whole density counts observations many times over: each is found here, with the site and the remedy.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import jax
import numpy as np
from numpyro import handlers

from cogen.inference.items import site_dims
from cogen.inference.results import check_names
from cogen.inference.targets.masked_sites import seen


def check_numpyro_model(model: Callable, args: tuple, kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for observed values that are not finite where they count, for sites that results cannot hold, and for
    items inside a wrapper; TypeError for a Pyro model. Warns of a scale that multiplies a whole density."""
    samples: dict[str, tuple[Any, Any]] = {}
    kept: dict[str, int] = {}

    def observed() -> dict[str, tuple]:
        """The observed values with what counts of them; the shapes of scales and densities on the way."""
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
        values = jax.jit(observed)()  # what is not returned is not computed
    except NotImplementedError:
        return  # it cannot be drawn from, which the annealing path says
    if not samples and runs_in_pyro(model, args, kwargs):
        raise TypeError(
            "this is a Pyro model, and the kernel is for NumPyro models: pass a Pyro kernel, such as PyroAnnealedHMC() or"
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
    """Raises ValueError for a value that is NaN or infinite and counts (``counted`` broadcasts against it; None: all do)."""
    if not np.issubdtype(value.dtype, np.inexact):
        return
    wrong = ~np.isfinite(value)
    if counted is not None:
        wrong = wrong & np.asarray(counted)
    if wrong.any():
        place = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"observed site {name!r} holds {value[place]} at index {place} ({int(wrong.sum())} of {value.size} values are not"
            f" finite): {remedy}"
        )


def check_scale(name: str, scale: tuple[int, ...], density: tuple[int, ...]) -> None:
    """Warns where a scale of this shape makes more terms than a log density of that shape has; raises ValueError where the
    two do not broadcast."""
    remedy = "dimensions that are weighted must not be in to_event"
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
            f" counts {times} times, with every weight: {remedy}",
            stacklevel=4,
        )


def runs_in_pyro(model: Callable, args: Iterable, kwargs: Mapping[str, Any]) -> bool:
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


def runs_in_numpyro(model: Callable, args: Iterable, kwargs: Mapping[str, Any]) -> bool:
    """Whether NumPyro finds sample sites in the model, before it ends or fails."""
    trace = handlers.trace(handlers.seed(model, jax.random.key(0)))
    with suppress(Exception):
        trace.get_trace(*args, **kwargs)
    return any(site["type"] == "sample" for site in getattr(trace, "trace", {}).values())


def check_supports(sites: Iterable[str], coordinates: Iterable[Any]) -> None:
    """Raises ValueError where the values that a start gives of these sites have no finite unconstrained coordinates."""
    if not all(np.isfinite(np.asarray(each)).all() for each in coordinates):
        raise ValueError(f"start holds values outside of the supports of the sites {sorted(sites)}")


def check_starts(lost: np.ndarray, num_chains: int, items: bool) -> None:
    """Raises ValueError where items (their numbers) have no chain that starts where the density is finite."""
    if lost.size:
        where = f"item{'s' if lost.size > 1 else ''} {', '.join(map(str, lost[:8].tolist()))}" if items else "the model"
        raise ValueError(
            f"{where}{', ...' if lost.size > 8 else ''}: the log density is not finite at any of the {num_chains} starts, which"
            " are draws of the prior (or of initial=): a likelihood that is zero almost everywhere needs more chains, a start"
            " nearer to the data (initial=) or a softer constraint; if it is NaN, look at the model's arithmetic (a score has"
            " none: use AnnealedLangevin)"
        )

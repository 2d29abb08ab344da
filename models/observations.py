"""Validation of the data of a view: their shape, finite values where they are seen, and the generator's value range."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogen.inference.signatures import ArrayLike
from cogen.models.likelihoods import Normal
from cogen.models.pixels.censored import Censored
from cogen.models.views import View

FAR = 20.0
"""Data beyond an end of the range by more than its width plus this many noise scales are rejected."""

FEW = 10
"""Up to this many seen values may by chance all lie in one half of the range: no warning is given."""


def observe(
    name: str, value: ArrayLike, view: View, shape: tuple[int, ...], value_range: tuple[float, float] | None
) -> Mapping[str, np.ndarray]:
    """Check the data (item, *shape) of a view.

    Warns of values that appear to be in another range than the generator's, and of a mask that hides all of an item.

    :returns: ``value``, zero where hidden, and for a view that hides entries ``mask``, True = seen.
    :raises ValueError: for a wrong shape, non-finite values where they are seen, values outside the support of the noise
        model, and values far outside the generator's range.
    """
    value = np.array(value.detach().numpy() if isinstance(value, Tensor) else value, dtype=np.float32)
    if value.shape[1:] != shape or value.ndim != len(shape) + 1:
        hint = " (the item axis comes first: use pixels[None] for one item)" if value.shape == shape else ""
        listed = ", ".join(map(str, shape))
        raise ValueError(f"view {name!r}: the data have shape {value.shape}, expected (item, {listed}){hint}")
    if len(value) == 0:
        raise ValueError(f"view {name!r}: the data hold no items")
    if view.mask is None:
        mask = np.ones(value.shape, dtype=bool)
    else:
        if view.mask.ndim == value.ndim and len(view.mask) != len(value):
            raise ValueError(f"view {name!r}: {len(view.mask)} masks for {len(value)} items")
        mask = np.broadcast_to(view.mask.numpy(), value.shape).copy()
    if view.holes:
        mask &= ~np.isnan(value)
    wrong = mask & ~np.isfinite(value)
    if wrong.any():
        item, *index = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"view {name!r}: item {item} is {value[(item, *index)]} at {tuple(index)}, a seen entry"
            f" ({int(wrong.sum())} such values): seen entries must be finite"
        )
    problem = view.check(value, mask)
    if problem:
        raise ValueError(f"view {name!r}: {problem}")
    if value_range is not None and view.keeps_range and isinstance(view.likelihood, Normal | Censored):
        _check_range(name, value, mask, value_range, view.likelihood.scale)
    blind = np.flatnonzero(~mask.reshape(len(mask), -1).any(axis=1)).tolist()
    if blind:
        warnings.warn(f"view {name!r}: the mask hides everything of items {blind}; their posterior is the prior", stacklevel=3)
    filled = np.where(mask, value, np.float32(0.0))
    return {"value": filled} if view.mask is None and not view.holes else {"value": filled, "mask": mask}


def _check_range(name: str, value: np.ndarray, mask: np.ndarray, value_range: tuple[float, float], scale: Any) -> None:
    """Reject data far outside the range of x, and warn of data that appear to be in another range.

    Valid data are A(x) plus noise: slightly outside the range, and in both halves of it unless they are few.
    """
    low, high = value_range
    width, seen = high - low, value[mask]
    noise: Any = 0.0  # learned noise (`Censored`) has no scale, and stays within the range
    if scale is not None:
        noise = width if isinstance(scale, torch.distributions.Distribution) else torch.as_tensor(scale).numpy()
    noise = np.broadcast_to(noise, value.shape)
    beyond = np.where(mask, np.maximum(low - value, value - high), -np.inf)
    own = f"the generator's range [{low:g}, {high:g}]"
    far = beyond - (width + FAR * noise)
    if far.max() > 0:
        item, *index = np.unravel_index(int(far.argmax()), far.shape)
        raise ValueError(
            f"view {name!r}: item {int(item)} is {value[(item, *index)]:g} at {tuple(map(int, index))}, far outside"
            f" {own}: rescale the data ({low:g} + {width:g} * bytes / 255), and mask codes that stand for missing values"
        )
    if seen.size <= FEW:
        return
    outside = (beyond > np.maximum(width / 4, 5 * noise))[mask].mean()
    if outside > 0.1:
        warnings.warn(
            f"view {name!r}: {outside:.0%} of the seen data, from {seen.min():g} to {seen.max():g}, are further outside"
            f" {own} than the noise explains: rescale the data",
            stacklevel=4,
        )
    elif seen.min() >= (low + high) / 2 < seen.max():
        unit = low < 0 and seen.max() <= 1
        remedy = f"rescale data in [0, 1] by {low:g} + {width:g} * data" if unit else "check their range"
        where = f"between {seen.min():g} and {seen.max():g}, all in the upper half of {own}"
        warnings.warn(
            f"view {name!r}: the seen data lie {where}: {remedy}",
            stacklevel=4,
        )

"""The data of a view as a model takes them: whole, finite where they are seen, and in the generator's own range."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogen.models.likelihoods import Normal
from cogen.models.pixels.censored import Censored
from cogen.models.views import View

FAR = 20.0
"""Data are far outside of a range where they are beyond its ends by more than its width and this many noise scales."""

FEW = 10
"""Of so few seen values all may well lie in one half of the range."""


def observe(
    name: str, value: Any, view: View, shape: tuple[int, ...], value_range: tuple[float, float] | None
) -> Mapping[str, np.ndarray]:
    """Data (item, *shape) of a view: {"value": filled where hidden, "mask": where it is seen, for a view that hides any}.

    Raises ValueError for a wrong shape, values that are not finite where they are seen, values that the noise model cannot
    have, and values far outside of the generator's range. Warns of values that look like another range's, and of a mask that
    hides all of an item.
    """
    value = np.array(value.detach().numpy() if isinstance(value, Tensor) else value, dtype=np.float32)
    if value.shape[1:] != shape or value.ndim != len(shape) + 1:
        hint = " (the item axis comes first: use pixels[None] for one item)" if value.shape == shape else ""
        listed = ", ".join(map(str, shape))
        raise ValueError(f"view {name!r}: the data have shape {value.shape}, the view shows (item, {listed}){hint}")
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
        item, *place = np.argwhere(wrong)[0].tolist()
        raise ValueError(
            f"view {name!r}: item {item} holds {value[(item, *place)]} at {tuple(place)}, where it is seen"
            f" ({int(wrong.sum())} such values); what is seen must be finite"
        )
    complaint = view.check(value, mask)
    if complaint:
        raise ValueError(f"view {name!r}: {complaint}")
    if value_range is not None and view.keeps_range and isinstance(view.likelihood, Normal | Censored):
        _check_range(name, value, mask, value_range, view.likelihood.scale)
    blind = np.flatnonzero(~mask.reshape(len(mask), -1).any(axis=1)).tolist()
    if blind:
        warnings.warn(f"view {name!r}: the mask hides everything of items {blind}; their posterior is the prior", stacklevel=3)
    filled = np.where(mask, value, np.float32(0.0))
    return {"value": filled} if view.mask is None and not view.holes else {"value": filled, "mask": mask}


def _check_range(name: str, value: np.ndarray, mask: np.ndarray, value_range: tuple[float, float], scale: Any) -> None:
    """Refuse data far outside of the range of x, and warn of data that look like another range's.

    Honest data are A(x) and noise: a little outside, and in both halves unless there are few of them.
    """
    low, high = value_range
    width, seen = high - low, value[mask]
    noise: Any = 0.0  # of a noise that is learned, which stays within the range
    if scale is not None:
        noise = width if isinstance(scale, torch.distributions.Distribution) else torch.as_tensor(scale).numpy()
    noise = np.broadcast_to(noise, value.shape)
    beyond = np.where(mask, np.maximum(low - value, value - high), -np.inf)
    own = f"the generator's range [{low:g}, {high:g}]"
    far = beyond - (width + FAR * noise)
    if far.max() > 0:
        item, *place = np.unravel_index(int(far.argmax()), far.shape)
        raise ValueError(
            f"view {name!r}: item {int(item)} holds {value[(item, *place)]:g} at {tuple(map(int, place))}, far outside of"
            f" {own}: bring the data into it ({low:g} + {width:g} * bytes / 255), and mask codes that stand for missing values"
        )
    if seen.size <= FEW:
        return
    outside = (beyond > np.maximum(width / 4, 5 * noise))[mask].mean()
    if outside > 0.1:
        warnings.warn(
            f"view {name!r}: {outside:.0%} of the seen data, which go from {seen.min():g} to {seen.max():g}, lie further out of"
            f" {own} than noise takes them: bring the data into it",
            stacklevel=4,
        )
    elif seen.min() >= (low + high) / 2 < seen.max():
        unit = low < 0 and seen.max() <= 1
        remedy = f"data in [0, 1] must be brought into it, {low:g} + {width:g} * data" if unit else "look at their range"
        where = f"between {seen.min():g} and {seen.max():g}, all in the upper half of {own}"
        warnings.warn(
            f"view {name!r}: the seen data lie {where}: {remedy}",
            stacklevel=4,
        )

"""Checks of the views of a `CoGenerator` when it is constructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from cogen.models.item_by_item import check_module
from cogen.models.likelihoods import Bernoulli, Categorical, Normal
from cogen.models.views import View


def check_views(views: object, reserved: Sequence[str]) -> None:
    """Check the views of a model.

    :param reserved: names that the model uses itself.
    :raises TypeError: for anything but a mapping of views.
    :raises ValueError: for a reserved name.
    """
    if not isinstance(views, Mapping):
        kind = type(views).__name__
        raise TypeError(f"views is a {kind}: give a mapping of names, as in views={{'seen': views.Identity(scale=0.1)}}")
    for name, view in views.items():
        if not isinstance(view, View):
            raise TypeError(
                f"view {name!r} is a {type(view)}: give an instance of cogen.models.views.View, such as"
                " views.Identity(scale=0.1)"
            )
    scales = {n: view.likelihood.scale for n, view in views.items()}
    sampled = [f"{n}_scale" for n, scale in scales.items() if isinstance(scale, torch.distributions.Distribution)]
    for name in views:
        if name in (*reserved, *sampled):
            raise ValueError(f"view {name!r}: this name is reserved by the model: rename the view")


def shape_of_view(
    name: str, view: View, x: Tensor, context: Mapping[str, Tensor], value_range: tuple[float, float] | None
) -> tuple[int, ...]:
    """Check a view on a few x, and return the shape of its data for one item.

    :param x: (batch, *event).
    :param context: the contexts of x that the view takes, (batch, *shape) by name.
    :param value_range: of the generator, if known.
    :raises ValueError: for a view, a mask or a noise model that does not fit.
    """
    try:
        shape = None if context else view.shape(tuple(x.shape[1:]))
    except ValueError as error:
        raise ValueError(f"view {name!r}: {error}") from None
    shown = check_module(view, x, f"view {name!r}", "x", context)
    shape = tuple(shown.shape[1:]) if shape is None else shape
    try:
        shape = view.likelihood.data_shape(shape) if isinstance(view.likelihood, Categorical) else shape
    except ValueError as error:
        raise ValueError(f"view {name!r}: {error}") from None
    _check_noise(name, view, shape, value_range)
    if view.mask is not None:
        if tuple(view.mask.shape) != shape and tuple(view.mask.shape[1:]) != shape:
            raise ValueError(f"view {name!r}: the mask has shape {tuple(view.mask.shape)}, expected {shape}")
        if not view.holes and bool(view.mask.reshape(-1, int(np.prod(shape))).all(dim=1).any()):
            raise ValueError(
                f"view {name!r}: the mask shows everything, so there is nothing to complete; to reconstruct all of x use"
                " views.Identity"
            )
    return shape


def _check_noise(name: str, view: View, shape: tuple[int, ...], value_range: tuple[float, float] | None) -> None:
    noise = view.likelihood
    if isinstance(noise, Normal) and isinstance(noise.scale, Tensor):
        given = tuple(noise.scale.shape)
        if len(given) > len(shape) or any(a not in (1, b) for a, b in zip(given[::-1], shape[::-1], strict=False)):
            raise ValueError(
                f"view {name!r}: the noise scale has shape {given}, the view of an item {shape}: give a number, or a tensor"
                " that broadcasts to this shape"
            )
    if isinstance(noise, Bernoulli) and view.keeps_range and value_range is not None:
        (low, high), (least, greatest) = noise.value_range, value_range
        if least < low or greatest > high:
            raise ValueError(
                f"view {name!r}: Bernoulli maps A(x) from [{low:g}, {high:g}] to probabilities, but the generator's values"
                f" are in [{least:g}, {greatest:g}]: give Bernoulli(value_range=({least:g}, {greatest:g}))"
            )

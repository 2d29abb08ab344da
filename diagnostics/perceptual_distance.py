"""LPIPS and PieAPP: perceptual distances of two images, by networks trained for this purpose.

They are computed by other packages, which depend on torchvision and download weights on first use. Neither is installed with
this package.

References:
    Zhang, Isola, Efros, Shechtman, Wang. The unreasonable effectiveness of deep features as a perceptual metric. CVPR 2018
        (LPIPS; package lpips).
    Prashnani, Cai, Mostofi, Sen. PieAPP: perceptual image-error assessment through pairwise preference. CVPR 2018 (package
        piq).
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cogen.diagnostics.scores import peak_to_peak, same_shape
from cogen.inference.signatures import ArrayLike

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

Comparison: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""From two batches of images to a number, or a map of numbers, for each pair."""

AT_ONCE = 64
"""Batch size of the networks."""


def lpips(
    estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float], *, network: Comparison | None = None
) -> np.ndarray:
    """LPIPS of images (item, channel, height, width) with one or three channels: (item,), 0 for identical images.

    :param value_range: least and greatest value of a pixel.
    :param network: from two tensors in [-1, 1], of three channels, to (item, ...); default the package's AlexNet.
    :raises ImportError: if the package lpips is not installed.
    :raises ValueError: for images of other shapes.
    """
    if network is None:
        network = _lpips()
    return _compared(estimate, truth, value_range, network, -1.0, 1.0)


def pieapp(
    estimate: ArrayLike, truth: ArrayLike, value_range: tuple[float, float], *, network: Comparison | None = None
) -> np.ndarray:
    """PieAPP of images, as `lpips`; images have sides of 64 pixels or more.

    :param network: from two tensors in [0, 1], the estimate and the truth, to (item,); default the package's.
    :raises ImportError: if the package piq is not installed.
    :raises ValueError: for images of other shapes.
    """
    if network is None:
        network = _pieapp()
    return _compared(estimate, truth, value_range, network, 0.0, 1.0)


@cache
def _lpips() -> Comparison:
    return _package("lpips", "LPIPS").LPIPS(net="alex", verbose=False)


@cache
def _pieapp() -> Comparison:
    return _package("piq", "PieAPP").PieAPP(reduction="none", enable_grad=False)


def _package(name: str, measure: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{measure} needs the package {name}, which is not installed or does not load ({error}): pip install {name}"
        ) from None


def _compared(
    estimate: ArrayLike,
    truth: ArrayLike,
    value_range: tuple[float, float],
    network: Comparison,
    low: float,
    high: float,
) -> np.ndarray:
    import torch

    first, second = same_shape(estimate, truth)
    if first.ndim != 4 or first.shape[1] not in (1, 3):
        raise ValueError(
            f"images have shape {first.shape}; they must be (item, channel, height, width) with one or three channels"
        )
    scale = (high - low) / peak_to_peak(value_range)

    def prepared(images: np.ndarray) -> Tensor:
        values = low + scale * (torch.as_tensor(np.asarray(images, dtype=np.float32)) - value_range[0])
        return values.clamp(low, high).expand(-1, 3, -1, -1)

    with torch.no_grad():
        parts = [
            network(prepared(first[start : start + AT_ONCE]), prepared(second[start : start + AT_ONCE]))
            for start in range(0, len(first), AT_ONCE)
        ]
    return np.concatenate([np.asarray(part).reshape(len(part), -1).mean(1) for part in parts])

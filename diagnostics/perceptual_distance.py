"""LPIPS and PieAPP: how different two images look, by networks that were trained for it.

Both belong to other packages, which bring torchvision and fetch weights when they are first used; neither is installed with
this one. Where a package is missing, so is the measure: nothing takes its place.

References:
    Zhang, Isola, Efros, Shechtman, Wang. The unreasonable effectiveness of deep features as a perceptual metric. CVPR 2018
        (LPIPS; package lpips).
    Prashnani, Cai, Mostofi, Sen. PieAPP: perceptual image-error assessment through pairwise preference. CVPR 2018 (package
        piq).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from cogen.diagnostics.scores import peak_to_peak, same_shape

AT_ONCE = 64
"""Images that a network sees together."""


def lpips(
    estimate: Any, truth: Any, value_range: tuple[float, float], *, network: Callable[[Any, Any], Any] | None = None
) -> np.ndarray:
    """LPIPS of images (item, channel, height, width), one or three channels: (item,), 0 for the same image.

    :param value_range: least and greatest value of a pixel.
    :param network: from two tensors in [-1, 1], of three channels, to (item, ...); default AlexNet's of the package.

    Raises ImportError where the package lpips is not installed, and ValueError for images that do not fit.
    """
    if network is None:
        network = _lpips()
    return _compared(estimate, truth, value_range, network, -1.0, 1.0)


def pieapp(
    estimate: Any, truth: Any, value_range: tuple[float, float], *, network: Callable[[Any, Any], Any] | None = None
) -> np.ndarray:
    """PieAPP of images, as `lpips`; images have sides of 64 pixels or more.

    :param network: from two tensors in [0, 1], the estimate and the truth, to (item,); default that of the package.

    Raises ImportError where the package piq is not installed, and ValueError for images that do not fit.
    """
    if network is None:
        network = _pieapp()
    return _compared(estimate, truth, value_range, network, 0.0, 1.0)


@cache
def _lpips() -> Callable[[Any, Any], Any]:
    return _package("lpips", "LPIPS").LPIPS(net="alex", verbose=False)


@cache
def _pieapp() -> Callable[[Any, Any], Any]:
    return _package("piq", "PieAPP").PieAPP(reduction="none", enable_grad=False)


def _package(name: str, measure: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(
            f"{measure} needs the package {name}, which is not installed or does not load ({error}): pip install {name}"
        ) from None


def _compared(
    estimate: Any, truth: Any, value_range: tuple[float, float], network: Callable[[Any, Any], Any], low: float, high: float
) -> np.ndarray:
    import torch

    first, second = same_shape(estimate, truth)
    if first.ndim != 4 or first.shape[1] not in (1, 3):
        raise ValueError(f"images have shape {first.shape}: (item, channel, height, width) with one or three channels")
    scale = (high - low) / peak_to_peak(value_range)

    def prepared(images: np.ndarray) -> Any:
        values = low + scale * (torch.as_tensor(np.asarray(images, dtype=np.float32)) - value_range[0])
        return values.clamp(low, high).expand(-1, 3, -1, -1)

    with torch.no_grad():
        parts = [
            network(prepared(first[start : start + AT_ONCE]), prepared(second[start : start + AT_ONCE]))
            for start in range(0, len(first), AT_ONCE)
        ]
    return np.concatenate([np.asarray(part).reshape(len(part), -1).mean(1) for part in parts])

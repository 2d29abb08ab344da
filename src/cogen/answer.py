"""What a run of `cogen complete` has found, by a generator or by an energy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Answer:
    """Draws of completed images, and what they are scored by.

    :param sampler: its name, for people.
    :param shape: of an item, (channel, height, width).
    :param value_range: of the pixels.
    :param draws: x of draws (chain, draw, item, *shape), thinned.
    :param labels: ``log_weight`` and ``group`` of `score_completions`, where there are any.
    :param hidden: True where a pixel is scored, (item, *shape).
    :param noise: ``noise`` or ``noise_scale`` of the same.
    :param scale: the standard deviation of what is observed, NaN where there is none or more than one.
    :param misfit: the mean squared error of the seen part, (item,); NaN where it is exact.
    """

    sampler: str
    posterior: Any
    shape: tuple[int, ...]
    value_range: tuple[float, float]
    draws: np.ndarray
    labels: dict[str, Any]
    hidden: np.ndarray
    noise: dict[str, Any]
    scale: float
    misfit: np.ndarray

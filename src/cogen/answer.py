"""Results of a run of `cogen complete`, by a generator or an energy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cogen.schedules import MORE
from cogen.unknown_class import InferredClass


@dataclass
class Answer:
    """Draws of completed images, and the inputs of their scores.

    :param sampler: its name.
    :param shape: of an item, (channel, height, width).
    :param value_range: of the pixels.
    :param draws: x of draws (chain, draw, item, *shape), thinned.
    :param labels: ``log_weight`` and ``group`` for `score_completions`, if there are any.
    :param hidden: True where a pixel is scored, (item, *shape).
    :param noise: ``noise`` or ``noise_scale`` for the same.
    :param scale: the noise scale of the observed data, NaN if there is none or more than one.
    :param misfit: the mean squared residual of the seen part, (item,); NaN if it is exact.
    :param path: x of the first chain of every item along the warm-up, (point, item, *shape); None if the warm-up
        was not stored. ``path_draws`` are the draws of the group ``warmup_posterior`` at these points, (point,).
    :param classes: the classes that were inferred, by context.
    :param remedy: what to do about chains that disagree.
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
    path: np.ndarray | None = None
    path_draws: np.ndarray | None = None
    classes: dict[str, InferredClass] = field(default_factory=dict)
    remedy: str = MORE

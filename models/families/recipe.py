"""Recipes, which train a family by name: its data, how it is built from sizes, its defaults, and how it is stored.

Every family file ends with its recipes, and `cogen.models.families.registry` names them. `cogen train`, the comparisons in
`examples` and the benchmark of the trainer look them up there; no other code refers to families by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor

from cogen.models.families.family import Family
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.training.learning_rates import Falling, Schedule
from cogen.models.training.preparation import as_floats


class Kind(Enum):
    """Kinds of training data; the values are their names in messages."""

    IMAGES = "images"
    """Bytes (item, channel, height, width)."""
    POINTS = "points"
    """Floats (item, column)."""
    PAIRS = "pairs of images"
    """Bytes (item, channel, height, width) of x, and of a condition with the same height and width."""
    TABLE = "a table"
    """Encoded rows (item, column), NaN where missing."""


@dataclass(frozen=True)
class Recipe:
    """How to build, train and store a family.

    :param build: ``build(sizes, rates, **settings)`` builds the family: ``sizes`` is a `Sizes` (a `PairSizes` for pairs, a
        `TableSizes` for a table), ``rates`` holds the keyword arguments of its optimisers, and the keyword-only arguments are
        its settings, with defaults.
    :param takes: the kinds of data that it trains on.
    :param labelled: whether batches are (x, label), with networks that take the class as input.
    :param prepare: converts images in bytes to values in ``value_range``.
    :param value_range: range of the training data and of the networks' values.
    :param learning_rate: default learning rate.
    :param batch_size: default number of items in a batch.
    :param epochs: default number of passes over the data.
    :param least_steps: the default number of passes is larger if this number of steps needs more.
    :param schedule: from the number of steps to the learning-rate schedule.
    :param average: default decay of the moving average of the generator's weights; 0 for no average.
    :param latent_dim: default size of z; 0 for generators without z.
    :param reads: which of ``latent_dim``, ``widths`` and ``convolutional`` of the sizes its networks use.
    :param generator: from the sizes to the stored architecture of the generator; None for a family with only an energy.
    :param encoder: from the sizes to that of the family's ``encoder``; None if no encoder is stored.
    :param predictor: from the sizes to that of the family's ``descent``.
    :param energy: from the sizes to that of the family's ``energy``, which is stored with ``run``, its Langevin steps.
    """

    build: Callable[..., Family]
    takes: frozenset[Kind] = frozenset({Kind.IMAGES, Kind.POINTS})
    labelled: bool = False
    prepare: Callable[[Tensor], Tensor] = as_floats
    value_range: tuple[float, float] = (-1.0, 1.0)
    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: float = 20.0
    least_steps: int = 0
    schedule: Callable[[int], Schedule] = Falling
    average: float = 0.999
    latent_dim: int = 64
    reads: frozenset[str] = frozenset({"latent_dim", "widths", "convolutional"})
    generator: Callable[[Any], Architecture] | None = Sizes.generator_architecture
    encoder: Callable[[Any], Architecture] | None = None
    predictor: Callable[[Any], Architecture] | None = None
    energy: Callable[[Any], Architecture] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """Names and defaults of the settings of `family`, besides the learning rate and betas."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def default_epochs(self, steps_per_epoch: int) -> float:
        """The default number of passes over data that take this number of steps a pass, at least 1."""
        return max(self.epochs, float(-(-self.least_steps // steps_per_epoch)))

    def family(
        self, sizes: Any, *, learning_rate: float | None = None, betas: tuple[float, float] | None = None, **settings: Any
    ) -> Family:
        """Build a new family.

        :param sizes: a `Sizes`, or a `PairSizes` for pairs, or a `TableSizes` for a table.
        :param learning_rate: default that of the recipe.
        :param betas: betas of Adam; default those of the family.
        :param settings: settings by the names in `settings`.
        :raises ValueError: for a setting that the family does not have, and for invalid values.
        """
        if unknown := [name for name in settings if name not in self.settings]:
            raise ValueError(
                f"{unknown[0]}={settings[unknown[0]]!r}: the family has no such setting; it has"
                f" {', '.join(['learning_rate', 'betas', *self.settings])}"
            )
        rates: dict[str, Any] = {"learning_rate": self.learning_rate if learning_rate is None else learning_rate}
        return self.build(sizes, rates if betas is None else {**rates, "betas": betas}, **settings)

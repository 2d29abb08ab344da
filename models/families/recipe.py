"""How a family is trained by its name: what it takes, how it is built from sizes, its defaults, and how it is stored.

Every family file ends with its recipes, and `cogen.models.families.registry` gives them names. `cogen train`, the comparisons
in `examples` and the benchmark of the trainer read them there; nothing else knows a family by its name.
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
    """Of data; the values are words for messages."""

    IMAGES = "images"
    """Bytes (item, channel, height, width)."""
    POINTS = "points"
    """Floats (item, column)."""
    PAIRS = "pairs of images"
    """Bytes (item, channel, height, width) of x, and of a condition with the same height and width."""
    TABLE = "a table"
    """Encoded rows (item, column), NaN in the holes."""


@dataclass(frozen=True)
class Recipe:
    """What one has to know of a family to train it.

    :param build: ``build(sizes, rates, **settings)`` makes the family: ``sizes`` is a `Sizes` (of pairs a `PairSizes`, of a
        table a `TableSizes`), ``rates`` holds the keyword arguments of its optimisers, and the keyword-only arguments are its
        settings, with defaults.
    :param takes: the kinds of data.
    :param labelled: whether batches are (x, label), with networks conditioned on a class.
    :param prepare: makes values in ``value_range`` of images, which are bytes.
    :param value_range: of what is trained on; the networks' own range.
    :param learning_rate: default of Adam's.
    :param batch_size: default; items of a batch.
    :param epochs: default; passes over the data.
    :param schedule: from the number of steps to the schedule of the learning rate.
    :param average: default decay of the moving average of the generator's weights; 0 keeps none.
    :param latent_dim: default size of z; 0 for generators that take none.
    :param reads: which of ``latent_dim``, ``widths`` and ``convolutional`` of the sizes its networks follow.
    :param generator: from the sizes to how the generator is stored; None where there is an energy alone.
    :param encoder: the same of the family's ``encoder``; None where it has none to store.
    :param predictor: the same of the family's ``descent``.
    :param energy: the same of the family's ``energy``, which is stored with the family's ``run``, its Langevin steps.
    """

    build: Callable[..., Family]
    takes: frozenset[Kind] = frozenset({Kind.IMAGES, Kind.POINTS})
    labelled: bool = False
    prepare: Callable[[Tensor], Tensor] = as_floats
    value_range: tuple[float, float] = (-1.0, 1.0)
    learning_rate: float = 1e-3
    batch_size: int = 64
    epochs: float = 20.0
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
        """The defaults of what may be given to `family` besides the rates, by name."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def family(
        self, sizes: Any, *, learning_rate: float | None = None, betas: tuple[float, float] | None = None, **settings: Any
    ) -> Family:
        """A fresh family.

        :param sizes: a `Sizes`, or a `PairSizes` for pairs, or a `TableSizes` for a table.
        :param learning_rate: default that of the recipe.
        :param betas: Adam's; default those of the family.
        :param settings: by the names in `settings`.

        Raises ValueError for a setting that the family does not have, and for what it cannot be built with.
        """
        if strange := [name for name in settings if name not in self.settings]:
            raise ValueError(
                f"{strange[0]}={settings[strange[0]]!r}: the family has no such setting; it has"
                f" {', '.join(['learning_rate', 'betas', *self.settings])}"
            )
        rates: dict[str, Any] = {"learning_rate": self.learning_rate if learning_rate is None else learning_rate}
        return self.build(sizes, rates if betas is None else {**rates, "betas": betas}, **settings)

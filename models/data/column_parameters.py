"""Where a generator of a table puts what: the places of the parameters of every column's distribution in what it makes.

One number for a continuous column (its mean), one for a binary one (a logit), K for a categorical one of K levels (logits), in
the order of the schema.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cogen.models.data.tables import Schema

NEVER = -1e9
"""The logit of a level that a column does not have, where columns are padded to the same number of levels."""


@dataclass(frozen=True, eq=False)
class ParameterPlaces:
    """Where the parameters of the columns stand in what a generator makes.

    A binary column is a categorical one whose first logit is 0. Places ``size`` and ``size + 1`` are those of two numbers that
    are appended to the parameters: 0 and `NEVER`.
    """

    size: int
    """How many parameters a row has."""
    first: np.ndarray
    """(column,): the place of the first parameter of each column."""
    continuous: np.ndarray
    """(continuous,): which columns are continuous."""
    means: np.ndarray
    """(continuous,): the places of their means."""
    discrete: np.ndarray
    """(discrete,): which columns are binary or categorical."""
    logits: np.ndarray
    """(discrete, level): the places of their logits."""
    order: np.ndarray
    """(column,): the order of the columns among the continuous ones followed by the discrete ones."""


@functools.cache
def parameter_places(schema: Schema) -> ParameterPlaces:
    """Where the parameters of the columns stand, in the order of the schema."""
    kinds = [column.kind for column in schema.columns]
    counts = [len(column.levels) if column.kind == "categorical" else 1 for column in schema.columns]
    first = np.cumsum([0, *counts])
    size = int(first[-1])
    continuous = np.array([at for at, kind in enumerate(kinds) if kind == "continuous"], dtype=np.int64)
    discrete = np.array([at for at, kind in enumerate(kinds) if kind != "continuous"], dtype=np.int64)
    most = max(len(column.levels) for column in schema.columns)
    logits = np.full((len(discrete), most), size + 1, dtype=np.int64)
    for row, at in zip(logits, discrete, strict=True):
        own = [size, first[at]] if kinds[at] == "binary" else np.arange(first[at], first[at + 1])
        row[: len(own)] = own
    order = np.argsort(np.concatenate([continuous, discrete]))
    return ParameterPlaces(size, first[:-1], continuous, first[continuous], discrete, logits, order)

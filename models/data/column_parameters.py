"""The positions of the parameters of each column's distribution in the output of a generator of tables.

A continuous column has one parameter (its mean), a binary column one (a logit), and a categorical column of K levels K
(logits), in the order of the schema.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cogen.models.data.tables import Schema

NEVER = -1e9
"""The logit of padding levels, which give all columns the same number of levels."""


@dataclass(frozen=True, eq=False)
class ParameterPlaces:
    """Positions of the parameters of the columns in the output of a generator.

    A binary column is a categorical column whose first logit is 0. The positions ``size`` and ``size + 1`` refer to two numbers
    that are appended to the parameters: 0 and `NEVER`.
    """

    size: int
    """The number of parameters of a row."""
    first: np.ndarray
    """(column,): the position of the first parameter of each column."""
    continuous: np.ndarray
    """(continuous,): the indices of the continuous columns."""
    means: np.ndarray
    """(continuous,): the positions of their means."""
    discrete: np.ndarray
    """(discrete,): the indices of the binary and categorical columns."""
    logits: np.ndarray
    """(discrete, level): the positions of their logits."""
    order: np.ndarray
    """(column,): the index of each column in the continuous columns followed by the discrete ones."""


@functools.cache
def parameter_places(schema: Schema) -> ParameterPlaces:
    """The positions of the parameters of the columns of a schema."""
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

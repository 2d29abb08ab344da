"""Columns of a table without dependence: the baseline of a generator's log density.

Given training rows, every continuous column is normal with their mean and standard deviation, and every other column has the
frequencies of their levels,

    p(level k) = (count of k + 1) / (count of all + K),      K levels

where the added 1 keeps levels that no training row has from being impossible.
"""

from __future__ import annotations

import numpy as np

from cogen.models.data.tables import Schema


def independent_log_density(schema: Schema, training: np.ndarray, rows: np.ndarray, *, smallest_scale: float) -> np.ndarray:
    """log p of every entry under independent columns, (row, column), in the schema's standardised units; NaN where missing.

    :param training: encoded rows (row, column) that give the means, standard deviations and frequencies; NaN where missing.
    :param rows: encoded rows to score.
    :param smallest_scale: lower bound of the standard deviations.

    >>> schema = Schema.of({"age": [20, 30, 40], "smokes": ["no", "yes", "no"]})
    >>> rows = schema.encode({"age": [20, 40, None], "smokes": ["no", "yes", "no"]})
    >>> independent_log_density(schema, rows, rows[:1], smallest_scale=0.05).round(3)
    array([[-1.622, -0.511]])
    """
    found = np.full(rows.shape, np.nan)
    for at, column in enumerate(schema.columns):
        known, entries = training[:, at], rows[:, at].astype(np.float64)
        known = known[~np.isnan(known)].astype(np.float64)
        seen = ~np.isnan(entries)
        if column.kind == "continuous":
            mean = known.mean() if known.size else 0.0
            sd = max(known.std() if known.size else 1.0, smallest_scale)
            found[:, at] = -0.5 * ((entries - mean) / sd) ** 2 - np.log(sd) - 0.5 * np.log(2 * np.pi)
        else:
            counts = np.bincount(known.astype(int), minlength=len(column.levels)) + 1.0
            found[seen, at] = np.log(counts / counts.sum())[entries[seen].astype(int)]
    return found

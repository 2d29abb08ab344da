"""What `cogen fill` says of every missing entry: the filled value, and `uncertainty.csv`."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogen.inference.whole_files import write_whole

if TYPE_CHECKING:
    from cogen.models.data.tables import Schema

HEADER = ("line", "column", "filled", "mean", "sd", "q05", "q95", "probability", "runner_up", "runner_up_probability")
"""Columns of `uncertainty.csv`."""


@dataclass(frozen=True)
class Summary:
    """Marginal posteriors of rows.

    :param best: posterior means of continuous columns and most probable levels of the others, encoded, (row, column).
    :param probabilities: of the levels of each column that is not continuous, (row, level).
    """

    best: np.ndarray
    probabilities: Mapping[str, np.ndarray]


def summary_of(schema: Schema, x: np.ndarray) -> Summary:
    """The summary of equally weighted draws of the columns' parameters, (chain, draw, row, parameter)."""
    from cogen.models.data.column_parameters import parameter_places
    from cogen.models.mixed.columns import level_probabilities

    where = parameter_places(schema)
    best = np.empty((x.shape[2], len(schema.columns)), np.float32)
    best[:, where.continuous] = x[..., where.means].mean(axis=(0, 1))
    shares = {name: each.mean(axis=(0, 1)) for name, each in level_probabilities(schema, x).items()}
    for name, probability in shares.items():
        best[:, schema.index(name)] = probability.argmax(axis=-1)
    return Summary(best, shares)


def write_uncertainty(
    path: Path, schema: Schema, lines: Sequence[int], missing: np.ndarray, summary: Summary, drawn: np.ndarray
) -> None:
    """Write a line for each missing entry, by row and column.

    Numbers have the mean, standard deviation and 5 % and 95 % quantiles of their posterior, other entries the probabilities of
    the filled level and of the next one.

    :param lines: the line of each row in the file.
    :param missing: which entries are missing, (row, column).
    :param drawn: equally weighted draws of the rows, encoded, (draw, row, column).
    """
    from cogen.models.data.columns import text_of_decoded

    decoded, filled = schema.decode(drawn), schema.decode(summary.best)
    entries: dict[tuple[int, int], list[str]] = {}
    for at, column in enumerate(schema.columns):
        rows = np.flatnonzero(missing[:, at])
        texts = [text_of_decoded(column, value) for value in filled[column.name][rows].tolist()]
        if column.kind == "continuous":
            values = decoded[column.name][:, rows]
            mean = summary.best[rows, at].astype(np.float64) * column.sd + column.mean
            numbers = [mean, values.std(axis=0), *np.quantile(values, [0.05, 0.95], axis=0)]
            cells = [[f"{value:.6g}" for value in row] + [""] * 3 for row in np.stack(numbers, axis=-1)]
        else:
            shares = summary.probabilities[column.name][rows]
            order = np.argsort(-shares, axis=-1, kind="stable")[:, :2]
            first, second = np.take_along_axis(shares, order, axis=-1).T
            names = [column.levels[level] for level in order[:, 1]]
            cells = [[*[""] * 4, f"{p:.4f}", name, f"{q:.4f}"] for p, name, q in zip(first, names, second, strict=True)]
        for row, text, cell in zip(rows.tolist(), texts, cells, strict=True):
            entries[row, at] = [str(lines[row]), column.name, text, *cell]
    content = io.StringIO()
    csv.writer(content, lineterminator="\n").writerows([HEADER, *(entries[key] for key in sorted(entries))])
    write_whole(path, content.getvalue().encode())

"""Encoding of tables with named columns as arrays for a generator, and decoding.

A `Schema` describes the columns and defines their codes: continuous columns are standardised in float64, (x - mean) / sd over
the entries seen in training, and stored as float32; binary columns are 0 or 1; categorical columns are the index of the level.
A missing entry (a "hole") is NaN in the array. The schema is stored with the trained generator (`to_json`), and later files are
read with it, so that codes and words for holes keep their meaning.

`entries` defines numbers and holes. A column with any number is numeric: other texts in it are an error that names the line and
the remedy, as are columns of numbers in other notations ("35%", "1,234") and of dates, in files and arrays. Columns declared
categorical are exempt; columns of other texts are categorical.

`write_filled` writes a file with its holes filled and the rest byte for byte the same; `write_csv` writes any rows.

>>> schema = Schema.of({"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]})
>>> schema.columns[1]
Column(name='smokes', kind='binary', mean=0.0, sd=1.0, levels=('no', 'yes'), decimals=None)
>>> array = schema.encode({"age": [30, None], "smokes": ["yes", "no"]})
>>> array
array([[ 0.,  1.],
       [nan,  0.]], dtype=float32)
>>> schema.decode(array)
{'age': array([30., nan]), 'smokes': array(['yes', 'no'], dtype='<U3')}
"""

from __future__ import annotations

import csv
import functools
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cogen.inference.signatures import JSON
from cogen.inference.whole_files import write_whole
from cogen.models.data.columns import Column, Place, decode_column, encode_column, infer_column, text_of_decoded
from cogen.models.data.csv_text import Record, columns_of, first_repeated, read_text, records_of, replace_entries
from cogen.models.data.entries import Holes, text_of, words_of

if TYPE_CHECKING:
    import pandas as pd


Entries: TypeAlias = "Sequence[object] | np.ndarray"
"""The entries of a column."""


@dataclass(frozen=True)
class Schema:
    """The columns of a table in the order of the array's last axis, and their encoding.

    :param columns: description of each column.
    :param missing: words for holes, in addition to `entries.WORDS_FOR_HOLES`.
    :param dropped: names of further columns that files may have, which are not read.
    :raises ValueError: for no columns, repeated names, a dropped column of the schema, and a level that is a word for a hole.
    """

    columns: tuple[Column, ...]
    missing: Sequence[str | float] = ()
    dropped: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "missing", words_of(self.missing))
        object.__setattr__(self, "dropped", _names("dropped", self.dropped))
        if not self.columns:
            raise ValueError("a schema needs at least one column")
        if twice := first_repeated(self.names):
            raise ValueError(f"column {twice!r} appears twice; names must be unique")
        if both := [name for name in self.dropped if name in self.names]:
            raise ValueError(f"column {both[0]!r} is both dropped and a column of the schema: remove one of the two")
        holes = self.holes
        for column in self.columns:
            if levels := [level for level in column.levels if level in holes]:
                raise ValueError(f"{levels[0]!r} is a level of column {column.name!r}, so it cannot be a word for a hole")

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Entries] | pd.DataFrame,
        *,
        categorical: Sequence[str] = (),
        integer: Sequence[str] = (),
        drop: Sequence[str] = (),
        missing: Sequence[str | float] = (),
    ) -> Schema:
        """Infer the schema of columns given by name, with the rules and options of `read_csv`.

        :param columns: a mapping of arrays, or a data frame.
        :raises ValueError: for a column that is constant, looks like an identifier, cannot be read or contains dates, and a
            text among numbers.
        """
        place = Place("the columns given", lambda row: f"row {row}")
        kept = {name: columns[name] for name in columns.keys() if str(name) not in drop}  # noqa: SIM118 (see `_texts_of`)
        _check_named(drop, [str(name) for name in columns.keys()], "drop", place)  # noqa: SIM118
        return _infer(_texts_of(kept), categorical, integer, drop, missing, place)

    @classmethod
    def from_json(cls, content: Mapping[str, JSON]) -> Schema:
        """The schema from the output of `to_json`.

        :raises ValueError: for anything else.
        """
        stored: Mapping[str, Any] = content
        try:
            return cls(tuple(map(_stored_column, stored["columns"])), stored.get("missing", ()), stored.get("dropped", ()))
        except (KeyError, TypeError) as error:
            raise ValueError(f"invalid schema of columns ({error}): give the output of Schema.to_json") from None

    def to_json(self) -> dict[str, JSON]:
        """The schema as lists, texts and numbers."""
        return {
            "columns": [
                {"name": c.name, "kind": c.kind, "mean": c.mean, "sd": c.sd, **_if_given(decimals=c.decimals)}
                if c.kind == "continuous"
                else {"name": c.name, "kind": c.kind, "levels": list(c.levels)}
                for c in self.columns
            ],
            "missing": list(self.missing),
            "dropped": list(self.dropped),
        }

    @property
    def holes(self) -> Holes:
        """The texts that mark holes."""
        return Holes(self.missing)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def index(self, name: str) -> int:
        """The position of a column.

        :raises ValueError: for an unknown name.
        """
        if name not in self.names:
            raise ValueError(f"there is no column {name!r}; the columns are {', '.join(self.names)}")
        return self.names.index(name)

    def encode(self, rows: Mapping[str, Entries] | pd.DataFrame | Sequence[Sequence[object]]) -> np.ndarray:
        """Encode entries as float32 (row, column); None, NaN and the texts that mark holes become NaN.

        :param rows: arrays by column name (a mapping or a data frame, in any order), or rows of entries in the order of the
            schema.
        :raises ValueError: for a missing or unknown column, an unknown level, and a text in a continuous column, with the row
            counted from 0.
        """
        if not hasattr(rows, "keys"):
            lengths = [len(row) for row in rows]
            wrong = next((i for i, length in enumerate(lengths) if length != len(self.columns)), None)
            if wrong is not None:
                raise ValueError(f"row {wrong} has {lengths[wrong]} entries, but the schema {len(self.columns)} columns")
            rows = {name: [row[at] for row in rows] for at, name in enumerate(self.names)}
        return _encode(self, _texts_of(rows), Place("the rows given", lambda row: f"row {row}"))

    def decode(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """Decode an array (..., column) to entries by column name, each of shape (...).

        Continuous entries are float64 in their own units, rounded to the decimals of the column, or, without these, to the
        resolution of float32; entries of other columns are the texts of their levels. NaN becomes NaN or the empty text.

        :raises ValueError: for another number of columns, and a code that is not the index of a level.
        """
        array = np.asarray(array)
        if array.ndim == 0 or array.shape[-1] != len(self.columns):
            raise ValueError(f"the array has shape {array.shape}; its last axis must be the {len(self.columns)} columns")
        return {column.name: decode_column(column, array[..., at]) for at, column in enumerate(self.columns)}


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a CSV file.

    :param schema: description of the columns.
    :param values: encoded rows, float32 (row, column) with NaN for holes.
    :param text: the text of the file, for `write_filled`.
    :param holes: by column, the count of each word for a hole.
    :param lines: the line of the file where each row begins, counted from 1.
    """

    schema: Schema
    values: np.ndarray
    text: str = field(repr=False)
    holes: Mapping[str, Mapping[str, int]]
    lines: Sequence[int] = field(repr=False)

    @functools.cached_property
    def records(self) -> tuple[Record, ...]:
        """The entries of the file with their positions, parsed once for several `write_filled`."""
        return tuple(records_of(self.text, "the table"))


def read_csv(
    path: str | Path,
    *,
    categorical: Sequence[str] = (),
    integer: Sequence[str] = (),
    drop: Sequence[str] = (),
    missing: Sequence[str | float] = (),
    schema: Schema | None = None,
) -> Table:
    """Read a table from a CSV file; see `csv_text` for the format and `entries` for numbers and holes.

    Without `schema` it is inferred from the entries: a column with two different values is binary, one of numbers continuous,
    one of other texts categorical. With the `schema` of training, all of its columns must be present, in any order. Warns of a
    column whose standard deviation is dominated by a few outliers.

    :param categorical: columns whose entries are levels, although they look like numbers or dates.
    :param integer: columns of integers, although they contain two different values, or codes. (A column that contains only
        integers is detected.)
    :param drop: columns that are not read. `write_filled` keeps their entries, and those of the columns dropped by ``schema``,
        which may be absent.
    :param missing: words for holes in every column, in addition to those of ``schema``.
    :param schema: description of the columns; not together with ``categorical`` or ``integer``.
    :raises FileNotFoundError: if there is no file.
    :raises ValueError: for a file that is empty, has no rows or is not UTF-8; ragged rows; names that are missing, repeated or
        not in the schema; unknown levels; other texts among numbers; and without a schema also for columns that are constant,
        contain dates, look like identifiers, or have values that float64 does not distinguish.
    """
    path = Path(path)
    if schema is not None and (categorical or integer):
        name = "categorical" if categorical else "integer"
        raise ValueError(f"give {name}= or schema=, not both: the schema defines which columns are {name}")
    text = read_text(path)
    columns, lines = columns_of(text, str(path))
    place = Place(str(path), lambda row: f"line {lines[row]}")
    _check_named(drop, list(columns), "drop", place)
    if schema is not None and (modelled := [name for name in drop if name in schema.names]):
        raise ValueError(
            f"{place(modelled[0])} is a column of the training table and cannot be dropped: remove drop=[{modelled[0]!r}]"
        )
    dropped = {*drop, *(schema.dropped if schema is not None else ())}
    columns = {name: entries for name, entries in columns.items() if name not in dropped}
    if schema is None:
        schema = _infer(columns, categorical, integer, drop, missing, place)
    elif missing:
        schema = replace(schema, missing=(*schema.missing, *words_of(missing)))
    remedy = "remove it, or keep it unread with drop=[{name!r}]"
    values, words = _encode(schema, columns, place, remedy=remedy), schema.holes
    holes = {name: Counter(entry for entry in columns[name] if entry in words) for name in schema.names}
    return Table(schema, values, text, holes, lines)


def write_filled(path: str | Path, table: Table, values: np.ndarray) -> None:
    """Write the file that `table` was read from with its holes filled, and the rest byte for byte the same.

    :param values: encoded rows, (row, column). Only values at holes are used; a hole with the value NaN is not changed.
    :raises ValueError: for values of another shape or invalid codes (`Schema.decode`).
    """
    values = np.asarray(values)
    if values.shape != table.values.shape:
        raise ValueError(f"{path}: the values have shape {values.shape}, but the table has {table.values.shape}")
    filled = np.isnan(table.values) & ~np.isnan(values)
    positions = {entry.text: at for at, entry in enumerate(table.records[0].entries)}
    entries: dict[tuple[int, int], str] = {}
    decoded = table.schema.decode(np.where(filled, values, np.nan))
    for at, column in enumerate(table.schema.columns):
        for row in np.flatnonzero(filled[:, at]).tolist():
            entries[row, positions[column.name]] = text_of_decoded(column, decoded[column.name][row].item())
    write_whole(Path(path), replace_entries(table.text, entries, table.records).encode())


def write_csv(path: str | Path, schema: Schema, values: np.ndarray) -> None:
    """Write encoded rows (row, column) to a CSV file with the names of the schema; holes become empty entries.

    :raises ValueError: for another shape or invalid codes (`Schema.decode`).
    """
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"{path}: the values have shape {values.shape}, expected (row, column)")
    columns = schema.decode(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema.names)
    writer.writerows(zip(*(map(text_of, column.tolist()) for column in columns.values()), strict=True))
    write_whole(Path(path), text.getvalue().encode())


def _texts_of(columns: Any) -> dict[str, list[str]]:
    """Columns of any values as texts, all of the same length."""
    texts: dict[str, list[str]] = {}
    for name in columns.keys():  # noqa: SIM118 (any object with keys() is accepted, such as a data frame)
        array = np.asanyarray(columns[name])  # keeps masked arrays, whose tolist() gives None for masked entries
        if array.ndim != 1:
            raise ValueError(f"column {name!r} has shape {array.shape}: give one entry for each row")
        if array.dtype.kind == "c":
            raise ValueError(f"column {name!r} contains complex numbers: give real and imaginary parts as two columns")
        if array.dtype.kind in "mM":  # tolist() gives integers for nanoseconds, and dates for other units
            array = array.astype(f"{array.dtype.kind}8[us]")
        texts[str(name)] = [text_of(value) for value in array.tolist()]
        first, entries = next(iter(texts.items()))
        if len(array) != len(entries):
            raise ValueError(f"column {name!r} has {len(array)} entries, column {first!r} {len(entries)}; both must be equal")
    return texts


def _infer(
    columns: Mapping[str, list[str]],
    categorical: Sequence[str],
    integer: Sequence[str],
    drop: Sequence[str],
    missing: Sequence[str | float],
    place: Place,
) -> Schema:
    if not columns:
        raise ValueError(f"{place.source}: every column is dropped: keep at least one")
    for option, names in (("categorical", categorical), ("integer", integer)):
        _check_named(names, [*columns, *drop], option, place)
        if both := [name for name in names if name in drop or (option == "integer" and name in categorical)]:
            other = "drop" if both[0] in drop else "categorical"
            raise ValueError(
                f"{place(both[0])}: {option}=[{both[0]!r}] and {other}=[{both[0]!r}] are contradictory: give one of them"
            )
    holes = Holes(missing)
    found, faults = [], []
    for name, texts in columns.items():
        try:
            found.append(infer_column(name, texts, holes, place, categorical=name in categorical, integer=name in integer))
        except ValueError as error:
            faults.append(str(error))
    place.raise_all(faults)
    return Schema(tuple(found), missing, drop)


def _stored_column(stored: Mapping[str, Any]) -> Column:
    """A column of `Schema.to_json`. Earlier files have ``integer`` for columns of integers."""
    fields = dict(stored)
    if fields.pop("integer", False):
        fields["decimals"] = 0
    return Column(**fields)


def _if_given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns without duplicates.

    :raises TypeError: for a single string, whose letters would be the names.
    """
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a sequence of names, as in {what}=[{names!r}]")
    return tuple(dict.fromkeys(names))


def _check_named(names: Sequence[str], columns: Sequence[str], option: str, place: Place) -> None:
    """Check that all names are columns.

    :raises TypeError: for a single string.
    :raises ValueError: for an unknown name.
    """
    if unknown := [name for name in _names(option, names) if name not in columns]:
        shown = ", ".join(f"{option}=[{name!r}]" for name in unknown)
        none = "there is no such column" if len(unknown) == 1 else "there are no such columns"
        raise ValueError(f"{place.source}: {shown}: {none}; the columns are {', '.join(columns)}")


def _encode(schema: Schema, columns: Mapping[str, list[str]], place: Place, *, remedy: str = "remove it") -> np.ndarray:
    """Encode columns of texts, float32 (row, column).

    :param remedy: advice for a column that is not in the schema, formatted with its ``name``.
    """
    holes, codes, faults = schema.holes, [], []
    for column in schema.columns:
        if column.name not in columns:
            faults.append(f"{place(column.name)} is missing: add it, with empty entries for unknown values")
            continue
        try:
            codes.append(encode_column(column, columns[column.name], holes, place))
        except ValueError as error:
            faults.append(str(error))
    for name in columns:
        if name not in (*schema.names, *schema.dropped):
            faults.append(f"{place(name)} is not in the schema ({', '.join(schema.names)}): {remedy.format(name=name)}")
    place.raise_all(faults)
    return np.stack(codes, axis=-1)

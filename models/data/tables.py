"""Tables with named columns, as numbers a generator can make and back.

A `Schema` says what each column is, and fixes the code: continuous columns are standardised in float64, (x - mean) / sd over
the entries seen in training, and then stored as float32; binary columns are 0 or 1; categorical columns are the index of the
level. A hole, an entry that is not known, is NaN in the array. The schema belongs to the trained generator (`to_json`); files
that come later are read with it, so that the same number means the same thing, and the same words stand for holes.

`entries` says what is a number and what is a hole. A column with a number in it is a column of numbers: any other text there is
an error that names the line and the remedies, and so is a column of numbers that are not written as such ("35%", "1,234") and
one of dates, from files and from arrays alike. Columns named as categorical are exempt; columns of other texts are categorical.

`write_filled` writes a file again with its holes filled and all else byte for byte as it was; `write_csv` writes any rows.

>>> schema = Schema.of({"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]})
>>> schema.columns[1]
Column(name='smokes', kind='binary', mean=0.0, sd=1.0, levels=('no', 'yes'), integer=False)
>>> array = schema.encode({"age": [30, None], "smokes": ["yes", "no"]})
>>> array
array([[ 0.,  1.],
       [nan,  0.]], dtype=float32)
>>> schema.decode(array)
{'age': array([30., nan]), 'smokes': array(['yes', 'no'], dtype='<U3')}
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cogen.inference.whole_files import write_whole
from cogen.models.data.columns import Column, Place, decode_column, encode_column, infer_column
from cogen.models.data.csv_text import columns_of, first_repeated, read_text, replace_entries
from cogen.models.data.entries import Holes, text_of, words_of


@dataclass(frozen=True)
class Schema:
    """The columns of a table in the order of the array's last axis, and the code between entries and numbers.

    :param columns: what each column holds.
    :param missing: the words that stand for holes besides `entries.WORDS_FOR_HOLES`.
    :param dropped: the names of columns that files may have besides, and that are not read.

    Raises ValueError when there are no columns, two have the same name, a column is dropped that is there, or a level stands
    for a hole.
    """

    columns: tuple[Column, ...]
    missing: Sequence[Any] = ()
    dropped: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "missing", words_of(self.missing))
        object.__setattr__(self, "dropped", _names("dropped", self.dropped))
        if not self.columns:
            raise ValueError("a schema needs at least one column")
        if twice := first_repeated(self.names):
            raise ValueError(f"column {twice!r} is there twice; names must differ")
        if both := [name for name in self.dropped if name in self.names]:
            raise ValueError(f"column {both[0]!r} is dropped, and is a column of the schema: give it as one of the two")
        holes = self.holes
        for column in self.columns:
            if levels := [level for level in column.levels if level in holes]:
                raise ValueError(f"{levels[0]!r} is a level of column {column.name!r}; it cannot stand for a hole, too")

    @classmethod
    def of(
        cls,
        columns: Mapping[str, Any],
        *,
        categorical: Sequence[str] = (),
        integer: Sequence[str] = (),
        drop: Sequence[str] = (),
        missing: Sequence[Any] = (),
    ) -> "Schema":
        """The schema of columns given by name (a mapping of arrays, or a data frame), as `read_csv` would find it.

        Raises ValueError naming the column that tells nothing, looks like an identifier, cannot be read or holds dates, or
        the row of a text among numbers.
        """
        place = Place("the columns given", lambda row: f"row {row}")
        kept = {name: columns[name] for name in columns.keys() if str(name) not in drop}  # noqa: SIM118 (see `_texts_of`)
        _check_named(drop, [str(name) for name in columns.keys()], "drop", place)  # noqa: SIM118
        return _infer(_texts_of(kept), categorical, integer, drop, missing, place)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Schema":
        """The schema that `to_json` wrote. Raises ValueError for anything else."""
        try:
            return cls(
                tuple(Column(**column) for column in content["columns"]), content.get("missing", ()), content.get("dropped", ())
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a schema of columns ({error}); give what Schema.to_json wrote") from None

    def to_json(self) -> dict[str, Any]:
        """The schema as lists, texts and numbers."""
        return {
            "columns": [
                {"name": c.name, "kind": c.kind, "mean": c.mean, "sd": c.sd, **({"integer": True} if c.integer else {})}
                if c.kind == "continuous"
                else {"name": c.name, "kind": c.kind, "levels": list(c.levels)}
                for c in self.columns
            ],
            "missing": list(self.missing),
            "dropped": list(self.dropped),
        }

    @property
    def holes(self) -> Holes:
        """The texts that stand for holes."""
        return Holes(self.missing)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def index(self, name: str) -> int:
        """Where the column stands. Raises ValueError with the names there are."""
        if name not in self.names:
            raise ValueError(f"there is no column {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def encode(self, rows: Mapping[str, Any] | Sequence[Sequence[Any]]) -> np.ndarray:
        """Entries as float32 (row, column).

        `rows` are arrays by column name (a mapping or a data frame, in any order), or rows of entries in the schema's order.
        None, NaN and the texts that stand for holes become NaN.

        Raises ValueError naming row and column, counted from 0, for a missing or strange column, an unknown level, or an
        entry that is no number where one belongs.
        """
        if not hasattr(rows, "keys"):
            lengths = [len(row) for row in rows]
            strange = next((i for i, length in enumerate(lengths) if length != len(self.columns)), None)
            if strange is not None:
                raise ValueError(f"row {strange} has {lengths[strange]} entries, the schema {len(self.columns)} columns")
            rows = {name: [row[at] for row in rows] for at, name in enumerate(self.names)}
        return _encode(self, _texts_of(rows), Place("the rows given", lambda row: f"row {row}"))

    def decode(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The entries of an encoded array (..., column), by name, each of shape (...).

        Continuous entries are float64 in their own units, rounded to what float32 resolved, or to whole numbers where the
        column has no others; the entries of other columns are the texts of their levels. NaN becomes NaN and the empty text.

        Raises ValueError when the array has another number of columns, or a code is not the number of a level.
        """
        array = np.asarray(array)
        if array.ndim == 0 or array.shape[-1] != len(self.columns):
            raise ValueError(f"the array has shape {array.shape}; its last axis must be the {len(self.columns)} columns")
        return {column.name: decode_column(column, array[..., at]) for at, column in enumerate(self.columns)}


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a CSV file.

    :param schema: what the columns mean.
    :param values: encoded rows, float32 (row, column) with NaN for holes.
    :param text: the file's text, for `write_filled`.
    :param holes: by column, how often each word for a hole was read.
    :param lines: the line of the file in which each row begins, counted from 1.
    """

    schema: Schema
    values: np.ndarray
    text: str = field(repr=False)
    holes: Mapping[str, Mapping[str, int]]
    lines: Sequence[int] = field(repr=False)


def read_csv(
    path: str | Path,
    *,
    categorical: Sequence[str] = (),
    integer: Sequence[str] = (),
    drop: Sequence[str] = (),
    missing: Sequence[Any] = (),
    schema: Schema | None = None,
) -> Table:
    """A table from a CSV file; see `csv_text` for the format and `entries` for numbers and holes.

    Without `schema` it is found from the entries: two different values make a binary column, numbers a continuous one, other
    texts a categorical one. With `schema`, the one of training, the columns may come in any order, and all must be there.

    :param categorical: columns whose entries are levels, though they look like numbers or dates.
    :param integer: columns of whole numbers, though they hold two different ones, or codes. (A column of numbers that are all
        whole is one by itself.)
    :param drop: columns that are not read. `write_filled` leaves their entries as they are, and so it does with those that
        ``schema`` has dropped, which need not be there.
    :param missing: words that stand for holes in every column, besides those that ``schema`` has.
    :param schema: what the columns mean; ``categorical`` and ``integer`` are then settled.

    Raises FileNotFoundError, or ValueError naming file, line and column: a file that is empty, has no rows or is no UTF-8;
    ragged rows; names that are missing, repeated or not the schema's; unknown levels; other texts among
    numbers; when a schema is to be found also constant columns, columns of dates, columns that look like identifiers, and
    columns whose values float32 does not tell apart. Warns of a column whose spread is decided by a few values far out.
    """
    path = Path(path)
    if schema is not None and (categorical or integer):
        name = "categorical" if categorical else "integer"
        raise ValueError(f"give {name}= or schema=, not both: the schema says already which columns are {name}")
    text = read_text(path)
    columns, lines = columns_of(text, str(path))
    place = Place(str(path), lambda row: f"line {lines[row]}")
    _check_named(drop, list(columns), "drop", place)
    if schema is not None and (modelled := [name for name in drop if name in schema.names]):
        raise ValueError(
            f"{place(modelled[0])} is one of the training table: it is needed, so leave out drop=[{modelled[0]!r}]"
        )
    dropped = {*drop, *(schema.dropped if schema is not None else ())}
    columns = {name: entries for name, entries in columns.items() if name not in dropped}
    if schema is None:
        schema = _infer(columns, categorical, integer, drop, missing, place)
    elif missing:
        schema = replace(schema, missing=(*schema.missing, *words_of(missing)))
    remedy = "leave it out, or let it be carried along, drop=[{name!r}]"
    values, words = _encode(schema, columns, place, remedy=remedy), schema.holes
    holes = {name: Counter(entry for entry in columns[name] if entry in words) for name in schema.names}
    return Table(schema, values, text, holes, lines)


def write_filled(path: str | Path, table: Table, values: np.ndarray) -> None:
    """Write the file that `table` was read from with its holes filled, and all else byte for byte as it was.

    `values` are encoded rows (row, column). Values where there is no hole are not used; a hole whose value is NaN stays as it
    was written.

    Raises ValueError for values that are not the table's (`Schema.decode`).
    """
    values = np.asarray(values)
    if values.shape != table.values.shape:
        raise ValueError(f"{path}: the values have shape {values.shape}, the table {table.values.shape}")
    filled = np.isnan(table.values) & ~np.isnan(values)
    names, _ = columns_of(table.text, str(path))
    places = {name: at for at, name in enumerate(names)}
    entries: dict[tuple[int, int], str] = {}
    for at, (name, column) in enumerate(table.schema.decode(np.where(filled, values, np.nan)).items()):
        entries |= {(int(row), places[name]): text_of(column[row].item()) for row in np.flatnonzero(filled[:, at])}
    write_whole(Path(path), replace_entries(table.text, entries).encode())


def write_csv(path: str | Path, schema: Schema, values: np.ndarray) -> None:
    """Encoded rows (row, column) as a CSV file with the schema's names; holes are empty entries.

    Raises ValueError for values that are not the schema's (`Schema.decode`).
    """
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"{path}: the values have shape {values.shape}; a file takes (row, column)")
    columns = schema.decode(values)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(schema.names)
    writer.writerows(zip(*(map(text_of, column.tolist()) for column in columns.values()), strict=True))
    write_whole(Path(path), text.getvalue().encode())


def _texts_of(columns: Any) -> dict[str, list[str]]:
    """Columns of any values as texts, all of one length."""
    texts: dict[str, list[str]] = {}
    for name in columns.keys():  # noqa: SIM118 (a data frame's items are columns, too, but only keys() says so)
        array = np.asanyarray(columns[name])  # a masked array stays one, and makes None of what it masks
        if array.ndim != 1:
            raise ValueError(f"column {name!r} has shape {array.shape}; give one entry for each row")
        if array.dtype.kind == "c":
            raise ValueError(f"column {name!r} holds complex numbers; give real and imaginary parts as two columns")
        if array.dtype.kind in "mM":  # of nanoseconds, tolist() would make whole numbers, and dates of other units
            array = array.astype(f"{array.dtype.kind}8[us]")
        texts[str(name)] = [text_of(value) for value in array.tolist()]
        first, entries = next(iter(texts.items()))
        if len(array) != len(entries):
            raise ValueError(f"column {name!r} has {len(array)} entries, column {first!r} {len(entries)}; give as many of each")
    return texts


def _infer(
    columns: Mapping[str, list[str]],
    categorical: Sequence[str],
    integer: Sequence[str],
    drop: Sequence[str],
    missing: Sequence[Any],
    place: Place,
) -> Schema:
    if not columns:
        raise ValueError(f"{place.source}: every column is dropped; keep one at least")
    for option, names in (("categorical", categorical), ("integer", integer)):
        _check_named(names, [*columns, *drop], option, place)
        if both := [name for name in names if name in drop or (option == "integer" and name in categorical)]:
            other = "drop" if both[0] in drop else "categorical"
            raise ValueError(f"{place(both[0])}: {option}=[{both[0]!r}] and {other}=[{both[0]!r}] contradict; give one of them")
    holes = Holes(missing)
    found = [
        infer_column(name, texts, holes, place, categorical=name in categorical, integer=name in integer)
        for name, texts in columns.items()
    ]
    return Schema(tuple(found), missing, drop)


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, each once. Raises TypeError for one text, whose letters they would be."""
    if isinstance(names, str):
        raise TypeError(f"{what}={names!r}: give a sequence of names, as in {what}=[{names!r}]")
    return tuple(dict.fromkeys(names))


def _check_named(names: Sequence[str], columns: Sequence[str], option: str, place: Place) -> None:
    """Raises ValueError for names that are no column's, TypeError for one text."""
    if strange := [name for name in _names(option, names) if name not in columns]:
        raise ValueError(f"{place.source}: {option}=[{strange[0]!r}]: there is no such column; there are {', '.join(columns)}")


def _encode(schema: Schema, columns: Mapping[str, list[str]], place: Place, *, remedy: str = "leave it out") -> np.ndarray:
    """:param remedy: for a column that is not in the schema, formatted with its ``name``."""
    if missing := [name for name in schema.names if name not in columns]:
        raise ValueError(f"{place(missing[0])} is missing; add it, with empty entries where it is not known")
    if extra := [name for name in columns if name not in (*schema.names, *schema.dropped)]:
        said = f"{place(extra[0])} is not in the schema ({', '.join(schema.names)})"
        raise ValueError(f"{said}; {remedy.format(name=extra[0])}")
    holes = schema.holes
    return np.stack([encode_column(column, columns[column.name], holes, place) for column in schema.columns], axis=-1)

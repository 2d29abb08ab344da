"""Tables with named columns, as numbers a generator can make and back.

A `Schema` says what each column is, and fixes the code: continuous columns are standardised, (x - mean) / sd over the entries
seen in training; binary columns are 0 or 1; categorical columns are the index of the level. A hole, an entry that is not
known, is NaN in the array and an empty entry in the file. The schema belongs to the trained generator (`to_json`); files that
come later are read with it, so that the same number means the same thing.

CSV files are UTF-8 with commas and a line of names; "", "NA", "nan" and "?" are holes. Every error names the file, the line
and the column.

>>> schema = Schema.of({"age": [20, 30, 40, None], "smokes": ["no", "yes", "no", "?"]})
>>> schema.columns[1]
Column(name='smokes', kind='binary', mean=0.0, sd=1.0, levels=('no', 'yes'))
>>> array = schema.encode({"age": [30, None], "smokes": ["yes", "no"]})
>>> array
array([[ 0.,  1.],
       [nan,  0.]], dtype=float32)
>>> schema.decode(array)
{'age': array([30., nan]), 'smokes': array(['yes', 'no'], dtype='<U3')}
"""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from cogen.models.published_images import write_whole

Kind = Literal["continuous", "binary", "categorical"]

HOLES = ("", "na", "nan", "?", "<na>")  # in lower case; the last is how pandas prints its own
MAX_LEVELS = 100


@dataclass(frozen=True)
class Column:
    """What one column holds.

    Attributes:
        name: the column's name in files and mappings.
        kind: "continuous" (a number), "binary" (one of two levels) or "categorical" (one of two or more levels).
        mean, sd: of a continuous column, in its own units; sd is positive.
        levels: the texts of a binary or categorical column, in the order of their codes 0, 1, ...

    Raises ValueError for what contradicts itself.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    sd: float = 1.0
    levels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def check(good: bool, message: str) -> None:
            if not good:
                raise ValueError(f"column {self.name!r}: {message}")

        check(isinstance(self.name, str) and self.name.strip() == self.name != "", "a name is a text without outer spaces")
        check(self.kind in get_args(Kind), f"kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        check(
            _is_number(self.mean) and _is_number(self.sd) and self.sd > 0,
            f"mean {self.mean!r} and sd {self.sd!r}: finite, sd > 0",
        )
        check(
            not isinstance(self.levels, str) and all(isinstance(x, str) and x.strip() == x for x in self.levels),
            f"levels {self.levels!r} must be texts without outer spaces",
        )
        object.__setattr__(self, "levels", tuple(self.levels))  # JSON has lists only
        count = len(self.levels)
        wanted = {"continuous": count == 0, "binary": count == 2, "categorical": count >= 2}
        check(wanted[self.kind], f"{count} levels; a continuous column has none, a binary one 2, a categorical one 2 or more")
        check(len(set(self.levels)) == count, f"levels {self.levels} hold one twice")
        check(not any(map(_is_hole, self.levels)), f"levels {self.levels}: {', '.join(HOLES)} stand for holes")


@dataclass(frozen=True)
class Schema:
    """The columns of a table in the order of the array's last axis, and the code between entries and numbers.

    Raises ValueError when there are no columns or two have the same name.
    """

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise ValueError("a schema needs at least one column")
        if twice := _first_repeated(self.names):
            raise ValueError(f"column {twice!r} is there twice; names must differ")

    @classmethod
    def of(cls, columns: Mapping[str, Any], *, categorical: Sequence[str] = ()) -> "Schema":
        """The schema of columns given by name (a mapping of arrays, or a data frame), as `read_csv` would find it.

        Raises ValueError naming the column that tells nothing, looks like an identifier or cannot be read.
        """
        return _infer(_texts_of(columns), categorical, _Place("the columns given", lambda row: f"row {row}"))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Schema":
        """The schema that `to_json` wrote. Raises ValueError for anything else."""
        try:
            return cls(tuple(Column(**column) for column in content["columns"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a schema of columns ({error}); give what Schema.to_json wrote") from None

    def to_json(self) -> dict[str, Any]:
        """The schema as lists, texts and numbers."""
        return {
            "columns": [
                {"name": c.name, "kind": c.kind, "mean": c.mean, "sd": c.sd}
                if c.kind == "continuous"
                else {"name": c.name, "kind": c.kind, "levels": list(c.levels)}
                for c in self.columns
            ]
        }

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
        return _encode(self, _texts_of(rows), _Place("the rows given", lambda row: f"row {row}"))

    def decode(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """The entries of an encoded array (..., column), by name, each of shape (...).

        Continuous entries are float64 in their own units, rounded to what float32 resolved; others are the texts of their
        levels. NaN becomes NaN and the empty text.

        Raises ValueError when the array has another number of columns, or a code is not the number of a level.
        """
        array = np.asarray(array)
        if array.ndim == 0 or array.shape[-1] != len(self.columns):
            raise ValueError(f"the array has shape {array.shape}; its last axis must be the {len(self.columns)} columns")
        return {column.name: _decode(column, array[..., at]) for at, column in enumerate(self.columns)}


@dataclass(frozen=True, eq=False)
class Table:
    """Encoded rows, float32 (row, column) with NaN for holes, and the schema that tells what they mean."""

    schema: Schema
    values: np.ndarray


def read_csv(path: str | Path, *, categorical: Sequence[str] = (), schema: Schema | None = None) -> Table:
    """A table from a CSV file; see the module's text for the format.

    Without `schema` it is found from the entries: two different values make a binary column, finite numbers a continuous one
    (unless named in `categorical`), anything else a categorical one. With `schema`, the one of training, the columns may come
    in any order, and all must be there; holes are left empty.

    Raises FileNotFoundError, or ValueError naming file, line and column: a file that is empty, has no rows or is no UTF-8;
        ragged rows; names that are missing, repeated or not the schema's; unknown levels; entries that are no number where
        one belongs; when a schema is to be found also constant columns, and columns that look like identifiers.
    """
    path = Path(path)
    if schema is not None and categorical:
        raise ValueError("give categorical= or schema=, not both: the schema says already which columns are categorical")
    columns, lines = _read_columns(path)
    place = _Place(str(path), lambda row: f"line {lines[row]}")
    if schema is None:
        schema = _infer(columns, categorical, place)
    return Table(schema, _encode(schema, columns, place))


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
    writer.writerows(zip(*(map(_text, column.tolist()) for column in columns.values()), strict=True))
    write_whole(Path(path), text.getvalue().encode())


@dataclass(frozen=True)
class _Place:
    """Where entries came from, for messages."""

    source: str
    row: Callable[[int], str]

    def __call__(self, column: str, row: int | None = None) -> str:
        return f"{self.source}, {self.row(row) + ', ' if row is not None else ''}column {column!r}"


def _read_columns(path: Path) -> tuple[dict[str, list[str]], list[int]]:
    """The texts of each column, and the line of each row."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no CSV file at {path}")
    rows, lines = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                if row:  # a blank line is none
                    rows.append([entry.strip() for entry in row])
                    lines.append(reader.line_num)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: not CSV ({error}); look for a quote that is not closed") from None
    if not rows:
        raise ValueError(f"{path} is empty; its first line must name the columns")
    names = rows.pop(0)
    first = lines.pop(0)
    if all(_number(name) is not None for name in names):
        raise ValueError(
            f"{path}, line {first} has numbers where the names of the columns belong: {', '.join(names[:5])}; add them"
        )
    if "" in names:
        raise ValueError(f"{path}, line {first}: column {names.index('') + 1} has no name; name it, or leave the column out")
    if twice := _first_repeated(names):
        raise ValueError(f"{path}, line {first}: column {twice!r} is there twice; rename one, or leave it out")
    if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
        raise ValueError(f"{path}, line {first}: one column named {names[0]!r}; separate columns by commas")
    if not rows:
        raise ValueError(f"{path} names columns and has no rows; add some")
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise ValueError(
                f"{path}, line {line} has {len(row)} entries, the first line names {len(names)} columns; "
                "quote entries that hold a comma, and leave holes empty"
            )
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), lines


def _texts_of(columns: Any) -> dict[str, list[str]]:
    """Columns of any values as texts, all of one length."""
    texts: dict[str, list[str]] = {}
    for name in columns.keys():  # noqa: SIM118 (a data frame's items are columns, too, but only keys() says so)
        array = np.asarray(columns[name])
        if array.ndim != 1:
            raise ValueError(f"column {name!r} has shape {array.shape}; give one entry for each row")
        texts[str(name)] = [_text(value) for value in array.tolist()]
        first, entries = next(iter(texts.items()))
        if len(array) != len(entries):
            raise ValueError(f"column {name!r} has {len(array)} entries, column {first!r} {len(entries)}; give as many of each")
    return texts


def _infer(columns: Mapping[str, list[str]], categorical: Sequence[str], place: _Place) -> Schema:
    if strange := [name for name in categorical if name not in columns]:
        raise ValueError(f"{place.source}: there is no column {strange[0]!r} to be categorical; there are {', '.join(columns)}")
    return Schema(tuple(_infer_column(name, texts, name in categorical, place) for name, texts in columns.items()))


def _infer_column(name: str, texts: list[str], categorical: bool, place: _Place) -> Column:
    seen = [text for text in texts if not _is_hole(text)]
    if not seen:
        raise ValueError(f"{place(name)} holds nothing but holes; leave the column out")
    numbers = [number for text in seen if (number := _number(text)) is not None]
    numeric = len(numbers) == len(seen) and not categorical
    levels = set(seen)
    values = set(numbers) if numeric else levels
    if len(values) == 1:
        raise ValueError(f"{place(name)} is constant ({seen[0]!r} in every row); it tells nothing, leave it out")
    if numeric and len(values) > 2:
        return _infer_continuous(name, np.array(numbers), place)
    if numeric and len(levels) > 2:  # two numbers written in several ways, as 0 and 0.0
        levels = {_text(number) for number in numbers}
    if len(levels) == 2:
        return Column(name, "binary", levels=tuple(sorted(levels, key=_rank)))
    hint = "leave it out"
    if numbers and not categorical:
        row, text = next((row, text) for row, text in enumerate(texts) if not _is_hole(text) and _number(text) is None)
        hint += f", or, if it holds numbers, correct {text!r} in {place.row(row)}, which is no finite number"
    if len(levels) == len(seen):
        raise ValueError(f"{place(name)} has another text in every row and looks like an identifier: {hint}")
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"{place(name)} has {len(levels)} different texts, more than {MAX_LEVELS}: {hint}")
    return Column(name, "categorical", levels=tuple(sorted(levels, key=_rank)))


def _infer_continuous(name: str, numbers: np.ndarray, place: _Place) -> Column:
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(numbers.mean()), float(numbers.std())
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise ValueError(f"{place(name)} cannot be standardised: mean {mean:g}, sd {sd:g}; give it in other units")
    return Column(name, "continuous", mean=mean, sd=sd)


def _encode(schema: Schema, columns: Mapping[str, list[str]], place: _Place) -> np.ndarray:
    if missing := [name for name in schema.names if name not in columns]:
        raise ValueError(f"{place(missing[0])} is missing; add it, with empty entries where it is not known")
    if extra := [name for name in columns if name not in schema.names]:
        raise ValueError(f"{place(extra[0])} is not in the schema ({', '.join(schema.names)}); leave it out")
    return np.stack([_encode_column(column, columns[column.name], place) for column in schema.columns], axis=-1)


def _encode_column(column: Column, texts: list[str], place: _Place) -> np.ndarray:
    codes = np.full(len(texts), np.nan)
    by_text = {text: code for code, text in enumerate(column.levels)}
    # Another way of writing a number is the same level, as 1.0 for 1, unless it is a level of its own.
    by_number = {number: code for code, text in enumerate(column.levels) if (number := _number(text)) is not None}
    for row, text in enumerate(texts):
        if _is_hole(text):
            continue
        number = _number(text)
        if column.kind != "continuous":
            code = by_text.get(text, by_number.get(number) if number is not None else None)
            if code is None:
                known = ", ".join(map(repr, column.levels[:10])) + (", ..." if len(column.levels) > 10 else "")
                raise ValueError(
                    f"{place(column.name, row)}: unknown level {text!r}; there are {known}, or leave the entry empty"
                )
            codes[row] = code
        elif number is None:
            raise ValueError(f"{place(column.name, row)}: {text!r} is no finite number; correct it, or leave the entry empty")
        else:
            codes[row] = (number - column.mean) / column.sd
            if abs(codes[row]) > np.finfo(np.float32).max:
                raise ValueError(
                    f"{place(column.name, row)}: {text} is too far from the mean {column.mean:g} (sd {column.sd:g})"
                )
    return codes.astype(np.float32)


def _decode(column: Column, codes: np.ndarray) -> np.ndarray:
    codes = np.asarray(codes, np.float64)
    seen = ~np.isnan(codes)
    if column.kind == "continuous":
        if np.isinf(codes).any():
            raise ValueError(f"column {column.name!r} holds infinite values; give finite ones, or NaN for holes")
        return _rounded(
            codes * column.sd + column.mean, column.sd * np.spacing(np.maximum(np.abs(codes), 1).astype(np.float32))
        )
    strange = seen & ((codes != np.rint(codes)) | (codes < 0) | (codes >= len(column.levels)))
    if strange.any():
        raise ValueError(
            f"column {column.name!r}: {codes[strange][0]:g} is not the number of a level, 0 to {len(column.levels) - 1}; "
            "draw a level or take the likeliest one"
        )
    return np.array(["", *column.levels])[np.where(seen, codes + 1, 0).astype(int)]


def _rounded(values: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Values at the fewest decimals that keep the resolution: 39, not the 39.0000004 that float32 made of it."""
    decimals = -np.ceil(np.log10(resolution))
    scale = 10.0 ** np.clip(decimals, 0, 15)
    with np.errstate(over="ignore"):
        rounded = np.rint(values * scale) / scale
    return np.where((decimals <= 15) & np.isfinite(rounded), rounded, values) + 0.0  # no minus zero


def _text(value: Any) -> str:
    """An entry as a file would have it; whole floats as whole numbers, so that 1.0 and 1 are the same level."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    return str(value).strip()


def _number(text: str) -> float | None:
    """The finite number a text stands for, if it does."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _rank(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, before other texts."""
    number = _number(text)
    return number is None, number or 0.0, text


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_hole(text: str) -> bool:
    return text.strip().lower() in HOLES


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for at, name in enumerate(names) if name in names[:at]), None)

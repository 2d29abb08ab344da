"""A column of a table: which kind it is, found from the texts of its entries, and its code.

A column with a number in it is a column of numbers, and so is one of which most entries are numbers in another way of writing
("1,234", "3,5", "35%", "$35") or dates. Any text in it that is neither a number nor a hole is an error with its line and the
remedies: as a level it would be wrong without a word. Digits that begin with a zero are codes, and codes are levels while they
are few. Columns that the caller calls categorical are taken as they are.
"""

import decimal
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cogen.models.data.entries import Holes, is_code, is_date, is_decorated_number, is_plain_number, text_of, value_of

Kind = Literal["continuous", "binary", "categorical"]

MAX_LEVELS = 100
MERGED = 0.05
"""The share of the different values of a column that may become equal in float32, as some do of very many measured ones."""
NARROW = 0.05
"""How many standard deviations nine tenths of the different values must span: a generator's least noise (`TabularVAE`)."""


@dataclass(frozen=True)
class Column:
    """What one column holds.

    :param name: the column's name in files and mappings.
    :param kind: "continuous" (a number), "binary" (one of two levels) or "categorical" (one of two or more levels).
    :param mean: of a continuous column, in its own units.
    :param sd: the same of the standard deviation, which is positive.
    :param levels: the texts of a binary or categorical column, in the order of their codes 0, 1, ...
    :param integer: whether the numbers of a continuous column are whole. They are modelled as other numbers are, and what is
        decoded is rounded.

    Raises ValueError for what contradicts itself.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    sd: float = 1.0
    levels: tuple[str, ...] = ()
    integer: bool = False

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
        check(isinstance(self.integer, bool), f"integer is {self.integer!r}: it is True or False")
        check(not self.integer or self.kind == "continuous", f"it is {self.kind}, and integer=True is for a continuous column")
        check(len(set(self.levels)) == count, f"levels {self.levels} hold one twice")
        for level in self.levels:
            check(level not in Holes(), f"the level {level!r} stands for a hole")


@dataclass(frozen=True)
class Place:
    """Where entries came from, for messages."""

    source: str
    row: Callable[[int], str]

    def __call__(self, column: str, row: int | None = None) -> str:
        return f"{self.source}, {self.row(row) + ', ' if row is not None else ''}column {column!r}"


def infer_column(
    name: str, texts: Sequence[str], holes: Holes, place: Place, *, categorical: bool = False, integer: bool = False
) -> Column:
    """The column of these entries.

    :param categorical: take the entries as levels, numbers and dates too.
    :param integer: take them as whole numbers, two different ones and codes, too.
    :raises ValueError: naming the column that tells nothing, looks like an identifier or holds dates, the row of a text among
        numbers, and numbers that float64 does not tell apart. Warns of numbers that float32 does not, of values far out that
        decide the spread, and of codes that are too many for levels.
    """
    counts = Counter(text for text in texts if text not in holes)
    if not counts:
        raise ValueError(f"{place(name)} holds nothing but holes; leave the column out, as with drop=[{name!r}]")
    levels = set(counts)
    if integer:
        if strange := [text for text in counts if not _is_whole(text)]:
            raise ValueError(
                f"{place(name, texts.index(strange[0]))}: {strange[0]!r} is not a whole number, and integer=[{name!r}] says"
                f" that this column holds no others: correct it, leave the entry empty, or leave out integer=[{name!r}]"
            )
        if len(set(map(value_of, counts))) > 1:
            return _infer_continuous(name, texts, counts, place)
    numeric = not categorical and all(map(is_plain_number, levels))
    codes = not categorical and not numeric and all(map(str.isdecimal, levels))
    if not (categorical or numeric or codes):
        _refuse_texts_among_numbers(name, texts, counts, place)
    values = {value_of(text) for text in levels} if numeric else levels
    if len(values) == 1:
        raise ValueError(
            f"{place(name)} is constant ({next(iter(counts))!r} in every row); it tells nothing, leave it out, as with"
            f" drop=[{name!r}]"
        )
    if numeric and len(values) > 2:
        return _infer_continuous(name, texts, counts, place)
    if numeric and len(levels) > 2:  # two numbers written in several ways, as 0 and 0.0
        levels = {text_of(value) for value in values}
    hint = f"leave it out, as with drop=[{name!r}]"
    if codes:
        code = next(filter(is_code, counts))
        hint += f", or, if it holds numbers, write them without zeros in front, which make codes of them ({code!r})"
        if twice := [text for text in levels if is_code(text) and str(int(text)) in levels]:
            raise ValueError(f"{place(name)} holds {twice[0]!r} and {str(int(twice[0]))!r}; write codes in one way, or {hint}")
    if len(levels) == 2:
        return Column(name, "binary", levels=tuple(sorted(levels, key=_rank)))
    if codes and len(levels) > min(MAX_LEVELS, counts.total() - 1):
        warnings.warn(
            f"{place(name)} holds codes ({code!r} begins with a zero), {len(levels)} different ones, too many for levels: they"
            " are modelled as numbers, and a hole is filled with a number; if they are identifiers, leave the column out",
            stacklevel=2,
        )
        return _infer_continuous(name, texts, counts, place)
    if len(levels) == counts.total():
        raise ValueError(f"{place(name)} has another text in every row and looks like an identifier: {hint}")
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"{place(name)} has {len(levels)} different texts, more than {MAX_LEVELS}: {hint}")
    return Column(name, "categorical", levels=tuple(sorted(levels, key=_rank)))


def _refuse_texts_among_numbers(name: str, texts: Sequence[str], counts: Counter[str], place: Place) -> None:
    """Raise ValueError for texts among numbers, and for numbers among words; words alone may pass."""
    numbers = [text for text in counts if is_plain_number(text)]
    others = [text for text in counts if not is_plain_number(text)]
    meant = [text for text in others if is_date(text) or is_decorated_number(text)]
    if not numbers and 2 * sum(counts[text] for text in meant) <= counts.total():
        return
    if numbers and len(others) - len(meant) > len(numbers):
        few, said = numbers, f"{numbers[0]!r} is a number among texts such as {others[0]!r}: correct it"
    else:
        few = others if numbers else meant
        said = _not_a_number(few[0])
    such, total = sum(counts[text] for text in few), counts.total()
    raise ValueError(
        f"{place(name, texts.index(few[0]))}: {said}. {such} of {total} entries are of this sort. If the column holds levels,"
        f" name it in categorical=[{name!r}], or leave it out, as with drop=[{name!r}]"
    )


def _not_a_number(text: str) -> str:
    """Why a text is not a number, and what to do about it."""
    if is_date(text):
        return f"{text!r} is a date, a time or a duration: give a number in its place, such as the days since a first one"
    if is_code(text):
        return f"{text!r} begins with a zero, so it is a code and not a number: write it without, if it is one"
    if is_decorated_number(text) and any(map(str.isdecimal, text)):
        return (
            f"{text!r} is not written as a number: write it as 1234.5, with a decimal point, and without separators of"
            " thousands and signs of percent or currency"
        )
    return (
        f"{text!r} is neither a finite number nor a word for a hole: correct it, leave the entry empty, or name it in"
        f" missing=[{text!r}] if it stands for a hole"
    )


def _infer_continuous(name: str, texts: Sequence[str], counts: Counter[str], place: Place) -> Column:
    numbers = np.array([float(text) for text in texts if text in counts])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(numbers.mean()), float(numbers.std())
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise ValueError(f"{place(name)} cannot be standardised: mean {mean:g}, sd {sd:g}; give it in other units")
    column = Column(name, "continuous", mean=mean, sd=sd, integer=all(map(_is_whole, counts)))
    _check_resolution(column, texts, counts, place)
    return column


def _check_resolution(column: Column, texts: Sequence[str], counts: Counter[str], place: Place) -> None:
    """Whether float32, and a generator whose noise is a share of the spread, tell apart what the table tells apart."""
    exact = decimal.Context(prec=40, traps=[])  # float64 is not, above 2**53
    distinct = {exact.create_decimal(text): text for text in counts}
    ordered = [distinct[value] for value in sorted(value for value in distinct if value.is_finite())]
    values = np.array([float(text) for text in ordered])
    codes = ((values - column.mean) / column.sd).astype(np.float32)
    far = ordered[int(np.argmax(np.abs(codes)))]
    said = f"{place(column.name)}: its standard deviation is {column.sd:.3g}, with values as far out as {far}"
    said += f" in {place.row(texts.index(far))}"
    remedy = (
        f"correct such values, or make holes of them (missing=[{far!r}]), give the column in"
        " other units, such as its logarithm, or leave it out"
    )
    merged = np.flatnonzero(np.diff(codes) == 0)
    if len(merged) > MERGED * (len(ordered) - 1):
        one, other = ordered[merged[0]], ordered[merged[0] + 1]
        equal = f"{len(merged)} of its {len(ordered)} different values equal the next one in 32 bits ({one} and {other})"
        if values[merged[0]] == values[merged[0] + 1]:
            raise ValueError(f"{place(column.name)}: {equal}: subtract a constant, or leave it out, if they are identifiers")
        warnings.warn(f"{said}, so {equal}, and a generator does not tell them apart: {remedy}", stacklevel=2)
        return
    cut = math.ceil(len(codes) / 20)
    if len(codes) >= 10 and (span := float(codes[-1 - cut] - codes[cut])) < NARROW:
        warnings.warn(
            f"{said}, and nine tenths of its different values lie within {span:.2g} of it, which a generator does not tell"
            f" apart: {remedy}",
            stacklevel=2,
        )


def encode_column(column: Column, texts: Sequence[str], holes: Holes, place: Place) -> np.ndarray:
    """Entries as float32 (row,), NaN for holes.

    :raises ValueError: naming the row of an unknown level, or of a text where a number belongs.
    """
    codes = np.full(len(texts), np.nan)
    by_text = {text: code for code, text in enumerate(column.levels)}
    # Another way of writing a number is the same level, as 1.0 for 1, unless it is a level of its own.
    by_number = {number: code for code, text in enumerate(column.levels) if (number := value_of(text)) is not None}
    for row, text in enumerate(texts):
        if text in holes:
            continue
        number = value_of(text)
        if column.kind != "continuous":
            code = by_text.get(text, by_number.get(number) if number is not None else None)
            if code is None:
                known = ", ".join(map(repr, column.levels[:10])) + (", ..." if len(column.levels) > 10 else "")
                raise ValueError(
                    f"{place(column.name, row)}: unknown level {text!r}; there are {known}, or leave the entry empty"
                )
            codes[row] = code
        elif number is None:
            raise ValueError(f"{place(column.name, row)}: {_not_a_number(text)}")
        else:
            codes[row] = (number - column.mean) / column.sd
            if abs(codes[row]) > np.finfo(np.float32).max:
                raise ValueError(
                    f"{place(column.name, row)}: {text} is too far from the mean {column.mean:g} (sd {column.sd:g})"
                )
    return codes.astype(np.float32)


def decode_column(column: Column, codes: np.ndarray) -> np.ndarray:
    """The entries of codes of any shape: numbers in their own units, or the texts of levels; see `Schema.decode`."""
    codes = np.asarray(codes, np.float64)
    seen = ~np.isnan(codes)
    if column.kind == "continuous":
        if np.isinf(codes).any():
            raise ValueError(f"column {column.name!r} holds infinite values; give finite ones, or NaN for holes")
        if column.integer:
            return np.rint(codes * column.sd + column.mean) + 0.0  # no minus zero
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


def _is_whole(text: str) -> bool:
    """Whether a text is a whole number, as 39, 39.0 and the code 007 are."""
    number = value_of(text)
    return number is not None and number.is_integer()


def _rank(text: str) -> tuple[bool, float, str]:
    """Sorts numbers by value, before other texts."""
    number = value_of(text)
    return number is None, number or 0.0, text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

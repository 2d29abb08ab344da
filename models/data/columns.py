"""A column of a table: its kind, inferred from the texts of its entries, and its encoding.

A column with any number is numeric, and so is one of mostly dates or numbers in another notation ("1,234", "3,5", "35%",
"$35"). Any other text in it that is not a hole is an error with its line and the remedies, because as a level it would be
silently wrong. Digits that begin with a zero are codes, which are levels while they are few. Columns that the caller declares
categorical are not checked.
"""

import decimal
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from cogen.models.data.entries import Holes, is_code, is_date, is_decorated_number, is_plain_number, text_of, value_of

Kind = Literal["continuous", "binary", "categorical"]

MAX_LEVELS = 100
MAX_DECIMALS = 6
"""Entries with more digits after the point are not rounded when they are decoded."""
MERGED = 0.05
"""The fraction of the distinct values of a column that may become equal in float32, as a few of very many measurements do."""
NARROW = 0.05
"""The least span of nine tenths of the distinct values, in standard deviations: the least noise of a generator
(`TabularVAE`)."""


@dataclass(frozen=True)
class Column:
    """Description of one column.

    :param name: the column's name in files and mappings.
    :param kind: "continuous" (a number), "binary" (one of two levels) or "categorical" (one of two or more levels).
    :param mean: mean of a continuous column, in its own units.
    :param sd: standard deviation of a continuous column, in its own units, positive.
    :param levels: the texts of a binary or categorical column, in the order of their codes 0, 1, ...
    :param decimals: digits after the point of a continuous column, to which decoded values are rounded: 0 for integers, None
        for no rounding. The values are modelled as continuous.
    :raises ValueError: for invalid or inconsistent values.
    """

    name: str
    kind: Kind
    mean: float = 0.0
    sd: float = 1.0
    levels: tuple[str, ...] = ()
    decimals: int | None = None

    def __post_init__(self) -> None:
        def check(good: bool, message: str) -> None:
            if not good:
                raise ValueError(f"column {self.name!r}: {message}")

        check(isinstance(self.name, str) and self.name.strip() == self.name != "", "a name must be a text without outer spaces")
        check(self.kind in get_args(Kind), f"kind is {self.kind!r}; it must be one of {', '.join(get_args(Kind))}")
        check(
            _is_number(self.mean) and _is_number(self.sd) and self.sd > 0,
            f"mean {self.mean!r} and sd {self.sd!r} must be finite, and sd > 0",
        )
        check(
            not isinstance(self.levels, str) and all(isinstance(x, str) and x.strip() == x for x in self.levels),
            f"levels {self.levels!r} must be texts without outer spaces",
        )
        object.__setattr__(self, "levels", tuple(self.levels))  # lists in JSON
        count = len(self.levels)
        wanted = {"continuous": count == 0, "binary": count == 2, "categorical": count >= 2}
        check(wanted[self.kind], f"{count} levels; a continuous column has none, a binary one 2, a categorical one 2 or more")
        check(
            self.decimals is None or (type(self.decimals) is int and 0 <= self.decimals <= MAX_DECIMALS),
            f"decimals is {self.decimals!r}: it must be an integer from 0 to {MAX_DECIMALS}, or None",
        )
        check(
            self.decimals is None or self.kind == "continuous",
            f"decimals={self.decimals} is for continuous columns, this one is {self.kind}",
        )
        check(len(set(self.levels)) == count, f"levels {self.levels} contain duplicates")
        for level in self.levels:
            check(level not in Holes(), f"the level {level!r} is a word for a hole")


@dataclass(frozen=True)
class Place:
    """The origin of entries, for messages."""

    source: str
    row: Callable[[int], str]

    def raise_all(self, faults: Sequence[str]) -> None:
        """Raise the faults of several columns as one error. A single fault is raised as it is.

        :param faults: messages that begin with `source`.
        :raises ValueError: if there are any.
        """
        if len(faults) > 1:
            parts = (fault.removeprefix(self.source).lstrip(":, ") for fault in faults)
            numbered = "; ".join(f"({number}) {part}" for number, part in enumerate(parts, 1))
            raise ValueError(f"{self.source}: {len(faults)} columns cannot be used as they are: {numbered}")
        if faults:
            raise ValueError(faults[0])

    def __call__(self, column: str, row: int | None = None) -> str:
        return f"{self.source}, {self.row(row) + ', ' if row is not None else ''}column {column!r}"


def infer_column(
    name: str, texts: Sequence[str], holes: Holes, place: Place, *, categorical: bool = False, integer: bool = False
) -> Column:
    """Infer the column of these entries.

    Warns of numbers that float32 does not distinguish, of outliers that dominate the standard deviation, and of too many codes
    for levels.

    :param categorical: treat the entries as levels, including numbers and dates.
    :param integer: treat the entries as integers, including two different values and codes.
    :raises ValueError: for a column that is constant, looks like an identifier or contains dates, for a text among numbers, and
        for numbers that float64 does not distinguish.
    """
    counts = Counter(text for text in texts if text not in holes)
    if not counts:
        raise ValueError(f"{place(name)} contains only holes: remove the column, as with drop=[{name!r}]")
    levels = set(counts)
    if integer:
        if others := [text for text in counts if not _is_whole(text)]:
            raise ValueError(
                f"{place(name, texts.index(others[0]))}: {others[0]!r} is not an integer, as integer=[{name!r}] requires:"
                f" correct it, leave the entry empty, or remove integer=[{name!r}]"
            )
        if len(set(map(value_of, counts))) > 1:
            return _infer_continuous(name, texts, counts, place)
    numeric = not categorical and all(map(is_plain_number, levels))
    codes = not categorical and not numeric and all(map(str.isdecimal, levels))
    if not (categorical or numeric or codes):
        _refuse_texts_among_numbers(name, texts, counts, place)
    values = {value_of(text) for text in levels} if numeric else levels
    if len(values) == 1:
        raise ValueError(f"{place(name)} is constant ({next(iter(counts))!r} in every row): remove it, as with drop=[{name!r}]")
    if numeric and len(values) > 2:
        return _infer_continuous(name, texts, counts, place)
    if numeric and len(levels) > 2:  # two numbers in several notations, such as 0 and 0.0
        levels = {text_of(value) for value in values}
    hint = f"remove it, as with drop=[{name!r}]"
    if codes:
        code = next(filter(is_code, counts))
        hint += f", or, if it contains numbers, write them without leading zeros, which mark codes ({code!r})"
        if twice := [text for text in levels if is_code(text) and str(int(text)) in levels]:
            raise ValueError(
                f"{place(name)} contains {twice[0]!r} and {str(int(twice[0]))!r}: write codes in one notation, or {hint}"
            )
    if len(levels) == 2:
        return Column(name, "binary", levels=tuple(sorted(levels, key=_rank)))
    if codes and len(levels) > min(MAX_LEVELS, counts.total() - 1):
        warnings.warn(
            f"{place(name)} contains {len(levels)} different codes ({code!r} begins with a zero), too many for levels: they are"
            " modelled as numbers, and holes are filled with numbers; if they are identifiers, remove the column",
            stacklevel=2,
        )
        return _infer_continuous(name, texts, counts, place)
    if len(levels) == counts.total():
        raise ValueError(f"{place(name)} has a different text in every row and looks like an identifier: {hint}")
    if len(levels) > MAX_LEVELS:
        raise ValueError(f"{place(name)} has {len(levels)} different texts, more than {MAX_LEVELS}: {hint}")
    return Column(name, "categorical", levels=tuple(sorted(levels, key=_rank)))


def _refuse_texts_among_numbers(name: str, texts: Sequence[str], counts: Counter[str], place: Place) -> None:
    """Check that a column does not mix numbers and other texts.

    :raises ValueError: for texts among numbers, numbers among texts, and columns of mostly dates or other notations of numbers.
    """
    numbers = [text for text in counts if is_plain_number(text)]
    others = [text for text in counts if not is_plain_number(text)]
    meant = [text for text in others if is_date(text) or is_decorated_number(text)]
    if not numbers and 2 * sum(counts[text] for text in meant) <= counts.total():
        return
    if numbers and len(others) - len(meant) > len(numbers):
        few, reason = numbers, f"{numbers[0]!r} is a number among texts such as {others[0]!r}: correct it"
    else:
        few = others if numbers else meant
        reason = _not_a_number(few[0])
    such, total = sum(counts[text] for text in few), counts.total()
    raise ValueError(
        f"{place(name, texts.index(few[0]))}: {reason}. {such} of {total} entries are of this kind. If the column contains"
        f" levels, give categorical=[{name!r}], or remove it, as with drop=[{name!r}]"
    )


def _not_a_number(text: str) -> str:
    """Why a text is not a number, with the remedy."""
    if is_date(text):
        return f"{text!r} is a date, a time or a duration: give a number instead, such as the days since a first date"
    if is_code(text):
        return f"{text!r} begins with a zero, so it is a code and not a number: write numbers without leading zeros"
    if is_decorated_number(text) and any(map(str.isdecimal, text)):
        return (
            f"{text!r} is not a plain number: write it as 1234.5, with a decimal point and without thousands separators or"
            " signs of percent or currency"
        )
    return (
        f"{text!r} is neither a finite number nor a word for a hole: correct it, leave the entry empty, or give"
        f" missing=[{text!r}] if it marks a hole"
    )


def _infer_continuous(name: str, texts: Sequence[str], counts: Counter[str], place: Place) -> Column:
    numbers = np.array([float(text) for text in texts if text in counts])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, sd = float(numbers.mean()), float(numbers.std())
    if not (math.isfinite(mean) and math.isfinite(sd) and sd > 0):
        raise ValueError(f"{place(name)} cannot be standardised: mean {mean:g}, sd {sd:g}: give it in other units")
    column = Column(name, "continuous", mean=mean, sd=sd, decimals=decimals_of(counts))
    _check_resolution(column, texts, counts, place)
    return column


def _check_resolution(column: Column, texts: Sequence[str], counts: Counter[str], place: Place) -> None:
    """Warn if float32, or a generator with noise relative to the standard deviation, cannot distinguish distinct values.

    :raises ValueError: if float64 cannot distinguish them.
    """
    exact = decimal.Context(prec=40, traps=[])  # float64 is not exact above 2**53
    distinct = {exact.create_decimal(text): text for text in counts}
    ordered = [distinct[value] for value in sorted(value for value in distinct if value.is_finite())]
    values = np.array([float(text) for text in ordered])
    codes = ((values - column.mean) / column.sd).astype(np.float32)
    far = ordered[int(np.argmax(np.abs(codes)))]
    reason = f"{place(column.name)}: its standard deviation is {column.sd:.3g}, with outliers such as {far}"
    reason += f" in {place.row(texts.index(far))}"
    remedy = (
        f"correct such values, or turn them into holes (missing=[{far!r}]), give the column in"
        " other units, such as its logarithm, or remove it"
    )
    merged = np.flatnonzero(np.diff(codes) == 0)
    if len(merged) > MERGED * (len(ordered) - 1):
        one, other = ordered[merged[0]], ordered[merged[0] + 1]
        equal = f"{len(merged)} of its {len(ordered)} distinct values equal the next one in float32 ({one} and {other})"
        if values[merged[0]] == values[merged[0] + 1]:
            raise ValueError(
                f"{place(column.name)}: {equal}: subtract a constant, or remove the column if it contains identifiers"
            )
        warnings.warn(f"{reason}, so {equal}, and a generator cannot distinguish them: {remedy}", stacklevel=2)
        return
    cut = math.ceil(len(codes) / 20)
    if len(codes) >= 10 and (span := float(codes[-1 - cut] - codes[cut])) < NARROW:
        warnings.warn(
            f"{reason}, and nine tenths of its distinct values span only {span:.2g} standard deviations, which a generator"
            f" cannot distinguish: {remedy}",
            stacklevel=2,
        )


def encode_column(column: Column, texts: Sequence[str], holes: Holes, place: Place) -> np.ndarray:
    """Encode entries as float32 (row,), NaN for holes.

    :raises ValueError: for an unknown level, and a text in a continuous column.
    """
    codes = np.full(len(texts), np.nan)
    by_text = {text: code for code, text in enumerate(column.levels)}
    # Another notation of a number is the same level, such as 1.0 for 1, unless it is itself a level.
    by_number = {number: code for code, text in enumerate(column.levels) if (number := value_of(text)) is not None}
    for row, text in enumerate(texts):
        if text in holes:
            continue
        number = value_of(text)
        if column.kind != "continuous":
            code = by_text.get(text, by_number.get(number) if number is not None else None)
            if code is None:
                known = ", ".join(map(repr, column.levels[:10])) + (", ..." if len(column.levels) > 10 else "")
                raise ValueError(f"{place(column.name, row)}: unknown level {text!r}: use {known}, or leave the entry empty")
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
    """Decode codes of any shape to numbers in their own units, or to the texts of levels; see `Schema.decode`.

    :raises ValueError: for infinite values, and codes that are not the index of a level.
    """
    codes = np.asarray(codes, np.float64)
    seen = ~np.isnan(codes)
    if column.kind == "continuous":
        if np.isinf(codes).any():
            raise ValueError(f"column {column.name!r} contains infinite values: give finite values, or NaN for holes")
        values = codes * column.sd + column.mean
        if column.decimals is not None:
            return np.round(values, column.decimals) + 0.0  # no negative zero
        return _rounded(values, column.sd * np.spacing(np.maximum(np.abs(codes), 1).astype(np.float32)))
    wrong = seen & ((codes != np.rint(codes)) | (codes < 0) | (codes >= len(column.levels)))
    if wrong.any():
        raise ValueError(
            f"column {column.name!r}: {codes[wrong][0]:g} is not the index of a level, 0 to {len(column.levels) - 1}: "
            "draw a level or use the most probable one"
        )
    return np.array(["", *column.levels])[np.where(seen, codes + 1, 0).astype(int)]


def text_of_decoded(column: Column, value: object) -> str:
    """A decoded entry as written to a file: with the digits after the point of the column, so that 38 is 38.0 among 38.5."""
    if column.decimals is None or not isinstance(value, float) or math.isnan(value):
        return text_of(value)
    return f"{value:.{column.decimals}f}"


def decimals_of(texts: Iterable[str]) -> int | None:
    """The largest number of digits after the point, without zeros at the end; None for exponents or too many digits.

    >>> decimals_of(["38.5", "7"]), decimals_of(["12.50", "7.25"]), decimals_of(["7.0", "007"]), decimals_of(["5e-3", "0.1"])
    (1, 2, 0, None)
    """
    broken = [text.lower() for text in texts if not _is_whole(text)]
    if any("e" in text for text in broken):
        return None
    most = max((len(text.partition(".")[2].rstrip("0")) for text in broken), default=0)
    return most if most <= MAX_DECIMALS else None


def _rounded(values: np.ndarray, resolution: np.ndarray) -> np.ndarray:
    """Round values to the fewest decimals that keep the resolution: 39 instead of the float32 value 39.0000004."""
    decimals = -np.ceil(np.log10(resolution))
    scale = 10.0 ** np.clip(decimals, 0, 15)
    with np.errstate(over="ignore"):
        rounded = np.rint(values * scale) / scale
    return np.where((decimals <= 15) & np.isfinite(rounded), rounded, values) + 0.0  # no negative zero


def _is_whole(text: str) -> bool:
    """Whether a text is an integer, such as 39, 39.0 and the code 007."""
    number = value_of(text)
    return number is not None and number.is_integer()


def _rank(text: str) -> tuple[bool, float, str]:
    """A sort key: numbers by value, before other texts."""
    number = value_of(text)
    return number is None, number or 0.0, text


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

"""Entries of a table: missing values ("holes"), numbers, and other texts.

Holes are the words that pandas treats as missing, "NaT", "?" and the caller's words. A number is written as 1234.5 or 1e3, with
a decimal point and without thousands separators or signs of currency or percent. Integers that begin with a zero are codes
(the zip code 00501), different from the text 501. Dates, times and durations are not numbers, whatever their unit.

>>> holes = Holes(["-", "-999"])
>>> [text in holes for text in ("N/A", "-", "-999.0", "none", "0")]
[True, True, True, False, False]
>>> [is_plain_number(text) for text in ("1e3", "1,000", "00501", "inf", "2024-01-05")]
[True, False, False, False, False]
"""

import math
import re
from collections.abc import Iterable

PANDAS_WORDS = "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null"
"""The words that `pandas.read_csv` treats as missing besides empty entries (its default ``na_values``)."""
WORDS_FOR_HOLES = frozenset(["", "?", "NaT", "na", "NAN", "<na>", *PANDAS_WORDS.split("|")])

_CODE = re.compile(r"0\d+")
_MONTH = "(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*"
_TIME = r"\d{1,2}:\d\d(?::\d\d(?:\.\d+)?)?(?: ?[ap]m)?"
_DATE = re.compile(
    r"\d{4}([-/.])(?:0?[1-9]|1[0-2])(?:\1\d{1,2}(?:[t ].*)?)?"  # 2024-01-05 12:30, 2024-01
    r"|[0-3]?\d([-/.])[0-3]?\d\2\d{4}(?: .*)?|[0-3]?\d([-/])[0-3]?\d\3\d\d|[0-3]\d\.[0-3]\d\.\d\d"  # 5.1.2024, 01/05/24
    rf"|\d{{1,2}}[- .]{{0,2}}{_MONTH}[-,. ]{{0,2}}\d{{2,4}}|{_MONTH}[-. ]{{0,2}}(?:\d{{1,2}},? )?\d{{4}}"  # 5 Jan 2024
    rf"|{_TIME}|[-+]?\d+ days(?: [-+]?{_TIME})?|[-+]?\d+ days?, {_TIME}",  # durations as pandas and Python write them
    re.IGNORECASE,
)
_CURRENCY = r"(?:[$€£¥₹]|USD|EUR|GBP|JPY|CHF)"
_DECORATED = re.compile(
    rf"[-+−(]?\s*{_CURRENCY}?\s*[-+−]?\s*(?:\d+(?:,\d+)*(?:\.\d*)?|\.\d+|\d{{1,3}}(?:[.'’\s]\d{{3}})+(?:,\d+)?)"
    rf"\s*(?:[%‰]|{_CURRENCY})?\s*[-)]?"
)


class Holes:
    """The texts that mark holes: `WORDS_FOR_HOLES` and the caller's words; numbers among these match in any notation."""

    def __init__(self, words: Iterable[object] = ()) -> None:
        added = words_of(words)
        self.words = WORDS_FOR_HOLES.union(added)
        self.numbers = {value_of(word) for word in added if is_plain_number(word)}

    def __contains__(self, text: str) -> bool:
        return text in self.words or (bool(self.numbers) and value_of(text) in self.numbers and not is_code(text))


def words_of(words: Iterable[object]) -> tuple[str, ...]:
    """The caller's words for holes as texts, without duplicates.

    :raises TypeError: for a single string, whose letters would be the words.
    """
    if isinstance(words, str):
        raise TypeError(f"missing={words!r}: give a sequence of words, as in missing=[{words!r}]")
    return tuple(dict.fromkeys(map(text_of, words)))


def text_of(value: object) -> str:
    """An entry as written to a file; floats with integer values as integers, so that 1.0 and 1 are the same level."""
    if value is None:
        return ""
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 1e21 else repr(value)
    return (value.decode() if isinstance(value, bytes) else str(value)).strip()


def value_of(text: str) -> float | None:
    """The finite number of a text (including codes), or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and "_" not in text else None


def is_plain_number(text: str) -> bool:
    return value_of(text) is not None and not is_code(text)


def is_code(text: str) -> bool:
    """Whether a text is digits that begin with a zero, as in zip codes."""
    return _CODE.fullmatch(text) is not None


def is_date(text: str) -> bool:
    """Whether a text is a date, a time or a duration in a common notation."""
    return not is_plain_number(text) and _DATE.fullmatch(text) is not None


def is_decorated_number(text: str) -> bool:
    """Whether a text is a number in another notation: "1,234", "3,5", "35%", "$35", "inf"."""
    if is_plain_number(text) or is_code(text):
        return False
    if _DECORATED.fullmatch(text):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True

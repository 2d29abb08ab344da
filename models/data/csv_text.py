"""CSV files as text: entries with their positions, so that some can be replaced and the rest stays byte for byte the same.

Files are UTF-8, with or without a byte-order mark, separated by commas, with a header line and line ends of any system. Entries
with a comma, a quote or a line end are quoted, with inner quotes doubled (RFC 4180). Spaces around entries and their quotes are
ignored. Blank lines are skipped.

>>> text = 'a, b\\r\\n1.50,""\\r\\n"x, y",NA\\r\\n'
>>> columns, lines = columns_of(text, "rows.csv")
>>> columns, lines
({'a': ['1.50', 'x, y'], 'b': ['', 'NA']}, [2, 3])
>>> replace_entries(text, {(0, 1): "7", (1, 1): "8"})
'a, b\\r\\n1.50,"7"\\r\\n"x, y",8\\r\\n'
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from cogen.models.data.entries import is_plain_number

_BOM = "\ufeff"
_ENTRY = re.compile(r'(?:[ \t]*"([^"]*(?:""[^"]*)*)"[ \t]*|([ \t]*(?:[^", \t\r\n][^,\r\n]*)?))(,|\r\n|\n|\r|\Z)')
"""A quoted entry, or an entry without quotes, and the separator that ends it."""


class Entry(NamedTuple):
    """The text of an entry, without outer spaces, and its position in the file, with its quotes and spaces."""

    text: str
    start: int
    end: int


class Record(NamedTuple):
    """The entries of a row, and the line where it begins, counted from 1."""

    entries: list[Entry]
    line: int


def read_text(path: Path) -> str:
    """The text of a CSV file with its original byte-order mark and line ends.

    :raises FileNotFoundError: if there is no file.
    :raises ValueError: for a file that is not UTF-8.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no CSV file at {path}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path} contains zero bytes, as UTF-16 and binary files do: save it as UTF-8")
    return text


def records_of(text: str, source: str) -> Iterator[Record]:
    """The rows of a text, including the header line, without blank lines.

    :raises ValueError: for invalid quotes.
    """
    at, line = len(_BOM) if text.startswith(_BOM) else 0, 1
    while at < len(text):
        entries, first, mark = [], line, ","
        while mark == ",":
            found = _ENTRY.match(text, at)
            if found is None:
                raise ValueError(
                    f"{source}, line {line}: invalid CSV; check for an unclosed quote, or text after a closing quote"
                )
            quoted, plain, mark = found.groups()
            entries.append(Entry((plain if quoted is None else quoted.replace('""', '"')).strip(), at, found.start(3)))
            line += len(re.findall(r"\r\n|\n|\r", quoted)) if quoted else 0
            at = found.end()
        line += 1
        if len(entries) > 1 or entries[0].start < entries[0].end:
            yield Record(entries, first)


def columns_of(text: str, source: str) -> tuple[dict[str, list[str]], list[int]]:
    """The texts of each column by name, and the line of each row.

    :raises ValueError: for a text that is empty, has no rows, has rows of another length than the header line, or has missing
        or repeated names.
    """
    rows = [([entry.text for entry in record.entries], record.line) for record in records_of(text, source)]
    if not rows:
        raise ValueError(f"{source} is empty: its first line must name the columns")
    (names, first), *rows = rows
    place = f"{source}, line {first}"
    if all(map(is_plain_number, names)):
        raise ValueError(f"{place} has numbers instead of column names: {', '.join(names[:5])}; add a line with the names")
    if names[0].startswith("#") and rows and len(rows[0][0]) != len(names):
        raise ValueError(f"{place}: {names[0]!r} looks like a comment: remove it, the first line must name the columns")
    if marked := [name for name in names if "\t" in name or (";" in name and len(names) == 1)]:
        raise ValueError(f"{place}: a column is named {marked[0]!r}: separate columns by commas")
    if "" in names:
        index = " (pandas writes its index there, unless to_csv(index=False))" if not names[0] else ""
        raise ValueError(f"{place}: column {names.index('') + 1} has no name: name it, or remove the column{index}")
    if twice := first_repeated(names):
        raise ValueError(f"{place}: column {twice!r} appears twice: rename or remove one of them")
    if not rows:
        raise ValueError(f"{source} has column names but no rows: add rows")
    for row, line in rows:
        if len(row) != len(names):
            raise ValueError(
                f"{source}, line {line} has {len(row)} entries, but the first line names {len(names)} columns: "
                "quote entries with a comma, and leave holes empty"
            )
    return {name: [row[at] for row, _ in rows] for at, name in enumerate(names)}, [line for _, line in rows]


def replace_entries(text: str, entries: Mapping[tuple[int, int], str], records: Iterable[Record] | None = None) -> str:
    """The text with the entries at (row, column) replaced, both counted from 0 without the header line.

    :param records: those of the text, if they are known.
    """
    pieces, at = [], 0
    for row, record in enumerate(records_of(text, "the text") if records is None else records, -1):
        for column, old in enumerate(record.entries):
            if (new := entries.get((row, column))) is not None:
                pieces += [text[at : old.start], _quoted(new, always=text[old.start : old.end].lstrip().startswith('"'))]
                at = old.end
    return "".join([*pieces, text[at:]])


def first_repeated(names: list[str] | tuple[str, ...]) -> str | None:
    return next((name for at, name in enumerate(names) if name in names[:at]), None)


def _quoted(entry: str, *, always: bool) -> str:
    return '"' + entry.replace('"', '""') + '"' if always or re.search(r'[",\r\n]', entry) else entry

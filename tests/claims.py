"""The numbers of tables in markdown against the records that commands wrote.

Right above a table stands a comment that says where its numbers are recorded::

    <!-- claims: examples/results/{images}.json#rows[view={seen}][method={method}]
    CRPS = hidden_crps
    minus annealed (s.e.) = crps_difference, crps_difference_se
    50 % = 100*coverage_50
    top half -> half
    -->
    | images, seen | method | CRPS | minus annealed (s.e.) | 50 % |

* The first line is the record of a row, FILE#PATH from the root of the repository, or several with "or" between: one has it.
* ``HEADER = PATH, PATH`` names the places of a column's numbers, in the order in which a cell shows them. Paths go on from the
  record; one with a # starts in a file of its own. ``* =`` is every column that is not named otherwise.
* A path is keys and indices between dots. ``[key=value]`` chooses the one entry of a list (or of lists side by side) of which
  that holds, ``*`` takes all. Before a path may stand a factor (``100*``), around it ``mean()``, ``median()``, ``min()`` or
  ``max()``.
* ``{header}`` is the text of the row's cell under that header, ``{column}`` the header itself. A header with commas names the
  parts of its cells, ``{one + other}`` joins two. An empty cell makes no condition.
* ``text -> value`` says how the record calls what the table calls ``text``; ``value or value``, where records differ.
* A column that chooses the record holds labels, as does ``HEADER = label``. A text in the record must be the cell's text.

A number is right where it is the record's as Python formats it with so many digits (ties go to the even digit); of an integer
with zeros at its end, at least three digits count. Cells may show fewer numbers than their column has paths, and not more.
Exempt are inline code, cells with a dagger, and columns of a paper, which have "paper" in the header. A table without
measurements that has digits is marked ``<!-- claims: none -->``; one under ``<!-- table: NAME -->`` is written by
`benchmarks/tables.py` from its record, and ``python benchmarks/tables.py --check`` compares the two.

    python tests/claims.py README.md docs/*.md       prints what is wrong
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

NUMBER = re.compile(r"(?<![\w.])[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")

FACTOR = r"^(-?[\d.e]+)\*"

FUNCTIONS: dict[str, Callable] = {"mean": statistics.fmean, "median": statistics.median, "min": min, "max": max}

EXEMPT = "†"


@dataclass
class Table:
    line: int
    header: list[str]
    rows: list[list[str]]
    claims: str | None
    """The comment above, without its marks; None where there is none."""


@dataclass
class Claims:
    """A comment, read."""

    record: str = ""
    columns: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)


def tables_of(text: str) -> Iterator[Table]:
    """The tables of a markdown file that are not in a code block."""
    lines, fenced, k = text.splitlines(), False, 0
    while k < len(lines):
        fenced ^= lines[k].lstrip().startswith("```")
        if not fenced and k + 1 < len(lines) and lines[k].lstrip().startswith("|") and re.match(r"\s*\|[-:| ]+$", lines[k + 1]):
            end = k
            while end < len(lines) and lines[end].lstrip().startswith("|"):
                end += 1
            header, _, *rows = ([cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[k:end])
            yield Table(k + 1, header, rows, _comment_above(lines, k))
            k = end
        else:
            k += 1


def _comment_above(lines: list[str], k: int) -> str | None:
    while k and not lines[k - 1].strip():
        k -= 1
    if not (k and lines[k - 1].rstrip().endswith("-->")):
        return None
    start = k - 1
    while start and "<!--" not in lines[start]:
        start -= 1
    comment = "\n".join(lines[start:k])
    if re.fullmatch(r"\s*<!-- table: .* -->\s*", comment):
        return "none"
    found = re.fullmatch(r"\s*<!--\s*claims:(.*)-->\s*", comment, flags=re.DOTALL)
    return found[1] if found else None


def read_claims(comment: str) -> Claims:
    first, *rest = (line.strip() for line in comment.strip().splitlines())
    claims = Claims(first)
    for line in rest:
        if " -> " in line:
            text, value = line.rsplit(" -> ", 1)
            claims.names[text] = value.split(" or ")
        elif " = " in line:
            name, paths = line.split(" = ", 1)
            claims.columns[name] = _split(paths, ",")
        elif line:
            raise ValueError(f"'{line}' is neither 'HEADER = PATH' nor 'text -> value'")
    return claims


def _split(text: str, mark: str) -> list[str]:
    """At the marks that stand outside of brackets."""
    return [part.strip() for part in re.split(rf"{re.escape(mark)}(?![^\[({{]*[\])}}])", text)]


class Records:
    """Places in JSON files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[str, Any] = {}

    def values(self, path: str, record: str, cells: Mapping[str, str], names: Mapping[str, list[str]]) -> list[Any]:
        """What stands at [FACTOR*]PATH below a record, or in a file of its own; or a function of it."""
        factor = re.match(FACTOR, path)
        inner = re.sub(FACTOR, "", path)
        if call := re.fullmatch(rf"({'|'.join(FUNCTIONS)})\((.*)\)", inner):
            found = [FUNCTIONS[call[1]](self.values(call[2], record, cells, names))]
        else:
            places = [inner] if "#" in inner else [_below(one, inner) for one in alternatives(record)]
            tried = [self._in_file(*place.split("#", 1), cells, names) for place in places]
            there = [values for values in tried if not isinstance(values, LookupError)]
            if len(there) != 1:
                raise tried[0] if not there else LookupError(f"an entry in {len(there)} records")
            found = there[0]
        return [float(factor[1]) * one for one in found] if factor else found

    def _in_file(self, file: str, path: str, cells: Mapping[str, str], names: Mapping[str, list[str]]) -> Any:
        """What stands at the path in one file, or the LookupError that says why nothing does."""
        try:
            found = [self._file(file, cells, names)]
            for step in re.findall(r"(?:\[[^\]]*\])+|(?:\{[^}]*\}|[^.\[{])+", path):
                found = [inner for one in found for inner in self._step(one, step, cells, names)]
        except LookupError as error:
            return error
        if wrong := [one for one in found if not isinstance(one, int | float | str)]:
            return LookupError(f"'{path}' leads to {'nothing' if wrong[0] is None else 'no number'}")
        return found or LookupError(f"no entry fits '{path}'")

    def _file(self, file: str, cells: Mapping[str, str], names: Mapping[str, list[str]]) -> Any:
        known = [name for name in _meanings(file, cells, names) if (self.root / name).is_file()]
        if len(known) != 1:
            raise LookupError(f"there is no file {' or '.join(_meanings(file, cells, names))}")
        if known[0] not in self._read:
            self._read[known[0]] = json.loads((self.root / known[0]).read_text(encoding="utf-8"))
        return self._read[known[0]]

    @staticmethod
    def _step(value: Any, step: str, cells: Mapping[str, str], names: Mapping[str, list[str]]) -> list[Any]:
        if step == "*":
            return list(value.values() if isinstance(value, dict) else value)
        if not step.startswith("["):
            keys = _meanings(step, cells, names)
            if isinstance(value, list) and keys[0].isdigit() and int(keys[0]) < len(value):
                return [value[int(keys[0])]]
            known = [key for key in keys if isinstance(value, dict) and key in value]
            if len(known) != 1:
                raise LookupError(f"there is no '{' or '.join(keys)}' where {step} leads")
            return [value[known[0]]]
        if isinstance(value, dict):  # lists side by side
            value = [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]
        for key, wanted in (condition.split("=", 1) for condition in step[1:-1].split("][")):
            meanings = _meanings(wanted, cells, names)
            if meanings != [""]:
                value = [one for one in value if any(_same(one.get(key), text) for text in meanings)]
        return value


def _meanings(text: str, cells: Mapping[str, str], names: Mapping[str, list[str]]) -> list[str]:
    """The text with its cells put in, by the names that the record has for them."""
    found = [text]
    for reference in re.findall(r"\{([^}]*)\}", text):
        parts = [part.strip() for part in reference.split("+")]
        for part in parts:
            if part not in cells:
                raise LookupError(f"there is no column '{part}' for {{{reference}}}")
        cell = ", ".join(cells[part] for part in parts)
        plain = cell.replace(",", "") if NUMBER.fullmatch(cell) else cell
        found = [one.replace(f"{{{reference}}}", name) for one in found for name in names.get(cell, [plain])]
    return found


def _same(value: Any, text: str) -> bool:
    if isinstance(value, str) or value is None or not NUMBER.fullmatch(text):
        return str(value) == text
    return float(value) == float(text.replace(",", ""))


def shown_as(value: float, text: str) -> bool:
    """Whether a number in a table is this value, rounded to the digits that the table shows."""
    digits = text.lstrip("+-").replace(",", "")
    mantissa, _, exponent = digits.partition("e")
    decimals = len(mantissa.partition(".")[2])
    if exponent:
        return float(f"{value:.{decimals}e}") == float(text.replace(",", ""))
    if decimals == 0 and len(digits) > 3 and digits.endswith("0"):
        significant = max(3, len(digits.rstrip("0")))
        return float(f"{value:.{significant}g}") == float(text.replace(",", ""))
    return float(f"{value:.{decimals}f}") == float(text.replace(",", ""))


def complaints(text: str, root: Path = ROOT) -> list[str]:
    """What is wrong with the tables of a markdown file, a sentence each that begins with the line."""
    records = Records(root)
    return [f"line {line}: {what}" for table in tables_of(text) for line, what in _of_table(table, records)]


def _of_table(table: Table, records: Records) -> Iterator[tuple[int, str]]:
    digits = any(NUMBER.search(_without_code(cell)) for row in table.rows for cell in row)
    if table.claims is None:
        if digits:
            yield table.line, "a table with numbers has no '<!-- claims: FILE#PATH ... -->' right above it"
        return
    if table.claims.strip() == "none":
        return
    try:
        claims = read_claims(table.claims)
    except ValueError as error:
        yield table.line, str(error)
        return
    for name in claims.columns:
        if name not in (*table.header, "*"):
            yield table.line, f"the comment names a column '{name}', the table has {', '.join(table.header)}"
    if repeated := {name for name in table.header if name and "paper" not in name and table.header.count(name) > 1}:
        yield table.line, f"two columns have the header '{min(repeated)}'"
    places = [path for paths in claims.columns.values() for path in paths if "#" in path]
    for file in {re.sub(FACTOR, "", place).split("#")[0].split("(")[-1] for place in (*alternatives(claims.record), *places)}:
        if "{" not in file and not (records.root / file).is_file():
            yield table.line, f"there is no file {file}"
    used = "".join((claims.record, *(path for paths in claims.columns.values() for path in paths)))
    chosen = {part.strip() for reference in re.findall(r"\{([^}]*)\}", used) for part in reference.split("+")}
    for k, row in enumerate(table.rows):
        line, cells = table.line + 2 + k, {}
        if len(row) != len(table.header):
            yield line, f"{len(row)} cells under {len(table.header)} headers"
            continue
        for header, cell in zip(table.header, row, strict=True):
            parts = header.split(", ")
            cells |= {header: _label(cell), **dict(zip(parts, _label(cell).split(", ", len(parts) - 1), strict=False))}
        for header, cell in zip(table.header, row, strict=True):
            paths = claims.columns.get(header)
            if paths == ["label"] or "paper" in header or EXEMPT in header + cell:
                continue
            if paths is None and chosen & {header, *header.split(", ")}:
                continue
            paths = claims.columns.get("*") if paths is None else paths
            for what in _of_cell(header, _without_code(cell), paths, claims, cells | {"column": header}, records):
                yield line, what


def _of_cell(
    header: str, cell: str, paths: list[str] | None, claims: Claims, cells: Mapping[str, str], records: Records
) -> Iterator[str]:
    numbers = NUMBER.findall(cell)
    if not numbers:
        return
    where = f"'{cell}' under '{header}'"
    if paths is None:
        yield f"{where}: the comment names no place of this column"
        return
    recorded: list[Any] = []
    for path in paths:
        try:
            found = records.values(path, claims.record, cells, claims.names)
            if len(found) != 1 and "*" not in f"{claims.record}.{re.sub(FACTOR, '', path)}".split("."):
                raise LookupError(f"{len(found)} entries fit")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            if len(recorded) < len(numbers):
                yield f"{where}: {path}: {error}"
            return
        recorded += found
    if len(recorded) == 1 and isinstance(recorded[0], str):
        if recorded[0] != cell:
            yield f"{where}: the record says '{recorded[0]}'"
        return
    if len(numbers) > len(recorded):
        yield f"{where}: {len(numbers)} numbers, and {len(recorded)} in the record"
        return
    for number, value in zip(numbers, recorded, strict=False):
        if isinstance(value, str) or not shown_as(float(value), number):
            yield f"{where}: {number} is {value} in the record"


def alternatives(record: str) -> list[str]:
    """The places FILE#PATH of 'FILE#PATH or FILE#PATH'; a FILE alone has the next one's path."""
    places, path = [], ""
    for place in reversed(record.split(" or ")):
        file, _, path = place.partition("#") if "#" in place else (place, "#", path)
        places.append(f"{file}#{path}")
    return places[::-1]


def _below(record: str, path: str) -> str:
    return f"{record}{'' if path.startswith('[') or record.endswith('#') else '.'}{path}"


def _without_code(cell: str) -> str:
    return re.sub(r"`[^`]*`", "", cell).replace("**", "").strip()


def _label(cell: str) -> str:
    """The text of a cell, which is what is inside where all of it is code."""
    return whole[1] if (whole := re.fullmatch(r"`([^`]*)`", cell)) else _without_code(cell)


def main(paths: list[str]) -> int:
    found = [f"{path}: {what}" for path in paths for what in complaints(Path(path).read_text(encoding="utf-8"))]
    print("\n".join(found) or "every number in a table has its record")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 1))

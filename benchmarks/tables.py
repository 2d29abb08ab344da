"""Write the tables of the documentation from the records of benchmarks and examples.

    python benchmarks/tables.py             # rewrite the tables between the marks
    python benchmarks/tables.py --check     # fail if a table differs from its record

A table is between ``<!-- table: NAME -->`` and ``<!-- end of table -->`` in a page of docs. NAME is one of `TABLES`, or one of
`KINDS` or `RECORDS` with a colon and the paths of its records from the root. Numbers of the first are rounded in decimal,
halves away from zero.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import tyro
from cgml_tables import (
    of_baselines,
    of_branches,
    of_classified,
    of_columns,
    of_descents,
    of_evidence,
    of_left_out,
    of_modes,
    of_operations,
    of_remark,
    of_uncertainty,
)
from completion_tables import (
    long_table,
    of_schedule_noise,
    of_steps_at_rest,
    of_thumbnail_starts,
    remedies,
    rows_of,
    short_table,
)
from cooperative_tables import of_classes, of_energies, of_pairs, of_routes, of_style, of_translations
from option_tables import of_options

ROOT = Path(__file__).parents[1]
PRODUCTS = ("evidence x gradients", "evidence x seconds", "distance x gradients", "distance x seconds")


def fixed(value: float, digits: int) -> str:
    """Format a number with ``digits`` decimals, halves away from zero.

    >>> fixed(0.5, 0), fixed(1.5, 0), fixed(-0.0125, 3), fixed(29291.5, 0)
    ('1', '2', '-0.013', '29,292')
    """
    return f"{Decimal(repr(float(value))).quantize(Decimal(1).scaleb(-digits), rounding=ROUND_HALF_UP):,}"


def short(value: float, digits: int = 3) -> str:
    """Format a number with ``digits`` significant digits, halves away from zero; very small ones with powers of ten.

    >>> short(0.0012345), short(1234.5), short(2.5e-9, 1), short(0.0)
    ('0.00123', '1,230', '3e-9', '0')
    """
    if value == 0:
        return "0"
    rounded = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(repr(float(value)))
    if abs(rounded) < Decimal("1e-4"):
        mantissa, exponent = f"{rounded:e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{rounded:,f}"


def record(name: str) -> dict[str, Any]:
    return json.loads((ROOT / "docs" / name).read_text(encoding="utf-8"))


def table(header: str, rows: Iterable[list[str]]) -> str:
    lines = [f"| {header} |", "|" + "---|" * (header.count(" | ") + 1)]
    return "\n".join(lines + [f"| {' | '.join(cells)} |" for cells in rows])


def bounds() -> str:
    rows = []
    for row in record("evidence.json")["rows"]:
        if "lower" in row:
            inside = f"{row['inside']} of 8 / {row['inside_exactly']} of 8" if "inside" in row else ""
            error = f"{fixed(row['rms_error'], 3)}, {fixed(row['worst_error'], 2)}" if "inside" in row else ""
            gaps = [fixed(row[f"{which}_absolute_gap"], 2) for which in ("mean", "largest")]
            rows.append([row["case"], error, *gaps, inside])
    return table(
        "posterior | error: root mean square, worst | mean absolute gap | largest | inside, with / without allowance", rows
    )


def sbc() -> str:
    names = ("log_likelihood", "projection_0", "projection_1", "hidden_pixel")
    rows = []
    for row in record("sbc.json")["rows"]:
        verdict = "passes" if row["passes"] else "fails"
        if row["passes"] == row["ought_to_pass"]:
            verdict += "" if row["passes"] else ", as it should"
        rows.append([row["method"], *(short(row[f"p_{name}"], 2) for name in names), short(row["p"], 2), verdict])
    return table("method | log p(y given z) | projection 1 of z | projection 2 | hidden pixel | smallest x 24 | ", rows)


def seconds(case: str) -> str:
    rows = []
    for row in record(f"peers_{case}.json")["rows"]:
        evidence = row["evidence_rmse"]
        known = evidence == evidence
        rows.append(
            [
                row["method"],
                short(row["seconds"]),
                fixed(evidence, 3) if known else "none",
                fixed(row["distance"], 4),
                fixed(row["gradients"], 0),
                short(1e3 * evidence**2 * row["seconds"]) if known else "",
                short(1e3 * row["distance"] ** 2 * row["seconds"]),
                row["setting"],
            ]
        )
    header = "method | seconds | error of the log evidence | distance | gradients per particle or chain"
    return table(f"{header} | 1000 evidence² x seconds | 1000 distance² x seconds | setting", rows)


def work(name: str) -> str:
    rows = []
    for row in record(f"peers_work_{name}.json")["rows"]:
        products = [short(row["products"][each] * (1e3 if each.endswith("seconds") else 1)) for each in PRODUCTS]
        evidence = f"{fixed(row['evidence_rmse'], 3)} ({fixed(row['evidence_bias'], 3)})"
        counts = [fixed(row[each], 0) for each in ("runs", "gradients", "densities")]
        seconds = fixed(row["seconds"], 4)
        rows.append(
            [row["method"], counts[0], evidence, fixed(row["distance"], 4), *counts[1:], seconds, *products, row["setting"]]
        )
    header = "method | runs | error of the log evidence (bias) | distance | gradients | evaluations without | seconds"
    products = "evidence² x gradients | 1000 evidence² x seconds | distance² x gradients | 1000 distance² x seconds"
    return table(f"{header} | {products} | setting", rows)


def ratios() -> str:
    rows = []
    for name in [name for name in ("toy", "image") if (ROOT / "docs" / f"peers_work_{name}.json").exists()]:
        for row in record(f"peers_work_{name}.json")["rows"]:
            for what, value in row.get("ratios", {}).items():
                rows.append(
                    [row["case"], what, fixed(value["ratio"], 2), f"{fixed(value['low'], 2)} to {fixed(value['high'], 2)}"]
                )
    return table("case | squared error x work | BlackJAX / ours | 95 % interval", rows)


TABLES: dict[str, Callable[[], str]] = {
    "bounds": bounds,
    "sbc": sbc,
    "five gaussians": lambda: seconds("five_gaussians"),
    "five gaussians, mcmc": lambda: seconds("five_gaussians_mcmc"),
    "image": lambda: seconds("image"),
    "image, mcmc": lambda: seconds("image_mcmc"),
    "work, five gaussians": lambda: work("toy"),
    "work, image": lambda: work("image"),
    "work, pocoMC": lambda: work("pocomc"),
    "work, ratios": ratios,
}


KINDS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "completions": long_table,
    "completions in short": short_table,
    "remedies": remedies,
}
"""Functions from the rows of records to a table."""

RECORDS: dict[str, Callable[[list[dict[str, Any]]], tuple[str, list[list[str]]]]] = {
    "energies": of_energies,
    "pairs": of_pairs,
    "classes": of_classes,
    "style": of_style,
    "routes": of_routes,
    "translations": of_translations,
    "branches": of_branches,
    "baselines": of_baselines,
    "uncertainty": of_uncertainty,
    "descents": of_descents,
    "remark": of_remark,
    "modes": of_modes,
    "evidence from end points": of_evidence,
    "left out": of_left_out,
    "classified": of_classified,
    "operations": of_operations,
    "columns": of_columns,
    "steps at rest": of_steps_at_rest,
    "thumbnail starts": of_thumbnail_starts,
    "schedule noise": of_schedule_noise,
}
"""Functions from whole records to the header and cells of a table."""


def made(name: str) -> str:
    """The table with this name."""
    kind, _, files = name.partition(": ")
    if not files:
        return TABLES[name]()
    if kind == "options":
        return table(*of_options(files))
    paths = [ROOT / file for file in files.split(", ")]
    if kind in RECORDS:
        return table(*RECORDS[kind]([json.loads(path.read_text(encoding="utf-8")) for path in paths]))
    return KINDS[kind](rows_of(paths))


@dataclass
class Options:
    pages: tuple[Path, ...] = tuple(sorted((ROOT / "docs").glob("*.md")))
    check: bool = False
    """Write nothing; fail if a table differs from its record."""


def main(options: Options) -> None:
    def rewritten(found: re.Match) -> str:
        indented = "\n".join(found["indent"] + line for line in made(found["name"]).split("\n"))
        return f"{found['indent']}<!-- table: {found['name']} -->\n{indented}\n{found['indent']}<!-- end of table -->"

    pattern = r"(?P<indent>[ ]*)<!-- table: (?P<name>[^>]*) -->\n(?:.*\n)*?[ ]*<!-- end of table -->"
    for path in options.pages:
        page = path.read_text(encoding="utf-8")
        new = re.sub(pattern, rewritten, page)
        if options.check and new != page:
            raise SystemExit(f"{path}: a table differs from its record: run python benchmarks/tables.py")
        if not options.check:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

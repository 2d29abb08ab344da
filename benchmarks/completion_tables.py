"""Tables from the records of `examples/image_completion.py` and `examples/wrong_model.py`, with all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def _figure(key: str, form: str) -> Callable[[Row], str]:
    """A function for a cell, which is empty if the record has no such number."""
    return lambda row: "" if row.get(key) is None else format(row[key], form)


def _with_error(key: str) -> Callable[[Row], str]:
    """A function for the difference from the first method, with its paired standard error."""

    def cell(row: Row) -> str:
        if row.get(key) is None or row[f"{key}_se"] == 0.0:  # the first method itself
            return ""
        error = row[f"{key}_se"]
        return f"{row[key]:+.4f}" + ("" if error is None else f" ({error:.4f})")

    return cell


COLUMNS: dict[str, Callable[[Row], str]] = {
    "images, seen": lambda row: images_seen(row),
    "method": lambda row: row["method"],
    "images": _figure("images_compared", "d"),
    "CRPS": _figure("hidden_crps", ".4f"),
    "minus the first (s.e.)": _with_error("crps_difference"),
    "energy score": _figure("hidden_energy_score", ".3f"),
    "minus the first (s.e.), energy score": _with_error("energy_score_difference"),
    "log score": _figure("log_score", ".4f"),
    "50 %": _figure("coverage_50", ".3f"),
    "90 %": _figure("coverage_90", ".3f"),
    "joint 50 %": _figure("joint_coverage_50", ".2f"),
    "joint 90 %": _figure("joint_coverage_90", ".2f"),
    "PIT dispersion": _figure("pit_dispersion", ".3f"),
    "width of 90 %": _figure("interval_width_90", ".2f"),
    "without noise 50 %": _figure("descriptive_coverage_50", ".2f"),
    "without noise 90 %": _figure("descriptive_coverage_90", ".2f"),
    "error of the mean": _figure("mse_of_mean", ".3f"),
    "best of 10": _figure("mse_best_of_10", ".3f"),
    "seen error": _figure("seen_error", ".4f"),
    "MS-SSIM": _figure("ms_ssim_of_mean", ".3f"),
    "gradients": _figure("gradient_evaluations", ",.0f"),
    "seconds": _figure("seconds", ".1f"),
    "times the first": _figure("ratio", ".2f"),
}
"""The long table's headings, with functions for the cell of a row."""


def images_seen(row: Row) -> str:
    part = row.get("part", "test")
    return f"{row['generator']}, {row['view']}" + ("" if part == "test" else f", {part}")


def rows_of(paths: Iterable[Path]) -> list[Row]:
    """The rows of all records."""
    return [row for path in paths for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]


def _with_ratios(rows: list[Row]) -> list[Row]:
    """The rows, with the ratio of their seconds to those of the first method for the same generator and view, if known."""
    first: dict[str, float | None] = {}
    references = [first.setdefault(images_seen(row), row.get("seconds")) for row in rows]
    return [row | ({"ratio": row["seconds"] / second} if second else {}) for row, second in zip(rows, references, strict=True)]


def table(headings: list[str], lines: Iterable[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [headings, ["---"] * len(headings), *lines])


def long_table(rows: list[Row]) -> str:
    """All numbers of all rows, without columns that are always empty."""
    rows = _with_ratios(rows)
    columns = {heading: [cell(row) for row in rows] for heading, cell in COLUMNS.items()}
    columns = {heading: cells for heading, cells in columns.items() if any(cells)}
    return table(list(columns), map(list, zip(*columns.values(), strict=True)))


def short_table(rows: list[Row]) -> str:
    """CRPS of every method, with a column per view, and the difference from the first method with its paired standard error."""
    columns = list(dict.fromkeys(images_seen(row) for row in rows))
    found = {(row["method"], images_seen(row)): row for row in rows}
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = []
        for column in columns:
            row = found.get((method, column))
            difference = "" if row is None else _with_error("crps_difference")(row)
            cells.append(", ".join(filter(None, ["" if row is None else COLUMNS["CRPS"](row), difference])))
        lines.append([method, *cells])
    return table(["CRPS, minus the first (s.e.)", *columns], lines)


def remedies(rows: list[Row]) -> str:
    """The results of `wrong_model.py`: CRPS of every setting and its difference from the unchanged model."""
    lines = []
    for row in rows:
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in row.get("weights", {}).items())
        cells = [f"{row[key]}" for key in ("part", "model", "view", "images", "setting", "items")]
        difference = f"{row['difference']:+.4f} ({row['standard_error']:.4f})" if row["standard_error"] else ""
        lines.append([*cells, f"{row['crps']:.4f}", difference, weights])
    heading = ["remedy", "model", "seen", "images", "setting", "how many", "CRPS", "difference (s.e.)", "weights"]
    return table(heading, lines)


def _difference(row: Row) -> str:
    """A paired difference with its standard error, which is left out if it is zero."""
    error = f" ({row['difference_se']:.4f})" if row["difference_se"] else ""
    return f"{row['difference']:+.4f}{error}"


def of_steps_at_rest(records: list[Row]) -> tuple[str, list[list[str]]]:
    """A row for each view and factor of `benchmarks/step_at_rest.py`."""
    rows = []
    for row in records[0]["rows"]:
        cells = [row["view"], f"{row['factor']:g}", f"{row['crps']:.4f}", _difference(row)]
        rows.append([*cells, f"{row['acceptance_rate']:.2f}", f"{row['diverging']:.2%}"])
    return "view | factor | CRPS | minus that of factor 1 (s.e.) | acceptance rate | diverging transitions", rows


def of_thumbnail_starts(records: list[Row]) -> tuple[str, list[list[str]]]:
    """A row for each generator, factor and start of `benchmarks/thumbnail_start.py`."""
    runs: dict[tuple[str, ...], list[Row]] = {}
    for row in (row for record in records for row in record["rows"]):
        runs.setdefault((row["generator"], str(row["factor"]), row["start"]), []).append(row)
    counts = [row["temperatures"] for row in next(iter(runs.values()))]
    header = ["generator", "factor", "start", *(f"CRPS after {count} temperatures" for count in counts)]
    rows = []
    for run, found in runs.items():
        last = found[-1]
        rows.append([*run, *(f"{row['crps']:.4f}" for row in found), f"{last['gap']:.1f} ({last['gap_se']:.1f})"])
    return " | ".join([*header, f"gap after {counts[-1]}, nats (s.e.)"]), rows


def of_schedule_noise(records: list[Row]) -> tuple[str, list[list[str]]]:
    """A row for each noise scale of `benchmarks/schedule_noise.py`."""
    rows = []
    for row in records[0]["rows"]:
        cells = [f"{row['ratio']:g}", *(f"{row[f'crps_{name}']:.4f}" for name in ("fixed", "own"))]
        rows.append([*cells, _difference(row), *(f"{row[f'acceptance_{n}']:.2f}" for n in ("fixed", "own"))])
    return (
        "noise relative to the schedule's | CRPS with this schedule | with one for the noise | difference (s.e.) |"
        " acceptance rate with this schedule | with one for the noise"
    ), rows

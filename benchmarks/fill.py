"""How long `cogen fill` takes: a table of 20 columns, with holes in a tenth of its entries, in 500 and in 2,000 rows.

    python benchmarks/fill.py --output docs/fill.json

The columns are linear in five normal factors: 14 numbers, 3 whole numbers and 3 categories of four levels. Every number of rows
is filled twice, with an empty compilation cache and again. Seconds are those of the whole command; processor seconds do not
count the time in which other programs use the machine. The coverage is that of the 90 % intervals of missing numbers,
and the RMSE that of `filled.csv`, relative to the column means.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

NUMBERS, WHOLE, CATEGORIES, FACTORS = 14, 3, 3, 5


@dataclass
class Options:
    rows: tuple[int, ...] = (500, 2_000)
    training_rows: int = 2_000
    epochs: float | None = None
    output: Path | None = None


def columns(count: int, seed: int) -> tuple[list[str], list[list[str]]]:
    """Names and rows of a table without holes."""
    loadings = np.random.default_rng(0).normal(size=(FACTORS, NUMBERS + WHOLE + 4 * CATEGORIES))
    random = np.random.default_rng(seed)
    values = random.normal(size=(count, FACTORS)) @ loadings
    values[:, : NUMBERS + WHOLE] += 0.5 * random.normal(size=(count, NUMBERS + WHOLE))
    logits = values[:, NUMBERS + WHOLE :].reshape(count, CATEGORIES, 4)
    levels = (logits + random.gumbel(size=logits.shape)).argmax(axis=2)
    names = [f"x{k}" for k in range(NUMBERS)] + [f"n{k}" for k in range(WHOLE)] + [f"c{k}" for k in range(CATEGORIES)]
    rows = [
        [f"{value:.3f}" for value in row[:NUMBERS]]
        + [str(round(50 + 10 * value)) for value in row[NUMBERS : NUMBERS + WHOLE]]
        + ["abcd"[level] for level in chosen]
        for row, chosen in zip(values, levels, strict=True)
    ]
    return names, rows


def write(path: Path, names: list[str], rows: list[list[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])


def timed(arguments: list[str], cache: Path) -> tuple[float, float]:
    """Seconds and processor seconds of a command."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    subprocess.run(
        [sys.executable, "-m", "cogen.command_line", *arguments],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def coverage(folder: Path, names: list[str], whole: list[list[str]]) -> float:
    """Of the 90 % intervals in `uncertainty.csv`, over the missing numbers."""
    inside = []
    with (folder / "uncertainty.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            at = names.index(row["column"])
            if at < NUMBERS:
                inside.append(float(row["q05"]) <= float(whole[int(row["line"]) - 2][at]) <= float(row["q95"]))
    return float(np.mean(inside))


def relative_error(folder: Path, whole: list[list[str]], holes: np.ndarray) -> float:
    """RMSE of the filled numbers over that of the means of the columns' present entries."""
    with (folder / "filled.csv").open(encoding="utf-8") as file:
        filled = np.array([row[:NUMBERS] for row in list(csv.reader(file))[1:]], float)
    truth, hidden = np.array([row[:NUMBERS] for row in whole], float), holes[:, :NUMBERS]
    means = np.nanmean(np.where(hidden, np.nan, truth), axis=0)
    return float(np.sqrt(((filled - truth)[hidden] ** 2).mean() / ((means - truth)[hidden] ** 2).mean()))


def main(options: Options) -> None:
    record: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "columns": NUMBERS + WHOLE + CATEGORIES, "rows": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names, rows = columns(options.training_rows, seed=1)
        write(folder / "training.csv", names, rows)
        generator = str(folder / "table")
        train = ["train", "vae", "--data", str(folder / "training.csv"), "--output", generator]
        train += [] if options.epochs is None else ["--epochs", str(options.epochs)]
        record["training_seconds"], record["training_processor_seconds"] = timed(train, folder / "cache")
        for count in options.rows:
            names, whole = columns(count, seed=2)
            holes = np.random.default_rng(3).random((count, len(names))) < 0.1
            shown = [
                ["" if hole else entry for entry, hole in zip(*pair, strict=True)] for pair in zip(whole, holes, strict=True)
            ]
            write(folder / f"rows-{count}.csv", names, shown)
            fill = [
                "fill",
                str(folder / f"rows-{count}.csv"),
                "--generator",
                generator,
                "--output",
                str(folder / f"filled-{count}"),
            ]
            row: dict[str, Any] = {"rows": count, "holes": int(holes.sum())}
            for run in ("first", "again"):
                row[f"{run}_seconds"], row[f"{run}_processor_seconds"] = timed(fill, folder / f"cache-{count}")
            row["coverage_90"] = coverage(folder / f"filled-{count}", names, whole)
            row["relative_rmse"] = relative_error(folder / f"filled-{count}", whole, holes)
            record["rows"].append(row)
            print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    if options.output is not None:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Records of the cGML examples: tables, pictures and files.

python examples/cgml_report.py RECORD.json      recomputes the table of a record from its runs
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cogen.diagnostics import paired_difference

RANGE = (-1.0, 1.0)
SCORES = ("psnr", "ssim", "mse_of_best", "energy_score", "crps", "diversity")
KNOWN = ("family", "row", "seeds", "items", "steps", "seconds_a_step", "seconds", "parameters", "operations", *SCORES)
DIFFERENCE = "energy_score_difference"


def table(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A line for each family and row: means over seeds and items, and the differences of energy score and CRPS from those of
    cgml's predicted and random draws, on the items that both have, with standard errors over items."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for each in runs:
        for row in each["rows"]:
            found.setdefault((each["family"], row), []).append(each)

    def of_item(row: str, of_seeds: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        return {score: np.mean([each["rows"][row][score] for each in of_seeds], axis=0) for score in of_seeds[0]["rows"][row]}

    means = {key: of_item(key[1], of_seeds) for key, of_seeds in found.items()}
    lines = []
    for (name, row), values in means.items():
        of_seeds, (_, comma, group) = found[name, row], row.partition(", ")
        line: dict[str, Any] = {"family": name, "row": row, "seeds": len(of_seeds), "items": len(values["psnr"])}
        line |= {k: float(np.mean([each[k] for each in of_seeds])) for k in ("steps", "seconds_a_step", "seconds")}
        line["parameters"] = sum(of_seeds[0]["weights"].values())
        line["operations"] = of_seeds[0].get("operations")
        line |= {score: float(np.nanmean(each)) for score, each in values.items()}
        for which, suffix in (("predicted", ""), ("random", "_random")):
            first = means.get((name if name.startswith("cgml") else "cgml", which + comma + group))
            if first is not None and first is not values:
                for score in ("energy_score", "crps"):
                    difference = paired_difference(values[score], first[score][: line["items"]])
                    line[f"{score}{suffix}_difference"], line[f"{score}{suffix}_difference_se"] = difference
        lines.append(line)
    return lines


def printed(lines: list[dict[str, Any]]) -> str:
    """The table as text."""
    extra = [name for name in lines[0] if name not in KNOWN and not name.endswith(("difference", "difference_se"))]
    head = f"{'':36} {'items':>5} {'steps':>6} {'ms':>4}  {'PSNR':>6} {'SSIM':>6} {'best':>7} {'energy':>7} {'- predicted':>15}"
    text = [f"{head} {'CRPS':>6} {'diversity':>9} " + " ".join(f"{name:>10}" for name in extra)]
    for line in lines:
        change = f"{line[DIFFERENCE]:+.2f} ({line[f'{DIFFERENCE}_se']:.2f})" if DIFFERENCE in line else ""
        name, cost = f"{line['family']}, {line['row']}", 1e3 * line["seconds_a_step"]
        text.append(
            f"{name:36} {line['items']:5} {line['steps']:6.0f} {cost:4.0f}"
            f"  {line['psnr']:6.2f} {line['ssim']:6.3f} {line['mse_of_best']:7.4f} {line['energy_score']:7.3f} {change:>15}"
            f" {line['crps']:6.4f} {line['diversity']:9.4f} " + " ".join(f"{line[name]:10.3f}" for name in extra)
        )
    return "\n".join(text)


def picture(columns: dict[str, Tensor], path: Path) -> None:
    """Draw images (item, 1 or 3, height, width), one column per name."""
    from matplotlib.figure import Figure

    count = len(next(iter(columns.values())))
    figure = Figure(figsize=(0.9 * len(columns), 0.9 * count + 0.3), layout="constrained")
    for axis, (name, images) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items(), strict=True):
        colours = images.expand(-1, 3, -1, -1).clamp(*RANGE)
        axis.imshow(((colours + 1) / 2).permute(0, 2, 3, 1).flatten(0, 1).numpy(), interpolation="nearest")
        axis.set_title(name, fontsize=5)
        axis.axis("off")
    figure.savefig(path, dpi=120)


def convergence(runs: list[dict[str, Any]], path: Path) -> None:
    """Draw the scores during training, with mean and range over seeds, and the cost along the path of z."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.8), layout="constrained")
    *axes, last = figure.subplots(1, 3)
    for name in dict.fromkeys(each["family"] for each in runs):
        of_seeds = [each for each in runs if each["family"] == name]
        for axis, (score, title) in zip(axes, (("psnr", "PSNR of the mean"), ("energy_score", "energy score")), strict=True):
            found = np.array([[point[score] for point in each["course"]] for each in of_seeds])
            seconds = [point["seconds"] for point in of_seeds[0]["course"]]
            axis.plot(seconds, found.mean(0), label=name)
            axis.fill_between(seconds, found.min(0), found.max(0), alpha=0.2)
            axis.set(title=title, xlabel="processor seconds")
        for k, row in enumerate(of_seeds[0].get("on_the_way", ())):
            found = np.array([each["on_the_way"][row] for each in of_seeds])
            last.plot(found.mean(0), "os^"[k] + "-", label=f"{name}, {row}")
    last.set(title="cost on the way of z", xlabel="step")
    for axis in (axes[0], last):
        axis.legend(fontsize=6)
    figure.savefig(path, dpi=120)


def add(path: Path, **found: Any) -> None:
    """Add entries to the record of a call."""
    path = path.with_name(f"{path.name}.json")
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **found}) + "\n", encoding="utf-8")


def write(record: dict[str, Any], path: Path) -> None:
    path.with_name(f"{path.name}.json").write_text(json.dumps(record, default=short) + "\n", encoding="utf-8")


def short(values: np.ndarray) -> list[float]:
    """The scores of the items, rounded as they are stored."""
    return [float(f"{value:.4g}") for value in values]


def main(records: tuple[Path, ...]) -> None:
    """Recompute the tables of records."""
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        for each in record["runs"]:
            each["rows"] = {row: {k: np.asarray(v) for k, v in found.items()} for row, found in each["rows"].items()}
        record["table"] = table(record["runs"])
        print(printed(record["table"]))
        write(record, path.with_suffix(""))


if __name__ == "__main__":
    main(tuple(map(Path, sys.argv[1:])))

"""Tables and figures of the runs of `aim_mnist.py`, with the paper's values (Table 1 and Figures 2, 4, 8, 9 and 10 of AIM)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

PAPER: dict[str, dict[str, dict[str, float]]] = {
    "mnist": {
        "gan": {"inception_score": 9.464},
        "ali": {"mse": 0.480, "inception_score": 8.749},
        "alice": {"mse": 0.080, "inception_score": 9.279},
        "aim-minus": {"mse": 0.028, "inception_score": 9.331},
        "aim": {"mse": 0.026, "inception_score": 9.483},
    },
    "cifar10": {
        "gan": {"inception_score": 6.287},
        "ali": {"mse": 0.672, "inception_score": 5.930},
        "alice": {"mse": 0.416, "inception_score": 6.015},
        "aim-minus": {"mse": 0.037, "inception_score": 6.324},
        "aim": {"mse": 0.019, "inception_score": 6.450},
    },
}
"""Table 1, by data set; the MSEs of ALI and ALICE are those of Li et al. 2017, in an unspecified unit."""

NAMES = {"gan": "GAN", "ali": "ALI", "alice": "ALICE", "aim-minus": "AIM-", "aim": "AIM"}


def _recorded(paths: tuple[Path, ...]) -> Iterator[tuple[dict[str, Any], Path | None]]:
    """The runs of folders, with their images, and of files OUTPUT.json, without."""
    for path in paths:
        if path.is_file():
            for entry in json.loads(path.read_text(encoding="utf-8"))["rows"].values():
                yield from ((row, None) for row in entry["runs"])
            continue
        for file in sorted(path.rglob("*.json")):
            if file.with_suffix(".npz").exists():  # else a report, or a classifier
                yield json.loads(file.read_text(encoding="utf-8")), file.with_suffix(".npz")


def read_runs(paths: tuple[Path, ...]) -> dict[str, list[tuple[dict[str, Any], Path | None]]]:
    """The runs of folders and records by row of the table; runs of a row differ only in the seed, and for equal seeds the last
    run is used.

    :raises ValueError: for no runs, and for runs with different data or classifiers.
    """
    rows: dict[str, list[tuple[dict[str, Any], Path | None]]] = {}
    units = set()
    for row, pictures in _recorded(paths):
        units.add((row["data"], row.get("classifier")))
        plain, _, weight = row["family"].partition(":")
        usual = {"ours": False, "published": True}[row["recipe"]]
        turns = "" if row["together"] in (None, usual) else ", together" if row["together"] else ", by turns"
        label = f"{row['recipe']} {NAMES.get(plain, plain)}{f', weight {weight}' if weight else ''}{turns}"
        label += f", {row['latent_dim']} latents, {row['epochs_asked']:g} epochs"
        others = [run for run in rows.get(label, []) if run[0]["seed"] != row["seed"]]
        rows[label] = [*others, (row, pictures)]
    if len(units) != 1:
        found = ", ".join(f"{data} by {classifier}" for data, classifier in sorted(units, key=str)) or "no runs at all"
        where = ", ".join(map(str, paths))
        raise ValueError(f"{where}: the runs of a table must have the same data set and classifier; found {found}")
    for runs in rows.values():
        runs.sort(key=lambda run: run[0]["seed"])
    return dict(sorted(rows.items(), key=lambda item: _order(item[1][0][0])))


def _order(row: Mapping[str, Any]) -> tuple[bool, float, int]:
    """Sort key of a row: the published recipe first, then more epochs, then the order of the paper."""
    plain, order = row["family"].partition(":")[0], [*NAMES]
    return row["recipe"] != "published", -row["epochs_asked"], order.index(plain) if plain in order else len(order)


def summary(values: list[float]) -> dict[str, float]:
    """Mean, and its standard error if there are several values."""
    return {"mean": mean(values)} | ({"se": stdev(values) / len(values) ** 0.5} if len(values) > 1 else {})


def report(paths: tuple[Path, ...], output: Path) -> dict[str, Any]:
    """Write OUTPUT.json and the figures of the runs, and print the table."""
    rows = read_runs(paths)
    first = next(iter(rows.values()))[0][0]
    paper = next((theirs for name, theirs in PAPER.items() if first["data"].startswith(name)), {})  # of a subset too
    record: dict[str, Any] = {"data": first["data"], "paper": paper}
    record |= {key: first[key] for key in ("classifier", "test_set_inception_score") if key in first}
    record["rows"] = {}
    for label, runs in rows.items():
        each = [row for row, _ in runs]
        entry: dict[str, Any] = {"family": each[0]["family"], "recipe": each[0]["recipe"]}
        entry |= {"epochs": [row["epochs"] for row in each], "seeds": [row["seed"] for row in each]}
        if "mse" in each[0]:
            entry |= {"mse": summary([row["mse"] for row in each])}
            entry |= {"mse_of_range_two": summary([4 * row["mse"] for row in each])}
        if "inception_score" in each[0]:
            entry |= {"inception_score": summary([row["inception_score"] for row in each])}
            shares = [row["inception_score"] / row["test_set_inception_score"] for row in each]
            entry |= {"share_of_test_set": summary(shares)}
        record["rows"][label] = entry | {"runs": each}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.with_name(f"{output.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for label, runs in rows.items():
        path = next((path for _, path in runs if path is not None), None)
        if path is None:
            continue
        with np.load(path) as stored:
            pictures = dict(stored)
        plain = label.replace(", ", "-").replace(" ", "-").replace(":", "-").lower()
        if "codes" in pictures:
            draw_latents(pictures, _title(label, runs), output.with_name(f"{output.name}-{plain}-latents.png"))
        draw(pictures, _title(label, runs), output.with_name(f"{output.name}-{plain}.png"))
    draw_curves(rows, record.get("test_set_inception_score"), output.with_name(f"{output.name}-curves.png"))
    print(table(record))
    return record


def _cell(entry: Mapping[str, Any], key: str, digits: int) -> str:
    if key not in entry:
        return ""
    return f"{entry[key]['mean']:.{digits}f}" + (f" ({entry[key]['se']:.{digits}f})" if "se" in entry[key] else "")


def table(record: Mapping[str, Any]) -> str:
    """A Markdown table: our values with standard errors over seeds, and the paper's Table 1."""
    by = record.get("classifier", "no classifier")
    head = ["networks", "method", "epochs", "seeds", "MSE, [0, 1]", "MSE, [-1, 1]", "the paper's MSE"]
    head += [f"IS by {by}", "share of the test set's", "the paper's IS, by its own classifier"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for label, entry in record["rows"].items():
        theirs = record["paper"].get(entry["family"].partition(":")[0], {})
        networks, _, method = label.partition(" ")
        asked = f"{entry['runs'][0]['epochs_asked']:g}"
        reached = ", ".join(sorted({f"{value:.3g}" for value in entry["epochs"]}))
        cells = [networks, method.rpartition(", ")[0], asked if reached == asked else f"{reached} of {asked}"]
        cells += [str(len(entry["seeds"]))]
        cells += [_cell(entry, "mse", 4), _cell(entry, "mse_of_range_two", 4)]
        cells += [f"{theirs['mse']:.3f}" if "mse" in theirs else "", _cell(entry, "inception_score", 3)]
        cells += [_cell(entry, "share_of_test_set", 3)]
        cells += [f"{theirs['inception_score']:.3f}" if "inception_score" in theirs else ""]
        lines.append(f"| {' | '.join(cells)} |")
    if "test_set_inception_score" in record:
        lines.append(f"|  | test set |  |  |  |  |  | {record['test_set_inception_score']:.3f} | 1 |  |")
    return "\n".join(lines)


def _sheet(images: np.ndarray, columns: int) -> np.ndarray:
    """Images (item, channel, height, width) as one image, (height, width, channel)."""
    rows = images.reshape(-1, columns, *images.shape[1:])
    return rows.transpose(0, 3, 1, 4, 2).reshape(rows.shape[0] * rows.shape[3], columns * rows.shape[4], rows.shape[2])


def _title(label: str, runs: list[tuple[dict[str, Any], Path | None]]) -> str:
    """The row's name, with the epochs that were reached if these are fewer."""
    reached = ", ".join(sorted({f"{row['epochs']:.3g}" for row, _ in runs if row["epochs"] < 0.99 * row["epochs_asked"]}))
    return f"{label}, {reached} reached" if reached else label


def draw(pictures: Mapping[str, np.ndarray], label: str, path: Path) -> None:
    """Draw samples (Figure 10), test images with reconstructions (Figure 2), and test images with neighbours (Figure 9)."""
    from matplotlib.figure import Figure

    sheets = {"samples": _sheet(pictures["samples"], 10)}
    if "test" in pictures:
        beside = np.stack([pictures["test"], pictures["reconstructed"]], 1)
        sheets["test and reconstructed"] = _sheet(beside.reshape(-1, *beside.shape[2:]), 4)
        near = pictures["neighbours"].reshape(10, 9, *pictures["neighbours"].shape[1:])
        sheets["test and neighbours"] = _sheet(
            np.concatenate([pictures["test"][:10, None], near], 1).reshape(-1, *near.shape[2:]), 10
        )
    figure = Figure(figsize=(3 * len(sheets), 3.4), layout="constrained")
    for axes, (title, sheet) in zip(figure.subplots(1, len(sheets), squeeze=False)[0], sheets.items(), strict=True):
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)  # the colour map applies to images with one channel only
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=9)
    figure.suptitle(label, fontsize=9)
    figure.savefig(path, dpi=100)


def draw_latents(pictures: Mapping[str, np.ndarray], label: str, path: Path) -> None:
    """Draw the codes of test images in the plane of two latents, and the images of the plane from -2 to 2 (Figure 4)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.scatter(*pictures["codes"].T, c=pictures.get("labels"), s=1, cmap="tab10", rasterized=True)
    left.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), aspect="equal")
    right.imshow(_sheet(pictures["plane"], 20), cmap="gray", vmin=0, vmax=255, extent=(-2, 2, -2, 2))
    figure.suptitle(label, fontsize=9)
    figure.savefig(path, dpi=100)


def draw_curves(rows: Mapping[str, list[tuple[dict[str, Any], Path | None]]], own: float | None, path: Path) -> None:
    """Draw, against epochs, the validation MSE of the first 50 epochs (Figure 8) and of all epochs if there are more, and the
    ratio of the inception score to that of the test set."""
    from matplotlib.figure import Figure

    points = [point for runs in rows.values() for row, _ in runs for point in row["curve"]]
    titles = ["validation MSE, pixels in [0, 1]"]
    titles += ["the same, all epochs"] * any(point["epoch"] > 50 for point in points)
    titles += ["inception score / test set's"] * any("inception_score" in point for point in points)
    figure = Figure(figsize=(max(7.0, 3.6 * len(titles)), 4.2), layout="constrained")
    axes = dict(zip(titles, figure.subplots(1, len(titles), squeeze=False)[0], strict=True))
    lines = {}
    for k, (label, runs) in enumerate(rows.items()):
        for row, _ in runs:
            style: dict[str, Any] = {"color": f"C{k % 10}", "ls": "-" if k < 10 else "--", "lw": 1}
            for title, panel in axes.items():
                key, unit = ("inception_score", own or 1.0) if title.startswith("inception") else ("mse", 1.0)
                shown = [(point["epoch"], point[key] / unit) for point in row["curve"] if key in point]
                if shown:
                    (lines[_title(label, runs)],) = panel.plot(*zip(*shown, strict=True), **style)
    for title, panel in axes.items():
        panel.set(xlabel="epoch")
        panel.set_title(title, fontsize=9)
        if title.startswith("inception"):
            panel.set(ylim=(0.8, 1.005))
        else:
            panel.set(ylim=(0, None), xlim=(0, 50 if title == titles[0] and "the same, all epochs" in titles else None))
    figure.legend(list(lines.values()), list(lines), loc="outside lower center", ncols=2, fontsize=7)
    figure.savefig(path, dpi=90)

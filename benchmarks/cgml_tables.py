"""Tables of cGML: branches and baselines of the toy problem, annealing from end points, and scores of the examples."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
Table = tuple[str, list[list[str]]]
"""The header, and the cells of every row."""

COUNTED = ("plus", "distance", "off", "phantom")


def of_branches(records: list[Row]) -> Table:
    """Every way to move z: smallest and largest share of the branch +, and means over seeds with the worst, in per cent."""
    cells = []
    for record in records:
        settings = dict.fromkeys((row["moves"], row["step_size"]) for row in record["branches"])
        for moves, step_size in settings:
            rows = [row for row in record["branches"] if (row["moves"], row["step_size"]) == (moves, step_size)]
            for name, shown in (("rho", "yes"), ("without", "no")):
                found = {key: 100 * np.array([row[name][key] for row in rows]) for key in COUNTED}
                shares = f"{found['plus'].min():.0f} to {found['plus'].max():.0f}"
                rest = [f"{found[key].mean():.1f} ({found[key].max():.1f})" for key in COUNTED[1:]]
                last = np.mean([row["cost_in_training"] for row in rows])
                cells.append([moves, f"{step_size:g}", str(len(rows)), f"{last:.2f}", shown, shares, *rest])
    header = "z moves by | step size | seeds | cost in training | rho | share of +, % | distance, % of the range (worst)"
    return f"{header} | off both, % (worst) | phantom, % (worst)", cells


def of_baselines(records: list[Row]) -> Table:
    """Results of training with a single error, for each seed."""
    rows = [row for record in records for row in record["baselines"]]
    cells = [
        [row["error"], str(row["seed"]), *(f"{row[name]:.3f}" for name in ("mean", "sd_over_x", "sd_over_z"))] for row in rows
    ]
    return "error | seed | y1 / 4x | its sd over x | over z", cells


def of_uncertainty(records: list[Row]) -> Table:
    """Rank correlations with the error, for each seed."""
    rows = [row for record in records for row in record["uncertainty"]]
    names = ("sd_inside", "sd_outside", "error_inside", "error_outside", "rank_correlation", "of_size", "beyond_size")
    parts = ("beyond_size_inside", "beyond_size_outside")
    cells = [[str(row["seed"]), *(f"{row[name]:.2f}" for name in (*names, *parts))] for row in rows]
    header = "seed | sd inside | outside | error inside | outside | rank correlation | of y's size alone | beyond y's size"
    return f"{header} | the same inside | outside", cells


def of_descents(records: list[Row]) -> Table:
    """Errors of annealed HMC by start and number of gradients."""
    rows = [row for record in records for row in record["modes"]["rows"]]
    cells = [[row["start"], str(row["gradients"]), f"{row['rmse']:.3f}", f"{row['rmse_of_share']:.3f}"] for row in rows]
    return "start | gradients a chain | error of the log evidence | of the share of +", cells


def of_remark(records: list[Row]) -> Table:
    """Results of the GAN by the weight of L1."""
    rows = [row for record in records for row in record["remark"]]
    cells = [[f"{row['weight']:g}", *(f"{100 * row[key]:.1f}" for key in COUNTED), f"{row['y1_over_4x']:.2f}"] for row in rows]
    return "weight of L1 | share of +, % | distance, % | off both, % | phantom, % | size of y1 / 4x", cells


def of_columns(records: list[Row]) -> Table:
    """The scores of an example, for every family and way to find z."""
    lines = [line for record in records for line in record["table"]]
    known = ("psnr", "ssim", "mse_of_best", "energy_score", "crps", "diversity")
    about = ("family", "row", "seeds", "items", "steps", "seconds_a_step", "seconds", "parameters", "operations")
    extra = [n for n in lines[0] if n not in (*known, *about) and not n.endswith(("_difference", "_difference_se"))]
    cells = []
    for line in lines:
        cost = [f"{line['steps']:,.0f}", f"{1e3 * line['seconds_a_step']:.0f}"]
        changes = {}
        for name, digits in (("energy_score", 2), ("energy_score_random", 2), ("crps", 4), ("crps_random", 4)):
            changes[name] = ""
            if f"{name}_difference" in line:
                error = line[f"{name}_difference_se"]
                changes[name] = f"{line[f'{name}_difference']:+.{digits}f} ({error:.{digits}f})"
        scores = [f"{line['psnr']:.2f}", f"{line['ssim']:.3f}", f"{line['mse_of_best']:.4f}", f"{line['energy_score']:.3f}"]
        rest = [changes["energy_score"], changes["energy_score_random"]]
        rest += [f"{line['crps']:.4f}", changes["crps"], changes["crps_random"], f"{line['diversity']:.3f}"]
        more = [f"{line[name]:.3f}" for name in extra]
        cells.append([line["family"], line["row"], str(line["seeds"]), str(line["items"]), *cost, *scores, *rest, *more])
    header = "family | z | seeds | items | steps | ms a step | PSNR of the mean | SSIM of the mean | squared error of the best"
    named = "".join(f" | {name.replace('_', ' ')}" for name in extra)
    differences = "minus predicted (s.e.) | minus random (s.e.)"
    return f"{header} | energy score | {differences} | CRPS | {differences} | diversity{named}", cells


def of_modes(records: list[Row]) -> Table:
    """The share of the second mode by its share in training, and by the way to find z."""
    cells = []
    for record in records:
        for row in record["modes"]["rows"]:
            share = f"{100 * row['box']:.1f} ({100 * row['se']:.1f})"
            cells.append([f"{100 * record['rate']:g}", row["z"], share, f"{row['cost']:.3f}"])
    return "trained on, % | z | share of boxes, % (s.e.) | mean distance from the nearer image", cells


def of_evidence(records: list[Row]) -> Table:
    """Errors of the log evidence by the start of the annealing and the number of gradients."""
    rows = [row for record in records for row in record["evidence"]]
    cells = [[row["start"], str(row["gradients"]), f"{row['rmse']:.3f}", f"{row['bias']:+.3f}"] for row in rows]
    return "start | gradients a chain | error of the log evidence | its mean", cells


def of_left_out(records: list[Row]) -> Table:
    """The uncertainty and the error of colours, for a class that was left out and for the others."""
    cells = []
    for record in records:
        trained = "yes" if record["trained on"] else "no"
        for row in record["uncertainty"]:
            means = [f"{row[key]:.4f} ({row[f'{key}_se']:.4f})" for key in ("sd", "error")]
            which = f"class {record['without']}" if row["group"] == "left out" else "others"
            cells.append([trained, which, str(row["items"]), *means, f"{row['rank_correlation']:.2f}"])
    return "class trained on | images of | items | standard deviation (s.e.) | error (s.e.) | rank correlation of both", cells


def of_classified(records: list[Row]) -> Table:
    """The accuracy of classes predicted from features."""
    return "features of | classes read, %", [
        [name, f"{100 * share:.1f}"] for record in records for name, share in record["classified"].items()
    ]


def of_operations(records: list[Row]) -> Table:
    """The parameters and the cost of every family."""
    cells = []
    for record in records:
        for name in dict.fromkeys(line["family"] for line in record["table"]):
            line = next(line for line in record["table"] if line["family"] == name)
            operations = f"{line['operations'] / 1e6:.1f}"
            cells.append([name, f"{line['parameters'] / 1e6:.2f}", operations, f"{1e3 * line['seconds_a_step']:.0f}"])
    return "family | parameters of all networks, 10^6 | operations of a draw, 10^6 | ms a training step", cells

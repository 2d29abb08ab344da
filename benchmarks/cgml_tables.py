"""The tables of cGML: the toy's branches, what ends where, the annealing from end points, and the columns of the examples."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
Table = tuple[str, list[list[str]]]
"""The header, and the cells of every row."""

COUNTED = ("plus", "distance", "off", "phantom")


def of_branches(records: list[Row]) -> Table:
    """Every way to move z: least and greatest share of the branch +, and means over seeds with the worst, in per cent."""
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
    """Where one error alone ends, seed by seed."""
    rows = [row for record in records for row in record["baselines"]]
    cells = [
        [row["error"], str(row["seed"]), *(f"{row[name]:.3f}" for name in ("mean", "sd_over_x", "sd_over_z"))] for row in rows
    ]
    return "error | seed | y1 / 4x | its sd over x | over z", cells


def of_uncertainty(records: list[Row]) -> Table:
    """Rank correlations with the error, seed by seed."""
    rows = [row for record in records for row in record["uncertainty"]]
    names = ("sd_inside", "sd_outside", "error_inside", "error_outside", "rank_correlation", "of_size", "beyond_size")
    parts = ("beyond_size_inside", "beyond_size_outside")
    cells = [[str(row["seed"]), *(f"{row[name]:.2f}" for name in (*names, *parts))] for row in rows]
    header = "seed | sd inside | outside | error inside | outside | rank correlation | of y's size alone | beyond y's size"
    return f"{header} | the same inside | outside", cells


def of_descents(records: list[Row]) -> Table:
    """Errors of annealed HMC by its start and its gradients."""
    rows = [row for record in records for row in record["modes"]["rows"]]
    cells = [[row["start"], str(row["gradients"]), f"{row['rmse']:.3f}", f"{row['rmse_of_share']:.3f}"] for row in rows]
    return "start | gradients a chain | error of the log evidence | of the share of +", cells


def of_remark(records: list[Row]) -> Table:
    """Where the GAN ends, by the weight of L1."""
    rows = [row for record in records for row in record["remark"]]
    cells = [[f"{row['weight']:g}", *(f"{100 * row[key]:.1f}" for key in COUNTED), f"{row['y1_over_4x']:.2f}"] for row in rows]
    return "weight of L1 | share of +, % | distance, % | off both, % | phantom, % | size of y1 / 4x", cells


def of_columns(records: list[Row]) -> Table:
    """Every family and every way to find z: the scores of an example."""
    lines = [line for record in records for line in record["table"]]
    known = ("psnr", "ssim", "mse_of_best", "energy_score", "crps", "diversity")
    about = ("family", "row", "seeds", "items", "steps", "seconds_a_step", "seconds", "parameters")
    extra = [n for n in lines[0] if n not in (*known, *about) and not n.endswith(("_difference", "_difference_se"))]
    cells = []
    for line in lines:
        cost = [f"{line['steps']:,.0f}", f"{1e3 * line['seconds_a_step']:.0f}"]
        apart = {}
        for name, digits in (("energy_score", 2), ("energy_score_random", 2), ("crps", 4), ("crps_random", 4)):
            apart[name] = ""
            if f"{name}_difference" in line:
                error = line[f"{name}_difference_se"]
                apart[name] = f"{line[f'{name}_difference']:+.{digits}f} ({error:.{digits}f})"
        scores = [f"{line['psnr']:.2f}", f"{line['ssim']:.3f}", f"{line['mse_of_best']:.4f}", f"{line['energy_score']:.3f}"]
        rest = [apart["energy_score"], apart["energy_score_random"]]
        rest += [f"{line['crps']:.4f}", apart["crps"], apart["crps_random"], f"{line['diversity']:.3f}"]
        more = [f"{line[name]:.3f}" for name in extra]
        cells.append([line["family"], line["row"], str(line["seeds"]), str(line["items"]), *cost, *scores, *rest, *more])
    header = "family | z | seeds | items | steps | ms a step | PSNR of the mean | SSIM of the mean | squared error of the best"
    named = "".join(f" | {name.replace('_', ' ')}" for name in extra)
    differences = "minus predicted (s.e.) | minus random (s.e.)"
    return f"{header} | energy score | {differences} | CRPS | {differences} | diversity{named}", cells

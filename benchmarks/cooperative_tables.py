"""Tables of energies and cooperative pairs: the grid, classes to images, style and class, two routes, translation."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Table = tuple[str, list[list[str]]]
"""The header, and the cells of every row."""


def of_energies(records: list[Row]) -> Table:
    """Divergence from the data, and log Z by annealed HMC minus the grid's, for each seed."""
    cells = []
    for row in _rows(records, "energies"):
        error = f"{row['log_z_error']:+.3f} ({row['log_z_se']:.3f})"
        cells.append([row["mixture"], row["chains"], str(row["seed"]), f"{row['kl']:.3f}", error])
    return "mixture | chains | seed | KL(f, p) | log Z less the grid's (s.e.)", cells


def of_pairs(records: list[Row]) -> Table:
    """The three divergences, and the smallest inner product of each update during training."""
    cells = []
    for row in _rows(records, "cooperation"):
        ends = [f"{row[name]:.3f}" for name in ("kl_data", "kl_refined", "kl_made")]
        least = []
        for name in ("objective", "mapping"):
            value, error = min((update[name], update[f"{name}_se"]) for update in row["updates"])
            least.append(f"{value:.2f} ({error:.2f})")
        cells.append([row["mixture"], str(row["seed"]), *ends, *least])
    header = "mixture | seed | KL(f, p) | KL(Mq, p) | KL(q, p)"
    return f"{header} | least inner product, objective (s.e.) | mapping (s.e.)", cells


def of_classes(records: list[Row]) -> Table:
    """The last measures of every training, and those of real images."""
    cells = []
    for record in records:
        for row in record["runs"]:
            steps = f"{row['langevin']} Langevin steps" if row["langevin"] else ""
            family = row["family"] if row.get("classes", True) else f"{row['family']}, no class"
            about = [row["data"], family, steps, str(row["latent_dim"]), str(row["seed"])]
            if row["stopped"]:
                cells.append([*about, "", "", row["stopped"], "", "", ""])
                continue
            end = row["curve"][-1]
            for part in ("initializer", "solver"):
                if part in end:
                    cost = [f"{end['step']:,}", f"{1e3 * row['seconds_a_step']:.0f}"]
                    cells.append([*about, *cost, part if "solver" in end else "generator", *_judged(end[part])])
        cells.append([record["runs"][0]["data"], "training images", "", "", "", "", "", "", *_judged(record["real"])])
    header = "data | family | solver | latents | seed | steps | ms a step | samples of"
    return f"{header} | Frechet distance | read as their class, % | recall", cells


def _judged(found: Row) -> list[str]:
    distance = found["frechet"]
    read = [f"{100 * found['read']:.1f}", f"{found['recall']:.3f}"] if "read" in found else ["", ""]
    return [f"{distance:.1f}" if distance >= 3 else f"{distance:.2f}", *read]


def of_style(records: list[Row]) -> Table:
    """Measures of class and style for every way of inference."""
    cells = []
    for row in _rows(records, "rows"):
        kept = [f"{row[n]:.2f} ({row[n + '_shuffled']:.2f}; {row[n + '_z']:.1f})" for n in ("weight", "slant")]
        cells.append([row["way"], f"{100 * row['named']:.0f}", f"{100 * row['changed']:.1f}", *kept])
    header = "class and style by | class named, % | transfers read as asked, %"
    return f"{header} | weight (shuffled; s.e. between) | slant (shuffled; s.e. between)", cells


def of_routes(records: list[Row]) -> Table:
    """The scores of every route."""
    cells = []
    for row in _rows(records, "rows"):
        against = f"{row['crps_difference']:+.4f} ({row['crps_difference_se']:.4f})" if row["crps_difference"] else ""
        coverage = [f"{100 * row[f'coverage_{level}']:.0f}" for level in (50, 90)]
        rest = [f"{row['psnr']:.2f}", f"{row['mse_of_best']:.4f}", f"{row['seconds']:.0f}"]
        cells.append([row["route"], f"{row['crps']:.4f}", against, f"{row['energy_score']:.2f}", *coverage, *rest])
    header = "route | CRPS | minus first (s.e.) | energy score | 50 % | 90 %"
    return f"{header} | PSNR of the mean | squared error of the best of 10 | seconds", cells


def of_translations(records: list[Row]) -> Table:
    """The scores of every family, with the paper's for its task."""
    cells = []
    for record in records:
        for row in record["rows"]:
            name = row["family"].partition("@")[0].partition(":")[0]
            trained = row["part"] != "images"
            paper = record["paper"].get(name) if row["part"] in ("generator", "solver") else None
            cost = [""] * 3
            if trained:
                cost = [f"{row['parameters'] / 1e6:.2f}", f"{1e3 * row['seconds_a_step']:.0f}", f"{row['steps']:,.0f}"]
            scores = [f"{row['psnr']:.2f}", f"{row['ssim']:.3f}", f"{row['psnr_mean']:.2f}", f"{row['ssim_mean']:.3f}"]
            difference = f"{row['noisy_energy_score_difference']:+.2f} ({row['noisy_energy_score_difference_se']:.2f})"
            cells.append(
                [
                    row["family"],
                    row["part"],
                    str(row["seeds"]) if trained else "",
                    *cost,
                    *scores,
                    f"{row['distance']:.2f}",
                    f"{row['energy_score']:.2f}",
                    f"{row['noise']:.2f}",
                    f"{row['noisy_energy_score']:.2f}",
                    difference if row["noisy_energy_score_difference"] else "",
                    f"{paper[0]} / {paper[1]}" if paper else "",
                ]
            )
    header = (
        "family | images of | seeds | million weights | ms a step | steps | PSNR of a draw | SSIM | PSNR of the mean | SSIM"
    )
    return f"{header} | distance | energy score | best noise | with it | minus first solver (s.e.) | paper's PSNR / SSIM", cells


def _rows(records: list[Row], name: str) -> list[Row]:
    return [row for record in records for row in record.get(name, ())]

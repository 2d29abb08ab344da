"""Scaling of a run with the number of items: seconds, memory of the caller, and bytes of the shards, for a small generator.

    python benchmarks/executors.py --output docs/executors.json

Every row is a separate process. The cost of a million items, in core-hours of processor time and in dollars, is extrapolated
from all rows as a constant, a cost per item and a cost per job. The throughput of two Ray workers relative to one is that of
the second half of the jobs, after compilation. It requires Ray (pip install 'cogen-ppl[ray]').
"""

from __future__ import annotations

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

from cogen.inference.executors.jobs import MOST_ITEMS

COUNTS: dict[str, Any] = {"num_warmup": 20, "num_samples": 5, "num_chains": 16, "seed": 0, "progress": False}
LATENTS, OUTPUTS, LEAPFROG = 8, 32, 3
MILLION = 1_000_000


@dataclass
class Options:
    items: tuple[int, ...] = (100, 1_000, 10_000)
    """Sizes of the runs in this process; three or more for the extrapolation."""
    ray_items: int = 2_000
    """Size of the runs on Ray; 0 for none."""
    price: float = 0.05
    """Dollars per core-hour."""
    output: Path | None = None
    one: tuple[int, int] | None = None
    """Items and workers (0 for this process) of a single row, which is printed as JSON."""


def one_row(items: int, workers: int) -> dict[str, float]:
    """Run ``items`` items, and return the cost."""
    import torch
    from torch import nn

    from cogen.inference import AnnealedHMC, InProcess, RayExecutor, infer
    from cogen.models import CoGenerator, views

    torch.manual_seed(0)
    generator = nn.Linear(LATENTS, OUTPUTS)
    model = CoGenerator(generator, latent_dim=LATENTS, views={"all": views.Identity(scale=0.3)})
    x = np.random.default_rng(0).normal(size=(items, OUTPUTS)).astype(np.float32)
    executor = RayExecutor(workers) if workers else InProcess()
    with tempfile.TemporaryDirectory() as folder:
        begun, wall = time.perf_counter(), time.time()
        posterior = infer(
            model.condition(all=x), AnnealedHMC(num_leapfrog=LEAPFROG), executor=executor, checkpoint=folder, **COUNTS
        )
        seconds = time.perf_counter() - begun
        mean = float(posterior["posterior"]["z"].mean())  # read once
        written = sorted(path.stat().st_mtime - wall for path in Path(folder).glob("*.nc"))
        half = len(written) // 2
        return {
            "items": items,
            "workers": workers,
            "jobs": len(written),
            "seconds": seconds,
            "processor_seconds": time.process_time(),
            "jobs_per_second": (len(written) - half - 1) / (written[-1] - written[half]) if len(written) > 3 else float("nan"),
            "caller_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "draws_mib": posterior["posterior"]["z"].nbytes / 2**20,
            "shards_mib": sum(path.stat().st_size for path in Path(folder).glob("*.nc")) / 2**20,
            "mean": mean,
        }


def measured(items: int, workers: int) -> dict[str, float]:
    """One row, in a separate process."""
    command = [sys.executable, __file__, "--one", str(items), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    row = json.loads(done.stdout.splitlines()[-1])
    print(
        f"| {items:,} | {workers or 'in process'} | {row['jobs']} | {row['seconds']:.0f} |"
        f" {row['processor_seconds']:.0f} | {row['caller_mib']:.0f} | {row['shards_mib']:.1f} |",
        flush=True,
    )
    return row


def extrapolated(rows: list[dict[str, float]], price: float) -> dict[str, float]:
    """The cost of a million items, from the costs of a start, an item and a job."""
    design = np.array([[1.0, row["items"], row["jobs"]] for row in rows])
    million = np.array([1.0, MILLION, MILLION / MOST_ITEMS])

    def grown(name: str) -> float:
        return float(million @ np.linalg.lstsq(design, np.array([row[name] for row in rows]), rcond=None)[0])

    hours = grown("processor_seconds") / 3600
    return {"items": MILLION, "core_hours": hours, "dollars": hours * price, "shards_gib": grown("shards_mib") / 1024}


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    if options.one is not None:
        print(json.dumps(one_row(*options.one)))
        sys.exit()
    print("| items | workers | jobs | seconds | processor seconds of the caller | MiB of the caller | MiB of shards |")
    print("|---|---|---|---|---|---|---|")
    rows = [measured(items, 0) for items in options.items]
    record: dict[str, Any] = {"command": " ".join(["python", *sys.argv]), "cores": os.cpu_count(), "in_process": rows}
    if len(rows) > 2:
        record["extrapolated"] = grown = extrapolated(rows, options.price)
        print(
            f"a million items: {grown['core_hours']:.1f} core-hours ({grown['dollars']:.2f} dollars),"
            f" {grown['shards_gib']:.1f} GiB of shards"
        )
    if options.ray_items:
        record["ray"] = on_ray = [measured(options.ray_items, workers) for workers in (1, 2)]
        assert on_ray[0]["mean"] == on_ray[1]["mean"]
        record["throughput_of_two_workers"] = on_ray[1]["jobs_per_second"] / on_ray[0]["jobs_per_second"]
        print(f"throughput of two workers over one: {record['throughput_of_two_workers']:.2f}")
    record["load"] = os.getloadavg()[2]
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

"""Run times of the command line: `cogen complete` with its defaults, the first time and again, and `cogen --help`.

    python benchmarks/command_line.py --output docs/command_line.json

The targets on two cores are 60 s and 2.5 GiB, and 0.5 s for the help.
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

import tyro


@dataclass
class Options:
    output: Path | None = None


def seconds(*arguments: str, cache: str = "") -> float:
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cogen.command_line", *arguments],
        check=True,
        env={**os.environ, "XDG_CACHE_HOME": cache},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return time.perf_counter() - start


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    seconds("--help")
    record = {"help_seconds": sorted(seconds("--help") for _ in range(5))[2]}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("complete_seconds", "again_seconds"):
            record[name] = seconds("complete", "--output", f"{folder}/{name}", cache=folder)
    record["complete_gib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print("\n".join(f"{name:18} {value:.2f}" for name, value in record.items()))
    if options.output:
        options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

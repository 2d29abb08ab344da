"""Run the blocks of docs/five_jobs.md one after the other and write what they print below them.

    python benchmarks/transcript.py --data data

A block of sh or python is followed by a block of text, its output with the seconds that it took, without progress bars. The
blocks run in an empty folder, in which ``data`` is a link to the folder of that name.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

PAGE = Path(__file__).parents[1] / "docs" / "five_jobs.md"
BLOCK = re.compile(r"```(sh|python)\n(.*?)```\n(?:\n```text\n.*?```\n)?", flags=re.DOTALL)


@dataclass
class Options:
    data: Path
    """The folder with the data sets, such as mnist."""
    page: Path = PAGE


def printed(language: str, code: str, folder: Path) -> str:
    """The output of a block, without progress bars, and its seconds.

    :raises RuntimeError: for a block that fails.
    """
    command = ["bash", "-e", "-c", code] if language == "sh" else [sys.executable, "-c", code]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    seconds = time.perf_counter() - start
    lines = [line.rpartition("\r")[2] for line in done.stdout.split("\n")]
    kept = [line.rstrip() for line in lines if not re.search(r"\d+%\|.*\|", line)]
    if done.returncode:
        raise RuntimeError("\n".join([code, *kept]))
    return "\n".join([*kept, f"[{seconds:.0f} s]"]).strip()


def main(options: Options) -> None:
    page = options.page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        Path(name, "data").symlink_to(options.data.resolve())

        def run(found: re.Match[str]) -> str:
            output = printed(found[1], found[2], Path(name))
            print(f"{found[2]}{output}\n", flush=True)
            shown = "" if found[1] == "python" and output.startswith("[") else f"\n```text\n{output}\n```\n"
            return f"```{found[1]}\n{found[2]}```\n{shown}"

        options.page.write_text(BLOCK.sub(run, page), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

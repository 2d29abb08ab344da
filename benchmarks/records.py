"""The record of a benchmark: a JSON file with the command that made it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def write_record(path: Path | None, **content: Any) -> None:
    """Write the command of this process and the content to a path; nothing without one."""
    if path is not None:
        record = {"command": " ".join(["python", *sys.argv]), **content}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

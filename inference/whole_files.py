"""Atomic file writes, safe if the process is killed or the machine loses power.

The content is written to a temporary file next to the target, synced to the disk and renamed to the target. Until then the
target is unchanged.
"""

import os
from pathlib import Path


def write_whole(target: Path, content: bytes) -> None:
    """Write a file atomically.

    :raises OSError: if it cannot be written; an existing file is then unchanged.
    """
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        move_whole(part, target)
    finally:
        part.unlink(missing_ok=True)


def move_whole(written: Path, target: Path) -> None:
    """Replace the target by a file written elsewhere on the same file system."""
    _to_disk(written)
    os.replace(written, target)
    if os.name == "posix":  # other systems cannot open a folder
        _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

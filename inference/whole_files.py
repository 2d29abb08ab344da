"""Files that appear whole or not at all, also where the process is killed or the machine loses its power.

The content goes to a file beside the target, is forced to the disk, and takes the target's place in one step. Until then the
target is what it was.
"""

import os
from pathlib import Path


def write_whole(target: Path, content: bytes) -> None:
    """Write a file. Raises OSError where it cannot be written; the file that was there then stays."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        move_whole(part, target)
    finally:
        part.unlink(missing_ok=True)


def move_whole(written: Path, target: Path) -> None:
    """Put a file that was written elsewhere on the same file system in the place of the target."""
    _to_disk(written)
    os.replace(written, target)
    if os.name == "posix":  # elsewhere a folder cannot be opened
        _to_disk(target.parent)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Programs that XLA compiled for an earlier command, so that the next one with the same generator and view does not wait.

They lie in the user's cache folder, at most `KEPT_BYTES` of them. JAX_COMPILATION_CACHE_DIR names another folder, as for any
program that uses JAX, and is then left alone; set but empty, nothing is kept.
"""

from __future__ import annotations

import os
from pathlib import Path

KEPT_BYTES = 512 * 2**20

WORTH_SECONDS = 0.5
"""What compiles faster is not kept."""


def folder() -> Path:
    """``cogen/xla`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cogen" / "xla"


def remember_compiled() -> None:
    """Let JAX read and write what was compiled before; where the folder cannot be written, nothing changes."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" in os.environ or getattr(jax.config, "jax_compilation_cache_dir", None) is not None:
        return
    kept = folder()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        forget_oldest(kept)
    except OSError:
        return
    if os.access(kept, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(kept))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_SECONDS)


def forget_oldest(kept: Path, most: int = KEPT_BYTES) -> None:
    """Remove files of a folder, those that were written first, until the others are of so many bytes at most."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in kept.iterdir() if path.is_file())
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size

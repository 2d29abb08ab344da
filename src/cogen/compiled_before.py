"""JAX's persistent compilation cache, so that later commands with the same generator and view do not compile again.

It is in the user's cache folder, limited to `KEPT_BYTES`. JAX_COMPILATION_CACHE_DIR overrides it: another folder has no limit,
and an empty value disables the cache.
"""

from __future__ import annotations

import os
from pathlib import Path

KEPT_BYTES = 512 * 2**20

WORTH_SECONDS = 0.5
"""Programs that compile faster are not kept."""


def folder() -> Path:
    """``cogen/xla`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cogen" / "xla"


def remember_compiled() -> None:
    """Enable the cache; nothing changes if the folder cannot be written."""
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
    """Remove the oldest files of a folder until the rest have at most so many bytes."""
    files = sorted((path.stat().st_mtime, path.stat().st_size, path) for path in kept.iterdir() if path.is_file())
    total = sum(size for _, size, _ in files)
    for _, size, path in files:
        if total <= most:
            return
        path.unlink(missing_ok=True)
        total -= size

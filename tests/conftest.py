"""The tests compile far more than they compute: XLA is told not to polish what runs once, and to remember what it made."""

import os
import shutil
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_use_fusion_emitters=false"  # a third less to compile

import jax

jax.config.update("jax_disable_most_optimizations", True)

_CACHE = Path(tempfile.gettempdir()) / f"cogen-tests-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"
jax.config.update("jax_compilation_cache_dir", str(_CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_sessionfinish(session):
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(_CACHE, ignore_errors=True)

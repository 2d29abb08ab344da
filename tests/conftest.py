"""The tests compile far more than they compute: XLA skips most optimisations of what runs once, and keeps what it compiled.

With ``COGEN_TESTS_OPTIMISED=1`` in the environment XLA compiles as it does for users, which takes longer: `.ci/run` repeats the
tests of sums, blocks, exactness and invariance so, since an optimisation may reorder a sum or fuse what must stay apart.
"""

import gc
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

import pytest

# In the environment, so that workers, commands and examples do the same.
if os.environ.get("COGEN_TESTS_OPTIMISED") != "1":
    # Each makes compilation about a third cheaper. Other versions than jaxlib 0.10 exit on the second flag.
    cheap = ["--xla_cpu_parallel_codegen_split_count=1"]  # a program is one module, not 32 for threads
    if tuple(map(int, version("jaxlib").split(".")[:2])) == (0, 10):
        cheap.append("--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *cheap])
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads would contend with those of the other worker

_MINE = "JAX_COMPILATION_CACHE_DIR" not in os.environ
_CACHE = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"cogen-tests-{os.getpid()}"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

gc.set_threshold(50_000, 20, 100)  # tracing makes many objects, and the libraries' own, which stay, are millions


def pytest_collection_finish():
    gc.freeze()


@pytest.fixture(scope="module")
def one_torch_thread():
    """For batches that are too small to be shared between threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_sessionfinish(session):
    if _MINE:
        shutil.rmtree(_CACHE, ignore_errors=True)

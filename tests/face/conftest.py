"""Warnings of commands, and the modules of benchmarks/ as their scripts find them."""

import importlib
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = [str(ROOT / name) for name in ("benchmarks", "examples")]


@pytest.fixture(autouse=True)
def warnings_as_they_were(monkeypatch):
    """The command line shows warnings its own way; in the tests they stay errors."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(scope="module")
def benchmark():
    """A benchmark by its name: benchmarks import what stands beside them, and examples that they add to the path."""
    before = list(sys.path)
    sys.path.insert(0, FOLDERS[0])
    yield importlib.import_module
    sys.path[:] = before
    for name, module in list(sys.modules.items()):
        if str(Path(getattr(module, "__file__", None) or "/nowhere").parent) in FOLDERS:
            del sys.modules[name]

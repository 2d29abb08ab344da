"""The example that a test file is named after, as a module."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def script(request):
    name = request.path.stem.removeprefix("test_")
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    yield module
    del sys.modules[name]

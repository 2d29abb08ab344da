"""The example that a test file is named after, as a module, and a data set of two kinds of pictures."""

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from cogen.models.data.datasets import IDX_FILES


@pytest.fixture(scope="module")
def script(request):
    name = request.path.stem.removeprefix("test_")
    path = Path(__file__).parents[2] / "examples" / f"{name}.py"
    sys.path.insert(0, str(path.parent))  # as for a script: what stands beside it can be imported
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    yield module
    del sys.modules[name]
    sys.path.remove(str(path.parent))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two kinds of pictures, a bright square above or below, in the four idx files."""
    random = np.random.default_rng(0)
    for name, count in zip(IDX_FILES, (192, 192, 32, 32), strict=True):
        labels = np.arange(count) % 2
        if "images" in name:
            array = random.integers(0, 30, (count, 28, 28), dtype=np.uint8)
            for image, label in zip(array, labels, strict=True):
                image[4 + 12 * label : 12 + 12 * label, 8:20] = 255
        else:
            array = labels.astype(np.uint8)
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(header + array.tobytes(), 1))
    return tmp_path

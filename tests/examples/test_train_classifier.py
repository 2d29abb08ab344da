"""The training script runs end to end with tiny arguments, and what it saves is a classifier to measure with."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from cogen.models.classifiers import load_classifier
from cogen.models.datasets import IDX_FILES


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two kinds of pictures, a bright square above or below, in the four idx files."""
    random = np.random.default_rng(0)
    for name, count in zip(IDX_FILES, (160, 160, 32, 32), strict=True):
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


def test_train_save_load(script, data, tmp_path, capsys):
    output = tmp_path / "out" / "toy"
    script.main(script.Options(data=data, output=output, channels=(4, 4), width=8, epochs=4, batch=16, validation=32))
    assert "test_accuracy" in capsys.readouterr().out

    classifier = load_classifier(output)
    config = classifier.config
    assert classifier.name == "toy"
    assert (config.event_shape, config.value_range, config.classes) == ((1, 28, 28), (-1, 1), 2)
    assert classifier.features(torch.zeros(3, 1, 28, 28)).shape == (3, 8)
    assert config.figures["validation_accuracy"] > 0.9
    assert config.figures["test_accuracy"] > 0.9
    assert config.figures["options"]["seed"] == "0"
    assert "its first 128 training images" in config.training_data


def test_images_are_moved_by_amounts_of_their_own(script):
    torch.manual_seed(0)
    x = torch.full((200, 1, 28, 28), -1.0)
    x[:, :, 10:18, 10:18] = 1
    still = script.Options(turn=0, zoom=0, shift=0)
    torch.testing.assert_close(script.moved(x, still), x, atol=1e-4, rtol=0)
    found = script.moved(x, script.Options(turn=0, zoom=0, shift=2)) + 1
    rows, columns = (found.sum(axis) @ torch.arange(28.0) / found.sum((-2, -1)) - 13.5 for axis in (-1, -2))
    for centre in (rows, columns):  # uniform in (-2, 2); |z| < 4
        assert 1.8 < centre.abs().max() < 2.01
        assert abs(centre.mean()) < 4 * (2 / 3**0.5) / 200**0.5
    zoomed = (script.moved(x, script.Options(turn=0, zoom=0.1, shift=0)) + 1).sum((-2, -1)) / 2
    assert 64 / 1.1**2 - 0.5 < zoomed.min() < 60
    assert 70 < zoomed.max() < 64 / 0.9**2 + 0.5


def test_a_wrong_folder_is_one_line(script, data, tmp_path):
    with pytest.raises(SystemExit, match=r"train_classifier: .* holds neither train-images-idx3-ubyte"):
        script.main(script.Options(data=tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"train_classifier: .* holds 160 images .* a batch of 128"):
        script.main(script.Options(data=data))

"""The training script runs end to end with tiny arguments, and its generator is ready to complete images with."""

import gzip
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cogen.models.datasets import IDX_FILES
from cogen.models.generators import load_generator


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two kinds of pictures, a bright square above or below, in the four idx files."""
    random = np.random.default_rng(0)
    for name, count in zip(IDX_FILES, (192, 192, 8, 8), strict=True):
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


@pytest.mark.parametrize(("family", "network"), [("gan", "dense"), ("gan", "dcgan"), ("vae", "dense")])
def test_train_save_load(script, data, tmp_path, capsys, family, network):
    options = script.Options(
        data=data,
        output=tmp_path / "out" / "toy",
        family=family,
        network=network,
        latent_dim=4,
        widths=(8, 4),
        iterations=4,
        batch=8,
        measure_every=2,
        snapshots=(3,),
        validation=90,
        reconstructions=4,
        classifier_steps=5,
        descent_steps=5,
    )
    script.main(options)
    assert "rms_seen_half" in capsys.readouterr().out

    generator = load_generator(tmp_path / "out" / "toy")
    assert generator(torch.randn(2, 4)).shape == (2, 1, 28, 28)
    assert generator.config.noise_scale > 0
    figures = json.loads((tmp_path / "out" / "toy.json").read_text())["figures"]
    assert [row["iteration"] for row in figures["curve"]] == ["real", 2, 3, 4]
    assert figures["options"]["seed"] == "0"
    with Image.open(tmp_path / "out" / "toy.png") as picture:
        assert picture.size == (16 * 28, 8 * 28)
    assert load_generator(tmp_path / "out" / "toy-3").config.figures["iteration"] == 3


def test_a_wrong_folder_is_one_line(script, tmp_path):
    with pytest.raises(SystemExit, match=r"train_mnist: .* holds neither train-images-idx3-ubyte"):
        script.main(script.Options(data=tmp_path))

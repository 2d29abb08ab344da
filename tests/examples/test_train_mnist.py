"""The training script runs end to end with tiny arguments, and its generator is ready to complete images with."""

import json

import pytest
import torch
from PIL import Image

from cogen.models.storage.generators import load_generator


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
    with pytest.raises(SystemExit, match=r"train_mnist: .* contains neither train-images-idx3-ubyte .*: give the folder"):
        script.main(script.Options(data=tmp_path))

"""The example runs with tiny networks; its two measures of a digit are what they say."""

import json

import numpy as np
import pytest
import torch

from cogen.models import GeneratorConfig, save_generator
from cogen.models.networks.architectures import DenseEncoder, DenseGenerator
from cogen.models.storage.encoders import EncoderConfig, save_encoder


def test_the_example_runs(script, tmp_path, capsys):
    shape = (1, 8, 8)
    arguments = {"latent_dim": 3, "event_shape": shape, "hidden": (4,)}
    config = GeneratorConfig("DenseGenerator", arguments, 3, shape, (-1, 1), 0.1)
    save_generator(tmp_path / "digits", DenseGenerator(**arguments), config)
    save_encoder(
        tmp_path / "digits-encoder", DenseEncoder(**arguments), EncoderConfig("DenseEncoder", arguments, 3, shape, (-1.0, 1.0))
    )
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 255, (60, 8, 8), dtype=np.uint8))
    options = script.Options(
        generator=tmp_path / "digits", data=str(tmp_path / "images.npy"), shown=2, count=5, output=tmp_path / "out" / "moved"
    )
    rows = script.main(options)
    assert len(rows) == 2 * (len(options.amounts) + 1)
    assert "slant" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "moved.json").read_text())["rows"] == rows
    assert (tmp_path / "out" / "moved.png").exists()


def test_a_missing_encoder_is_said(script, tmp_path):
    with pytest.raises(SystemExit, match="latent_arithmetic: no generator called"):
        script.main(script.Options(generator=tmp_path / "none"))


def test_weight_and_slant(script):
    x = torch.full((2, 1, 20, 20), -1.0)
    x[0, 0, 5:15, 10] = 1.0  # upright
    for row in range(5, 15):
        x[1, 0, row, 25 - row - 1] = 1.0  # one column to the left a row
    torch.testing.assert_close(script.weight(x), torch.full((2,), 10 / 400))
    torch.testing.assert_close(script.slant(x), torch.tensor([0.0, -1.0]), atol=0.01, rtol=0)

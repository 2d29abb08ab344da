"""The five-Gaussian example runs end to end with tiny arguments; its quadrature is right where the answer is known."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn


def test_quadrature_of_a_linear_generator(script):
    """x = M z: x2 ~ N(0, m^2 + s^2), and x1 given x2 = 0 is normal with a known standard deviation."""
    generator = nn.Linear(2, 2, bias=False)
    generator.weight.data = torch.tensor([[0.5, 0.3], [-0.2, 2.0]])
    covariance = (generator.weight @ generator.weight.T).detach().double().numpy() + np.diag([0.0, 0.01**2])
    sd = math.sqrt(covariance[0, 0] - covariance[0, 1] ** 2 / covariance[1, 1])
    left = 0.5 * math.erfc(0.5 / sd / math.sqrt(2))

    log_evidence, shares = script.quadrature(generator, scale=0.01, resolution=1.0)
    assert log_evidence == pytest.approx(-0.5 * math.log(2 * math.pi * covariance[1, 1]), abs=1e-4)
    assert shares == pytest.approx([left, 1 - 2 * left, left], abs=2e-3)


def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        iterations=(3,),
        batch=8,
        scale=0.2,
        chains=64,
        temperatures=20,
        leapfrog=2,
        starts=8,
        descent_steps=10,
        resolution=2.0,
        output=tmp_path / "toy",
    )
    record = script.main(options)
    assert "worst difference" in capsys.readouterr().out
    assert json.loads((tmp_path / "toy.json").read_text())["iterations"].keys() == {"3"}
    with Image.open(tmp_path / "toy.png") as picture:
        assert picture.size[0] > 100
    row = record["iterations"][3]
    assert 0 <= row["descent_arrived"] <= 1
    assert sum(row["shares"].values()) == pytest.approx(1)
    # 64 chains on an untrained, smooth generator: a standard error of about 0.1.
    assert row["evidence_difference"] < max(0.5, 4 * row["log_evidence_standard_error"])

"""The grid of 25 Gaussians runs end to end with tiny arguments, and counts the data themselves as it should."""

import json

import pytest
import torch
from PIL import Image

from cogen.diagnostics.sample_quality import mode_coverage


def test_the_data_reach_every_mode(script):
    torch.manual_seed(0)
    coverage = mode_coverage(script.sample_data(20_000), script.CENTRES, script.SD)
    assert coverage.captured == 25
    assert coverage.high_quality == pytest.approx(0.9889, abs=0.003)  # 1 - exp(-9 / 2)


def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        seeds=(0, 1),
        steps=3,
        batch=8,
        hidden=(8, 8),
        critic_hidden=(8, 8),
        points=64,
        samples=100,
        progress=False,
        output=tmp_path / "grid",
    )
    record = script.main(options)
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("aim:0.003  "))
    assert line.split()[4] == "25"  # the paper's modes, behind two seeds and their mean
    assert line.split()[-1] == "81.1"
    assert any(line.startswith("the data: 25 modes, 98.9 %") for line in lines)
    written = json.loads((tmp_path / "grid.json").read_text())
    assert written["families"].keys() == set(options.families)
    assert written["options"]["output"] == "grid"
    assert all(0 <= row["high_quality"] <= 1 for rows in record["families"].values() for row in rows.values())
    for name in ("grid.png", "grid-inference.png"):
        with Image.open(tmp_path / name) as picture:
            assert picture.size[0] > 500

"""Score matching in the plane runs end to end with tiny arguments, and judges the truth itself as it should."""

import json

import pytest
import torch
from PIL import Image


def test_the_truth_has_no_divergence_from_itself(script):
    """And its log Z on the grid is that of what was added to it."""
    options = script.Options()
    for truth in script.MIXTURES.values():

        def energy(x, truth=truth):
            return truth.log_density(x) + 0.5 * (x / options.reference_scale).square().sum(1) + 3.0

        numbers, value = script.judge(energy, truth, options)
        assert numbers["kl"] == pytest.approx(0.0, abs=1e-3)
        assert script.log_z(value) == pytest.approx(3.0, abs=1e-3)
    assert numbers["left"] == pytest.approx(0.7, abs=1e-3)  # of the last
    torch.manual_seed(0)
    assert (truth.sample(10_000)[:, 0] < 0).float().mean().item() == pytest.approx(0.7, abs=0.02)


def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        mixtures=("ring", "apart"),
        methods=("sliced",),
        seeds=(0, 1),
        steps=3,
        batch=8,
        hidden=(4,),
        points=64,
        temperatures=4,
        chains=16,
        output=tmp_path / "plane",
    )
    record = script.main(options)
    assert [(row["mixture"], row["method"]) for row in record["rows"]] == [
        ("ring", "sliced"),
        ("apart", "sliced"),
        ("apart", "noise-conditional"),
    ]
    assert [len(row["left"]) for row in record["rows"]] == [2, 2, 2]
    assert len(record["rows"][0]["log_z_error"]) == 1
    assert json.loads((tmp_path / "plane.json").read_text())["rows"] == record["rows"]
    assert "noise-conditional" in capsys.readouterr().out
    with Image.open(tmp_path / "plane.png") as picture:
        assert picture.size[0] > 300


def test_a_method_that_is_not_known(script):
    with pytest.raises(SystemExit, match="--methods exact: known are explicit, sliced, denoising"):
        script.main(script.Options(methods=("exact",)))

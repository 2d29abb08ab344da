"""The remedies for a wrong generator, end to end with tiny arguments, and latents of a hidden layer by hand."""

import json

import numpy as np
import pytest
import torch


@pytest.mark.slow
def test_the_example_runs(script, data, tmp_path, capsys):
    options = script.Options(
        images=data,
        views=("half",),
        stack_views=("thumbnail",),
        noise_widths=(0.5,),
        hidden=("mnist:layers.0",),
        hidden_scales=(0.3,),
        stack=("mnist", "mnist_vae"),
        held_out=4,
        test=3,
        chains=4,
        warmup=4,
        leapfrog=2,
        output=tmp_path / "out" / "wrong",
    )
    rows = script.main(options)
    assert "hidden  mnist:layers.0" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "wrong.json").read_text())["rows"] == rows
    assert {row["items"] for row in rows if row["images"] == "held-out"} == {4}
    for part, settings in (("noise", ["as it is", "0.5"]), ("hidden", ["as it is", "0.3"])):
        found = [row for row in rows if row["part"] == part]
        assert [row["setting"] for row in found] == settings * 2
        assert all(0 < row["crps"] < 2 for row in found)
    stacks = [row for row in rows if "weights" in row]
    assert [row["model"] for row in stacks] == ["stack of generators", "stack of all"] * 2
    assert stacks[0]["weights"] == stacks[2]["weights"]  # chosen once, on held-out images
    assert all(sum(row["weights"].values()) == pytest.approx(1) for row in stacks)
    alone = [row["crps"] for row in rows if row["setting"] == "alone" and row["images"] == "held-out"]
    assert stacks[1]["crps"] <= min(alone) + 1e-9


def test_the_hidden_layer_is_moved_by_its_latents(script):
    generator = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 4))
    wider = script.HiddenLatents(generator, "0", 0.5, 2, seed=0)
    z, e = torch.randn(5, 2), torch.randn(5, 3)
    with torch.no_grad():
        moved = wider(torch.cat([z, e], 1))
        np.testing.assert_allclose(moved, generator[1](generator[0](z) + wider.scale * e), rtol=1e-6)
        np.testing.assert_array_equal(generator(z), generator[1](generator[0](z)))  # it is as it was
        spread = generator[0](torch.randn(100_000, 2)).std(0).mean()
    assert wider.width == 3
    assert wider.scale == pytest.approx(0.5 * float(spread), rel=0.1)


def test_an_unknown_part_is_named(script, data):
    with pytest.raises(SystemExit, match="--parts nois: choose from noise, hidden, stack"):
        script.main(script.Options(images=data, parts=("nois",)))

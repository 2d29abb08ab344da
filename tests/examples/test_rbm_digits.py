"""The machines of digits run end to end with tiny arguments, and what they are is kept."""

import json

import pytest
from PIL import Image

from cogen.models import load_energy


def test_the_example_runs(script, data, tmp_path, capsys):
    options = script.Options(
        data=data,
        output=tmp_path / "out" / "rbm",
        weights=tmp_path / "kept",
        learning=("PCD",),
        hidden=4,
        steps=12,
        batch=8,
        held_out=32,
        temperatures=20,
        chains=4,
        count=4,
        sweeps=4,
        completions=8,
    )
    record = script.main(options)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:1] == ["PCD"] for line in lines)
    assert any("CD-25 -86" in line for line in lines)
    written = json.loads((tmp_path / "out" / "rbm.json").read_text())
    assert [row["learning"] for row in written["machines"]] == ["PCD"]
    assert [row["method"] for row in written["completions"]][1:] == ["nearest training digits", "base rates"]
    assert record["completions"][0]["crps"] < record["completions"][2]["crps"]  # bright squares above or below
    pcd = load_energy(tmp_path / "kept-pcd")
    assert pcd.config.figures["log_z"] == pytest.approx(pcd.log_partition(), abs=1.0)
    assert pcd.config.figures["log_z"] == written["machines"][0]["log_z"]
    with Image.open(tmp_path / "out" / "rbm.png") as picture:
        assert picture.size == (840, 630)


def test_a_wrong_folder_is_one_line(script, tmp_path):
    with pytest.raises(SystemExit, match=r"rbm_digits: .* contains neither train-images-idx3-ubyte .*: give the folder"):
        script.main(script.Options(data=tmp_path))

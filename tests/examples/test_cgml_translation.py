"""The example runs on tiny pairs and on drawings that it makes."""

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY = {"minutes": 1e-4, "width": 2, "latent_dim": 3, "batch": 4, "draws": 4, "average": 0.0, "count": 2, "size": 32}


@pytest.mark.parametrize("task", ["labels", "sketch", "edges"])
def test_the_example_runs(script, tmp_path, capsys, task):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 64 if task == "labels" else 32, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    options = script.Options(task=task, data=str(tmp_path / "x.npy"), pictures=2, output=tmp_path / "out", **TINY)
    record = script.main(options)
    assert [line["row"] for line in record["table"]] == ["predicted", "without rho", "random", "oracle", "draws", "draws"]
    assert record["table"][1]["diversity"] >= 0
    assert "pix2pix, draws" in capsys.readouterr().out
    assert (tmp_path / "out.png").exists()


def test_bad_input_is_one_line(script, tmp_path):
    with pytest.raises(SystemExit, match=r"cgml_translation: .*nowhere"):
        script.main(script.Options(data=str(tmp_path / "nowhere")))

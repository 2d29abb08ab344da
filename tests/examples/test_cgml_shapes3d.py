"""The example runs on few solids in both bases and on a folder of meshes; average precision is what it says."""

import json

import numpy as np
import pytest
import torch
import trimesh

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY = {"minutes": 1e-4, "width": 2, "latent_dim": 3, "batch": 4, "draws": 4, "average": 0.0, "pictures": 2, "points": 64}


@pytest.mark.parametrize("basis", ["harmonics", "zernike"])
def test_the_example_runs(script, tmp_path, capsys, basis):
    options = script.Options(basis=basis, count=4, size=16, output=tmp_path / "out", **TINY)
    record = script.main(options)
    assert [line["row"] for line in record["table"]] == ["predicted", "without rho", "random", "oracle", "draws"]
    assert record["known"]["true"]["error"] == 0
    assert record["known"]["corrupted"]["error"] > 0.1
    assert set(record["classified"]) == {"coefficients", "not trained", "cgml", "l1"}
    stored = json.loads((tmp_path / "out.json").read_text())
    assert stored["classified"] == record["classified"]
    assert (tmp_path / "out.png").exists()
    assert "classified by the features of not trained" in capsys.readouterr().out


def test_a_folder_of_meshes(script, tmp_path):
    for name, make in (("ball", trimesh.creation.icosphere), ("block", trimesh.creation.box)):
        for part, count in (("train", 4), ("test", 2)):
            (tmp_path / name / part).mkdir(parents=True)
            for k in range(count):
                make().export(tmp_path / name / part / f"{k}.off")
    options = script.Options(folder=tmp_path, size=16, families=("l1",), output=tmp_path / "out", **TINY)
    assert script.main(options)["classes"] == ["ball", "block"]
    with pytest.raises(SystemExit, match="cgml_shapes3d: no folder at"):
        script.main(script.Options(folder=tmp_path / "nowhere", **TINY))


def test_average_precision(script):
    """Two of its own class at the places one and three of four: (1 / 1 + 2 / 3) / 2."""
    library = np.array([[0.0], [1.0], [2.0], [3.0]])
    found = script.average_precision(np.array([[-1.0], [9.0]]), library, np.array([0, 0]), np.array([0, 1, 0, 1]))
    np.testing.assert_allclose(found, [(1 + 2 / 3) / 2, (1 / 2 + 2 / 4) / 2])


def test_what_is_corrupted(script):
    torch.manual_seed(0)
    x = torch.rand(50, 1, 32, 32)
    same, condition = script.Corrupted(0.4, 0.5)(x)
    assert torch.equal(same, x)
    hidden = condition[:, 1:] < 0
    assert (hidden.flatten(1).sum(1) == 16 * 16).all()
    assert (condition[:, :1][hidden] == 0).all()
    noise = (condition[:, :1] - x)[~hidden & (x > 0.4) & (x < 0.6)]
    assert noise.std() == pytest.approx(0.1, rel=0.05)

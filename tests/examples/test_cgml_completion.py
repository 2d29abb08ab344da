"""The example runs on tiny images, and hides squares of the shares that it says."""

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY = {"minutes": 1e-4, "width": 2, "latent_dim": 3, "batch": 4, "draws": 4, "average": 0.0, "first": 0, "count": 3}


def test_the_example_runs(script, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8))
    options = script.Options(
        data=str(tmp_path / "x.npy"),
        pictures=2,
        families=("cgml", "context-encoder"),
        output=tmp_path / "o",
        **TINY,
    )
    record = script.main(options)
    rows = [line["row"] for line in record["table"] if line["family"] == "cgml"]
    assert rows[:4] == ["predicted, 10 %", "predicted, 15 %", "predicted, 25 %", "without rho, 10 %"]
    assert len(rows) == 12
    assert {line["items"] for line in record["table"]} == {3}
    assert "context-encoder, draws, 25 %" in capsys.readouterr().out
    assert (tmp_path / "o.png").exists()
    with pytest.raises(SystemExit, match="cgml_completion: --first 99: there are 6 test images"):
        script.main(script.Options(data=str(tmp_path / "x.npy"), **{**TINY, "first": 99}))


def test_classes_are_read_off_the_features(script, tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", random.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8))
    labels = np.arange(60) % 2
    x = (random.integers(0, 20, (60, 32, 32, 3)) + 200 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "y.npz", train_images=x[:40], test_images=x[40:], train_labels=labels[:40], test_labels=labels[40:])
    common = {"data": str(tmp_path / "x.npy"), "families": ("l1",), "output": tmp_path / "o", "pictures": 2, **TINY}
    record = script.main(script.Options(features=str(tmp_path / "y.npz"), **common))
    assert list(record["classified"]) == ["pixels", "not trained", "l1"]
    assert min(record["classified"].values()) > 0.9
    with pytest.raises(SystemExit, match=r"--features .*x.npy: give labelled images of shape \(3, 32, 32\)"):
        script.main(script.Options(features=str(tmp_path / "x.npy"), **common))


def test_squares_have_their_share(script):
    torch.manual_seed(0)
    x = torch.zeros(300, 3, 32, 32)
    for share in (0.1, 0.25):
        hidden = script.squares(x, torch.full((300,), share))
        assert hidden.shape == (300, 1, 32, 32)
        found = hidden.float().mean((1, 2, 3))
        assert (found - share).abs().max() < 0.02
        rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
        assert torch.equal(rows.sum(1), columns.sum(1))
        assert rows.any(0).all()
        assert columns.any(0).all()

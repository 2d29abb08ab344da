"""The example runs on tiny images; Lab and back, the divergence from uniform colours, and the overlap of histograms."""

import math

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TINY = {"minutes": 1e-4, "width": 2, "latent_dim": 3, "batch": 4, "draws": 4, "average": 0.0, "first": 0, "count": 3}


def test_the_example_runs(script, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), dtype=np.uint8))
    record = script.main(script.Options(data=str(tmp_path / "x.npy"), pictures=2, output=tmp_path / "out", **TINY))
    assert [line["row"] for line in record["table"]] == ["predicted", "without rho", "random", "oracle", "draws", "draws"]
    assert 0 < record["table"][0]["overlap_a"] < 1
    assert record["table"][0]["rgb"] > 5
    assert "overlap_b" in capsys.readouterr().out
    assert (tmp_path / "out.png").exists()
    np.save(tmp_path / "gray.npy", np.zeros((60, 32, 32), np.uint8))
    with pytest.raises(SystemExit, match=r"cgml_colour: .*gray.npy has 1 channels: colours need images with three channels"):
        script.main(script.Options(data=str(tmp_path / "gray.npy"), **TINY))


def test_a_class_is_left_out(script, tmp_path, capsys):
    random = np.random.default_rng(0)
    x = random.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
    parts = {"train_images": x[:40], "test_images": x[40:], "train_labels": np.arange(40) % 2, "test_labels": np.arange(20) % 2}
    np.savez(tmp_path / "x.npz", **parts)
    common = {"data": str(tmp_path / "x.npz"), "families": ("cgml",), "output": tmp_path / "out", **{**TINY, "count": 5}}
    options = script.Options(without=1, pictures=2, **common)
    task = script.task_of(options)
    assert len(task.train[0]) == 20
    assert len(script.task_of(script.Options(without=1, and_with_it=True, **common)).train[0]) == 40
    true = script.rgb(task.x, task.condition)[:2].permute(0, 2, 3, 1)  # of class 1: the second and the fourth
    assert (true - torch.from_numpy(x[[41, 43]] / 127.5 - 1).float()).abs().max() < 0.01
    record = script.main(options)
    assert [(row["group"], row["items"]) for row in record["uncertainty"]] == [("left out", 2), ("others", 3)]
    assert all(row["sd"] > 0 and row["error"] > 0 for row in record["uncertainty"])
    assert (tmp_path / "out-uncertainty.png").exists()
    assert "left out: sd" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="cgml_colour: --without 7: no test image has this class"):
        script.main(script.Options(without=7, **common))


def test_there_and_back(script):
    images = 2 * torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) - 1
    lightness, colours = script.lab(images)
    assert lightness.shape == (2, 1, 8, 8)
    assert colours.abs().max() < 1
    torch.testing.assert_close(script.rgb(colours, lightness), images, atol=1e-4, rtol=0)


def test_the_divergence_from_uniform_colours(script):
    gray = torch.zeros(1, 2, 40, 40)
    even = torch.linspace(-1, 1, 1_600).reshape(1, 1, 40, 40).expand(1, 2, 40, 40)
    assert script.from_uniform(even).max() < 0.05
    assert script.from_uniform(gray).min() > 0.8 * math.log(script.BINS) - math.log(2)
    leaf = gray.clone().requires_grad_()
    torch.manual_seed(0)
    script.from_uniform(leaf + 0.01 * torch.randn_like(leaf)).sum().backward()
    assert leaf.grad.abs().sum() > 0
    plain, colourful = script.Colourful(0.0), script.Colourful(1.0)
    assert float(colourful(gray, gray)) == pytest.approx(float(script.from_uniform(gray).sum()))
    assert float(plain(gray, even)) == pytest.approx(1.0, abs=0.01)


def test_the_overlap_of_histograms(script):
    values = np.random.default_rng(0).uniform(-1, 0, 10_000)
    assert script.overlap(values, values) == 1
    assert script.overlap(values, -values) < 0.02
    assert script.overlap(values, np.concatenate([values, -values])) == pytest.approx(1 / 3, abs=0.02)

"""The example runs with tiny budgets, and what it counts is what it says."""

import json
import math

import pytest
import torch

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def test_the_example_runs(script, tmp_path, capsys):
    options = script.Options(
        turning=(0.4,),
        gradient=(0.1,),
        seeds=(0, 1),
        steps=9,
        batch=8,
        starts=4,
        temperatures=(2,),
        chains=8,
        runs=1,
        widen=(3.0,),
        weights=(0.0, 1.0),
        output=tmp_path / "out",
    )
    record = script.main(options)
    assert [(row["moves"], row["seed"]) for row in record["branches"]] == [
        ("turning", 0),
        ("turning", 1),
        ("gradient", 0),
        ("gradient", 1),
    ]
    assert len(record["baselines"]) == 4
    assert len(record["uncertainty"]) == 2
    assert [row["start"] for row in record["modes"]["rows"]] == ["prior", "end points, kernels x 3"]
    assert [row["weight"] for row in record["remark"]] == [0.0, 1.0]
    assert json.loads((tmp_path / "out.json").read_text()) == record
    for name in ("branches", "uncertainty", "remark"):
        assert (tmp_path / f"out-{name}.png").exists()
    assert "share of the branch +, plus_of_mixture" in capsys.readouterr().out


def test_what_is_counted(script):
    y = script.branch(torch.tensor([[0.5], [0.5], [0.5], [1.0]]))
    made = torch.stack([y[0], -y[1], 0 * y[2], y[3] / 2])
    found = script.counted(made, y)
    assert found["plus"] == 0.5  # the third is as far from both
    assert found["off"] == 0.5
    assert found["phantom"] == 0.25
    away = (float(y[2].norm()) + float(y[3].norm()) / 2) / 4 / script.RANGE
    assert found["distance"] == pytest.approx(away)


def test_quadrature_on_the_circle(script):
    """y1 = 4 x on the upper half of the circle and -4 x on the lower: two halves, and a known evidence."""

    def generator(z, x):
        return torch.where(z[:, 1:] > 0, 1.0, -1.0) * script.branch(x)

    x = torch.tensor([[0.5]])
    evidence, share, mixture = script.on_the_circle(generator, x, 0.1)
    assert float(evidence) == pytest.approx(-math.log(0.1 * math.sqrt(2 * math.pi)), abs=1e-6)
    assert float(share) == pytest.approx(0.5, abs=1e-3)
    assert float(mixture) == pytest.approx(0.5, abs=1e-3)


def test_a_rank_correlation_beyond_a_third(script):
    torch.manual_seed(0)
    size, noise = torch.randn(2_000), torch.randn(2_000)
    assert abs(script.partial(size + 0.1 * torch.randn(2_000), size + 0.1 * torch.randn(2_000), size)) < 0.1
    assert script.partial(size + noise, size + noise + 0.1 * torch.randn(2_000), size) > 0.9

"""The image experiment, end to end with tiny arguments."""

import json


def test_it_compares_all_methods_at_the_same_cost(script, tmp_path, capsys):
    options = script.Options(
        generators=("mnist_vae",),
        views=("half",),
        count=2,
        chains=8,
        warmup=4,
        samples=1,
        leapfrog=2,
        starts=3,
        output=tmp_path / "result",
    )
    rows = script.main(options)["rows"]
    assert "annealed HMC" in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == rows
    assert (tmp_path / "result.png").stat().st_size > 0
    assert [row["method"] for row in rows] == [
        "descent, 5 steps",
        "descent, one start",
        "descent, best of 8",
        "descent, all 8",
        "descent, best of 3",
        "annealed HMC",
    ]
    costs = {row["method"]: row["gradient_evaluations"] for row in rows}
    assert costs["descent, one start"] == costs["descent, all 8"] == costs["annealed HMC"] == 8 * 5 * 2
    assert all(0 < row["hidden_crps"] < 2 for row in rows)

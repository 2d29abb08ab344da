"""The image experiment, end to end with tiny arguments."""

import json

import numpy as np
import pytest


def test_it_compares_all_methods_at_the_same_cost(script, tmp_path, capsys):
    options = script.Options(
        generators=("mnist_vae",),
        views=("half",),
        count=2,
        chains=16,
        warmup=20,
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
        "descent, 21 steps",
        "descent, one start",
        "descent, best of 16",
        "descent, all 16",
        "descent, best of 3",
        "annealed HMC",
    ]
    costs = {row["method"]: row["gradient_evaluations"] for row in rows}
    assert costs["descent, one start"] == costs["descent, all 16"] == costs["annealed HMC"] == 16 * 21 * 2
    assert all(0 < row["hidden_crps"] < 2 for row in rows)
    assert {row["images_compared"] for row in rows} == {2}
    *others, annealed = rows
    assert (annealed["crps_difference"], annealed["crps_difference_se"]) == (0, 0)
    for row in others:
        assert row["crps_difference"] == pytest.approx(row["hidden_crps"] - annealed["hidden_crps"])
        assert row["crps_difference_se"] > 0


def test_a_point_is_scored_as_one_and_draws_as_a_sample(script):
    """The same two draws as the whole answer and as a sample of it: the first pairs a draw with itself, the second does not."""
    generator = script.load_generator("mnist_vae")
    model = script.CoGenerator(generator, views={"seen": script.view_of("half", (1, 28, 28), 0.5)})
    images = script.shipped_images("mnist")[0][:1]
    seen = model.condition(seen=images)
    z = np.random.default_rng(0).standard_normal((2, 1, 1, generator.config.latent_dim)).astype(np.float32)
    whole, sample = (
        script.judge(model, seen, images, 0.5, script.Answer(z, 1, is_sample=is_sample)) for is_sample in (False, True)
    )
    x = model.decode(z.reshape(2, -1))[:, :, 14:]
    apart = np.abs(x[0] - x[1]).mean() / 2  # E|X - X'| / 2 of independent draws, half of it with the pairs of one draw
    assert float(whole["crps"][0] - sample["crps"][0]) == pytest.approx(apart / 2, rel=1e-5)
    assert float(whole["seen_error"][0]) == float(sample["seen_error"][0]) > 0

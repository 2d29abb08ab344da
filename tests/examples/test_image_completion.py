"""The image experiment, end to end with tiny arguments."""

import json

import numpy as np
import pytest
import torch

from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.storage.generators import GeneratorConfig, save_generator


def test_it_compares_all_methods_on_the_same_images(script, tmp_path, capsys):
    options = script.Options(
        generators=("mnist_vae",),
        views=("half",),
        count=2,
        chains=16,
        warmup=20,
        samples=1,
        leapfrog=2,
        steps=(10, 42),
        points=True,
        starts=3,
        output=tmp_path / "result",
    )
    rows = script.main(options)["rows"]
    assert "annealed HMC" in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == rows
    assert (tmp_path / "result.png").stat().st_size > 0
    assert [row["method"] for row in rows] == [
        "annealed HMC",
        "descent, all 16, 10 steps",
        "descent, all 16, 42 steps",
        "descent, best of 16",
        "descent, 21 steps",
        "descent, 672 steps",
        "descent, best of 3",
        "draws of the prior",
    ]
    costs = {row["method"]: row["gradient_evaluations"] for row in rows}
    assert costs["descent, 672 steps"] == costs["descent, all 16, 42 steps"] == costs["annealed HMC"] == 16 * 21 * 2
    assert all(0 < row["hidden_crps"] < 2 for row in rows)
    assert {row["images_compared"] for row in rows} == {2}
    annealed, *others = rows
    assert (annealed["crps_difference"], annealed["crps_difference_se"]) == (0, 0)
    for row in others:
        assert row["crps_difference"] == pytest.approx(row["hidden_crps"] - annealed["hidden_crps"])
        assert row["crps_difference_se"] > 0


def test_the_nearest_images_are_the_nearest_by_what_is_seen(script):
    images = script.shipped_images("mnist")[0]
    view = script.view_of("left", (1, 28, 28), 0.5)
    found = script.nearest(view, images[:2], images, 3)
    assert found.shape == (3, 2, 1, 28, 28)
    assert (found[0] == images[:2]).all()
    other = images.copy()
    other[:, :, :, 14:] = 0  # what is hidden does not count
    assert (script.nearest(view, other[:2], images, 3) == found).all()
    distance = ((images[0] - images)[:, 0, :, :14] ** 2).sum((1, 2))
    assert (found[:, 0] == images[np.argsort(distance)[:3]]).all()


def test_exponents_and_neighbours_on_held_out_images(script, tmp_path):
    """A generator with a learned noise, by each exponent; the images that training held out, and others near them."""
    torch.manual_seed(0)
    arguments = {"latent_dim": 2, "event_shape": (1, 28, 28), "hidden": (8,), "bounded": False}
    flow = {"architecture": "DenseGenerator", "arguments": arguments, "noise": True}
    config = GeneratorConfig("LatentFlowGenerator", flow, 2, (1, 28, 28), (-1.0, 1.0), 0.5)
    save_generator(tmp_path / "small", LatentFlowGenerator(**flow), config)
    random = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 4)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", random.integers(256, size=(count, 28, 28)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", random.integers(10, size=count))
    options = script.Options(
        generators=(str(tmp_path / "small"),),
        views=("left", "thumbnail"),
        images=tmp_path,
        part="held-out",
        count=4,
        chains=8,
        warmup=10,
        samples=1,
        leapfrog=2,
        exponents=(1.0, 0.1),
        neighbours=(2, 3),
        output=tmp_path / "result",
    )
    rows = script.main(options)["rows"]
    methods = [row["method"] for row in rows if row["view"] == "left"]
    rest = ["descent, all 8, 22 steps", "2 nearest images", "3 nearest images", "draws of the prior"]
    assert methods == ["annealed HMC", "annealed HMC, exponent 0.1", *rest]
    assert [row["method"] for row in rows if row["view"] == "thumbnail"] == ["annealed HMC", *rest]
    assert all(np.isfinite(row["hidden_crps"]) for row in rows)
    generator = script.load_generator(options.generators[0])
    for view in options.views:  # a generator of one's own making is simulated with its own noise
        images, shown = script.simulated(options, generator, view)
        assert (images.shape, len(shown)) == ((4, 1, 28, 28), 4)
        assert np.array_equal(images, shown) == (view == "left")
    options.part, options.exponents, options.neighbours = "simulated", (1.0,), ()
    assert len(script.main(options)["rows"]) == 6


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def test_a_point_is_scored_as_one_and_draws_as_a_sample(script):
    """The same two draws as the whole answer and as a sample of it: the first pairs a draw with itself, the second does not."""
    generator = script.load_generator("mnist_vae")
    model = script.CoGenerator(generator, views={"seen": script.view_of("half", (1, 28, 28), 0.5)})
    images = script.shipped_images("mnist")[0][:1]
    seen = model.condition(seen=images)
    z = np.random.default_rng(0).standard_normal((2, generator.config.latent_dim)).astype(np.float32)
    x = model.decode(z)[:, None, None]
    whole, sample = (script.judge(seen, images, script.Answer(x, 1, is_sample, 0.5)) for is_sample in (False, True))
    below = x[:, 0, 0, :, 14:]
    apart = np.abs(below[0] - below[1]).mean() / 2  # E|X - X'| / 2 of independent draws, half of it with the pairs of one draw
    assert float(whole["crps"][0] - sample["crps"][0]) == pytest.approx(apart / 2, rel=1e-5)
    assert float(whole["seen_error"][0]) == float(sample["seen_error"][0]) > 0

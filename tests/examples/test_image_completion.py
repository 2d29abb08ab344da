"""The image experiment, end to end with tiny arguments."""

import json
import sys

import numpy as np
import pytest
import torch
from scipy import stats

from cogen.models.families.glf import LatentFlowGenerator
from cogen.models.storage.generators import GeneratorConfig, save_generator


@pytest.fixture
def methods(script):
    """The module of the methods."""
    return sys.modules["completion_methods"]


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


def test_the_nearest_images_are_the_nearest_by_what_is_seen(script, methods):
    images = script.shipped_images("mnist")[0]
    view = script.view_of("left", (1, 28, 28), 0.5)
    found, distance = methods.nearest(view, images[:2], images, 3)
    assert found.shape == distance.shape == (2, 3)
    assert found[:, 0].tolist() == [0, 1]
    other = images.copy()
    other[:, :, :, 14:] = 0  # what is hidden does not count
    assert (methods.nearest(view, other[:2], images, 3)[0] == found).all()
    square = ((images[0] - images)[:, 0, :, :14] ** 2).mean((1, 2))
    assert (found[0] == np.argsort(square)[:3]).all()
    np.testing.assert_allclose(distance[0], np.sort(square)[:3], atol=1e-5)


@pytest.fixture
def small(tmp_path):
    """A generator with a learned noise, and images to look for neighbours in."""
    torch.manual_seed(0)
    arguments = {"latent_dim": 2, "event_shape": (1, 28, 28), "hidden": (8,), "bounded": False}
    flow = {"architecture": "DenseGenerator", "arguments": arguments, "couplings": 2, "hidden": (4,), "noise": True}
    config = GeneratorConfig("LatentFlowGenerator", flow, 2, (1, 28, 28), (-1.0, 1.0), 0.5)
    save_generator(tmp_path / "small", LatentFlowGenerator(**flow), config)
    random = np.random.default_rng(0)
    for name, count in (("train", 40), ("t10k", 4)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", random.integers(256, size=(count, 28, 28)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", random.integers(10, size=count))
    return tmp_path / "small"


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.mark.slow
def test_exponents_and_neighbours_on_held_out_images(script, small, tmp_path):
    """By each exponent; the images that training held out, and others near them."""
    options = script.Options(
        generators=(str(small),),
        views=("left", "thumbnail"),
        images=tmp_path,
        part="held-out",
        count=4,
        chains=8,
        warmup=10,
        samples=1,
        leapfrog=2,
        independent=True,
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


@pytest.mark.slow
def test_other_inference_on_simulated_images(script, methods, small, tmp_path, monkeypatch):
    """Rows of as many gradients, and a row of fewer images."""
    monkeypatch.setattr(methods, "STARTS_AT_ONCE", 2)
    options = script.Options(
        generators=(str(small),),
        views=("left",),
        part="simulated",
        methods=("annealed", "map", "randomised-map", "svi", "langevin", "nuts"),
        count=3,
        chains=4,
        warmup=15,
        samples=1,
        leapfrog=2,
        independent=True,
        starts=4,
        starts_steps=3,
        starts_count=2,
        starts_views=("left",),
        output=tmp_path / "result",
    )
    rows = script.main(options)["rows"]
    left = {row["method"]: row for row in rows}
    equal = ["annealed HMC", "MAP, all 4, 32 steps", "randomised MAP, all 4", "SVI, mean field", "Langevin (MALA)"]
    assert list(left) == [*equal[:3], "descent, best of 4", *equal[3:], "NUTS"]
    assert {left[method]["gradient_evaluations"] for method in equal} == {4 * 16 * 2}
    assert left["descent, best of 4"]["gradient_evaluations"] == 4 * 3
    assert 0 < left["NUTS"]["gradient_evaluations"] <= 4 * (16 * 2 + 2)
    assert {method: row["images_compared"] for method, row in left.items() if row["images_compared"] < 3} == {
        "descent, best of 4": 2
    }
    assert all(row["log_score"] is not None for row in left.values())
    assert len(rows) == len(left)


@pytest.mark.slow
def test_a_guide_beside_the_generator_and_what_was_tuned(script, methods, small, tmp_path, monkeypatch):
    from cogen.models.storage.encoders import ENCODERS, EncoderConfig, save_encoder
    from cogen.models.storage.tunings import Settings, save_tuning

    monkeypatch.setattr(methods, "GUIDE_DRAWS", 8)
    arguments = {"latent_dim": 2, "event_shape": (1, 28, 28), "width": 8, "channels": 4, "blocks": 1, "hidden": (8,)}
    config = EncoderConfig("MaskedMixerFlow", arguments, 2, (1, 28, 28), (-1.0, 1.0))
    options = script.Options(
        generators=(str(small),), views=("left",), methods=("guided", "guide"), temperatures=(2, 3), count=3, chains=4
    )
    options.output = tmp_path / "result"
    with pytest.raises(SystemExit, match="--methods guided: the generator has no guide"):
        script.main(options)
    save_encoder(small.with_name("small-guide"), ENCODERS["MaskedMixerFlow"](**arguments), config)
    save_tuning(small, "half", Settings(True, 2, 3, (0.0, 0.1, 1.0), (0.1, 0.1)))
    rows = script.main(options)["rows"]
    annealed = ["annealed HMC from the guide", "annealed HMC from the guide, 3"]
    assert [row["method"] for row in rows] == [*annealed, "draws of the guide", "draws of the guide, by weights"]
    assert [row["gradient_evaluations"] for row in rows[:2]] == [4 * 3 * 3, 4 * 4 * 3]
    assert rows[0]["crps_difference"] == 0


def test_a_direct_model_and_a_tuned_kernel(script, methods, small, tmp_path):
    from arbitrary_conditioning import DirectModel, save_direct

    sizes = {"event_shape": [1, 28, 28], "latent_dim": 2, "channels": 4, "blocks": 1, "couplings": 2}
    save_direct(tmp_path / "direct", DirectModel(**sizes), sizes, {"seconds": 1.5})
    options = script.Options(
        generators=(str(small),),
        views=("left", "thumbnail"),
        methods=("annealed", "kernel"),
        images=tmp_path,
        direct=tmp_path / "direct",
        count=3,
        chains=4,
        warmup=4,
        samples=2,
        leapfrog=1,
        independent=True,
        output=tmp_path / "result",
    )
    rows = script.main(options)["rows"]
    for view in options.views:
        _, direct, kernel, draws = (row for row in rows if row["view"] == view)
        assert direct["method"] == "direct model for any mask"
        assert direct["chosen"] == {"training_seconds": 1.5}
        assert (direct["seen_error"] == 0) == (view == "left")  # it keeps the pixels that it is shown
        assert [row["method"] for row in (kernel, draws)] == ["nearest images by a kernel", "draws of images by a kernel"]
        assert all(row["chosen"]["k"] in methods.KERNEL_NEIGHBOURS and row["log_score"] is None for row in (kernel, draws))
        assert kernel["chosen"]["effective_number"] > 2 - 1e-6


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"methods": ("knn",)}, "--methods knn: choose from guided, annealed, "),
        ({"methods": ("kernel",)}, "--methods kernel: .* give --images"),
        ({"neighbours": (2,)}, "--neighbours: .* give --images"),
        ({"methods": ("neighbours",)}, "--methods neighbours: give --neighbours"),
        ({"methods": ("direct",)}, "--methods direct: give --direct"),
        ({"methods": ("best-of-starts",)}, "--methods best-of-starts: give --starts"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(script, given, reason):
    with pytest.raises(SystemExit, match=reason):
        script.main(script.Options(**given))


def test_kernel_weights_are_between_the_nearest_and_all_alike(methods):
    distance = np.array([[0.1, 0.2, 0.4]])
    np.testing.assert_allclose(methods.kernel_weights(distance, np.inf), np.full((1, 3), 1 / 3))
    np.testing.assert_allclose(methods.kernel_weights(distance, 1e-4), [[1, 0, 0]], atol=1e-6)
    weight = methods.kernel_weights(distance, 0.1)[0]
    assert weight[1] / weight[0] == pytest.approx(np.exp(-1))
    assert weight.sum() == pytest.approx(1)


def test_neighbours_are_drawn_by_their_weights(methods):
    weight = np.array([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]])
    drawn = methods.drawn_by(weight, 4_000, seed=0)
    shares = np.stack([(drawn == k).mean(axis=0) for k in range(3)], axis=1)
    np.testing.assert_allclose(shares, weight, atol=0.03)


def test_randomised_map_is_exact_for_a_linear_generator(methods):
    """There its draws have the posterior's mean and covariance (Oliver, He and Reynolds 1996)."""
    generator = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Unflatten(1, (1, 2, 2)))
    weight = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.2, 0.2], [1.5, -1.0]])
    generator[0].weight.data, generator[0].bias.data = weight, torch.zeros(4)
    mask = np.array([[[True, True], [True, False]]])
    model = methods.CoGenerator(generator, views={"seen": methods.views.Mask(mask, scale=0.5)}, latent_dim=2)
    y = np.array([0.7, -0.2, 0.4, 0.0], np.float32)
    seen = model.condition(seen=np.stack([y, -y]).reshape(2, 1, 2, 2))
    settings = methods.Settings(chains=800, warmup=39, samples=1, leapfrog=10)
    ((_, answer),) = methods.randomised_map(methods.Task(seen, settings))
    rows = weight[:3].numpy()
    covariance = np.linalg.inv(np.eye(2) + rows.T @ rows / 0.25)
    mean = covariance @ rows.T @ y[:3] / 0.25
    x = answer.x.reshape(800, 2, 4)
    shape = weight.numpy() @ covariance @ weight.numpy().T
    np.testing.assert_allclose(x.mean(0), np.stack([weight.numpy() @ mean, -weight.numpy() @ mean]), atol=0.12)
    np.testing.assert_allclose(np.cov(x[:, 0].T), shape, atol=0.15)


def test_the_log_score_is_that_of_the_mixture(script):
    x = np.array([0.0, 1.0]).reshape(2, 1, 1, 1, 1, 1) * np.ones((1, 1, 1, 1, 2, 2))
    truth = np.array([[[[0.2, 0.9], [9.0, 9.0]]]])
    hidden = np.array([[[[True, True], [False, False]]]])
    answer = script.Answer(x, noise=0.5, log_weight=np.log([[[0.25]], [[0.75]]]))
    density = 0.25 * stats.norm(0, 0.5).pdf([0.2, 0.9]) + 0.75 * stats.norm(1, 0.5).pdf([0.2, 0.9])
    assert script.log_score(answer, truth, hidden) == pytest.approx([np.log(density).mean()])
    assert np.isnan(script.log_score(answer._replace(noise=None), truth, hidden)).all()


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


def test_images_without_a_fair_score_leave_an_empty_row(script, small, tmp_path, capsys):
    """All chains of an item descend from one population: there is no pair of independent draws."""
    options = script.Options(
        generators=(str(small),), views=("left",), methods=("annealed",), count=2, chains=8, warmup=2, samples=1, leapfrog=1
    )
    options.output = tmp_path / "result"
    (row,) = script.main(options)["rows"]
    assert (row["images_compared"], row["hidden_crps"]) == (0, None)
    assert "compared over 0 of 2 images" in capsys.readouterr().out

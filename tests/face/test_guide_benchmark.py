"""The benchmark of guides: its folded generator is what it says, and a tiny run writes every part."""

import json

import numpy as np
import pytest
import torch

from cogen.command_line import main
from cogen.models import GeneratorConfig, save_generator, views
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage.tunings import Settings, save_tuning

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def guide(benchmark):
    return benchmark("guide")


def test_the_weight_of_the_small_mode_is_that_of_draws_of_the_prior(guide):
    generator = guide.Folded(4)
    z = np.random.default_rng(0).standard_normal((400_000, 4)).astype(np.float32)
    x = generator(torch.from_numpy(z)).numpy()[:, 0]
    likelihood = np.exp(-0.5 * ((generator.first - x) / 0.2) ** 2) / (0.2 * np.sqrt(2 * np.pi))
    weight, evidence = generator.known()
    assert weight < 0.2
    assert np.average(generator.in_small_mode(z), weights=likelihood) == pytest.approx(weight, abs=0.01)
    assert np.log(likelihood.mean()) == pytest.approx(evidence, abs=0.02)


def test_kinds_that_training_never_had_are_not_in_its_stock(guide):
    shape = (1, 28, 28)
    stock = views.assorted(shape, 500, seed=0).reshape(500, -1)
    for name, mask in guide.kinds(shape, 0).items():
        shared = (stock == mask.reshape(-1)).all(axis=1).any()
        assert shared == (name == "top half")  # random pixels are of a trained kind, and new


@pytest.mark.slow
def test_a_tiny_run_goes_through(guide, tmp_path):
    torch.manual_seed(0)
    arguments = {"latent_dim": 3, "event_shape": (1, 28, 28), "hidden": (8,)}
    config = GeneratorConfig("DenseGenerator", arguments, 3, (1, 28, 28), (-1.0, 1.0), 0.5)
    tiny = tmp_path / "tiny"
    save_generator(tiny, DenseGenerator(**arguments), config)
    main(["guide", "--generator", str(tiny), "--steps", "1", "--batch", "12", "--masks", "10"])
    save_tuning(tiny, "half", Settings(True, 2, 5, (0.0, 0.5, 1.0), (0.1, 0.2)))
    guide.main(guide.Options(generator=str(tiny), quick=True, output=tmp_path / "guide.json"))
    record = json.loads((tmp_path / "guide.json").read_text())
    assert [row["start"] for row in record["modes"]["rows"]] == ["guide alone", "prior", "guide", "guide"]
    assert [row["seen"] for row in record["masks"]["rows"]] == list(guide.kinds((1, 28, 28), 0))
    assert all(row["prior_nats"] == pytest.approx(4.0, abs=2.0) for row in record["masks"]["rows"])  # of three latents
    assert len(record["completions"]["rows"]) == 2 * 7
    assert all(row["crps_guide"] > 0 for row in record["completions"]["rows"])
    prior, short = record["evidence"]["rows"]
    assert prior["gradients"] == 5 * short["gradients"]
    assert record["cost"]["seconds_a_step"] > 0

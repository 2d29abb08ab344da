"""The example runs with tiny budgets, its measures are what they say, and its report joins files."""

import json

import numpy as np
import pytest
import torch

from cogen.models.data.datasets import load_image_data
from cogen.models.networks.architectures import ConvolutionalCritic
from cogen.models.storage.classifiers import ClassifierConfig, save_classifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def classifier(tmp_path):
    torch.manual_seed(0)
    arguments = {"event_shape": [1, 28, 28], "channels": [2, 2], "width": 3, "outputs": 2}
    config = ClassifierConfig("ConvolutionalCritic", arguments, (1, 28, 28), (-1.0, 1.0), 2, "tiny")
    save_classifier(tmp_path / "tiny", ConvolutionalCritic(**arguments), config)
    return str(tmp_path / "tiny")


def options(script, data, classifier, tmp_path, **changed):
    tiny = {
        "langevin": (1,),
        "latent_dim": (3,),
        "minutes": 1e-3,
        "batch": 8,
        "samples": 32,
        "points": 1,
        "timed": 1,
        "average": 0.0,
        "pictures": 1,
    }
    places = {"folder": data, "classifier": classifier, "output": tmp_path / "out"}
    return script.Options(**{**tiny, **places, **changed})


def test_the_example_runs(script, data, classifier, tmp_path, capsys):
    record = script.main(options(script, data, classifier, tmp_path))
    assert [(row["family"], row["langevin"]) for row in record["runs"]] == [("coopnets", 1), ("cgan", 0)]
    assert set(record["runs"][0]["curve"][-1]) == {"step", "seconds", "initializer", "solver"}
    assert set(record["runs"][1]["curve"][-1]) == {"step", "seconds", "initializer"}
    assert (tmp_path / "out.png").exists()
    printed = capsys.readouterr().out
    assert "cgan, 3 latents, seed 0" in printed
    again = script.main(script.Options(report=(tmp_path / "out.json",) * 2, output=tmp_path / "both"))
    assert len(again["runs"]) == 4
    assert json.loads((tmp_path / "out.json").read_text()) == record


def test_families_without_a_class_stand_beside_the_pairs(script, data, classifier, tmp_path, capsys):
    record = script.main(options(script, data, classifier, tmp_path, families=(), plain=("glo", "wgan", "coopnets")))
    assert [(row["family"], row["classes"], row["langevin"]) for row in record["runs"]] == [
        ("glo", False, 0),
        ("wgan", False, 0),
        ("coopnets", False, 1),
    ]
    assert set(record["runs"][0]["curve"][-1]["initializer"]) == {"frechet"}
    assert "glo without a class, 64 latents, seed 0" in capsys.readouterr().out


def test_real_images_are_near_themselves(script, data, classifier):
    found = load_image_data("mnist", folder=data)
    judge = script.Judge(classifier, found, 32)
    x = torch.from_numpy(found.test).float() / 127.5 - 1
    same = judge(x, torch.from_numpy(found.test_labels))
    assert same["frechet"] == pytest.approx(0, abs=1e-6)
    assert same["recall"] == 1.0
    assert judge(-x, torch.from_numpy(found.test_labels))["frechet"] > 1e-3


def test_data_without_labels_and_strange_classifiers_are_said(script, classifier, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((8, 28, 28), np.uint8))
    with pytest.raises(SystemExit, match=r"coopnets_digits: .*no labels"):
        script.main(script.Options(data=str(tmp_path / "x.npy"), classifier=classifier))
    np.savez(tmp_path / "y.npz", images=np.zeros((80, 8, 8), np.uint8), labels=np.arange(80) % 2)
    with pytest.raises(SystemExit, match=r"classifies images of shape \(1, 28, 28\)"):
        script.main(script.Options(data=str(tmp_path / "y.npz"), classifier=classifier))

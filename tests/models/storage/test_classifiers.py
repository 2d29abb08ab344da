"""Classifiers on disk: the shipped one knows its digits, and weights that are not the recorded ones are refused."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cogen.models.networks.architectures import ConvolutionalCritic
from cogen.models.storage.classifiers import ClassifierConfig, load_classifier, save_classifier
from cogen.models.storage.generators import SHIPPED, shipped_generators, shipped_images

ARGUMENTS = {"event_shape": (1, 8, 12), "channels": (2, 3), "width": 5, "outputs": 4}


def make() -> ConvolutionalCritic:
    torch.manual_seed(0)
    return ConvolutionalCritic(**ARGUMENTS)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = ClassifierConfig("ConvolutionalCritic", ARGUMENTS, (1, 8, 12), (-1, 1), 4, name="toy")
    return save_classifier(tmp_path / "new" / "toy", make(), config)


SHIPPED_CLASSIFIERS = {"mnist": 15, "fashion": 13, "cifar10": 9}
"""Of how many of the sixteen shipped images the class is found, at the least."""


@pytest.mark.parametrize("name", SHIPPED_CLASSIFIERS)
def test_a_shipped_classifier_reads_the_shipped_images(name):
    classifier = load_classifier(f"{name}_classifier")
    images, labels = shipped_images(name)
    x = torch.as_tensor(images)
    logits = classifier(x)
    assert logits.shape == (16, 10)
    assert (logits.argmax(-1).numpy() == labels).sum() >= SHIPPED_CLASSIFIERS[name]
    torch.testing.assert_close(classifier.last(classifier.features(x)), logits)
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())


@pytest.mark.parametrize(("name", "accuracy"), [("mnist", 0.99), ("fashion", 0.92), ("cifar10", 0.7)])
def test_its_configuration_says_what_it_is(name, accuracy):
    classifier = load_classifier(f"{name}_classifier")
    config = classifier.config
    assert classifier.name == config.name == f"{name}_classifier"
    shape = (3, 32, 32) if name == "cifar10" else (1, 28, 28)
    assert (config.event_shape, config.value_range, config.classes) == (shape, (-1, 1), 10)
    assert config.figures["test_accuracy"] > accuracy
    assert config.figures["validation_accuracy"] > accuracy
    assert f"--data data/{name}" in config.figures["command"] or f"--folder data/{name}" in config.figures["command"]
    assert config.training_data
    assert config.licence
    weights = SHIPPED / "classifiers" / f"{name}_classifier.safetensors"
    assert weights.stat().st_size < 500_000
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (SHIPPED / "README.md").read_text()
    assert config.name not in shipped_generators()


@pytest.mark.parametrize("name", ["toy", "toy.safetensors"])
def test_what_is_saved_comes_back_frozen(saved, name):
    classifier = load_classifier(saved.parent / name)
    x = torch.randn(3, 1, 8, 12)
    torch.testing.assert_close(classifier(x), make()(x))
    assert classifier.name == "toy"
    assert classifier.config.event_shape == (1, 8, 12)
    assert not any(p.requires_grad for p in classifier.parameters())


def test_a_shipped_name_wins_over_a_file_of_the_folder_one_is_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = ClassifierConfig("ConvolutionalCritic", ARGUMENTS, (1, 8, 12), (-1, 1), 4, name="impostor")
    save_classifier("mnist_classifier", make(), config)
    assert load_classifier("mnist_classifier").name == "mnist_classifier"
    assert load_classifier(Path("mnist_classifier")).name == "impostor"


def test_half_precision_comes_back_as_single(saved):
    config = load_classifier(saved).config
    half = save_classifier(saved.with_name("half"), make(), config, half=True)
    loaded = load_classifier(half)
    torch.testing.assert_close(loaded.last.weight, make().last.weight.detach(), rtol=1e-3, atol=1e-4)
    assert loaded.last.weight.dtype == torch.float32
    assert half.stat().st_size < saved.stat().st_size
    assert json.loads(half.with_suffix(".json").read_text())["sha256"] == hashlib.sha256(half.read_bytes()).hexdigest()


@pytest.mark.parametrize("position", [-1, 8, 100])
def test_other_weights_are_refused(saved, position):
    content = bytearray(saved.read_bytes())
    content[position] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"toy.safetensors has the SHA-256 .*toy.json has .*not the original weights"):
        load_classifier(saved)


def test_a_missing_hash_is_refused_too(saved):
    edit(saved, sha256=...)
    with pytest.raises(ValueError, match=r"toy.json has none"):
        load_classifier(saved)


def edit(path: Path, **changes) -> None:
    stored = json.loads(path.with_suffix(".json").read_text()) | changes
    path.with_suffix(".json").write_text(json.dumps({key: value for key, value in stored.items() if value is not ...}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architecture": "Transformer"},
            "unknown architecture 'Transformer'; known are ConvolutionalCritic, ResidualClassifier",
        ),
        ({"classes": 3}, r"classes is 3, but the architecture returns 4 numbers per x"),
        ({"event_shape": [1, 8, 8]}, r"with its arguments does not fit event_shape \(1, 8, 8\)"),
        ({"arguments": {"width": 5}}, "cannot be built from its arguments"),
        ({"arguments": ARGUMENTS | {"width": 6}}, r"has shape \(5, 18\), expected \(6, 18\)"),
        ({"name": ...}, "missing 1 required positional argument: 'name'"),
        ({"colour": 1}, "unexpected keyword argument 'colour'"),
        ({"event_shape": 3}, "event_shape is 3; it must be positive integers"),
        ({"classes": 0}, "classes is 0; it must be a positive integer"),
    ],
)
def test_a_wrong_configuration_is_named(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(ValueError, match=message) as caught:
        load_classifier(saved)
    assert "toy." in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]", "", "3"])
def test_what_is_no_configuration_is_refused(saved, content):
    saved.with_suffix(".json").write_text(content)
    with pytest.raises(ValueError, match=r"toy.json (is not JSON|contains a (list|int), but a configuration is a JSON object)"):
        load_classifier(saved)


def test_missing_files_are_named(saved):
    with pytest.raises(FileNotFoundError, match=r"no classifier called 'nobody' .* shipped are: .*mnist_classifier"):
        load_classifier("nobody")
    saved.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"toy.json is missing"):
        load_classifier(saved)


def test_the_same_network_has_the_same_hash(saved):
    first = json.loads(saved.with_suffix(".json").read_text())["sha256"]
    network = make().to(memory_format=torch.channels_last)
    config = load_classifier(saved).config
    again = save_classifier(saved.with_name("again"), network, config)
    assert json.loads(again.with_suffix(".json").read_text())["sha256"] == first
    np.testing.assert_array_equal(load_classifier(again).last.weight, make().last.weight.detach())

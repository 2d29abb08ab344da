"""The training script runs end to end with tiny arguments, and what it saves is a classifier to measure with."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from cogen.models.storage.classifiers import load_classifier


def test_train_save_load(script, data, tmp_path, capsys):
    output = tmp_path / "out" / "toy"
    script.main(script.Options(data=str(data), output=output, channels=(4, 4), width=8, epochs=4, batch=16, validation=32))
    assert "test_accuracy" in capsys.readouterr().out

    classifier = load_classifier(output)
    config = classifier.config
    assert classifier.name == "toy"
    assert (config.event_shape, config.value_range, config.classes) == ((1, 28, 28), (-1, 1), 2)
    assert classifier.features(torch.zeros(3, 1, 28, 28)).shape == (3, 8)
    assert config.figures["validation_accuracy"] > 0.9
    assert config.figures["test_accuracy"] > 0.9
    assert config.figures["options"]["seed"] == "0"
    assert "its first 160 training images" in config.training_data


def test_images_are_moved_by_amounts_of_their_own(script):
    torch.manual_seed(0)
    x = torch.full((200, 1, 28, 28), -1.0)
    x[:, :, 10:18, 10:18] = 1
    still = script.Options(turn=0, zoom=0, shift=0)
    torch.testing.assert_close(script.moved(x, still), x, atol=1e-4, rtol=0)
    found = script.moved(x, script.Options(turn=0, zoom=0, shift=2)) + 1
    rows, columns = (found.sum(axis) @ torch.arange(28.0) / found.sum((-2, -1)) - 13.5 for axis in (-1, -2))
    for centre in (rows, columns):  # uniform in (-2, 2); |z| < 4
        assert 1.8 < centre.abs().max() < 2.01
        assert abs(centre.mean()) < 4 * (2 / 3**0.5) / 200**0.5
    zoomed = (script.moved(x, script.Options(turn=0, zoom=0.1, shift=0)) + 1).sum((-2, -1)) / 2
    assert 64 / 1.1**2 - 0.5 < zoomed.min() < 60
    assert 70 < zoomed.max() < 64 / 0.9**2 + 0.5


def test_colour_images_of_any_size(script, tmp_path):
    labels = np.arange(60) % 3
    images = np.zeros((60, 8, 12, 3), np.uint8)
    images[np.arange(60), :, :, labels] = 200  # red, green or blue
    np.savez(tmp_path / "colours.npz", images=images, labels=labels)
    colours, output = str(tmp_path / "colours.npz"), tmp_path / "colour_classifier"
    script.main(script.Options(data=colours, output=output, channels=(4, 4), width=8, epochs=8, batch=8, validation=6))
    config = load_classifier(output).config
    assert (config.event_shape, config.classes) == ((3, 8, 12), 3)
    assert config.figures["test_accuracy"] > 0.9


def test_mirrored_images(script):
    torch.manual_seed(0)
    x = torch.randn(64, 3, 8, 8)
    found = script.moved(x, script.Options(turn=0, zoom=0, shift=0, mirror=True))
    turned = (found - x.flip(-1)).abs().flatten(1).amax(1) < 1e-4
    kept = (found - x).abs().flatten(1).amax(1) < 1e-4
    assert (turned ^ kept).all()
    assert 16 < turned.sum() < 48


def test_a_residual_network_in_half_precision_scores_samples(script, data, tmp_path, capsys):
    options = script.Options(
        data=str(data), network="residual", output=tmp_path / "toy", channels=(4, 6), width=8, epochs=4, batch=16, validation=32
    )
    script.main(dataclasses.replace(options, half=True))
    classifier = load_classifier(tmp_path / "toy")
    assert classifier.config.architecture == "ResidualClassifier"
    assert classifier.config.figures["test_accuracy"] > 0.9
    rows = script.main(dataclasses.replace(options, score=("mnist",), record=tmp_path / "new" / "scores.json"))
    assert json.loads((tmp_path / "new" / "scores.json").read_text())["rows"] == rows
    assert [(row["samples"], row["network"], row["items"]) for row in rows] == [("real", "toy", 32), ("mnist", "toy", 32)]
    real, samples = rows
    assert real["frechet_distance"] < samples["frechet_distance"]
    assert 1 <= samples["inception_score"] <= real["inception_score"] + 0.1 <= 2.1
    assert "by toy" in capsys.readouterr().out


def test_what_cannot_be_learned_from_is_one_line(script, data, tmp_path):
    with pytest.raises(SystemExit, match=r"train_classifier: .*nowhere' is neither a file or folder nor a known data set"):
        script.main(script.Options(data=str(tmp_path / "nowhere")))
    with pytest.raises(SystemExit, match=r"train_classifier: .* has 192 training images; .* a batch of 128 more than the 5000"):
        script.main(script.Options(data=str(data)))
    np.save(tmp_path / "plain.npy", np.zeros((20, 8, 8), np.uint8))
    with pytest.raises(SystemExit, match=r"train_classifier: .*plain.npy has no labels"):
        script.main(script.Options(data=str(tmp_path / "plain.npy")))

"""`cogen guide` and `cogen tune`: a guide and frozen settings beside a generator, and `cogen complete` that takes them."""

import json

import numpy as np
import pytest
import torch

from cogen.command_line import main
from cogen.models import GeneratorConfig, load_guide, save_generator
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage.tunings import Settings, load_tuning, save_tuning

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A generator of 8 x 8 images with its guide, both untrained."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    arguments = {"latent_dim": 3, "event_shape": (1, 8, 8), "hidden": (8,)}
    config = GeneratorConfig("DenseGenerator", arguments, 3, (1, 8, 8), (-1.0, 1.0), 0.5)
    save_generator(folder / "tiny", DenseGenerator(**arguments), config)
    main(["guide", "--generator", str(folder / "tiny"), "--steps", "3", "--batch", "12", "--masks", "10", "--half"])
    return folder / "tiny"


def test_a_guide_lies_beside_its_generator_and_says_how_it_was_made(tiny):
    guide = load_guide(tiny)
    assert guide.latent_dim == 3
    assert guide.config.figures["steps"] == 3
    assert guide.config.figures["losses"]["negative_log_posterior"] > 0
    assert guide.config.architecture == "MaskedMixerFlow"


@pytest.mark.slow
def test_what_was_tuned_is_what_completes(tiny, tmp_path, capsys):
    small = ["--items", "4", "--chains", "2", "--leapfrog", "2"]
    main(["tune", "--generator", str(tiny), "--temperatures", "3", "2", *small])
    table = capsys.readouterr().out
    found = load_tuning(tiny, "half")
    assert found.guided
    assert found.temperatures in (2, 3)
    assert [row["temperatures"] for row in found.figures["rows"]] == [2, 3]
    assert f"half, {found.temperatures} temperatures of 2 gradients" in table
    assert load_tuning(tiny, "centre") is None

    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((2, 8, 8)))
    images = ["--generator", str(tiny), "--images", str(tmp_path / "images.npy"), "--chains", "4", "--samples", "1"]

    def gradients(*options: str) -> int:
        main(["complete", *images, "--output", str(tmp_path / "out"), *options])
        return json.loads((tmp_path / "out" / "metrics.json").read_text())["gradient_evaluations"]

    frozen = gradients()
    assert frozen == 2 * 4 * (1 + 2 * (found.temperatures + 1))  # images, chains, and the first gradient
    assert gradients("--view", "centre", "--warmup", "3") == 2 * 4 * (1 + 10 * 4)
    assert gradients("--guide", "none", "--warmup", "3") == gradients("--guide", f"{tiny}-guide", "--warmup", "3")


def test_views_are_kept_apart_and_a_file_of_something_else_is_named(tiny, tmp_path):
    settings = Settings(False, 4, 5, (0.0, 0.5, 1.0), (0.1, 0.2))
    path = save_tuning(tiny, "half", settings, tmp_path / "other.json")
    save_tuning(tiny, "box", settings, path)
    assert set(json.loads(path.read_text())) == {"half", "box"}
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json does not contain tunings by view"):
        save_tuning(tiny, "half", settings, path)
    with pytest.raises(ValueError, match="step sizes of a tuning must be positive"):
        Settings(False, 0, 5, (0.0, 0.5, 1.0), (0.1, 0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["guide", "--generator", "digits"], "--generator digits: it is a shipped generator; give --output"),
        (["guide", "--generator", "nowhere"], "no generator called 'nowhere'"),
        (["guide", "--generator", "digits", "--steps", "0"], "--steps 0: it must be at least 1"),
        (["tune", "--generator", "digits"], "--generator digits: it is a shipped generator; give --output"),
        (
            ["tune", "--generator", "mnist", "--output", "x.json", "--start", "guide"],
            "--start guide: there is no guide beside mnist; `cogen guide` trains one",
        ),
        (
            ["tune", "--generator", "digits", "--output", "x.json", "--temperatures", "0"],
            "--temperatures: give one or more numbers",
        ),
        (["tune", "--generator", "digits", "--output", "x.json", "--items", "1"], "--items 1: it must be at least 2"),
        (["complete", "--guide", "nowhere"], "there is no file nowhere.safetensors"),
        (["complete", "--generator", "mnist", "--guide", "digits-guide"], "there is no file digits-guide.safetensors"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

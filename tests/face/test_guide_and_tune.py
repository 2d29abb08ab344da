"""`cogen guide` and `cogen tune`: a guide and frozen settings beside a generator, and `cogen complete` that takes them."""

import json
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from cogen.algorithms import kernel_of
from cogen.command_line import main
from cogen.completion import conditioned_model
from cogen.conditions import guide_suits
from cogen.models import Classes, GeneratorConfig, load_guide, save_generator
from cogen.models.networks.architectures import ConditionalGenerator, DenseGenerator
from cogen.models.storage.tunings import Settings, load_tuning, load_tunings, save_tuning
from cogen.options import Complete
from cogen.schedules import MORE, remedy, stored_schedule

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
    main(["tune", "--generator", str(tiny), "--temperatures", "2", "--start", "prior", *small])
    main(["tune", "--generator", str(tiny), "--temperatures", "3", "2", *small])
    assert set(load_tunings(tiny)) == {"half from the prior", "half"}
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


SCHEDULE = Settings(False, 4, 5, (0.0, 0.5, 1.0), (0.1, 0.2))


@pytest.fixture
def run(tiny, tmp_path):
    """A function from options of `cogen complete` to these and the conditioned model, for a copy of the generator."""
    for path in tiny.parent.glob("tiny.*"):
        shutil.copy(path, tmp_path)
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((2, 8, 8)))
    np.save(tmp_path / "small.npy", np.random.default_rng(0).random((2, 1, 4, 4)))

    def made(images: str = "images", **given):
        options = Complete(generator=str(tmp_path / "tiny"), images=tmp_path / f"{images}.npy", **given)
        return options, conditioned_model(options)

    return made


@pytest.mark.parametrize(
    ("tuned_for", "asked", "is_used"),
    [
        (None, None, True),
        (None, 0.5, True),  # the generator's own
        (None, 0.58, True),
        (None, 0.62, False),
        (None, 0.38, False),
        (0.2, None, False),
        (0.2, 0.17, True),
        (0.2, 0.25, False),
    ],
)
@pytest.mark.parametrize(("images", "view", "name"), [("images", "half", "half"), ("small", "thumbnail", "thumbnail-2")])
def test_a_schedule_is_used_for_about_its_noise(run, tmp_path, images, view, name, tuned_for, asked, is_used):
    save_tuning(tmp_path / "tiny", name, replace(SCHEDULE, noise=tuned_for))
    options, seen = run(images, view=(view,), noise=asked)
    found = stored_schedule(options, seen, guided=False)
    assert (found is not None) == is_used
    assert stored_schedule(options, seen, guided=True) is None
    assert (kernel_of(options, seen).warmup == 4) == is_used


def test_thumbnails_of_another_factor_have_another_schedule(run, tmp_path):
    save_tuning(tmp_path / "tiny", "thumbnail", SCHEDULE)
    options, seen = run("small", view=("thumbnail",))
    assert stored_schedule(options, seen, guided=False) is None
    options, seen = run(view=("thumbnail",))
    assert stored_schedule(options, seen, guided=False) == SCHEDULE


def test_the_schedule_of_the_nearest_noise_is_used(run, tmp_path):
    for noise in (0.2, 0.25, 0.4):
        save_tuning(tmp_path / "tiny", f"half with noise {noise}", replace(SCHEDULE, noise=noise))
    save_tuning(tmp_path / "tiny", "half from the prior with noise 0.23", replace(SCHEDULE, noise=0.23, guided=True))
    options, seen = run(noise=0.23)
    assert stored_schedule(options, seen, guided=False).noise == 0.25
    assert stored_schedule(options, seen, guided=True).noise == 0.23


@pytest.mark.parametrize(
    ("shares", "given", "expected"),
    [
        ({"half": 1, "box": 2}, {"view": ("random",), "share": 0.9}, 2),  # by what is seen, not by the name
        ({"random": 1, "centre": 2}, {"view": ("random",)}, 1),
        ({"random": 1, "half": 2, "centre": 3}, {"mask": "mask", "view": ()}, 3),  # 60 % is seen
        ({"random": 1, "half": 2}, {"mask": "mask", "view": ()}, 2),  # the largest below
        ({"half": 1, "thumbnail": 2}, {"view": ("half", "thumbnail")}, None),
        ({"half": 1, "gray": 2}, {"view": ("gray",)}, 2),
    ],
)
def test_a_mask_takes_the_schedule_of_the_view_that_shows_as_much(tmp_path, shares, given, expected):
    generator, seen = _colour(tmp_path), np.zeros((8, 8), np.uint8)
    seen.reshape(-1)[:38] = 255
    Image.fromarray(seen).save(tmp_path / "mask.png")
    given = given | ({"mask": str(tmp_path / "mask.png")} if "mask" in given else {})
    for name, temperatures in shares.items():
        save_tuning(generator, name, replace(SCHEDULE, temperatures=temperatures))
    options = Complete(generator=str(generator), images=tmp_path / "images.npy", **given)
    found = stored_schedule(options, conditioned_model(options), guided=False)
    assert (found and found.temperatures) == expected


def _colour(folder):
    """A generator of 8 x 8 colour images, and two images."""
    torch.manual_seed(0)
    arguments = {"latent_dim": 3, "event_shape": (3, 8, 8), "hidden": (8,)}
    save_generator(
        folder / "colour",
        DenseGenerator(**arguments),
        GeneratorConfig("DenseGenerator", arguments, 3, (3, 8, 8), (-1.0, 1.0), 0.5),
    )
    np.save(folder / "images.npy", np.random.default_rng(0).random((2, 3, 8, 8)))
    return folder / "colour"


def test_schedules_from_a_guide_are_not_used_on_pyro(run, tmp_path):
    save_tuning(tmp_path / "tiny", "half", replace(SCHEDULE, guided=True))
    save_tuning(tmp_path / "tiny", "half from the prior", SCHEDULE)
    options, seen = run(backend="pyro")
    assert stored_schedule(options, seen, guided=True) is None
    assert stored_schedule(options, seen, guided=False) == SCHEDULE
    assert remedy(options, seen) == MORE


@pytest.mark.parametrize(
    ("sides", "factor", "suits"), [((28, 28), 4, True), ((28, 28), 2, True), ((28, 28), 7, False), ((30, 30), 2, False)]
)
def test_a_guide_starts_thumbnails_like_those_it_was_trained_for(sides, factor, suits):
    assert guide_suits("thumbnail", factor, (1, *sides)) == suits
    assert guide_suits("half", factor, (1, *sides))


def test_a_file_of_schedules_is_used_or_refused(run, tmp_path):
    path = save_tuning(tmp_path / "tiny", "half", replace(SCHEDULE, noise=0.2), tmp_path / "other.json")
    options, seen = run(tuning=path, noise=0.2)
    assert stored_schedule(options, seen, guided=False).noise == 0.2
    of_another = save_tuning(tmp_path / "tiny", "half", replace(SCHEDULE, generator="digits"), tmp_path / "digits.json")
    options, seen = run(tuning=of_another)
    with pytest.raises(ValueError, match=r"digits\.json: it has schedules of digits, not of tiny"):
        stored_schedule(options, seen, guided=False)
    options, seen = run("small", tuning=path, noise=0.3, view=("thumbnail",))
    with pytest.raises(ValueError, match=r"half from the prior with noise 0.2, and none for .* thumbnail-2 from the prior"):
        stored_schedule(options, seen, guided=False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "--view half"),
        ({"noise": 0.25}, "--view half --noise 0.25"),
        ({"view": ("centre",), "guide": "none"}, "--view centre --start prior"),
        ({"images": "small", "view": ("thumbnail",), "noise": 0.3}, "--view thumbnail --factor 2 --noise 0.3"),
        ({"view": ("thumbnail", "half")}, None),
        ({"warmup": 5}, None),
        ({"algorithm": "langevin"}, None),
    ],
)
def test_chains_that_disagree_name_the_command_that_helps(run, tmp_path, given, words):
    options, seen = run(**given)
    command = f"`cogen tune --generator {tmp_path / 'tiny'} {words}`"
    assert remedy(options, seen) == (f"Find a schedule with {command}, or {MORE[0].lower()}{MORE[1:]}" if words else MORE)


def test_schedules_of_a_shipped_generator_go_to_a_file(tmp_path):
    options = Complete(noise=0.3)
    command = "cogen tune --generator digits --view half --noise 0.3 --output digits-tuning.json"
    advice = f"Find a schedule with `{command}` and give --tuning digits-tuning.json, or"
    assert advice in remedy(options, conditioned_model(options))


@pytest.mark.slow
def test_a_view_that_a_guide_does_not_fit_is_tuned_from_the_prior(tmp_path, capsys):
    generator = _colour(tmp_path)
    main(["guide", "--generator", str(generator), "--steps", "3", "--batch", "12", "--masks", "10"])
    small = ["--items", "4", "--chains", "2", "--leapfrog", "2", "--temperatures", "3"]
    main(["tune", "--generator", str(generator), "--view", "gray", *small])
    assert not load_tuning(generator, "gray").guided
    options = Complete(generator=str(generator), images=tmp_path / "images.npy", view=("gray",))
    assert kernel_of(options, conditioned_model(options)).tuned
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["tune", "--generator", str(generator), "--view", "gray", "--start", "guide", *small])
    assert "--start guide: view 'seen' cannot be the input of a flow" in capsys.readouterr().err


@pytest.mark.slow
def test_a_generator_of_classes_is_tuned_for_all_of_them(tmp_path, capsys):
    torch.manual_seed(0)
    network = {"latent_dim": 3 + 2, "event_shape": (1, 8, 8), "hidden": (8,)}
    arguments = {"architecture": "DenseGenerator", "num_classes": 2, "arguments": network}
    config = GeneratorConfig("ConditionalGenerator", arguments, 3, (1, 8, 8), (-1.0, 1.0), 0.5, contexts={"label": Classes(2)})
    save_generator(tmp_path / "classes", ConditionalGenerator(**arguments), config)
    small = ["--items", "4", "--chains", "2", "--leapfrog", "2", "--temperatures", "3", "--noise", "0.3"]
    main(["tune", "--generator", str(tmp_path / "classes"), *small])
    assert "half with noise 0.3, 3 temperatures of 2 gradients" in capsys.readouterr().out
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((2, 8, 8)))
    images = ["--images", str(tmp_path / "images.npy"), "--chains", "4", "--samples", "1", "--output", str(tmp_path / "out")]
    main(["complete", "--generator", str(tmp_path / "classes"), *images, "--label", "0", "1", "--noise", "0.3"])
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["gradient_evaluations"] == 2 * 4 * (1 + 2 * 4)


@pytest.mark.parametrize(
    "algorithm", ["annealed-hmc", "langevin", "parallel-tempering", "hmc", "nuts", "gradient-descent", "importance"]
)
def test_kernels_can_be_sent_to_workers(tiny, tmp_path, algorithm):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((2, 8, 8)))
    options = Complete(generator=str(tiny), images=tmp_path / "images.npy", algorithm=algorithm)
    seen = conditioned_model(options)
    kernel = kernel_of(options, seen).kernel
    sent = pickle.loads(pickle.dumps(kernel))
    assert type(sent) is type(kernel)
    if algorithm == "annealed-hmc":
        start, there = (each.settings.initial.with_row(each.settings.initial.rows) for each in (kernel, sent))
        z = np.zeros((2, 3), np.float32)
        np.testing.assert_array_equal(start.flat.log_prob(z), there.flat.log_prob(z))


def test_views_are_kept_apart_and_a_file_of_something_else_is_named(tiny, tmp_path):
    path = save_tuning(tiny, "half", SCHEDULE, tmp_path / "other.json")
    save_tuning(tiny, "box", SCHEDULE, path)
    assert set(json.loads(path.read_text())) == {"half", "box"}
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"other\.json does not contain tunings by view"):
        save_tuning(tiny, "half", SCHEDULE, path)
    with pytest.raises(ValueError, match="step sizes of a tuning must be positive"):
        Settings(False, 0, 5, (0.0, 0.5, 1.0), (0.1, 0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "--generator", "digits", "--factor", "2", "--output", "x.json"], "--factor 2: it needs --view thumbnail"),
        (
            ["tune", "--generator", "digits", "--view", "thumbnail", "--factor", "7", "--start", "guide", "--output", "x.json"],
            "--start guide: `cogen complete` starts thumbnails of factor 7 from the prior; omit it",
        ),
        (
            ["tune", "--generator", "digits", "--view", "thumbnail", "--factor", "5", "--output", "x.json"],
            "--factor 5: it must be a whole number above one that divides the generator's 28 x 28 pixels",
        ),
        (["tune", "--generator", "digits", "--noise", "0", "--output", "x.json"], "--noise 0: it must be positive and finite"),
        (["complete", "--tuning", "x.json", "--warmup", "5"], "--tuning x.json: a run with --warmup 5 uses no stored schedule"),
        (["complete", "--tuning", "x.json", "--backend", "pyro"], "--tuning x.json: with --backend pyro it needs --guide none"),
        (["complete", "--tuning", "x.json", "--label", "unknown"], "--label unknown with --tuning x.json: runs of an unknown"),
        (["complete", "--tuning", "x.json"], "--tuning x.json: there is no such file"),
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

"""`cogen train` and `cogen fill`: from files to a generator that completes, and bad input in one line."""

import csv
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from cogen import training
from cogen.command_line import main
from cogen.inference.torch.short_run import ShortRun
from cogen.models import (
    Array,
    Classes,
    CoGenerator,
    EnergyConfig,
    GeneratorConfig,
    load_energy,
    load_generator,
    load_predictor,
    load_solver,
    save_energy,
    save_generator,
    views,
)
from cogen.models.families.realnvp import RealNVP
from cogen.models.networks.architectures import ConditionalGenerator, DenseGenerator
from cogen.models.networks.energies import DenseEnergy
from cogen.models.storage.encoders import load_encoder

pytestmark = pytest.mark.usefixtures("one_torch_thread")
hardly_trained = pytest.mark.filterwarnings("ignore:.*no better than independent columns")

QUICK = ["--epochs", "2", "--batch", "8", "--noise-images", "2"]
SMALL = [*QUICK, "--latent-dim", "3"]


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Two classes of 8 x 8 pictures, a bright half above or below, with labels."""
    random = np.random.default_rng(0)
    label = np.arange(60) % 2
    pixels = random.integers(0, 40, (60, 8, 8), dtype=np.uint8)
    for picture, half in zip(pixels, label, strict=True):
        picture[4 * half : 4 * half + 4] += 200
    path = tmp_path_factory.mktemp("data") / "halves.npz"
    np.savez(path, images=pixels, labels=label)
    return path


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gan", ["--network", "dense", "--widths", "8"]),
        pytest.param("cgan", [], marks=pytest.mark.slow),
        ("realnvp", ["--widths", "8"]),
        ("vae", ["--mirror"]),
        ("veegan", []),
        ("aim", ["--weight", "0.1"]),
        ("alice", ["--network", "dense", "--widths", "4", "6"]),
        ("ccoopnets", []),
    ],
)
def test_what_is_trained_is_there_to_complete_with(images, tmp_path, capsys, family, options):
    output = tmp_path / "made" / family
    small = QUICK if family == "realnvp" else SMALL
    main(["train", family, "--data", str(images), "--output", str(output), *small, *options])
    said = capsys.readouterr().out
    assert f"{family} on halves" in said
    assert "noise scale" in said
    conditional = family in ("cgan", "ccoopnets")
    assert load_generator(output).config.contexts == ({"label": Classes(2)} if conditional else {})
    generator = load_generator(output, label=1 if conditional else None)
    assert generator(torch.randn(2, generator.config.latent_dim)).shape == (2, 1, 8, 8)
    assert generator.config.figures["command"].startswith("cogen")
    with Image.open(output.with_name(f"{family}.png")) as picture:
        assert picture.size == (16 * 8, 8 * 8)
    if family == "ccoopnets":
        assert load_solver(output)(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])).shape == (2,)
        assert output.with_name("ccoopnets-solver.png").is_file()
    if family in ("vae", "veegan", "aim", "alice"):
        mean, log_sd = load_encoder(output.with_name(f"{family}-encoder"))(torch.zeros(2, 1, 8, 8))
        assert mean.shape == log_sd.shape == (2, 3)
    pictures = tmp_path / "some.npy"
    with np.load(images) as stored:
        np.save(pictures, stored["images"][:2])
    if family in ("gan", "cgan"):
        extra = ["--label", "1,0"] if conditional else []
        where = ["--generator", str(output), "--images", str(pictures), "--output", str(tmp_path / "out")]
        main(["complete", *where, "--chains", "8", "--warmup", "5", "--samples", "1", *extra])
        assert (tmp_path / "out" / "completions.png").exists()
        if conditional:
            with h5py.File(tmp_path / "out" / "posterior.nc") as file:
                assert file["constant_data"]["label"][:].tolist() == [1, 0]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    """Pictures of 20 x 10 pixels: at the left a gray level, at the right its negative in blue."""
    folder = tmp_path_factory.mktemp("pairs")
    for k, level in enumerate(np.random.default_rng(0).integers(40, 216, 24)):
        picture = np.full((10, 20, 3), level, np.uint8)
        picture[:, 10:] = 0, 0, 255 - level
        Image.fromarray(picture).save(folder / f"{k}.png")
    return folder


OF_PAIRS = ["--size", "8", "--widths", "2", "--epochs", "2", "--batch", "4", "--noise-images", "2"]


@pytest.mark.parametrize(
    ("family", "options", "shape"),
    [
        ("pix2pix", ["--crop-from", "9", "--mirror"], (3, 8, 8)),
        ("bicyclegan", [], (3, 8, 8)),
        ("coopnets-unet", ["--latent-dim", "2", "--langevin", "2"], (3, 8, 8)),
        ("context-encoder", ["--condition", "centre", "--average", "0.9"], (4, 8, 8)),
        ("cgml", ["--latent-dim", "2", "--epochs", "2"], (3, 8, 8)),
    ],
)
def test_a_translation_is_trained_stored_and_drawn(pairs, tmp_path, capsys, family, options, shape):
    output = tmp_path / family
    main(["train", family, "--data", str(pairs), "--output", str(output), *OF_PAIRS, *options])
    said = capsys.readouterr().out
    assert f"{family} on {pairs.name}: 10 steps" in said
    generator = load_generator(output)
    assert generator.config.contexts == {"condition": Array(shape, (-1, 1))}
    latent_dim = generator.config.latent_dim
    x = generator(torch.randn(2, latent_dim), condition=torch.zeros(2, *shape))
    assert x.shape == (2, 3, 8, 8)
    with Image.open(output.with_name(f"{family}.png")) as picture:
        assert picture.size == (6 * 8, 2 * 8)  # condition, four draws and x of the two held out
        drawn = np.asarray(picture)
    if family == "pix2pix":  # the label is blue, the photo gray
        assert (drawn[:, :8, 0] == 0).all()
        assert (np.ptp(drawn[:, -8:], axis=2) == 0).all()
    assert ("torch.zeros(n, 0)" in said) == (latent_dim == 0)
    if latent_dim:
        view = views.Mask(views.half((3, 8, 8), "top"), scale=generator.config.noise_scale)
        seen = CoGenerator(generator, views={"top": view}).condition(top=np.zeros((2, 3, 8, 8)))
        assert seen.given(condition=np.zeros((2, *shape))).num_items == 2
    else:
        with pytest.raises(ValueError, match=r"latent_dim=0: .* train one with --latent-dim 8"):
            CoGenerator(generator, views={"all": views.Identity(scale=0.1)})
    if family == "coopnets-unet":
        solver = load_solver(output)
        assert solver(x, condition=torch.zeros(2, *shape)).shape == (2,)
        assert solver.config.run.steps == 2
        with Image.open(output.with_name("coopnets-unet-solver.png")) as refined:
            assert refined.size == (6 * 8, 2 * 8)
            moved = np.asarray(refined) != drawn
        assert moved[:, 8:-8].any()
        assert not moved[:, :8].any()
        assert not moved[:, -8:].any()
    if family == "cgml":
        u, condition = torch.randn(2, 2), torch.zeros(2, *shape)
        torch.testing.assert_close(load_predictor(output)(u, condition).norm(dim=1), u.norm(dim=1))
        assert "--algorithm learned-descent --images PICTURES --context condition=PICTURES" in said
    if family == "bicyclegan":
        assert load_encoder(output.with_name("bicyclegan-encoder"))(x)[0].shape == (2, 8)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["pix2pix"], r"--condition right: mnist contains no pairs; give a folder .* --condition centre or edges or sketch"),
        (["pix2pix", "--data", "PAIRS", "--size", "6"], r"images of 6 x 6 pixels: the sides must be divisible by four"),
        (["pix2pix", "--data", "PAIRS", "--widths", "4", "8"], r"--widths 4 8: families of pairs take one width"),
        (
            ["pix2pix", "--data", "PAIRS", "--crop-from", "9"],
            r"--crop-from 9: crops of --size are taken from this size, .* as in 286 and 256",
        ),
        (
            ["pix2pix", "--data", "PAIRS", "--size", "9", "--crop-from", "8"],
            r"--crop-from 8: crops of --size are taken from this size",
        ),
        (
            ["context-encoder", "--data", "PAIRS"],
            r"a context encoder needs a condition that is the image with .* --condition centre",
        ),
        (["pix2pix", "--data", "IMAGES"], r"each of images is 8 x 8 pixels, but two images side by side"),
        (["pix2pix", "--data", "table.csv"], r"pix2pix does not train on a table; vae does"),
        (
            ["gan", "--data", "IMAGES", "--condition", "left"],
            r"--condition left: it applies to families of pairs, not to gan",
        ),
        (["vae", "--data", "table.csv", "--crop-from", "9"], r"--crop-from 9: it applies to images, not to tables"),
    ],
)
def test_pairs_that_are_none_end_in_one_line(pairs, images, tmp_path, capsys, arguments, reason):
    with np.load(images) as stored:
        np.save(tmp_path / "images.npy", stored["images"])
    given = [{"PAIRS": str(pairs), "IMAGES": str(tmp_path / "images.npy")}.get(word, word) for word in arguments]
    with pytest.raises(SystemExit) as end:
        main(["train", *given, "--output", str(tmp_path / "made")])
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(reason, line), line
    assert not list(tmp_path.glob("made*"))


@pytest.fixture(scope="module")
def conditional(tmp_path_factory) -> Path:
    """Generators of 8 x 8 pictures: of two named classes, of a picture, and of z alone."""
    folder = tmp_path_factory.mktemp("conditional")
    inner = {"latent_dim": 5, "event_shape": (1, 8, 8), "hidden": (4,)}
    arguments = {"architecture": "DenseGenerator", "num_classes": 2, "arguments": inner}
    about = {"latent_dim": 3, "event_shape": (1, 8, 8), "value_range": (-1, 1), "noise_scale": 0.3}
    config = GeneratorConfig("ConditionalGenerator", arguments, contexts={"label": Classes(2, names=("up", "down"))}, **about)
    save_generator(folder / "named", ConditionalGenerator(**arguments), config)
    inner = inner | {"latent_dim": 3}
    save_generator(folder / "plain", DenseGenerator(**inner), GeneratorConfig("DenseGenerator", inner, **about))
    config = GeneratorConfig("DenseGenerator", inner, contexts={"photo": Array((1, 8, 8))}, **about)
    save_generator(folder / "photo", DenseGenerator(**inner), config)
    np.save(folder / "some.npy", np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    return folder


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        (["1"], [1, 1, 1]),
        (["1", "0", "1"], [1, 0, 1]),
        (["1,0,1"], [1, 0, 1]),
        (["1, 0, 1"], [1, 0, 1]),
        (["down,up,down"], [1, 0, 1]),
    ],
)
def test_labels_are_one_for_all_images_or_one_for_each(conditional, label, wanted):
    from cogen.command_line import Complete
    from cogen.given import contexts_given

    generator = load_generator(conditional / "named")
    assert (
        contexts_given(Complete(label=tuple(label)), generator, SimpleNamespace(items=np.zeros((3, 1, 8, 8))))["label"].tolist()
        == wanted
    )


@pytest.mark.parametrize(
    ("name", "label", "reason"),
    [
        ("named", [], "is conditional on 2 classes: give --label, one class for all images or one for each"),
        ("named", ["2"], "--label 2: item 0 has the class 2, but the classes are 0 to 1"),
        ("named", ["0", "1"], "--label 0 1: 2 classes for 3 images: give one for all or one for each"),
        ("named", ["0,1,x"], "--label 0 1 x: a class is an integer from 0 on, or one of up, down"),
        ("plain", ["1"], "--label 1: "),
        ("plain", ["1"], "is not conditional on a class"),
    ],
)
def test_labels_that_are_wrong_end_in_one_line(conditional, tmp_path, capsys, name, label, reason):
    where = [
        "--generator",
        str(conditional / name),
        "--images",
        str(conditional / "some.npy"),
        "--output",
        str(tmp_path / "out"),
    ]
    with pytest.raises(SystemExit) as stop:
        main(["complete", *where, *(["--label", *label] if label else [])])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert reason in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_an_energy_alone_is_trained_and_drawn(images, tmp_path, capsys):
    output = tmp_path / "energy"
    main(["train", "ebm", "--data", str(images), "--output", str(output), *QUICK, "--network", "dense"])
    said = capsys.readouterr().out
    assert "ebm on halves" in said
    assert "noise scale" not in said
    energy = load_energy(output)
    assert energy(torch.zeros(3, 1, 8, 8)).shape == (3,)
    assert energy.config.run.steps == 40
    with Image.open(tmp_path / "energy.png") as picture:
        assert picture.size == (16 * 8, 8 * 8)
    with pytest.raises(SystemExit, match="2"):
        main(["train", "ebm", "--data", str(images), "--output", str(output), "--latent-dim", "3"])
    assert "--latent-dim 3: ebm has no such setting" in capsys.readouterr().err


def test_a_machine_is_trained_and_completes(images, tmp_path, capsys):
    output, pictures = tmp_path / "machine", tmp_path / "some.npy"
    machine = ["train", "rbm", "--data", str(images), "--output", str(output), "--epochs", "2", "--latent-dim", "5"]
    main([*machine, "--batch", "16", "--langevin", "2"])
    energy = load_energy(output)
    assert energy.num_hidden == 5
    assert energy.config.run is None
    with Image.open(tmp_path / "machine.png") as picture:
        assert picture.size == (16 * 8, 8 * 8)
    with np.load(images) as stored:
        np.save(pictures, stored["images"][:2])
    where = ["complete", "--generator", str(output), "--images", str(pictures), "--output", str(tmp_path / "out")]
    main([*where, "--chains", "8", "--warmup", "5", "--samples", "2"])
    posterior = xr.open_dataset(tmp_path / "out" / "posterior.nc", group="predictions", engine="h5netcdf")
    with np.load(images) as stored:
        seen = (stored["images"].reshape(-1, 1, 8, 8)[:2] > 127)[:, :, :4]
    np.testing.assert_array_equal(posterior["x_mean"].values[:, :, :4], seen)
    posterior.close()
    capsys.readouterr()
    masks, one = tmp_path / "masks.npy", tmp_path / "mask.npy"
    different = np.random.default_rng(0).random((2, 8, 8)) < 0.5
    np.save(masks, different)
    np.save(one, different[0])
    main([*where, "--mask", str(one), "--chains", "8", "--warmup", "5", "--samples", "2"])
    assert "no truth was given" in capsys.readouterr().out
    made = np.load(tmp_path / "out" / "completed" / "some" / "mean.npy")
    np.testing.assert_array_equal(made[:, different[0]], np.load(pictures)[:, different[0]])
    for options, reason in (
        (["--view", "thumbnail"], "--view thumbnail: an energy needs a view of pixels"),
        (["--noise", "0.1"], "--noise 0.1: it applies to generators"),
        (["--algorithm", "nuts"], "is not a differentiable density"),
        (["--set", "num_leapfrog=3"], "its own sampler has no such option"),
        (["--mask", str(masks)], "with an energy the same pixels must be seen in all images"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*where, *options])
        assert reason in capsys.readouterr().err


def energy_at(path, run):
    config = EnergyConfig("DenseEnergy", {"event_shape": [1, 8, 8], "hidden": [4]}, (1, 8, 8), (-1.0, 1.0), run=run)
    torch.manual_seed(0)
    save_energy(path, DenseEnergy((1, 8, 8), (4,)), config)


@pytest.mark.parametrize("run", [ShortRun.langevin(3, 0.1, reference_scale=1.0), ShortRun(3, 0.3, 0.005, bounds=(-1.0, 1.0))])
def test_an_energy_completes_as_a_density_or_by_the_steps_of_its_training(images, tmp_path, capsys, run):
    pictures, density = tmp_path / "some.npy", run.reference_scale is not None
    energy_at(tmp_path / "energy", run)
    with np.load(images) as stored:
        np.save(pictures, stored["images"][:2])
        truth = stored["images"].reshape(-1, 1, 8, 8)[:2] / 127.5 - 1
    where = ["--generator", str(tmp_path / "energy"), "--images", str(pictures), "--output", str(tmp_path / "out")]
    warmup = ["--warmup", "5"] if density else []
    main(["complete", *where, "--chains", "8", *warmup, "--samples", "2", "--view", "centre"])
    said = capsys.readouterr().out
    assert ("is not a normalizable density" in said) != density
    assert ("acceptance" in said) == density
    assert (tmp_path / "out" / "completions.png").is_file()
    made = xr.open_dataset(tmp_path / "out" / "posterior.nc", group="predictions", engine="h5netcdf")
    mask = views.centre((1, 8, 8), 4)
    np.testing.assert_allclose(made["x_mean"].values[:, mask], truth[:, mask], atol=1e-5)
    assert (made["x_sd"].values[:, ~mask] > 0).all()
    made.close()


def test_a_solver_begins_at_its_initializer_s_samples(images, tmp_path, capsys, monkeypatch):
    main(["train", "coopnets", "--data", str(images), "--output", str(tmp_path / "pair"), *SMALL, "--network", "dense"])
    with np.load(images) as stored:
        np.save(tmp_path / "some.npy", stored["images"][:2])
    starts, original = [], ShortRun.__call__
    monkeypatch.setattr(ShortRun, "__call__", lambda run, f, y, **free: (starts.append(y), original(run, f, y, **free))[1])
    where = ["--generator", str(tmp_path / "pair-solver"), "--images", str(tmp_path / "some.npy")]
    capsys.readouterr()
    main(["complete", *where, "--output", str(tmp_path / "out"), "--chains", "4", "--samples", "1"])
    assert "started at samples of the initializer beside it" in capsys.readouterr().out
    hidden, initializer = ~torch.as_tensor(views.half((1, 8, 8), "top")), load_generator(tmp_path / "pair")
    for item, start in enumerate(starts):
        torch.manual_seed(int(np.random.SeedSequence([0, item]).generate_state(1)[0]))
        made = initializer(torch.randn(4, 3))
        torch.testing.assert_close(start[:, hidden], made[:, hidden])
    assert len(starts) == 2
    main(["diagnose", str(tmp_path / "out" / "posterior.nc")])
    said = capsys.readouterr().out
    assert "for which no diagnostics exist" in said
    assert "nothing looks wrong" not in said


def test_a_condition_image_is_given_to_what_takes_one(pairs, tmp_path, capsys):
    output = tmp_path / "bicyclegan"
    main(["train", "bicyclegan", "--data", str(pairs), "--output", str(output), *OF_PAIRS])
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "c.npy", images[:, ::-1])
    np.save(tmp_path / "three.npy", np.zeros((3, 8, 8, 3), np.uint8))
    where = ["complete", "--generator", str(output), "--images", str(tmp_path / "x.npy"), "--output", str(tmp_path / "out")]
    main([*where, "--context", f"condition={tmp_path / 'c.npy'}", "--chains", "8", "--warmup", "4", "--samples", "1"])
    with h5py.File(tmp_path / "out" / "posterior.nc") as file:
        given = file["constant_data"]["condition"][:]
    np.testing.assert_allclose(given, images[:, ::-1].transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-6)
    capsys.readouterr()
    given = ["--context", f"condition={tmp_path / 'c.npy'}"]
    for options, reason in (
        (
            [],
            r"give --context condition=PICTURES, one picture for all images .* for each, of shape \(3, 8, 8\)",
        ),
        (["--context", "photo=a.png"], "--context photo=a.png: .* takes --context condition=PICTURES"),
        (["--context", "condition=a.png", "--context", "condition=b.png"], "condition is given twice"),
        (["--context", f"condition={tmp_path / 'three.npy'}"], "3 images for 2 items: give one for all or one for each"),
        (["--context", "condition=nowhere.png"], "nowhere.png"),
        (
            ["--algorithm", "learned-descent", *given],
            f"there is no predictor beside {output}: `cogen train cgml` trains a generator",
        ),
        (["--guide", "predictor", *given], f"there is no predictor beside {output}"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*where, *options])
        assert re.search(reason, capsys.readouterr().err)


@pytest.mark.parametrize("backend", ["numpyro", "pyro"])
def test_a_learned_descent_completes_and_starts_the_annealing(pairs, tmp_path, capsys, backend):
    output = tmp_path / "cgml"
    main(["train", "cgml", "--data", str(pairs), "--output", str(output), "--latent-dim", "2", *OF_PAIRS])
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8))
    where = ["complete", "--generator", str(output), "--images", str(tmp_path / "x.npy"), "--output", str(tmp_path / "out")]
    where += ["--context", f"condition={tmp_path / 'x.npy'}", "--chains", "8", "--samples", "2", "--backend", backend]
    capsys.readouterr()
    main([*where, "--algorithm", "learned-descent"])
    assert "2 images, --view half, learned-descent: 8 chains x 2 draws each" in capsys.readouterr().out
    with h5py.File(tmp_path / "out" / "posterior.nc") as file:
        z = file["posterior"]["z"][:]
    assert z.shape == (8, 2, 2, 2)
    main([*where, "--guide", "predictor", "--warmup", "4"])
    assert "annealed-hmc" in capsys.readouterr().out
    for options, reason in (
        (["--warmup", "3"], "--warmup 3: learned-descent has no warm-up; omit it"),
        (["--certify"], "--certify: end points of learned descents are not draws from the posterior"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([*where, "--algorithm", "learned-descent", *options])
        assert reason in capsys.readouterr().err


def test_a_range_says_what_the_values_of_an_array_are(tmp_path):
    """The same pictures in bytes and as floats of another range train the same generator."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "bytes.npy", pixels)
    np.save(tmp_path / "floats.npy", pixels / 127.5 - 1)
    for name, options in {"bytes": [], "floats": ["--range", "-1", "1"]}.items():
        main(["train", "vae", "--data", str(tmp_path / f"{name}.npy"), "--output", str(tmp_path / name), *SMALL, *options])
    assert (tmp_path / "bytes.safetensors").read_bytes() == (tmp_path / "floats.safetensors").read_bytes()


def test_a_second_call_goes_on_and_another_run_is_refused(images, tmp_path, capsys):
    call = ["train", "gan", "--data", str(images), "--output", str(tmp_path / "g"), *SMALL]
    main(call)
    first = (tmp_path / "g.safetensors").read_bytes()
    main(call)  # everything is done already
    assert (tmp_path / "g.safetensors").read_bytes() == first
    with pytest.raises(SystemExit) as stop:
        main([*call, "--seed", "5"])
    assert stop.value.code == 2
    assert "seed (--seed) was 0 there and is 5 here; give another --output" in capsys.readouterr().err
    main([*call, "--epochs", "3"])
    assert (tmp_path / "g.safetensors").read_bytes() != first
    steps = json.loads((tmp_path / "g.json").read_text())["figures"]["steps"]
    with pytest.raises(SystemExit):
        main([*call, "--epochs", "1"])
    assert f"(--epochs): the checkpoint in {tmp_path / 'g-checkpoint'} has made {steps} steps" in capsys.readouterr().err


def test_initial_values_are_of_a_sample_of_the_training_images(tmp_path, monkeypatch):
    """Of files that are sorted by class, all classes, and none of the images that are held out."""
    class_of = np.arange(1_500) >= 1_000
    random = np.random.default_rng(0)
    pixels = (random.integers(0, 100, (1_500, 4, 4)) + 150 * class_of[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "sorted.npz", train_images=pixels, test_images=pixels[:2])
    seen = {}

    def bytes_of(x):
        return {picture.tobytes() for picture in (128 * (x + 1)).floor().clamp(0, 255).byte().numpy()}

    monkeypatch.setattr(RealNVP, "initialise", lambda self, x: seen.update(initial=bytes_of(x)))
    monkeypatch.setattr(training, "write", lambda *arguments: seen.update(held_out=bytes_of(arguments[6][0])))
    options = ["--widths", "8", "--epochs", "0.01", "--output", str(tmp_path / "flow")]
    main(["train", "realnvp", "--data", str(tmp_path / "sorted.npz"), *options])
    assert (len(seen["initial"]), len(seen["held_out"])) == (1_000, 150)
    assert not seen["initial"] & seen["held_out"]
    bright = sum(np.frombuffer(picture, np.uint8).mean() > 125 for picture in seen["initial"])
    assert 280 < bright < 390  # a third


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["gan", "--data", "nowhere"], "nowhere"),
        (["gan", "--data", "IMAGES", "--epochs", "inf"], "--epochs inf: it must be positive and finite"),
        (["gan", "--data", "IMAGES", "--epochs", "nan"], "--epochs nan: it must be positive and finite"),
        (["gan", "--data", "IMAGES", "--learning-rate", "inf"], "--learning-rate inf"),
        (["gan", "--data", "IMAGES", "--widths", "-5", "4"], "widths=(-5, 4): the widths of layers must be at least 1"),
        (["vae", "--data", "TABLE", "--widths", "-5"], "hidden=(-5,): the widths of hidden layers must be at least 1"),
        (
            ["realnvp", "--data", "IMAGES", "--latent-dim", "7"],
            "--latent-dim 7: realnvp has no such setting; families with it: gan, ",
        ),
        (
            ["realnvp", "--data", "IMAGES", "--network", "dense"],
            "--network dense: realnvp has no such setting; families with it: gan, ",
        ),
        (["cgan", "--data", "ONE_CLASS"], "cgan needs labels of at least two classes, and one_class has one class"),
        (
            ["gan", "--data", "IMAGES", "--batch", "1000"],
            "--batch 1000: a training step needs 1000 items, and there are only 4",
        ),
        (["gan", "--data", "IMAGES", "--epochs", "0"], "--epochs 0: it must be positive"),
        (["gan", "--data", "IMAGES", "--latent-dim", "0"], "--latent-dim 0"),
        (
            ["gan", "--data", "IMAGES", "--weight", "2"],
            "gan has no such setting; families with it: alice, veegan, aim, aim-minus, pix2pix, ",
        ),
        (
            ["vae", "--data", "IMAGES", "--real-target", "0.9"],
            "vae has no such setting; families with it: gan, saturating-gan, cgan",
        ),
        (["gan", "--data", "IMAGES", "--learning-rate", "0"], "it must be positive"),
        (["vae", "--data", "TABLE", "--size", "8"], "--size 8: it applies to images, not to tables"),
        (["alice", "--data", "IMAGES", "--weight", "-2"], "weight=-2"),
        (["aim", "--data", "IMAGES", "--widths", "4", "5", "6"], "two channel counts"),
        (["gan", "--data", "IMAGES", "--output", "."], "--output .: it is a folder"),
        (["cvae", "--data", "UNLABELLED"], "cvae needs labels"),
        (["vae", "--data", "TABLE", "--range", "0", "1"], "it applies to images, not to tables"),
        (["vae", "--data", "TABLE", "--mirror"], "--mirror True: it applies to images, not to tables"),
        (["glf", "--data", "IMAGES", "--widths", "4"], "widths (4,): give the features of a patch"),
        (["vae", "--data", "SIGNED"], "--range -1 1"),
        (["vae", "--data", "SIGNED", "--range", "1", "-1"], "--range 1 -1 (data_range): give two finite numbers"),
        (["gan", "--data", "TABLE"], "gan does not train on a table; vae does"),
        (["vae", "--data", "TABLE", "--average", "0.9"], "--average 0.9: it applies to images, not to tables"),
        (["vae", "--data", "TABLE", "--batch", "0"], "--batch 0: it must be at least 1"),
        (["gan", "--data", "IMAGES", "--missing=-"], "--missing -: it applies to tables"),
        (["gan", "--data", "IMAGES", "--categorical", "x"], "--categorical x: it applies to tables"),
        (["gan", "--data", "IMAGES", "--drop", "x"], "--drop x: it applies to tables"),
        (
            ["vae", "--data", "TABLE", "--categorical", "weight"],
            "--categorical=weight: there is no such column; the columns are",
        ),
        (["vae", "--data", "TABLE", "--integer", "height"], "as --integer=height requires"),
        (
            ["vae", "--data", "TABLE", "--drop", "town", "--categorical", "town"],
            "--categorical=town and --drop=town are contradictory",
        ),
        (["vae", "--data", "TABLE", "--missing", "yes"], "column 'smokes' is constant ('no' in every row)"),
    ],
)
def test_bad_input_is_one_line(images, table, tmp_path, capsys, monkeypatch, arguments, reason):
    unlabelled = tmp_path / "unlabelled.npy"
    np.save(unlabelled, np.zeros((20, 8, 8), np.uint8))
    signed = tmp_path / "signed.npy"
    np.save(signed, np.linspace(-1, 1, 1280).reshape(20, 8, 8))
    one_class = tmp_path / "one_class.npz"
    np.savez(one_class, images=np.zeros((20, 8, 8), np.uint8), labels=np.zeros(20, int))
    monkeypatch.chdir(tmp_path)
    places = {"IMAGES": str(images), "UNLABELLED": str(unlabelled), "SIGNED": str(signed), "TABLE": str(table)}
    places["ONE_CLASS"] = str(one_class)
    with pytest.raises(SystemExit) as stop:
        main(["train", *(places.get(argument, argument) for argument in arguments)])
    assert stop.value.code == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert reason in said[-1]
    assert said[-1].startswith("cogen: ")
    assert {path.name for path in tmp_path.iterdir()} == {"unlabelled.npy", "signed.npy", "one_class.npz"}


# --- tables --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("table") / "people.csv"
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["height", "smokes", "town"])
        for size in random.normal(size=80):
            lines.writerow([f"{170 + 10 * size:.1f}", "yes" if size > 0 else "no", ["ulm", "bonn", "kiel"][random.integers(3)]])
    return path


@hardly_trained
def test_a_table_is_trained_on_and_its_holes_are_filled(table, tmp_path, capsys):
    main(["train", "vae", "--data", str(table), "--output", str(tmp_path / "people"), "--epochs", "40", "--batch", "16"])
    said = capsys.readouterr().out
    assert "town                         categorical  3 levels: 'bonn', 'kiel', 'ulm'; none missing\n" in said
    assert said.index("80 rows") < said.index("town  ") < said.index("written")
    rows = tmp_path / "rows.csv"
    rows.write_text("town,smokes,height\nulm,,190\n,no,NA\nbonn,no,160\n")
    (tmp_path / "filled").mkdir()
    (tmp_path / "filled" / "imputation-3.csv").write_text("of an earlier run that wrote more")
    (tmp_path / "filled" / "imputation-notes.csv").write_text("of the user")
    quick = ["--chains", "8", "--warmup", "20", "--samples", "2", "--imputations", "2", "--output", str(tmp_path / "filled")]
    main(["fill", str(rows), "--generator", str(tmp_path / "people"), *quick])
    assert "3 missing values in 2 of 3 rows" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "filled").iterdir()} == {
        *("filled.csv", "uncertainty.csv", "imputation-1.csv", "imputation-2.csv", "imputation-notes.csv", "posterior.nc")
    }
    for name in ("filled.csv", "imputation-1.csv"):
        with (tmp_path / "filled" / name).open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["height"] for row in found][0::2] == ["190", "160"]
        assert found[0]["town"] == "ulm"
        assert found[0]["smokes"] in ("yes", "no")
        assert found[1]["town"] in ("ulm", "bonn", "kiel")
        assert re.fullmatch(r"\d+\.\d", found[1]["height"])  # one decimal, as in the training table
    with (tmp_path / "filled" / "uncertainty.csv").open(newline="") as file:
        entries = {(row["line"], row["column"]): row for row in csv.DictReader(file)}
    assert set(entries) == {("2", "smokes"), ("3", "town"), ("3", "height")}
    with (tmp_path / "filled" / "filled.csv").open(newline="") as file:
        first, second, _ = csv.DictReader(file)
    height, smokes, town = entries["3", "height"], entries["2", "smokes"], entries["3", "town"]
    assert (smokes["filled"], town["filled"], height["filled"]) == (first["smokes"], second["town"], second["height"])
    assert abs(float(height["mean"]) - float(height["filled"])) <= 0.05 + 1e-6
    assert float(height["q05"]) < float(height["q95"])
    assert 0 < float(height["sd"]) < 30
    assert {smokes["filled"], smokes["runner_up"]} == {"yes", "no"}
    assert float(smokes["probability"]) + float(smokes["runner_up_probability"]) == pytest.approx(1, abs=1e-3)
    assert float(town["probability"]) >= float(town["runner_up_probability"]) > 0
    assert height["probability"] == town["sd"] == ""
    with h5py.File(tmp_path / "filled" / "posterior.nc") as stored:
        assert "x" not in stored["posterior"]
        assert stored["posterior"]["line"][:].tolist() == stored["posterior_predictive"]["line"][:].tolist() == [2, 3]
    main(["diagnose", str(tmp_path / "filled" / "posterior.nc")])
    capsys.readouterr()
    before = (tmp_path / "filled" / "filled.csv").read_text().splitlines()
    rows.write_text("town,smokes,height\nulm,yes,190\n,no,NA\nbonn,no,160\n")  # the first row is whole now
    main(["fill", str(rows), "--generator", str(tmp_path / "people"), *quick])
    after = (tmp_path / "filled" / "filled.csv").read_text().splitlines()
    assert after[2] == before[2]  # what fills a row depends on no other row
    stored = json.loads((tmp_path / "people.json").read_text())
    assert [column["name"] for column in stored["schema"]["columns"]] == ["height", "smokes", "town"]


@hardly_trained
def test_words_for_holes_are_remembered_and_what_was_seen_is_kept(tmp_path, capsys):
    random = np.random.default_rng(0)
    lines = [
        f"{1e6 + 1e5 * z:.2f},{random.choice(['00501', '08540', '10001'])},{random.integers(3)}" for z in random.normal(size=60)
    ]
    lines[3:6] = ["-,00501,2", "N/A,08540,1", "2e6,-,0"]
    people, trained = tmp_path / "people.csv", str(tmp_path / "people")
    people.write_text("\n".join(["income,zip,children", *lines]) + "\n")
    train = ["train", "vae", "--data", str(people), "--output", trained, "--epochs", "2", "--batch", "16"]
    with pytest.raises(SystemExit) as stop:
        main(train)
    assert stop.value.code == 2
    caught = capsys.readouterr()
    assert "(1) line 5, column 'income': '-' is neither a finite number nor a word for a hole" in caught.err
    assert "--missing=-" in caught.err
    assert not (tmp_path / "people-checkpoint").exists()
    main([*train, "--missing=-", "--missing", "unknown", "--categorical", "children"])
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "people.csv: 60 rows"
    assert said[1].startswith("  income                       continuous   ")
    assert said[1].endswith("; 2 missing ('-', 'N/A')")
    assert said[2] == "  zip                          categorical  3 levels: '00501', '08540', '10001'; 1 missing ('-')"
    assert said[3] == "  children                     categorical  3 levels: '0', '1', '2'; none missing"
    rows, output = tmp_path / "rows.csv", tmp_path / "filled"
    rows.write_bytes(b'children, zip,income\r\n"2",00501,-\r\n1.0 ,unknown,"1025146.04"\r\n\r\n0,?,1e9')
    quick = ["--chains", "8", "--warmup", "5", "--samples", "2", "--imputations", "2", "--output", str(output)]
    main(["fill", str(rows), "--generator", trained, "--missing", "1e9", *quick])
    assert "4 missing values in 3 of 3 rows" in capsys.readouterr().out
    for name in ("filled.csv", "imputation-1.csv", "imputation-2.csv"):
        kept = rb'children, zip,income\r\n"2",00501,(.+)\r\n1.0 ,(\d{5}),"1025146.04"\r\n\r\n0,(\d{5}),(.+)'
        found = re.fullmatch(kept, (output / name).read_bytes())
        assert found, (output / name).read_text()
        assert np.isfinite([float(found[1]), float(found[4])]).all()
        assert {found[2], found[3]} <= {b"00501", b"08540", b"10001"}


def people(table, tmp_path_factory) -> Path:
    """A generator of the table, trained once."""
    trained = tmp_path_factory.getbasetemp() / "people"
    if not trained.with_suffix(".json").exists():
        main(["train", "vae", "--data", str(table), "--output", str(trained), "--epochs", "2", "--batch", "16"])
    return trained


@pytest.mark.parametrize(
    ("rows", "generator", "reason"),
    [
        ("height,smokes\n190,yes\n", "people", "column 'town' is missing"),
        ("height,smokes,town\n,yes,mars\n", "people", "unknown level 'mars'"),
        ("height,smokes,town\n190,yes,ulm\n", "people", "has no missing values"),
        (
            "height,smokes,town\n,yes,ulm\n",
            "mnist",
            "--generator mnist: it is not a generator of a table; give one of `cogen train",
        ),
        ("height,smokes,town,name\n,yes,ulm,Ann\n", "people", "keep it unread with --carry=name"),
        ("height,smokes,town\ntall,yes,ulm\n", "people", "or give --missing=tall if it marks a hole"),
    ],
)
@hardly_trained
def test_rows_that_cannot_be_filled(table, tmp_path, tmp_path_factory, capsys, rows, generator, reason):
    trained = people(table, tmp_path_factory)
    path = tmp_path / "rows.csv"
    path.write_text(rows)
    with pytest.raises(SystemExit) as stop:
        main(["fill", str(path), "--generator", str(trained) if generator == "people" else generator])
    assert stop.value.code == 2
    assert reason in capsys.readouterr().err


@hardly_trained
@pytest.mark.filterwarnings("always:.* has only missing values")
def test_columns_are_settled_by_hand_and_a_run_that_was_stopped_goes_on(tmp_path, capsys, monkeypatch):
    random = np.random.default_rng(0)
    lines = [f"P{k},{random.integers(20, 80)},{random.integers(2)},{random.normal():.2f}" for k in range(60)]
    people, trained = tmp_path / "people.csv", str(tmp_path / "people")
    people.write_text("\n".join(["id,age,kids,height", *lines]) + "\n")
    train = ["train", "vae", "--data", str(people), "--output", trained, "--epochs", "2", "--batch", "16"]
    main([*train, "--drop", "id", "--integer", "kids"])
    said = capsys.readouterr().out.splitlines()
    assert said[1].startswith("  age                          continuous   2")
    assert ", whole numbers, mean " in said[1]
    assert said[2].startswith("  kids                         continuous   0 to 1, whole numbers, mean ")
    assert said[4] == "  id                           dropped      not modelled"
    with pytest.raises(SystemExit):
        main([*train, "--drop", "id", "--epochs", "3"])
    assert f"cogen: --output {trained}: checkpoint " in (said := capsys.readouterr().err)
    assert "give another --output, or remove this file" in said

    rows, kept = tmp_path / "rows.csv", tmp_path / "kept"
    rows.write_text("id,name,age,kids,height\nQ1,Ann,,1,0.5\nQ2,Bo,40,,\nQ3,Cy,,,\n")
    quick = ["--chains", "8", "--warmup", "20", "--samples", "2", "--imputations", "1", "--carry", "name"]
    fill = ["fill", str(rows), "--generator", trained, *quick]
    with monkeypatch.context() as patched:
        patched.setattr("cogen.models.write_filled", interrupt)
        with pytest.raises(SystemExit) as stop:
            main([*fill, "--output", str(tmp_path / "resumed"), "--checkpoint", str(kept)])
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert "interrupted; the same command resumes from the last checkpoint" in said
    assert f"{rows}: 1 row has only missing values (line 4)" in said
    assert (kept / "run.json").exists()
    assert not (tmp_path / "resumed").exists()
    main([*fill, "--output", str(tmp_path / "resumed"), "--checkpoint", str(kept)])
    main([*fill, "--output", str(tmp_path / "whole")])
    for name in ("filled.csv", "imputation-1.csv"):
        found = (tmp_path / "resumed" / name).read_bytes()
        assert found == (tmp_path / "whole" / name).read_bytes()
        whole = rb"id,name,age,kids,height\nQ1,Ann,-?\d+,1,0.5\nQ2,Bo,40,-?\d+,-?[\d.]+\nQ3,Cy,-?\d+,-?\d+,-?[\d.]+\n"
        assert re.fullmatch(whole, found), found
    assert "pilot" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*fill, "--output", str(tmp_path / "resumed"), "--checkpoint", str(kept), "--seed", "1"])
    assert f"cogen: --checkpoint {kept} is of another run: seed was 0 there and is 1 here" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*fill, "--seed", "-1"])
    assert "cogen: --seed -1: " in capsys.readouterr().err


@pytest.mark.filterwarnings("always:.*no better than independent columns")
def test_a_short_training_warns_and_options_take_several_columns(tmp_path, capsys):
    random = np.random.default_rng(0)
    lines = [f"P{k},2024-01-{k % 28 + 1:02d},{a:.2f},{'no' if k > 1 else 'yes'}" for k, a in enumerate(random.normal(size=60))]
    people, trained = tmp_path / "people.csv", str(tmp_path / "people")
    people.write_text("\n".join(["id,joined,a,b", *lines]) + "\n")
    train = ["train", "vae", "--data", str(people), "--output", trained, "--batch", "16", "--epochs", "1"]
    with pytest.raises(SystemExit):
        main(train)
    (said,) = capsys.readouterr().err.splitlines()
    assert "people.csv: 2 columns cannot be used as they are: (1) column 'id' has" in said
    assert "--drop=id; (2) line 2, column 'joined': '2024-01-01' is a date" in said
    with pytest.raises(SystemExit):
        main([*train, "--drop"])
    assert "--drop: it has no value" in capsys.readouterr().err
    main([*train, "--drop", "id", "joined"])
    said = capsys.readouterr()
    scores = re.search(r"held-out rows: (-?[\d.]+) nats\n  the same of independent columns: (-?[\d.]+) nats", said.out)
    assert "cogen: warning: " in said.err
    assert f"({scores[1]} and {scores[2]} nats per held-out entry)" in said.err
    assert "train longer, as in --epochs 1000." in said.err  # 3 steps an epoch
    stored = json.loads((tmp_path / "people.json").read_text())
    assert stored["schema"]["dropped"] == ["id", "joined"]
    assert stored["figures"]["independent_log_density_per_entry"] == pytest.approx(float(scores[2]), abs=1e-3)
    pictures = tmp_path / "pictures.npy"
    np.save(pictures, np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(SystemExit):
        main(["complete", "--generator", trained, "--images", str(pictures)])
    assert f"is a generator of a table and makes no images: fill tables with `cogen fill ROWS.csv --generator {trained}`" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["fill", str(people), "--generator", str(tmp_path / "poeple")])
    said = capsys.readouterr().err
    assert f"there is no such file; give the --output of `cogen train vae --data TABLE.csv` (there: {trained})" in said


def interrupt(*_):
    raise KeyboardInterrupt


@hardly_trained
def test_a_generator_without_an_encoder_starts_from_the_prior_and_one_of_another_table_is_refused(
    table, tmp_path, tmp_path_factory, capsys
):
    trained = people(table, tmp_path_factory)
    for end in (".json", ".safetensors", "-encoder.json", "-encoder.safetensors"):
        shutil.copy(f"{trained}{end}", tmp_path / f"people{end}")
    rows = tmp_path / "rows.csv"
    rows.write_text("height,smokes,town\n,yes,ulm\n")
    stored = tmp_path / "people-encoder.json"
    config = json.loads(stored.read_text())
    config["arguments"]["schema"]["columns"][0]["mean"] = 0.0
    stored.write_text(json.dumps(config))
    fill = ["fill", str(rows), "--generator", str(tmp_path / "people"), "--output", str(tmp_path / "filled")]
    fill += ["--chains", "8", "--warmup", "5", "--samples", "2"]
    with pytest.raises(SystemExit):
        main(fill)
    assert "the encoder beside it was trained on another table; remove it, or train again" in capsys.readouterr().err
    stored.unlink()
    (tmp_path / "people-encoder.safetensors").unlink()
    main(fill)
    assert "1 missing value in 1 of 1 rows" in capsys.readouterr().out


def test_the_table_itself_is_not_overwritten(tmp_path, capsys):
    rows = tmp_path / "imputation-7.csv"
    rows.write_text("height\nNA\n")
    with pytest.raises(SystemExit) as stop:
        main(["fill", str(rows), "--generator", "people", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "is in this folder under a name that is written" in capsys.readouterr().err
    assert rows.read_text() == "height\nNA\n"

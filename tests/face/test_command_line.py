"""`cogen`: the files it writes, the words it says, and bad input in one line with nothing written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

from cogen import completion
from cogen.command_line import main
from cogen.inference import InProcess
from cogen.job import IMAGES_OF
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage.generators import SHIPPED, GeneratorConfig, save_generator, shipped_images
from cogen.output import read_posterior

SIZE = ["--count", "2", "--chains", "8", "--warmup", "20", "--samples", "2"]
TINY = ["complete", "--generator", "mnist", "--weighted", "--noise", "0.2", *SIZE]
METRICS = {
    *("hidden_crps", "hidden_coverage_50", "hidden_coverage_90", "hidden_mse", "hidden_mse_posterior_mean", "observed_mse"),
    *(
        "hidden_energy_score",
        "hidden_joint_coverage_50",
        "hidden_joint_coverage_90",
        "hidden_pit_mean",
        "hidden_pit_dispersion",
    ),
    *(
        "hidden_descriptive_coverage_50",
        "hidden_descriptive_coverage_90",
        "hidden_interval_width_90",
        "hidden_pairwise_distance",
    ),
    *("hidden_mse_best_of_10", "hidden_pit_p_value"),
    *("psnr", "ssim", "acceptance_rate", "step_size", "ess_min", "nested_rhat_max", "weight_ess", "ancestors_min"),
    *("log_evidence", "log_evidence_standard_error", "gradient_evaluations", "seconds", "compile_seconds", "seed", "versions"),
}
FAIR = {"hidden_crps", "hidden_energy_score", "hidden_pairwise_distance"}
"""Scores that need draws of two populations."""
PLAIN = {"posterior.nc", "completions.png", "annealing.png", "metrics.json", "report.html", "run.toml"}
FILES = PLAIN | {"completed"}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "out" / "deep"
    main([*TINY, "--output", str(folder)])
    return folder


# --- what is written -----------------------------------------------------------------------------------------------


def test_files(written):
    assert names(written) == FILES
    assert names(written.parent) == {"deep"}
    for picture in ("completions.png", "annealing.png"):
        with Image.open(written / picture) as opened:
            assert min(opened.size) > 100


def test_metrics(written):
    metrics = json.loads((written / "metrics.json").read_text())
    assert set(metrics) >= METRICS
    others = {"log_evidence", "log_evidence_standard_error", "versions", "ess_min", "nested_rhat_max", "hidden_pit_p_value"}
    for name in METRICS - others - FAIR:
        assert np.isfinite(metrics[name]), name
    assert metrics["hidden_mse_best_of_10"] < metrics["hidden_mse"]
    assert len(metrics["log_evidence"]) == len(metrics["log_evidence_standard_error"]) == 2
    assert metrics["gradient_evaluations"] % (2 * 8) == 0
    assert metrics["observed_mse"] < metrics["hidden_mse"]
    assert {"torch", "jax", "numpyro", "arviz", "cogen-ppl"} <= set(metrics["versions"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion", "colour"])
def test_a_shipped_generator_completes_its_own_images_by_its_own_noise(name, tmp_path, capsys):
    """Chains that count the same, without weights and evidence; over all hidden pixels roughly calibrated, `colour` less so."""
    main(["complete", "--generator", name, *SIZE, "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert "log evidence" not in said
    assert "effective" not in said
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["noise"] is None
    assert metrics["weight_ess"] == 8
    assert abs(metrics["hidden_coverage_50"] - 0.5) < {"fashion": 0.2, "colour": 0.3}[name]  # 0.26 was measured of colour
    posterior = read_posterior(tmp_path / "posterior.nc")
    seen = posterior["observed_data"]["seen"].values
    images = shipped_images(IMAGES_OF[name])[0][:2]
    top = images.shape[2] // 2
    np.testing.assert_array_equal(seen[:, :, :top], images[:, :, :top])


@pytest.mark.slow
def test_scores_of_pairs_need_two_populations(written, tmp_path, capsys):
    """So few temperatures leave one population to every image: no score, and the report names the reason."""
    metrics = json.loads((written / "metrics.json").read_text())
    population = read_posterior(written / "posterior.nc")["sample_stats"]["population"]
    single = [len(np.unique(population.isel(item=item))) == 1 for item in (0, 1)]
    for name in FAIR:
        assert [value is None for value in metrics["per_item"][name]] == single
    main([*TINY, "--noise", "2", "--output", str(tmp_path)])  # a flat posterior keeps them all
    said = capsys.readouterr().out
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert all(metrics[name] > 0 for name in FAIR)
    assert "energy score" in said
    assert "no CRPS" not in said
    main([*TINY, "--algorithm", "gradient-descent", "--chains", "1", "--output", str(tmp_path)])
    assert "2 of 2 images have no CRPS and no energy score" in capsys.readouterr().out
    assert all(json.loads((tmp_path / "metrics.json").read_text())[name] is None for name in FAIR)


def test_diagnose(written, capsys):
    main(["diagnose", str(written / "posterior.nc")])
    said = capsys.readouterr().out
    assert "AnnealedHMC" in said
    assert "log_evidence" in said
    assert "\n! " in said  # eight chains of twenty temperatures are too few, and that is said
    assert "adapt" in said


@pytest.mark.slow
def test_a_certificate_is_printed_written_and_read_again(tmp_path, capsys):
    small = ["complete", "--generator", "mnist", *SIZE, "--certify", "--items-at-once", "41"]
    main([*small, "--output", str(tmp_path)])
    said = capsys.readouterr().out
    assert names(tmp_path) == FILES | {"certificate.csv"}
    table = json.loads((tmp_path / "metrics.json").read_text())["certificate"]
    assert table["num_simulations"] == 79
    assert table["gradient_evaluations"] > 20 * 10 * (8 + 8) * (2 + 79 + 2)
    main(["diagnose", str(tmp_path / "posterior.nc")])
    for place in (said, capsys.readouterr().out, (tmp_path / "certificate.csv").read_text()):
        assert "evidence_rank" in place
        assert all(verdict in place for verdict in table["verdict"])


def test_generators(capsys):
    main(["generators"])
    said = capsys.readouterr().out
    assert "mnist " in said
    assert "MiB" in said
    assert "licence" in said


@pytest.mark.parametrize(
    "options",
    [
        ["--algorithm", "gradient-descent", "--view", "thumbnail"],
        ["--algorithm", "importance", "--view", "box"],
        pytest.param(["--algorithm", "nuts", "--view", "centre", "--warmup", "5"], marks=pytest.mark.slow, id="nuts"),
        ["--algorithm", "annealed-hmc", "--backend", "pyro"],
        ["--algorithm", "hmc", "--backend", "pyro", "--view", "random", "--warmup", "2", "--chains", "1", "--samples", "4"],
    ],
    ids=lambda options: options[1],
)
def test_another_algorithm_replaces_an_earlier_run(options, tmp_path, capsys):
    old, mine = tmp_path / "completed" / "image-9" / "draw-1.png", tmp_path / "completed" / "image-9" / "mine.png"
    old.parent.mkdir(parents=True)
    for path in (*(tmp_path / name for name in PLAIN), old, mine, tmp_path / "completed" / "image-8" / "mean.png"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    main([*TINY, *options, "--count", "1", "--output", str(tmp_path)])
    assert FILES - {"annealing.png"} <= names(tmp_path) <= FILES | {"notes.txt"}
    assert all((tmp_path / name).read_bytes() != b"old" for name in names(tmp_path) & PLAIN)
    assert names(tmp_path / "completed") == {"image-0", "image-9"}  # an empty folder goes, what is not ours stays
    assert names(mine.parent) == {"mine.png"}
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert set(metrics) >= METRICS
    said = capsys.readouterr()
    assert "Warning" not in said.err
    assert ("annealing.png" in said.out) == (tmp_path / "annealing.png").exists()


def test_one_s_own_pictures_and_generator(tmp_path):
    torch.manual_seed(0)
    config = GeneratorConfig(
        architecture="DenseGenerator",
        arguments={"latent_dim": 3, "event_shape": (3, 12, 12), "hidden": (8,)},
        latent_dim=3,
        event_shape=(3, 12, 12),
        value_range=(-1, 1),
        noise_scale=0.2,
    )
    path = save_generator(tmp_path / "toy", DenseGenerator(3, (3, 12, 12), (8,)), config)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for k in range(3):
        pixels = np.random.default_rng(k).integers(0, 255, size=(12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(pictures / f"{k}.png")
    options = ["--generator", str(path), "--images", str(pictures), "--view", "gray", "--noise", "fit"]
    main([*TINY, *options, "--output", str(tmp_path / "out")])
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["log_evidence"]) == 2
    assert metrics["noise"] > 0.2  # the pictures are noise, and far from the generator


# --- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "options"),
    [
        (lambda pixels: pixels[:, 0, ..., None], []),
        (lambda pixels: pixels / 255, []),
        (lambda pixels: pixels / 127.5 - 1, ["--range", "-1", "1"]),
    ],
    ids=["bytes, channels last", "floats", "the generator's range"],
)
def test_the_same_digits_in_any_array_are_completed_alike(written, change, options, tmp_path):
    pixels = np.rint((shipped_images("mnist")[0] + 1) * 127.5).astype(np.uint8)
    np.save(tmp_path / "x.npy", change(pixels))
    main([*TINY, "--images", str(tmp_path / "x.npy"), *options, "--output", str(tmp_path / "out")])
    found, expected = (json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "out", written))
    assert found["per_item"] == expected["per_item"]
    assert found["log_evidence"] == expected["log_evidence"]


@pytest.mark.filterwarnings("default:.*not read:UserWarning")
def test_what_is_not_read_in_a_folder_of_pictures_is_one_line(tmp_path, capsys):
    (tmp_path / "digits" / "more").mkdir(parents=True)
    Image.new("L", (28, 28)).save(tmp_path / "digits" / "1.webp")
    Image.new("L", (28, 28)).save(tmp_path / "digits" / "more" / "2.bmp")
    (tmp_path / "digits" / "list.csv").touch()
    main([*TINY, "--images", str(tmp_path / "digits"), "--output", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert "\n2 images" in said.out
    assert [line for line in said.err.splitlines() if "not read" in line] == [
        f"cogen: warning: {tmp_path / 'digits'}: 1 file is not read (list.csv); pictures are .png, .jpg, .jpeg, .webp, .bmp, "
        ".gif, .tif, .tiff, .ppm, .pgm"
    ]


def spoil(place: tuple[int, ...], value: float) -> np.ndarray:
    images = (shipped_images("mnist")[0][:2] + 1) / 2
    images[place] = value
    return images


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    np.save(folder / "size.npy", np.zeros((2, 27, 28), np.float32))
    np.save(folder / "nan.npy", spoil((1, 0, 3, 3), np.nan))
    np.save(folder / "infinite.npy", spoil((1, 0, 3, 3), np.inf))
    np.save(folder / "signed.npy", shipped_images("mnist")[0][:2])
    np.save(folder / "scaled.npy", (shipped_images("mnist")[0][:2] + 1) * 127.5)
    Image.new("L", (10, 10)).save(folder / "small.png")
    (folder / "corrupt.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"nonsense" * 9)
    (folder / "corrupt.npy").write_bytes(b"\x93NUMPY nonsense")
    (folder / "empty").mkdir()
    torch.save({"w": torch.zeros(3), "options": SimpleNamespace(rate=0.1)}, folder / "weights.pt")
    for suffix in (".safetensors", ".json"):
        content = (SHIPPED / f"mnist{suffix}").read_bytes()
        (folder / f"truncated{suffix}").write_bytes(content[:5000] if suffix == ".safetensors" else content)
    (folder / "file").write_text("a file")
    return folder


BAD = {
    "wrong size": (["--images", "{bad}/size.npy"], "27"),
    "wrong size of a picture": (["--images", "{bad}/small.png"], "10"),
    "nan where seen": (["--images", "{bad}/nan.npy"], "nan.npy contains NaN: use --mask nan"),
    "infinite where seen": (["--images", "{bad}/infinite.npy"], "inf|finite|range"),
    "floats from -1": (["--images", "{bad}/signed.npy"], "--range -1 1"),
    "floats to 255": (["--images", "{bad}/scaled.npy"], "--range 0 255"),
    "another range": (["--images", "{bad}/scaled.npy", "--range", "0", "200"], "the given range is 0 to 200"),
    "a range upside down": (["--images", "{bad}/scaled.npy", "--range", "255", "0"], "--range 255 0 (data_range): give two"),
    "a range of a picture": (["--images", "{bad}/small.png", "--range", "0", "1"], "--range 0 1 (data_range) is for .npy"),
    "a range of no images": (["--range", "0", "1"], "--range 0 1: it needs an array, given by --images"),
    "missing file": (["--images", "{bad}/none.png"], "none.png"),
    "corrupt picture": (["--images", "{bad}/corrupt.png"], "corrupt.png"),
    "corrupt array": (["--images", "{bad}/corrupt.npy"], "corrupt.npy"),
    "empty folder": (["--images", "{bad}/empty"], "no picture"),
    "truncated weights": (["--generator", "{bad}/truncated.safetensors"], "truncated"),
    "a pickle": (
        ["--generator", "{bad}/weights.pt"],
        "weights.pt can run code when it is read: convert it to safetensors, or give --allow-pickle",
    ),
    "unknown generator": (["--generator", "nonesuch"], "nonesuch"),
    "no image": (["--count", "0"], "--count 0"),
    "no chain": (["--chains", "0"], "--chains 0"),
    "chains that are no populations": (["--certify", "--chains", "10"], "--certify --chains 10"),
    "chains that do not divide": (["--chains", "6"], "--weighted --chains 6: weighted chains form four populations"),
    "too few chains": (["--chains", "4"], "--weighted --chains 4: weighted chains form four populations"),
    "a setting without a value": (["--set", "num_leapfrog"], "--set num_leapfrog: write NAME=VALUE"),
    "an unknown setting": (["--set", "leapfrogs=3"], "annealed-hmc has no setting leapfrogs; it has num_leapfrog, step_size"),
    "a setting that is no number": (["--set", "num_leapfrog=many"], "--set num_leapfrog=many: 'many' is not a number"),
    "a setting out of range": (["--set", "num_leapfrog=0"], "num_leapfrog=0"),
    "a pilot of a descent": (["--algorithm", "gradient-descent", "--pilot", "8"], "gradient-descent on numpyro has no pilot"),
    "a threshold out of range": (["--threshold", "2"], "--threshold 2: it is a share of the chains, between 0 and 1"),
    "a side of no half": (["--view", "box", "--side", "left"], "--side: it needs --view half"),
    "a box outside": (["--box", "20", "20", "10", "10"], "is not inside an image of 28 x 28"),
    "a share of everything": (["--view", "random", "--share", "1"], "--share 1: it must lie between 0 and 1"),
    "a mask of nothing": (["--mask", "alpha"], "--mask alpha: it needs --images"),
    "a truth beside a view": (["--truth", "{bad}/size.npy"], "/size.npy: it needs --mask, thumbnails or gray images"),
    "a mask that is missing": (["--images", "{bad}/small.png", "--mask", "{bad}/none.png"], "none.png"),
    "a mask of another size": (["--images", "{bad}/signed.npy", "--range", "-1", "1", "--mask", "{bad}/small.png"], "10 x 10"),
    "an image without alpha": (["--images", "{bad}/small.png", "--mask", "alpha"], "transparent pixels"),
    "an array without holes": (["--images", "{bad}/signed.npy", "--range", "-1", "1", "--mask", "nan"], "contains NaN"),
    "small parts": (["--images", "{bad}/small.png", "--fit", "patch"], "smaller than the 28 x 28 of the generator"),
    "no configuration": (["--config", "{bad}/file"], "file: this is not a run.toml of `cogen complete`"),
    "a configuration that is missing": (["--config", "{bad}/none.toml"], "none.toml"),
    "no draw": (["--samples", "0"], "--samples 0"),
    "no worker": (["--workers", "0"], "--workers 0"),
    "no image at once": (["--items-at-once", "0"], "--items-at-once 0"),
    "Pyro on Ray": (["--engine", "ray", "--backend", "pyro"], "--engine ray does not run Pyro kernels"),
    "negative warm-up": (["--warmup", "-1"], "--warmup -1"),
    "no warm-up": (["--warmup", "0"], "num_warmup=0"),
    "negative noise": (["--noise", "-0.1"], "--noise -0.1"),
    "no noise": (["--noise", "0"], "--noise 0"),
    "noise that is no number": (["--noise", "nan"], "--noise nan"),
    "gray of gray": (["--view", "gray"], "--view gray: this generator makes gray images, so nothing is hidden"),
    "descent in Pyro": (["--backend", "pyro", "--algorithm", "gradient-descent"], "gradient-descent does not run on Pyro"),
    "a file for output": (["--output", "{bad}/file"], "file"),
    "a file above the output": (["--output", "{bad}/file/out"], "file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(case, bad, tmp_path, capsys):
    options, said = BAD[case]
    before = sorted(bad.rglob("*"))
    output = [] if "--output" in options else ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit_:
        main([*TINY, *output, *(option.format(bad=bad) for option in options)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("cogen: ")
    assert len(error.strip().splitlines()) == 1
    assert any(part in error for part in said.split("|")), error
    assert not list(tmp_path.iterdir())
    assert sorted(bad.rglob("*")) == before
    assert (bad / "file").read_text() == "a file"


def test_what_is_wrong_with_the_output_is_said_before_the_work(bad, monkeypatch, capsys):
    monkeypatch.setattr("cogen.inference.infer", lambda *_, **__: pytest.fail("it ran first"))
    with pytest.raises(SystemExit) as exit_:
        main([*TINY, "--output", str(bad / "file" / "out")])
    assert exit_.value.code == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path, capsys):
    tmp_path.chmod(0o500)
    with pytest.raises(SystemExit) as exit_:
        main([*TINY, "--output", str(tmp_path / "out")])
    tmp_path.chmod(0o700)
    assert exit_.value.code == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["--view", "sideways"], ["--chains", "many"], ["--nonsense"]])
def test_options_that_do_not_parse(options, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([*TINY, *options])
    assert exit_.value.code == 2


@pytest.mark.parametrize("content", [None, b"nonsense", "other groups", "a folder"])
def test_diagnose_what_is_no_posterior(content, tmp_path, capsys):
    path = tmp_path / "posterior.nc"
    if content == "a folder":
        path.mkdir()
    elif content == "other groups":
        import xarray

        xarray.Dataset({"a": ("k", np.ones(3))}).to_netcdf(path, engine="h5netcdf")
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(SystemExit) as exit_:
        main(["diagnose", str(path)])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert len(error.strip().splitlines()) == 1
    assert "posterior.nc" in error


# --- interruptions -------------------------------------------------------------------------------------------------


def interrupt(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["cogen.inference.infer", "cogen.diagnostics.plot_completions", "cogen.completion.job_of"])
def test_control_c_leaves_what_was_there(where, tmp_path, monkeypatch, capsys):
    for name in PLAIN:
        (tmp_path / name).write_text("old")
    if where.endswith("completions"):  # while the files are written
        monkeypatch.setattr(completion, "_write", lambda folder, *_: ((folder / "metrics.json").write_text("{"), interrupt()))
        monkeypatch.setattr(completion, "metrics_of", lambda *_: {})
        answer = SimpleNamespace(posterior={"posterior": SimpleNamespace(attrs={})})
        monkeypatch.setattr(completion, "_by_generator", lambda *_: (SimpleNamespace(names=None), answer))
        monkeypatch.setattr("cogen.diagnostics.groups.has_group", lambda *_: False)
    else:
        monkeypatch.setattr(where, interrupt)
    with pytest.raises(SystemExit) as exit_:
        main([*TINY, "--output", str(tmp_path)])
    assert exit_.value.code == 130
    assert capsys.readouterr().err.strip().count("\n") == 0
    assert names(tmp_path) == PLAIN
    assert all((tmp_path / name).read_text() == "old" for name in PLAIN)


# --- the door ------------------------------------------------------------------------------------------------------


def test_the_engine_runs_the_images_in_jobs(written, tmp_path, monkeypatch):
    """Ray's place is taken by this process: what it is asked for, and that the draws are the same."""
    asked = []

    def executor(workers):
        asked.append(workers)
        return InProcess()

    monkeypatch.setattr("cogen.inference.RayExecutor", executor)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    main([*TINY, "--engine", "ray", "--workers", "3", "--output", str(tmp_path / "out")])
    assert asked == [3]
    draws, expected = (
        xr.open_dataset(folder / "posterior.nc", group="posterior", engine="h5netcdf") for folder in (tmp_path / "out", written)
    )
    assert (draws["z"].values == expected["z"].values).all()
    assert names(tmp_path / "out") == FILES


def test_without_ray_the_engine_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        main([*TINY, "--engine", "ray", "--output", str(tmp_path / "out")])
    assert "pip install 'cogen-ppl[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--help"], ["complete", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    script = (
        "import sys\nfrom cogen.command_line import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as done:\n    assert done.code in (0, None)\n"
        "print('HEAVY', sorted({'torch', 'jax', 'numpyro', 'pyro', 'arviz', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "HEAVY []" in done.stdout, done.stdout[-300:] + done.stderr[-2000:]
    assert "complete" in done.stdout

"""`cogen complete` on what people have: images with holes, of any size, and the files and the page that it makes of them."""

import json
import os
import re
import shutil
import tomllib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from cogen import report
from cogen.command_line import main
from cogen.configuration import with_configuration
from cogen.images import Completed
from cogen.job import Job
from cogen.models.data.originals import Form, Original
from cogen.models.networks.architectures import DenseGenerator
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.output import read_posterior

SHAPE = (3, 8, 8)
SMALL = ["--chains", "8", "--warmup", "5", "--samples", "2", "--noise", "0.1"]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A generator of small colour images, and the images of two of its latents at twice its size, with a hole."""
    folder = tmp_path_factory.mktemp("toy")
    torch.manual_seed(0)
    network = DenseGenerator(3, SHAPE, (16,))
    arguments = {"latent_dim": 3, "event_shape": SHAPE, "hidden": (16,)}
    save_generator(folder / "toy", network, GeneratorConfig("DenseGenerator", arguments, 3, SHAPE, (-1, 1), 0.1))
    with torch.no_grad():
        x = network.eval()(torch.randn(2, 3))
    pixels = np.rint((x.numpy() + 1) * 127.5).astype(np.uint8).transpose(0, 2, 3, 1)
    seen = np.ones((16, 16), bool)
    seen[4:12, 6:14] = False
    for name in ("whole", "images", "masks", "transparent"):
        (folder / name).mkdir()
    for k, each in enumerate(pixels):
        large = each.repeat(2, 0).repeat(2, 1)
        Image.fromarray(large).save(folder / "whole" / f"{k}.png")
        holed = np.where(seen[..., None], large, 255).astype(np.uint8)
        Image.fromarray(holed).save(folder / "images" / f"{k}.png")
        Image.fromarray(np.where(seen, 255, 0).astype(np.uint8)).save(folder / "masks" / f"{k}.png")
        alpha = np.where(seen, 255, 0).astype(np.uint8)[..., None]
        Image.fromarray(np.concatenate([holed, alpha], 2)).save(folder / "transparent" / f"{k}.png")
    np.save(folder / "seen.npy", seen)
    return folder


def run(toy, output, *options):
    main(["complete", "--generator", str(toy / "toy"), *SMALL, "--output", str(output), *options])
    return json.loads((output / "metrics.json").read_text())


@pytest.fixture(scope="module")
def masked(toy, tmp_path_factory):
    output = tmp_path_factory.mktemp("masked") / "out"
    asked = ["--images", str(toy / "images"), "--mask", str(toy / "masks"), "--fit", "resize"]
    return output, run(toy, output, *asked)


def opened(path):
    with Image.open(path) as picture:
        return np.asarray(picture), picture.mode


def test_a_hole_is_filled_and_the_rest_stays(toy, masked, capsys):
    output, metrics = masked
    seen = np.load(toy / "seen.npy")
    for k in range(2):
        before, _ = opened(toy / "images" / f"{k}.png")
        folder = output / "completed" / str(k)
        assert {path.name for path in folder.iterdir()} == {"mean.png", "sd.png", *(f"draw-{d}.png" for d in (1, 2, 3, 4))}
        for name in ("mean", "draw-1", "draw-4"):
            found, mode = opened(folder / f"{name}.png")
            assert mode == "RGB"
            np.testing.assert_array_equal(found[seen], before[seen])
            assert (found[~seen] != 255).any()
        spread, mode = opened(folder / "sd.png")
        assert mode == "L"
        assert (spread[seen] == 0).all()
        assert spread[~seen].any()
    assert "hidden_crps" not in metrics  # nobody has said what the hole holds
    assert metrics["images"] == ["0", "1"]
    posterior = read_posterior(output / "posterior.nc")
    assert np.isnan(posterior["observed_data"]["seen"].values).mean() == pytest.approx(1 / 4, abs=0.1)


def test_with_the_truth_it_is_scored(toy, tmp_path, masked, capsys):
    asked = ["--images", str(toy / "transparent"), "--mask", "alpha", "--fit", "resize", "--truth", str(toy / "whole")]
    metrics = run(toy, tmp_path, *asked, "--warmup", "30")
    said = capsys.readouterr().out
    assert metrics["hidden_crps"] < 0.2
    assert "CRPS" in said
    assert "no truth was given" not in said
    found, mode = opened(tmp_path / "completed" / "0" / "mean.png")
    assert mode == "RGBA"
    assert (found[..., 3] == 255).all()
    truth, _ = opened(toy / "whole" / "0.png")
    hidden = ~np.load(toy / "seen.npy")
    error, of_gray = (np.abs(made - truth[hidden]).mean() for made in (found[hidden][:, :3].astype(float), 127.5))
    assert error < 0.7 * of_gray


def test_a_run_is_repeated_from_its_configuration(toy, masked, tmp_path):
    output, metrics = masked
    stored = tomllib.loads((output / "run.toml").read_text())
    assert stored["complete"]["fit"] == "resize"
    assert stored["complete"]["seed"] == 0
    assert "torch" in stored["versions"]
    main(["complete", "--config", str(output / "run.toml"), "--output", str(tmp_path / "again")])
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["log_evidence"] == metrics["log_evidence"]
    assert again["per_item"] == metrics["per_item"]
    for name in ("mean", "draw-2"):
        first, second = ((folder / "completed" / "1" / f"{name}.png").read_bytes() for folder in (output, tmp_path / "again"))
        assert first == second


def test_options_beside_a_configuration_win(tmp_path):
    (tmp_path / "run.toml").write_text(
        '[complete]\nchains = 8\nview = ["half", "thumbnail"]\nbox = [1, 2, 3, 4]\nweighted = true\nlatent_dim = 3\n'
    )
    config = ["--config", str(tmp_path / "run.toml")]
    expected = [
        "--chains=8",
        "--view",
        "half",
        "--view",
        "thumbnail",
        "--box",
        "1",
        "2",
        "3",
        "4",
        "--weighted",
        "--latent-dim=3",
    ]
    assert with_configuration(["complete", *config]) == ["complete", *expected]
    assert with_configuration(["complete", *config, "--chains", "4", "--no-weighted"]) == [
        "complete",
        *(each for each in expected[1:] if each != "--weighted"),
        "--chains",
        "4",
        "--no-weighted",
    ]
    assert with_configuration(["diagnose", "posterior.nc"]) == ["diagnose", "posterior.nc"]
    (tmp_path / "run.toml").write_text("[complete]\nchain = 8\n")
    with pytest.raises(ValueError, match="`cogen complete` has no option chain"):
        with_configuration(["complete", *config])


def test_parts_of_a_large_image_are_completed_one_by_one(toy, tmp_path, capsys):
    large = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    mask = np.full((24, 20), 255, np.uint8)
    mask[2:5, 2:5] = mask[18:22, 14:18] = 0
    Image.fromarray(large).save(tmp_path / "large.png")
    Image.fromarray(255 - mask).save(tmp_path / "mask.png")
    asked = ["--images", str(tmp_path / "large.png"), "--mask", str(tmp_path / "mask.png"), "--invert-mask", "--fit", "patch"]
    metrics = run(toy, tmp_path / "out", *asked, "--keep-draws", "1")
    assert metrics["images"] == ["large (0, 0)", "large (8, 16)", "large (12, 16)"]  # left, top; the last two overlap
    found, _ = opened(tmp_path / "out" / "completed" / "large" / "draw-1.png")
    assert found.shape == large.shape
    np.testing.assert_array_equal(found[mask > 0], large[mask > 0])
    assert (found[mask == 0] != large[mask == 0]).any()
    assert not (tmp_path / "out" / "completed" / "large" / "draw-2.png").exists()


def test_several_views_are_seen_together(toy, tmp_path):
    x = np.stack([opened(toy / "whole" / f"{k}.png")[0][::2, ::2] for k in range(2)])
    np.save(tmp_path / "x.npy", x)
    asked = ["--images", str(tmp_path / "x.npy"), "--view", "half", "--side", "left", "--view", "thumbnail"]
    run(toy, tmp_path / "out", *asked)
    observed = read_posterior(tmp_path / "out" / "posterior.nc")["observed_data"]
    assert set(observed.data_vars) >= {"half", "thumbnail"}
    assert observed["thumbnail"].shape == (2, 3, 2, 2)
    left = observed["half"].values[..., :4]
    np.testing.assert_allclose(left, x.transpose(0, 3, 1, 2)[..., :4] / 127.5 - 1, atol=1e-6)
    found = np.load(tmp_path / "out" / "completed" / "x" / "mean.npy")
    assert (found.shape, found.dtype) == (x.shape, x.dtype)


@pytest.mark.parametrize(("view", "size"), [("thumbnail", (2, 2)), ("gray", (8, 8))])
def test_what_a_view_shows_may_be_all_there_is(view, size, toy, tmp_path):
    """A small picture is enlarged, and a gray one coloured; nobody knows the truth."""
    gray = np.random.default_rng(0).integers(90, 160, size, dtype=np.uint8)
    Image.fromarray(gray if view == "gray" else np.stack([gray] * 3, -1)).save(tmp_path / "a.png")
    metrics = run(toy, tmp_path / "out", "--images", str(tmp_path / "a.png"), "--view", view)
    assert "hidden_crps" not in metrics
    found, mode = opened(tmp_path / "out" / "completed" / "a" / "draw-1.png")
    assert (found.shape, mode) == ((8, 8, 3), "RGB")
    observed = read_posterior(tmp_path / "out" / "posterior.nc")["observed_data"]["seen"].values
    assert observed.shape[-2:] == size
    assert abs(observed.mean() - (gray.mean() / 127.5 - 1)) < 0.01


def test_a_stopped_run_goes_on(toy, tmp_path, capsys):
    asked = ["--images", str(toy / "whole"), "--fit", "resize", "--checkpoint", str(tmp_path / "kept")]
    first = run(toy, tmp_path / "a", *asked)
    assert any((tmp_path / "kept").iterdir())
    second = run(toy, tmp_path / "b", *asked)
    assert second["per_item"] == first["per_item"]
    with pytest.raises(SystemExit):
        run(toy, tmp_path / "c", *asked, "--seed", "1")
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith(f"cogen: --checkpoint {tmp_path / 'kept'}")


SETTINGS = {"langevin": "step_size=0.02", "parallel-tempering": "step_size=0.02", "svi": "num_particles=2"}


@pytest.mark.parametrize(("backend", "algorithm"), [*(("numpyro", name) for name in SETTINGS), ("pyro", "svi")])
def test_other_kernels_by_name(backend, algorithm, toy, tmp_path):
    asked = ["--images", str(toy / "whole"), "--fit", "resize", "--algorithm", algorithm, "--set", SETTINGS[algorithm]]
    asked += ["--backend", backend]
    metrics = run(toy, tmp_path, *asked, "--count", "1")
    assert metrics["gradient_evaluations"] > 0
    assert np.isfinite(metrics["hidden_crps"])


def test_more_images_than_are_completed_are_counted(toy, tmp_path, capsys):
    run(toy, tmp_path, "--images", str(toy / "whole"), "--fit", "crop", "--count", "1")
    assert "completed 1 of 2 images; use --count 2 for all" in capsys.readouterr().out


def test_negatives_are_completed_as_what_they_show_and_written_as_they_came(toy, tmp_path):
    """Inverted colours of images, results inverted back: the draws of both runs are the same."""
    (tmp_path / "negative").mkdir()
    for path in (toy / "whole").glob("*.png"):
        picture = Image.open(path)
        Image.fromarray(255 - np.asarray(picture)).save(tmp_path / "negative" / path.name)
    asked = ["--fit", "resize", "--mask", str(toy / "masks" / "0.png"), "--keep-draws", "2"]
    run(toy, tmp_path / "a", "--images", str(toy / "whole"), *asked)
    run(toy, tmp_path / "b", "--images", str(tmp_path / "negative"), "--negative", *asked)
    names = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a" / "completed").rglob("*.png"))
    assert len(names) == 2 * 4
    for name in names:
        one, other = (np.asarray(Image.open(tmp_path / folder / name), float) for folder in "ab")
        assert np.abs(other - (one if name.stem == "sd" else 255 - one)).mean() < 2


def test_images_of_the_wrong_colours_are_found(toy, tmp_path, capsys):
    """A generator of colours near one value cannot make their opposites: the residual says so, and the remedy is an option."""
    (tmp_path / "other").mkdir()
    Image.new("RGB", (16, 16), (255, 0, 255)).save(tmp_path / "other" / "one.png")
    run(toy, tmp_path / "out", "--images", str(tmp_path / "other"), "--fit", "resize", "--mask", str(toy / "masks" / "0.png"))
    said = capsys.readouterr().out
    assert "item one: the RMS residual of the seen part" in said
    assert "--negative" in said
    assert "the seen part of every image has a single value" in said
    assert "run with --invert-mask" in said


def test_masks_of_the_values_0_and_1(toy, tmp_path):
    mask = np.asarray(Image.open(toy / "masks" / "0.png")) > 127
    Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "ones.png")
    asked = ["--images", str(toy / "whole"), "--fit", "resize"]
    one = run(toy, tmp_path / "a", *asked, "--mask", str(toy / "masks" / "0.png"))
    other = run(toy, tmp_path / "b", *asked, "--mask", str(tmp_path / "ones.png"))
    assert one["per_item"] == other["per_item"]


@pytest.mark.parametrize("factor", [2, 4])
def test_thumbnails_of_any_size_that_divides_the_generators(factor, toy, tmp_path, capsys):
    (tmp_path / "small").mkdir()
    for path in (toy / "whole").glob("*.png"):
        Image.open(path).resize((8 // factor, 8 // factor), Image.Resampling.BOX).save(tmp_path / "small" / path.name)
    with pytest.raises(SystemExit):
        run(toy, tmp_path / "out", "--images", str(tmp_path / "small"))
    assert f"1/{factor} of the generator's 8 x 8: use --view thumbnail" in capsys.readouterr().err
    asked = ["--images", str(tmp_path / "small"), "--view", "thumbnail", "--truth", str(toy / "whole"), "--fit", "resize"]
    metrics = run(toy, tmp_path / "out", *asked)
    assert metrics["noise"] == pytest.approx(0.1 / factor)
    assert metrics["hidden_crps"] < 0.5
    observed = read_posterior(tmp_path / "out" / "posterior.nc")["observed_data"]["seen"]
    assert observed.shape == (2, 3, 8 // factor, 8 // factor)


def test_transparent_pixels_without_a_mask_are_noted(toy, tmp_path, capsys):
    (tmp_path / "clear").mkdir()
    picture = Image.open(sorted((toy / "whole").glob("*.png"))[0]).convert("RGBA")
    picture.putalpha(Image.new("L", picture.size, 0))
    picture.save(tmp_path / "clear" / "one.png")
    run(toy, tmp_path / "out", "--images", str(tmp_path / "clear"), "--fit", "resize")
    assert "one: transparent pixels were taken as white; use --mask alpha" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--images", "nowhere"], "--images nowhere: no image file or folder"),
        (["--images", "tiny.png", "--view", "thumbnail"], "tiny is 3 x 3 pixels, which does not divide the generator's 8 x 8"),
        (["--images", "whole", "--mask", "nowhere.png"], "--mask nowhere.png: no image file or folder"),
        (["--images", "whole", "--fit", "resize", "--truth", "whole"], "--truth whole: it needs --mask, thumbnails"),
        (["--images", "whole", "--output", "whole/out"], "--output whole/out: it is inside of --images whole"),
        (
            ["--images", "images", "--fit", "resize", "--set", "leapfrog=3"],
            "annealed-hmc has no setting leapfrog; it has num_leapfrog",
        ),
        (["--images", "images", "--fit", "resize", "--set", "leapfrog"], "--set leapfrog: write NAME=VALUE"),
    ],
)
def test_refusals_name_the_option_and_the_file(asked, message, toy, monkeypatch, capsys):
    monkeypatch.chdir(toy)
    Image.new("RGB", (3, 3)).save("tiny.png")
    with pytest.raises(SystemExit) as stopped:
        main(["complete", "--generator", "toy", *SMALL, *asked])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_configuration_is_read_from_any_folder(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(toy)
    main(["complete", "--generator", "toy", *SMALL, "--images", "whole", "--fit", "resize", "--output", str(tmp_path / "a")])
    monkeypatch.chdir(tmp_path)
    main(["complete", "--config", "a/run.toml", "--output", "b"])
    one, other = (json.loads((tmp_path / name / "metrics.json").read_text())["per_item"] for name in "ab")
    assert one == other


def test_the_version(capsys):
    main(["--version"])
    assert re.fullmatch(r"cogen \d+\.\d+\.\d+\n", capsys.readouterr().out)


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else(masked):
    output, _ = masked
    page = (output / "report.html").read_text()
    assert (output / "report.html").stat().st_size < 3 * 2**20
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert page.count('class="card"') == 2
    assert page.count('alt="draw ') == 2 * 8
    assert page.count('class="along"') == 2
    assert "No truth was given" in page
    assert "--mask" in page
    assert "[complete]" in page


def test_a_page_of_many_large_images_stays_small():
    """The pictures are compressed, and images that do not fit are counted."""
    noise = np.random.default_rng(0).random((40, 3, 300, 300)).astype(np.float32)
    form = Form(np.dtype(np.uint8), (0, 255))
    originals = [Original(f"image-{k}", (255 * each).astype(np.uint8), form) for k, each in enumerate(noise)]
    job = Job(noise, [each.name for each in originals], originals, [], seen=[np.zeros((300, 300), bool)] * 40)
    images = Completed(
        originals, list(noise), list(noise), [noise[:8]] * 40, [np.ones((300, 300), bool)] * 40, None, [noise[:12]] * 40
    )
    cards = report._cards(job, images, SimpleNamespace(classes=None))
    assert 1 <= len(cards) < 40
    assert sum(len(text) for card in cards for text in [*card["draws"], *card["path"], card["mean"]]) < report.BYTES


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None and os.environ.get("CI"):
        pytest.fail("CI installs chromium")
    if path is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.parametrize("width", [400, 1600])
def test_the_page_in_a_browser(width, masked, browser):
    """No errors, nothing wider than the screen, and sliders that show other draws and other transitions."""
    output, _ = masked
    page = browser.new_page(viewport={"width": width, "height": 900})
    said = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto((output / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('.draw')].map(f => [...f.querySelectorAll('img')].findIndex(i => i.offsetWidth > 0))"
    assert page.evaluate(shown) == [0, 0]
    page.locator("#every").fill("3")
    assert page.evaluate(shown) == [2, 2]
    page.locator(".one").first.fill("8")
    assert page.evaluate(shown) == [7, 2]
    first = page.locator("#values").inner_text()
    page.locator("#along").fill("5")
    assert page.locator("#values").inner_text() != first
    assert "inverse temperature" in first
    along = shown.replace(".draw", ".along")
    assert page.evaluate(along) == [4, 4]
    pictures = page.evaluate("[...document.querySelector('.along').querySelectorAll('img')].map(i => i.src)")
    assert len(set(pictures)) > 1  # the chain moves
    assert page.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    assert said == []
    page.close()


# --- in Python again -----------------------------------------------------------------------------------------------


def test_a_stored_run_knows_its_model(masked, tmp_path):
    from cogen import load_run
    from cogen.diagnostics import decoded

    output, _ = masked
    posterior, seen = load_run(output)
    x = decoded(posterior, seen)
    assert x.shape == (8, 2, 2, *SHAPE)
    np.testing.assert_allclose(x.mean(("chain", "draw")), posterior["predictions"]["x_mean"], atol=0.2)
    with pytest.raises(FileNotFoundError, match=r"contains no posterior\.nc: give an output folder"):
        load_run(tmp_path)

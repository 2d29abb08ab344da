"""The example runs on tiny pairs for every task, its scores are those of the hidden part, and its report joins files."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def folder(tmp_path):
    """Pictures of two images: one of a shade, and its label."""
    random = np.random.default_rng(0)
    for part, count in (("train", 24), ("test", 4)):
        (tmp_path / "pairs" / part).mkdir(parents=True)
        for k in range(count):
            picture = random.integers(0, 256, (40, 80, 3), dtype=np.uint8)
            picture[:, 40:] = [0, 0, 10 * k]
            Image.fromarray(picture).save(tmp_path / "pairs" / part / f"{k}.png")
    return tmp_path / "pairs"


def options(script, folder, tmp_path, **changed):
    sizes = {"size": 32, "crop_from": 36, "width": 2, "batch": 2, "draws": 4, "pictures": 2, "minutes": 1e-4, "average": 0.0}
    return script.Options(data=str(folder), output=tmp_path / "out", **{**sizes, **changed})


def test_the_hidden_centre(script, folder, tmp_path, capsys):
    families = ("coopnets-unet:1", "bicyclegan@1e-3", "context-encoder")
    record = script.main(options(script, folder, tmp_path, families=families, seeds=(0, 1)))
    found = [(row["family"], row["part"], row["seeds"]) for row in record["rows"]]
    assert found == [
        ("coopnets-unet:1", "initializer", 2),
        ("coopnets-unet:1", "solver", 2),
        ("bicyclegan@1e-3", "generator", 2),
        ("context-encoder", "generator", 2),
        ("nearest", "images", 1),
    ]
    assert record["rows"][1]["noisy_energy_score_difference"] == 0
    assert record["rows"][3]["distance"] == 0
    assert (tmp_path / "out.png").is_file()
    said = capsys.readouterr().out
    assert "bicyclegan@1e-3, generator" in said
    assert "19.07 / 0.64" in said
    assert "ours: 32 pixels, width 2, batches of 2" in said
    again = script.main(script.Options(report=(tmp_path / "out.json",), output=tmp_path / "again"))
    stored = json.loads((tmp_path / "out.json").read_text())
    for mine, theirs in zip(again["rows"], stored["rows"], strict=True):
        assert [mine[name] for name in ("family", "part", "seeds")] == [theirs[name] for name in ("family", "part", "seeds")]
        for score in script.SCORES:
            assert mine[score] == pytest.approx(theirs[score], rel=1e-3)
    with pytest.raises(SystemExit, match="two of the files have the same family with the same seed"):
        script.main(script.Options(report=(tmp_path / "out.json",) * 2, output=tmp_path / "again"))
    (tmp_path / "other.json").write_text(json.dumps({**stored, "images": 5}))
    with pytest.raises(SystemExit, match=r"images 5, and .* has 4: records must be of one experiment"):
        script.main(script.Options(report=(tmp_path / "out.json", tmp_path / "other.json"), output=tmp_path / "again"))


@pytest.mark.parametrize("task", ["labels", "sketch"])
def test_one_image_of_another_and_the_way_between_two(script, folder, tmp_path, task):
    record = script.main(
        options(script, folder, tmp_path, task=task, families=("coopnets-unet",), between=3, validate=task == "sketch")
    )
    assert [row["part"] for row in record["rows"]] == ["initializer", "solver", "images"]
    assert (tmp_path / "out-between.png").is_file()


def test_the_way_begins_and_ends_at_what_the_conditions_give(script, folder, tmp_path):
    split = script.split_of(options(script, folder, tmp_path, task="labels"))
    _, family = script.build("coopnets-unet", 0, options(script, folder, tmp_path, task="labels"), split)
    family.eval()
    start, end = split.judge[1][:2]
    way = script.between(family, start, end, 3, seed=5)
    for image, condition in ((way[0], start), (way[2], end)):
        torch.manual_seed(5)
        with torch.no_grad():
            alone = family.refined(family.generator(torch.zeros(1, 0), condition[None]), condition[None]).clamp(-1, 1)
        torch.testing.assert_close(image[None], alone)


def test_scores_are_of_the_box_alone(script):
    condition = script.hide_centre(torch.rand(3, 3, 32, 32) * 2 - 1)
    x = torch.rand(3, 3, 32, 32) * 2 - 1
    draws = x.expand(4, *x.shape).clone()
    draws[..., 8:24, 8:24] += 0.2
    elsewhere = draws.clone()
    elsewhere[..., :8, :] = 1.0
    found, same = (script.scores(*script.judged(each, x, condition, "centre"), 0.1) for each in (draws, elsewhere))
    for name, values in found.items():
        np.testing.assert_allclose(values, same[name])
    np.testing.assert_allclose(found["psnr"], 20.0, rtol=1e-3)  # of a range of 2, an error of a tenth
    np.testing.assert_allclose(found["energy_score"], 0.2 * (3 * 16 * 16) ** 0.5, rtol=1e-3)
    np.testing.assert_array_equal(found["distance"], 0)


def test_the_noise_is_that_of_the_residual_where_draws_have_none(script):
    random = np.random.default_rng(1)
    truth = random.normal(0, 0.2, (20, 3, 8, 8))
    alike = np.zeros((16, *truth.shape))
    assert script.best_noise(alike, truth) == 0.2
    assert script.best_noise(random.normal(0, 0.2, alike.shape), truth) <= 0.05
    noisy = script.noisy_energy_score(alike, truth, 0.2).mean()
    np.testing.assert_allclose(noisy, 0.2 * 192**0.5 * 0.5**0.5, rtol=0.02)


def test_a_hidden_centre_is_that_of_the_library(script):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 12), dtype=np.uint8)
    expected = script.as_floats(torch.from_numpy(script.MADE["centre"](images)))
    torch.testing.assert_close(script.hide_centre(script.as_floats(torch.from_numpy(images))), expected)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"data": "nowhere"}, "nowhere"),
        ({"task": "labels", "pairs": False}, "--task labels --no-pairs"),
        ({"families": ("gan",)}, "gan does not train on pairs of images"),
        ({"families": ("unet-l1:3",)}, "unet-l1 has no weight"),
        ({"draws": 5}, "--draws 5: give an even number"),
        ({"batch": 100}, "--batch 100: give 1 to the 22"),
        ({"size": 16, "crop_from": 16}, "--size 16: the scored part has 8 pixels"),
        ({"between": 3}, "--between 3 --task centre"),
    ],
)
def test_what_cannot_be_trained_is_said(script, folder, tmp_path, changed, reason):
    with pytest.raises(SystemExit, match=reason):
        script.main(dataclasses.replace(options(script, folder, tmp_path), **changed))

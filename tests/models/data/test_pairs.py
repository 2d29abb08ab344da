"""Pairs of images: both halves are found where they are, conditions are what they say, and bad files end in one line."""

import importlib

import numpy as np
import pytest
from PIL import Image

from cogen.models.data.datasets import ImageData
from cogen.models.data.pairs import centre_hidden, edges, load_pairs, paired, sketch

RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)
MAPS = RANDOM.integers(0, 256, (6, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Four pairs to train on and two to test on, the photo at the left."""
    for k, (photo, drawn) in enumerate(zip(PHOTOS, MAPS, strict=True)):
        part = tmp_path / ("train" if k < 4 else "test")
        part.mkdir(exist_ok=True)
        Image.fromarray(np.concatenate([photo, drawn], axis=2).transpose(1, 2, 0)).save(part / f"{k}.png")
    return tmp_path


def test_halves_of_a_picture_are_a_pair(folder):
    data = load_pairs(folder)
    np.testing.assert_array_equal(data.train, PHOTOS[:4])
    np.testing.assert_array_equal(data.train_conditions, MAPS[:4])
    np.testing.assert_array_equal(data.test, PHOTOS[4:])
    np.testing.assert_array_equal(data.test_conditions, MAPS[4:])
    other = load_pairs(folder, condition_left=True)
    np.testing.assert_array_equal(other.train, MAPS[:4])
    np.testing.assert_array_equal(other.test_conditions, PHOTOS[4:])


def test_each_half_is_resized_by_itself(folder):
    small = load_pairs(folder, size=4)
    alone = Image.fromarray(PHOTOS[0].transpose(1, 2, 0)).resize((4, 4), Image.Resampling.BICUBIC)
    assert small.train.shape == small.train_conditions.shape == (4, 3, 4, 4)
    np.testing.assert_array_equal(small.train[0], np.asarray(alone).transpose(2, 0, 1))


def test_pictures_of_other_sizes_are_made_alike_by_a_size(folder):
    Image.new("RGB", (20, 10)).save(folder / "train" / "larger.png")
    with pytest.raises(ValueError, match=r"larger.png is 20 x 10 pixels, 0.png is 16 x 8; all must have the same size"):
        load_pairs(folder)
    assert load_pairs(folder, size=8).train.shape == (5, 3, 8, 8)


def test_arrays_are_split_as_pairs(tmp_path):
    np.savez(tmp_path / "both.npz", images=PHOTOS, conditions=MAPS[:, :1] / 255.0)
    data = load_pairs(tmp_path / "both.npz", test_share=0.34)
    assert data.name == "both"
    assert (data.train.shape, data.test_conditions.shape) == ((4, 3, 8, 8), (2, 1, 8, 8))
    for images, conditions in ((data.train, data.train_conditions), (data.test, data.test_conditions)):
        for image, condition in zip(images, conditions, strict=True):
            (item,) = np.flatnonzero((image == PHOTOS).all((1, 2, 3)))
            np.testing.assert_array_equal(condition, MAPS[item, :1])
    halves = {"train_images": PHOTOS[:4], "train_conditions": MAPS[:4], "test_images": PHOTOS[4:], "test_conditions": MAPS[4:]}
    np.savez(tmp_path / "split.npz", **halves)
    data = load_pairs(tmp_path / "split.npz", size=4)
    assert (data.train.shape, data.test.shape) == ((4, 3, 4, 4), (2, 3, 4, 4))


def test_a_hidden_centre_is_gray_and_marked():
    (condition, *_) = centre_hidden(PHOTOS)
    hidden = np.zeros((8, 8), bool)
    hidden[2:6, 2:6] = True
    assert condition.shape == (4, 8, 8)
    assert (condition[:3, hidden] == 127).all()
    np.testing.assert_array_equal(condition[:3, ~hidden], PHOTOS[0][:, ~hidden])
    np.testing.assert_array_equal(condition[3], np.where(hidden, 0, 255))


def test_conditions_are_made_of_images_or_of_the_targets_of_pairs(folder):
    plain = ImageData("plain", PHOTOS[:4], PHOTOS[4:], np.arange(4), np.arange(2))
    for data in (paired(plain, centre_hidden), paired(load_pairs(folder), centre_hidden)):
        np.testing.assert_array_equal(data.train, PHOTOS[:4])
        np.testing.assert_array_equal(data.test_conditions, centre_hidden(PHOTOS[4:]))


def test_edges_lie_where_brightness_steps_and_a_sketch_darkens_there():
    step = np.zeros((1, 3, 16, 16), np.uint8)
    step[..., 8:] = 200
    found = edges(step)[0, 0]
    assert set(np.unique(found)) == {0, 255}
    assert set(np.flatnonzero((found == 0).any(0))) <= {7, 8}
    assert (found[4:12] == 0).any(1).all()
    drawn = sketch(200 - step)[0, 0]
    assert drawn.shape == (16, 16)
    assert drawn[:, 8:].max() < drawn[:, :4].min()


def test_without_scikit_image_the_remedy_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"edges and sketches require scikit-image, .*: pip install scikit-image"):
        edges(PHOTOS)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((15, 8), r"odd.png is 15 x 8 pixels, but two images side by side have an even width, greater than the height"),
        ((8, 8), r"odd.png is 8 x 8 pixels, but two images .* make the condition from the image itself"),
    ],
)
def test_a_picture_that_is_no_pair(folder, size, reason):
    Image.new("RGB", size).save(folder / "train" / "odd.png")
    with pytest.raises(ValueError, match=reason):
        load_pairs(folder)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"images": PHOTOS}, r"bad.npz contains images, but not conditions: pairs are images and conditions, or"),
        ({"train_images": PHOTOS, "train_conditions": MAPS}, r"but not test_images"),
        (
            {"images": PHOTOS, "conditions": MAPS[:5]},
            r"6 images of 8 x 8 pixels, but 5 conditions of 8 x 8: give one condition",
        ),
        (
            {"images": PHOTOS, "conditions": MAPS[..., 2:, 2:]},
            r"6 images of 8 x 8 pixels, but 6 conditions of 6 x 6: .* of the same size",
        ),
        ({"images": PHOTOS[:2], "conditions": MAPS[:2]}, r"leaves 1 pairs for training"),
        ({"images": PHOTOS, "conditions": MAPS / 1.0}, r"conditions has values from .* the default range of floats is 0 to 1"),
        (
            {
                "train_images": PHOTOS,
                "train_conditions": MAPS,
                "test_images": PHOTOS[..., 2:, 2:],
                "test_conditions": MAPS[..., 2:, 2:],
            },
            r"training and test pairs differ in size",
        ),
    ],
)
def test_arrays_that_are_no_pairs(tmp_path, arrays, reason):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(ValueError, match=reason):
        load_pairs(tmp_path / "bad.npz")


def test_what_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file at .*none.npz"):
        load_pairs(tmp_path / "none.npz")
    with pytest.raises(ValueError, match=r"size is 0"):
        load_pairs(tmp_path, size=0)

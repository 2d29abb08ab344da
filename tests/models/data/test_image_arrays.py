"""Arrays of images mean the same to `load_images`, which completes them, and to `load_image_data`, which trains on them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogen.models import load_image_data, load_images
from cogen.models.data.image_arrays import from_bytes

RANGE = (-1.0, 1.0)
SHAPE = (1, 6, 5)
GRAY = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), dtype=np.uint8)
GRAY[0, 0, 0, :2] = 0, 255
RGB = np.random.default_rng(1).integers(0, 256, (3, 3, 6, 5), dtype=np.uint8)
ALPHA = np.random.default_rng(2).integers(0, 256, (3, 1, 6, 5), dtype=np.uint8)
RGBA = np.concatenate([RGB, ALPHA], axis=1)
ON_WHITE = 255 - (255.0 - RGB) * (ALPHA / 255)
BITS = np.uint8(GRAY > 99)


def read(path: Path, array: np.ndarray, shape: tuple[int, ...] = SHAPE, data_range=None) -> tuple[np.ndarray, np.ndarray]:
    """As it is completed, within [-1, 1], and as it is trained on, 0 to 255."""
    np.save(path, array)
    completed = load_images(path, shape, RANGE, data_range=data_range)
    assert completed.dtype == np.float32
    np.savez(path.with_name("split.npz"), train_images=array, test_images=array)
    return completed, load_image_data(path.with_name("split.npz"), data_range=data_range).train


@pytest.mark.parametrize(
    ("array", "data_range", "expected"),
    [
        (GRAY, None, GRAY),
        (GRAY.astype(np.int64), None, GRAY),
        (GRAY.astype(np.uint16), (0, 255), GRAY),
        (GRAY / 255, None, GRAY),
        ((GRAY / 255).astype(np.float16), None, GRAY),
        (GRAY / np.float32(255) + np.float32(1e-7), None, GRAY),  # rounded beyond the end
        (GRAY / 127.5 - 1, (-1, 1), GRAY),
        (GRAY.astype(np.float32), (0, 255), GRAY),
        (GRAY.astype(np.uint16) * 257, (0, 65535), GRAY),
        (GRAY.astype(np.int16) - 128, (-128, 127), GRAY),
        (GRAY > 99, None, 255 * BITS),
        (BITS, (0, 1), 255 * BITS),
        (BITS.astype(int), (0, 255), BITS),
    ],
    ids=lambda value: f"{value.dtype}" if isinstance(value, np.ndarray) else str(value),
)
def test_values_mean_the_same_to_both(tmp_path, array, data_range, expected):
    completed, trained = read(tmp_path / "x.npy", array, data_range=data_range)
    np.testing.assert_array_equal(trained, expected)
    if array.dtype not in (np.float16, np.float32):  # a chain is chaotic: one bit of an image changes its end
        np.testing.assert_array_equal(completed, from_bytes(expected, RANGE))
    np.testing.assert_allclose(completed, expected / 127.5 - 1, atol=2e-3 if array.dtype == np.float16 else 1e-6)
    np.savez(tmp_path / "x.npz", images=array)
    np.testing.assert_array_equal(load_images(tmp_path / "x.npz", SHAPE, RANGE, data_range=data_range), completed)
    zero_to_one = load_images(tmp_path / "x.npy", SHAPE, (0, 1), data_range=data_range)  # whatever the generator's range is
    np.testing.assert_allclose(zero_to_one, (completed + 1) / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GRAY[:, 0], GRAY),
        (GRAY.transpose(0, 2, 3, 1), GRAY),
        (RGB, RGB),
        (RGB.transpose(0, 2, 3, 1), RGB),
        (RGBA, ON_WHITE),
        (RGBA.transpose(0, 2, 3, 1), ON_WHITE),
        (RGBA / 255, ON_WHITE),
    ],
    ids=lambda array: str(array.shape),
)
def test_layouts_are_read_alike_and_what_is_transparent_is_put_on_white(tmp_path, array, expected):
    completed, trained = read(tmp_path / "x.npy", array, expected.shape[1:])
    np.testing.assert_array_equal(trained, np.rint(expected))
    np.testing.assert_allclose(completed, expected / 127.5 - 1, atol=1e-5)
    np.save(tmp_path / "one.npy", array[0])
    np.testing.assert_array_equal(load_images(tmp_path / "one.npy", expected.shape[1:], RANGE), completed[:1])


def test_a_generator_with_four_channels_is_given_all_of_them(tmp_path):
    np.save(tmp_path / "x.npy", RGBA)
    np.testing.assert_allclose(load_images(tmp_path / "x.npy", (4, 6, 5), RANGE), RGBA / 127.5 - 1, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "data_range", "message"),
    [
        (GRAY * 1.0, None, "the default range of floats is 0 to 1: .* --range 0 255 .data_range=.0, 255."),
        (GRAY / 127.5 - 1, None, "from -1 to 1, but .* floats .* --range -1 1 "),
        (GRAY * 3.0, None, "--range LOW HIGH"),
        (GRAY / 255, (0, 0.5), "the given range is 0 to 0.5"),
        (GRAY.astype(int) + 1, None, "from .* to 256, but the default range of integers is 0 to 255: .* --range LOW HIGH"),
        (GRAY.astype(np.int8), None, "from -128 to 127, but .* integers .* 0 to 255"),
        (BITS, None, "contains only the integers 0 and 1: give --range 0 1 if 1 is white, --range 0 255"),
        (BITS.astype(np.int64), None, "only the integers 0 and 1"),
        (GRAY.astype(complex), None, "values of type complex128: give bytes"),
        (np.where(GRAY > 99, np.inf, 0), None, "infinite"),
        (GRAY / 255, (1, 0), r"--range 1 0 .data_range.: .* the lower one first"),
        (GRAY / 255, (0, np.inf), "two finite numbers"),
        (GRAY / 255, (np.nan, 1), "two finite numbers"),
        (GRAY / 255, (0, 1, 2), "--range 0 1 2 .data_range.: give two"),
    ],
)
def test_what_has_another_range_is_refused_by_both_with_the_remedy(tmp_path, array, data_range, message):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "x.npy", SHAPE, RANGE, data_range=data_range)
    with pytest.raises(ValueError, match=message):
        load_image_data(tmp_path / "x.npy", data_range=data_range)


def test_nan_stands_for_a_hidden_pixel_and_is_not_trained_on(tmp_path):
    array = GRAY / 255
    array[0, 0, 1, 1] = np.nan
    np.save(tmp_path / "x.npy", array)
    completed = load_images(tmp_path / "x.npy", SHAPE, RANGE)
    np.testing.assert_allclose(completed, array * 2 - 1, atol=1e-6)
    assert np.isnan(completed[0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"x.npy: images contains NaN, which is not allowed in training images"):
        load_image_data(tmp_path / "x.npy")


def test_a_range_is_for_arrays(tmp_path):
    for number in range(3):
        Image.fromarray(GRAY[number, 0]).save(tmp_path / f"{number}.png")
    for source in (tmp_path, tmp_path / "1.png"):
        with pytest.raises(ValueError, match=r"--range 0 255 \(data_range\) is for .npy and .npz arrays"):
            load_images(source, SHAPE, RANGE, data_range=(0, 255))
    with pytest.raises(ValueError, match=r"is for .npy and .npz arrays"):
        load_image_data(tmp_path, data_range=(0, 255))

"""Pictures of any size, mode and depth: read as they are, cut to what a generator makes, put back, written as they came."""

import numpy as np
import pytest
from PIL import Image

from cogen.models.data.originals import matched, read_originals, read_seen, write_completed, write_spreads
from cogen.models.data.windows import in_place, items_of, resampled, windows_of

RANDOM = np.random.default_rng(0)
SHAPE = (1, 8, 8)


def picture(folder, name, mode):
    """A picture of 12 x 10 pixels, and its numbers."""
    size = (10, 12)
    if mode == "I;16":
        numbers = RANDOM.integers(0, 65536, size).astype(np.uint16)
    elif mode == "1":
        numbers = RANDOM.random(size) < 0.5
    else:
        channels = {"L": (), "RGB": (3,), "RGBA": (4,), "LA": (2,)}[mode]
        numbers = RANDOM.integers(0, 256, (*size, *channels)).astype(np.uint8)
    Image.fromarray(numbers).save(folder / name)
    return numbers


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "I;16", "1"])
def test_what_is_not_replaced_comes_back_to_the_bit(mode, tmp_path):
    numbers = picture(tmp_path, "a.png", mode)
    (original,) = read_originals(tmp_path / "a.png", SHAPE)
    assert original.size == (10, 12)
    colours = 3 if mode in ("RGB", "RGBA") else 1
    replaced = np.zeros((10, 12), bool)
    replaced[2:5, 3:7] = True
    write_completed(tmp_path / "out", [original], {"mean": [np.full((colours, 10, 12), 0.75, np.float32)]}, [replaced])
    with Image.open(tmp_path / "out" / "a" / "mean.png") as opened:
        assert opened.mode == mode
        found = np.asarray(opened)
    np.testing.assert_array_equal(found[~replaced], numbers[~replaced])
    white = {"I;16": 65535, "1": 1}.get(mode, 255)
    expected = np.rint(0.75 * white)
    changed = found[replaced]
    if mode in ("RGBA", "LA"):
        assert (changed[:, -1] == 255).all()  # what was replaced is opaque
        changed = changed[:, :-1]
    assert (changed == expected).all()


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((3, 10, 12), np.uint8),
        ((3, 10, 12, 3), np.uint8),
        ((3, 3, 10, 12), np.float64),
        ((10, 12), np.float32),
        ((10, 12, 3), np.uint8),
        ((2, 10, 12), bool),
    ],
)
def test_an_array_keeps_its_layout_type_and_range(shape, dtype, tmp_path):
    array = (
        RANDOM.random(shape) < 0.5
        if dtype is bool
        else (RANDOM.random(shape) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    )
    np.save(tmp_path / "a.npy", array)
    colours = 3 if 3 in (shape[-1], shape[1] if len(shape) == 4 else 0) else 1
    originals = read_originals(tmp_path / "a.npy", (colours, 10, 12))
    replaced = [np.arange(120).reshape(10, 12) < 30 for _ in originals]
    made = [np.ones((colours, 10, 12), np.float32) for _ in originals]
    write_completed(tmp_path, originals, {"draw-1": made}, replaced)
    write_spreads(tmp_path, originals, [0.25 * each for each in made])
    found, spread = (np.load(tmp_path / "a" / f"{name}.npy") for name in ("draw-1", "sd"))
    assert found.shape == spread.shape == array.shape
    assert found.dtype == array.dtype
    again = read_originals(tmp_path / "a" / "draw-1.npy", (colours, 10, 12))
    for one, original, where in zip(again, originals, replaced, strict=True):
        np.testing.assert_array_equal(one.numbers[:, ~where], original.numbers[:, ~where])
        assert (one.numbers[:, where] == original.form.bounds[1]).all()
    assert spread.max() == pytest.approx(0.25 * originals[0].form.bounds[1])


def test_a_spread_is_gray_and_white_is_half_of_the_range(tmp_path):
    picture(tmp_path, "a.png", "RGBA")
    originals = read_originals(tmp_path / "a.png", (3, 8, 8))
    write_spreads(tmp_path / "out", originals, [np.stack([np.full((10, 12), value) for value in (0.1, 0.2, 0.2)])])
    with Image.open(tmp_path / "out" / "a" / "sd.png") as opened:
        assert opened.mode == "L"
        assert (np.asarray(opened) == round(255 * 2 * np.sqrt(0.03))).all()


# --- masks ---------------------------------------------------------------------------------------------------------


def test_masks_from_files_from_alpha_and_from_nan(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "images").mkdir()
    seen = np.zeros((2, 10, 12), bool)
    seen[0, :4], seen[1, 6:] = True, True
    for k in range(2):
        Image.fromarray(np.where(seen[k], 255, 0).astype(np.uint8)).save(tmp_path / "masks" / f"b{k}.png")
        colours = np.full((10, 12, 4), 90, np.uint8)
        colours[..., 3] = np.where(seen[k], 255, 0)
        Image.fromarray(colours).save(tmp_path / "images" / f"b{k}.png")
    originals = read_originals(tmp_path / "images", (3, 8, 8))
    for found in (read_seen(str(tmp_path / "masks"), originals), read_seen("alpha", originals)):
        np.testing.assert_array_equal(found, seen)
    np.testing.assert_array_equal(read_seen(str(tmp_path / "masks"), originals, invert=True), ~seen)
    one = read_seen(str(tmp_path / "masks" / "b1.png"), originals)
    np.testing.assert_array_equal(one, [seen[1], seen[1]])
    np.save(tmp_path / "a.npy", np.where(seen, 0.5, np.nan))
    np.testing.assert_array_equal(read_seen("nan", read_originals(tmp_path / "a.npy", (1, 10, 12))), seen)


def test_files_belong_together_by_their_names(tmp_path):
    for folder, names in (("images", ("10", "9")), ("masks", ("9", "10", "more"))):
        (tmp_path / folder).mkdir()
        for k, name in enumerate(names):
            Image.fromarray(np.full((4, 4), 10 * k, np.uint8)).save(tmp_path / folder / f"{name}.png")
    images, masks = (read_originals(tmp_path / folder, (1, 4, 4)) for folder in ("images", "masks"))
    assert [each.name for each in images] == ["9", "10"]
    assert [each.numbers[0, 0, 0] for each in matched(masks, images, "--mask")] == [0, 10]
    with pytest.raises(ValueError, match="--truth: none of the 2 files is called more: give one file for all images"):
        matched(images, masks, "--truth")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (255, "shows all pixels, so there is nothing to complete"),
        (0, r"shows no pixels. White \(255, the largest value\) is seen"),
    ],
)
def test_a_mask_hides_a_part(value, words, tmp_path):
    picture(tmp_path, "a.png", "L")
    Image.fromarray(np.full((10, 12), value, np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(ValueError, match=words):
        read_seen(str(tmp_path / "mask.png"), read_originals(tmp_path / "a.png", SHAPE))


def test_two_files_of_one_name_are_written_apart(tmp_path):
    for name in ("a.png", "a.bmp"):
        picture(tmp_path, name, "L")
    assert [each.name for each in read_originals(tmp_path, SHAPE)] == ["a-bmp", "a-png"]


# --- windows -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colours", [1, 3])
@pytest.mark.parametrize("fit", ["crop", "resize", "patch"])
def test_there_and_back(fit, colours, tmp_path):
    """A smooth picture survives the way to the generator and back; no junk of the hidden part enters."""
    rows, columns = np.mgrid[:24, :20]
    smooth = 40 + 4 * rows + 3 * columns
    Image.fromarray(smooth.astype(np.uint8)).save(tmp_path / "a.png")
    (original,) = read_originals(tmp_path / "a.png", SHAPE)
    seen = np.ones((24, 20), bool)
    seen[8:14, 8:14] = False
    junk = original.numbers.copy()
    junk[:, ~seen] = 255
    dirty = type(original)("a", junk, original.form)
    shape = (colours, 8, 8)
    windows = windows_of([dirty], shape, fit, [seen])
    items, shown = items_of([dirty], windows, shape, (-1.0, 1.0), [seen])
    clean, _ = items_of([original], windows, shape, (-1.0, 1.0))
    assert items.shape == (len(windows), *shape)
    assert not shown.all()
    assert np.abs(items - clean)[np.broadcast_to(shown[:, None], items.shape)].max() < 0.05
    assert (items[np.broadcast_to(~shown[:, None], items.shape)] == 0).all()
    images, replaced = in_place([dirty], windows, clean[None], (-1.0, 1.0), [seen])
    assert images[0].shape == (1, 1, 24, 20)
    np.testing.assert_array_equal(replaced[0], ~seen)
    assert np.abs(images[0][0, 0] - smooth / 255)[~seen].max() < 0.03
    _, whole = in_place([dirty], windows, clean[None], (-1.0, 1.0), None)
    assert whole[0].mean() == {"crop": 400 / 480, "resize": 1.0, "patch": 96 / 480}[fit]


def test_patches_cover_what_is_hidden():
    from cogen.models.data.originals import Form, Original

    numbers = np.zeros((1, 20, 30), np.uint8)
    original = Original("a", numbers, Form(numbers.dtype, (0, 255)))
    assert len(windows_of([original], SHAPE, "patch")) == 3 * 4
    seen = np.ones((20, 30), bool)
    seen[0, 0] = seen[19, 29] = False
    found = windows_of([original], SHAPE, "patch", [seen])
    assert [(each.top, each.left) for each in found] == [(0, 0), (12, 22)]


def test_sizes_that_differ_are_asked_about(tmp_path):
    picture(tmp_path, "a.png", "L")
    originals = read_originals(tmp_path / "a.png", SHAPE)
    with pytest.raises(ValueError, match="a is 12 x 10 pixels, but the generator makes 8 x 8: use --fit crop"):
        windows_of(originals, SHAPE)
    seen = np.ones((10, 12), bool)
    seen[:, 0] = False
    with pytest.raises(ValueError, match="--fit crop: the hidden part of a is outside the central crop"):
        windows_of(originals, SHAPE, "crop", [seen])


def test_the_mean_survives_resampling():
    pixels = RANDOM.random((2, 16, 16)).astype(np.float32)
    for sharp in (True, False):
        assert abs(resampled(pixels, (4, 4), sharp).mean() - pixels.mean()) < 0.02
    assert resampled(pixels, (16, 16)) is pixels

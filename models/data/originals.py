"""Pictures and arrays of any form, read and written in the same form.

An `Original` keeps the size, colours, bit depth and transparency of a picture (or of an image of an array). Pictures are
written as PNG with their bit depth and channels, arrays as .npy with their type, range and layout. Pixels that are not
replaced keep their values exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cogen.models.data.image_arrays import (
    ARRAY_SUFFIXES,
    CHANNELS,
    channels_first,
    check_data_range,
    data_bounds,
    fitted,
    read_arrays,
)
from cogen.models.data.image_files import deep_values, open_picture, picture_files

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "item, channel, height, width": lambda a: a,
    "item, height, width, channel": lambda a: a.transpose(0, 2, 3, 1),
    "item, height, width": lambda a: a[:, 0],
    "channel, height, width": lambda a: a[0],
    "height, width, channel": lambda a: a[0].transpose(1, 2, 0),
    "height, width": lambda a: a[0, 0],
}
"""Conversions of (item, channel, height, width) to the possible layouts of an array."""


@dataclass(frozen=True)
class Form:
    """The storage format of an original.

    :param dtype: type of its values; bool for pictures of one bit.
    :param bounds: the values of black and white.
    :param layout: layout of its array, a key of `LAYOUTS`; None for a picture.
    """

    dtype: np.dtype
    bounds: tuple[float, float]
    layout: str | None = None


@dataclass(frozen=True)
class Original:
    """A picture, or one image of an array.

    :param name: name of the file, relative to the folder and without its suffix.
    :param numbers: the stored values, (channel, height, width), 1 or 3 channels.
    :param opaque: opacity in [0, 1], (height, width); None without transparency.
    :param index: its index in an array.
    """

    name: str
    numbers: np.ndarray
    form: Form
    opaque: np.ndarray | None = None
    index: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.numbers.shape[1], self.numbers.shape[2]

    @property
    def pixels(self) -> np.ndarray:
        """float32 (channel, height, width), black 0 and white 1; NaN as in the array."""
        low, high = self.form.bounds
        return ((self.numbers.astype(np.float64) - low) / (high - low)).astype(np.float32)

    @property
    def shown(self) -> np.ndarray:
        """The pixels as a viewer shows them, on a white background."""
        return self.pixels if self.opaque is None else 1 + (self.pixels - 1) * self.opaque


# --- reading -------------------------------------------------------------------------------------------------------


def read_originals(
    path: str | Path, event_shape: Sequence[int], data_range: tuple[float, float] | None = None
) -> list[Original]:
    """Read the pictures of a file or a folder (with subfolders, in natural order), or the images of a .npy or .npz array.

    Warns of the files of a folder that are not read.

    :param event_shape: the generator's (channel, height, width), which resolves an ambiguous layout of an array.
    :param data_range: the values of black and white in an array; default 0 and 255 for integers, 0 and 1 for floats.
    :raises FileNotFoundError: if there is nothing to read.
    :raises ValueError: for a file that cannot be read.
    """
    path = Path(path)
    check_data_range(data_range)
    if path.suffix.lower() in ARRAY_SUFFIXES and path.is_file():
        return _images_of_array(path, tuple(event_shape), data_range)
    files = picture_files(path, data_range)
    root = path if path.is_dir() else path.parent
    names = [str(file.relative_to(root).with_suffix("")) for file in files]
    if len(set(names)) < len(names):  # a.png beside a.jpg would be written to the same file
        names = [str(file.relative_to(root)).replace(".", "-") for file in files]
    return [_read(file, name) for file, name in zip(files, names, strict=True)]


def _read(path: Path, name: str) -> Original:
    picture, tags = open_picture(path)
    if tags is not None:
        values, opaque = deep_values(picture, tags)
        numbers = np.rint(65535 * values[None]).astype(np.uint16)
        return Original(name, numbers, Form(numbers.dtype, (0, 65535)), None if opaque is None else opaque.astype(np.float32))
    gray, bits = picture.mode in ("1", "L", "LA"), picture.mode == "1"
    opaque = None
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        opaque = np.asarray(picture.getchannel("A"), np.float32) / 255
    numbers = np.asarray(_without_alpha(picture, gray))
    if bits:
        return Original(name, numbers[None] > 127, Form(np.dtype(bool), (0, 1)), opaque)
    return Original(name, numbers[None] if gray else numbers.transpose(2, 0, 1), Form(numbers.dtype, (0, 255)), opaque)


def _without_alpha(picture: Picture, gray: bool) -> Picture:
    """Convert to mode L or RGB without alpha, keeping the colours of transparent pixels."""
    picture = picture.convert("RGB") if picture.mode == "RGBA" else picture
    return picture.convert("L" if gray else "RGB")


def _images_of_array(path: Path, event_shape: tuple[int, ...], data_range: tuple[float, float] | None) -> list[Original]:
    array = read_arrays(path, ["images"])["images"]
    try:
        laid = fitted(array, str(path), event_shape)
    except ValueError:
        laid = _any_size(array, path)
    low, high = data_bounds(laid, str(path), data_range)
    same = (name for name, change in LAYOUTS.items() if _same(change(laid), array))
    form = Form(array.dtype, (low, high), next(same))
    if laid.shape[1] < 4:
        return [Original(path.stem, each, form, None, k) for k, each in enumerate(laid)]
    shares = (laid[:, 3].astype(np.float32) - low) / (high - low)
    return [Original(path.stem, each[:3], form, share, k) for k, (each, share) in enumerate(zip(laid, shares, strict=True))]


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape == other.shape and np.array_equal(one, other, equal_nan=np.issubdtype(one.dtype, np.floating))


def _any_size(array: np.ndarray, path: Path) -> np.ndarray:
    """Convert one image or several, of any size, to (item, channel, height, width)."""
    if array.ndim == 2:
        return array[None, None]
    alone = array.ndim == 3 and (array.shape[0] in CHANNELS or array.shape[2] in CHANNELS)
    return channels_first(array[None] if alone else array, str(path))


# --- masks ---------------------------------------------------------------------------------------------------------


def read_seen(mask: str, originals: Sequence[Original], *, invert: bool = False, total: int = 0) -> list[np.ndarray]:
    """The mask of the seen pixels of each original, (height, width).

    :param mask: a picture or a folder of pictures, white where the original is seen; "alpha" for the opaque pixels, "nan" for
        the finite values of an array. A single picture is used for all originals; several are matched by name.
    :param invert: white is hidden.
    :param total: the number of images, of which the originals are the first.
    :raises ValueError: for masks that are missing, have another size, or show nothing or everything.
    """
    if mask == "alpha":
        if not any(each.opaque is not None for each in originals):
            raise ValueError("--mask alpha: none of the images has transparent pixels")
        found = [np.ones(each.size, bool) if each.opaque is None else each.opaque >= 0.5 for each in originals]
    elif mask == "nan":
        found = [np.isfinite(each.pixels).all(axis=0) for each in originals]
        if all(each.all() for each in found):
            raise ValueError("--mask nan: none of the images contains NaN")
    else:
        masks = matched(read_originals(mask, (1, *originals[0].size)), originals, "--mask", total)
        found = [_white(each) for each in masks]
    if invert:
        found = [~each for each in found]
    for each, seen in zip(originals, found, strict=True):
        if seen.shape != each.size:
            (height, width), (wide_height, wide_width) = seen.shape, each.size
            raise ValueError(
                f"--mask {mask}: the mask of {each.name} has {width} x {height} pixels, the image {wide_width} x {wide_height};"
                " both must be equal"
            )
        if seen.all() or not seen.any():
            what = "all pixels, so there is nothing to complete" if seen.all() else "no pixels"
            raise ValueError(
                f"--mask {mask}: the mask of {each.name} shows {what}. White (255, the largest value) is seen, or black with"
                " --invert-mask"
                if mask != "nan"
                else f"--mask nan: {each.name}, image {each.index}, shows {what}"
            )
    return found


def _white(mask: Original) -> np.ndarray:
    """Where a mask is white, (height, width). In a picture of the values 0 and 1 one is white."""
    if mask.form.layout is None and mask.numbers.max() == 1:
        return mask.numbers.mean(axis=0) >= 0.5
    return mask.shown.mean(axis=0) >= 0.5


def matched(files: Sequence[Original], originals: Sequence[Original], option: str, total: int = 0) -> list[Original]:
    """Match files to the originals: one file for all, files of the same names, or an array with one image for each.

    :param option: the command option, for messages.
    :param total: the number of images, of which the originals are the first.
    :raises ValueError: if an original has no match.
    """
    if len(files) == 1:
        return list(files) * len(originals)
    of_arrays = files[0].form.layout is not None or originals[0].form.layout is not None
    if of_arrays:
        if len(files) not in (len(originals), total):
            raise ValueError(f"{option}: {len(files)} images for {len(originals)} items: give one for all or one for each")
        return list(files[: len(originals)])
    named = {each.name: each for each in files}
    missing = [each.name for each in originals if each.name not in named]
    if missing:
        raise ValueError(
            f"{option}: none of the {len(files)} files is called {missing[0]}: give one file for all images, or one of the same"
            " name for each"
        )
    return [named[each.name] for each in originals]


# --- writing -------------------------------------------------------------------------------------------------------


def write_completed(
    folder: Path, originals: Sequence[Original], made: Mapping[str, Sequence[np.ndarray]], replaced: Sequence[np.ndarray]
) -> None:
    """Write completed images: FOLDER/ORIGINAL/NAME.png for every picture, or FOLDER/ORIGINAL/NAME.npy for an array.

    :param made: images by name, (channel, height, width) for each original, black 0 and white 1.
    :param replaced: masks of the replaced pixels, (height, width), which become opaque; elsewhere the values of the original
        are written.
    """
    for name, images in made.items():
        each = [_numbers(original, image, where) for original, image, where in zip(originals, images, replaced, strict=True)]
        if (layout := originals[0].form.layout) is not None:
            _save_array(folder / originals[0].name / name, LAYOUTS[layout](np.stack(each)))
            continue
        for original, numbers, where in zip(originals, each, replaced, strict=True):
            opaque = None if original.opaque is None else np.where(where, 1, original.opaque)
            _save_picture(folder / original.name / name, numbers, opaque)


def write_spreads(folder: Path, originals: Sequence[Original], spreads: Sequence[np.ndarray], name: str = "sd") -> None:
    """Write standard deviations to the files of `write_completed`: 8-bit gray pictures in which white is half of the range, or
    for an array float32 in the units of its values.

    :param spreads: (channel, height, width) for each original, in units of the range.
    """
    if (layout := originals[0].form.layout) is not None:
        low, high = originals[0].form.bounds
        _save_array(
            folder / originals[0].name / name, LAYOUTS[layout]((high - low) * np.stack(list(spreads))).astype(np.float32)
        )
        return
    for original, spread in zip(originals, spreads, strict=True):
        share = np.clip(2 * np.sqrt(np.square(spread).mean(axis=0, keepdims=True)), 0, 1)
        _save_picture(folder / original.name / name, np.rint(255 * share).astype(np.uint8), None)


def _numbers(original: Original, pixels: np.ndarray, replaced: np.ndarray) -> np.ndarray:
    """Pixels in the storage format of the original, with its own values where they are not replaced."""
    (low, high), dtype = original.form.bounds, original.form.dtype
    numbers: np.ndarray = low + pixels.astype(np.float64) * (high - low)
    if dtype.kind == "b":
        numbers = numbers >= (low + high) / 2
    elif np.issubdtype(dtype, np.integer):
        numbers = np.rint(numbers)
    return np.where(replaced, numbers.astype(dtype), original.numbers)


def _save_array(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path.with_name(f"{path.name}.npy"), array)


def _save_picture(path: Path, numbers: np.ndarray, opaque: np.ndarray | None) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if numbers.dtype == bool:
        picture = Image.fromarray(np.where(numbers[0], 255, 0).astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
    else:
        picture = Image.fromarray(numbers[0] if len(numbers) == 1 else np.ascontiguousarray(numbers.transpose(1, 2, 0)))
    if opaque is not None and numbers.dtype == np.uint8:
        picture.putalpha(Image.fromarray(np.rint(255 * opaque).astype(np.uint8)))
    picture.save(path.with_name(f"{path.name}.png"))

"""Images from files of any kind Pillow or NumPy knows, validated as they are read.

`load_images` reads what a trained generator is conditioned on; `read_pictures` and `read_arrays` read what
`cogen.models.datasets` makes a data set of. Every error names the file, what is wrong with it, and what was expected.
Nothing is unpickled, and no file stays open.
"""

import os
import struct
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".npz")


def load_images(path: str | Path, event_shape: Sequence[int], value_range: tuple[float, float]) -> np.ndarray:
    """Pictures as a generator sees them: float32 (item, channel, height, width) within `value_range`.

    `path` is one PNG or JPEG, a `.npy` or `.npz` array, or a folder of such pictures (taken in the order of their
    names). Pictures are turned to grayscale or RGB as the generator's channel count asks; they are never resized. An
    array is (item, height, width), (item, channel, height, width) or one image of either kind; bytes span 0 to 255,
    floats must lie in `value_range` already (NaN is allowed: it may stand for a hidden pixel).

    Raises FileNotFoundError when there is nothing to read and ValueError, naming the file, for whatever does not fit.
    """
    path = Path(path)
    shape = tuple(event_shape)
    if len(shape) != 3:
        raise ValueError(f"the generator makes events of shape {shape}, which are not images (channel, height, width)")
    if path.is_dir():
        files = pictures_in(path)
        if not files:
            raise FileNotFoundError(f"folder {path} holds no picture ({', '.join(PICTURE_SUFFIXES)})")
        return np.stack([_load_picture(p, shape, value_range) for p in files])
    if not path.exists():
        raise FileNotFoundError(f"no image file or folder at {path}")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _load_picture(path, shape, value_range)[None]
    if path.suffix.lower() in ARRAY_SUFFIXES:
        return _load_array(path, shape, value_range)
    raise ValueError(f"{path}: cannot tell the kind of file; known are {', '.join(PICTURE_SUFFIXES + ARRAY_SUFFIXES)}")


def from_bytes(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """uint8 values 0 to 255 as float32 spanning the value range.

    >>> from_bytes(np.array([0, 51, 255], np.uint8), (-1, 1))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    low, high = value_range
    return (images.astype(np.float32) / 255) * np.float32(high - low) + np.float32(low)


def pictures_in(folder: Path) -> list[Path]:
    """The PNG and JPEG files of a folder in the order of their names, hidden ones left out."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith("."))


def read_pictures(files: Sequence[Path], size: int | None = None, positions: Sequence[int] | None = None) -> np.ndarray:
    """Picture files as uint8 (item, channel, height, width): one channel if all of them are gray, otherwise three.

    Alpha is dropped. With `size` every picture is cropped and resized (`crop_and_resize`); without, all must have the
    size of the first. The pictures are read in the order given; with `positions` the first becomes item `positions[0]`
    of the result, and so on.

    Raises ValueError naming the picture that cannot be read or has another size.
    """
    images: np.ndarray | None = None  # filled as pictures come: a large folder is in memory once
    # Pillow decodes and resizes without the interpreter's lock; blocks, because every waiting task costs memory.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), 1024):
            block = files[start : start + 1024]
            for index, pixels in enumerate(pool.map(partial(_read_picture, size=size), block), start):
                if images is None:
                    images = np.empty((len(files), pixels.shape[2], *pixels.shape[:2]), np.uint8)
                elif pixels.shape[:2] != images.shape[2:]:
                    (height, width), (wanted_height, wanted_width) = pixels.shape[:2], images.shape[2:]
                    raise ValueError(
                        f"{files[index]} is {width} x {height} pixels, {files[0].name} is {wanted_width} x {wanted_height}; "
                        "all must have one size: give size= to crop and resize them"
                    )
                if pixels.shape[2] > images.shape[1]:
                    images = np.repeat(images, 3, axis=1)
                images[index if positions is None else positions[index]] = pixels.transpose(
                    2, 0, 1
                )  # gray pixels spread over three channels
    if images is None:
        raise ValueError("there are no pictures to read; give at least one file")
    return images


def crop_and_resize(picture: "Picture", size: int) -> "Picture":
    """The centre square of a picture in mode L or RGB, at size x size, antialiased (bicubic)."""
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` that carry one of these names; a `.npy`, or a single array of another name, as "images".

    Raises ValueError, naming the file, when it is damaged, holds pickled objects, or none of the names.
    """
    try:
        with path.open("rb") as file:  # our own handle: NumPy leaves its one open when a damaged archive raises
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            found = content.files
            if len(found) == 1 and found[0] not in names:
                return {"images": content[found[0]]}
            arrays = {name: content[name] for name in found if name in names}
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for a damaged file
        reason = (
            "pickled objects are not read" if "pickle" in str(error) else f"damaged, or not an array: {type(error).__name__}"
        )
        raise ValueError(f"{path} cannot be read ({reason})") from None
    if not arrays:
        raise ValueError(
            f"{path} holds the arrays {', '.join(found) or '(none)'}; one of them must be called {' or '.join(names)}"
        )
    return arrays


def _load_picture(path: Path, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: the generator makes {channels} channels; a picture has 1 (gray) or 3 (RGB), give an array")
    pixels = np.asarray(_decode(path).convert("L" if channels == 1 else "RGB"))
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels; the generator makes {width} x {height}")
    return from_bytes(pixels.reshape(height, width, channels).transpose(2, 0, 1), value_range)


def _load_array(path: Path, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    array = read_arrays(path, ["images"])["images"]
    fits = [shape] + ([shape[1:]] if shape[0] == 1 else [])  # gray images may leave the channel axis out
    if array.shape in fits:
        array = array[None]
    if array.shape[1:] not in fits or len(array) == 0:
        raise ValueError(f"{path} holds an array of shape {array.shape}; the generator makes (item, {str(shape)[1:]}")
    array = array.reshape(-1, *shape)
    if array.dtype == np.uint8:
        return from_bytes(array, value_range)
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{path} holds values of type {array.dtype}; give bytes (0 to 255) or floats within {value_range}")
    low, high = value_range
    known = array[~np.isnan(array)]
    if known.size and (known.min() < low or known.max() > high):
        raise ValueError(
            f"{path} holds values from {known.min():.3g} to {known.max():.3g}; the generator's range is {low:g} to {high:g}"
        )
    return array.astype(np.float32)


def _read_picture(path: Path, size: int | None) -> np.ndarray:
    """uint8 (height, width, channel), one channel if the picture is gray."""
    picture = _decode(path)
    if size is not None:
        picture = crop_and_resize(picture, size)
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        return pixels[..., None]
    gray = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., :1] if gray else pixels


def _decode(path: Path) -> "Picture":
    """A picture in mode L or RGB, its file closed again."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            mode = opened.mode
            picture: Image.Image = opened
            if "transparency" in opened.info:  # a palette with alpha: Pillow wants it resolved before it is dropped
                picture = opened.convert("RGBA")
            picture = picture.convert("L" if mode in ("1", "L", "LA") else "RGB")
    except (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = "is not a picture that can be read" if path.stat().st_size else "is empty"
        raise ValueError(f"{path} {reason} ({type(error).__name__})") from None
    if mode.startswith(("I", "F")):
        raise ValueError(f"{path} has more than 8 bits a pixel (Pillow's mode {mode}); save it with 8, or give an array")
    return picture

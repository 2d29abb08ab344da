"""Reading and validation of image files in the formats of Pillow and NumPy.

`load_images` reads images to condition a trained generator on; `pictures_below` and `read_pictures` find and read the pictures
of a data set (`cogen.models.data.datasets`). A picture is read as a viewer shows it: upright, on a white background. The
meaning of array values is defined in `cogen.models.data.image_arrays`.

Every error names the file, the problem, and what was expected. All files are closed after reading.
"""

import os
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.models.data.image_arrays import (
    ARRAY_SUFFIXES,
    as_values,
    check_data_range,
    fitted,
    from_bytes,
    no_data_range,
    on_white,
    read_arrays,
)

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

    Fit = Callable[[Picture], Picture]

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
"""Pillow's modes of gray pictures with 16 bits; PNG and PGM can also have the mode "I"."""

EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")

ORIENTATION, BITS, PHOTOMETRIC = 274, 258, 262  # EXIF and TIFF tags


def load_images(
    path: str | Path,
    event_shape: Sequence[int],
    value_range: tuple[float, float],
    data_range: tuple[float, float] | None = None,
) -> np.ndarray:
    """Read images for a generator: float32 (item, channel, height, width) within `value_range`.

    Pictures are converted to grayscale or RGB according to the generator's channels, with transparent parts on white; they are
    never resized. An array is one image or several, as (item, height, width), (item, height, width, channel) or (item,
    channel, height, width). Integers from 0 to 255 are bytes and floats lie in [0, 1], unless `data_range` is given; NaN is
    allowed for hidden pixels. Warns of the files of a folder that are not read.

    :param path: a picture, a `.npy` or `.npz` array, or a folder of pictures and subfolders, read in the natural order of the
        relative names (2 before 10).
    :param event_shape: the generator's (channel, height, width).
    :param value_range: the generator's values of black and white.
    :param data_range: the values of black and white in an array, if they differ from the above.
    :raises FileNotFoundError: if there is nothing to read.
    :raises ValueError: for files that are invalid or do not fit.
    """
    path = Path(path)
    shape = tuple(event_shape)
    if len(shape) != 3:
        raise ValueError(f"the generator's events have shape {shape}, which is not an image (channel, height, width)")
    check_data_range(data_range)
    if path.suffix.lower() in ARRAY_SUFFIXES and path.is_file():
        array = fitted(read_arrays(path, ["images"])["images"], str(path), shape)
        values = as_values(array, str(path), value_range, data_range)
        return on_white(values, value_range) if values.shape[1] > shape[0] else values
    return np.stack([_load_picture(p, shape, value_range) for p in picture_files(path, data_range)])


def picture_files(path: Path, data_range: tuple[float, float] | None = None) -> list[Path]:
    """The picture at a path, or the pictures in a folder and its subfolders, in natural order.

    Warns of the files of a folder that are not read.

    :param data_range: must be None, as it is for arrays only.
    :raises FileNotFoundError: if there is nothing to read.
    :raises ValueError: for another kind of file, and for a ``data_range``.
    """
    if path.is_dir():
        files, others = pictures_below(path)
        if not files:
            found = f", only {some_of(others, path)}" if others else ""
            raise FileNotFoundError(f"folder {path} contains no picture ({', '.join(PICTURE_SUFFIXES)}){found}")
        warn_of_unread(path, others)
    elif not path.exists():
        raise FileNotFoundError(f"no image file or folder at {path}")
    elif path.suffix.lower() in PICTURE_SUFFIXES:
        files = [path]
    else:
        raise ValueError(f"{path}: unknown kind of file; supported are {', '.join(PICTURE_SUFFIXES + ARRAY_SUFFIXES)}")
    no_data_range(path, data_range)
    return files


def pictures_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """The pictures in a folder and its subfolders, and the other files, each in the natural order of the relative paths.

    Hidden files and folders (names that start with a dot) are skipped.

    :raises OSError: for a folder that cannot be listed.
    """

    def fail(error: OSError) -> None:
        raise error

    found = []
    for root, subfolders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(root).resolve()
        subfolders[:] = [  # skip links to a parent folder, which would recurse forever
            name for name in subfolders if name[0] != "." and not here.is_relative_to((here / name).resolve())
        ]
        found += [os.path.relpath(os.path.join(root, name), folder) for name in names if name[0] != "."]
    found.sort(key=_natural)
    files = [folder / name for name in found]
    return (
        [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES],
        [path for path in files if path.suffix.lower() not in PICTURE_SUFFIXES],
    )


def warn_of_unread(folder: Path, others: Sequence[Path], why: str = f"pictures are {', '.join(PICTURE_SUFFIXES)}") -> None:
    """Warn of files that are not read, with their number and the names of the first."""
    if others:
        count = "1 file is" if len(others) == 1 else f"{len(others)} files are"
        warnings.warn(f"{folder}: {count} not read ({some_of(others, folder)}); {why}", stacklevel=3)


def some_of(files: Sequence[Path], folder: Path) -> str:
    """The names of the first files, for a message."""
    return ", ".join(str(path.relative_to(folder)) for path in files[:3]) + (", ..." if len(files) > 3 else "")


def _natural(relative: str) -> tuple[list[list[Any]], str]:
    """A sort key by folder, with digits as numbers: 2.png before 10.png."""
    parts = [re.split("([0-9]+)", part) for part in relative.split(os.sep)]
    return [[int(piece) if at % 2 else piece for at, piece in enumerate(part)] for part in parts], relative


def read_pictures(files: Sequence[Path], fit: "Fit | None" = None, positions: Sequence[int] | None = None) -> np.ndarray:
    """Read picture files as uint8 (item, channel, height, width), with one channel if all are gray, otherwise three.

    Transparent parts are put on white. All pictures must have the same size (after `fit`).

    :param fit: converts a picture, in mode L or RGB, to the requested size, such as `crop_and_resize`.
    :param positions: index in the result of each file; default the order of the files.
    :raises ValueError: for a picture that cannot be read or has another size.
    """
    images: np.ndarray | None = None  # allocated once and filled, to hold a large folder in memory only once
    # Pillow decodes and resizes without the GIL. Blocks limit memory, which every pending task uses.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(files), 1024):
            block = files[start : start + 1024]
            for index, pixels in enumerate(pool.map(partial(_read_picture, fit=fit), block), start):
                if images is None:
                    images = np.empty((len(files), pixels.shape[2], *pixels.shape[:2]), np.uint8)
                elif pixels.shape[:2] != images.shape[2:]:
                    (height, width), (wanted_height, wanted_width) = pixels.shape[:2], images.shape[2:]
                    raise ValueError(
                        f"{files[index]} is {width} x {height} pixels, {files[0].name} is {wanted_width} x {wanted_height}; "
                        "all must have the same size: give size= to crop and resize them"
                    )
                if pixels.shape[2] > images.shape[1]:
                    images = np.repeat(images, 3, axis=1)
                images[index if positions is None else positions[index]] = pixels.transpose(
                    2, 0, 1
                )  # gray pixels are broadcast to three channels
    if images is None:
        raise ValueError("there are no pictures to read: give at least one file")
    return images


def crop_and_resize(picture: "Picture", size: int) -> "Picture":
    """The centre square of a picture in mode L or RGB, resized to size x size with antialiasing (bicubic)."""
    from PIL import Image

    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))
    return square if side == size else square.resize((size, size), Image.Resampling.BICUBIC)


def _load_picture(path: Path, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: the generator has {channels} channels, but a picture has 1 (gray) or 3 (RGB): give an array")
    pixels = np.asarray(_decode(path).convert("L" if channels == 1 else "RGB"))
    if pixels.shape[:2] != (height, width):
        raise ValueError(f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but the generator makes {width} x {height}")
    return from_bytes(pixels.reshape(height, width, channels).transpose(2, 0, 1), value_range)


def _read_picture(path: Path, fit: "Fit | None") -> np.ndarray:
    """uint8 (height, width, channel), one channel if the picture is gray."""
    picture = _decode(path)
    if fit is not None:
        try:
            picture = fit(picture)
        except ValueError as error:
            raise ValueError(f"{path} {error}") from None
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        return pixels[..., None]
    gray = np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., :1] if gray else pixels


def open_picture(path: Path) -> tuple["Picture", dict[int, Any] | None]:
    """A picture as it is stored, but upright, and its TIFF tags if it is gray with more than 8 bits.

    :raises ValueError: for a file that cannot be read, has several pages, or has pixels of unknown range.
    """
    from PIL import Image

    try:
        # Pillow is given a file and not a path, for which it memory-maps uncompressed pictures and corrupts rotated TIFF.
        with path.open("rb") as file, Image.open(file) as opened:
            # The second picture in an MPO file of a phone (a JPEG) is a preview of the first.
            frames = 1 if opened.format == "MPO" else getattr(opened, "n_frames", 1)
            deep = opened.mode in SIXTEEN_BITS or (opened.mode == "I" and opened.format in ("PNG", "PPM"))
            tags = dict(getattr(opened, "tag_v2", {}))
            picture = _upright(opened)
    except (OSError, EOFError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError) as error:
        reason = "is not a picture that can be read" if path.stat().st_size else "is empty"
        raise ValueError(f"{path} {reason} ({type(error).__name__})") from None
    if frames > 1:
        raise ValueError(f"{path} contains {frames} frames or pages: save the one to use as a separate picture")
    if not deep and picture.mode not in EIGHT_BITS:
        raise ValueError(
            f"{path} has pixels of Pillow's mode {picture.mode}, whose range is unknown: save it as gray or RGB with 8 or 16 "
            "bits, or give an array"
        )
    return picture, tags if deep else None


def _decode(path: Path) -> "Picture":
    """A picture in mode L or RGB as a viewer shows it, on a white background."""
    from PIL import Image

    picture, tags = open_picture(path)
    if tags is not None:
        picture = _with_eight_bits(picture, tags)
    gray = picture.mode in ("1", "L", "LA")
    if picture.has_transparency_data:
        drawn = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", drawn.size, "white"), drawn)
    return picture.convert("L" if gray else "RGB")


def _upright(opened: "Picture") -> "Picture":
    """The picture rotated and mirrored according to its orientation in EXIF or XMP.

    `PIL.ImageOps.exif_transpose` also rewrites the EXIF without the orientation, which fails on the EXIF of some phones.
    """
    from PIL.Image import Transpose

    opened.load()
    try:
        orientation: Any = opened.getexif().get(ORIENTATION)
    except (SyntaxError, ValueError, struct.error):  # damaged EXIF does not affect the pixels
        orientation = None
    turn = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return opened.copy() if turn is None else opened.transpose(turn)


def deep_values(picture: "Picture", tags: dict[int, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    """The values of a gray picture of 16 bits (TIFF also 12) in [0, 1], and the mask of opaque pixels, None unless one value
    marks transparent ones; (height, width) each."""
    values = np.asarray(picture).astype(np.float32)
    scaled = values / (4095 if tags.get(BITS) == (12,) else 65535)
    opaque = values != picture.info["transparency"] if "transparency" in picture.info else None
    return 1 - scaled if tags.get(PHOTOMETRIC) == 0 else scaled, opaque


def _with_eight_bits(picture: "Picture", tags: dict[int, Any]) -> "Picture":
    """A gray picture of 16 bits in mode L, or in mode LA if one value marks transparent pixels."""
    from PIL import Image

    values, opaque = deep_values(picture, tags)
    gray = Image.fromarray(np.rint(255 * values).astype(np.uint8))
    if opaque is not None:
        gray.putalpha(Image.fromarray(np.where(opaque, 255, 0).astype(np.uint8)))
    return gray

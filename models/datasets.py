"""Images from files, validated as they are read: the MNIST family's idx files, and pictures of any kind Pillow or NumPy
knows.

The idx format is a big-endian header (two zero bytes, a type code, the number of dimensions, one 32-bit size for each)
and then the raw values (LeCun, Cortes, Burges: the MNIST database, http://yann.lecun.com/exdb/mnist/).

Every error names the file, what is wrong with it, and what was expected. Nothing is unpickled.
"""

import gzip
import hashlib
import math
import os
import struct
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

# A public mirror of each data set, and the SHA-256 of every file's content after decompression (mirrors compress
# differently), in the order of IDX_FILES.
MIRRORS = {
    "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist",
    "fashion_mnist": "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion",
}
SHA256 = {
    "mnist": (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "fashion_mnist": (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIXES = (".npy", ".npz")


def load_idx_folder(folder: str | Path, download: str | None = None) -> tuple[np.ndarray, ...]:
    """The four arrays of an MNIST-like folder: training images, training labels, test images, test labels.

    Images are uint8 (item, height, width), labels uint8 (item,). The files carry their usual names, plain or with
    `.gz`. With `download="mnist"` or `"fashion_mnist"` missing files are fetched into the folder first, and checked.

    Raises FileNotFoundError for a missing file, ValueError for a broken one, ConnectionError when the download fails.
    """
    folder = Path(folder)
    if download is not None:
        _download(folder, download)
    arrays: list[np.ndarray] = []
    for name in IDX_FILES:
        candidates = [folder / name, folder / f"{name}.gz"]
        path = next((p for p in candidates if p.is_file()), None)
        if path is None:
            raise FileNotFoundError(
                f"{folder} holds neither {name} nor {name}.gz: give the folder of the four idx files, or download them"
            )
        arrays.append(load_idx(path, dimensions=3 if "images" in name else 1))
    for part, images, labels in (("training", *arrays[:2]), ("test", *arrays[2:])):
        if len(images) != len(labels):
            raise ValueError(f"{folder}: {len(images)} {part} images, {len(labels)} labels; the files do not belong together")
    if arrays[0].shape[1:] != arrays[2].shape[1:]:
        raise ValueError(
            f"{folder}: training images are {arrays[0].shape[1:]}, test images {arrays[2].shape[1:]}; "
            "the files do not belong together"
        )
    return tuple(arrays)


def load_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """One idx file of unsigned bytes with the given number of dimensions, gzipped or plain."""
    path = Path(path)
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is not a complete gzip file ({error}); fetch it again") from None
    header = 4 + 4 * dimensions
    if len(content) < header or content[:4] != bytes([0, 0, 8, dimensions]):
        raise ValueError(
            f"{path} does not begin like an idx file of bytes with {dimensions} dimensions: "
            f"it starts with {content[:4].hex(' ') or 'nothing'}, expected 00 00 08 {dimensions:02x}"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} announces {shape} = {math.prod(shape)} values and holds {len(content) - header}; "
            "it is truncated or damaged, fetch it again"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


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
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES)
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


def _load_picture(path: Path, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    from PIL import Image

    channels, height, width = shape
    if channels not in (1, 3):
        raise ValueError(f"{path}: the generator makes {channels} channels; a picture has 1 (gray) or 3 (RGB), give an array")
    try:
        with Image.open(path) as picture:
            size = picture.size
            pixels = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "is not a picture that can be read" if path.stat().st_size else "is empty"
        raise ValueError(f"{path} {reason} ({type(error).__name__})") from None
    if size != (width, height):
        raise ValueError(f"{path} is {size[0]} x {size[1]} pixels; the generator makes {width} x {height}")
    return from_bytes(pixels.reshape(height, width, channels).transpose(2, 0, 1), value_range)


def _load_array(path: Path, shape: tuple[int, ...], value_range: tuple[float, float]) -> np.ndarray:
    array = _read_array(path)
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


def _read_array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:  # our own handle: NumPy leaves its one open when a damaged archive raises
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            names = content.files
            name = "images" if "images" in names else names[0] if len(names) == 1 else None
            if name is not None:
                return content[name]
    except Exception as error:  # zipfile, zlib, struct and NumPy each have their own for a damaged file
        reason = (
            "pickled objects are not read" if "pickle" in str(error) else f"damaged, or not an array: {type(error).__name__}"
        )
        raise ValueError(f"{path} cannot be read ({reason})") from None
    raise ValueError(f"{path} holds the arrays {', '.join(names) or '(none)'}; one of them must be called images")


def _download(folder: Path, dataset: str) -> None:
    """Fetch the files that are missing; each appears in the folder only after its content was checked."""
    if dataset not in MIRRORS:
        raise ValueError(f"no mirror is known for data set {dataset!r}; there are {', '.join(MIRRORS)}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, checksum in zip(IDX_FILES, SHA256[dataset], strict=True):
        target = folder / f"{name}.gz"
        if target.is_file() or (folder / name).is_file():
            continue
        address = f"{MIRRORS[dataset]}/{target.name}"
        try:
            with urllib.request.urlopen(address, timeout=30) as answer:
                content = answer.read()
            found = hashlib.sha256(gzip.decompress(content)).hexdigest()
        except (OSError, EOFError, zlib.error) as error:  # URLError, timeouts and BadGzipFile are OSErrors
            reason = getattr(error, "reason", error)
            raise ConnectionError(
                f"{address} could not be fetched ({reason}); put the four idx files in {folder} by hand"
            ) from None
        if found != checksum:
            raise ConnectionError(
                f"{address} came with other content than expected (SHA-256 {found[:12]}..., not {checksum[:12]}...); "
                f"put the four idx files in {folder} by hand"
            )
        write_whole(target, content)


def write_whole(target: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all: an interrupted run leaves nothing half-written."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

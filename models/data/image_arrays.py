"""Arrays of images: the meaning of their values, and the position of the channel axis.

The same rule holds for training and conditioning: integers from 0 to 255 are bytes, floats lie in [0, 1], and False and True
are black and white. Otherwise a `data_range` (low, high) gives the values of black and white, for any type. Values outside the
range (by more than rounding) are rejected and not clipped, because they indicate a wrong range.

Every error names the array, the problem and the remedy. Nothing is unpickled.
"""

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ARRAY_SUFFIXES = (".npy", ".npz")
CHANNELS = (1, 3, 4)  # gray, RGB, RGB with alpha
BYTES = (0.0, 255.0)
FLOATS = (0.0, 1.0)
ROUNDING = 1e-6  # tolerance for float32 rounding, relative to the width of the range


def read_arrays(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` with one of these names; a `.npy`, or a single array of another name, is called "images".

    :raises ValueError: for a file that is damaged, contains pickled objects, or has none of the names.
    """
    try:
        with path.open("rb") as file:  # NumPy does not close a damaged archive that it opened itself
            content: Any = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return {"images": content}
            found = content.files
            if len(found) == 1 and found[0] not in names:
                return {"images": content[found[0]]}
            arrays = {name: content[name] for name in found if name in names}
    except Exception as error:  # zipfile, zlib, struct and NumPy raise different errors for a damaged file
        reason = (
            "pickled objects are not read" if "pickle" in str(error) else f"damaged, or not an array: {type(error).__name__}"
        )
        raise ValueError(f"{path} cannot be read ({reason})") from None
    if not arrays:
        raise ValueError(
            f"{path} contains the arrays {', '.join(found) or '(none)'}: one of them must be called {' or '.join(names)}"
        )
    return arrays


# --- values --------------------------------------------------------------------------------------------------------


def from_bytes(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Convert uint8 values 0 to 255 to float32 that span the value range.

    >>> from_bytes(np.array([0, 51, 255], np.uint8), (-1, 1))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    low, high = value_range
    return (images.astype(np.float32) / 255) * np.float32(high - low) + np.float32(low)


def as_values(
    array: np.ndarray, name: str, value_range: tuple[float, float], data_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Convert the values of an array to float32 within `value_range`; NaN, for example for hidden pixels, is kept.

    :param name: the array, for messages.
    :param value_range: the values of black and white in the result.
    :param data_range: the values of black and white in the array; default according to its type (see the module).
    :raises ValueError: for values out of range, and types that are not numbers.

    >>> as_values(np.array([0.0, 0.5]), "a", (-1, 1)), as_values(np.array([0.0, 0.5]), "a", (-1, 1), data_range=(-1, 1))
    (array([-1.,  0.], dtype=float32), array([0. , 0.5], dtype=float32))
    """
    white = np.interp(array, data_bounds(array, name, data_range), (0, 1)).astype(np.float32)  # bitwise equal to from_bytes
    low, high = value_range
    return white * np.float32(high - low) + np.float32(low)


def as_bytes(array: np.ndarray, name: str, data_range: tuple[float, float] | None = None) -> np.ndarray:
    """Convert images (item, channel, height, width) to uint8, and RGB with alpha to RGB on white (`on_white`).

    The parameters are those of `as_values`.

    :raises ValueError: as `as_values`, and for NaN.
    """
    bounds = data_bounds(array, name, data_range)
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise ValueError(f"{name} contains NaN, which is not allowed in training images: replace it, or remove these images")
    transparent = array.shape[1] == 4
    if np.issubdtype(array.dtype, np.integer) and bounds == BYTES and not transparent:
        return array.astype(np.uint8, copy=False)
    images = np.empty((len(array), 3 if transparent else array.shape[1], *array.shape[2:]), np.uint8)
    for index, image in enumerate(array):  # one at a time, because float64 takes eight times the memory
        values = np.interp(image, bounds, BYTES)
        images[index] = np.rint(on_white(values, BYTES) if transparent else values)
    return images


def on_white(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """Convert RGB with alpha (..., 4, height, width) to RGB (..., 3, height, width) on a white background."""
    low, high = value_range
    alpha = (images[..., 3:, :, :] - low) / (high - low)
    return high + (images[..., :3, :, :] - high) * alpha


def check_data_range(data_range: tuple[float, float] | None) -> None:
    """Check a range of values.

    :raises ValueError: unless it is two finite numbers in ascending order, or None.
    """
    if data_range is not None and not (
        len(data_range) == 2 and all(map(math.isfinite, data_range)) and data_range[0] < data_range[1]
    ):
        given = " ".join(f"{bound:g}" for bound in data_range)
        raise ValueError(f"--range {given} (data_range): give two finite numbers, the lower one first")


def no_data_range(path: Path, data_range: tuple[float, float] | None) -> None:
    """Check that no range of values is given for files that are not arrays.

    :raises ValueError: for a ``data_range``.
    """
    if data_range is not None:
        low, high = data_range
        raise ValueError(
            f"{path}: --range {low:g} {high:g} (data_range) is for .npy and .npz arrays only: omit it for pictures"
        )


def data_bounds(array: np.ndarray, name: str, data_range: tuple[float, float] | None) -> tuple[float, float]:
    """The values of black and white in the array.

    :raises ValueError: for types that are not numbers, and values out of range.
    """
    whole = np.issubdtype(array.dtype, np.integer)
    if not whole and array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} has values of type {array.dtype}: give bytes (0 to 255) or floats (0 to 1)")
    low, high = data_range or (BYTES if whole else FLOATS)
    if array.size == 0:
        return low, high
    least, greatest = float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))  # without NaN
    if math.isinf(least) or math.isinf(greatest):
        raise ValueError(f"{name} contains infinite values: replace them")
    if whole and data_range is None and greatest == 1 and least >= 0:
        raise ValueError(
            f"{name} contains only the integers 0 and 1: give --range 0 1 if 1 is white, --range 0 255 if 255 is "
            "(data_range=(0, 1) or (0, 255) in Python)"
        )
    if least < low - ROUNDING * (high - low) or greatest > high + ROUNDING * (high - low):
        expected = "the given range is" if data_range else f"the default range of {'integers' if whole else 'floats'} is"
        fitting = [pair for pair in ((-1, 1), (0, 255)) if pair[0] <= least and greatest <= pair[1]]
        lower, upper = fitting[0] if fitting else ("LOW", "HIGH")
        raise ValueError(
            f"{name} has values from {least:g} to {greatest:g}, but {expected} {low:g} to {high:g}: "
            f"give the values of black and white, --range {lower} {upper} (data_range=({lower}, {upper}) in Python)"
        )
    return low, high


# --- axes ----------------------------------------------------------------------------------------------------------


def channels_first(array: np.ndarray, name: str) -> np.ndarray:
    """Convert images to (item, channel, height, width), from a channel axis after the items, at the end, or absent.

    :raises ValueError: for other shapes.
    """
    shape = array.shape
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        last, first = shape[3] in CHANNELS, shape[1] in CHANNELS
        if last and first:  # a tiny image: unambiguous only if one interpretation is square
            last, first = shape[1] == shape[2], shape[2] == shape[3]
        array = array.transpose(0, 3, 1, 2) if last else array
    if array.ndim != 4 or (len(shape) == 4 and last == first) or 0 in shape[1:]:
        raise ValueError(
            f"{name} has shape {shape}; images are (item, height, width), (item, height, width, channel) or "
            "(item, channel, height, width) with 1, 3 or 4 channels"
        )
    return array


def fitted(array: np.ndarray, name: str, event_shape: Sequence[int]) -> np.ndarray:
    """Convert one image or several of the size of the event to (item, channel, height, width), from the layouts of
    `channels_first`. For an RGB event a fourth channel, alpha, is allowed.

    :raises ValueError: for other shapes.
    """
    channels, height, width = event_shape
    if array.shape[-2:] == (height, width) and array.ndim < 4 and channels == 1:
        array = array.reshape(-1, 1, height, width)
    for number in (channels, 4) if channels == 3 else (channels,):
        for layout, order in (((number, height, width), (0, 1, 2, 3)), ((height, width, number), (0, 3, 1, 2))):
            if array.shape == layout:
                array = array[None]
            if array.shape[1:] == layout and len(array):
                return array.transpose(order)
    raise ValueError(
        f"{name} has shape {array.shape}, expected (item, {channels}, {height}, {width}), also with the channels last"
        + (" or without that axis" if channels == 1 else "")
    )

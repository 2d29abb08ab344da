"""Arrays of images: what their values mean, and where the channels are.

One rule for whatever is trained on or conditioned on: integers from 0 to 255 are bytes, floats lie in [0, 1], and False
and True are black and white. Where that is not so, a `data_range` (low, high) names the values that stand for black and
white, whatever the type. Values outside the range (by more than rounding) are refused and not clipped: the range is then not
what it was taken for.

Every error names the array, what is wrong with it, and the remedy. Nothing is unpickled.
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
ROUNDING = 1e-6  # of the range: how far float32 arithmetic may have carried a value beyond its end


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


# --- values --------------------------------------------------------------------------------------------------------


def from_bytes(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """uint8 values 0 to 255 as float32 spanning the value range.

    >>> from_bytes(np.array([0, 51, 255], np.uint8), (-1, 1))
    array([-1. , -0.6,  1. ], dtype=float32)
    """
    low, high = value_range
    return (images.astype(np.float32) / 255) * np.float32(high - low) + np.float32(low)


def as_values(
    array: np.ndarray, name: str, value_range: tuple[float, float], data_range: tuple[float, float] | None = None
) -> np.ndarray:
    """The array's values as float32 within `value_range`; NaN, which may stand for a hidden pixel, stays.

    :param name: what errors call the array.
    :param value_range: the range that black and white are mapped to.
    :param data_range: the values of the array that are black and white; by default as its type says (see the module).
    :raises ValueError: for values outside the range, and for types that are not numbers.

    >>> as_values(np.array([0.0, 0.5]), "a", (-1, 1)), as_values(np.array([0.0, 0.5]), "a", (-1, 1), data_range=(-1, 1))
    (array([-1.,  0.], dtype=float32), array([0. , 0.5], dtype=float32))
    """
    white = np.interp(array, data_bounds(array, name, data_range), (0, 1)).astype(np.float32)  # to the bit as in from_bytes
    low, high = value_range
    return white * np.float32(high - low) + np.float32(low)


def as_bytes(array: np.ndarray, name: str, data_range: tuple[float, float] | None = None) -> np.ndarray:
    """Images (item, channel, height, width) as uint8, RGB with alpha as RGB on white (`on_white`).

    The parameters are those of `as_values`, and so are the errors; NaN is one here.
    """
    bounds = data_bounds(array, name, data_range)
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise ValueError(f"{name} holds NaN; images to train on are whole: replace it, or leave those images out")
    transparent = array.shape[1] == 4
    if np.issubdtype(array.dtype, np.integer) and bounds == BYTES and not transparent:
        return array.astype(np.uint8, copy=False)
    images = np.empty((len(array), 3 if transparent else array.shape[1], *array.shape[2:]), np.uint8)
    for index, image in enumerate(array):  # one at a time: in float64 all would take eight times the memory
        values = np.interp(image, bounds, BYTES)
        images[index] = np.rint(on_white(values, BYTES) if transparent else values)
    return images


def on_white(images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """RGB with alpha (..., 4, height, width) as RGB (..., 3, height, width), as a viewer shows it on white paper."""
    low, high = value_range
    alpha = (images[..., 3:, :, :] - low) / (high - low)
    return high + (images[..., :3, :, :] - high) * alpha


def check_data_range(data_range: tuple[float, float] | None) -> None:
    """Raises ValueError for what is not two finite numbers in ascending order."""
    if data_range is not None and not (
        len(data_range) == 2 and all(map(math.isfinite, data_range)) and data_range[0] < data_range[1]
    ):
        given = " ".join(f"{bound:g}" for bound in data_range)
        raise ValueError(f"--range {given} (data_range): it takes two finite numbers, the lower one first")


def no_data_range(path: Path, data_range: tuple[float, float] | None) -> None:
    """Raises ValueError if a range of values was given for files that are not arrays."""
    if data_range is not None:
        low, high = data_range
        raise ValueError(
            f"{path}: --range {low:g} {high:g} (data_range) is for .npy and .npz arrays; pictures need none, leave it out"
        )


def data_bounds(array: np.ndarray, name: str, data_range: tuple[float, float] | None) -> tuple[float, float]:
    """The values of the array that stand for black and white; raises ValueError where its values do not lie between them."""
    whole = np.issubdtype(array.dtype, np.integer)
    if not whole and array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"{name} holds values of type {array.dtype}; give bytes (0 to 255) or floats (0 to 1)")
    low, high = data_range or (BYTES if whole else FLOATS)
    if array.size == 0:
        return low, high
    least, greatest = float(np.fmin.reduce(array, axis=None)), float(np.fmax.reduce(array, axis=None))  # NaN aside
    if math.isinf(least) or math.isinf(greatest):
        raise ValueError(f"{name} holds infinite values; replace them")
    if whole and data_range is None and greatest == 1 and least >= 0:
        raise ValueError(
            f"{name} holds integers, and only 0 and 1: give --range 0 1 if 1 is white, --range 0 255 if 255 is "
            "(data_range=(0, 1) or (0, 255) in Python)"
        )
    if least < low - ROUNDING * (high - low) or greatest > high + ROUNDING * (high - low):
        taken = "the range given is" if data_range else f"{'integers' if whole else 'floats'} are taken to run from"
        fitting = [pair for pair in ((-1, 1), (0, 255)) if pair[0] <= least and greatest <= pair[1]]
        lower, upper = fitting[0] if fitting else ("LOW", "HIGH")
        raise ValueError(
            f"{name} holds values from {least:g} to {greatest:g}, and {taken} {low:g} to {high:g}: "
            f"name the values that are black and white, --range {lower} {upper} (data_range=({lower}, {upper}) in Python)"
        )
    return low, high


# --- axes ----------------------------------------------------------------------------------------------------------


def channels_first(array: np.ndarray, name: str) -> np.ndarray:
    """(item, channel, height, width), the channel axis having been behind the items, at the end, or absent."""
    shape = array.shape
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        last, first = shape[3] in CHANNELS, shape[1] in CHANNELS
        if last and first:  # a tiny image: it can only be told if one reading makes it square
            last, first = shape[1] == shape[2], shape[2] == shape[3]
        array = array.transpose(0, 3, 1, 2) if last else array
    if array.ndim != 4 or (len(shape) == 4 and last == first) or 0 in shape[1:]:
        raise ValueError(
            f"{name} has shape {shape}; images are (item, height, width), (item, height, width, channel) or "
            "(item, channel, height, width) with 1, 3 or 4 channels"
        )
    return array


def fitted(array: np.ndarray, name: str, event_shape: Sequence[int]) -> np.ndarray:
    """(item, channel, height, width) of one image or several that have the size of the event, in the layouts of
    `channels_first`. Where the event is RGB there may be a fourth channel, alpha.
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
        f"{name} holds an array of shape {array.shape}; the generator makes (item, {channels}, {height}, {width}), which "
        "may also be given with the channels last" + (" or without that axis" if channels == 1 else "")
    )

"""Conversion of pictures of any size to items of a generator, and back.

A `Window` is the part of an original that becomes one item, resampled if the sizes differ. `items_of` makes the items, and
`in_place` puts generated items back into the originals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cogen.models.data.originals import Original

Fit = Literal["crop", "resize", "patch"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue (ITU-R BT.601), the same as in Pillow."""


@dataclass(frozen=True)
class Window:
    """The part of an original that is one item.

    :param original: index of the original.
    """

    original: int
    top: int
    left: int
    height: int
    width: int

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


# --- items ---------------------------------------------------------------------------------------------------------


def windows_of(
    originals: Sequence[Original],
    event_shape: Sequence[int],
    fit: Fit | None = None,
    seen: Sequence[np.ndarray] | None = None,
) -> list[Window]:
    """The parts of the originals that become items.

    :param fit: None if all have the generator's size; "crop" uses the largest central part with the generator's aspect ratio,
        "resize" the whole picture, and "patch" adjacent parts of the generator's size (the last ones overlap), only those with
        a hidden pixel if there are masks.
    :param seen: masks of the originals, (height, width) each, True = seen.
    :raises ValueError: for sizes that differ without ``fit``, patches larger than an original, and crops without hidden pixels.
    """
    found = []
    height, width = event_shape[-2:]
    for k, each in enumerate(originals):
        tall, wide = each.size
        if fit is None and (tall, wide) != (height, width):
            raise ValueError(
                f"{each.name} is {wide} x {tall} pixels, but the generator makes {width} x {height}: use --fit crop (central"
                " part), resize (whole picture) or patch (parts of this size)"
            )
        if fit == "patch":
            if tall < height or wide < width:
                raise ValueError(
                    f"--fit patch: {each.name} is {wide} x {tall} pixels, smaller than the {width} x {height} of the generator;"
                    " use --fit resize"
                )
            for top in _starts(tall, height):
                for left in _starts(wide, width):
                    window = Window(k, top, left, height, width)
                    if seen is None or not seen[k][window.slices].all():
                        found.append(window)
        elif fit == "crop":
            scale = min(tall / height, wide / width)
            part = max(1, round(scale * height)), max(1, round(scale * width))
            found.append(Window(k, (tall - part[0]) // 2, (wide - part[1]) // 2, *part))
        else:
            found.append(Window(k, 0, 0, tall, wide))
    for window in found if seen is not None and fit == "crop" else ():
        if seen[window.original][window.slices].all():  # type: ignore[index]
            raise ValueError(
                f"--fit crop: the hidden part of {originals[window.original].name} is outside the central crop: use --fit"
                " resize or patch"
            )
    return found


def _starts(whole: int, part: int) -> list[int]:
    """The start positions of parts that cover the whole."""
    starts = list(range(0, whole - part + 1, part))
    return starts if starts[-1] + part == whole else [*starts, whole - part]


def items_of(
    originals: Sequence[Original],
    windows: Sequence[Window],
    event_shape: Sequence[int],
    value_range: tuple[float, float],
    seen: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The windows as items of a generator, and their masks.

    Resampling does not mix hidden pixels into seen ones; a resampled pixel is seen if at least half of its area is.

    :returns: x, (item, channel, height, width) within ``value_range``, gray where hidden, and the mask of seen pixels, (item,
        height, width).
    """
    channels, *size = event_shape
    low, high = value_range
    values = np.empty((len(windows), *event_shape), np.float32)
    shown = np.ones((len(windows), *size), bool)
    for k, window in enumerate(windows):
        original = originals[window.original]
        pixels = in_channels(original.shown, channels)[:, *window.slices]
        if seen is None:
            values[k] = resampled(pixels, size)
            continue
        part = seen[window.original][window.slices]
        share = resampled(part[None].astype(np.float32), size, sharp=False)
        total = resampled(np.where(part, pixels, 0), size, sharp=False)
        shown[k] = share[0] >= 0.5
        values[k] = np.where(shown[k], total / np.maximum(share, 1e-6), 0.5)
    return values * np.float32(high - low) + np.float32(low), shown


def in_channels(pixels: np.ndarray, channels: int) -> np.ndarray:
    """Convert (..., channel, height, width) to gray (1 channel) or RGB (3 channels)."""
    if pixels.shape[-3] == channels:
        return pixels
    if channels == 1:
        return np.einsum("c,...chw->...hw", LUMA, pixels)[..., None, :, :]
    return np.repeat(pixels, channels, axis=-3)


def resampled(pixels: np.ndarray, size: Sequence[int], sharp: bool = True) -> np.ndarray:
    """Resize (..., height, width) with antialiasing, and clip to [0, 1].

    :param size: (height, width).
    :param sharp: bicubic; otherwise bilinear, whose weights are positive.
    """
    from PIL import Image

    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    kind = Image.Resampling.BICUBIC if sharp else Image.Resampling.BILINEAR
    planes = pixels.reshape(-1, *pixels.shape[-2:])
    made = np.stack([np.asarray(Image.fromarray(p.astype(np.float32)).resize((size[1], size[0]), kind)) for p in planes])
    return np.clip(made, 0, 1).reshape(*pixels.shape[:-2], *size)


def in_place(
    originals: Sequence[Original],
    windows: Sequence[Window],
    made: np.ndarray,
    value_range: tuple[float, float],
    seen: Sequence[np.ndarray] | None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Put generated items back into the originals. Overlapping windows are averaged.

    :param made: generated items, (draw, item, channel, height, width) within ``value_range``.
    :param seen: masks of the pixels that are kept; None to replace all pixels of the windows.
    :returns: for each original its draws, (draw, channel, height, width), black 0 and white 1, and the mask of the replaced
        pixels, (height, width).
    """
    low, high = value_range
    draws = np.clip((made - low) / (high - low), 0, 1).astype(np.float32)
    found, replaced = [], []
    for k, original in enumerate(originals):
        tall, wide = original.size
        channels = len(original.numbers)
        total, times = np.zeros((len(made), channels, tall, wide), np.float32), np.zeros((tall, wide), np.float32)
        for window, part in zip(windows, np.moveaxis(draws, 1, 0), strict=True):
            if window.original == k:
                total[..., *window.slices] += in_channels(resampled(part, (window.height, window.width)), channels)
                times[window.slices] += 1
        found.append(total / np.maximum(times, 1))
        replaced.append((times > 0) if seen is None else (times > 0) & ~seen[k])
    return found, replaced

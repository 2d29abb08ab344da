"""Masks: boolean arrays of an event's shape, True = seen. One for all items, or one per item with the item axis first."""

from __future__ import annotations

import numpy as np

from cogen.inference.signatures import ArrayLike

Shape = tuple[int, ...]


def half(shape: Shape, side: str) -> np.ndarray:
    """A mask that shows one half of an image.

    :param shape: ends in (height, width).
    :param side: "top", "bottom", "left" or "right".
    :raises ValueError: for another side, and a shape without height and width.

    >>> half((1, 2, 2), "top")[0].tolist()
    [[True, True], [False, False]]
    """
    height, width = _image(shape)
    mask = np.zeros(shape, dtype=bool)
    sides = {
        "top": np.s_[..., : height // 2, :],
        "bottom": np.s_[..., height // 2 :, :],
        "left": np.s_[..., : width // 2],
        "right": np.s_[..., width // 2 :],
    }
    if side not in sides:
        raise ValueError(f"side {side!r} is not one of {', '.join(sides)}")
    mask[sides[side]] = True
    return mask


def box(shape: Shape, top: int, left: int, height: int, width: int) -> np.ndarray:
    """A mask that hides a box of ``height`` x ``width`` pixels whose upper left pixel is (top, left).

    >>> box((1, 2, 3), 0, 1, 2, 1)[0].tolist()
    [[True, False, True], [True, False, True]]
    """
    rows, columns = _image(shape)
    if height < 1 or width < 1 or top < 0 or left < 0 or top + height > rows or left + width > columns:
        raise ValueError(f"a box of {height} x {width} at ({top}, {left}) is not inside an image of {rows} x {columns}")
    mask = np.ones(shape, dtype=bool)
    mask[..., top : top + height, left : left + width] = False
    return mask


def centre(shape: Shape, size: int) -> np.ndarray:
    """A mask that hides the central ``size`` x ``size`` pixels."""
    height, width = _image(shape)
    return box(shape, (height - size) // 2, (width - size) // 2, size, size)


def random(shape: Shape, seen: float, *, seed: int, items: int | None = None) -> np.ndarray:
    """A mask that shows each pixel with probability ``seen``, the same for all channels.

    :param seen: in (0, 1).
    :param items: draw this many masks, (item, *shape); default one, (*shape).
    :raises ValueError: for another probability.
    """
    if not 0.0 < seen < 1.0:
        raise ValueError(f"seen={seen}: the fraction of seen pixels must lie between 0 and 1")
    height, width = _image(shape)
    lead = () if items is None else (items,)
    pixels = np.random.default_rng(seed).random((*lead, *(1,) * (len(shape) - 2), height, width)) < seen
    return np.broadcast_to(pixels, (*lead, *shape)).copy()


def free_form(shape: Shape, *, strokes: int = 3, thickness: int = 4, seed: int, items: int | None = None) -> np.ndarray:
    """A mask that hides brush strokes, random walks of a round brush (free-form inpainting, Yu et al. 2019).

    Each stroke has four to eight segments of up to a quarter of the side.

    :param thickness: diameter of the brush in pixels.
    :param items: draw this many masks, (item, *shape); default one, (*shape).
    :raises ValueError: for strokes or a thickness below one.
    """
    if strokes < 1 or thickness < 1:
        raise ValueError(f"strokes={strokes}, thickness={thickness}: both must be at least 1")
    height, width = _image(shape)
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]

    def draw() -> np.ndarray:
        hidden = np.zeros((height, width), dtype=bool)
        for _ in range(strokes):
            point, angle = rng.uniform((0, 0), (height, width)), rng.uniform(0, 2 * np.pi)
            for _ in range(rng.integers(4, 9)):
                angle += rng.normal(0, 0.7)
                length = rng.uniform(0, min(height, width) / 4)
                end = np.clip(point + length * np.array([np.sin(angle), np.cos(angle)]), 0, (height - 1, width - 1))
                for y, x in np.linspace(point, end, max(2, int(2 * length))):
                    hidden |= (rows - y) ** 2 + (columns - x) ** 2 <= (thickness / 2) ** 2
                point = end
        return np.broadcast_to(~hidden, shape)

    return draw().copy() if items is None else np.stack([draw() for _ in range(items)])


def assorted(shape: Shape, count: int, *, seed: int) -> np.ndarray:
    """Masks of every kind, (count, *shape), to train a network on arbitrary masks.

    They cycle through a seen half, a hidden box, a seen box, random pixels (5 to 95 % seen) and hidden brush strokes, with
    random sides, sizes, positions and fractions.

    :param shape: at least four pixels high and wide.
    """
    height, width = _image(shape)
    rng = np.random.default_rng(seed)

    def some_box() -> np.ndarray:
        tall, wide = (int(rng.integers(side // 4, 3 * side // 4 + 1)) for side in (height, width))
        return box(shape, int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide)

    kinds = (
        lambda: half(shape, ("top", "bottom", "left", "right")[rng.integers(4)]),
        some_box,
        lambda: ~some_box(),
        lambda: random(shape, rng.uniform(0.05, 0.95), seed=int(rng.integers(2**31))),
        lambda: free_form(shape, thickness=max(2, height // 5), seed=int(rng.integers(2**31))),
    )
    return np.stack([kinds[k % len(kinds)]() for k in range(count)])


def clamping(mask: ArrayLike, shape: Shape) -> np.ndarray:
    """Check a mask of the entries of an event that are clamped.

    :raises TypeError: for a mask that is not boolean.
    :raises ValueError: for another shape than ``shape``, and a mask that clamps all or no entries.
    """
    found = np.asarray(mask)
    if found.dtype != bool:
        raise TypeError(f"clamp: the mask must be boolean, True = fixed; this one is {found.dtype}")
    if found.shape != shape:
        raise ValueError(f"clamp: the mask has shape {found.shape}, expected {shape}")
    if found.all() or not found.any():
        raise ValueError(f"clamp: the mask fixes {found.sum()} of {found.size} entries; it must fix some and leave some free")
    return found


def _image(shape: Shape) -> tuple[int, int]:
    if len(shape) < 2:
        raise ValueError(f"shape {shape} is not the shape of an image: it must end in (height, width)")
    return shape[-2], shape[-1]

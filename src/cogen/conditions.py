"""What is seen, by the names that the commands use: views with the noise that goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogen.models.views import View

FACTOR = 4
"""Pixels of a side that a thumbnail makes one."""

NOISE_OF_VIEW = {"thumbnail": 1 / FACTOR, "gray": 0.668}
"""The noise of a view over that of a pixel, where pixels are averaged: of sixteen, and by the luma weights."""


def view_named(name: str, generator: Any, *, noise: float | None = None, seed: int = 0, **place: Any) -> View:
    """The view of a name; ``place`` is what `mask_named` takes besides.

    :param noise: standard deviation of a pixel's noise, in the generator's units; None for the generator's own, which is
        that of pixels where it has learned one and they are seen as they are.
    :param seed: of random pixels.

    Raises ValueError for the luma of gray images.
    """
    from cogen.models import views

    shape = tuple(generator.config.event_shape)
    model = noise_model(name, generator, noise)
    match name:
        case "thumbnail":
            return views.Thumbnail(FACTOR, **model)
        case "gray":
            if shape[0] == 1:
                raise ValueError("--view gray: this generator makes gray images, so nothing would be hidden")
            return views.Grayscale(**model)
    return views.Mask(mask_named(name, shape, seed=seed, **place), **model)


def mask_named(
    name: str,
    shape: tuple[int, ...],
    *,
    seed: int = 0,
    side: str = "top",
    place: tuple[int, int, int, int] | None = None,
    share: float = 0.25,
) -> Any:
    """The mask of a view by its name, boolean (channel, height, width), True where a pixel is seen.

    :param side: of a half, which is seen.
    :param place: of a box, its top, left, height and width.
    :param share: of random pixels.

    Raises ValueError for a view that is no mask, and for a box that lies outside of the image.
    """
    from cogen.models import views

    height, width = shape[-2:]
    match name:
        case "half":
            return views.half(shape, side)
        case "box":
            return views.box(shape, *(place or (height // 2, width // 4, height // 3, width // 3)))
        case "centre":
            return views.centre(shape, min(height, width) // 2)
        case "random":
            return views.random(shape, share, seed=seed)
    raise ValueError(f"--view {name}: here pixels are seen or hidden, as by half, box, centre or random")


def noise_model(name: str, generator: Any, noise: float | None = None) -> dict[str, Any]:
    """``scale`` or ``likelihood`` of the view of a name, as `view_named` has it."""
    from cogen.models.pixels.censored import pixel_noise_of

    learned = pixel_noise_of(generator) if noise is None and name not in NOISE_OF_VIEW else None
    scale = (generator.config.noise_scale if noise is None else noise) * NOISE_OF_VIEW.get(name, 1.0)
    return {"scale": scale} if learned is None else {"likelihood": learned}

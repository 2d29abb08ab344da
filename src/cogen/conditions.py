"""What is seen, by the names that the commands use: views with the noise that goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogen.models.views import View

NOISE_OF_VIEW = {"thumbnail": 1 / 4, "gray": 0.668}
"""The noise of a view over that of a pixel, where pixels are averaged: of sixteen, and by the luma weights."""


def view_named(name: str, generator: Any, *, noise: float | None = None, seed: int = 0) -> View:
    """The view of a name.

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
            return views.Thumbnail(4, **model)
        case "gray":
            if shape[0] == 1:
                raise ValueError("--view gray: this generator makes gray images, so nothing would be hidden")
            return views.Grayscale(**model)
    return views.Mask(mask_named(name, shape, seed=seed), **model)


def mask_named(name: str, shape: tuple[int, ...], *, seed: int = 0) -> Any:
    """The mask of a view by its name, boolean (channel, height, width), True where a pixel is seen.

    Raises ValueError for a view that is no mask.
    """
    from cogen.models import views

    height, width = shape[-2:]
    match name:
        case "half":
            return views.half(shape, "top")
        case "box":
            return views.box(shape, height // 2, width // 4, height // 3, width // 3)
        case "centre":
            return views.centre(shape, min(height, width) // 2)
        case "random":
            return views.random(shape, 0.25, seed=seed)
    raise ValueError(f"--view {name}: here pixels are seen or hidden, as by half, box, centre or random")


def noise_model(name: str, generator: Any, noise: float | None = None) -> dict[str, Any]:
    """``scale`` or ``likelihood`` of the view of a name, as `view_named` has it."""
    from cogen.models.pixels.censored import pixel_noise_of

    learned = pixel_noise_of(generator) if noise is None and name not in NOISE_OF_VIEW else None
    scale = (generator.config.noise_scale if noise is None else noise) * NOISE_OF_VIEW.get(name, 1.0)
    return {"scale": scale} if learned is None else {"likelihood": learned}

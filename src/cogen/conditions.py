"""The views that the commands name, with their noise."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogen.models.views import View

FACTOR = 4
"""Side of the squares of pixels that a thumbnail averages."""

NOISE_OF_VIEW = {"thumbnail": 1 / FACTOR, "gray": 0.668}
"""The noise scale of averaged pixels relative to one pixel: of sixteen pixels, and by the luma weights."""


def view_named(name: str, generator: Any, *, noise: float | None = None, seed: int = 0, **place: Any) -> View:
    """The view of a name; ``place`` are further arguments of `mask_named`.

    :param noise: standard deviation of a pixel's noise, in the generator's units; None for the generator's own, or
        for pixels the noise model that it learned, if it did.
    :param seed: of random pixels.
    :raises ValueError: for the luma of gray images.
    """
    from cogen.models import views

    shape = tuple(generator.config.event_shape)
    model = noise_model(name, generator, noise)
    match name:
        case "thumbnail":
            return views.Thumbnail(FACTOR, **model)
        case "gray":
            if shape[0] == 1:
                raise ValueError("--view gray: this generator makes gray images, so nothing is hidden")
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

    :param side: the side of a half that is seen.
    :param place: top, left, height and width of a hidden box.
    :param share: the share of random pixels that is seen.
    :raises ValueError: for a view that is not a mask, and for a box outside of the image.
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
    raise ValueError(f"--view {name}: it is not a mask; use half, box, centre or random")


def noise_model(name: str, generator: Any, noise: float | None = None) -> dict[str, Any]:
    """``scale`` or ``likelihood`` of the view of a name, as in `view_named`."""
    from cogen.models.pixels.censored import pixel_noise_of

    learned = pixel_noise_of(generator) if noise is None and name not in NOISE_OF_VIEW else None
    scale = (generator.config.noise_scale if noise is None else noise) * NOISE_OF_VIEW.get(name, 1.0)
    return {"scale": scale} if learned is None else {"likelihood": learned}

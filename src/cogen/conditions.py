"""The views that the commands name, with their noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cogen.models.views import View

FACTOR = 4
"""Side of the squares of pixels that a thumbnail averages, unless given pictures have another size."""

NOISE_OF_LUMA = 0.668
"""The noise scale of the luma relative to one pixel, by the luma weights."""


def noise_of_view(name: str, factor: int = FACTOR) -> float:
    """The noise scale of a view relative to one pixel."""
    return {"thumbnail": 1 / factor, "gray": NOISE_OF_LUMA}.get(name, 1.0)


def tuning_name(name: str, factor: int = FACTOR) -> str:
    """The name of a view in a file of tunings (`cogen.models.storage.tunings`): `thumbnail-2` for thumbnails of factor 2."""
    return name if name != "thumbnail" or factor == FACTOR else f"{name}-{factor}"


def guide_suits(name: str, factor: int, shape: tuple[int, ...]) -> bool:
    """Whether the annealing starts from a guide for the view of a name; it always does unless that is a thumbnail.

    `cogen guide` trains for thumbnails of factor `FACTOR`, if it divides the sides of the images. Such guides are a good start
    for larger thumbnails too. For smaller ones neither start is better throughout, and the prior is used
    (benchmarks/thumbnail_start.py).
    """
    return name != "thumbnail" or (factor <= FACTOR and shape[-2] % FACTOR == shape[-1] % FACTOR == 0)


def check_noise(noise: float) -> None:
    """:raises ValueError: for a value of `--noise` that is not positive and finite."""
    if not 0 < noise < math.inf:
        raise ValueError(f"--noise {noise:g}: it must be positive and finite")


def scale_of(view: Any) -> float:
    """The standard deviation of the noise of a view; NaN if it is not a single number."""
    scale = getattr(view.likelihood, "scale", None)
    return float(scale) if isinstance(scale, float | int) else float("nan")


def view_named(
    name: str, generator: Any, *, noise: float | None = None, seed: int = 0, factor: int = FACTOR, **place: Any
) -> View:
    """The view of a name; ``place`` are further arguments of `mask_named`.

    :param noise: standard deviation of a pixel's noise, in the generator's units; None for the generator's own, or
        for pixels the noise model that it learned, if it did.
    :param seed: of random pixels.
    :param factor: side of the squares of pixels that a thumbnail averages.
    :raises ValueError: for the luma of gray images.
    """
    from cogen.models import views

    shape = tuple(generator.config.event_shape)
    model = noise_model(name, generator, noise, factor)
    match name:
        case "thumbnail":
            return views.Thumbnail(factor, **model)
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


def noise_model(name: str, generator: Any, noise: float | None = None, factor: int = FACTOR) -> dict[str, Any]:
    """``scale`` or ``likelihood`` of the view of a name, as in `view_named`."""
    from cogen.models.pixels.censored import pixel_noise_of

    learned = pixel_noise_of(generator) if noise is None and name not in ("thumbnail", "gray") else None
    scale = (generator.config.noise_scale if noise is None else noise) * noise_of_view(name, factor)
    return {"scale": scale} if learned is None else {"likelihood": learned}

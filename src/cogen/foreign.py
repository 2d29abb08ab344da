"""The generator of a command, shipped, trained here, or somebody else's, with what was found out about it in words."""

from __future__ import annotations

import math
from typing import Any

from cogen.options import Complete, Guide, Tune


def generator_of(options: Complete | Guide | Tune) -> Any:
    """The generator that the options name; what was decided on the way is printed. Raises what `load_generator` does."""
    from cogen.models.storage.generators import load_generator

    generator: Any = load_generator(options.generator, **vars(options.foreign))
    for note in generator.notes:
        print(f"{options.generator}: {note}")
    return generator


def images_generator(options: Complete | Tune) -> Any:
    """The same, of a generator of images. Raises ValueError for another, with the line of Python that makes images of it."""
    generator = generator_of(options)
    if reshaped := image_line(generator.config.event_shape):
        shape = " x ".join(map(str, generator.config.event_shape))
        raise ValueError(f"{options.generator} makes {shape} numbers, and images are channel x height x width: {reshaped}")
    return generator


def image_line(event_shape: tuple[int, ...]) -> str:
    """How to make images, (channel, height, width), of what a generator makes; empty where it makes images."""
    if len(event_shape) == 3:
        return ""
    match event_shape:
        case (height, _):
            unflattened = f"(1, {height})"
        case (size,) if (side := math.isqrt(size)) ** 2 == size:
            unflattened = f"(1, {side}, {side})"
        case _:
            unflattened = "(channels, height, width)"
    return f"torch.nn.Sequential(network, torch.nn.Unflatten(1, {unflattened}))"

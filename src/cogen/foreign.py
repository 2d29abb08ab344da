"""The generator of a command: shipped, trained with cogen, or external."""

from __future__ import annotations

import math
from typing import Any

from cogen.options import Complete, Guide, Tune


def generator_of(options: Complete | Guide | Tune) -> Any:
    """The generator that the options name; notes about its reading are printed. Errors are those of `load_generator`."""
    from cogen.models.storage.generators import load_generator

    generator: Any = load_generator(options.generator, **vars(options.foreign))
    for note in generator.notes:
        print(f"{options.generator}: {note}")
    return generator


def images_generator(options: Complete | Tune) -> Any:
    """The same for a generator of images.

    :raises ValueError: for a generator of a table, and another generator, with the line of Python that reshapes its output to
        images.
    """
    generator = generator_of(options)
    if generator.config.schema is not None:
        raise ValueError(
            f"--generator {options.generator}: it is a generator of a table and makes no images: fill tables with `cogen fill"
            f" ROWS.csv --generator {options.generator}`"
        )
    if reshaped := image_line(generator.config.event_shape):
        shape = " x ".join(map(str, generator.config.event_shape))
        raise ValueError(f"{options.generator} makes {shape} numbers; images need channel x height x width: {reshaped}")
    return generator


def image_line(event_shape: tuple[int, ...]) -> str:
    """Python that reshapes a generator's output to (channel, height, width); empty for a generator of images."""
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

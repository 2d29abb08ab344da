"""`cogen train pix2pix` and the other families of pairs: from options to a stored generator of (z, condition)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cogen.models.contexts import Array
from cogen.models.data.datasets import KNOWN, held_out_split, load_image_data
from cogen.models.data.pairs import PairData, centre_hidden, edges, load_pairs, paired, sketch
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import PairSizes
from cogen.models.training.preparation import as_floats
from cogen.options import Train
from cogen.training import is_first, refuse_table_options, run, settings_of, write, write_energy, write_grid

MADE = {"centre": centre_hidden, "edges": edges, "sketch": sketch}
"""Conditions that are computed from whole images."""


def train_on_pairs(options: Train) -> None:
    """Run `cogen train` on pairs of images.

    :raises ValueError: for invalid options or data.
    :raises OSError: for files that cannot be read or written.
    :raises FloatingPointError: for a loss that diverged.
    """
    made = recipe(options.family, Kind.PAIRS)
    refuse_table_options(options)
    settings = settings_of(options, made)
    if options.crop_from is not None and (options.size is None or options.crop_from < options.size):
        raise ValueError(
            f"--crop-from {options.crop_from}: crops of --size are taken from this size, which must be larger, as in 286"
            " and 256"
        )
    data = pairs_of(options)
    side = options.size if options.crop_from is not None else None
    sizes = sizes_of(options, made, data, side)
    torch.manual_seed(options.seed)
    family = made.family(sizes, learning_rate=options.learning_rate, **settings)
    tensors = [torch.from_numpy(data.train), torch.from_numpy(data.train_conditions)]
    trained_on, held_out = held_out_split(len(tensors[0]))
    kept = [as_floats(_centre(tensor[held_out], side)) for tensor in tensors]
    tensors = [tensor[trained_on] for tensor in tensors]
    trained = run(options, made, family, tensors)
    if not is_first():
        return
    contexts = {"condition": Array(sizes.condition_shape, made.value_range)}
    few = [part[:8] for part in kept]
    draw = functools.partial(draw_translations, sizes.latent_dim, few, made.value_range, options.seed)
    family = family.cpu()
    if made.energy is not None:
        refined = functools.partial(draw_refined, family.eval(), trained.average or family.generator, draw)
        write_energy(options, made, sizes, data, family, trained, len(kept[0]), contexts, refined)
    descent = {"starts": 2, "num_steps": 100} if sizes.latent_dim else {"starts": 1, "num_steps": 1}
    write(options, made, sizes, data, family, trained, kept, contexts, draw, **descent)
    call = (
        "CoGenerator(generator, views=...).given(condition=...)"
        if sizes.latent_dim
        else "generator(torch.zeros(n, 0), condition)"
    )
    if sizes.latent_dim:
        context = "" if sizes.fills else " --context condition=PICTURES"
        algorithm = " --algorithm learned-descent" if made.predictor is not None else ""
        print(f"next: cogen complete --generator {options.output}{algorithm} --images PICTURES{context}, or in Python")
    print(f"next: generator = load_generator({str(options.output)!r}); {call}")


def pairs_of(options: Train) -> PairData:
    """The data, at the size from which crops are taken."""
    size = options.crop_from or options.size
    if options.condition in MADE:
        images = load_image_data(
            options.data, folder=options.folder, download=options.download, size=size, data_range=options.range
        )
        return paired(images, MADE[options.condition])
    if options.data in KNOWN or options.folder is not None or options.download:
        raise ValueError(
            f"--condition {options.condition}: {options.data} contains no pairs; give a folder of pairs, or compute the"
            f" condition from the images with --condition {' or '.join(MADE)}"
        )
    return load_pairs(options.data, condition_left=options.condition == "left", size=size, data_range=options.range)


def sizes_of(options: Train, made: Recipe, data: PairData, side: int | None) -> PairSizes:
    """The sizes of the networks for these pairs, or for crops of a side."""
    if options.widths is not None and len(options.widths) != 1:
        shown = " ".join(map(str, options.widths))
        raise ValueError(f"--widths {shown}: families of pairs take one width, the feature maps of the first layer")
    x, condition = (
        (part.shape[1], *((side, side) if side else part.shape[2:])) for part in (data.train, data.train_conditions)
    )
    latent_dim = made.latent_dim if options.latent_dim is None else options.latent_dim
    width = {} if options.widths is None else {"width": options.widths[0]}
    return PairSizes(x, condition, latent_dim, fills=options.condition == "centre", **width)


def _centre(images: Tensor, side: int | None) -> Tensor:
    if side is None:
        return images
    top, left = ((whole - side) // 2 for whole in images.shape[2:])
    return images[..., top : top + side, left : left + side]


def draw_refined(family: Any, generator: nn.Module, draw: Callable[[Any, Path], None], path: Path) -> None:
    """Write the picture of `draw_translations` with draws refined by the solver."""

    def refined(z: Tensor, condition: Tensor) -> Tensor:
        x = generator(z, condition)
        with torch.random.fork_rng():  # the next draw is that of the other picture
            return family.refined(x, condition)

    draw(refined, path)


def draw_translations(
    latent_dim: int, held_out: list[Tensor], value_range: tuple[float, float], seed: int, generator: Any, path: Path
) -> None:
    """Write a PNG with a condition, four draws and the true x in every row."""
    x, condition = held_out
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        draws = [generator(torch.randn(len(x), latent_dim), condition) for _ in range(4)]
    columns = [_in_colour(each) for each in (condition, *draws, x)]
    write_grid(torch.stack(columns, dim=1), value_range, path)


def _in_colour(images: Tensor) -> Tensor:
    """Images of three channels, from one channel or three channels and a mask."""
    return images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)

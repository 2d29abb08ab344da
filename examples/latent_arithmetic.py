"""Latent arithmetic: change a feature of an image by adding a direction to its latent, and measure the feature.

    cogen train aim --data mnist --latent-dim 32 --epochs 10 --precision bf16-mixed --output digits
    python examples/latent_arithmetic.py --generator digits --output latent_arithmetic

A feature is a direction in the latent space: the mean of q(z | x) over images with the feature minus the mean over images
without (Radford, Metz and Chintala 2016, section 6.3.2). Two features of a digit can be measured on its pixels:

    weight    mean ink, pixels in [0, 1]
    slant     covariance of column and row divided by the variance of rows, of the ink, in pixels per row

The direction is computed from the tenth of the training images with the most and the tenth with the least of the feature.
Latents of test digits are moved by -1 to 1 times the direction, and the feature is measured on the generated images.
OUTPUT.json has the table and the command; OUTPUT.png shows the moved digits, and spherical interpolations between pairs of test
digits.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from cogen.models import load_generator, load_image_data
from cogen.models.networks.encoders import arithmetic, interpolate
from cogen.models.storage.encoders import load_encoder


@dataclass
class Options:
    """Move digits along directions of features, and measure the features."""

    generator: Path = Path("digits")
    """Generator of `cogen train` with an encoder (vae, ali, bigan, alice, veegan, aim)."""
    data: str = "mnist"
    """Name of a known data set, or a path."""
    folder: Path | None = None
    """Folder of the known data set; default data/NAME."""
    examples: int = 20_000
    """Training images, of which the tenths with the most and the least of the feature are used."""
    count: int = 1_000
    """Test images to move."""
    shown: int = 8
    """Test images in the figure."""
    amounts: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0)
    """Multiples of the direction."""
    output: Path = Path("latent_arithmetic")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def weight(x: Tensor) -> Tensor:
    """Mean ink, (item,), of images in [-1, 1]."""
    return (x.flatten(1).mean(1) + 1) / 2


def slant(x: Tensor) -> Tensor:
    """Regression slope of the ink's columns on its rows, (item,): negative if the top leans to the right."""
    ink = ((x.mean(1) + 1) / 2).clamp_min(0) + 1e-6
    ink = ink / ink.sum((1, 2), keepdim=True)
    row = torch.arange(ink.shape[1], dtype=x.dtype)[:, None]
    column = torch.arange(ink.shape[2], dtype=x.dtype)[None]
    row_mean, column_mean = ((ink * axis).sum((1, 2), keepdim=True) for axis in (row, column))
    covariance = (ink * (row - row_mean) * (column - column_mean)).sum((1, 2))
    return covariance / (ink * (row - row_mean).square()).sum((1, 2))


FEATURES = {"weight": weight, "slant": slant}


def main(options: Options) -> list[dict[str, Any]]:
    try:
        generator = load_generator(options.generator)
        encoder = load_encoder(options.generator.with_name(f"{options.generator.name}-encoder"))
        data = load_image_data(options.data, folder=options.folder)
    except (OSError, ValueError) as error:
        sys.exit(f"latent_arithmetic: {error}")
    train_x, test = (torch.from_numpy(images).float() / 127.5 - 1 for images in (data.train[: options.examples], data.test))
    test = test[: options.count]
    rows: list[dict[str, Any]] = []
    pictures: dict[str, Tensor] = {}
    for name, feature in FEATURES.items():
        order = feature(train_x).argsort()
        tenth = max(1, len(order) // 10)
        some = {"add": train_x[order[-tenth:]], "subtract": train_x[order[:tenth]]}
        moved = [arithmetic(generator, encoder, test, amount=amount, **some) for amount in options.amounts]
        for amount, x in zip(options.amounts, moved, strict=True):
            found = feature(x)
            rows.append({"feature": name, "amount": amount, "mean": found.mean().item(), "sd": found.std().item()})
        rows.append(
            {"feature": name, "amount": "test images", "mean": feature(test).mean().item(), "sd": feature(test).std().item()}
        )
        pictures[name] = torch.stack([x[: options.shown] for x in moved], dim=1)
    half = min(options.shown, len(test) // 2)
    pictures["interpolation"] = interpolate(generator, encoder, test[:half], test[half : 2 * half], 2 * len(options.amounts))
    print("\n".join(f"{r['feature']:8} {r['amount']!s:>12} {r['mean']:8.4f} (sd {r['sd']:.4f})" for r in rows))
    path = options.output.with_name(f"{options.output.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": shlex.join(["python", "examples/latent_arithmetic.py", *sys.argv[1:]]), "rows": rows}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(pictures, options, options.output.with_name(f"{options.output.name}.png"))
    return rows


def draw(pictures: dict[str, Tensor], options: Options, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.5 + 0.5 * options.shown), layout="constrained")
    for axes, (name, images) in zip(figure.subplots(1, 3, width_ratios=[1, 1, 2]), pictures.items(), strict=True):
        grid = np.concatenate([np.concatenate(list(line[:, 0].numpy()), axis=1) for line in images])
        axes.imshow(grid, cmap="gray_r", vmin=-1, vmax=1)
        side = images.shape[-1]
        ticks = [side * (k + 0.5) for k in range(images.shape[1])]
        labels = [f"{amount:+g}" for amount in options.amounts] if name in FEATURES else [""] * len(ticks)
        axes.set_xticks(ticks, labels, fontsize=8)
        axes.set(yticks=[], title=name)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

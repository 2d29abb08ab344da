"""`cogen guide`: train q(z | seen part) for a generator on simulated pairs, and store it beside the generator."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from cogen.conditions import FACTOR, guide_suits, noise_model, view_named
from cogen.foreign import generator_of
from cogen.models import views
from cogen.models.families.amortized import Amortized
from cogen.models.networks.masked_flow import MaskedFlow
from cogen.models.storage.encoders import ENCODERS, GUIDE, EncoderConfig, save_encoder
from cogen.models.storage.generators import SHIPPED, find_generator
from cogen.options import Guide
from cogen.output import checkpoint_beside
from cogen.training import is_first, means

MASKED_PER_THUMBNAIL = 5
"""Pairs with a mask for each pair with a thumbnail."""


def train_guide(options: Guide) -> None:
    """Run `cogen guide`.

    :raises ValueError: for invalid options.
    :raises OSError: for files that cannot be read or written.
    """
    for name in ("steps", "batch", "masks"):
        if (value := getattr(options, name)) < 1:
            raise ValueError(f"--{name} {value}: it must be at least 1")
    if not 0 < options.learning_rate < math.inf:
        raise ValueError(f"--learning-rate {options.learning_rate:g}: it must be positive and finite")
    output = _output(options)
    generator: Any = generator_of(options)
    config = generator.config
    if config.contexts or config.schema or config.latent_dim < 2:
        raise ValueError(
            f"generator {options.generator}: guides need a generator without contexts, with a latent of size 2 or more"
        )
    seen = views_of(generator, options.masks, options.seed)
    if options.batch < len(seen):
        raise ValueError(f"--batch {options.batch}: a step has pairs of {len(seen)} views, at least one of each")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    image = len(config.event_shape) == 3 and config.event_shape[1] % 4 == config.event_shape[2] % 4 == 0
    architecture = "MaskedMixerFlow" if image else "MaskedDenseFlow"
    arguments: dict[str, Any] = {"latent_dim": config.latent_dim, "event_shape": config.event_shape}
    flow = cast(MaskedFlow, ENCODERS[architecture](**arguments))
    family = Amortized(generator, flow, config.latent_dim, views=seen, learning_rate=options.learning_rate)
    with checkpoint_beside(output):
        trained = family.fit(
            options.steps,
            options.batch,
            seed=options.seed,
            average=0.0,
            precision=options.precision,
            accelerator=options.accelerator,
            checkpoint=output.with_name(f"{output.name}-checkpoint"),
        )
    if not is_first():
        return
    losses = trained.losses["encoder"]
    mean_loss = round(float(np.mean(losses[-500:])), 3)
    figures = {
        "command": shlex.join(["cogen", *sys.argv[1:]]),
        "steps": options.steps,
        "seconds": round(trained.seconds, 1),
        "losses": {"negative_log_posterior": mean_loss},
        "curve": {"negative_log_posterior": means(losses)},
    }
    stored = EncoderConfig(
        architecture,
        arguments,
        config.latent_dim,
        config.event_shape,
        config.value_range,
        name=output.name,
        training_data=f"pairs that {config.name or options.generator} makes",
        licence=config.licence,
        description=f"posterior of z given any part of x, {options.steps} steps of {options.batch} pairs",
        figures=figures,
    )
    path = save_encoder(output, flow.cpu(), stored, half=options.half)
    print(f"\na guide of {options.generator}: {options.steps} steps in {trained.seconds:.0f} s")
    print(f"  mean of -log q(z | seen), last 500 steps {mean_loss:.2f} nats")
    print(f"  of the prior                             {0.5 * config.latent_dim * math.log(2 * math.pi * math.e):.2f} nats")
    print(f"written: {path}, {path.with_suffix('.json')}")


def views_of(generator: Any, masks: int, seed: int) -> list[views.View]:
    """Views that a guide is trained for: many masks, and thumbnails of images, with the noise that `cogen complete` uses."""
    shape, noise = tuple(generator.config.event_shape), noise_model("random", generator)
    if len(shape) != 3:
        parts = np.random.default_rng(seed)
        stock = parts.random((masks, *shape)) < parts.uniform(0.05, 0.95, (masks, *(1,) * len(shape)))
        return [views.Mask(stock, **noise)]
    masked = views.Mask(views.assorted(shape, masks, seed=seed), **noise)
    if not guide_suits("thumbnail", FACTOR, shape):
        return [masked]
    return [*[masked] * MASKED_PER_THUMBNAIL, view_named("thumbnail", generator)]


def _output(options: Guide) -> Path:
    if options.output is not None:
        return options.output
    path = find_generator(options.generator)
    if path.parent == SHIPPED:
        raise ValueError(
            f"--generator {options.generator}: it is a shipped generator; give --output, and pass that path to"
            " `cogen complete --guide`"
        )
    return path.with_name(path.stem + GUIDE)

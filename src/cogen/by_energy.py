"""`cogen complete` with an energy: seen pixels are fixed, and the others are drawn.

The stored energy decides the sampler. A Boltzmann machine uses block Gibbs. A density, with a Gaussian reference and Langevin
steps at temperature one, uses annealed HMC or another kernel. Any other energy is not a normalizable density: it has only the
Langevin steps that it was trained with, which start at samples of its initializer or at noise, and for which there are no
diagnostics.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import numpy as np

from cogen.algorithms import Plan, kernel_of
from cogen.options import Complete
from cogen.unknown_class import infers_class

TOLERANCE = 0.05
"""The largest difference from one of the temperature of a density's steps."""

SWEEPS = 200
"""Temperatures of the annealing of a Boltzmann machine."""

START_SCALE = 0.5
"""Standard deviation of the noise where short runs start, as in `cogen.models.families.ebm`."""


def check_of_energy(options: Complete, energy: Any) -> None:
    """Check the options for an energy.

    :raises ValueError: for options that its sampler does not have.
    """
    if infers_class(options):
        raise ValueError(
            f"--label unknown: {options.generator} is an energy, and only generators infer a class: give the class, as in"
            " --label 3"
        )
    for name in ("certify", "noise", "tuning"):
        if value := getattr(options, name):
            raise ValueError(
                f"--{name} {value}: it applies to generators; {options.generator} is an energy, whose seen pixels are exact"
            )
    if is_density(energy):
        return
    plain = Complete()
    for name in ("algorithm", "backend", "guide", "set", "pilot", *(() if is_machine(energy) else ("weighted", "warmup"))):
        if (value := getattr(options, name)) != getattr(plain, name):
            raise ValueError(
                f"--{name} {value}: {options.generator} is not a differentiable density, and its own sampler has no such"
                " option; omit it"
            )
    if not is_machine(energy) and energy.config.run is None:
        raise ValueError(
            f"{options.generator} stores neither Langevin steps (`run`) nor a reference distribution, so it cannot be sampled"
        )


def is_machine(energy: Any) -> bool:
    """Whether the energy is a restricted Boltzmann machine."""
    from cogen.models.networks.restricted_boltzmann import RBM

    return isinstance(energy, RBM)


def is_density(energy: Any) -> bool:
    """Whether the energy is a density that `EnergyModel` can sample."""
    run = energy.config.run
    free = run is not None and run.bounds is None and run.clip is None
    return free and run.reference_scale is not None and abs(run.temperature - 1) < TOLERANCE


def as_units(energy: Any, images: np.ndarray) -> np.ndarray:
    """The images in the units of the energy: binary for a Bernoulli machine, unchanged otherwise."""
    from cogen.models.networks.restricted_boltzmann import BernoulliRBM

    low, high = energy.config.value_range
    if not isinstance(energy, BernoulliRBM):
        return images
    return np.where(images > (low + high) / 2, np.float32(high), np.float32(low))


def mask_of_all(options: Complete, hidden: np.ndarray) -> np.ndarray:
    """The pixels that are seen in all items, (channel, height, width).

    :raises ValueError: if items differ, and for views that are not masks.
    """
    if {"thumbnail", "gray"} & set(options.view):
        raise ValueError(f"--view {' '.join(options.view)}: an energy needs a view of pixels, such as half or box, or --mask")
    if (hidden != hidden[:1]).any():
        raise ValueError(
            f"--mask {options.mask}: with an energy the same pixels must be seen in all images; complete the images one by one"
        )
    return ~hidden[0]


def clamped_model(
    options: Complete, energy: Any, images: np.ndarray, mask: np.ndarray, given: dict[str, Any]
) -> tuple[Any, Plan]:
    """The model with the seen pixels fixed, and its sampler."""
    from cogen.inference import BlockGibbs
    from cogen.models.boltzmann import RBMModel
    from cogen.models.energy import EnergyModel

    config = energy.config
    if is_machine(energy):
        kernel = BlockGibbs(resample_threshold=0.5 if options.weighted else 0.0)
        return RBMModel(energy).clamp(mask, images), Plan(kernel, SWEEPS if options.warmup is None else options.warmup)
    scale = config.run.reference_scale
    model = EnergyModel(energy, reference_scale=scale, event_shape=config.event_shape, contexts=config.contexts)
    model = (model.given(**given) if given else model).clamp(mask, images)
    return model, kernel_of(options, model)


def short_run(
    options: Complete, energy: Any, images: np.ndarray, mask: np.ndarray, given: dict[str, Any]
) -> tuple[Any, np.ndarray]:
    """End points of the energy's own Langevin steps: an ArviZ object, and x (chain, draw, item, *event)."""
    import torch

    from cogen.inference.results import to_arviz
    from cogen.models.storage.energies import load_initializer

    begun, config = time.perf_counter(), energy.config
    seen = torch.from_numpy(mask)
    initializer: Any = load_initializer(options.generator)
    count = options.num_chains * options.samples
    of_items = []
    for item, image in enumerate(torch.from_numpy(images)):
        context = {name: torch.as_tensor(values[item : item + 1]).repeat_interleave(count, 0) for name, values in given.items()}
        own = np.random.SeedSequence([options.seed, item]).generate_state(1)[0]
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(int(own))
            if initializer is None:
                start = (START_SCALE * torch.randn(count, *image.shape)).clamp(*config.value_range)
            else:
                start = initializer(torch.randn(count, initializer.config.latent_dim), **context)
            value = functools.partial(energy, **context)
            of_items.append(config.run(value, torch.where(seen, image, start), free=~seen))
    x = torch.stack(of_items, dim=1).unflatten(0, (options.num_chains, options.samples)).numpy()
    where = "noise" if initializer is None else "samples of the initializer beside it"
    print(
        f"{options.generator} is not a normalizable density: draws are the end points of the {config.run.steps} Langevin steps"
        f" of its training, started at {where}. There are no diagnostics for them"
    )
    event, hidden = ("channel", "height", "width"), np.broadcast_to(~seen.numpy(), images.shape[1:])
    groups = {
        "posterior": {"z": (("chain", "draw", "item", "latent"), x[..., hidden])},
        "predictions": {name: (("item", *event), f(x, axis=(0, 1))) for name, f in (("x_mean", np.mean), ("x_sd", np.std))},
        "observed_data": {"clamped": (("item", *event), np.where(hidden, np.float32(np.nan), images))},
    }
    attributes = {
        "kernel": "short run of Langevin steps",
        "seed": options.seed,
        "seconds": time.perf_counter() - begun,
        "compile_seconds": 0.0,
        "gradient_evaluations": count * len(images) * config.run.steps,
    }
    return to_arviz(groups, attributes), x

"""`cogen complete` with an energy: seen pixels stay exactly as they are, and the others are drawn.

Which sampler, the stored energy says: a Boltzmann machine has block Gibbs; a density, with a Gaussian reference and Langevin
steps at the temperature one, annealed HMC or another kernel. Any other energy has no density that could be sampled, only the
Langevin steps that it was trained by: they begin at the samples of its initializer, or at noise, and no diagnostics say how far
to trust what they make.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from cogen.algorithms import kernel_of
from cogen.conditions import mask_named
from cogen.options import Complete

IS_DENSITY = 0.05
"""The temperature of a density's steps differs from one by less."""


def check_of_energy(options: Complete, energy: Any) -> None:
    """Raises ValueError for options that only a generator has."""
    for name in ("certify", "noise"):
        if value := getattr(options, name):
            raise ValueError(
                f"--{name} {value}: it is for a generator; of an energy, {options.generator}, seen pixels are exact"
            )
    if options.algorithm != "annealed-hmc" and not is_density(energy):
        raise ValueError(
            f"--algorithm {options.algorithm}: {options.generator} is no density with a gradient, which this would sample:"
            " leave it out, and its own sampler runs"
        )


def is_sampled(energy: Any) -> bool:
    """Whether a kernel draws from it."""
    return is_machine(energy) or is_density(energy)


def is_machine(energy: Any) -> bool:
    from cogen.models.networks.restricted_boltzmann import RBM

    return isinstance(energy, RBM)


def is_density(energy: Any) -> bool:
    """Whether `EnergyModel` can sample it."""
    run = energy.config.run
    return run is not None and run.reference_scale is not None and abs(run.temperature - 1) < IS_DENSITY


def clamped_model(options: Complete, energy: Any, images: np.ndarray, labels: dict[str, Any]) -> tuple[Any, Any, int]:
    """The model whose seen pixels are those of the images, its kernel, and the transitions of the warm-up."""
    from cogen.inference import BlockGibbs
    from cogen.models.boltzmann import RBMModel
    from cogen.models.energy import EnergyModel

    config = energy.config
    mask = mask_named(options.view, config.event_shape, seed=options.seed)
    if is_machine(energy):
        threshold = 0.5 if options.weighted else 0.0
        low, high = config.value_range
        model: Any = RBMModel(energy).clamp(mask, np.where(images > (low + high) / 2, high, low))
        return model, BlockGibbs(resample_threshold=threshold), 200 if options.warmup is None else options.warmup
    scale = config.run.reference_scale
    model = EnergyModel(energy, reference_scale=scale, event_shape=config.event_shape, contexts=config.contexts)
    model = model.given(**labels) if labels else model
    model = model.clamp(mask, images)
    return model, *kernel_of(options, model)


def short_run(options: Complete, energy: Any, images: np.ndarray, labels: dict[str, Any]) -> Any:
    """An ArviZ object of where the energy's own Langevin steps lead the hidden pixels."""
    import torch

    from cogen.inference.results import to_arviz
    from cogen.models.storage.energies import SOLVER
    from cogen.models.storage.generators import load_generator

    begun, config = time.perf_counter(), energy.config
    seen = torch.from_numpy(mask_named(options.view, config.event_shape, seed=options.seed))
    truth, count = torch.from_numpy(images), options.chains * options.samples
    given = {name: torch.as_tensor(values) for name, values in labels.items()}
    stem = Path(options.generator).with_suffix("")
    pair: Any = None
    if stem.name.endswith(SOLVER) and stem.with_name(f"{stem.name.removesuffix(SOLVER)}.json").is_file():
        pair = load_generator(stem.with_name(stem.name.removesuffix(SOLVER)))
    torch.manual_seed(options.seed)
    draws = []
    for _ in range(count):
        if pair is None:
            start = (0.5 * torch.randn_like(truth)).clamp(*config.value_range)
        else:
            with torch.no_grad():
                start = pair(torch.randn(len(truth), pair.config.latent_dim), **given)
        draws.append(config.run(lambda y: energy(y, **given), torch.where(seen, truth, start), free=~seen))
    x = torch.stack(draws).unflatten(0, (options.chains, options.samples)).numpy()
    where = f"samples of {pair.config.name}" if pair is not None else "noise"
    print(
        f"{options.generator} is no density that could be sampled (docs/energies.md): draws are where the {config.run.steps}"
        f" Langevin steps of its training lead from {where}, and nothing says how far to trust them"
    )
    event = ("channel", "height", "width")
    hidden = np.broadcast_to(~seen.numpy(), images.shape[1:])
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
        "value_range": list(config.value_range),
    }
    return to_arviz(groups, attributes), x

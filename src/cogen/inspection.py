"""`cogen inspect`: the contents of a file of weights or a generator, and the Python that wraps it where that is needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.foreign import image_line
from cogen.models.item_by_item import POINTS, check_module
from cogen.models.storage.checkpoints import prefixes_of
from cogen.models.storage.energies import is_energy
from cogen.models.storage.generators import assembled, read_source
from cogen.models.wrapped import NeedsWrapper
from cogen.options import Inspect

_LISTED = 40
"""The largest number of tensors that are listed."""

_BATCH, _REPEATS = 16, 5
"""Batch size and repetitions of the timed gradients."""


def inspect_generator(options: Inspect) -> None:
    """Print the contents and the checks of a generator. Errors are those of `read_source`."""
    if is_energy(options.generator):
        raise ValueError(f"{options.generator} is an energy, not a generator: use it with `cogen complete` directly")
    foreign = options.foreign
    source = read_source(options.generator, foreign.module, foreign.allow_pickle)
    network = source.network
    _print_tensors(network.state_dict() if source.tensors is None and network is not None else source.tensors or {})
    if network is None:
        print("\nthe network of these weights is unknown: give --module MODULE:FUNCTION or FILE.py:FUNCTION")
        return
    print(f"\nnetwork: {type(network).__name__}, {sum(p.numel() for p in network.parameters()):,} parameters")
    try:
        generator: Any = assembled(source, latent_dim=foreign.latent_dim)
    except NeedsWrapper as error:
        print(f"this generator cannot be used as it is: {error}\n\n{error.lines}")
        return
    except ValueError as error:
        print(f"this generator cannot be used as it is: {error}")
        return
    for note in generator.notes:
        print(f"  {note}")
    _print_generator(generator)


def _print_tensors(tensors: Mapping[str, Tensor]) -> None:
    count, dtypes = sum(t.numel() for t in tensors.values()), sorted({str(t.dtype) for t in tensors.values()})
    print(f"{len(tensors)} tensors, {count:,} numbers, {', '.join(dtypes).replace('torch.', '') or 'none'}")
    for name, tensor in list(tensors.items())[:_LISTED]:
        print(f"  {name:<48} {' x '.join(map(str, tensor.shape)) or 'a number'}")
    if len(tensors) > _LISTED:
        tops = [prefix for prefix in prefixes_of(tensors) if prefix.count(".") == 1]
        under = ", ".join(f"{top.rstrip('.')} ({sum(name.startswith(top) for name in tensors)})" for top in tops)
        print(f"  and {len(tensors) - _LISTED} more; by the first part of their names: {under}")


def _print_generator(generator: Any) -> None:
    config = generator.config
    contexts = {name: each.points(POINTS) for name, each in config.contexts.items()}
    rows = [
        ("z", f"(batch, {config.latent_dim})"),
        ("contexts", ", ".join(f"{name}: {each}" for name, each in config.contexts.items()) or "none"),
        ("x", f"(batch, {', '.join(map(str, config.event_shape))})"),
        ("range", "[{:g}, {:g}]".format(*config.value_range)),
        ("noise scale", f"{config.noise_scale:g}"),
    ]
    if config.latent_dim:
        z = torch.randn(POINTS, config.latent_dim, generator=torch.Generator().manual_seed(0))
        try:
            check_module(generator, z, "the generator", "z", contexts)
            fault = ""
        except ValueError as error:
            fault = str(error)
        rows += [
            ("a function of z alone", f"no: {fault}" if fault else f"yes, at {POINTS} points (values, gradients, items alone)"),
            ("draws", "lie in [{:.3g}, {:.3g}]".format(*_extremes(generator, z, contexts))),
            ("time per gradient", _time(generator, config)),
        ]
    for label, value in rows:
        print(f"  {label:<22} {value}")
    if config.schema is not None:
        print("\na generator of a table: use it with `cogen fill`")
    elif line := image_line(config.event_shape):
        print(f"\n`cogen complete` needs images, channel x height x width. If x is an image, reshape it:\n\n{line}")


def _extremes(generator: nn.Module, z: Tensor, contexts: Mapping[str, Tensor]) -> tuple[float, float]:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        x = generator(z, **contexts)
    return float(x.min()), float(x.max())


def _time(generator: nn.Module, config: Any) -> str:
    """The median time of a few gradients, after one warm-up."""
    contexts = {name: each.points(_BATCH) for name, each in config.contexts.items()}
    z = torch.randn(_BATCH, config.latent_dim, generator=torch.Generator().manual_seed(0)).requires_grad_()
    seconds = []
    try:
        with torch.random.fork_rng(devices=[]):
            for _ in range(_REPEATS + 1):
                start = time.perf_counter()
                torch.autograd.grad(generator(z, **contexts).square().sum(), z)
                seconds.append(time.perf_counter() - start)
    except RuntimeError as error:
        return f"no gradient ({str(error).splitlines()[0]})"
    return f"{1000 * float(np.median(seconds[1:])):.3g} ms for a batch of {_BATCH} (torch, {torch.get_num_threads()} threads)"

"""What a network that came without a configuration is and makes, as far as it can be read off the network itself.

* The size of z: what the user says; an attribute of the network, or of its ``config``, with one of the usual names; the input
  of an exported program; or what the first linear layer or transposed convolution takes.
* The shape of x: that of a draw.
* The range of x: an attribute ``value_range``; [-1, 1] where x is what a layer Tanh makes, [0, 1] of a Sigmoid; or that of
  draws, widened to [0, 1] or [-1, 1] if it lies in one of these.
* The scale of the noise: an attribute ``noise_scale``, or `NOISE_OF_RANGE` of the width of the range.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cogen.models.contexts import contexts_of
from cogen.models.item_by_item import POINTS, hint_of_batch_size
from cogen.models.storage import stored
from cogen.models.wrapped import NeedsWrapper, adapted

LATENT_NAMES = ("latent_dim", "z_dim", "dim_z", "zdim", "z_size", "latent_size", "latent_dims", "noise_dim", "nz")
"""What networks call the size of z."""

NOISE_OF_RANGE = 0.25
"""The noise scale of a generator of which nothing was measured, over the width of its range. Measured on held-out images, the
shipped generators have 0.21 to 0.43."""

DRAWS = 64
"""Draws of the prior that the range is read off."""

_LAYERS = {"Linear": 1, "ConvTranspose1d": 0, "ConvTranspose2d": 0, "ConvTranspose3d": 0}
"""Layers that a generator begins with, and which axis of their weight is the input's."""

_BOUNDED = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0)}


class Inferred(NamedTuple):
    """A generator, the fields of its configuration, and how each was found, in words."""

    generator: nn.Module
    fields: dict[str, Any]
    notes: list[str]


def inferred(network: nn.Module, latent_dim: int | None = None, settings: Mapping[str, Any] | None = None) -> Inferred:
    """Read off a frozen network what its configuration would say; the network is wrapped where that leaves no choice.

    :param latent_dim: size of z, if it is known.
    :param settings: what lay beside the network, as a config.json, by name.

    Raises ValueError where the size of z is not found or not accepted, where x is not finite, and what
    `cogen.models.wrapped.adapted` raises.
    """
    own = dict(_attributes(network, settings or {}))
    latent_dim, where = (latent_dim, "as given") if latent_dim is not None else _latent_dim(network, own)
    if not stored.is_count(latent_dim):
        raise ValueError(f"latent_dim={latent_dim!r} (--latent-dim): the size of z is a positive integer")
    contexts = contexts_of(own.get("contexts", {}))
    points = {name: each.points(2) for name, each in contexts.items()}
    name = type(network).__name__
    try:
        generator, notes = adapted(network, latent_dim, points)
    except ValueError as error:
        if isinstance(error, NeedsWrapper):
            raise
        of_size = (
            "" if where == "as given" else f". This size is {where}: give --latent-dim (latent_dim= in Python) if it is another"
        )
        raise ValueError(f"{error}{hint_of_batch_size(network) or of_size}") from None
    draws, last = _draws(generator, latent_dim, {key: each.points(POINTS) for key, each in contexts.items()}, name)
    value_range, of_range = _value_range(own, draws, last, name)
    noise_scale, of_noise = own.get("noise_scale"), "its own"
    if noise_scale is None:
        noise_scale = NOISE_OF_RANGE * (value_range[1] - value_range[0])
        of_noise = f"{NOISE_OF_RANGE:g} of the range, not measured (--noise fit estimates it)"
    fields = {
        "architecture": name,
        "arguments": {},
        "latent_dim": latent_dim,
        "event_shape": tuple(draws.shape[1:]),
        "value_range": value_range,
        "noise_scale": noise_scale,
        "contexts": contexts,
    }
    low, high = value_range
    found = [
        f"latent_dim {latent_dim}: {where}",
        f"value_range [{low:.4g}, {high:.4g}]: {of_range}",
        f"noise_scale {noise_scale:.4g}: {of_noise}",
    ]
    return Inferred(generator, fields, [*notes, *found])


def _attributes(network: nn.Module, settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What the network and what goes with it say of themselves, under our names; the last that is named counts."""
    config = getattr(network, "config", {})
    config = config if isinstance(config, Mapping) else getattr(config, "__dict__", {})
    for source in (settings, config, {**vars(type(network)), **vars(network)}):
        for name in reversed(LATENT_NAMES):
            if stored.is_count(source.get(name)):
                yield "latent_dim", (source[name], name)
        for name in ("value_range", "noise_scale", "contexts"):
            if name in source:
                yield name, source[name]


def _latent_dim(network: nn.Module, own: Mapping[str, Any]) -> tuple[int, str]:
    if "latent_dim" in own:
        size, name = own["latent_dim"]
        return size, f"its {name}"
    if isinstance(network, torch.fx.GraphModule):
        inputs = [node.meta.get("val") for node in network.graph.nodes if node.op == "placeholder"]
        shapes = [value.shape for value in inputs if isinstance(value, Tensor) and value.ndim > 1]
        if shapes:
            return int(shapes[0][1]), "the input of the program"
    for layer in network.modules():
        script = str(getattr(layer, "original_name", ""))  # the class that was scripted
        kind = next((name for name in _LAYERS if isinstance(layer, getattr(nn, name))), script)
        weight = getattr(layer, "weight", None)
        if kind in _LAYERS and isinstance(weight, Tensor):
            return int(weight.shape[_LAYERS[kind]]), f"what its first {kind} takes"
    parameters = any(True for _ in network.parameters())
    reason = "it has no linear layer or transposed convolution" if parameters else "it has no parameters"
    raise ValueError(
        f"the size of z cannot be read off {type(network).__name__} ({reason}): give --latent-dim (latent_dim= in Python)"
    )


def _draws(
    generator: nn.Module, latent_dim: int, contexts: Mapping[str, Tensor], name: str
) -> tuple[Tensor, type[nn.Module] | None]:
    """x of draws of the prior, a few at a time, as images may be large; and the bounded layer whose output x is, in any shape,
    if there is one (inside of a script none is seen)."""
    z = torch.randn(DRAWS, latent_dim, generator=torch.Generator().manual_seed(0))
    bounded: list[tuple[type[nn.Module], Tensor]] = []
    layers = [layer for layer in generator.modules() if type(layer) in _BOUNDED]
    hooks = [layer.register_forward_hook(lambda layer, _, x: bounded.append((type(layer), x))) for layer in layers]
    parts: list[Tensor] = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for part in z.split(POINTS):
            try:
                parts.append(generator(part, **{key: values[: len(part)] for key, values in contexts.items()}))
            except Exception as error:  # a module raises what it likes
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                hint = hint_of_batch_size(generator)
                raise ValueError(f"{name} runs on two items and not on {len(part)}: {reason}{hint}") from None
            finally:
                while hooks:
                    hooks.pop().remove()
    if any(part.ndim < 2 or part.shape[1:] != parts[0].shape[1:] or not part.is_floating_point() for part in parts):
        made = f"{parts[0].dtype} of shape {tuple(parts[0].shape)}"
        raise ValueError(f"{name} makes {made} of a batch of {POINTS}: x is floats, (batch, *event_shape)")
    draws = torch.cat(parts)
    if not torch.isfinite(draws).all():
        raise ValueError(f"{name} makes values that are not finite of draws of the prior: look at its weights")
    last = next((kind for kind, x in bounded if torch.equal(x.flatten(), parts[0].flatten())), None)
    return draws, last


def _value_range(
    own: Mapping[str, Any], draws: Tensor, last: type[nn.Module] | None, name: str
) -> tuple[tuple[float, float], str]:
    if "value_range" in own:
        try:
            low, high = map(float, own["value_range"])
        except (TypeError, ValueError):
            raise ValueError(f"value_range is {own['value_range']!r}; it must be two numbers, the lower first") from None
        return (low, high), "its own"
    if last is not None:
        return _BOUNDED[last], f"its last layer is {last.__name__}"
    low, high = float(draws.min()), float(draws.max())
    if low == high:
        raise ValueError(f"{name} makes one value, {low:g}, of every z: look at its weights")
    seen = f"{DRAWS} draws lie in [{low:.3g}, {high:.3g}]"
    if low >= 0 and 0.5 < high <= 1.05:
        return (0.0, 1.0), seen
    if -1.05 <= low < -0.5 and 0.5 < high <= 1.05:
        return (-1.0, 1.0), seen
    return (low, high), seen

"""Inference of the configuration of a network without one, from the network itself.

* The size of z: given by the user; an attribute of the network, or of its ``config``, with one of the usual names; the input
  shape of an exported program; or the input size of the first linear layer or transposed convolution.
* The shape of x: that of a draw.
* The range of x: an attribute ``value_range``; [-1, 1] if x is the output of a Tanh layer, [0, 1] for a Sigmoid; or the range
  of draws, widened to [0, 1] or [-1, 1] if it lies in one of these.
* The noise scale: an attribute ``noise_scale``, or `NOISE_OF_RANGE` times the width of the range.
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
"""Usual names of the size of z."""

NOISE_OF_RANGE = 0.25
"""Default noise scale of a generator without measurements, relative to the width of its range. The shipped generators have 0.21
to 0.43, measured on held-out images."""

DRAWS = 64
"""Number of draws from the prior from which the range is inferred."""

_LAYERS = {"Linear": 1, "ConvTranspose1d": 0, "ConvTranspose2d": 0, "ConvTranspose3d": 0}
"""Possible first layers of a generator, with the input axis of their weight."""

_BOUNDED = {nn.Tanh: (-1.0, 1.0), nn.Sigmoid: (0.0, 1.0)}


class Inferred(NamedTuple):
    """A generator, the fields of its configuration, and notes on how they were inferred."""

    generator: nn.Module
    fields: dict[str, Any]
    notes: list[str]


def inferred(network: nn.Module, latent_dim: int | None = None, settings: Mapping[str, Any] | None = None) -> Inferred:
    """Infer the configuration of a frozen network, and wrap the network if there is only one way to do it.

    :param latent_dim: size of z, if known.
    :param settings: the content of a config.json beside the network.
    :raises ValueError: if the size of z is not found or not accepted, if x is non-finite, and as
        `cogen.models.wrapped.adapted`.
    """
    own = dict(_attributes(network, settings or {}))
    latent_dim, where = (latent_dim, "as given") if latent_dim is not None else _latent_dim(network, own)
    if not stored.is_count(latent_dim):
        raise ValueError(f"latent_dim={latent_dim!r} (--latent-dim): the size of z must be a positive integer")
    contexts = contexts_of(own.get("contexts", {}))
    points = {name: each.points(2) for name, each in contexts.items()}
    name = type(network).__name__
    try:
        generator, notes = adapted(network, latent_dim, points)
    except ValueError as error:
        if isinstance(error, NeedsWrapper):
            raise
        of_size = (
            "" if where == "as given" else f". This size is {where}: give --latent-dim (latent_dim= in Python) if it is wrong"
        )
        raise ValueError(f"{error}{hint_of_batch_size(network) or of_size}") from None
    draws, last = _draws(generator, latent_dim, {key: each.points(POINTS) for key, each in contexts.items()}, name)
    value_range, of_range = _value_range(own, draws, last, name)
    noise_scale, of_noise = own.get("noise_scale"), "its attribute"
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
    """Attributes of the network, its config and the settings, by the names of the configuration; later ones take precedence."""
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
        script = str(getattr(layer, "original_name", ""))  # the class of a scripted module
        kind = next((name for name in _LAYERS if isinstance(layer, getattr(nn, name))), script)
        weight = getattr(layer, "weight", None)
        if kind in _LAYERS and isinstance(weight, Tensor):
            return int(weight.shape[_LAYERS[kind]]), f"the input of its first {kind}"
    parameters = any(True for _ in network.parameters())
    reason = "it has no linear layer or transposed convolution" if parameters else "it has no parameters"
    raise ValueError(
        f"the size of z cannot be inferred from {type(network).__name__} ({reason}): give --latent-dim (latent_dim= in Python)"
    )


def _draws(
    generator: nn.Module, latent_dim: int, contexts: Mapping[str, Tensor], name: str
) -> tuple[Tensor, type[nn.Module] | None]:
    """x for draws from the prior, computed in small batches because images can be large, and the type of the bounded layer
    whose output is x, if there is one (layers inside a script are not found)."""
    z = torch.randn(DRAWS, latent_dim, generator=torch.Generator().manual_seed(0))
    bounded: list[tuple[type[nn.Module], Tensor]] = []
    layers = [layer for layer in generator.modules() if type(layer) in _BOUNDED]
    hooks = [layer.register_forward_hook(lambda layer, _, x: bounded.append((type(layer), x))) for layer in layers]
    parts: list[Tensor] = []
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for part in z.split(POINTS):
            try:
                parts.append(generator(part, **{key: values[: len(part)] for key, values in contexts.items()}))
            except Exception as error:  # a module can raise any error
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                hint = hint_of_batch_size(generator)
                raise ValueError(f"{name} runs on two items but not on {len(part)}: {reason}{hint}") from None
            finally:
                while hooks:
                    hooks.pop().remove()
    if any(part.ndim < 2 or part.shape[1:] != parts[0].shape[1:] or not part.is_floating_point() for part in parts):
        made = f"{parts[0].dtype} of shape {tuple(parts[0].shape)}"
        raise ValueError(f"{name} returns {made} for a batch of {POINTS}, expected floats (batch, *event_shape)")
    draws = torch.cat(parts)
    if not torch.isfinite(draws).all():
        raise ValueError(f"{name} returns non-finite values for draws from the prior: check its weights")
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
        return (low, high), "its attribute"
    if last is not None:
        return _BOUNDED[last], f"its last layer is {last.__name__}"
    low, high = float(draws.min()), float(draws.max())
    if low == high:
        raise ValueError(f"{name} returns the constant {low:g} for every z: check its weights")
    seen = f"{DRAWS} draws lie in [{low:.3g}, {high:.3g}]"
    if low >= 0 and 0.5 < high <= 1.05:
        return (0.0, 1.0), seen
    if -1.05 <= low < -0.5 and 0.5 < high <= 1.05:
        return (-1.0, 1.0), seen
    return (low, high), seen

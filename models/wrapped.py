"""Adapters for networks that are almost generators: z (batch, d, 1, 1), several outputs, further inputs, float64 weights.

A generator maps z (batch, latent_dim) to one tensor x (batch, *event_shape). `adapted` wraps a network if there is only one
way to do it, and reports what it did; if there is a choice (which of two images, which class) it raises `NeedsWrapper`, with
the code of a wrapper.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cogen.models.frozen import frozen


class NeedsWrapper(ValueError):
    """A network that needs a wrapper written by the user, because there is more than one way to use it as a generator.

    :param reason: why, for the message.
    :param call: the expression that ``forward(self, z)`` of the wrapper returns, with the network as ``self.network``.
    """

    def __init__(self, reason: str, call: str) -> None:
        super().__init__(f"{reason}: wrap it in a module whose forward(self, z) returns {call}")
        self.lines = (
            "class Generator(torch.nn.Module):\n"
            "    def __init__(self, network):\n"
            "        super().__init__()\n"
            "        self.network = network\n"
            "\n"
            "    def forward(self, z):\n"
            f"        return {call}"
        )


class OneOutput(nn.Module):
    """Wraps a network that returns a tuple, list or mapping with one tensor of floats; returns that tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, **context: Tensor) -> Tensor:
        (only,) = _tensors(self.network(z, **context)).values()
        return only


def adapted(network: nn.Module, latent_dim: int, context: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """Turn a frozen network into a generator.

    :param network: modified in place if its weights are not float32.
    :param latent_dim: size of z.
    :param context: contexts of two items, by name.
    :returns: the generator, and notes on the changes made.
    :raises NeedsWrapper: if several outputs, or inputs besides z, leave a choice.
    :raises ValueError: if the network does not run.
    """
    notes = []
    tensors = [*network.parameters(), *network.buffers()]
    others = {str(each.dtype).removeprefix("torch.") for each in tensors if each.is_floating_point()} - {"float32"}
    if others:
        network = network.float()
        notes.append(f"weights of {' and '.join(sorted(others))}, converted to float32: module.float()")
    if missing := [name for name in further_inputs(network) if name not in context]:
        raise _needs_inputs(network, missing)
    name, given = type(network).__name__, "z"
    z = torch.randn(2, latent_dim, generator=torch.Generator().manual_seed(0))
    try:
        output = _run(network, z, context)
    except Exception as error:
        if not as_image(network, z, context):
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"{name} does not take z of shape (batch, {latent_dim}): {reason}") from None
        network = _unflattening(network, latent_dim)
        notes.append(f"z of shape (batch, {latent_dim}, 1, 1): wrapped as {unflattened(latent_dim)}")
        given = "z[:, :, None, None]"
        output = _run(network, z, context)
    if isinstance(output, Tensor):
        return network, notes
    if len(found := _tensors(output)) != 1:
        call = f"self.network({given})[{next(iter(found), 0)!r}]"
        raise NeedsWrapper(f"{name} returns {kind_of(output)}, not one tensor", call)
    notes.append(f"output {kind_of(output)}: its only tensor is used, network({given})[{next(iter(found))!r}]")
    return OneOutput(network), notes


def further_inputs(network: nn.Module) -> list[str]:
    """The inputs of a network's ``forward`` after the first that have no default; empty if it has no signature."""
    try:
        parameters = list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    of_kind = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters[1:] if p.kind in of_kind and p.default is inspect.Parameter.empty]


def as_image(network: nn.Module, z: Tensor, context: Mapping[str, Tensor]) -> bool:
    """Whether a network takes z (batch, d) in the shape (batch, d, 1, 1), as networks of transposed convolutions do."""
    if z.ndim != 2:
        return False
    try:
        output = _run(network, z[:, :, None, None], context)
    except Exception:  # a module can raise any error
        return False
    return not isinstance(output, Tensor) or output.shape[:1] == z.shape[:1]


def unflattened(latent_dim: int) -> str:
    """The Python expression of a wrapper that passes z as (batch, latent_dim, 1, 1)."""
    return f"nn.Sequential(nn.Unflatten(1, ({latent_dim}, 1, 1)), network)"


def _unflattening(network: nn.Module, latent_dim: int) -> nn.Module:
    wrapper = nn.Sequential(nn.Unflatten(1, (latent_dim, 1, 1)), network)
    if not isinstance(network, torch.jit.ScriptModule):
        return wrapper
    with warnings.catch_warnings():  # torch recommends export, which does not support a script inside a module
        warnings.simplefilter("ignore", DeprecationWarning)
        return frozen(torch.jit.script(wrapper))


def kind_of(output: Any) -> str:
    """``tuple (2 x 3 x 8 x 8, NoneType)``"""
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    shapes = [" x ".join(map(str, p.shape)) if isinstance(p, Tensor) else type(p).__name__ for p in parts]
    return type(output).__name__ + (f" ({', '.join(shapes)})" if shapes else "")


def _run(network: nn.Module, z: Tensor, context: Mapping[str, Tensor]) -> Any:
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return network(z, **context)


def _tensors(output: Any) -> dict[Any, Tensor]:
    """The tensors of floats with a batch axis among several outputs, by their index or key."""
    parts = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple | list) else ()
    return {key: value for key, value in parts if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1}


def _needs_inputs(network: nn.Module, missing: list[str]) -> NeedsWrapper:
    label = "torch.zeros(len(z), dtype=torch.long)"
    return NeedsWrapper(
        f"{type(network).__name__} takes {' and '.join(missing)} besides z, for example a class",
        f"self.network(z, {', '.join(f'{name}={label}' for name in missing)})",
    )

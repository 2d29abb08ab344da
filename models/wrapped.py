"""Networks that are nearly generators: z of shape (batch, d, 1, 1), several outputs, further inputs, weights of float64.

A generator maps z (batch, latent_dim) to one tensor x (batch, *event_shape). `adapted` wraps what differs from that in a way
that leaves no choice, and says so; where there is a choice (which of two images, which class) it raises `NeedsWrapper`, with
the Python lines that make it.
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
    """A network that is no generator until somebody chooses.

    :param reason: in words.
    :param call: what ``forward(self, z)`` of the wrapper returns, with the network as ``self.network``.
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
    """A network that returns a tuple, list or mapping with one tensor of floats in it, as a module that returns this one."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, **context: Tensor) -> Tensor:
        (only,) = _tensors(self.network(z, **context)).values()
        return only


def adapted(network: nn.Module, latent_dim: int, context: Mapping[str, Tensor]) -> tuple[nn.Module, list[str]]:
    """A frozen network as a generator, and what was done to it, in words.

    :param network: is changed where its weights are not float32.
    :param latent_dim: size of z.
    :param context: of two items, by name.

    Raises `NeedsWrapper` where several outputs, or inputs besides z, leave a choice; ValueError where it does not run.
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
        notes.append(f"it takes z of shape (batch, {latent_dim}, 1, 1): {unflattened(latent_dim)}")
        given = "z[:, :, None, None]"
        output = _run(network, z, context)
    if isinstance(output, Tensor):
        return network, notes
    if len(found := _tensors(output)) != 1:
        call = f"self.network({given})[{next(iter(found), 0)!r}]"
        raise NeedsWrapper(f"{name} returns {kind_of(output)}, not one tensor", call)
    notes.append(f"it returns {kind_of(output)}, of which the one tensor is taken: network({given})[{next(iter(found))!r}]")
    return OneOutput(network), notes


def further_inputs(network: nn.Module) -> list[str]:
    """The inputs of a network's ``forward`` besides the first that have no default; none of a network that does not say."""
    try:
        parameters = list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    of_kind = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p.name for p in parameters[1:] if p.kind in of_kind and p.default is inspect.Parameter.empty]


def as_image(network: nn.Module, z: Tensor, context: Mapping[str, Tensor]) -> bool:
    """Whether a network takes z (batch, d) as (batch, d, 1, 1), as those of transposed convolutions do."""
    if z.ndim != 2:
        return False
    try:
        output = _run(network, z[:, :, None, None], context)
    except Exception:  # a module raises what it likes
        return False
    return not isinstance(output, Tensor) or output.shape[:1] == z.shape[:1]


def unflattened(latent_dim: int) -> str:
    """The Python expression that gives such a network its z."""
    return f"nn.Sequential(nn.Unflatten(1, ({latent_dim}, 1, 1)), network)"


def _unflattening(network: nn.Module, latent_dim: int) -> nn.Module:
    wrapper = nn.Sequential(nn.Unflatten(1, (latent_dim, 1, 1)), network)
    if not isinstance(network, torch.jit.ScriptModule):
        return wrapper
    with warnings.catch_warnings():  # torch would rather export; a script inside a module cannot be
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
    """The tensors of floats among several outputs, by their index or key."""
    parts = output.items() if isinstance(output, Mapping) else enumerate(output) if isinstance(output, tuple | list) else ()
    return {key: value for key, value in parts if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1}


def _needs_inputs(network: nn.Module, missing: list[str]) -> NeedsWrapper:
    label = "torch.zeros(len(z), dtype=torch.long)"
    return NeedsWrapper(
        f"{type(network).__name__} takes {' and '.join(missing)} besides z, as a class",
        f"self.network(z, {', '.join(f'{name}={label}' for name in missing)})",
    )

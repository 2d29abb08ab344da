"""Checkpoints of a kernel's state in torch, and the identity of a run: the torch part of `cogen.inference.checkpoint`.

A torch model has no program text to compare. A run is identified by the model's densities and gradients at the first draws (a
function of the seed), bit for bit, and by the kernel's settings.
"""

from __future__ import annotations

import dataclasses
import hashlib
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from cogen.inference.checkpoint import digest

_BY_VALUE = ("schedule", "initial")
"""Settings without a text representation: they determine the state before the first transition."""


def identity(kernel: Any, state: Any) -> dict[str, Any]:
    """The identity of a run from its kernel and the state before the first transition.

    :raises ValueError: for a state that is not made of arrays.
    """
    state_to_arrays(state)
    point, data = state.point, hashlib.sha256()
    for value in (point.reference, point.increment, point.reference_gradient, point.increment_gradient):
        data.update(value.numpy(force=True).tobytes())
    settings = kernel.settings
    ladder = getattr(state, "ladder", None)
    path = repr(getattr(settings, "schedule", None)) if ladder is None else digest(ladder.numpy(force=True))
    text = [path, *(_text(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.name not in _BY_VALUE)]
    return {
        "num_populations": kernel.populations,
        **{f"version of {name}": version(name) for name in ("torch", "pyro-ppl", "jax")},
        "model and data": data.hexdigest()[:16],
        "settings": hashlib.sha256(repr(text).encode()).hexdigest()[:16],
    }


def state_to_arrays(state: Any) -> dict[str, np.ndarray]:
    """The leaves of a state by number."""
    arrays = {}
    for k, leaf in enumerate(jax.tree.leaves(state)):
        if not isinstance(leaf, torch.Tensor | jax.Array | np.ndarray | int):
            raise ValueError(
                "checkpoint= requires a kernel whose state is arrays; that of PyroSVI has guides: omit checkpoint="
            )
        arrays[str(k)] = leaf.numpy(force=True) if isinstance(leaf, torch.Tensor) else np.asarray(leaf)
    return arrays


def state_from_arrays(template: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `state_to_arrays`, for a state with the structure of ``template``."""
    leaves, structure = jax.tree.flatten(template)
    found: list[Any] = []
    for k, leaf in enumerate(leaves):
        value = arrays[str(k)]
        if isinstance(leaf, torch.Tensor):
            found.append(torch.from_numpy(value).to(leaf))
        else:
            found.append(int(value) if isinstance(leaf, int) else jnp.asarray(value))
    return jax.tree.unflatten(structure, found)


def _text(value: Any) -> str:
    """A text that identifies a setting."""
    if dataclasses.is_dataclass(value):
        parts = {field.name: _text(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return f"{type(value).__name__}{parts}"
    return repr(value) if value is None or isinstance(value, bool | int | float | tuple) else digest(np.asarray(value))

"""What a checkpoint keeps of a `PyroAnnealedHMC`, and how the run is told from others: the torch side of `checkpoint`.

A torch model has no program whose text could be compared. The run is told from others by what the model gives at its first
draws (the start is a function of the seed): densities and gradients, bit for bit, and by the kernel's settings.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

if TYPE_CHECKING:
    from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC

_SETTINGS = ("num_leapfrog", "moves_per_temperature", "resample_threshold", "temper", "flat_prior", "jitter")


def identity(kernel: PyroAnnealedHMC) -> dict[str, Any]:
    """Of a kernel that was set up and has made no transition."""
    point = kernel.state.point
    data, settings = hashlib.sha256(), hashlib.sha256()
    for value in (point.reference, point.tilt, point.reference_gradient, point.tilt_gradient):
        data.update(value.numpy(force=True).tobytes())
    settings.update(repr([getattr(kernel.settings, name) for name in _SETTINGS]).encode())
    settings.update(
        repr(kernel.settings.schedule).encode() if kernel.ladder is None else kernel.ladder.numpy(force=True).tobytes()
    )
    settings.update(type(kernel.settings.step_size).__name__.encode())
    for number in vars(kernel.settings.step_size).values():
        settings.update(np.asarray(number, dtype=np.float64).tobytes())
    if kernel.settings.inverse_mass is not None:
        settings.update(kernel.settings.inverse_mass.tobytes())
    return {
        "num_chains": kernel.num_chains,
        "num_populations": kernel.num_populations_used,
        "num_items": kernel.target.num_items,
        **{f"version of {name}": version(name) for name in ("torch", "pyro-ppl", "jax")},
        "model and data": data.hexdigest()[:16],
        "settings": settings.hexdigest()[:16],
    }


def to_arrays(kernel: PyroAnnealedHMC) -> dict[str, np.ndarray]:
    """The state and the random generators."""
    leaves = jax.tree.leaves(kernel.state)
    arrays = {str(k): a.numpy(force=True) if isinstance(a, torch.Tensor) else np.asarray(a) for k, a in enumerate(leaves)}
    return {**arrays, "generators": np.stack([generator.get_state().numpy() for generator in kernel.generators])}


def restore(kernel: PyroAnnealedHMC, arrays: dict[str, np.ndarray]) -> None:
    """Take a kernel that was set up to where `to_arrays` saw it."""
    leaves, structure = jax.tree.flatten(kernel.state)
    found: list[Any] = []
    for k, leaf in enumerate(leaves):
        value = arrays[str(k)]
        if isinstance(leaf, torch.Tensor):
            found.append(torch.from_numpy(value).to(leaf))
        else:
            found.append(int(value) if isinstance(leaf, int) else jnp.asarray(value))
    kernel.state = jax.tree.unflatten(structure, found)
    for generator, state in zip(kernel.generators, arrays["generators"], strict=True):
        generator.set_state(torch.from_numpy(state))

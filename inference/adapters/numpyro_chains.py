"""NumPyro's own kernels as pure functions over chains, for `infer`.

A kernel of NumPyro holds its model and takes the model's arguments at every call; they replace the target. Its state has its
own random key.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.mcmc import MCMCKernel

from cogen.inference.kernels.kernel import Kernel, Own, Start, chain_keys
from cogen.inference.signatures import Model
from cogen.inference.targets.numpyro_target import numpyro_target, unconstrained_position
from cogen.inference.targets.target import Program, Target

Array = jax.Array

_FIELDS = {
    "acceptance_rate": "accept_prob",
    "step_size": "adapt_state.step_size",
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
}


class LibraryState(NamedTuple):
    iteration: Array
    inner: Any
    """NumPyro's states of all chains."""
    position: Any
    """Unconstrained values by site, (chain, ...)."""


class LibraryInfo(NamedTuple):
    """NumPyro's statistics of a transition for every chain; None if a kernel does not report them."""

    acceptance_rate: Array | None
    step_size: Array | None
    diverging: Array | None
    energy: Array | None
    n_steps: Array | None
    lp: Array | None


@dataclass(frozen=True, eq=False)
class NumPyroChains(Kernel):
    """The transitions of a NumPyro kernel, chain by chain unless it is an ensemble kernel."""

    kernel: MCMCKernel
    num_warmup: int
    num_chains: int

    host_may_dispatch = False

    def init(self, target: Target, key: Array, start: Start) -> LibraryState:
        """Start from given positions, or by the kernel's own ``init_strategy``."""
        keys, args, params = chain_keys(key, self.num_chains), _arguments(target), None
        if not start.exact:
            assert target.program is not None
            density = numpyro_target(target.program.model, args, {})
            params = jax.vmap(density.sites)(start.positions(density, key))

        def begin(key: Array, params: Any) -> Any:
            return self.kernel.init(key, self.num_warmup, params, args, {})

        inner = begin(keys, params) if self.kernel.is_ensemble_kernel else jax.vmap(begin)(keys, params)
        return LibraryState(jnp.int32(0), inner, getattr(inner, self.kernel.sample_field))

    def step(self, target: Target, key: Array, state: LibraryState) -> tuple[LibraryState, LibraryInfo]:
        args = _arguments(target)

        def move(inner: Any) -> Any:
            return self.kernel.sample(inner, args, {})

        inner = move(state.inner) if self.kernel.is_ensemble_kernel else jax.vmap(move)(state.inner)
        new = LibraryState(state.iteration + 1, inner, getattr(inner, self.kernel.sample_field))
        return new, LibraryInfo(**{name: _found(inner, path) for name, path in _FIELDS.items()}, lp=self.log_density(new))

    def log_density(self, state: LibraryState) -> Array | None:
        potential = getattr(state.inner, "potential_energy", None)
        return None if potential is None else -potential

    def path(self, state: LibraryState, info: LibraryInfo) -> dict[str, Array]:
        reduced = (("acceptance_rate", jnp.mean), ("step_size", jnp.mean), ("diverging", jnp.sum))
        return {name: reduce(getattr(info, name)) for name, reduce in reduced if getattr(info, name) is not None}


class NumPyroRecipe:
    """A kernel class of NumPyro, or a ``functools.partial`` of one, for `infer`."""

    library = "numpyro"

    def __init__(self, make: Callable[[Callable[..., Any]], MCMCKernel]) -> None:
        self.make = make
        self.name = getattr(make, "func", make).__name__
        self._made: MCMCKernel | None = None

    def for_model(self, model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Self:
        jax.eval_shape(lambda: numpyro_target(model, args, kwargs).dim)  # raises the model's errors early
        recipe = type(self)(self.make)
        recipe._made = self.make(model)
        return recipe

    def kernel(self, num_warmup: int, num_chains: int) -> NumPyroChains:
        assert self._made is not None
        return NumPyroChains(self._made, num_warmup, num_chains)

    position = staticmethod(unconstrained_position)

    def own(self, num_warmup: int, ids: np.ndarray) -> Own:
        return Own()

    def target(self, args: tuple[object, ...], *, model: Model, own: Own) -> Target:
        """The model with its arguments; the kernel has its own density, and its positions are by site name."""
        return Target(0, _none, _none, dict, program=Program(model, args, {}))


def _none(_: Array) -> Any:
    raise NotImplementedError("a kernel of NumPyro uses the model itself")


def _arguments(target: Target) -> tuple[Any, ...]:
    assert target.program is not None
    return target.program.args


def _found(state: Any, path: str) -> Array | None:
    """A statistic of all chains, if the state has it."""
    for attribute in path.split("."):
        state = getattr(state, attribute, None)
    return state if state is not None and jnp.ndim(state) == 1 else None

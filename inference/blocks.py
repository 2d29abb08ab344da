"""Items run in blocks of one fixed, padded shape.

What is compiled is one block: so many items, all their chains, one chunk of transitions. A run of any number of items goes
through it block after block, the last filled up with repetitions, so that an item's draws are bitwise the same alone
and among a thousand, and memory on the device does not grow with their number. The chunk is reused for the
warm-up and for the draws. On the CPU, a density with convolutions is not looped over in compiled code: the host
dispatches one transition at a time (see `loops`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.ensemble_kernel import EnsembleKernel
from cogen.inference.loops import compiled_loop, has_convolutions
from cogen.inference.targets import constrained_sites, numpyro_target

Array = jax.Array
Records = dict[str, np.ndarray]

LANES, LANES_OF_AN_ACCELERATOR = 128, 4096
"""Chains times items of a block, about: fewer waste a dense generator's matrix products, more waste a lone item's time
(measured per gradient and chain on two cores: 15 microseconds at 16 lanes, 9.1 at 128, 7.1 at 512)."""

_LIBRARY_FIELDS = {
    "acceptance_rate": "accept_prob",
    "step_size": "adapt_state.step_size",
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
}


def items_per_block(num_chains: int) -> int:
    """How many items run together: a function of the number of chains alone, or results would depend on the others."""
    return max(1, (LANES if jax.default_backend() == "cpu" else LANES_OF_AN_ACCELERATOR) // num_chains)


class BlockProgram:
    """The start and the transitions of one block of ``size`` items with ``num_chains`` chains each.

    ``kernel`` is a NumPyro kernel, ours bound to the model or the library's; ``data`` the model's arguments for one block,
    every array with a leading item axis.
    """

    def __init__(
        self, kernel: Any, model: Callable, data: tuple, size: int, num_chains: int, num_warmup: int, seed: int
    ) -> None:
        self.kernel, self.size, self.num_warmup = kernel, size, num_warmup
        self._ours = isinstance(kernel, EnsembleKernel)
        self._model, self._num_chains, self._seed = model, num_chains, seed
        self.by_host = self._ours and _convolves(model, jax.tree.map(lambda a: a[0], data))
        if self.by_host:
            self.kernel = kernel.unrolled()

    def compile(self, data: tuple) -> None:
        items = jnp.zeros(self.size, jnp.int32)
        with nullcontext() if self.by_host else compiled_loop():
            # It runs once a block, so that it is not worth the compiler's optimisation.
            start = jax.jit(jax.vmap(self._start), compiler_options={"xla_backend_optimization_level": 0})
            self._begin = start.lower(items, data).compile()
            states = jax.eval_shape(jax.vmap(self._start), items, data)
            if self.by_host:
                self.chunk_size = 1
                self._step = jax.jit(self._transitions, donate_argnums=0).lower(states, items, data, False).compile()
            else:
                traced = jax.jit(self._transitions)  # traced once, for its shapes and in the chunk
                shapes = jax.eval_shape(traced, states, items, data, False)[1]
                self.chunk_size = int(np.clip((self.num_warmup or 100) // 20, 1, 50))
                self._buffer = jax.tree.map(lambda s: jnp.zeros((self.chunk_size, *s.shape), s.dtype), shapes)
                chunk = jax.jit(self._loop(traced), donate_argnums=(0, 3))
                self._chunk = chunk.lower(states, items, data, self._buffer, 1, False).compile()

    def start(self, items: Array, data: tuple) -> Any:
        """The states of these items' chains before the first transition."""
        return self._begin(items, data)

    def advance(self, states: Any, items: Array, data: tuple, count: int, warming: bool) -> tuple[Any, dict[str, Records], int]:
        """Up to ``count`` <= ``chunk_size`` transitions: new states, what to keep of each (transition, item, ...), and
        how many were made: fewer where every item is done with its warm-up."""
        if self.by_host:
            states, records = self._step(states, items, data, warming)
            return states, jax.tree.map(lambda a: np.asarray(a)[None], records), 1
        states, self._buffer, made = self._chunk(states, items, data, self._buffer, count, warming)
        made = int(made)
        return states, jax.tree.map(lambda a: np.asarray(a[:made]), self._buffer), made

    def warmed_up(self, states: Any) -> bool:
        """Whether no item of the block needs more of the warm-up."""
        return self._ours and bool(jax.vmap(self.kernel.warmed_up)(states).all())

    def end_warmup(self, states: Any) -> Any:
        """States that go on to the draws, where the warm-up ended before its limit."""
        return states._replace(i=jnp.full_like(states.i, self.num_warmup))

    def program(self, items: Array, data: tuple) -> Any:
        """What one transition computes, as a jaxpr."""
        states = jax.eval_shape(jax.vmap(self._start), items, data)
        return jax.make_jaxpr(self._transitions)(states, items, data, False)

    # --- what is traced ----------------------------------------------------------------------------------------

    def _start(self, item: Array, data: tuple) -> Any:
        key = jax.random.fold_in(jax.random.key(self._seed), item)
        keys = jax.random.split(key, self._num_chains)
        return self._over_chains(lambda kernel, k: kernel.init(k, self.num_warmup, None, data, {}), item, keys)

    def _over_chains(self, function: Callable, item: Array, argument: Any, warming: Array | None = None) -> Any:
        if self._ours:
            return function(self.kernel.for_item(item, warming), argument)
        if self.kernel.is_ensemble_kernel:
            return function(self.kernel, argument)
        return jax.vmap(lambda each: function(self.kernel, each))(argument)

    def _transitions(self, states: Any, items: Array, data: tuple, warming: Array) -> tuple[Any, dict]:
        def one(state: Any, item: Array, item_data: tuple) -> tuple[Any, dict]:
            state = self._over_chains(lambda kernel, s: kernel.sample(s, item_data, {}), item, state, warming)
            return state, self._record(state, item_data)

        return jax.vmap(one)(states, items, data)

    def _record(self, state: Any, data: tuple) -> dict[str, dict[str, Array]]:
        """What is kept of one item's transition: its draws and statistics per chain, and its path."""
        # What an `ItemModel` makes of its latents is large, and comes from `decode`.
        sites = jax.vmap(lambda z: constrained_sites(self._model, data, {}, z, deterministic=not data))(
            getattr(state, self.kernel.sample_field)
        )
        statistics = self._statistics(state)
        path = self.kernel.path(state) if self._ours else _library_path(statistics)
        steps = statistics.get("n_steps", jnp.zeros((), jnp.int32)).sum()
        draw = {f"site:{name}": value for name, value in sites.items()}
        return {"draw": {**draw, **{f"stat:{n}": v for n, v in statistics.items()}}, "path": path, "cost": {"n": steps}}

    def _statistics(self, state: Any) -> dict[str, Array]:
        """The statistics of a state that have a chain axis, under their ArviZ names."""
        if self._ours:
            return {name: getattr(state, name) for name in self.kernel.chain_fields if name not in ("z", "beta")}
        found = {}
        for name, path in _LIBRARY_FIELDS.items():
            value = state
            for attribute in path.split("."):
                value = getattr(value, attribute, None)
            if value is not None and jnp.ndim(value) == 1:
                found[name] = value
        potential = getattr(state, "potential_energy", None)
        if potential is not None:
            found["lp"] = -potential
        return found

    def _loop(self, traced: Callable) -> Callable:
        def chunk(states: Any, items: Array, data: tuple, buffer: Any, count: Array, warming: Array) -> tuple:
            def go_on(carry: tuple) -> Array:
                k, states, _ = carry
                if not self._ours:
                    return k < count
                return (k < count) & ~(warming & jax.vmap(self.kernel.warmed_up)(states).all())

            def body(carry: tuple) -> tuple:
                k, states, buffer = carry
                states, kept = traced(states, items, data, warming)
                return k + 1, states, jax.tree.map(lambda b, r: b.at[k].set(r), buffer, kept)

            made, states, buffer = jax.lax.while_loop(go_on, body, (jnp.int32(0), states, buffer))
            return states, buffer, made

        return chunk


def _convolves(model: Callable, data: tuple) -> bool:
    def density(data: tuple) -> Array:
        target = numpyro_target(model, data)
        return target.tilt(jnp.zeros(target.dim)).sum()

    return has_convolutions(density, data)


def _library_path(statistics: Mapping[str, Array]) -> dict[str, Array]:
    names = [name for name in ("acceptance_rate", "step_size") if name in statistics]
    path = {name: statistics[name].mean() for name in names}
    if "diverging" in statistics:
        path["diverging"] = statistics["diverging"].sum()
    return path

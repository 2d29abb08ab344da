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

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.loops import compiled_loop, has_convolutions
from cogen.inference.seeds import run_key
from cogen.inference.targets.numpyro_target import constrained_sites, numpyro_target

Array = jax.Array
Records = dict[str, np.ndarray]

LANES, LANES_OF_AN_ACCELERATOR = 128, 4096
"""Chains times items of a block, at most: fewer waste a dense generator's matrix products (measured per gradient and chain on
two cores: 15 microseconds at 16 lanes, 9.1 at 128, 7.1 at 512)."""

MOST_ITEMS, MOST_ITEMS_ON_AN_ACCELERATOR = 8, 256
"""More waste the time of a lone item, which costs as much as a block."""

_LIBRARY_FIELDS = {
    "acceptance_rate": "accept_prob",
    "step_size": "adapt_state.step_size",
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
}


def items_per_block(num_chains: int) -> int:
    """How many items run together: a function of the number of chains alone, or results would depend on the others."""
    on_cpu = jax.default_backend() == "cpu"
    lanes, most = (LANES, MOST_ITEMS) if on_cpu else (LANES_OF_AN_ACCELERATOR, MOST_ITEMS_ON_AN_ACCELERATOR)
    return min(most, max(1, lanes // num_chains))


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
        self._model, self._num_chains, self._key = model, num_chains, run_key(seed)
        self.by_host = self._ours and _convolves(model, jax.tree.map(lambda a: a[0], data))
        if self.by_host:
            self.kernel = kernel.unrolled()

    def compile(self, data: tuple) -> None:
        items = np.zeros(self.size, np.int32)
        with nullcontext() if self.by_host else compiled_loop():
            # It runs once a block, so that it is not worth the compiler's optimisation.
            start = jax.jit(self._starts, compiler_options={"xla_backend_optimization_level": 0}).lower(items, data, self._key)
            states = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), start.out_info)
            self._begin = start.compile()
            self.chunk_size = 1 if self.by_host else int(np.clip((self.num_warmup or 100) // 20, 1, 50))
            chunk = jax.jit(self._one if self.by_host else self._loop(states, items, data), donate_argnums=0)
            self._chunk = chunk.lower(states, items, data, 1, False).compile()

    def start(self, items: Array, data: tuple) -> Any:
        """The states of these items' chains before the first transition."""
        return self._begin(items, data, self._key)

    def advance(
        self, states: Any, items: Array, data: tuple, count: int, warming: bool
    ) -> tuple[Any, dict[str, Records], int, bool]:
        """Up to ``count`` <= ``chunk_size`` transitions: new states, what to keep of each (transition, item, ...), how many
        were made (fewer where every item is done with its warm-up), and whether all of them are."""
        states, kept, made, done = self._chunk(states, items, data, count, warming)
        made = int(made)
        return states, jax.tree.map(lambda a: np.asarray(a)[:made], kept), made, bool(done)

    def warmed_up(self, states: Any) -> bool:
        """Whether no item of the block needs more of the warm-up."""
        return bool(self._all_warmed_up(states))

    def end_warmup(self, states: Any) -> Any:
        """States that go on to the draws, where the warm-up ended before its limit."""
        return states._replace(i=jnp.full_like(states.i, self.num_warmup))

    def program(self, items: Array, data: tuple) -> Any:
        """What the start and one transition compute, as a jaxpr."""

        def both(items: Array, data: tuple, key: Array) -> Any:
            return self._transitions(self._starts(items, data, key), items, data, jnp.bool_(False))

        return jax.make_jaxpr(both)(items, data, self._key)

    # --- what is traced ----------------------------------------------------------------------------------------

    def _starts(self, items: Array, data: tuple, key: Array) -> Any:
        def one(item: Array, data: tuple) -> Any:
            keys = jax.random.split(jax.random.fold_in(key, item), self._num_chains)
            return self._over_chains(lambda kernel, k: kernel.init(k, self.num_warmup, None, data, {}), item, keys)

        return jax.vmap(one)(items, data)

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

    def _all_warmed_up(self, states: Any) -> Array:
        return jax.vmap(self.kernel.warmed_up)(states).all() if self._ours else jnp.bool_(False)

    def _one(self, states: Any, items: Array, data: tuple, count: Array, warming: Array) -> tuple:
        """A chunk of one transition, without a loop."""
        states, kept = self._transitions(states, items, data, warming)
        return states, jax.tree.map(lambda a: a[None], kept), jnp.int32(1), self._all_warmed_up(states)

    def _loop(self, *shapes: Any) -> Callable:
        traced = jax.jit(self._transitions)  # traced once, for the shapes of its records and in the chunk
        records = jax.eval_shape(traced, *shapes, False)[1]

        def chunk(states: Any, items: Array, data: tuple, count: Array, warming: Array) -> tuple:
            def go_on(carry: tuple) -> Array:
                k, _, _, done = carry
                return (k < count) & ~(warming & done)

            def body(carry: tuple) -> tuple:
                k, states, buffer, _ = carry
                states, kept = traced(states, items, data, warming)
                buffer = jax.tree.map(lambda b, r: b.at[k].set(r), buffer, kept)
                return k + 1, states, buffer, self._all_warmed_up(states)

            buffer = jax.tree.map(lambda r: jnp.zeros((self.chunk_size, *r.shape), r.dtype), records)
            first = (jnp.int32(0), states, buffer, self._all_warmed_up(states))
            made, states, buffer, done = jax.lax.while_loop(go_on, body, first)
            return states, buffer, made, done

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

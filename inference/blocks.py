"""Compiled runs of items in blocks of one fixed, padded shape.

The compiled program covers one block: a fixed number of items, all their chains, one chunk of transitions. A run processes its
items block by block, the last one padded by repetition, so that an item's draws are bitwise the same alone and among a
thousand, and device memory does not grow with the number of items. Warm-up and draws use the same chunk. On the CPU, a density
with convolutions is not looped over in compiled code: the host dispatches one transition at a time (see `loops`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cogen.inference.checkpoint import fingerprint, tree_from_arrays, tree_to_arrays
from cogen.inference.compiled import compiled
from cogen.inference.items import Items
from cogen.inference.kernels.kernel import ExactDraws, GivenPositions, Kernel
from cogen.inference.loops import compiled_loop, has_convolutions
from cogen.inference.program import Started
from cogen.inference.records import Records, facts_of, statistics_of
from cogen.inference.seeds import item_key, run_key
from cogen.inference.signatures import Model
from cogen.inference.targets.numpyro_target import constrained_sites
from cogen.inference.targets.target import Target

Array = jax.Array

LANES, LANES_OF_AN_ACCELERATOR = 128, 4096
"""The maximum of chains times items of a block. Fewer use matrix products inefficiently (a dense generator on two cores, per
gradient and chain: 15 microseconds at 16 lanes, 9.1 at 128, 7.1 at 512)."""

MOST_ITEMS, MOST_ITEMS_ON_AN_ACCELERATOR = 8, 256
"""The maximum number of items of a block: a single item costs as much as a block."""


def items_per_block(num_chains: int) -> int:
    """The number of items of a block. It depends on the number of chains only, so that results do not depend on other items."""
    on_cpu = jax.default_backend() == "cpu"
    lanes, most = (LANES, MOST_ITEMS) if on_cpu else (LANES_OF_AN_ACCELERATOR, MOST_ITEMS_ON_AN_ACCELERATOR)
    return min(most, max(1, lanes // num_chains))


_ONCE = {"xla_backend_optimization_level": 0}
"""Compiler options for functions that run once per block, for which optimisation does not pay."""


class Carried(NamedTuple):
    """The state of a block of items between chunks; all arrays but the state's iteration have a leading item axis."""

    state: Any
    key: Array


class JaxProgram:
    """The start and the transitions of one block of items, compiled for the shape of ``first``.

    :param recipe: a kernel of cogen or NumPyro bound to the model (`EnsembleKernel.for_model`).
    :param devices: with several, a block has the shape of ``first`` on each device, which runs the single-device program.
    """

    def __init__(
        self,
        recipe: Any,
        model: Model,
        first: Items,
        *,
        num_warmup: int,
        num_chains: int,
        seed: int,
        devices: Sequence[Any] | None = None,
    ) -> None:
        self._recipe, self._model, self._key = recipe, model, run_key(seed)
        self._mesh = None if devices is None else Mesh(np.array(devices), ("item",))
        self.kernel: Kernel = recipe.kernel(num_warmup, num_chains)
        self.library, self.name = recipe.library, recipe.name
        self._shape = first
        self.by_host = self.kernel.host_may_dispatch and self._convolves(first)
        if self.by_host:
            self.kernel = self.kernel.unrolled()
        self.chunk_size = 1 if self.by_host else int(np.clip((num_warmup or 100) // 20, 1, 50))
        self._compiled: tuple[Any, ...] | None = None

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        return self.kernel.ladder_statistics

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self.kernel.facts, self._shape.start is None)

    # --- the `Program` interface -------------------------------------------------------------------------------

    def compile(self) -> None:
        if self._compiled is not None:
            return
        if self._mesh is not None:
            self._compiled = self._compile_on(self._mesh)
            return
        with nullcontext() if self.by_host else compiled_loop(), ThreadPoolExecutor(1) as beside:
            start = jax.jit(self._starts).lower(self._shape, self._key)
            started = beside.submit(compiled, start, _ONCE)  # XLA releases the GIL, so the chunk is traced meanwhile
            carried = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), start.out_info[0])
            chunk = jax.jit(self._one if self.by_host else self._loop(carried), donate_argnums=0)
            advance = compiled(chunk.lower(carried, self._shape, 1, False))
            self._compiled = started.result(), advance

    def _compile_on(self, mesh: Mesh) -> tuple[Any, ...]:
        """Compile both programs, sharded over the item axis."""

        def sharded(function: Callable[..., Any], takes: tuple[Any, ...], gives: tuple[Any, ...]) -> Any:
            def placed(spec: PartitionSpec) -> NamedSharding:
                return NamedSharding(mesh, spec)

            mapped = jax.shard_map(function, mesh=mesh, in_specs=takes, out_specs=gives, check_vma=False)
            return jax.jit(mapped, in_shardings=jax.tree.map(placed, takes), out_shardings=jax.tree.map(placed, gives))

        item, everywhere = PartitionSpec("item"), PartitionSpec()
        with nullcontext() if self.by_host else compiled_loop():
            local = jax.eval_shape(self._starts, self._shape, self._key)[0]
            axes = type(local.state)(**{n: everywhere if n == "iteration" else item for n in local.state._fields})
            carries = Carried(axes, item)  # type: ignore[arg-type]
            shape = jax.tree.map(lambda a: np.concatenate([a] * mesh.size), self._shape)
            start = sharded(self._starts, (item, everywhere), (carries, item)).lower(shape, self._key)
            carried = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), start.out_info[0])
            advance = self._one if self.by_host else self._loop(local)
            takes = (carries, item, everywhere, everywhere)
            gives = (carries, PartitionSpec(None, "item"), everywhere, everywhere)
            return start.compile(_ONCE), sharded(advance, takes, gives).lower(carried, shape, 1, False).compile()

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Do nothing: the progress bar of a compiled run shows its duration."""

    def start(self, items: Items) -> Started:
        assert self._compiled is not None
        carried, density = self._compiled[0](items, self._key)
        gradients = np.full(len(items.id), self.kernel.num_chains * self.kernel.gradients_to_start, np.int64)
        return Started(carried, None if density is None else np.asarray(density), gradients)

    def advance(self, carried: Carried, items: Items, count: int, warming: bool) -> tuple[Carried, Records, int, bool]:
        """Make up to ``count`` <= ``chunk_size`` transitions.

        :returns: the carried state, the records (transition, item, ...), the number of transitions made (fewer if every item
            completed its warm-up), and whether all items completed it.
        """
        assert self._compiled is not None
        carried, records, made, done = self._compiled[1](carried, items, count, warming)
        made = int(made)
        return carried, jax.tree.map(lambda a: np.asarray(a)[:made], records), made, bool(done)

    def warmed_up(self, carried: Carried) -> bool:
        """Whether all items of the block completed their warm-up."""
        return bool(self._all_warmed_up(carried))

    def end_warmup(self, carried: Carried) -> Carried:
        """Switch to the draws when the warm-up ended before its limit."""
        state = carried.state
        return carried._replace(state=state._replace(iteration=jnp.full_like(state.iteration, self.kernel.num_warmup)))

    def to_arrays(self, carried: Carried) -> dict[str, np.ndarray]:
        return tree_to_arrays(carried)

    def from_arrays(self, carried: Carried, arrays: dict[str, np.ndarray]) -> Carried:
        return tree_from_arrays(carried, arrays)

    def identity(self, items: Items) -> dict[str, str]:
        """Hashes and versions that identify this program and its data."""

        def both(items: Items, key: Array) -> Any:
            return self._transitions(self._starts(items, key)[0], items)

        program = jax.make_jaxpr(both)(self._shape, self._key)
        return {
            "device": jax.devices()[0].device_kind,
            **{f"version of {name}": version(name) for name in ("jax", "numpyro")},
            **fingerprint(program, items),
        }

    def state(self, parts: list[tuple[Carried, int]]) -> Any:
        return _joined([(carried.state, count) for carried, count in parts])

    def over_items(self, function: Callable[[Target, Any], Any], parts: list[tuple[Carried, Items, int]]) -> Any:
        """``function(target, state)`` of every item, stacked."""

        def one(state: Any, item: Items) -> Any:
            return function(self._target(item), state)

        def mapped(carried: Carried, items: Items) -> Any:
            return jax.vmap(one, in_axes=(_axes(carried.state), 0))(carried.state, items)

        one_block = jax.jit(mapped)
        return _joined([(one_block(carried, items), count) for carried, items, count in parts])

    # --- traced functions --------------------------------------------------------------------------------------

    def _arguments(self, item: Items) -> tuple[Any, ...]:
        """The arguments of the model: for an `ItemModel` the data of a plate with one item."""
        return () if item.data is None else (jax.tree.map(lambda a: a[None], item.data),)

    def _target(self, item: Items) -> Target:
        return self._recipe.target(self._arguments(item), model=self._model, own=item.own)

    def _starts(self, items: Items, key: Array) -> tuple[Carried, Array | None]:
        def one(item: Items) -> tuple[Any, Array, Array | None]:
            init_key, rng_key = jax.random.split(item_key(key, item.id))
            start = ExactDraws(self.kernel.num_chains) if item.start is None else GivenPositions(item.start)
            state = self.kernel.init(self._target(item), init_key, start)
            return state, rng_key, self.kernel.log_density(state)

        state, keys, density = jax.vmap(one)(items)
        return Carried(state._replace(iteration=state.iteration[0]), keys), density

    def _transitions(self, carried: Carried, items: Items) -> tuple[Carried, Records]:
        axes = _axes(carried.state)

        def one(state: Any, key: Array, item: Items) -> tuple[Any, Records]:
            target = self._target(item)
            new, info = self.kernel.step(target, jax.random.fold_in(key, state.iteration), state)
            return new, self._record(target, item, new, info)

        mapped = jax.vmap(one, in_axes=(axes, 0, 0), out_axes=(axes, 0))
        state, records = mapped(carried.state, carried.key, items)
        return carried._replace(state=state), records

    def _record(self, target: Target, item: Items, state: Any, info: Any) -> Records:
        """The records of one item's transition: draws and statistics per chain, and its path."""
        # The deterministic sites of an `ItemModel` are large; `decode` computes them.
        args, alone = self._arguments(item), item.data is None
        sites = jax.vmap(target.sites)(state.position)
        if target.layers is None:
            sites = jax.vmap(lambda z: constrained_sites(self._model, args, {}, z, deterministic=alone))(sites)
        if not alone:
            sites = {name: value[:, 0] for name, value in sites.items()}  # the plate of one item
        statistics = statistics_of(info, item.start is None, self.kernel.weighted)
        steps = statistics.get("n_steps", jnp.zeros((), jnp.int32)).sum()
        return Records(sites, statistics, dict(self.kernel.path(state, info)), steps)

    def _all_warmed_up(self, carried: Carried) -> Array:
        return jax.vmap(self.kernel.warmed_up, in_axes=(_axes(carried.state),), axis_size=len(carried.key))(carried.state).all()

    def _everywhere_warmed_up(self, carried: Carried) -> Array:
        """Whether the items of all devices completed their warm-up; called inside the compiled program."""
        done = self._all_warmed_up(carried)
        return done if self._mesh is None else jax.lax.pmin(done.astype(jnp.int32), "item") == 1

    def _one(self, carried: Carried, items: Items, count: Array, warming: Array) -> tuple[Any, ...]:
        """A chunk of one transition, without a loop."""
        carried, records = self._transitions(carried, items)
        return carried, jax.tree.map(lambda a: a[None], records), jnp.int32(1), self._everywhere_warmed_up(carried)

    def _loop(self, carried: Any) -> Callable[..., Any]:
        traced = jax.jit(self._transitions)  # traced once, for the shapes of its records and in the chunk
        shapes = jax.eval_shape(traced, carried, self._shape)[1]

        def chunk(carried: Carried, items: Items, count: Array, warming: Array) -> tuple[Any, ...]:
            def go_on(carry: tuple[Any, ...]) -> Array:
                k, _, _, done = carry
                return (k < count) & ~(warming & done)

            def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
                k, carried, buffer, _ = carry
                carried, records = traced(carried, items)
                buffer = jax.tree.map(lambda b, r: b.at[k].set(r), buffer, records)
                return k + 1, carried, buffer, self._everywhere_warmed_up(carried)

            buffer = jax.tree.map(lambda r: jnp.zeros((self.chunk_size, *r.shape), r.dtype), shapes)
            made, carried, buffer, done = jax.lax.while_loop(
                go_on, body, (jnp.int32(0), carried, buffer, self._everywhere_warmed_up(carried))
            )
            return carried, buffer, made, done

        return chunk

    def _convolves(self, first: Items) -> bool:
        def density(item: Items) -> Array:
            target = self._target(item)
            return target.increment(jnp.zeros(target.dim)).sum()

        return has_convolutions(density, jax.tree.map(lambda a: a[0], first))


def _joined(parts: list[tuple[Any, int]]) -> Any:
    """Concatenate the trees of blocks, each with its number of items; leaves without an item axis are taken from the first."""
    cut = [jax.tree.map(lambda a, n=count: a[:n] if jnp.ndim(a) else a, tree) for tree, count in parts]
    return jax.tree.map(lambda first, *rest: jnp.concatenate([first, *rest]) if jnp.ndim(first) else first, *cut)


def _axes(state: Any) -> Any:
    """The item axis of a state's fields: the iteration is common to all items."""
    return type(state)(**{name: None if name == "iteration" else 0 for name in state._fields})

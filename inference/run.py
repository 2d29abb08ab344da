"""`infer`: one driver for every kernel.

A NumPyro kernel (ours or the library's) runs with items and chains as vectorised axes, block after block of items (see
`blocks`): `vmap` over items of the kernel, which itself holds all chains (ours) or is mapped over them (the library's). A
Pyro kernel of the library runs item by item and chain by chain (see `pyro_chains`).
"""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.mcmc import MCMCKernel
from tqdm.auto import tqdm

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.blocks import BlockProgram, Records, items_per_block
from cogen.inference.checkpoint import Checkpoint, fingerprint, pack, tree_from_arrays, tree_to_arrays, unpack
from cogen.inference.items import find_items, site_dims
from cogen.inference.predictions import predictive_groups
from cogen.inference.results import check_names, to_arviz, warn_of_nonfinite
from cogen.inference.seeds import check_seed
from cogen.inference.targets.masked_sites import ProperUnobserved
from cogen.inference.targets.model_checks import check_numpyro_model, check_starts
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.unknown_contexts import expand_unknown, infer_over_classes
from cogen.inference.warmup_path import WarmupPath, common_points, side_by_side

Array = jax.Array


def infer(
    model: Callable,
    kernel: Any,
    *,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    seed: int,
    progress: bool = True,
    keep_x: bool = False,
    pilot: int = 0,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    items_at_once: int | None = None,
) -> Any:
    """Draw from the posterior of a conditioned model and return an ArviZ object.

    :param model: a conditioned ``CoGenerator`` (also inside ``pyro.condition`` or ``numpyro.handlers.condition``), or any
        NumPyro model (with a NumPyro kernel) or Pyro model (with a Pyro kernel), which counts as one item. A class that is
        unknown and declared "exact" is inferred by one run a class (`cogen.inference.unknown_contexts`).
    :param kernel: a kernel class (``numpyro.infer.NUTS``, ``pyro.infer.HMC``), a ``functools.partial`` of one, or one of our
        kernels made without a model (``AnnealedHMC(num_leapfrog=10)``).
    :param num_warmup: transitions of adaptation, annealing or descent, >= 0 (>= 1 for `AnnealedHMC`).
    :param num_samples: draws per chain, >= 1.
    :param num_chains: chains per item, >= 1.
    :param seed: every draw is a function of (seed, item, chain).
    :param progress: show a progress bar.
    :param keep_x: keep x = G(z) and posterior predictive draws of every view; otherwise only the mean and standard
        deviation of x per item (group ``predictions``).
    :param pilot: chains of a pilot run, which adapts; its step sizes (and, with `Adaptive`, its inverse temperatures) are
        then frozen for the run itself, whose evidence is unbiased (but for ``bridge=True``). 0: no pilot. The frozen values
        stay in the result: ``Recorded.of`` and ``Ladder.of`` read them from it.
    :param checkpoint: a folder (or a `Checkpoint`): a run that was killed goes on from there when it is called again.
    :param items_at_once: the size of the blocks in which items run, >= 1; a last block is filled up, and a lone item costs as
        much as a block. Results are the same bit for bit for one size, and but for rounding for another. Default: at most
        128 chains and 8 items a block on a CPU, 4,096 and 256 elsewhere. Pyro kernels do not use it: ours takes all items as
        one batch, Pyro's take one after the other.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x); ``["posterior"]["z"]`` has the dims (chain,
        draw, item, latent). A model that is one item has no item dimension.

    Raises ValueError for counts out of range, for a model without anything latent or observed, and for a checkpoint of another
    run; TypeError for a kernel that is none of the above. Warns of items that met gradients that are no numbers.
    """
    _check_counts(num_warmup, num_samples, num_chains)
    model = items if (items := find_items(model)) is not None else model
    if (expansion := expand_unknown(items)) is not None:
        counts: Any = {"num_warmup": num_warmup, "num_samples": num_samples, "num_chains": num_chains, "seed": seed}
        more: Any = {
            "progress": progress,
            "keep_x": keep_x,
            "pilot": pilot,
            "checkpoint": checkpoint,
            "items_at_once": items_at_once,
        }
        return infer_over_classes(expansion, kernel, lambda expanded: infer(expanded, kernel, **counts, **more), seed)
    if pilot < 0:
        raise ValueError(f"pilot={pilot}: the number of the pilot's chains, 0 for none")
    seed = check_seed(seed)
    before: Any = 0
    pilot_seed = int(np.random.SeedSequence([seed, pilot]).generate_state(1)[0])
    store = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    if _is_pyro(kernel):
        from cogen.inference.adapters.pyro_chains import after_pilot, infer_with_pyro

        options: dict[str, Any] = {"num_warmup": num_warmup, "progress": progress}
        if pilot:
            first_store = store and store.part("pilot")
            with of_the_pilot(pilot):
                pilots = {"num_chains": pilot, "seed": pilot_seed, "checkpoint": first_store, **options}
                kernel, before = after_pilot(model, kernel, **pilots)
        options |= {"num_samples": num_samples, "num_chains": num_chains, "seed": seed, "keep_x": keep_x}
        return infer_with_pyro(model, kernel, before=before, checkpoint=store, **options)
    if pilot:
        if not isinstance(kernel, EnsembleKernel):
            raise ValueError("pilot= needs one of our kernels that adapts, such as AnnealedHMC()")
        with of_the_pilot(pilot):
            first = Inference(
                model,
                kernel,
                num_warmup=num_warmup,
                num_chains=pilot,
                seed=pilot_seed,
                progress=progress,
                items_at_once=items_at_once,
            )
        kernel = kernel.frozen(first.draw(1, checkpoint=store and store.part("pilot")))
        before = first.gradient_evaluations
    run = Inference(
        model,
        kernel,
        num_warmup=num_warmup,
        num_chains=num_chains,
        seed=seed,
        progress=progress,
        items_at_once=items_at_once,
    )
    run.gradient_evaluations += before
    return run.draw(num_samples, keep_x=keep_x, checkpoint=store)


@contextmanager
def of_the_pilot(num_chains: int) -> Iterator[None]:
    """Says of an error that it is the pilot's."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"in the pilot run of pilot={num_chains} chains: {error}") from error


@dataclass
class _Block:
    """Where one block of items is in its run."""

    index: int
    items: Array
    """Indices of the items, filled up with the last one."""
    count: int
    """How many of them are not filling."""
    path: WarmupPath
    states: Any = None
    warmed: bool = False
    draws: list[Records] = field(default_factory=list)
    cost: np.ndarray = field(default_factory=lambda: np.zeros(0))


class Inference:
    """A run with NumPyro kernels that can be continued: `draw` as often as one likes, the warm-up happens once.

    >>> import numpyro, numpyro.distributions as dist
    >>> from cogen.inference import AnnealedHMC, Inference
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> run = Inference(model, AnnealedHMC(), num_warmup=50, num_chains=64, seed=0, progress=False)
    >>> first = run.draw(10)
    >>> more = run.draw(10)  # from where the first ended
    >>> more["posterior"]["z"].dims
    ('chain', 'draw')

    Parameters as `infer`.
    """

    def __init__(
        self,
        model: Callable,
        kernel: Any,
        *,
        num_warmup: int,
        num_chains: int,
        seed: int,
        progress: bool = True,
        items_at_once: int | None = None,
    ) -> None:
        _check_counts(num_warmup, 1, num_chains)
        self.items = find_items(model)
        self.num_warmup, self.num_chains, self.seed, self.progress = num_warmup, num_chains, check_seed(seed), progress
        if self.items is None:
            check_numpyro_model(model, (), {})
            self._model: Callable = ProperUnobserved(model)
            self._data: tuple = ()
            self.num_items = 1
        else:
            if not self.items.item_data:
                raise ValueError("nothing is observed: condition the model first, as in model.condition(visible=pixels)")
            check_names(self.items.dims, ("chain", "draw", "item"))
            self._model = self.items.numpyro
            data = jax.tree.map(lambda a: np.asarray(jnp.asarray(a))[:, None], dict(self.items.item_data))
            self._data = (data,)
            self.num_items = jax.tree.leaves(data)[0].shape[0]
        self.kernel = _bind(kernel, self._model, self.num_items)
        one = jax.tree.map(lambda a: a[0], self._data)
        ours = isinstance(self.kernel, EnsembleKernel)
        target = self.kernel.target if ours else functools.partial(numpyro_target, self._model)
        jax.eval_shape(lambda: target(one, {}).dim)  # what is wrong with the model is said here
        if ours:
            self.kernel.prepare(num_warmup, num_chains)
        if items_at_once is not None and items_at_once < 1:
            raise ValueError(f"items_at_once={items_at_once}: a block has at least one item")
        size = 1 if self.items is None else items_at_once or items_per_block(num_chains)
        self._blocks = [
            _Block(
                index,
                jnp.asarray(np.minimum(np.arange(size, dtype=np.int32) + index * size, self.num_items - 1)),
                min(size, self.num_items - index * size),
                path=WarmupPath(self.kernel.ladder_statistics if ours else ()),
                cost=np.zeros(size, dtype=np.int64),
            )
            for index in range(-(-self.num_items // size))
        ]
        self._program: BlockProgram | None = None
        self.gradient_evaluations = np.zeros(self.num_items, dtype=np.int64)
        self.seconds = self.compile_seconds = 0.0

    @property
    def last_state(self) -> Any:
        """The kernel's state after the last transition, every array with a leading item axis; None before the first."""
        if any(block.states is None for block in self._blocks):
            return None
        parts = [jax.tree.map(lambda a, n=block.count: a[:n], block.states) for block in self._blocks]
        return jax.tree.map(lambda *each: jnp.concatenate(each), *parts)

    @property
    def item_arguments(self) -> tuple:
        """The model's arguments, every array with a leading item axis, then that of one item's own plate; () if it has none."""
        return self._data

    def draw(self, num_samples: int, *, keep_x: bool = False, checkpoint: Checkpoint | None = None) -> Any:
        """``num_samples`` more draws per chain, after the warm-up if it has not run, as an ArviZ object.

        ``checkpoint`` is for the first call: a run that was killed in it goes on from there.
        """
        _check_counts(self.num_warmup, num_samples, self.num_chains)
        start = time.perf_counter()
        if self._program is None:
            self._compile(num_samples, checkpoint)
        elif checkpoint is not None:
            raise ValueError("a checkpoint covers the first call of draw: this run has drawn already")
        ahead = sum(num_samples + (0 if block.warmed else self.num_warmup) for block in self._blocks)
        with tqdm(total=ahead, disable=not self.progress, unit="transition") as bar:
            self._check_starts(checkpoint)
            for block in self._blocks:
                self._run_block(block, num_samples, bar, checkpoint)
        groups = self._groups()
        if self.items is not None:
            groups.update(predictive_groups(self.items, groups, keep_x=keep_x, seed=self.seed))
        if "nonfinite" in groups["sample_stats"]:
            counts = groups["sample_stats"]["nonfinite"][1][:, -1]
            warn_of_nonfinite(counts.sum(axis=0, keepdims=self.items is None), self.items is not None, stacklevel=3)
        self.seconds += time.perf_counter() - start
        return to_arviz(groups, self._attributes())

    # --- transitions -------------------------------------------------------------------------------------------

    def _data_of(self, block: _Block) -> tuple:
        return jax.tree.map(lambda a: a[block.items], self._data)

    def _compile(self, num_samples: int, checkpoint: Checkpoint | None) -> None:
        start = time.perf_counter()
        block = self._blocks[0]
        data = self._data_of(block)
        program = BlockProgram(self.kernel, self._model, data, len(block.items), self.num_chains, self.num_warmup, self.seed)
        self.kernel = program.kernel
        if checkpoint is not None:
            checkpoint.open(self._identity(program, num_samples))
        program.compile(data)
        self._program = program
        if isinstance(self.kernel, EnsembleKernel):
            self.gradient_evaluations += self.num_chains * self.kernel.gradients_to_start
        self.compile_seconds += time.perf_counter() - start

    def _run_block(self, block: _Block, num_samples: int, bar: Any, checkpoint: Checkpoint | None) -> None:
        """The block's warm-up, if it has not run, and ``num_samples`` draws."""
        program, data = self._program, self._data_of(block)
        assert program is not None
        block.draws, block.cost = [], np.zeros_like(block.cost)
        if block.states is None:
            block.states = program.start(block.items, data)
            if checkpoint is not None:
                if (arrays := checkpoint.load(block.index)) is not None:
                    state, block.path, block.draws = unpack(arrays)
                    block.states = tree_from_arrays(block.states, state)
                    block.warmed, block.cost = bool(arrays["warmed"]), arrays["cost"]
                bar.update(block.path.asked + len(block.draws))
        arrived = program.warmed_up(block.states)
        while not block.warmed or len(block.draws) < num_samples:
            asked = block.path.asked
            if not block.warmed and (asked >= self.num_warmup or arrived):
                bar.update(self.num_warmup - asked)
                if asked < self.num_warmup:
                    block.states = program.end_warmup(block.states)
                block.warmed = True
                continue
            left = num_samples - len(block.draws) if block.warmed else self.num_warmup - asked
            block.states, records, made, arrived = program.advance(
                block.states, block.items, data, min(program.chunk_size, left), not block.warmed
            )
            block.cost += records["cost"]["n"].astype(np.int64).sum(axis=0)
            if block.warmed:
                block.draws += [{n: v[k] for n, v in records["draw"].items()} for k in range(made)]
            else:
                block.path.extend(records["path"], made)
            bar.update(made)
            if not bar.disable:
                bar.set_description(f"{'draws' if block.warmed else 'warm-up'} {block.index + 1}/{len(self._blocks)}")
                shown = {n: records["path"][n][-1].mean() for n in ("beta", "acceptance_rate", "lp") if n in records["path"]}
                bar.set_postfix({n: f"{value:.3g}" for n, value in shown.items()}, refresh=False)
            finished = block.warmed and len(block.draws) == num_samples
            if checkpoint is not None and (finished or checkpoint.due()):
                state = tree_to_arrays(block.states)
                more = {"warmed": np.asarray(block.warmed), "cost": block.cost}
                checkpoint.save(block.index, pack(state, block.path, block.draws, **more))
        first = block.index * len(block.items)
        self.gradient_evaluations[first : first + block.count] += block.cost[: block.count]

    def _check_starts(self, checkpoint: Checkpoint | None) -> None:
        """Raises ValueError for items none of whose chains starts where the density is finite, before any block runs."""
        assert self._program is not None
        if isinstance(self.kernel, EnsembleKernel) and not self.kernel.starts_at_density:
            return
        lost = []
        for block in self._blocks:
            if block.states is None and (checkpoint is None or checkpoint.load(block.index) is None):
                states = self._program.start(block.items, self._data_of(block))
                density = getattr(states, "lp", getattr(states, "potential_energy", None))
                if density is not None:
                    dead = ~np.isfinite(np.asarray(density)).reshape(len(block.items), -1).any(axis=1)
                    lost.append(np.asarray(block.items)[: block.count][dead[: block.count]])
                if len(self._blocks) == 1:  # of several, memory would grow with the items
                    block.states = states
        check_starts(np.concatenate([*lost, np.zeros(0, int)]).astype(int), self.num_chains, self.items is not None)

    def _identity(self, program: BlockProgram, num_samples: int) -> dict[str, Any]:
        block = self._blocks[0]
        return {
            "kernel": type(self.kernel).__name__,
            "seed": self.seed,
            "num_warmup": self.num_warmup,
            "num_samples": num_samples,
            "num_chains": self.num_chains,
            "num_items": self.num_items,
            "device": jax.devices()[0].device_kind,
            **{f"version of {name}": version(name) for name in ("jax", "numpyro")},
            **fingerprint(program.program(block.items, self._data_of(block)), self._data),
        }

    # --- results -----------------------------------------------------------------------------------------------

    def _groups(self) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        groups: dict[str, dict] = {"posterior": {}, "sample_stats": {}, "warmup_sample_stats": {}}
        item = () if self.items is None else ("item",)

        def gather(records: list[list[Records]], name: str) -> np.ndarray:
            """(draw, item, ...): all blocks side by side."""
            blocks = zip(self._blocks, records, strict=True)
            return np.concatenate([np.stack([r[name][: block.count] for r in rs]) for block, rs in blocks], axis=1)

        draws = [block.draws for block in self._blocks]
        for name in self._blocks[0].draws[0]:
            kind, _, variable = name.partition(":")
            value = np.moveaxis(gather(draws, name), 2, 0)  # (chain, draw, item, ...)
            if kind == "site":
                value = value[:, :, 0] if self.items is None else value[:, :, :, 0]  # the plate of one item
                dims = site_dims(self.items, variable, value.ndim - 2 - len(item))
                groups["posterior"][variable] = (("chain", "draw", *item, *dims), value)
            else:
                groups["sample_stats"][variable] = (("chain", "draw", *item), value if item else value[:, :, 0])
        transitions, paths = common_points([block.path for block in self._blocks])
        if transitions.size:
            groups["warmup_sample_stats"]["transition"] = (("draw",), transitions)
        for variable in paths[0][0].keys() - {"transition"} if transitions.size else ():
            value = gather(paths, variable)
            groups["warmup_sample_stats"][variable] = (("draw", *item), value if item else value[:, 0])
        parts = [{n: v[:, : block.count] for n, v in block.path.ladder().items()} for block in self._blocks]
        for variable in parts[0]:
            value = side_by_side([part[variable] for part in parts])
            groups["warmup_sample_stats"][f"ladder_{variable}"] = (("warmup_transition", *item), value if item else value[:, 0])
        if self.items is not None:
            groups.update({name: dict(group) for name, group in self.items.result_groups().items()})
        return groups

    def _attributes(self) -> dict[str, Any]:
        ours = isinstance(self.kernel, EnsembleKernel)
        return {
            "inference_library": "cogen" if ours else "numpyro",
            "kernel": type(self.kernel).__name__,
            "num_warmup": self.num_warmup,
            "seed": self.seed,
            "num_populations": getattr(self.kernel, "_populations", 0),
            "moves_per_temperature": getattr(self.kernel, "moves_per_temperature", 1),
            "adapted": int(getattr(self.kernel, "adapts", False)),
            "evidence_kind": getattr(self.kernel, "evidence_kind", ""),
            "gradient_evaluations": self.gradient_evaluations.tolist(),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            **(dict(self.items.attributes) if self.items is not None else {}),
        }


def _check_counts(num_warmup: int, num_samples: int, num_chains: int) -> None:
    for name, value, least in (
        ("num_warmup", num_warmup, 0),
        ("num_samples", num_samples, 1),
        ("num_chains", num_chains, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: it must be at least {least}")


def _is_pyro(kernel: Any) -> bool:
    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    kind = factory if inspect.isclass(factory) else type(factory)
    return any(base.__module__.partition(".")[0] == "pyro" for base in kind.__mro__)


def _bind(kernel: Any, model: Callable, num_items: int) -> Any:
    if isinstance(kernel, EnsembleKernel):
        return kernel.bind(model, num_items)
    if isinstance(kernel, MCMCKernel):
        raise TypeError(
            f"this {type(kernel).__name__} was made with a model of its own: pass the class, or"
            f" functools.partial({type(kernel).__name__}, ...), and infer gives it the model"
        )
    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    if inspect.isclass(factory) and issubclass(factory, EnsembleKernel):
        return kernel().bind(model, num_items)
    if inspect.isclass(factory) and issubclass(factory, MCMCKernel):
        return kernel(model)
    raise TypeError(
        f"{kernel!r} is no kernel: pass a NumPyro or Pyro kernel class, a functools.partial of one, or one of ours, such as"
        " AnnealedHMC(num_leapfrog=10)"
    )

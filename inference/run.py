"""`Run`: a model, a kernel, counts and a seed.

All kernels share one loop. A *program*, which differs between libraries, starts and advances a block of items. Kernels for
NumPyro models (cogen's and NumPyro's) are compiled, with items and chains as vectorised axes (`blocks`); cogen's for Pyro
models run all items as one block (`torch.program`); Pyro's run item by item and chain by chain (`adapters.pyro_chains`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from tqdm.auto import tqdm

from cogen.inference.adapters.recipe import Recipe
from cogen.inference.annealing.tuning import Tuning
from cogen.inference.checkpoint import Checkpoint, digest
from cogen.inference.items import Divisible, Items, find_items, item_ids
from cogen.inference.predictions import predictive_groups
from cogen.inference.program import Program, Started
from cogen.inference.programs import Sampler, blocks_for, blocks_of
from cogen.inference.records import BlockRecords, groups_of, kept_whole
from cogen.inference.results import check_names, to_arviz, warn_of_nonfinite
from cogen.inference.seeds import check_seed, ids_of
from cogen.inference.signatures import JSON, ArrayLike, ArvizObject, Model
from cogen.inference.targets.model_checks import check_starts
from cogen.inference.warmup_path import WarmupPath

if TYPE_CHECKING:
    import jax
    import torch

    from cogen.inference.targets.target import Target


State = TypeVar("State")
Found = TypeVar("Found")


@dataclass
class Block:
    """The progress of one block of items."""

    index: int
    where: np.ndarray
    """The indices of its items, padded by repeating the last one."""
    count: int
    """The number of items without padding."""
    kept: BlockRecords
    started: Started | None = None
    """The starting state, until the first transition."""
    carried: Any = None
    warmed: bool = False


class Run:
    """A model, a kernel, counts and a seed; can be tuned by a pilot, drawn from repeatedly and continued.

    Warns of items with non-finite gradients.

    >>> import numpyro, numpyro.distributions as dist
    >>> from cogen.inference import AnnealedHMC, Run
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> run = Run(model, AnnealedHMC(), num_warmup=50, num_samples=10, num_chains=64, seed=0, progress=False)
    >>> tuning = run.pilot(16)  # learns the step sizes and freezes them
    >>> first = run.draw()
    >>> more = run.draw(20)  # continues where the first ended
    >>> more["posterior"]["draw"].values[[0, -1]]
    array([10, 29])

    :param model: a conditioned ``CoGenerator`` (also inside ``pyro.condition`` or ``numpyro.handlers.condition``), or any
        NumPyro model (with a NumPyro kernel) or Pyro model (with a Pyro kernel), which counts as one item.
    :param kernel: a kernel class (``numpyro.infer.NUTS``, ``pyro.infer.HMC``), a ``functools.partial`` of one, or a cogen
        kernel constructed without a model (``AnnealedHMC(num_leapfrog=10)``).
    :param num_warmup: transitions of adaptation, annealing or descent, >= 0 (>= 1 for `AnnealedHMC`).
    :param num_samples: default number of draws per chain of a call of `draw`, >= 1.
    :param num_chains: chains per item, >= 1.
    :param seed: in [0, 2^63); every draw is a function of (seed, item id, chain).
    :param progress: show a progress bar.
    :param start: starting positions: values of the latent sites by name, (chain, item, *shape), or (chain, *shape) for a
        model that is one item. Such a run has no evidence and no weights. Default: cogen kernels start from exact draws of the
        prior, or of the kernel's ``initial``; library kernels use their own initialization.
    :param items_at_once: the number of items per block, >= 1. The last block is padded, so a single item costs as much as a
        block. Results are bitwise reproducible for the same size and agree up to rounding for different sizes. Default: at
        most 128 chains and 8 items per block on a CPU, 4,096 and 256 elsewhere. Not used with Pyro models: cogen's kernels
        take all items as one batch, Pyro's take one after the other.
    :param keep_warmup: chains per item, >= 0, whose positions during the warm-up are kept, at most 200 of them: group
        ``warmup_posterior``, at the transitions of ``warmup_sample_stats``. 0: none.
    :raises ValueError: for counts out of range, for a model without latent or observed sites, and for a checkpoint of another
        run.
    :raises TypeError: for an unsupported kernel.
    """

    kernel: Sampler
    program: Program
    all_items: Items
    """All items as one value."""
    blocks: list[Block]

    def __init__(
        self,
        model: Model,
        kernel: Sampler,
        *,
        num_warmup: int = 500,
        num_samples: int = 100,
        num_chains: int = 16,
        seed: int,
        progress: bool = True,
        start: Mapping[str, ArrayLike] | None = None,
        items_at_once: int | None = None,
        keep_warmup: int = 0,
    ) -> None:
        counts = (
            ("num_warmup", num_warmup, 0),
            ("num_samples", num_samples, 1),
            ("num_chains", num_chains, 1),
            ("keep_warmup", keep_warmup, 0),
        )
        for name, value, least in counts:
            if value < least:
                raise ValueError(f"{name}={value}: it must be at least {least}")
        if items_at_once is not None and items_at_once < 1:
            raise ValueError(f"items_at_once={items_at_once}: a block has at least one item")
        self.num_warmup, self.num_samples, self.num_chains = num_warmup, num_samples, num_chains
        self.seed, self.progress, self.items_at_once = check_seed(seed), progress, items_at_once
        self.keep_warmup = keep_warmup
        self.items = find_items(model)
        self.model = model if self.items is None else self.items
        if self.items is not None:
            if not self.items.item_data:
                raise ValueError("nothing is observed: condition the model first, as in model.condition(visible=pixels)")
            check_names(self.items.dims, ("chain", "draw", "item"))
        self.ids = item_ids(self.items)
        self.first_item = 0
        """The index of the first item in the larger run that contains it (see `over`)."""
        self._pilot_gradients: Any = 0
        self.seconds = self.compile_seconds = 0.0
        self._start, self._devices = start, None
        self._drawn, self._begun = 0, False
        self._pilot: Run | None = None
        self._use(kernel)

    @property
    def last_state(self) -> NamedTuple | list[list[dict[str, torch.Tensor]]] | None:
        """The kernel's state after the last transition, with a leading item axis; None before the first transition."""
        if any(block.carried is None for block in self.blocks):
            return None
        return self.program.state([(block.carried, block.count) for block in self.blocks])

    @property
    def gradient_evaluations(self) -> np.ndarray:
        """Gradient evaluations over all chains, including those of a pilot, (item,)."""
        made = [np.broadcast_to(block.kept.gradients, len(block.where))[: block.count] for block in self.blocks]
        return np.concatenate(made).astype(np.int64) + self._pilot_gradients

    def over_items(self, function: Callable[[Target, State], Found]) -> Found:
        """``function(target, state)`` of every item after the last transition, stacked; for compiled kernels only.

        :raises ValueError: before the first transition.
        :raises TypeError: for a Pyro kernel.
        """
        if self.last_state is None:
            raise ValueError("this run has made no transition yet: draw from it first")
        if not hasattr(self.program, "over_items"):
            raise TypeError(f"{self.program.name} is not compiled: over_items requires a NumPyro model")
        return self.program.over_items(function, [(b.carried, self.all_items.take(b.where), b.count) for b in self.blocks])

    def pilot(self, num_chains: int, *, checkpoint: Checkpoint | None = None, like: Run | None = None) -> Tuning:
        """Make a first run that adapts, and freeze its tuning for this run.

        :param num_chains: chains of the pilot.
        :param like: the same run of other items (see `over`) after its pilot, whose compiled programs are reused.
        :returns: the tuning.
        :raises ValueError: after the first draw of this run, and for a kernel that does not adapt.
        """
        if self._begun:
            raise ValueError("this run has begun: a pilot comes before the first draw")
        self.check_pilot()
        with _of_the_pilot(num_chains):
            if like is not None and like._pilot is not None:
                first = like._pilot.over(self.all_items._replace(start=None))
            else:
                seed = int(np.random.SeedSequence([self.seed, num_chains]).generate_state(1)[0])
                first = self._fresh(num_chains=num_chains, seed=seed, keep_warmup=0, _start=None)
                first._use(self.kernel, self.all_items._replace(start=None))
            for block in first.blocks:
                block.kept.path.whole = ("beta", "step_size")
            first._advance(1, checkpoint)
        tuning, self._pilot_gradients = first.tuning(), first.gradient_evaluations
        first.blocks = []  # its draws are no longer needed
        self._pilot = first
        frozen = self._tunable().frozen(tuning)
        if like is None:
            self._use(frozen)
        else:
            self.kernel, self.program = frozen, like.program
            self.all_items = self.all_items._replace(own=frozen.own(self.num_warmup, self.ids))
            self._lay_out()
        return tuning

    def check_pilot(self) -> None:
        """Check that a pilot can tune the kernel.

        :raises ValueError: for a kernel that does not adapt.
        """
        self._tunable()

    def _tunable(self) -> Recipe:
        if not isinstance(self.kernel, Recipe) or not self.kernel.tunable:
            raise ValueError("a pilot requires a kernel of cogen that adapts, such as AnnealedHMC() or PyroAnnealedHMC()")
        return self.kernel

    def tuning(self) -> Tuning:
        """The step sizes and inverse temperatures of the warm-up.

        :raises ValueError: for a run that did not record them.
        """
        kept = kept_whole([block.kept for block in self.blocks], [block.count for block in self.blocks])
        if "step_size" not in kept:
            raise ValueError(f"this run of {self.program.name} recorded no step sizes: call pilot, which records them")
        if "beta" not in kept:  # no annealing: the last step size is for beta = 1
            beta, step_size = np.ones((len(self.ids), 1)), kept["step_size"][-1:].T
        else:
            # The same shape however soon the items reach beta = 1, so that compiled programs serve other items.
            missing = self.num_warmup - len(kept["beta"])
            beta, step_size = (np.pad(kept[n], ((0, missing), (0, 0)), mode="edge").T for n in ("beta", "step_size"))
        metric = self.program.kernel.metric(self.last_state) if hasattr(self.program, "kernel") else None
        variance = None if metric is None else np.asarray(metric)
        return Tuning(self.ids, beta, step_size, self.program.facts["moves_per_temperature"], variance)

    def draw(
        self, num_samples: int | None = None, *, keep_x: bool = False, checkpoint: Checkpoint | None = None
    ) -> ArvizObject:
        """Make ``num_samples`` more draws per chain, after the warm-up if it has not run.

        :param checkpoint: for the first call only: an interrupted run resumes from it.
        :returns: an ArviZ object whose draws are numbered consecutively over calls.
        """
        count = self.num_samples if num_samples is None else num_samples
        if count < 1:
            raise ValueError(f"num_samples={count}: it must be at least 1")
        begun = time.perf_counter()
        self._advance(count, checkpoint)
        groups = groups_of([block.kept for block in self.blocks], [block.count for block in self.blocks], self.items)
        if self.items is not None:
            groups.update(predictive_groups(self.items, groups, keep_x=keep_x, seed=self.seed))
            groups["sample_stats"]["gradient_evaluations"] = (("item",), self.gradient_evaluations)
        if "nonfinite" in groups["sample_stats"]:
            counts = groups["sample_stats"]["nonfinite"][1][:, -1].sum(axis=0, keepdims=self.items is None)
            warn_of_nonfinite(counts, self.items is not None, first_item=self.first_item, stacklevel=4)
        self.seconds += time.perf_counter() - begun
        first, self._drawn = self._drawn, self._drawn + count
        return to_arviz(groups, self._attributes(), first_draw=first)

    # --- the same run elsewhere --------------------------------------------------------------------------------

    def over(self, items: Items, *, first_item: int = 0) -> Run:
        """The same run of other items, before its first transition.

        It shares the program, so that nothing is compiled again, and its draws are bitwise those of a run of all items.

        :param items: rows of `all_items`.
        :param first_item: the index of the first of them among all.
        :raises TypeError: for a model that does not support other items (see `Divisible`).
        """
        model = self.model
        if self.items is not None:
            if not isinstance(self.items, Divisible):
                raise TypeError(f"{type(self.items).__name__} has no method of_items(data): its items cannot run in parts")
            model = self.items.of_items(items.data)
        other = self._fresh(model=model, items=None if self.items is None else model, _start=None)
        other.all_items, other.ids, other.first_item = items, ids_of(items.id), first_item
        other._lay_out()
        return other

    def on(self, devices: Sequence[jax.Device]) -> Run:
        """The same run, before its first transition, with blocks of ``items_at_once`` items on each of these JAX devices."""
        other = self._fresh(_devices=tuple(devices), _start=None)
        other._use(self.kernel, self.all_items)
        return other

    def _fresh(self, **changes: Any) -> Run:
        """A copy of this run with these changes, before its first transition."""
        other = Run.__new__(Run)  # copy.copy would use the pickled form, which lacks the program
        vars(other).update(vars(self), seconds=0.0, compile_seconds=0.0, _drawn=0, _begun=False)
        vars(other).update(_pilot=None, _pilot_gradients=0, **changes)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """The definition of the run.

        :raises TypeError: after the first transition: draws are pickled with the results.
        """
        if self._begun:
            raise TypeError("a run that has begun cannot be pickled: pickle its results, or give infer a checkpoint")
        return {name: value for name, value in vars(self).items() if name not in ("program", "blocks", "_pilot", "_start")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _pilot=None, _start=None)
        self._use(self.kernel, self.all_items)

    # --- transitions -------------------------------------------------------------------------------------------

    def _use(self, kernel: Sampler, whole: Items | None = None) -> None:
        """Make the program and the blocks for this kernel, with the items as a value (``whole``) if already made."""
        self.kernel, self.program, self.all_items, self.block_size = blocks_for(
            self.model,
            self.items,
            self.ids,
            kernel,
            num_warmup=self.num_warmup,
            num_chains=self.num_chains,
            seed=self.seed,
            items_at_once=self.items_at_once,
            start=self._start,
            whole=whole,
            devices=self._devices,
        )
        self._lay_out()

    def _lay_out(self) -> None:
        kept, parts = self.program.ladder_statistics, blocks_of(len(self.ids), self.block_size)
        self.blocks = [
            Block(k, where, count, BlockRecords(WarmupPath(kept), self.keep_warmup)) for k, (where, count) in enumerate(parts)
        ]

    def _advance(self, num_samples: int, checkpoint: Checkpoint | None) -> None:
        """Run the warm-up, if it has not run, and ``num_samples`` draws of every block."""
        if checkpoint is not None:
            if self._begun:
                raise ValueError("a checkpoint covers the first call of draw: this run has drawn already")
            checkpoint.open(self.identity(num_samples))
        if not self._begun:
            begun = time.perf_counter()
            self.program.compile()
            self.compile_seconds += time.perf_counter() - begun
            self._begun = True
            if self.progress:
                self.program.announce(self.all_items.take(self.blocks[0].where), len(self.ids), num_samples)
        ahead = sum(num_samples + (0 if block.warmed else self.num_warmup) for block in self.blocks)
        with tqdm(total=ahead, disable=not self.progress, unit="transition") as bar:
            self._check_starts(checkpoint)
            for block in self.blocks:
                self._run_block(block, num_samples, bar, checkpoint)

    def _run_block(self, block: Block, num_samples: int, bar: Any, checkpoint: Checkpoint | None) -> None:
        program, kept, items = self.program, block.kept, self.all_items.take(block.where)
        kept.draws = []
        if block.carried is None:
            self._begin(block, items)
            stored: Mapping[str, Any] | None = None if checkpoint is None else checkpoint.load(block.index)
            if stored is not None:
                block.carried = program.from_arrays(block.carried, stored["carried"])
                block.warmed = bool(stored["warmed"])
                kept.restore(stored["kept"])
            bar.update(kept.path.asked + kept.num_draws)
        arrived = program.warmed_up(block.carried)
        while not block.warmed or kept.num_draws < num_samples:
            asked = kept.path.asked
            if not block.warmed and (asked >= self.num_warmup or arrived):
                bar.update(self.num_warmup - asked)
                if asked < self.num_warmup:
                    block.carried = program.end_warmup(block.carried)
                block.warmed = True
                continue
            left = num_samples - kept.num_draws if block.warmed else self.num_warmup - asked
            count = min(program.chunk_size, left)
            block.carried, records, made, arrived = program.advance(block.carried, items, count, not block.warmed)
            kept.add(records, made, not block.warmed)
            bar.update(made)
            if not bar.disable:
                bar.set_description(f"{'draws' if block.warmed else 'warm-up'} {block.index + 1}/{len(self.blocks)}")
                shown = {n: records.path[n][-1].mean() for n in ("beta", "acceptance_rate", "lp", "elbo") if n in records.path}
                bar.set_postfix({n: f"{value:.3g}" for n, value in shown.items()}, refresh=False)
            finished = block.warmed and kept.num_draws == num_samples
            if checkpoint is not None and (finished or checkpoint.due()):
                carried, warmed = program.to_arrays(block.carried), np.asarray(block.warmed)
                checkpoint.save(block.index, {"carried": carried, "warmed": warmed, "kept": kept.to_arrays()})

    def _begin(self, block: Block, items: Items) -> None:
        """Set the block's chains to their starting positions."""
        started = block.started or self.program.start(items)
        block.started, block.carried, block.kept.gradients = None, started.carried, started.gradients

    def _check_starts(self, checkpoint: Checkpoint | None) -> None:
        """Check the starting positions before any block runs.

        :raises ValueError: for items without a chain whose starting log density is finite.
        """
        lost = []
        for block in self.blocks:
            if block.carried is None and (checkpoint is None or not checkpoint.has(block.index)):
                started = self.program.start(self.all_items.take(block.where))
                if started.log_density is not None:
                    dead = ~np.isfinite(started.log_density[: block.count]).any(axis=1)
                    lost.append(self.ids[block.where[np.flatnonzero(dead)]])
                if len(self.blocks) == 1:  # storing several would need memory for all items
                    block.started = started
        check_starts(np.concatenate([*lost, np.zeros(0, int)]).astype(int), self.num_chains, self.items is not None)

    # --- results -----------------------------------------------------------------------------------------------

    def identity(self, num_samples: int) -> dict[str, JSON]:
        """Values that identify this run."""
        return {
            "kernel": self.program.name,
            "seed": self.seed,
            "num_warmup": self.num_warmup,
            "num_samples": num_samples,
            "num_chains": self.num_chains,
            "num_items": len(self.ids),
            **({"keep_warmup": self.keep_warmup} if self.keep_warmup else {}),
            "ids": digest(self.ids),
            **self.program.identity(self.all_items),
        }

    def _attributes(self) -> dict[str, Any]:
        return {
            "inference_library": self.program.library,
            "kernel": self.program.name,
            "num_warmup": self.num_warmup,
            "seed": self.seed,
            **self.program.facts,
            "gradient_evaluations": int(self.gradient_evaluations.sum()),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            **(dict(self.items.attributes) if self.items is not None else {}),
        }


@contextmanager
def _of_the_pilot(num_chains: int) -> Iterator[None]:
    """Mark errors as errors of the pilot run."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"in the pilot run (pilot={num_chains}): {error}") from error

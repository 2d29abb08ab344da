"""Jobs and shards: a run in parts, each of which any process can do, and whose result is a file.

A *job* is some of the items of a run (whole blocks, but for the last), as values: ids, data, and what the kernel holds of
them. A *plan* is what all jobs have in common: the model, the kernel, counts and the seed; a `Worker` gets it once and keeps
what it has compiled. A *shard* is the result of a job, one netCDF file with the groups of an ArviZ object, written whole or not
at all. So the folder of the shards is the checkpoint: a run that is called again does what is missing. Draws are a function of
the seed, the item's id and the chain, in blocks of one shape, so that neither the number of workers nor their deaths change
them.

An executor (`Executor`) hands jobs to workers: `InProcess`, `RayExecutor`, `DeviceMesh`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm.auto import tqdm

from cogen.inference.blocks import JaxProgram
from cogen.inference.checkpoint import Checkpoint
from cogen.inference.executors.shards import merged
from cogen.inference.items import Items
from cogen.inference.run import Run
from cogen.inference.whole_files import move_whole

MOST_JOBS, MOST_ITEMS = 64, 256
"""Of a run that does not say how large its jobs are: so many jobs, until one would have so many items."""


class Job(NamedTuple):
    number: int
    first_item: int
    """Where its first item stands among all."""
    items: Items


@dataclass(frozen=True)
class Plan:
    """What all jobs of a run have in common. It is sent to every worker once."""

    run: Run
    """Of the items of the first block, not begun."""
    num_samples: int
    pilot: int
    """Chains of a pilot run of every job; 0 for none."""
    folder: Path


class Executor(Protocol):
    """Where jobs run."""

    @property
    def items_per_job(self) -> int | None:
        """Rounded up to whole blocks; None for a size that depends on the number of items alone."""
        ...

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        """Do the jobs, and yield each when its shard is written."""
        ...


class Worker:
    """Does jobs of one plan, one after the other; what the first compiles serves all."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._piloted: Run | None = None

    def run(self, job: Job) -> None:
        """Write the shard of a job."""
        plan = self._plan
        run = plan.run.over(job.items, first_item=job.first_item)
        if plan.pilot:
            run.pilot(plan.pilot, like=self._piloted)
            self._piloted = self._piloted or run
        posterior = run.draw(plan.num_samples)
        path = shard(plan.folder, job.number)
        partial = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            posterior.to_netcdf(str(partial), engine="h5netcdf")
            move_whole(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def shard(folder: Path, number: int) -> Path:
    """The file of a job's result."""
    return folder / f"shard_{number:06d}.nc"


def items_per_job(num_items: int, block_size: int, wanted: int | None) -> int:
    """Whole blocks: at least ``wanted`` items, or what makes few jobs of a size that is worth losing."""
    least = wanted if wanted is not None else min(MOST_ITEMS, -(-num_items // MOST_JOBS))
    return -(-least // block_size) * block_size


def infer_in_jobs(run: Run, executor: Executor, *, pilot: int, store: Checkpoint | None) -> Any:
    """The draws of a run that has not begun, by an executor, with what is in the store's folder already.

    Without a store the shards are temporary, and the results are read into memory.

    Raises ValueError for a kernel that takes all items at once, and what the run itself raises.
    """
    if not isinstance(run.program, JaxProgram):
        raise ValueError(
            f"executor= runs NumPyro kernels and ours on NumPyro models, block by block; {run.program.name} is a Pyro kernel"
        )
    if pilot:
        run.check_pilot()
    if store is not None:
        return _in_folder(run, executor, pilot, store)
    with tempfile.TemporaryDirectory(prefix="cogen-shards-") as folder:
        return _in_folder(run, executor, pilot, Checkpoint(folder), in_memory=True)


def _in_folder(run: Run, executor: Executor, pilot: int, store: Checkpoint, in_memory: bool = False) -> Any:
    num_items = len(run.ids)
    size = items_per_job(num_items, run.block_size, executor.items_per_job)
    store.open({**run.identity(run.num_samples), "pilot": pilot, "items_at_once": run.block_size, "items_per_job": size})
    firsts = range(0, num_items, size)
    missing = [k for k in range(len(firsts)) if not shard(store.folder, k).exists()]

    def jobs() -> Iterator[Job]:
        for k in missing:
            yield Job(k, firsts[k], run.all_items.take(slice(firsts[k], firsts[k] + size)))

    part = run.over(run.all_items.take(slice(0, run.block_size)))
    part.progress = False
    plan = Plan(part, run.num_samples, pilot, store.folder.absolute())
    done = len(firsts) - len(missing)
    with tqdm(total=len(firsts), initial=done, disable=not run.progress, unit="job") as bar:
        if missing:
            with closing(executor.run(plan, jobs())) as finished:  # type: ignore[type-var]
                for _ in finished:
                    bar.update()
    for left_over in store.folder.glob(".shard_*.part"):  # of workers that were killed
        left_over.unlink(missing_ok=True)
    return merged([shard(store.folder, k) for k in range(len(firsts))], in_memory=in_memory)

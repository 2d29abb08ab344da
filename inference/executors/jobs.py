"""Jobs and shards: a run divided into parts that any process can run, each with a result file.

A *job* is a subset of the items of a run (whole blocks, except for the last), as values: ids, data, and the kernel's settings
of these items. A *plan* is common to all jobs: the model, the kernel, counts and the seed; a `Worker` receives it once and
reuses its compiled programs. A *shard* is the result of a job, one netCDF file with the groups of an ArviZ object, written
atomically. The folder of the shards is therefore the checkpoint: a repeated call runs the missing jobs. Draws are a function of
the seed, the item's id and the chain, in blocks of one shape, so that neither the number of workers nor their failures change
them.

An executor (`Executor`) distributes jobs to workers: `InProcess`, `RayExecutor`, `DeviceMesh`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from tqdm.auto import tqdm

from cogen.inference.blocks import JaxProgram
from cogen.inference.checkpoint import Checkpoint
from cogen.inference.executors.shards import merged
from cogen.inference.items import Items
from cogen.inference.run import Run
from cogen.inference.signatures import ArvizObject
from cogen.inference.whole_files import move_whole

MOST_JOBS, MOST_ITEMS = 64, 256
"""Defaults for the job size: at most this many jobs, until a job would have this many items."""


class Job(NamedTuple):
    number: int
    first_item: int
    """The index of its first item among all."""
    items: Items


@dataclass(frozen=True)
class Plan:
    """The part of a run that is common to all jobs. It is sent to every worker once."""

    run: Run
    """The run of the items of the first block, before its first transition."""
    num_samples: int
    pilot: int
    """Chains of the pilot run of every job; 0 for none."""
    folder: Path


class Executor(Protocol):
    """Runs jobs."""

    @property
    def items_per_job(self) -> int | None:
        """Items per job, rounded up to whole blocks; None for a default that depends only on the number of items."""
        ...

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        """Run the jobs, and yield each when its shard is written."""
        ...


class Worker:
    """Runs the jobs of one plan sequentially; the programs compiled by the first job serve all."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._piloted: Run | None = None

    def run(self, job: Job) -> None:
        """Run a job and write its shard."""
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
    """The path of a job's result file."""
    return folder / f"shard_{number:06d}.nc"


def items_per_job(num_items: int, block_size: int, wanted: int | None) -> int:
    """The number of items per job, in whole blocks: at least ``wanted``, by default few jobs whose loss is affordable."""
    least = wanted if wanted is not None else min(MOST_ITEMS, -(-num_items // MOST_JOBS))
    return -(-least // block_size) * block_size


def infer_in_jobs(run: Run, executor: Executor, *, pilot: int, store: Checkpoint | None) -> ArvizObject:
    """Run all jobs with an executor, except those whose shards are in the store's folder, and merge the results.

    Without a store the shards are temporary, and the results are read into memory. Errors of the run are passed on.

    :param run: a run before its first transition.
    :raises ValueError: for a kernel that takes all items at once.
    """
    if not isinstance(run.program, JaxProgram):
        raise ValueError(
            f"executor= requires a NumPyro model with a kernel of cogen or NumPyro; {run.program.name} is a Pyro kernel"
        )
    if pilot:
        run.check_pilot()
    if store is not None:
        return _in_folder(run, executor, pilot, store)
    with tempfile.TemporaryDirectory(prefix="cogen-shards-") as folder:
        return _in_folder(run, executor, pilot, Checkpoint(folder), in_memory=True)


def _in_folder(run: Run, executor: Executor, pilot: int, store: Checkpoint, in_memory: bool = False) -> ArvizObject:
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
    for left_over in store.folder.glob(".shard_*.part"):  # from killed workers
        left_over.unlink(missing_ok=True)
    return merged([shard(store.folder, k) for k in range(len(firsts))], in_memory=in_memory)

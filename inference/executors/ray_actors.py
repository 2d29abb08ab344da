"""Jobs on Ray: actors on this machine or a cluster, each of which gets the model once and then one job after the other.

    Moritz et al. (2018), Ray: a distributed framework for emerging AI applications.

An actor that dies (killed, out of memory, a machine that went away) is replaced, and its job is done again: nothing of it was
kept but shards that are whole. On a cluster the folder of the shards lies on a file system that all machines see, and the
machines are alike, since another processor rounds otherwise.
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax

from cogen.inference.executors.in_process import check_items_per_job
from cogen.inference.executors.jobs import Job, Plan, Worker

_JAX_SETTINGS = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_default_prng_impl", "jax_threefry_partitionable"),
    *("jax_numpy_dtype_promotion", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
)
"""Of the caller's JAX, those that change numbers, and where compiled code is kept."""


@dataclass(frozen=True)
class RayExecutor:
    """Runs jobs on Ray (``pip install 'cogen-ppl[ray]'``): on the cluster that ``ray.init`` has connected to, or on this
    machine, where Ray is then started and stopped.

    :param workers: actors, >= 1. They do not change the results.
    :param items_per_job: as for `InProcess`.
    :param cpus_per_worker: what Ray reserves for an actor, and torch's threads in it.
    :param gpus_per_worker: likewise; a fraction shares a device.
    :param retries: how often a job is done again after its actor died, >= 0.

    Raises ValueError for numbers out of range.
    """

    workers: int = 2
    items_per_job: int | None = None
    cpus_per_worker: float = 1.0
    gpus_per_worker: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        check_items_per_job(self.items_per_job)
        if self.workers < 1:
            raise ValueError(f"workers={self.workers}: at least one is needed")
        if self.retries < 0:
            raise ValueError(f"retries={self.retries}: how often a job is done again after a death, not negative")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: it must not be negative")

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        """Raises ImportError without Ray; ValueError for a model that cannot be pickled, and for a cluster that is too small;
        RuntimeError for a job whose actors died too often; and what a job raises."""
        ray = _ray()
        pickled = _pickled(plan)  # before Ray starts, which takes seconds
        mine = not ray.is_initialized()
        if mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
            wanted = max(os.cpu_count() or 1, -(-self.workers * self.cpus_per_worker // 1))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"os\.fork\(\)")  # of JAX: what is forked is replaced at once
                ray.init(num_cpus=int(wanted), include_dashboard=False, logging_level="warning")
        try:
            self._check_resources(ray)
            settings = {name: getattr(jax.config, name) for name in _JAX_SETTINGS}
            yield from self._work(ray, (settings, ray.put(pickled)), jobs)
        finally:
            if mine:
                ray.shutdown()

    def _work(self, ray: Any, plan: tuple[dict, Any], jobs: Iterator[Job]) -> Iterator[Job]:
        """Every actor has one job at a time; ``plan``: JAX's settings, and the pickled plan in Ray's store."""
        actor_class = ray.remote(num_cpus=self.cpus_per_worker, num_gpus=self.gpus_per_worker)(_Actor)
        actors: list[Any] = []
        running: dict[Any, tuple[Any, Job]] = {}
        deaths: Counter[int] = Counter()

        def give(job: Job, actor: Any = None) -> None:
            if actor is None:
                actor = actor_class.remote(*plan)
                actors.append(actor)
            running[actor.run.remote(job)] = (actor, job)

        try:
            for _, job in zip(range(self.workers), jobs, strict=False):
                give(job)
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                actor, job = running.pop(done)
                try:
                    said = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    deaths[job.number] += 1
                    if deaths[job.number] > self.retries:
                        raise RuntimeError(_died(job, deaths[job.number], error)) from None
                    actors.remove(actor)
                    give(job)
                    continue
                for category, message in said:
                    warnings.warn(message, category, stacklevel=2)
                following = next(jobs, None)
                if following is not None:
                    give(following, actor)
                yield job
        finally:
            for actor in actors:
                ray.kill(actor)

    def _check_resources(self, ray: Any) -> None:
        there = ray.cluster_resources()
        for name, each in (("CPU", self.cpus_per_worker), ("GPU", self.gpus_per_worker)):
            if self.workers * each > there.get(name, 0.0):
                raise ValueError(
                    f"{self.workers} workers with {each:g} {name} each do not fit this Ray, which has {there.get(name, 0.0):g}:"
                    f" ask for fewer workers, or a smaller {name.lower()}s_per_worker"
                )


class _Actor:
    """A worker in a process of its own."""

    def __init__(self, jax_settings: dict[str, Any], pickled: bytes) -> None:
        for name, value in jax_settings.items():  # before anything is computed
            jax.config.update(name, value)
        self._worker = Worker(pickle.loads(pickled))

    def run(self, job: Job) -> list[tuple[type[Warning], str]]:
        """Do a job, and say what it warned of."""
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            self._worker.run(job)
        return [(UserWarning, str(each.message)) for each in said if issubclass(each.category, UserWarning)]


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("RayExecutor needs Ray: pip install 'cogen-ppl[ray]'") from None
    return ray


def _pickled(plan: Plan) -> bytes:
    from ray import cloudpickle  # takes what __main__ defines, and closures

    try:
        return cloudpickle.dumps(plan)
    except Exception as error:  # whatever an attribute raises
        raise ValueError(
            f"the model or the kernel cannot be sent to another process ({type(error).__name__}: {error}): give it without what"
            " cannot be pickled, such as an open file, a lock or a scripted module"
        ) from error


def _died(job: Job, times: int, error: Exception) -> str:
    last = job.first_item + len(job.items.id) - 1
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the worker of items {job.first_item} to {last} died {times} times ({reason}): with a checkpoint the"
        " same call goes on after the finished jobs; if memory ran out, use fewer workers or smaller items_at_once"
    )

"""Jobs on Ray: actors on this machine or a cluster, each of which receives the model once and then runs jobs sequentially.

    Moritz et al. (2018), Ray: a distributed framework for emerging AI applications.

An actor that dies (killed, out of memory, lost machine) is replaced, and its job is repeated: only complete shards are kept. On
a cluster the folder of the shards must be on a shared file system, and the machines should have the same processors, since
others round differently.
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
"""The caller's JAX settings that change numbers or locate the compilation cache."""


@dataclass(frozen=True)
class RayExecutor:
    """Runs jobs on Ray (``pip install 'cogen-ppl[ray]'``).

    Uses the cluster that ``ray.init`` has connected to; otherwise starts Ray on this machine and stops it afterwards.

    :param workers: actors, >= 1. Their number does not change the results.
    :param items_per_job: as for `InProcess`.
    :param cpus_per_worker: CPUs that Ray reserves for an actor, and its number of torch threads.
    :param gpus_per_worker: GPUs that Ray reserves for an actor; a fraction shares a device.
    :param retries: how often a job is repeated after its actor died, >= 0.
    :raises ValueError: for numbers out of range.
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
            raise ValueError(f"retries={self.retries}: it must not be negative")
        for name in ("cpus_per_worker", "gpus_per_worker"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: it must not be negative")

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        """Run the jobs on Ray. Errors of a job are passed on.

        :raises ImportError: if Ray is not installed.
        :raises ValueError: for a model that cannot be pickled, and for a cluster that is too small.
        :raises RuntimeError: for a job whose actors died more than ``retries`` times.
        """
        ray = _ray()
        pickled = _pickled(plan)  # fails before Ray starts, which takes seconds
        mine = not ray.is_initialized()
        if mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics to Ray's developers
            wanted = max(os.cpu_count() or 1, -(-self.workers * self.cpus_per_worker // 1))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=r"os\.fork\(\)")  # JAX's: the forked process calls exec at once
                ray.init(num_cpus=int(wanted), include_dashboard=False, logging_level="warning")
        try:
            self._check_resources(ray)
            settings = {name: getattr(jax.config, name) for name in _JAX_SETTINGS}
            yield from self._work(ray, (settings, ray.put(pickled)), jobs)
        finally:
            if mine:
                ray.shutdown()

    def _work(self, ray: Any, plan: tuple[dict[str, Any], Any], jobs: Iterator[Job]) -> Iterator[Job]:
        """Run one job per actor at a time; ``plan`` holds JAX's settings and the pickled plan in Ray's object store."""
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
                    recorded = ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except ray.exceptions.RayError as error:
                    deaths[job.number] += 1
                    if deaths[job.number] > self.retries:
                        raise RuntimeError(_died(job, deaths[job.number], error)) from None
                    actors.remove(actor)
                    give(job)
                    continue
                for category, message in recorded:
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
                    f"{self.workers} workers with {each:g} {name} each exceed the {there.get(name, 0.0):g} {name} of this Ray"
                    f" cluster: use fewer workers, or a smaller {name.lower()}s_per_worker"
                )


class _Actor:
    """A worker in a separate process."""

    def __init__(self, jax_settings: dict[str, Any], pickled: bytes) -> None:
        for name, value in jax_settings.items():  # before anything is computed
            jax.config.update(name, value)
        self._worker = Worker(pickle.loads(pickled))

    def run(self, job: Job) -> list[tuple[type[Warning], str]]:
        """Run a job and return its warnings."""
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always", UserWarning)
            self._worker.run(job)
        return [(UserWarning, str(each.message)) for each in recorded if issubclass(each.category, UserWarning)]


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ImportError("RayExecutor needs Ray: pip install 'cogen-ppl[ray]'") from None
    return ray


def _pickled(plan: Plan) -> bytes:
    from ray import cloudpickle  # supports objects defined in __main__, and closures

    try:
        return cloudpickle.dumps(plan)
    except Exception as error:  # attributes may raise any error
        raise ValueError(
            f"the model or the kernel cannot be sent to another process ({type(error).__name__}: {error}): remove attributes"
            " that cannot be pickled, such as an open file, a lock or a scripted module"
        ) from error


def _died(job: Job, times: int, error: Exception) -> str:
    last = job.first_item + len(job.items.id) - 1
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return (
        f"the worker of items {job.first_item} to {last} died {times} times ({reason}): with a checkpoint the"
        " same call resumes after the finished jobs; if memory ran out, use fewer workers or smaller items_at_once"
    )

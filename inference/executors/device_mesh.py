"""Jobs on several devices of one process: the item axis of a block lies over a JAX device mesh.

Every device runs the program of a single one on a block of its own, and they wait for each other only at the end of a warm-up.
So the draws are those of one device with the same ``items_at_once``: bit for bit on CPUs, as XLA compiles by default, and but
for rounding where a compiler treats the sharded program otherwise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax

from cogen.inference.executors.in_process import check_items_per_job
from cogen.inference.executors.jobs import Job, Plan, Worker


@dataclass(frozen=True)
class DeviceMesh:
    """Runs jobs in this process on several JAX devices (0.6 or later).

    :param devices: default ``jax.devices()``.
    :param items_per_job: as for `InProcess`; several times ``items_at_once`` for each device, or the others wait.

    Raises ValueError for a size below one, and for no device or one that is named twice; ImportError for an older JAX.
    """

    devices: Sequence[Any] | None = None
    items_per_job: int | None = None

    def __post_init__(self) -> None:
        check_items_per_job(self.items_per_job)
        if not hasattr(jax, "shard_map"):
            raise ImportError(f"DeviceMesh needs jax.shard_map, JAX 0.6 or later; this is {jax.__version__}")
        if self.devices is not None and (not self.devices or len(set(self.devices)) < len(self.devices)):
            raise ValueError(f"devices={list(self.devices)}: give each device once, at least one")

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        worker = Worker(dataclasses.replace(plan, run=plan.run.on(self.devices or jax.devices())))
        for job in jobs:
            worker.run(job)
            yield job

"""Jobs on several devices of one process, with the item axis of a block sharded over a JAX device mesh.

Every device runs the single-device program on its own block; devices wait for each other only at the end of a warm-up. The
draws are therefore those of one device with the same ``items_at_once``: bitwise on CPUs with XLA's default options, and up to
rounding if the compiler treats the sharded program differently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jax

from cogen.inference.executors.in_process import check_items_per_job
from cogen.inference.executors.jobs import Job, Plan, Worker


@dataclass(frozen=True)
class DeviceMesh:
    """Runs jobs in this process on several JAX devices (0.6 or later).

    :param devices: default ``jax.devices()``.
    :param items_per_job: as for `InProcess`; use several times ``items_at_once`` per device, so that no device idles.
    :raises ValueError: for a size below one, and for no or duplicate devices.
    :raises ImportError: for an older JAX.
    """

    devices: Sequence[jax.Device] | None = None
    items_per_job: int | None = None

    def __post_init__(self) -> None:
        check_items_per_job(self.items_per_job)
        if not hasattr(jax, "shard_map"):
            raise ImportError(f"DeviceMesh requires JAX 0.6 or later (jax.shard_map); JAX {jax.__version__} is installed")
        if self.devices is not None and (not self.devices or len(set(self.devices)) < len(self.devices)):
            raise ValueError(f"devices={list(self.devices)}: give each device once, at least one")

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        worker = Worker(dataclasses.replace(plan, run=plan.run.on(self.devices or jax.devices())))
        for job in jobs:
            worker.run(job)
            yield job

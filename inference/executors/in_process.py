"""Sequential jobs in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cogen.inference.executors.jobs import Job, Plan, Worker


@dataclass(frozen=True)
class InProcess:
    """Runs jobs in this process. Results are written to files as they are made, so that memory does not grow with the items.

    :param items_per_job: items per job and file, >= 1, rounded up to whole blocks; default by the number of items: at
        most 64 jobs up to 16,384 items, 256 items per job beyond.
    :raises ValueError: for a size below one.
    """

    items_per_job: int | None = None

    def __post_init__(self) -> None:
        check_items_per_job(self.items_per_job)

    def run(self, plan: Plan, jobs: Iterator[Job]) -> Iterator[Job]:
        worker = Worker(plan)
        for job in jobs:
            worker.run(job)
            yield job


def check_items_per_job(number: int | None) -> None:
    """Check ``items_per_job``.

    :raises ValueError: for a number below one.
    """
    if number is not None and number < 1:
        raise ValueError(f"items_per_job={number}: a job has at least one item")

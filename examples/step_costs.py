"""What a training step of each of several families costs, so that trainings can have equal time."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from cogen.models.families.family import Batch, Family, Updates

Name = TypeVar("Name", bound=Hashable)


def step_costs(families: Mapping[Name, tuple[Family, Batch]], steps: int = 8, rounds: int = 5) -> dict[Name, float]:
    """Processor seconds of a step of each family on its batch, measured in turns: the median of the rounds after the first.

    :param steps: of a family in each round. They change it.
    """
    running = {
        name: (family.train(), Updates(family, family.optimizers()), batch) for name, (family, batch) in families.items()
    }
    spent: dict[Name, list[float]] = {name: [] for name in running}
    for _ in range(rounds + 1):
        for name, (family, update, batch) in running.items():
            begun = time.process_time()
            for iteration in range(steps):
                family.step(batch, update, iteration)
            spent[name].append((time.process_time() - begun) / steps)
    return {name: float(np.median(seconds[1:])) for name, seconds in spent.items()}

"""The cost of a training step of several families, for trainings of equal time."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np

from cogen.models.families.family import Batch, Family, Updates

Name = TypeVar("Name", bound=Hashable)


def step_costs(families: Mapping[Name, tuple[Family, Batch]], steps: int = 8, rounds: int = 5) -> dict[Name, float]:
    """Processor seconds per step of each family on its batch, measured in alternation: the median of all rounds but the first.

    :param steps: training steps of each family per round; they change its weights.
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

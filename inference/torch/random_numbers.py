"""Random numbers of items as a value, as JAX's keys are: a function of (seed, item id, transition).

Philox counts (Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3): its key is an item's, and the
transition is a word of its counter. So nothing has to be carried from one transition to the next, and an item's numbers are the
same whatever runs beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np


class Random(NamedTuple):
    """The numbers of all items for their starts, or for the transition that `at` names."""

    keys: np.ndarray
    """(item, 2), 64 bits each."""
    transition: int = -1

    @classmethod
    def of(cls, seed: int, halves: np.ndarray) -> Self:
        """From a seed in [0, 2^63) and the ids of items as the upper and lower 32 bits, (item, 2)."""
        words = [[seed & 0xFFFFFFFF, seed >> 32, int(high), int(low)] for high, low in halves]
        return cls(np.stack([np.random.SeedSequence(each).generate_state(2, np.uint64) for each in words]))

    def at(self, transition: int) -> Self:
        """The numbers of a transition."""
        return self._replace(transition=transition)

    def streams(self, number: int) -> Iterator[np.random.Generator]:
        """A generator for each item; those of another ``number`` are independent of it."""
        for key in self.keys:
            yield np.random.Generator(np.random.Philox(key=key, counter=[0, 0, number, self.transition + 1]))

    def seeds(self) -> list[int]:
        """For ``torch.manual_seed``, which reads 32 bits, one for each item."""
        return [int(numbers.integers(2**32)) for numbers in self.streams(2)]

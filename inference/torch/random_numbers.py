"""Random numbers of items as a function of (seed, item id, transition), similar to JAX's keys.

Philox is counter-based (Salmon, Moraes, Dror and Shaw 2011, Parallel random numbers: as easy as 1, 2, 3): each item has a key,
and the transition is a word of the counter. No generator state is carried between transitions, and an item's numbers do not
depend on other items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import numpy as np


class Random(NamedTuple):
    """The random numbers of all items for their starts, or for a transition (see `at`)."""

    keys: np.ndarray
    """The Philox keys, (item, 2), 64 bits each."""
    transition: int = -1

    @classmethod
    def of(cls, seed: int, halves: np.ndarray) -> Self:
        """The random numbers for a seed in [0, 2^63) and items with these upper and lower 32 bits of ids, (item, 2)."""
        words = [[seed & 0xFFFFFFFF, seed >> 32, int(high), int(low)] for high, low in halves]
        return cls(np.stack([np.random.SeedSequence(each).generate_state(2, np.uint64) for each in words]))

    def at(self, transition: int) -> Self:
        """The random numbers of a transition."""
        return self._replace(transition=transition)

    def generators(self) -> Iterator[np.random.Generator]:
        """One generator per item."""
        for key in self.keys:
            yield np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, self.transition + 1]))

    def seeds(self) -> list[int]:
        """One seed per item for ``torch.manual_seed``, which reads 32 bits."""
        return [int(numbers.integers(2**32)) for numbers in self.generators()]

"""The interface between a `Run` and the program that starts and advances blocks of items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from cogen.inference.items import Items
from cogen.inference.records import Records
from cogen.inference.signatures import JSON


class Started(NamedTuple):
    """A block before its first transition."""

    carried: Any
    log_density: np.ndarray | None
    """The log density of the starting positions, (item, chain); None if it need not be finite."""
    gradients: Any
    """Gradient evaluations over all chains so far, (item,)."""


class Program(Protocol):
    """Runs blocks of items. The state carried from chunk to chunk is private to the program."""

    library: str
    name: str
    """The name of the kernel."""
    chunk_size: int

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes of the kernel stored in the results."""
        ...

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        """The path statistics recorded at every transition."""
        ...

    def identity(self, items: Items) -> Mapping[str, JSON]:
        """Values that identify this program and the data of all items."""
        ...

    def compile(self) -> None: ...

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Announce the expected duration of a run if its progress bar cannot; ``items`` are those of the first block."""
        ...

    def start(self, items: Items) -> Started: ...

    def advance(self, carried: Any, items: Items, count: int, warming: bool) -> tuple[Any, Records, int, bool]:
        """Make up to ``count`` <= ``chunk_size`` transitions.

        :returns: the carried state, the records, the number of transitions made (fewer if every item completed its warm-up),
            and whether all items completed it.
        """
        ...

    def warmed_up(self, carried: Any) -> bool:
        """Whether all items of the block completed their warm-up."""
        ...

    def end_warmup(self, carried: Any) -> Any:
        """Switch to the draws when the warm-up ended before its limit."""
        ...

    def to_arrays(self, carried: Any) -> dict[str, np.ndarray]: ...

    def from_arrays(self, carried: Any, arrays: dict[str, np.ndarray]) -> Any: ...

    def state(self, parts: list[tuple[Any, int]]) -> Any:
        """The kernel's state of all items, from the carried state and the number of items of each block."""
        ...

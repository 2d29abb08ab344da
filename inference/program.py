"""What a `Run` asks of whatever runs blocks of items: a program starts them and advances them."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np

from cogen.inference.items import Items
from cogen.inference.records import Records


class Started(NamedTuple):
    """A block before its first transition."""

    carried: Any
    log_density: np.ndarray | None
    """(item, chain), of where the chains start; None where they need not start where it is finite."""
    gradients: Any
    """(item,): evaluations over all chains so far."""


class Program(Protocol):
    """How blocks of items run. What is carried from chunk to chunk is the program's own."""

    library: str
    name: str
    """Of the kernel."""
    facts: dict[str, Any]
    """What the results should remember of the kernel."""
    chunk_size: int
    ladder_statistics: tuple[str, ...]

    def identity(self, items: Items) -> dict[str, Any]:
        """What tells this program, with the data of all items, from others."""
        ...

    def compile(self) -> None: ...

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Say how long a run will take, where its progress bar cannot; ``items`` are those of the first block."""
        ...

    def start(self, items: Items) -> Started: ...

    def advance(self, carried: Any, items: Items, count: int, warming: bool) -> tuple[Any, Records, int, bool]:
        """Up to ``count`` <= ``chunk_size`` transitions: what is carried on, records, how many were made (fewer where every
        item is done with its warm-up), and whether all of them are."""
        ...

    def warmed_up(self, carried: Any) -> bool:
        """Whether no item of the block needs more of the warm-up."""
        ...

    def end_warmup(self, carried: Any) -> Any:
        """Go on to the draws, where the warm-up ended before its limit."""
        ...

    def to_arrays(self, carried: Any) -> dict[str, np.ndarray]: ...

    def from_arrays(self, carried: Any, arrays: dict[str, np.ndarray]) -> Any: ...

    def state(self, parts: list[tuple[Any, int]]) -> Any:
        """The kernel's state of all items, from what each block carries and how many items it has."""
        ...

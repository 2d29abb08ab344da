"""Our kernels for Pyro models in a `Run`: all chains of all items as one block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from cogen.inference.items import Items
from cogen.inference.programs import Started
from cogen.inference.records import Records
from cogen.inference.seeds import torch_seed
from cogen.inference.torch.checkpoint import identity, restore, to_arrays


class TorchProgram:
    """Transitions of a `PyroAnnealedHMC` or `PyroSVI`, which hold the state. Draws follow ``seed`` and nothing of torch's own
    random numbers is changed."""

    library = "cogen"
    chunk_size = 1

    def __init__(self, recipe: Any, model: Callable, *, num_warmup: int, num_chains: int, seed: int) -> None:
        self.kernel = recipe.bind(model, num_chains)
        self.name = type(self.kernel).__name__
        self._num_warmup, self._seed = num_warmup, torch_seed(seed)
        self._random: torch.Tensor | None = None

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        return self.kernel.ladder_statistics

    @property
    def facts(self) -> dict[str, Any]:
        return {
            "num_populations": self.kernel.num_populations_used,
            "moves_per_temperature": self.kernel.moves_per_temperature,
            "adapted": int(self.kernel.adapts),
            "evidence_kind": self.kernel.evidence_kind,
        }

    def compile(self) -> None:
        """Nothing is compiled."""

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Nothing: a progress bar says how long a run takes."""

    def start(self, items: Items) -> Started:
        self._set_up()
        density = self.kernel.statistics()["lp"].numpy(force=True).T if self.kernel.starts_at_density else None
        return Started(self.kernel, density, self.kernel.cost.numpy(force=True))

    def advance(self, carried: Any, items: Items, count: int, warming: bool) -> tuple[Any, Records, int, bool]:
        with self._own_random_numbers():
            sites = self.kernel.sample()
        alone = self.kernel.target.items is None

        def first_axis(values: Any, chains: bool = True) -> dict[str, np.ndarray]:
            """(transition, item, [chain,] ...) of values ([chain,] [item,] ...)."""
            found = {name: value.numpy(force=True) for name, value in values.items()}
            return {name: (value.swapaxes(0, 1) if chains else value)[None] for name, value in found.items()}

        if alone:
            sites = {name: value[:, None] for name, value in sites.items()}
        records = Records(
            first_axis(sites),
            first_axis(self.kernel.statistics()),
            first_axis(self.kernel.path(), chains=False),
            self.kernel.cost.numpy(force=True)[None],
        )
        return carried, records, 1, self.warmed_up(carried)

    def warmed_up(self, carried: Any) -> bool:
        return bool(self.kernel.warmed_up)

    def end_warmup(self, carried: Any) -> Any:
        self.kernel.end_warmup()
        return carried

    def to_arrays(self, carried: Any) -> dict[str, np.ndarray]:
        return to_arrays(self.kernel)

    def from_arrays(self, carried: Any, arrays: dict[str, np.ndarray]) -> Any:
        restore(self.kernel, arrays)
        return carried

    def identity(self, items: Items) -> dict[str, Any]:
        self._set_up()
        return identity(self.kernel)

    def state(self, parts: list[tuple[Any, int]]) -> Any:
        return self.kernel.state

    def _set_up(self) -> None:
        if self._random is None:
            with self._own_random_numbers():
                self.kernel.setup(self._num_warmup)

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=[]):
            if self._random is None:
                torch.manual_seed(self._seed)
            else:
                torch.set_rng_state(self._random)
            yield
            self._random = torch.get_rng_state()

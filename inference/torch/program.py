"""Cogen's kernels for Pyro models in a `Run`: all chains of all items as one block."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from cogen.inference.items import Items
from cogen.inference.kernels.kernel import ExactDraws, GivenPositions, Start
from cogen.inference.program import Started
from cogen.inference.records import Records, facts_of, statistics_of
from cogen.inference.signatures import Model
from cogen.inference.torch.checkpoint import identity, state_from_arrays, state_to_arrays
from cogen.inference.torch.random_numbers import Random


class TorchProgram:
    """Runs a kernel in torch, carrying its state. The state of torch's global generator is not changed."""

    chunk_size = 1

    def __init__(self, recipe: Any, model: Model, items: Items, *, num_warmup: int, num_chains: int, seed: int) -> None:
        if recipe.model is not None:
            raise ValueError(f"this {recipe.name} was constructed with a model: construct it without one for infer")
        self.kernel = recipe.kernel(num_warmup, num_chains)
        self.library, self.name = recipe.library, recipe.name
        self.target = recipe.target(model, num_chains=num_chains, own=items.own)
        self._random = Random.of(seed, items.id)
        self._start: Start = ExactDraws(num_chains)
        if items.start is not None:
            self._start = GivenPositions(self.target.coordinates(items.start))

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        return self.kernel.ladder_statistics

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self.kernel.facts, self._start.exact)

    def compile(self) -> None:
        """Do nothing: nothing is compiled."""

    def announce(self, items: Items, num_items: int, num_samples: int) -> None:
        """Do nothing: the progress bar shows the duration."""

    def start(self, items: Items) -> Started:
        state = self.kernel.init(self.target, self._random, self._start)
        density = self.kernel.log_density(state)
        gradients = np.full(len(items.id), self.kernel.num_chains * self.kernel.gradients_to_start, np.int64)
        return Started(state, None if density is None else density.numpy(force=True).T, gradients)

    def advance(self, carried: Any, items: Items, count: int, warming: bool) -> tuple[Any, Records, int, bool]:
        state, info = self.kernel.step(self.target, self._random.at(carried.iteration), carried)
        records = Records(
            _first_transition(state.point.values, lambda value: value.swapaxes(0, 1)),
            _first_transition(statistics_of(info, self._start.exact, self.kernel.weighted), lambda value: value.swapaxes(0, 1)),
            _first_transition(self.kernel.path(state, info), lambda value: value),
            info.n_steps.sum(0).numpy(force=True)[None],
        )
        return state, records, 1, self.warmed_up(state)

    def warmed_up(self, carried: Any) -> bool:
        return bool(self.kernel.warmed_up(carried).all())

    def end_warmup(self, carried: Any) -> Any:
        return carried._replace(iteration=self.kernel.num_warmup)

    def to_arrays(self, carried: Any) -> dict[str, np.ndarray]:
        return state_to_arrays(carried)

    def from_arrays(self, carried: Any, arrays: dict[str, np.ndarray]) -> Any:
        return state_from_arrays(carried, arrays)

    def identity(self, items: Items) -> dict[str, Any]:
        return identity(self.kernel, self.start(items).carried)

    def state(self, parts: list[tuple[Any, int]]) -> Any:
        ((state, _),) = parts
        return state


def _first_transition(values: Mapping[str, torch.Tensor], change: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors of one transition as arrays (transition, item, ...); ``change`` moves the item axis first."""
    return {name: change(value.numpy(force=True))[None] for name, value in values.items()}

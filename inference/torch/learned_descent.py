"""End points of learned descents in torch, the counterpart of `cogen.inference.kernels.learned_descent`."""

# mypy: disable-error-code="override"
# Arrays of one item in Kernel are tensors of all items here.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cogen.inference.kernels.kernel import ExactDraws, Kernel, Start
from cogen.inference.kernels.learned_descent import LearnedSettings, check_counts, check_sites, check_start
from cogen.inference.signatures import Model
from cogen.inference.torch.ensemble_kernel import PyroEnsembleKernel
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import Point, PyroTarget


class LearnedState(NamedTuple):
    """The end points of all chains."""

    iteration: int
    point: Point


class LearnedInfo(NamedTuple):
    """Statistics of the end points, arrays (chain, item)."""

    lp: Tensor
    n_steps: Tensor
    """Gradient evaluations: none."""


@dataclass(frozen=True, eq=False)
class LearnedKernel(Kernel):
    settings: LearnedSettings
    num_warmup: int
    num_chains: int

    needs_gradient = False

    @property
    def facts(self) -> dict[str, Any]:
        return {**super().facts, "end_points": 1}

    def path(self, state: LearnedState, info: LearnedInfo) -> dict[str, Tensor]:
        return {"lp": info.lp.mean(0)}

    def init(self, target: PyroTarget, random: Random, start: Start) -> LearnedState:
        """The starting state.

        :raises ValueError: for given positions and for a warm-up.
        """
        check_counts("PyroLearnedDescent", self.num_warmup)
        check_start("PyroLearnedDescent", start)
        return LearnedState(0, target.place(target.positions(start, random)))

    def step(self, target: PyroTarget, random: Random, state: LearnedState) -> tuple[LearnedState, LearnedInfo]:
        values = target.sites(target.positions(ExactDraws(self.num_chains), random))
        args = target.args if target.items is None else (target.items.item_data,)
        led = self.settings.function("pyro")(values, *args, **target.kwargs)
        check_sites(led, values)
        point = target.place(torch.cat([led[name].flatten(2) for name in values], dim=2))
        info = LearnedInfo(point.reference + point.increment, torch.zeros_like(point.increment, dtype=torch.int64))
        return LearnedState(state.iteration + 1, point), info


class PyroLearnedDescent(PyroEnsembleKernel, settings=LearnedSettings, kernel=LearnedKernel):
    """End points of learned descents of Pyro models: ``infer(seen, PyroLearnedDescent(predictor), num_warmup=0, ...)``."""

    settings: LearnedSettings

    def __init__(self, predictor: Callable[..., object], model: Model | None = None, *, num_chains: int | None = None) -> None:
        super().__init__(model, num_chains=num_chains, predictor=predictor)

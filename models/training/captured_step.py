"""A training step as a CUDA graph: about a hundred kernels of a few microseconds, launched by one call.

A step of small networks takes a GPU less time than Python takes to launch its kernels. A captured step launches them all at
once, on its own stream, so that several trainings can share the GPU (`cogen.models.training.trainer.interleaved`). The inputs
that change between steps are in memory that the graph reads: the items of the batch, the learning rates, and torch's random
state.

References:
    PyTorch's notes on CUDA semantics, section CUDA graphs: what may be captured, and warming up on a side stream.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Eager steps of each variant before its capture, which select algorithms and create the optimisers' state."""


class CapturedStep:
    """Run ``step(items, iteration)`` eagerly a few times, and then as a captured graph.

    :param step: from the indices of a batch (item,) and the iteration to the losses by name, all on the device.
    :param optimizers: the family's optimisers by name; their ``step`` must run entirely on the device, as fused Adam's does.
    :param per_step: number of indices of a step.
    :param variant: from the iteration to the key of its graph (`Family.variant`).
    :param device: a CUDA device.
    """

    def __init__(
        self,
        step: Callable[[Tensor, int], Mapping[str, Tensor]],
        optimizers: Mapping[str, Any],
        *,
        per_step: int,
        variant: Callable[[int], Hashable],
        device: torch.device,
    ) -> None:
        self._step, self._optimizers, self._variant = step, optimizers, variant
        self._items = torch.zeros(per_step, dtype=torch.long, device=device)
        self._visits: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, tuple[str, ...], Tensor]] = {}
        self._rates = {
            name: [torch.tensor(float(group["lr"]), device=device) for group in optimizer.param_groups]
            for name, optimizer in optimizers.items()
        }

    def set_rate(self, name: str, group: int, rate: float) -> None:
        """Set the learning rate of a parameter group of an optimiser in the graphs."""
        self._rates[name][group].fill_(rate)

    def __call__(self, items: Tensor, iteration: int) -> dict[str, Tensor]:
        """Take a step and return copies of its losses by name."""
        variant = self._variant(iteration)
        self._visits[variant] += 1
        if self._visits[variant] <= WARM_UP:
            return dict(self._step(items, iteration))
        self._items.copy_(items)
        if variant not in self._graphs:
            self._graphs[variant] = self._capture(iteration)
        graph, names, losses = self._graphs[variant]
        graph.replay()
        return dict(zip(names, losses.clone().unbind(), strict=True))

    def _capture(self, iteration: int) -> tuple[torch.cuda.CUDAGraph, tuple[str, ...], Tensor]:
        groups = [
            (group, rate)
            for name, optimizer in self._optimizers.items()
            for group, rate in zip(optimizer.param_groups, self._rates[name], strict=True)
        ]
        before = [(group["lr"], group["capturable"]) for group, _ in groups]
        for group, rate in groups:
            group["lr"], group["capturable"] = rate, True
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                losses = self._step(self._items, iteration)
                stacked = torch.stack([loss.float() for loss in losses.values()])
            return graph, tuple(losses), stacked
        finally:
            for (group, _), (rate, capturable) in zip(groups, before, strict=True):
                group["lr"], group["capturable"] = rate, capturable

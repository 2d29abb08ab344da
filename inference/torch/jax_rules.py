"""JAX rules for one item, applied to torch tensors of all items, so that both libraries share them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import torch
from torch import Tensor

from cogen.inference.annealing.step_size import StepSizeRule
from cogen.inference.targets.sums import Sum, real


class StepSizes:
    """A step-size rule for all items; its state is a tree of JAX arrays with a leading item axis."""

    def __init__(self, rule: StepSizeRule) -> None:
        self._init = rule.init
        self._step_size, self._update = (jax.jit(jax.vmap(each)) for each in (rule.step_size, rule.update))

    def init(self, rows: Any, num_items: int) -> Any:
        """The initial state, from the rule's per-item values."""
        return jax.vmap(self._init, axis_size=num_items)(rows)

    def step_size(self, state: Any, beta: Tensor) -> Tensor:
        """The step sizes, (item,), float64."""
        return to_torch(self._step_size(state, to_jax(beta)), beta)

    def update(self, state: Any, acceptance: Tensor) -> Any:
        """The state after a transition with these acceptance probabilities (item,)."""
        return self._update(state, to_jax(acceptance))


def to_jax(value: Tensor) -> jax.Array:
    return real(value.cpu().numpy())


def to_jax_sum(value: Tensor) -> Sum:
    """A float64 tensor as the sum of two float32 arrays."""
    high = value.float()
    return Sum(to_jax(high), to_jax(value - high))


def to_torch(value: jax.Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(value)).to(like)

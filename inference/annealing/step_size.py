"""Step-size rules for the annealed kernel: one step size per item, shared by its chains.

A rule receives the mean acceptance probability of the item's chains after every annealing transition. Adaptive rules
(`MovingAverage`, `ConstantGain`) make the transitions depend on the past, which biases the weights of annealed importance
sampling; the evidence of such a run is labelled as adapted. With the other rules (`Fixed`, `RecordedSteps`) the weights are
exact. For an unbiased evidence, make a pilot run with `ConstantGain`, then the run itself with ``RecordedSteps.of(pilot)``. No
rule adapts after the annealing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.annealing.schedules import annealing_path
from cogen.inference.results import dataset
from cogen.inference.signatures import ArvizObject
from cogen.inference.targets.sums import real

Array = jax.Array


class StepSizeRule(Protocol):
    adapts: ClassVar[bool]

    @property
    def rows(self) -> Any:
        """The rule's per-item values, with a leading item axis; None for most rules."""
        ...

    def init(self, row: Any) -> Any:
        """The state of one item from its row."""
        ...

    def step_size(self, state: Any, beta: Array) -> Array: ...

    def update(self, state: Any, acceptance: Array) -> Any: ...


def _check(name: str, initial: float, target: float, bounds: tuple[float, float]) -> None:
    if not 0.0 < bounds[0] <= initial <= bounds[1]:
        raise ValueError(f"{name}: the initial step size {initial} must lie within its positive bounds {bounds}")
    if not 0.0 < target < 1.0:
        raise ValueError(f"{name}: the target acceptance {target} must be between 0 and 1")


@dataclass(frozen=True)
class MovingAverage:
    """The rule of Fang and Schwing's published code.

    The step size starts at 0.01 and is multiplied by 1.02 if the moving average (0.9 old, 0.1 new) of the acceptance is above
    0.65, otherwise by 0.98, within [1e-4, 0.5].
    """

    initial: float = 0.01
    target: float = 0.65
    up: float = 1.02
    down: float = 0.98
    bounds: tuple[float, float] = (1e-4, 0.5)
    adapts: ClassVar[bool] = True
    rows: ClassVar[None] = None

    def __post_init__(self) -> None:
        _check("MovingAverage", self.initial, self.target, self.bounds)

    def init(self, row: object) -> tuple[Array, Array]:
        return real(self.initial), real(self.target)

    def step_size(self, state: tuple[Array, Array], beta: Array) -> Array:
        return state[0]

    def update(self, state: tuple[Array, Array], acceptance: Array) -> tuple[Array, Array]:
        average = 0.9 * state[1] + 0.1 * acceptance
        step = jnp.where(average > self.target, self.up, self.down) * state[0]
        return jnp.clip(step, *self.bounds), average


@dataclass(frozen=True)
class ConstantGain:
    """log step += gain (acceptance - target): Robbins and Monro's recursion with a constant gain, which tracks a changing
    density."""

    initial: float = 0.1
    target: float = 0.8
    gain: float = 0.25
    bounds: tuple[float, float] = (1e-5, 2.0)
    adapts: ClassVar[bool] = True
    rows: ClassVar[None] = None

    def __post_init__(self) -> None:
        _check("ConstantGain", self.initial, self.target, self.bounds)

    def init(self, row: object) -> Array:
        return real(self.initial)

    def step_size(self, state: Array, beta: Array) -> Array:
        return state

    def update(self, state: Array, acceptance: Array) -> Array:
        return jnp.clip(state * jnp.exp(self.gain * (acceptance - self.target)), *self.bounds)


@dataclass(frozen=True)
class Fixed:
    """One step size for every item and every temperature."""

    value: float
    adapts: ClassVar[bool] = False
    rows: ClassVar[None] = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.value) and self.value > 0):
            raise ValueError(f"step_size={self.value}: it must be a positive number")

    def init(self, row: object) -> tuple[()]:
        return ()

    def step_size(self, state: tuple[()], beta: Array) -> Array:
        return real(self.value)

    def update(self, state: tuple[()], acceptance: Array) -> tuple[()]:
        return state


@dataclass(frozen=True, eq=False)
class RecordedSteps:
    """The step sizes of a pilot, per item, as a function of beta (interpolated in log step).

    :param beta: rising from above 0 to 1, (points,), or (item, points) if items had their own ladders.
    :param steps: positive, (item, points).
    :raises ValueError: for other shapes or values.
    """

    beta: np.ndarray
    steps: np.ndarray
    ids: np.ndarray | None = None
    """The ids of the items, (item,); None for those of the run, in their order."""
    adapts: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps.ndim != 2 or self.beta.shape not in (self.steps.shape, self.steps.shape[1:]):
            raise ValueError(
                f"RecordedSteps: steps of shape {self.steps.shape} must be (item, points) for beta of shape {self.beta.shape}"
            )
        if not (np.isfinite(self.steps).all() and (self.steps > 0).all() and (np.diff(self.beta, axis=-1) >= 0).all()):
            raise ValueError("RecordedSteps: step sizes must be positive and inverse temperatures must not decrease")

    @classmethod
    def of(cls, pilot: ArvizObject) -> RecordedSteps:
        """The step sizes recorded by `infer` in a run of `AnnealedHMC` (its ``warmup_sample_stats``)."""
        beta = annealing_path(pilot, "beta")
        if "ladder_beta" in dataset(pilot, "warmup_sample_stats"):  # every transition
            return cls(annealing_path(pilot, "ladder_beta"), annealing_path(pilot, "ladder_step_size"))
        return cls(beta, annealing_path(pilot, "step_size"))

    @property
    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Inverse temperatures and log step sizes, each (item, points)."""
        return np.broadcast_to(self.beta, self.steps.shape), np.log(self.steps)

    def init(self, row: tuple[Array, Array]) -> tuple[Array, Array]:
        beta, log_step = row
        return real(beta), real(log_step)

    def step_size(self, state: tuple[Array, Array], beta: Array) -> Array:
        return jnp.exp(jnp.interp(beta, *state))

    def update(self, state: tuple[Array, Array], acceptance: Array) -> tuple[Array, Array]:
        return state


@dataclass(frozen=True)
class SharedSteps:
    """One step size for all items as a function of beta (interpolated in log step), as stored by `cogen tune`.

    :param beta: rising from above 0 to 1.
    :param steps: positive, one per value of ``beta``.
    :raises ValueError: for other values.
    """

    beta: tuple[float, ...]
    steps: tuple[float, ...]
    adapts: ClassVar[bool] = False
    rows: ClassVar[None] = None

    def __post_init__(self) -> None:
        if len(self.beta) != len(self.steps) or not (np.asarray(self.steps) > 0).all() or (np.diff(self.beta) < 0).any():
            raise ValueError("SharedSteps: give one positive step size per inverse temperature; these must not decrease")

    def init(self, row: object) -> tuple[()]:
        return ()

    def step_size(self, state: tuple[()], beta: Array) -> Array:
        return jnp.exp(jnp.interp(beta, real(np.asarray(self.beta)), real(np.log(self.steps))))

    def update(self, state: tuple[()], acceptance: Array) -> tuple[()]:
        return state


def step_size_rule(step_size: StepSizeRule | float) -> StepSizeRule:
    """The rule itself, or `Fixed` for a number.

    :raises TypeError: for anything else.
    """
    if hasattr(step_size, "update"):
        return step_size  # type: ignore[return-value]
    try:
        return Fixed(float(step_size))
    except TypeError:
        raise TypeError(f"step_size={step_size!r}: give a positive number or a rule, such as ConstantGain()") from None

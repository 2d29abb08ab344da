"""Gradient descent on the error of the seen part: the baseline of Fang and Schwing (2019), section 4, from one or n starts.

Each chain starts from a draw of the prior and minimises -log p(y | z) by Adam, without the prior, as the paper does (with
Gaussian noise this is the squared error of the seen part). With ``best_of=n`` a chain runs n starts and reports the one with
the best fit to the seen part. This is not sampling: the "draws" are the iterates after the warm-up, the chains an ensemble of
end points, and there are no weights and no evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.kernels.kernel import Kernel, Start
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Target

Array = jax.Array

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class DescentState(NamedTuple):
    """The starts of one item's chains; arrays are (chain, best_of, ...)."""

    iteration: Array
    u: Array
    mean: Array
    """Adam's first moments of the gradient; the second moments are ``square``."""
    square: Array
    objective: Array
    """The log likelihood, plus the log prior with ``prior=True``."""

    @property
    def position(self) -> Array:
        """The best start of each chain."""
        best = jnp.argmax(self.objective, axis=1)
        return jnp.take_along_axis(self.u, best[:, None, None], axis=1)[:, 0]


class DescentInfo(NamedTuple):
    """Statistics of a step for every chain."""

    lp: Array
    """The objective of the best start."""
    step_size: Array
    n_steps: Array
    """Gradient evaluations: one per start."""


@dataclass(frozen=True)
class DescentSettings:
    """Settings of a descent.

    :param step_size: Adam's step size, positive.
    :param best_of: starts per chain, >= 1, of which the one with the best objective is reported.
    :param prior: add the log prior to the objective (a MAP estimate); the paper does not.
    :raises ValueError: for values out of these ranges.
    """

    step_size: float = 0.05
    best_of: int = 1
    prior: bool = False

    def __post_init__(self) -> None:
        if not self.step_size > 0:
            raise ValueError(f"step_size={self.step_size}: a step size is a positive number")
        if self.best_of < 1:
            raise ValueError(f"best_of={self.best_of}: a chain has at least one start")


@dataclass(frozen=True)
class DescentKernel(Kernel):
    """The steps of Adam."""

    settings: DescentSettings
    num_warmup: int
    num_chains: int

    def log_density(self, state: DescentState) -> Array:
        return state.objective.max(axis=1)

    def path(self, state: DescentState, info: DescentInfo) -> dict[str, Array]:
        return {"lp": info.lp.mean(), "step_size": info.step_size[0]}

    def init(self, target: Target, key: Array, start: Start) -> DescentState:
        u = start.positions(target, key, self.settings.best_of)
        zeros = jnp.zeros_like(u)
        return DescentState(jnp.int32(0), u, zeros, zeros, self._objectives(target, u))

    def step(self, target: Target, key: Array, state: DescentState) -> tuple[DescentState, DescentInfo]:
        gradient = jax.vmap(jax.vmap(jax.grad(self._objective(target))))(state.u)
        step = real(state.iteration + 1)
        mean = _BETA1 * state.mean + (1 - _BETA1) * gradient
        square = _BETA2 * state.square + (1 - _BETA2) * gradient**2
        direction = (mean / (1 - _BETA1**step)) / (jnp.sqrt(square / (1 - _BETA2**step)) + _EPSILON)
        u = state.u + self.settings.step_size * direction
        new = DescentState(state.iteration + 1, u, mean, square, self._objectives(target, u))
        return new, DescentInfo(
            lp=self.log_density(new),
            step_size=jnp.full(self.num_chains, self.settings.step_size),
            n_steps=jnp.full(self.num_chains, self.settings.best_of, jnp.int32),
        )

    def _objective(self, target: Target) -> Callable[[Array], Array]:
        return lambda u: target.increment(u).sum() + (target.reference(u).sum() if self.settings.prior else 0.0)

    def _objectives(self, target: Target, u: Array) -> Array:
        objective = jax.vmap(jax.vmap(self._objective(target)))(u)
        return jnp.where(jnp.isnan(objective), -jnp.inf, objective)


class GradientDescent(EnsembleKernel, settings=DescentSettings, kernel=DescentKernel):
    """Adam from draws of the prior."""

    settings: DescentSettings

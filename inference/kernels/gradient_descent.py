"""Gradient descent on the seen error: the baseline of Fang and Schwing (2019), section 4, from one start or the best of n.

Each chain starts from a draw of the prior and follows Adam on -log p(y | z), without the prior, as the paper does (with
Gaussian noise this is the squared error of the seen part). With ``best_of=n`` a chain runs n starts and shows the one
whose seen part fits best. It samples nothing: the "draws" are the iterates after the warm-up, the chains an ensemble of
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
    """First moments of the gradient, and second ones below."""
    square: Array
    objective: Array
    """The log likelihood, with the log prior if asked for."""

    @property
    def position(self) -> Array:
        """The best start of each chain."""
        best = jnp.argmax(self.objective, axis=1)
        return jnp.take_along_axis(self.u, best[:, None, None], axis=1)[:, 0]


class DescentInfo(NamedTuple):
    """A step, chain by chain."""

    lp: Array
    """The objective of the best start."""
    step_size: Array
    n_steps: Array
    """Gradient evaluations: one for each start."""


@dataclass(frozen=True)
class DescentSettings:
    """Settings of a descent.

    :param step_size: Adam's step size, positive.
    :param best_of: starts per chain, of which the best by the objective is shown.
    :param prior: add the log prior to the objective (a MAP estimate); the paper does not.

    Raises ValueError for values out of these ranges.
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

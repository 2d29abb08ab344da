"""Gradient descent on the seen error: the baseline of Fang and Schwing (2019), section 4, from one start or the best of n.

Each chain starts from a draw of the prior and follows Adam on -log p(y | z), without the prior, as the paper does (with
Gaussian noise this is the squared error of the seen part). With ``best_of=n`` a chain runs n starts and shows the one
whose seen part fits best. It samples nothing: the "draws" are the iterates after the warm-up, the chains an ensemble of
end points, and there are no weights and no evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.targets.numpyro_target import Target
from cogen.inference.targets.sums import real

Array = jax.Array

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


class DescentState(NamedTuple):
    """The starts of one item, and the best of each chain's."""

    i: Array
    z: dict[str, Array]
    lp: Array
    """The objective of the shown start: the log likelihood, with the log prior if asked for."""
    step_size: Array
    n_steps: Array
    u: Array
    """(chain, best_of, dim) positions; first and second moments of the gradient below."""
    mean: Array
    square: Array
    rng_key: Array


class GradientDescent(EnsembleKernel):
    """Adam from draws of the prior.

    :param step_size: Adam's step size, positive.
    :param best_of: starts per chain, of which the best by the objective is shown.
    :param prior: add the log prior to the objective (a MAP estimate); the paper does not.
    """

    chain_fields = DescentState._fields[1:5]

    def __init__(
        self, model: Callable | None = None, *, step_size: float = 0.05, best_of: int = 1, prior: bool = False
    ) -> None:
        super().__init__(model)
        if not step_size > 0:
            raise ValueError(f"step_size={step_size}: a step size is a positive number")
        if best_of < 1:
            raise ValueError(f"best_of={best_of}: a chain has at least one start")
        self.step_size = step_size
        self.best_of = best_of
        self.prior = prior

    def path(self, state: DescentState) -> dict[str, Array]:
        return {"lp": state.lp.mean(), "step_size": state.step_size[0]}

    def _objective(self, target: Target) -> Callable[[Array], Array]:
        return lambda u: target.tilt(u).sum() + (target.reference(u).sum() if self.prior else 0.0)

    def _init(self, target: Target, key: Array, num_chains: int) -> DescentState:
        init_key, rng_key = jax.random.split(key)
        starts = jax.vmap(lambda k: jax.vmap(target.draw)(chain_keys(k, self.best_of)))(chain_keys(init_key, num_chains))
        zeros = jnp.zeros_like(starts)
        return self._state(target, jnp.int32(0), starts, zeros, zeros, rng_key)

    def _sample(self, target: Target, state: DescentState) -> DescentState:
        gradient = jax.vmap(jax.vmap(jax.grad(self._objective(target))))(state.u)
        step = real(state.i + 1)
        mean = _BETA1 * state.mean + (1 - _BETA1) * gradient
        square = _BETA2 * state.square + (1 - _BETA2) * gradient**2
        direction = (mean / (1 - _BETA1**step)) / (jnp.sqrt(square / (1 - _BETA2**step)) + _EPSILON)
        return self._state(target, state.i + 1, state.u + self.step_size * direction, mean, square, state.rng_key)

    def _state(self, target: Target, i: Array, u: Array, mean: Array, square: Array, rng_key: Array) -> DescentState:
        objective = jax.vmap(jax.vmap(self._objective(target)))(u)
        objective = jnp.where(jnp.isnan(objective), -jnp.inf, objective)
        best = jnp.argmax(objective, axis=1)
        shown = jnp.take_along_axis(u, best[:, None, None], axis=1)[:, 0]
        num_chains = u.shape[0]
        return DescentState(
            i=i,
            z=jax.vmap(target.sites)(shown),
            lp=jnp.max(objective, axis=1),
            step_size=jnp.full(num_chains, self.step_size),
            n_steps=jnp.full(num_chains, self.best_of, jnp.int32),
            u=u,
            mean=mean,
            square=square,
            rng_key=rng_key,
        )

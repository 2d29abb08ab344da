"""One item as an annealing path between a reference distribution and the posterior.

The annealed density at inverse temperature beta is

    log pi_beta(u) = reference(u) + beta increment(u),

with ``reference = log q0``, the log density of the reference distribution, and ``increment = log p(z, y) - log q0``, the
log-likelihood increment: the log likelihood when q0 is the prior. The two are separate, so that a new beta requires no
evaluation of the model. Each is given as the *terms* of its sum (one per pixel), which `compensated_sum` adds. A kernel uses
no other part of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from cogen.inference.signatures import Model
from cogen.inference.targets.sums import Sum, compensated_sum, real

Array = jax.Array
Sites = dict[str, Array]


class Program(NamedTuple):
    """A PPL model with the arguments of one item, for methods that use its sites."""

    model: Model
    args: tuple[object, ...]
    kwargs: Mapping[str, object]


class NoiseLevels(NamedTuple):
    """The annealing paths of a model at all noise levels."""

    least: float
    """The least noise level, a standard deviation, which is the level of the target itself."""
    greatest: float
    at: Callable[[Array], Target]
    """The path at a noise level, in the same coordinates."""


class Target(NamedTuple):
    """One item's annealing path, in flat unconstrained coordinates u of shape (dim,)."""

    dim: int
    draw: Callable[[Array], Array]
    """An exact draw from q0: key -> u."""
    terms: Callable[[Array], tuple[Array, Array]]
    """The terms of log q0 and of log p(z, y) - log q0: u -> (n,), (m,). Common parts, such as a guide, are computed once."""
    sites: Callable[[Array], Sites]
    """Unconstrained values by site name, as a function of u."""
    start_weight: Callable[[Array], Array] | None = None
    """The terms of the log weight of an exact draw, if it is not zero: u -> (k,)."""
    program: Program | None = None
    own: Any = None
    """The item's own values in the kernel's settings: recorded step sizes, a ladder, an exact draw."""
    affine: Any = None
    """The map from u to the model's unconstrained coordinates, center + factor u, if they differ."""
    noise: NoiseLevels | None = None
    layers: Any = None
    """The two layers of conditionally independent units, if the model has them; u then holds the sites' own values
    (`cogen.inference.targets.layered_target`)."""

    def reference(self, u: Array) -> Array:
        """The terms of log q0, (n,)."""
        return self.terms(u)[0]

    def increment(self, u: Array) -> Array:
        """The terms of log p(z, y) - log q0, (m,)."""
        return self.terms(u)[1]

    def in_coordinates(self, affine: Any) -> Target:
        """The same path in new coordinates u, where center + factor u are the coordinates of this path.

        All densities remain densities over the coordinates of this path, which differ by a constant.
        """
        center, factor = real(affine.center), real(affine.factor)

        def placed(function: Callable[[Array], Any]) -> Callable[[Array], Any]:
            return lambda u: function(center + factor @ u)

        made = self._replace(
            terms=placed(self.terms),
            sites=placed(self.sites),
            start_weight=None if self.start_weight is None else placed(self.start_weight),
            affine=(center, factor),
        )
        return made._replace(draw=lambda key: made.own_coordinates(self.draw(key)))

    def own_coordinates(self, u: Array) -> Array:
        """The coordinates u of the model's unconstrained coordinates (dim,)."""
        if self.affine is None:
            return u
        center, factor = self.affine
        return solve_triangular(factor, u - center, lower=True)


class Point(NamedTuple):
    """A position and its evaluations for a transition, independent of beta."""

    u: Array
    reference: Sum
    increment: Sum
    reference_gradient: Array
    increment_gradient: Array

    def log_density(self, beta: Array) -> Array:
        """log pi_beta. At beta = 0 an infinite increment is ignored."""
        return self.reference.value + jnp.where(beta == 0, 0.0, beta * self.increment.value)

    def gradient(self, beta: Array) -> Array:
        return self.reference_gradient + beta * self.increment_gradient

    def log_density_gain(self, start: Point, beta: Array) -> Array:
        """log pi_beta(self) - log pi_beta(start), with differences taken before rounding; -inf where pi_beta(self) = 0.

        If both densities are zero, only log q0 counts: a chain that starts at density zero moves under q0 until it leaves.
        """
        known = (self.reference - start.reference).value
        gain = known + beta * (self.increment - start.increment).value
        return jnp.where(self.excluded, jnp.where(start.excluded, known, -jnp.inf), gain)

    @property
    def excluded(self) -> Array:
        """Whether the density is zero, as outside of a hard constraint."""
        return jnp.isneginf(self.reference.high) | jnp.isneginf(self.increment.high)


def evaluate(target: Target, u: Array) -> Point:
    """One gradient evaluation of the model."""

    def pull(terms_of: Callable[[Array], Array]) -> tuple[Sum, Array]:
        terms, back = jax.vjp(terms_of, u)
        return compensated_sum(terms), back(jnp.ones_like(terms))[0]

    reference, reference_gradient = pull(target.reference)
    increment, increment_gradient = pull(target.increment)
    return Point(u, reference, increment, reference_gradient, increment_gradient)


def gradient_at(target: Target, u: Array, beta: Array) -> Array:
    """The gradient of log pi_beta only, for the inner steps of a trajectory."""

    def log_density(v: Array) -> Array:
        reference, increment = target.terms(v)
        return reference.sum() + beta * increment.sum()

    return jax.grad(log_density)(u)

"""One item as an annealing path: what is known of it before the data, and what the data add.

The annealed density of inverse temperature beta is

    log pi_beta(u) = reference(u) + beta increment(u),

with ``reference = log q0``, the log density of the reference distribution, and ``increment = log p(z, y) - log q0``, the
log-likelihood increment: the log likelihood when q0 is the prior. The two are separate, so that a new beta costs no
evaluation of the model. Each is given as the *terms* of its sum (one per pixel), which `compensated_sum` adds. A kernel sees
nothing else of a model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from cogen.inference.targets.sums import Sum, compensated_sum, real

Array = jax.Array
Sites = dict[str, Array]


class Program(NamedTuple):
    """A PPL model with the arguments of one item, for methods that look at its sites."""

    model: Callable
    args: tuple
    kwargs: dict[str, Any]


class NoiseLevels(NamedTuple):
    """The paths of a model whose density may have more noise."""

    least: float
    """Standard deviations; the path itself is that of the least."""
    greatest: float
    at: Callable[[Array], Target]
    """From a level to the path there, in the same coordinates."""


class Target(NamedTuple):
    """One item's annealing path, in flat unconstrained coordinates u of shape (dim,)."""

    dim: int
    draw: Callable[[Array], Array]
    """An exact draw from q0: key -> u."""
    terms: Callable[[Array], tuple[Array, Array]]
    """The terms of log q0 and those of log p(z, y) - log q0: u -> (n,), (m,). What both need, as a guide, is computed once."""
    sites: Callable[[Array], Sites]
    """u -> unconstrained values by site name."""
    start_weight: Callable[[Array], Array] | None = None
    """The terms of the log weight that an exact draw starts with, where that is not zero: u -> (k,)."""
    program: Program | None = None
    own: Any = None
    """What a kernel knows of this item alone: recorded step sizes, a ladder, an exact draw."""
    affine: Any = None
    """How u lies to the model's own unconstrained coordinates, center + factor u, where these are others."""
    noise: NoiseLevels | None = None
    layers: Any = None
    """The two layers whose units are independent given each other, where the model has such: u then holds the sites' own values
    (`cogen.inference.targets.layered_target`)."""

    def reference(self, u: Array) -> Array:
        """The terms of log q0, (n,)."""
        return self.terms(u)[0]

    def increment(self, u: Array) -> Array:
        """The terms of log p(z, y) - log q0, (m,)."""
        return self.terms(u)[1]

    def in_coordinates(self, affine: Any) -> Target:
        """The same path for u that lie to the coordinates of this one as center + factor u; all densities are still those
        over the coordinates of this one, which differ by a constant."""
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
        """The u of the model's unconstrained coordinates (dim,)."""
        if self.affine is None:
            return u
        center, factor = self.affine
        return solve_triangular(factor, u - center, lower=True)


class Point(NamedTuple):
    """A position, with everything a transition needs to know about it. No beta in here."""

    u: Array
    reference: Sum
    increment: Sum
    reference_gradient: Array
    increment_gradient: Array

    def log_density(self, beta: Array) -> Array:
        """log pi_beta. At beta = 0 an infinite increment does not count."""
        return self.reference.value + jnp.where(beta == 0, 0.0, beta * self.increment.value)

    def gradient(self, beta: Array) -> Array:
        return self.reference_gradient + beta * self.increment_gradient

    def log_density_gain(self, start: Point, beta: Array) -> Array:
        """log pi_beta(self) - log pi_beta(start), the differences taken before the rounding; -inf where pi_beta(self) = 0.

        Where both are zero, log q0 alone decides: a chain that starts where the density is zero walks under q0 until it leaves.
        """
        known = (self.reference - start.reference).value
        gain = known + beta * (self.increment - start.increment).value
        return jnp.where(self.excluded, jnp.where(start.excluded, known, -jnp.inf), gain)

    @property
    def excluded(self) -> Array:
        """Whether the density is zero here, as behind a hard constraint."""
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
    """The gradient of log pi_beta alone, for the inner steps of a trajectory."""

    def log_density(v: Array) -> Array:
        reference, increment = target.terms(v)
        return reference.sum() + beta * increment.sum()

    return jax.grad(log_density)(u)

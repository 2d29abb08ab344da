"""One Hamiltonian trajectory of one chain at one temperature, accepted or rejected.

    p ~ Normal(0, M),   L leapfrog steps of size e along d log pi_beta,   accept with probability min(1, exp(gain)),

where gain is the increase of the log density minus that of the kinetic energy (Neal 2011, MCMC using Hamiltonian dynamics,
section 5.3). A trajectory that ends at density zero is rejected; one with a non-finite gradient or log density is rejected and
counted. A start stores separate gradients of log q0 and of the increment, so that a transition costs exactly L evaluations at
any beta.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cogen.inference.targets.target import Point, Target, evaluate, gradient_at

Array = jax.Array

DIVERGENCE = 1000.0
"""An energy error above this many nats is a divergence, as in NumPyro."""


class Transition(NamedTuple):
    """The outcome of one trajectory."""

    point: Point
    acceptance: Array
    diverging: Array
    energy: Array
    nonfinite: Array
    """Whether a gradient or a log density of the trajectory was non-finite."""


def transition_noise(key: Array, num_chains: int, dim: int) -> tuple[Array, Array]:
    """All random numbers of one transition: (chain, dim) normals and (chain, 3) uniforms on (0, 1).

    They come from one call of the generator, since every call is compiled separately. A chain's numbers do not depend on the
    number of chains.
    """
    limits = jnp.finfo(jnp.result_type(float))
    uniform = jax.random.uniform(key, (num_chains, dim + 3), minval=limits.tiny)
    edge = 1.0 - 2.0 * limits.epsneg
    normal = jnp.sqrt(2.0) * jax.scipy.special.erfinv(jnp.clip(2.0 * uniform[:, 3:] - 1.0, -edge, edge))
    return normal, uniform[:, :3]


def trajectory(
    target: Target,
    normal: Array,
    uniform: Array,
    start: Point,
    beta: Array,
    step: Array,
    num_leapfrog: int,
    inverse_mass: Array | None,
    unroll: bool,
) -> Transition:
    """Make one trajectory and accept or reject it.

    :param normal: standard normal numbers that become the momentum, (dim,).
    :param uniform: the number that decides on acceptance.
    :param unroll: unroll the leapfrog steps instead of a compiled loop.
    """
    momentum = _momentum(normal, inverse_mass)

    def leap(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        u, p = carry
        u = u + step * _velocity(p, inverse_mass)
        return u, p + step * gradient_at(target, u, beta)

    carry = (start.u, momentum + 0.5 * step * start.gradient(beta))
    if unroll:
        for i in range(num_leapfrog - 1):
            carry = leap(i, carry)
    else:
        carry = jax.lax.fori_loop(0, num_leapfrog - 1, leap, carry)
    u, p = carry
    end = evaluate(target, u + step * _velocity(p, inverse_mass))
    p = p + 0.5 * step * end.gradient(beta)

    kinetic, kinetic_start = (0.5 * jnp.dot(q, _velocity(q, inverse_mass)) for q in (p, momentum))
    gain = end.log_density_gain(start, beta) - (kinetic - kinetic_start)
    diverging = ~(gain > -DIVERGENCE) & ~end.excluded
    nonfinite = jnp.isnan(gain) | ~jnp.isfinite(p).all()
    acceptance = jnp.where(nonfinite, 0.0, jnp.minimum(1.0, jnp.exp(gain)))
    accepted = uniform < acceptance
    point = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, start)
    energy = jnp.where(accepted, kinetic, kinetic_start) - point.log_density(beta)
    return Transition(point, acceptance, diverging, energy, nonfinite)


def mean_acceptance(acceptance: Array, start: Point) -> Array:
    """The mean acceptance over the leading (chain) axis, for step-size adaptation.

    Chains that start at density zero are left out, unless all do.
    """
    counted = ~start.excluded
    number = counted.sum(axis=0)
    of_them = jnp.where(counted, acceptance, 0.0).sum(axis=0) / jnp.maximum(number, 1)
    return jnp.where((number == 0) | (number == len(acceptance)), acceptance.mean(axis=0), of_them)


def _momentum(normal: Array, inverse_mass: Array | None) -> Array:
    if inverse_mass is None:
        return normal
    if inverse_mass.ndim == 1:
        return normal / jnp.sqrt(inverse_mass)
    return jax.scipy.linalg.solve_triangular(jnp.linalg.cholesky(inverse_mass), normal, trans=1, lower=True)


def _velocity(momentum: Array, inverse_mass: Array | None) -> Array:
    if inverse_mass is None:
        return momentum
    return inverse_mass * momentum if inverse_mass.ndim == 1 else inverse_mass @ momentum

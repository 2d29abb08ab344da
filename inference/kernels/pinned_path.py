"""Annealing around one exact draw: the upper half of bidirectional Monte Carlo.

Given an exact draw z* of the posterior (for simulated data, the latent that generated them), the reversed transitions move it
from beta = 1 down to beta = 0. That path is then one particle of an annealed run: it is never replaced, and the others are
resampled conditionally on it. Such a run is distributed as the extended target of particle MCMC, under which

    E[ 1 / Zhat ] = 1 / Z,

so that log Zhat is a stochastic upper bound of the log evidence, as that of the forward run is a stochastic lower bound.

    Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo, section 3;
    Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.3 (conditional SMC).

HMC with a fresh momentum is reversible, so the reversed transition at a temperature is the transition itself. The other
particles are resampled multinomially, for which conditional SMC is simple; the forward run resamples systematically. Both
bounds hold for the same evidence; this one is slightly looser than it could be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cogen.inference.kernels.hamiltonian import transition_noise
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Point, Target, evaluate

Array = jax.Array


def reversed_path(
    target: Target, key: Array, exact: Array, beta: Array, steps: Array, move: Callable[..., Any], populations: int
) -> Point:
    """The pinned particle of every population before each transition and after the last: (transition + 1, population).

    :param beta: inverse temperatures of the forward transitions, (transition,).
    :param steps: step sizes of the forward transitions, (transition,).
    :param move: makes one transition: ``move(target, normal, uniform, points, beta, step)``.
    :raises ValueError: unless the exact draw has the target's dimension.
    """
    if exact.shape != (target.dim,):
        raise ValueError(f"exact draws have {exact.shape[0]} coordinates, the model has {target.dim}")
    own = target.own_coordinates(real(exact))
    end = jax.vmap(lambda u: evaluate(target, u))(jnp.broadcast_to(own, (populations, target.dim)))

    def back(point: Point, k: Array) -> tuple[Point, Point]:
        normal, uniform = transition_noise(jax.random.fold_in(key, k), populations, target.dim)
        moved = move(target, normal, uniform, point, beta[k], steps[k]).point
        return moved, moved

    _, points = jax.lax.scan(back, end, jnp.arange(len(beta)), reverse=True)
    return jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), points, end)


def pin(point: Point, pinned: Point) -> Point:
    """Points (chain, ...) with the pinned particles (population, ...) in the first slot of every population."""
    populations = len(pinned.u)
    slots = jnp.arange(populations) * (len(point.u) // populations)
    return jax.tree.map(lambda all_, kept: all_.at[slots].set(kept), point, pinned)

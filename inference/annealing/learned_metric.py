"""A metric that every population learns from the others.

At every new inverse temperature the inverse mass matrix of population p becomes the covariance of the particles of all other
populations, by their weights w,

    C_p = (1 - a) S + a diag(S),    S = sum_i w_i (u_i - m)(u_i - m)',    a = d / (d + n),

with d coordinates and n effective particles, so that a few particles give their variances alone and many their whole
covariance. HMC then walks in coordinates that are nearly independent and of unit size, at that temperature.

Why the others: a covariance of the very particles that it is going to move makes the kernel depend on where they are, and 512
particles in 64 dimensions lost half a nat of evidence to that. Of the others it is a constant of the move. What is left is that
they have been moved with metrics that knew this population's past, so the evidence is labelled as adapted.

    Chopin, A sequential particle filter method for static models, Biometrika 2002 (moves scaled by the particles' covariance);
    Buchholz, Chopin and Jacob, Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte Carlo, Bayesian Analysis 2021
    (section 3.1: a diagonal one, of all particles);
    Gilks, Roberts and George, Adaptive direction sampling, The Statistician 1994 (a set of chains moved by the rest of them).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

Array = jax.Array

SMALLEST_VARIANCE = 1e-8


@dataclass(frozen=True)
class ParticleCovariance:
    """The inverse mass matrix of every population: the covariance of the other populations' particles at every new inverse
    temperature, shrunk to its diagonal, in unconstrained coordinates. It takes two populations at least, and pays from a few
    particles per latent on.

    >>> from cogen.inference import AnnealedHMC
    >>> AnnealedHMC(inverse_mass=ParticleCovariance()).adapts
    True
    """

    def of_the_others(self, u: Array, log_weight: Array, count: int) -> Array:
        """(count, dim, dim) of positions (chain, dim) with log weights (chain,), in ``count`` populations of equal size."""
        chains, dim = u.shape
        own = jnp.arange(chains) // (chains // count) == jnp.arange(count)[:, None]  # (population, chain)

        def covariance(own: Array) -> Array:
            others = jnp.where(own, -jnp.inf, log_weight)
            largest = jnp.max(others)
            weight = jnp.where(jnp.isfinite(largest), jnp.exp(others - largest), ~own)  # all alike where all are dead
            weight = weight / weight.sum()
            apart = u - weight @ u
            found = (weight[:, None] * apart).T @ apart
            share = dim / (dim + 1.0 / (weight**2).sum())
            variance = jnp.maximum(jnp.diag(found), SMALLEST_VARIANCE)
            return (1.0 - share) * found + jnp.diag(variance - (1.0 - share) * jnp.diag(found))

        return jax.vmap(covariance)(own)

"""A metric for every population, learned from the other populations.

At every new inverse temperature the inverse mass matrix of population p is set to the covariance of the particles of all other
populations with weights w,

    C_p = (1 - a) S + a diag(S),    S = sum_i w_i (u_i - m)(u_i - m)',    a = d / (d + n),

with d coordinates and n effective particles, so that few particles determine only the variances and many the full covariance.
HMC then moves in coordinates that are nearly independent with unit variance at that temperature.

The covariance of the particles to be moved would make the kernel depend on their positions; with 512 particles in 64 dimensions
this biased the log evidence by half a nat. The covariance of the other populations is constant in the move. They were
moved with metrics that depend on this population's past, however, so the evidence is labelled as adapted.

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
    """An inverse mass matrix for every population: the covariance of the other populations' particles.

    It is updated at every new inverse temperature and shrunk towards its diagonal, in unconstrained coordinates. It requires at
    least two populations, and is useful from a few particles per latent on.

    >>> from cogen.inference import AnnealedHMC
    >>> AnnealedHMC(inverse_mass=ParticleCovariance()).adapts
    True
    """

    def of_the_others(self, u: Array, log_weight: Array, count: int) -> Array:
        """The inverse mass matrices (count, dim, dim) of ``count`` populations of equal size.

        :param u: positions, (chain, dim).
        :param log_weight: log weights, (chain,).
        """
        chains, dim = u.shape
        own = jnp.arange(chains) // (chains // count) == jnp.arange(count)[:, None]  # (population, chain)

        def covariance(own: Array) -> Array:
            others = jnp.where(own, -jnp.inf, log_weight)
            largest = jnp.max(others)
            weight = jnp.where(jnp.isfinite(largest), jnp.exp(others - largest), ~own)  # equal if all are dead
            weight = weight / weight.sum()
            deviation = u - weight @ u
            found = (weight[:, None] * deviation).T @ deviation
            share = dim / (dim + 1.0 / (weight**2).sum())
            variance = jnp.maximum(jnp.diag(found), SMALLEST_VARIANCE)
            return (1.0 - share) * found + jnp.diag(variance - (1.0 - share) * jnp.diag(found))

        return jax.vmap(covariance)(own)

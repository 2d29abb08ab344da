"""Kernels on a sphere as a NumPyro distribution; `kernels_on_sphere_torch` is the Pyro version."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import gammaln, logsumexp
from numpyro.distributions import constraints

Array = jax.Array


class KernelsOnSphere(dist.Distribution):
    """Vectors u whose directions have a kernel density estimate, and whose lengths are those of standard normal vectors:

        q(u) = Normal(u; 0, I) area / M sum_m kernel(u / |u|; mu_m, concentration)

    with power spherical kernels, proportional to (1 + mu_m . d)^concentration (De Cao and Aziz 2020).

    :param directions: mu, unit vectors (kernel, latent_dim).
    :param concentration: concentration of all kernels, positive.
    """

    arg_constraints = {"directions": constraints.real_matrix, "concentration": constraints.positive}  # noqa: RUF012
    support = constraints.real_vector
    pytree_data_fields = ("directions", "concentration")

    def __init__(self, directions: Array, concentration: Array, *, validate_args: bool | None = None) -> None:
        self.directions, self.concentration = jnp.asarray(directions), jnp.asarray(concentration)
        super().__init__((), self.directions.shape[-1:], validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        choose, along, across, length = jax.random.split(key, 4)
        dim = self.directions.shape[-1]
        mu = self.directions[jax.random.randint(choose, sample_shape, 0, len(self.directions))]
        half = (dim - 1) / 2
        cosine = 2 * jax.random.beta(along, half + self.concentration, half, sample_shape)[..., None] - 1
        aside = jax.random.normal(across, (*sample_shape, dim - 1))
        aside = aside / jnp.linalg.norm(aside, axis=-1, keepdims=True)
        first = jnp.concatenate([cosine, jnp.sqrt(jnp.maximum(1 - cosine**2, 0.0)) * aside], axis=-1)
        mirror = jnp.zeros(dim).at[0].set(1.0) - mu  # between the first axis and mu
        mirror = mirror / jnp.maximum(jnp.linalg.norm(mirror, axis=-1, keepdims=True), 1e-6)
        direction = first - 2 * (mirror * first).sum(-1, keepdims=True) * mirror
        return direction * jnp.linalg.norm(jax.random.normal(length, (*sample_shape, dim)), axis=-1, keepdims=True)

    def log_prob(self, value: Array) -> Array:
        dim, kappa = self.directions.shape[-1], self.concentration
        direction = value / jnp.maximum(jnp.linalg.norm(value, axis=-1, keepdims=True), 1e-12)
        cosine = jnp.clip(direction @ self.directions.T, -1 + 1e-6, 1.0)
        normal = -0.5 * (jnp.square(value).sum(-1) + dim * math.log(2 * math.pi))
        kernels = logsumexp(kappa * jnp.log1p(cosine), axis=-1) - math.log(len(self.directions))
        half = (dim - 1) / 2
        norm = (2 * half + kappa) * math.log(2) + half * math.log(math.pi) + gammaln(half + kappa) - gammaln(2 * half + kappa)
        area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        return normal + kernels - norm + area

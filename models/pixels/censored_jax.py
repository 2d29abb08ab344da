"""Pixels censored at black and white as a NumPyro distribution; `censored_torch` is the Pyro version."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution, constraints

from cogen.models.pixels.noise import HIGH, LOW, NEAR, cut, log_scale, unsaturated


class CensoredLogistic(Distribution):
    """The pixel noise of `cogen.models.pixels.noise`.

    :param location: x, (...).
    :param curve: the curve of the log scale, (4, unit).
    :param exponent: exponent of the density; draws have exponent 1.
    """

    arg_constraints = {"location": constraints.real}  # noqa: RUF012 (NumPyro reads it so)
    support = constraints.real
    pytree_data_fields = ("location", "curve")
    pytree_aux_fields = ("exponent",)

    def __init__(self, location: Any, curve: Any, exponent: float, *, validate_args: bool | None = None) -> None:
        self.location, self.curve, self.exponent = location, curve, exponent
        super().__init__(jnp.shape(location), validate_args=validate_args)

    def log_prob(self, value: Any, intermediates: Any = None) -> jax.Array:
        a = unsaturated(self.location, jnp)
        log_s = log_scale(self.curve, a, jnp)
        inverse = jnp.exp(-log_s)
        black, white = value < LOW + NEAR, value > HIGH - NEAR
        t = jnp.where(black, LOW + NEAR - a, jnp.where(white, a - HIGH + NEAR, value - a)) * inverse
        tail = jax.nn.log_sigmoid(t)
        return self.exponent * jnp.where(black | white, tail, 2 * tail - t - log_s)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        a = unsaturated(self.location, jnp)
        noise = jnp.exp(log_scale(self.curve, a, jnp)) * jax.random.logistic(key, (*sample_shape, *jnp.shape(a)), a.dtype)
        return cut(a + noise, jnp)

"""Levels and counts as distributions of NumPyro; `discrete_torch` has the counts for Pyro. Data are floats, as of all views."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpyro.distributions import CategoricalLogits, Poisson

LINEAR = -15.0
"""Below it log softplus is the identity, up to rounding in 32 bits."""


class Levels(CategoricalLogits):
    """Categorical over levels 0, 1, ..., which may be given as floats."""

    def log_prob(self, value: Any) -> jax.Array:
        return super().log_prob(jnp.asarray(value).astype(jnp.int32))


class SoftplusPoisson(Poisson):
    """Poisson of rate softplus(location), whose log density is finite where the rate is too small for a float."""

    pytree_data_fields = ("location",)

    def __init__(self, location: Any, *, validate_args: bool | None = None) -> None:
        self.location = location
        super().__init__(jax.nn.softplus(location), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        above = jnp.maximum(self.location, LINEAR)
        log_rate = jnp.log(jax.nn.softplus(above)) + self.location - above
        return value * log_rate - self.rate - gammaln(value + 1)

"""Distributions of levels and counts for NumPyro, whose data are floats; `discrete_torch` has the counts for Pyro."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from numpyro.distributions import CategoricalLogits, Poisson

LINEAR = -15.0
"""Below this value log softplus equals the identity in float32."""


class Levels(CategoricalLogits):
    """Categorical distribution over levels 0, 1, ... that accepts floats."""

    def log_prob(self, value: Any) -> jax.Array:
        return super().log_prob(jnp.asarray(value).astype(jnp.int32))


class SoftplusPoisson(Poisson):
    """Poisson distribution of rate softplus(location), with a finite log density where the rate underflows."""

    pytree_data_fields = ("location",)

    def __init__(self, location: Any, *, validate_args: bool | None = None) -> None:
        self.location = location
        super().__init__(jax.nn.softplus(location), validate_args=validate_args)

    def log_prob(self, value: Any) -> jax.Array:
        above = jnp.maximum(self.location, LINEAR)
        log_rate = jnp.log(jax.nn.softplus(above)) + self.location - above
        return value * log_rate - self.rate - gammaln(value + 1)

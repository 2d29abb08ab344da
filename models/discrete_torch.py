"""The distribution of counts for Pyro; `discrete_jax` has the one for NumPyro."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Poisson
from torch import Tensor
from torch.nn.functional import softplus

LINEAR = -15.0
"""Below this value log softplus equals the identity in float32."""


class SoftplusPoisson(Poisson):
    """Poisson distribution of rate softplus(location), with a finite log density where the rate underflows."""

    def __init__(self, location: Tensor, validate_args: bool | None = None) -> None:
        self.location = location
        super().__init__(softplus(location), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> SoftplusPoisson:
        return SoftplusPoisson(self.location.expand(batch_shape), validate_args=self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        above = self.location.clamp(min=LINEAR)
        log_rate = softplus(above).log() + self.location - above
        return value * log_rate - self.rate - (value + 1).lgamma()

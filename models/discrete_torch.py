"""Counts as a distribution of Pyro; `discrete_jax` is the same for NumPyro."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Poisson
from torch import Tensor
from torch.nn.functional import softplus

LINEAR = -15.0
"""Below it log softplus is the identity, up to rounding in 32 bits."""


class SoftplusPoisson(Poisson):
    """Poisson of rate softplus(location), whose log density is finite where the rate is too small for a float."""

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

"""Pixels censored at black and white as a Pyro distribution; `censored_jax` is the NumPyro version."""

from __future__ import annotations

from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from cogen.models.pixels.noise import PixelNoise


class CensoredLogistic(TorchDistribution):
    """The pixel noise of `cogen.models.pixels.noise`.

    :param location: x, (...).
    :param noise: the pixel noise.
    :param exponent: exponent of the density; draws have exponent 1.
    """

    arg_constraints = {"location": constraints.real}  # noqa: RUF012 (torch reads it so)
    support = constraints.real
    has_rsample = False

    def __init__(self, location: Tensor, noise: PixelNoise, exponent: float, validate_args: bool | None = None) -> None:
        self.location, self.noise, self.exponent = location, noise, exponent
        super().__init__(location.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CensoredLogistic:
        return CensoredLogistic(self.location.expand(batch_shape), self.noise, self.exponent, self._validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return self.exponent * self.noise.log_prob(value, self.location)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        with torch.no_grad():
            return self.noise.sample(self.location.expand(torch.Size(sample_shape) + self.location.shape))

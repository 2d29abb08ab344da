"""Noise models of a view: how the data scatter around A(x). Each is the same distribution in Pyro and in NumPyro."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

Scale = float | Tensor | torch.distributions.Distribution
"""A positive number, positive numbers of the view's shape, or a distribution (then the scale is sampled, one per item)."""


class Likelihood(Protocol):
    @property
    def scale(self) -> Any: ...

    def pyro(self, location: Tensor, scale: Any) -> Any: ...

    def numpyro(self, location: Any, scale: Any) -> Any: ...

    def check(self, values: np.ndarray) -> str | None:
        """What is wrong with these data, or None."""
        ...


def _check_scale(name: str, scale: Scale) -> None:
    if isinstance(scale, torch.distributions.Distribution):
        need_pyro(name, scale)
        if scale.batch_shape + scale.event_shape != torch.Size([]):
            raise ValueError(f"{name}: a distribution over the scale must be over one number")
    elif not bool(torch.all(torch.isfinite(torch.as_tensor(scale)) & (torch.as_tensor(scale) > 0))):
        raise ValueError(f"{name}: noise scale {scale} must be positive and finite")


@dataclass(frozen=True, eq=False)
class Normal:
    """Gaussian noise of standard deviation ``scale``."""

    scale: Scale
    family: ClassVar[str] = "Normal"

    def __post_init__(self) -> None:
        _check_scale(self.family, self.scale)

    def pyro(self, location: Tensor, scale: Any) -> Any:
        import pyro.distributions as dist

        return getattr(dist, self.family)(location, scale)

    def numpyro(self, location: Any, scale: Any) -> Any:
        import numpyro.distributions as dist

        return getattr(dist, self.family)(location, scale)

    def check(self, values: np.ndarray) -> str | None:
        return None


@dataclass(frozen=True, eq=False)
class Laplace(Normal):
    """Laplace noise of scale ``scale`` (standard deviation sqrt(2) times that): outliers weigh less."""

    family: ClassVar[str] = "Laplace"


@dataclass(frozen=True)
class Bernoulli:
    """Binary data: A(x), mapped from ``value_range`` to [0, 1], is the probability of a one. Data are 0 or 1."""

    value_range: tuple[float, float] = (0.0, 1.0)
    scale: ClassVar[None] = None

    def _probability(self, location: Any) -> Any:
        low, high = self.value_range
        return 1e-6 + (1.0 - 2e-6) * (location - low) / (high - low)

    def pyro(self, location: Tensor, scale: None) -> Any:
        import pyro.distributions as dist

        return dist.Bernoulli(self._probability(location))

    def numpyro(self, location: Any, scale: None) -> Any:
        import numpyro.distributions as dist

        return dist.Bernoulli(self._probability(location))

    def check(self, values: np.ndarray) -> str | None:
        wrong = values[(values != 0) & (values != 1)]
        return f"Bernoulli data are 0 or 1, and there is a {wrong[0]:g}" if wrong.size else None


def need_pyro(name: str, distribution: torch.distributions.Distribution) -> None:
    """Raise TypeError for a plain torch distribution, which cannot be a sample site."""
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    if not isinstance(distribution, TorchDistributionMixin):
        kind = type(distribution).__name__
        raise TypeError(f"{name}: {kind} is torch's own distribution; a sample site takes pyro.distributions.{kind}")


def to_numpyro(distribution: torch.distributions.Distribution) -> Any:
    """The NumPyro distribution with the same name and parameters.

    Raises ValueError where there is none.
    """
    import jax.numpy as jnp
    import numpyro.distributions as dist

    if isinstance(distribution, torch.distributions.Independent):
        return to_numpyro(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    kind = type(distribution).__name__
    names = ("loc", "covariance_matrix") if kind == "MultivariateNormal" else tuple(distribution.arg_constraints)
    try:
        parameters = {name: jnp.asarray(getattr(distribution, name).detach().numpy()) for name in names}
        return getattr(dist, kind)(**parameters)
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"the distribution {kind} has no counterpart in NumPyro under that name ({error}): use Normal, Uniform, Laplace,"
            " LogNormal, HalfNormal, Gamma or another that both libraries have, or the Pyro backend"
        ) from None

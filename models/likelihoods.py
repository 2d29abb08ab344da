"""Noise models of a view, the distribution of the data given A(x). Each is the same distribution in Pyro and in NumPyro."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

Scale = float | Tensor | torch.distributions.Distribution
"""A positive number, a tensor or array of positive numbers that broadcasts to the view's shape, or a Pyro distribution over
one positive number (then the scale is sampled, one per item)."""


class Likelihood(Protocol):
    @property
    def scale(self) -> Any: ...

    def pyro(self, location: Tensor, scale: Any) -> Any: ...

    def numpyro(self, location: Any, scale: Any) -> Any: ...

    def check(self, values: np.ndarray) -> str | None:
        """A description of the first invalid value, or None if all are valid."""
        ...


def _checked_scale(name: str, scale: Any) -> Scale:
    """Validate a noise scale; an array becomes a float tensor.

    :raises TypeError: for a scale that is not a number, an array or a Pyro distribution.
    :raises ValueError: for numbers that are not positive and finite, and a prior that is not over one positive number.
    """
    if hasattr(scale, "log_prob") and not isinstance(scale, type):
        need_pyro(name, scale)
        if scale.batch_shape + scale.event_shape != torch.Size([]):
            given = tuple(scale.batch_shape + scale.event_shape)
            raise ValueError(
                f"{name}: the prior of the noise scale has shape {given}, but one number is drawn per item: give a distribution"
                " over one number, such as HalfNormal(0.1)"
            )
        if scale.support.is_discrete or bool(scale.support.check(_NEGATIVE).any()):
            raise ValueError(
                f"{name}: the prior of the noise scale is {type(scale).__name__} with support {scale.support}, but a scale is"
                " positive: use HalfNormal, LogNormal, Gamma or another distribution over positive numbers"
            )
        return scale
    try:
        values = scale.detach() if isinstance(scale, Tensor) else torch.from_numpy(np.array(scale, dtype=float))
        good = bool(torch.all(torch.isfinite(values) & (values > 0)))
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: a noise scale is a positive number, a tensor of positive numbers, or a Pyro distribution, not {scale!r}"
        ) from None
    if not good:
        shown = f"{float(values):g}" if values.ndim == 0 else f"of shape {tuple(values.shape)}, least {float(values.min()):g},"
        raise ValueError(f"{name}: noise scale {shown} must be positive and finite")
    return float(values) if values.ndim == 0 else values.to(torch.get_default_dtype())


_NEGATIVE = -torch.logspace(-6, 6, 121)


@dataclass(frozen=True, eq=False)
class Normal:
    """Gaussian noise of standard deviation ``scale``."""

    scale: Scale
    family: ClassVar[str] = "Normal"

    def __post_init__(self) -> None:
        # A frozen dataclass is set through object.__setattr__.
        object.__setattr__(self, "scale", _checked_scale(self.family, self.scale))

    def pyro(self, location: Tensor, scale: Any) -> Any:
        import pyro.distributions as dist

        return getattr(dist, self.family)(location, scale)

    def numpyro(self, location: Any, scale: Any) -> Any:
        import numpyro.distributions as dist

        return getattr(dist, self.family)(location, scale)

    def squares(self, values: np.ndarray, location: np.ndarray, scale: Any) -> tuple[np.ndarray, np.ndarray]:
        """The squared residuals of data (...) given A(x) in noise scales, and what they are compared with, one."""
        return ((values - location) / np.asarray(scale)) ** 2, np.ones(location.shape)

    def check(self, values: np.ndarray) -> str | None:
        return None


@dataclass(frozen=True, eq=False)
class Laplace(Normal):
    """Laplace noise of scale ``scale`` (standard deviation sqrt(2) times that), more robust to outliers than `Normal`."""

    family: ClassVar[str] = "Laplace"


@dataclass(frozen=True, eq=False)
class StudentT(Normal):
    """Student's t noise of scale ``scale`` with ``df`` degrees of freedom, more robust to outliers than `Laplace`.

    :param df: degrees of freedom, positive; the standard deviation is ``scale`` sqrt(df / (df - 2)) for df > 2, and infinite or
        undefined otherwise.
    :raises ValueError: for a df that is not positive and finite.
    """

    df: float = 4.0
    family: ClassVar[str] = "StudentT"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.df) and self.df > 0):
            raise ValueError(f"StudentT: df={self.df}: the degrees of freedom must be positive and finite")

    def pyro(self, location: Tensor, scale: Any) -> Any:
        import pyro.distributions as dist

        return dist.StudentT(self.df, location, scale)

    def numpyro(self, location: Any, scale: Any) -> Any:
        import numpyro.distributions as dist

        return dist.StudentT(self.df, location, scale)


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
        return f"Bernoulli data must be 0 or 1, found {wrong[0]:g}" if wrong.size else None


@dataclass(frozen=True)
class Poisson:
    """Counts with mean log(1 + exp(A(x))). Data are non-negative integers.

    The softplus link is that of Nazabal et al. (Pattern Recognition 2020, section 3). Its gradient is bounded, while the
    gradient of exp makes HMC trajectories diverge.
    """

    scale: ClassVar[None] = None

    def pyro(self, location: Tensor, scale: None) -> Any:
        from cogen.models.discrete_torch import SoftplusPoisson

        return SoftplusPoisson(location)

    def numpyro(self, location: Any, scale: None) -> Any:
        from cogen.models.discrete_jax import SoftplusPoisson

        return SoftplusPoisson(location)

    def check(self, values: np.ndarray) -> str | None:
        wrong = values[(values < 0) | (values != np.rint(values))]
        return f"Poisson data must be non-negative integers, found {wrong[0]:g}" if wrong.size else None


@dataclass(frozen=True)
class Categorical:
    """Levels with the logits A(x), along its last axis. Data are the indices of levels, of the shape of A(x) without that axis.

    :param num_levels: number of levels, at least 2.
    :raises ValueError: for fewer than two levels.
    """

    num_levels: int
    scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"Categorical: num_levels={self.num_levels}: at least two levels are required")

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the data of one item, given the shape of A(x).

        :raises ValueError: if the last axis does not have one logit per level.
        """
        if shape[-1:] != (self.num_levels,):
            raise ValueError(
                f"Categorical(num_levels={self.num_levels}) requires {self.num_levels} logits on the last axis of A(x), {shape}"
            )
        return shape[:-1]

    def pyro(self, location: Tensor, scale: None) -> Any:
        import pyro.distributions as dist

        return dist.Categorical(logits=location)

    def numpyro(self, location: Any, scale: None) -> Any:
        from cogen.models.discrete_jax import Levels

        return Levels(logits=location)

    def check(self, values: np.ndarray) -> str | None:
        wrong = values[~np.isin(values, np.arange(self.num_levels))]
        return f"Categorical data must be integers 0 to {self.num_levels - 1}, found {wrong[0]:g}" if wrong.size else None


def need_pyro(name: str, distribution: Any) -> None:
    """Check that an object is a Pyro distribution.

    :raises TypeError: for a distribution of another library, and anything else.
    """
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    if isinstance(distribution, TorchDistributionMixin):
        return
    kind = type(distribution).__name__
    if isinstance(distribution, torch.distributions.Distribution):
        raise TypeError(f"{name}: {kind} is a torch distribution; use pyro.distributions.{kind}")
    if hasattr(distribution, "log_prob") and not isinstance(distribution, type):
        library = type(distribution).__module__.partition(".")[0]
        raise TypeError(
            f"{name}: this {kind} is a distribution of {library}; use pyro.distributions, which the NumPyro model translates"
        )
    raise TypeError(f"{name}: {distribution!r} is not a distribution; use one of pyro.distributions")


def to_numpyro(distribution: torch.distributions.Distribution) -> Any:
    """The NumPyro distribution with the same name and parameters.

    :raises TypeError: for an object that is not a distribution of torch or Pyro.
    :raises ValueError: if NumPyro has no distribution of that name.
    """
    import jax.numpy as jnp
    import numpyro.distributions as dist

    if not isinstance(distribution, torch.distributions.Distribution):
        need_pyro("to_numpyro", distribution)
    if isinstance(distribution, torch.distributions.Independent):
        return to_numpyro(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    kind = type(distribution).__name__
    names = ("loc", "covariance_matrix") if kind == "MultivariateNormal" else tuple(distribution.arg_constraints)
    try:
        parameters = {name: jnp.asarray(getattr(distribution, name).detach().numpy()) for name in names}
        return getattr(dist, kind)(**parameters)
    except (AttributeError, TypeError, KeyError) as error:
        raise ValueError(
            f"NumPyro has no equivalent of the distribution {kind} ({error}): use Normal, Uniform, Laplace, LogNormal,"
            " HalfNormal, Gamma or another distribution of both libraries, or the Pyro backend"
        ) from None

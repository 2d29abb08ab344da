"""Noise models of a view: how the data scatter around A(x). Each is the same distribution in Pyro and in NumPyro."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

Scale = float | Tensor | torch.distributions.Distribution
"""A positive number, positive numbers that broadcast to the view's shape (a tensor or an array), or a Pyro distribution over
one positive number (then the scale is sampled, one per item)."""


class Likelihood(Protocol):
    @property
    def scale(self) -> Any: ...

    def pyro(self, location: Tensor, scale: Any) -> Any: ...

    def numpyro(self, location: Any, scale: Any) -> Any: ...

    def check(self, values: np.ndarray) -> str | None:
        """What is wrong with these data, or None."""
        ...


def _checked_scale(name: str, scale: Any) -> Scale:
    """The scale, numbers in an array as a float tensor. Raises ValueError or TypeError for what no noise can have."""
    if hasattr(scale, "log_prob") and not isinstance(scale, type):
        need_pyro(name, scale)
        if scale.batch_shape + scale.event_shape != torch.Size([]):
            given = tuple(scale.batch_shape + scale.event_shape)
            raise ValueError(
                f"{name}: the prior of the noise scale is over numbers of shape {given}, and one is drawn for each item: give a"
                " distribution over one number, as HalfNormal(0.1)"
            )
        if scale.support.is_discrete or bool(scale.support.check(_NEGATIVE).any()):
            raise ValueError(
                f"{name}: the prior of the noise scale is {type(scale).__name__} with support {scale.support}, and a scale is a"
                " positive number: use HalfNormal, LogNormal, Gamma or another distribution over positive numbers"
            )
        return scale
    try:
        values = scale.detach() if isinstance(scale, Tensor) else torch.from_numpy(np.array(scale, dtype=float))
        good = bool(torch.all(torch.isfinite(values) & (values > 0)))
    except (TypeError, ValueError):
        raise TypeError(
            f"{name}: a noise scale is a positive number, a tensor of them, or a pyro.distributions object, not {scale!r}"
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
        # Frozen dataclasses are filled through object.__setattr__.
        object.__setattr__(self, "scale", _checked_scale(self.family, self.scale))

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


@dataclass(frozen=True, eq=False)
class StudentT(Normal):
    """Student's t noise of scale ``scale`` with ``df`` degrees of freedom: outliers weigh less than under `Laplace`.

    :param df: a positive number; the standard deviation is ``scale`` sqrt(df / (df - 2)) for df > 2, and infinite or undefined
        otherwise.

    Raises ValueError for a df that is not positive and finite.
    """

    df: float = 4.0
    family: ClassVar[str] = "StudentT"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.df) and self.df > 0):
            raise ValueError(f"StudentT: df={self.df}: the degrees of freedom are positive and finite")

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
        return f"Bernoulli data are 0 or 1, and there is a {wrong[0]:g}" if wrong.size else None


@dataclass(frozen=True)
class Poisson:
    """Counts: log(1 + exp(A(x))) is the expected count. Data are whole numbers from 0 on.

    This softplus is that of Nazabal et al. (Pattern Recognition 2020, section 3). Its gradient is bounded, while that of exp
    makes trajectories of HMC diverge.
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
        return f"Poisson data are whole numbers from 0 on, and there is a {wrong[0]:g}" if wrong.size else None


@dataclass(frozen=True)
class Categorical:
    """Levels: A(x) are their logits, along its last axis. Data are numbers of levels, 0 to ``num_levels`` - 1, of the shape of
    A(x) without that axis.

    :param num_levels: how many levels there are, at least 2.

    Raises ValueError for less than two levels.
    """

    num_levels: int
    scale: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"Categorical: num_levels={self.num_levels}: there are at least two levels")

    def data_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the data of one item, given that of A(x). Raises ValueError where the last axis is not the levels."""
        if shape[-1:] != (self.num_levels,):
            raise ValueError(
                f"Categorical(num_levels={self.num_levels}) takes as many logits on the last axis of A(x), {shape}"
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
        said = f"Categorical data are numbers of levels, 0 to {self.num_levels - 1}"
        return f"{said}, and there is a {wrong[0]:g}" if wrong.size else None


def need_pyro(name: str, distribution: Any) -> None:
    """Raise TypeError for what cannot be a sample site of Pyro's: another library's distribution, or none at all."""
    from pyro.distributions.torch_distribution import TorchDistributionMixin

    if isinstance(distribution, TorchDistributionMixin):
        return
    kind = type(distribution).__name__
    if isinstance(distribution, torch.distributions.Distribution):
        raise TypeError(f"{name}: {kind} is torch's own distribution; a sample site takes pyro.distributions.{kind}")
    if hasattr(distribution, "log_prob") and not isinstance(distribution, type):
        library = type(distribution).__module__.partition(".")[0]
        raise TypeError(
            f"{name}: this {kind} is {library}'s; give the one of pyro.distributions, which the NumPyro model translates"
        )
    raise TypeError(f"{name}: {distribution!r} is not a distribution; give one of pyro.distributions")


def to_numpyro(distribution: torch.distributions.Distribution) -> Any:
    """The NumPyro distribution with the same name and parameters.

    Raises ValueError where there is none, and TypeError for what is not torch's or Pyro's.
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
            f"the distribution {kind} has no counterpart in NumPyro under that name ({error}): use Normal, Uniform, Laplace,"
            " LogNormal, HalfNormal, Gamma or another that both libraries have, or the Pyro backend"
        ) from None

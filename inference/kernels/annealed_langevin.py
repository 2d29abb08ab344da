"""Annealed Langevin dynamics: Langevin steps along the score while the noise level falls.

The model has a noise level: a NumPyro parameter "noise_level", as in

    level = numpyro.param("noise_level", least, constraint=constraints.interval(least, greatest)),

at which its density is p_sigma(x), the target density convolved with noise of standard deviation sigma, given by its gradient.
The warm-up passes through levels in geometric progression from the greatest to the least, with ``moves_per_level`` steps of

    x' = x + (h^2 / 2) grad log p_sigma(x) + h xi,      h = step_size sigma,      xi ~ Normal(0, I),

at each. Sampling stays at the least level: the draws are draws of p_sigma there, and successive draws of a chain hardly differ.
The number of chains therefore determines the precision, and few draws per chain suffice.

The chains start from draws of the latent site's prior, which should be the density at the greatest level. The steps are those
of ULA (`cogen.inference.kernels.langevin`), without acceptance, so that no value of the density is needed. For every p the
curvature of log p_sigma is at most 1 / sigma^2 towards its maxima: the steps are stable, and increase the variance at most by
the factor 1 / (1 - step_size^2 / 4), in directions narrower than sigma. In a direction of standard deviation w much larger than
sigma, chains no longer follow levels below about w sqrt(4 / n) / step_size, with n steps per factor e of the noise: noise of
that level remains.

References:
    Song, Ermon. Generative modeling by estimating gradients of the data distribution. NeurIPS 2019 (algorithm 1; h^2 there is
        alpha_i = epsilon sigma_i^2 / sigma_L^2, and epsilon / sigma_L^2 = 0.2 in section 5, the default here).
Departures: by default every warm-up step has its own noise level (see ``moves_per_level``); the paper makes 100 steps at each
of 10 levels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from numpyro import handlers

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.kernels.hamiltonian import transition_noise
from cogen.inference.kernels.kernel import Kernel, Own, Start
from cogen.inference.kernels.langevin import euler
from cogen.inference.signatures import Model
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import NoiseLevels, Target, gradient_at

Array = jax.Array

NOISE_LEVEL = "noise_level"
"""The name of a model's noise-level parameter."""


class AnnealedLangevinState(NamedTuple):
    """The input of the next step of an item's chains."""

    iteration: Array
    u: Array
    """(chain, dim)"""
    nonfinite: Array
    """The number of steps with a non-finite score, (chain,)."""

    @property
    def position(self) -> Array:
        return self.u


class AnnealedLangevinInfo(NamedTuple):
    """Statistics of a step for every chain."""

    noise_level: Array
    step_size: Array
    nonfinite: Array
    """The number of steps so far with a non-finite score (the chain did not move)."""
    n_steps: Array
    """Gradient evaluations: one."""


@dataclass(frozen=True)
class AnnealedLangevinSettings:
    """Settings of annealed Langevin dynamics.

    :param step_size: in units of the noise level, in (0, 1.4); larger steps are unstable.
    :param moves_per_level: steps at each level, >= 1.
    :raises ValueError: for values out of these ranges.
    """

    step_size: float = 0.45
    moves_per_level: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.step_size < 1.4:
            raise ValueError(f"step_size={self.step_size}: it must be between 0 and 1.4, in units of the noise level")
        if self.moves_per_level < 1:
            raise ValueError(f"moves_per_level={self.moves_per_level}: it must be at least 1")


@dataclass(frozen=True)
class AnnealedLangevinKernel(Kernel):
    """The steps of annealed Langevin dynamics."""

    settings: AnnealedLangevinSettings
    num_warmup: int
    num_chains: int

    def __post_init__(self) -> None:
        if self.num_warmup < 2 * self.settings.moves_per_level:
            raise ValueError(
                f"num_warmup={self.num_warmup} with moves_per_level={self.settings.moves_per_level}: the warm-up passes from"
                " the greatest noise level to the least and needs at least 2 x moves_per_level steps"
            )

    def path(self, state: AnnealedLangevinState, info: AnnealedLangevinInfo) -> dict[str, Array]:
        return {"noise_level": info.noise_level[0], "step_size": info.step_size[0]}

    def init(self, target: Target, key: Array, start: Start) -> AnnealedLangevinState:
        return AnnealedLangevinState(jnp.int32(0), start.positions(target, key), jnp.zeros(self.num_chains, jnp.int32))

    def step(
        self, target: Target, key: Array, state: AnnealedLangevinState
    ) -> tuple[AnnealedLangevinState, AnnealedLangevinInfo]:
        assert target.noise is not None
        level = self.level(target.noise, state.iteration)
        step = self.settings.step_size * level
        gradient = jax.vmap(partial(gradient_at, target.noise.at(level), beta=real(1.0)))(state.u)
        normal, _ = transition_noise(key, self.num_chains, target.dim)
        u = jax.vmap(partial(euler, step=step, scale=None))(state.u, gradient, normal)
        lost = ~jnp.isfinite(u).all(axis=1)
        new = AnnealedLangevinState(state.iteration + 1, jnp.where(lost[:, None], state.u, u), state.nonfinite + lost)
        everywhere = jnp.ones(self.num_chains)
        return new, AnnealedLangevinInfo(
            noise_level=level * everywhere,
            step_size=step * everywhere,
            nonfinite=new.nonfinite,
            n_steps=jnp.ones(self.num_chains, jnp.int32),
        )

    def level(self, noise: NoiseLevels, iteration: Array) -> Array:
        """The noise level of the step after ``iteration`` steps."""
        levels = self.num_warmup // self.settings.moves_per_level
        fraction = jnp.minimum(iteration // self.settings.moves_per_level, levels - 1) / (levels - 1)
        return noise.greatest * jnp.exp(fraction * math.log(noise.least / noise.greatest))


class AnnealedLangevin(EnsembleKernel, settings=AnnealedLangevinSettings, kernel=AnnealedLangevinKernel):
    """Annealed Langevin dynamics, for a model with a noise level, such as a `cogen.models.ScorePrior`.

    The steps of all latent sites have the scale of the noise level.
    """

    settings: AnnealedLangevinSettings

    def target(
        self,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        model: Model | None = None,
        own: Own | None = None,
    ) -> Target:
        """The annealing path at the least noise level, with access to the other levels.

        :raises ValueError: for a model without noise levels.
        """
        model = self._bound_model() if model is None else model
        least, greatest = _limits(model, args, kwargs or {})

        def at(level: Array) -> Target:
            return numpyro_target(handlers.substitute(model, data={NOISE_LEVEL: level}), args, kwargs)

        return super().target(args, kwargs, model=model, own=own)._replace(noise=NoiseLevels(least, greatest, at))


def _limits(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> tuple[float, float]:
    trace = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
    limits = getattr(trace.get(NOISE_LEVEL, {}).get("kwargs", {}).get("constraint"), "__dict__", {})
    least, greatest = (limits.get(name) for name in ("lower_bound", "upper_bound"))
    if least is None or greatest is None or not 0 < float(least) < float(greatest):
        raise ValueError(
            f"the model has no noise levels, which AnnealedLangevin requires: use a ScorePrior, or a model with"
            f' numpyro.param("{NOISE_LEVEL}", least, constraint=constraints.interval(least, greatest)), both positive'
        )
    return float(least), float(greatest)

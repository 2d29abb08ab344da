"""Stochastic variational inference as a kernel: the warm-up fits a guide and the draws are draws from it.

    maximise  E_{z ~ q} [log p(z, y) - log q(z)],                                       one guide per item,

by NumPyro's `SVI` with any of its autoguides or a guide function (Hoffman, Blei, Wang and Paisley 2013). After the fit
every transition draws each chain independently from q, with its log ratio log p(z, y) - log q(z); the mean of the ratios
estimates the evidence (importance sampling). The draws follow q and have its bias. `GuideStart.of` starts an annealing from
the fitted guide.

For `AutoLaplaceApproximation` the fit finds the mode, and q is the normal distribution with the Hessian there as precision.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import numpyro.infer
import numpyro.optim
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.infer.autoguide import AutoDelta, AutoGuide, AutoLaplaceApproximation

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.guide_start import GuideStart, coordinate_order
from cogen.inference.annealing.populations import population_count
from cogen.inference.kernels.kernel import Kernel, Start, chain_keys
from cogen.inference.run import Run
from cogen.inference.signatures import Model
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Program, Target

Array = jax.Array


class VariationalState(NamedTuple):
    """The guide of one item and, after the warm-up, draws from it."""

    iteration: Array
    u: Array
    """(chain, dim)"""
    log_sum: Array
    """The log of the sum of the chain's ratios, (chain,)."""
    fit: Any
    elbo: Array

    @property
    def position(self) -> Array:
        return self.u


class VariationalInfo(NamedTuple):
    """Statistics of a fit step or, after the warm-up, of one draw per chain."""

    lp: Array
    log_ratio: Array
    """log p(z, y) - log q(z) of the draw; zero during the warm-up."""
    n_steps: Array
    """Gradient evaluations; those of the fit are attributed to the first chain."""
    population: Array
    population_log_evidence: Array
    """The log mean ratio of the population's draws so far."""


@dataclass(frozen=True, eq=False)
class VariationalSettings:
    """Settings of variational inference.

    :param optimizer: a NumPyro or optax optimiser; default Adam with step size 0.01.
    :param num_particles: draws from the guide per fit step, >= 1.
    :param num_populations: groups of chains for the standard error of the evidence; default four.
    :raises ValueError: for a count below one.
    """

    optimizer: Any = None
    num_particles: int = 1
    num_populations: int | None = None

    def __post_init__(self) -> None:
        if self.num_particles < 1:
            raise ValueError(f"num_particles={self.num_particles}: at least one is needed")
        if self.optimizer is None:
            object.__setattr__(self, "optimizer", numpyro.optim.Adam(0.01))  # the dataclass is frozen


@dataclass(frozen=True, eq=False)
class VariationalKernel(Kernel):
    """Fit steps during the warm-up, then draws from the guide."""

    settings: VariationalSettings
    num_warmup: int
    num_chains: int
    guide: Callable[..., Any]
    laplace: bool

    evidence_kind = "importance"

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, resampling=False)

    def path(self, state: VariationalState, info: VariationalInfo) -> dict[str, Array]:
        return {"elbo": state.elbo}

    @property
    def density(self) -> Any:
        """The density with these `parameters`: the guide, or the normal distribution of a Laplace approximation."""
        return dist.MultivariateNormal if self.laplace else self.guide

    def parameters(self, target: Target, state: VariationalState) -> dict[str, Array]:
        """The parameters of the guide, or mean and precision of a Laplace approximation."""
        params = self._svi(target).get_params(state.fit)
        if not self.laplace:
            return params
        (loc,) = (value for name, value in params.items() if name.endswith("_loc"))
        loc = loc[coordinate_order(self.guide)]
        hessian = jax.hessian(lambda u: -(target.reference(u).sum() + target.increment(u).sum()))(loc)
        return {"loc": loc, "precision_matrix": hessian}

    def init(self, target: Target, key: Array, start: Start) -> VariationalState:
        fit_key, draw_key = jax.random.split(key)
        _, args, kwargs = _program(target)
        svi = self._svi(target)
        fit = svi.init(fit_key, *args, **kwargs)
        u = start.positions(target, draw_key)
        return VariationalState(jnp.int32(0), u, jnp.full(self.num_chains, -jnp.inf), fit, real(-jnp.inf))

    def step(self, target: Target, key: Array, state: VariationalState) -> tuple[VariationalState, VariationalInfo]:
        warming = state.iteration < self.num_warmup
        new, info = jax.lax.cond(warming, lambda s: self._fit(target, s), lambda s: self._draw(target, key, s), state)
        return new._replace(iteration=state.iteration + 1), info

    def _svi(self, target: Target) -> numpyro.infer.SVI:
        loss = numpyro.infer.Trace_ELBO(num_particles=self.settings.num_particles)
        svi = numpyro.infer.SVI(_program(target).model, self.guide, self.settings.optimizer, loss)
        _, args, kwargs = _program(target)
        svi.init(jax.random.key(0), *args, **kwargs)  # sets its transforms
        return svi

    def _fit(self, target: Target, state: VariationalState) -> tuple[VariationalState, VariationalInfo]:
        _, args, kwargs = _program(target)
        fit, loss = self._svi(target).stable_update(state.fit, *args, **kwargs)
        zeros = jnp.zeros(self.num_chains)
        n_steps = jnp.zeros(self.num_chains, jnp.int32).at[0].set(self.settings.num_particles)
        return state._replace(fit=fit, elbo=-loss), self._info(zeros, zeros, n_steps, zeros - jnp.inf)

    def _draw(self, target: Target, key: Array, state: VariationalState) -> tuple[VariationalState, VariationalInfo]:
        model, args, kwargs = _program(target)
        fitted = GuideStart(self.density, self.parameters(target, state), prior_share=0.0)
        guided = numpyro_target(model, args, kwargs, initial=fitted)
        u = jax.vmap(guided.draw)(chain_keys(key, self.num_chains))
        ratio = jax.vmap(lambda v: guided.increment(v).sum())(u)
        ratio = jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
        log_sum = jnp.logaddexp(state.log_sum, ratio)
        size = self.num_chains // self.populations
        drawn = real(state.iteration - self.num_warmup + 1) * size
        evidence = logsumexp(log_sum.reshape(self.populations, size), axis=1) - jnp.log(drawn)
        info = self._info(
            jax.vmap(lambda v: guided.reference(v).sum())(u) + ratio,
            ratio,
            jnp.zeros(self.num_chains, jnp.int32),
            jnp.repeat(evidence, size, total_repeat_length=self.num_chains),
        )
        return state._replace(u=u, log_sum=log_sum), info

    def _info(self, lp: Array, ratio: Array, n_steps: Array, evidence: Array) -> VariationalInfo:
        population = jnp.arange(self.num_chains) // (self.num_chains // self.populations)
        return VariationalInfo(lp, ratio, n_steps, population, evidence)


class SVI(EnsembleKernel, settings=VariationalSettings, kernel=VariationalKernel):
    """Stochastic variational inference, as in ``infer(seen, SVI(AutoNormal), num_warmup=1000, ...)``.

    :param guide: a NumPyro autoguide class (or a ``functools.partial`` of one), or a guide function with the model's
        arguments and latent sites.
    :raises ValueError: for a guide without a density (`AutoDelta`) and for one that already has a model.
    """

    settings: VariationalSettings

    def __init__(self, guide: Model, model: Model | None = None, **settings: object) -> None:
        super().__init__(model, **settings)
        factory = guide.func if isinstance(guide, functools.partial) else guide
        if inspect.isclass(factory) and issubclass(factory, AutoDelta):
            raise ValueError("AutoDelta has no density: for the posterior mode use GradientDescent(prior=True)")
        if isinstance(guide, AutoGuide):
            raise ValueError(f"pass the class {type(guide).__name__} or a functools.partial of it: the model comes from infer")
        self.guide = guide
        self._auto = inspect.isclass(factory) and issubclass(factory, AutoGuide)
        self._laplace = inspect.isclass(factory) and issubclass(factory, AutoLaplaceApproximation)

    def for_model(self, model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Self:
        if not self._auto:
            return self
        make: Callable[[Model], AutoGuide] = self.guide
        guide = make(model)
        # An autoguide runs the model once and stores its values, which must not be tracers.
        with jax.ensure_compile_time_eval(), handlers.seed(rng_seed=0):
            guide(*args, **kwargs)
        fitted = self.replace()
        fitted.guide, fitted._auto = guide, False
        return fitted

    def kernel(self, num_warmup: int, num_chains: int) -> VariationalKernel:
        if num_warmup < 1:
            raise ValueError(f"num_warmup={num_warmup}: the warm-up fits the guide and needs at least one step")
        return VariationalKernel(self.settings, num_warmup, num_chains, self.guide, self._laplace)


def fit_guide(
    model: Model,
    guide: Model,
    *,
    num_steps: int,
    seed: int,
    prior_share: float = 0.1,
    progress: bool = True,
    items_at_once: int | None = None,
    **settings: object,
) -> GuideStart:
    """Fit a guide to every item of a conditioned NumPyro model, for use as the ``initial`` of a kernel.

    :param guide: as for `SVI`.
    :param num_steps: fit steps, >= 1.
    :param prior_share: the mixture weight of the prior in the start, in [0, 1].
    :param items_at_once: as for `Run`.
    :param settings: the other settings of `SVI` (optimizer, num_particles).

    >>> import numpyro, numpyro.distributions as dist
    >>> from numpyro.infer.autoguide import AutoNormal
    >>> from cogen.inference import AnnealedHMC, fit_guide
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> kernel = AnnealedHMC(initial=fit_guide(model, AutoNormal, num_steps=100, seed=0, progress=False))
    """
    options: dict[str, Any] = {"progress": progress, "items_at_once": items_at_once}
    run = Run(model, SVI(guide, None, **settings), num_warmup=num_steps, num_chains=4, seed=seed, **options)
    run.draw(1)
    return GuideStart.of(run, prior_share=prior_share)


def _program(target: Target) -> Program:
    if target.program is None:
        raise ValueError("the target has no NumPyro model, to which a guide is fitted")
    return target.program

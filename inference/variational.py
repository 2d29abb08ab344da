"""Stochastic variational inference as a kernel: the warm-up fits a guide, the draws come from it.

    maximise  E_{z ~ q} [log p(z, y) - log q(z)],                                       one guide per item,

by NumPyro's `SVI` with any of its autoguides or a guide function (Hoffman, Blei, Wang and Paisley 2013). After the fit
every transition draws each chain anew from q, with its log ratio log p(z, y) - log q(z); the mean of the ratios estimates
the evidence (importance sampling). The draws themselves are q's, biased as q is. `GuideStart.of` starts an annealing from
what was fitted.

For `AutoLaplaceApproximation` the fit is the mode, and q the normal with the Hessian there.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
import numpyro.infer
import numpyro.optim
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.infer.autoguide import AutoDelta, AutoGuide, AutoLaplaceApproximation

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.guide_start import GuideStart, coordinate_order
from cogen.inference.annealing.populations import population_count
from cogen.inference.targets.numpyro_target import Target, numpyro_target
from cogen.inference.targets.sums import real

Array = jax.Array


class VariationalState(NamedTuple):
    """The guide of one item and, after the warm-up, draws of it."""

    i: Array
    z: dict[str, Array]
    lp: Array
    log_ratio: Array
    """log p(z, y) - log q(z) of the draw; zero during the warm-up."""
    n_steps: Array
    """Gradient evaluations of the last transition; those of the fit are counted on the first chain."""
    population: Array
    population_log_evidence: Array
    """The log mean ratio of the population's draws so far."""
    log_sum: Array
    """The log of the sum of the chain's ratios."""
    fit: Any
    elbo: Array
    rng_key: Array


class SVI(EnsembleKernel):
    """Stochastic variational inference, as in ``infer(seen, SVI(AutoNormal), num_warmup=1000, ...)``.

    :param guide: a NumPyro autoguide class (or a ``functools.partial`` of one), or a guide function with the model's
        arguments and latent sites.
    :param optimizer: a NumPyro or optax optimiser; default Adam with step size 0.01.
    :param num_particles: draws of the guide per step of the fit, >= 1.
    :param num_populations: groups of chains for the evidence's standard error; default four.

    Raises ValueError for a count below one and for a guide without a density (`AutoDelta`).
    """

    chain_fields = VariationalState._fields[1:-4]
    evidence_kind = "importance"
    starts_at_density = False

    def __init__(
        self,
        guide: Any,
        model: Callable | None = None,
        *,
        optimizer: Any = None,
        num_particles: int = 1,
        num_populations: int | None = None,
    ) -> None:
        super().__init__(model)
        if num_particles < 1:
            raise ValueError(f"num_particles={num_particles}: at least one is needed")
        factory = guide.func if isinstance(guide, functools.partial) else guide
        if inspect.isclass(factory) and issubclass(factory, AutoDelta):
            raise ValueError("AutoDelta has no density: for the posterior mode use GradientDescent(prior=True)")
        if isinstance(guide, AutoGuide):
            raise ValueError(f"pass the class {type(guide).__name__} or a functools.partial of it: the model comes from infer")
        self.guide = guide
        self.optimizer = numpyro.optim.Adam(0.01) if optimizer is None else optimizer
        self.num_particles = num_particles
        self.num_populations = num_populations
        self._factory = guide if inspect.isclass(factory) and issubclass(factory, AutoGuide) else None
        self._laplace = inspect.isclass(factory) and issubclass(factory, AutoLaplaceApproximation)
        self._guide: Callable | None = None

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        if num_warmup < 1:
            raise ValueError(f"num_warmup={num_warmup}: the fit is the warm-up")
        self._populations = population_count(num_chains, self.num_populations, resampling=False)

    def target(self, args: tuple, kwargs: dict | None) -> Target:
        target = super().target(args, kwargs)
        if self._guide is None:
            self._guide = self.guide
            if self._factory is not None:
                self._guide = self._factory(self._model)
                # An autoguide looks at the model once and keeps what it saw, which must not be a trace's.
                with jax.ensure_compile_time_eval(), handlers.seed(rng_seed=0):
                    self._guide(*args, **(kwargs or {}))
        self._arguments = args, kwargs or {}
        return target

    def path(self, state: VariationalState) -> dict[str, Array]:
        return {"elbo": state.elbo}

    def fitted(self, run: Any) -> tuple[Any, dict[str, Array]]:
        """The guide that an `Inference` has fitted, and its parameters with a leading item axis."""
        if run.last_state is None:
            raise ValueError("the guide is not fitted yet: draw from the run first")
        states, data = run.last_state, run.item_arguments
        density = self._density(self.target(jax.tree.map(lambda a: a[0], data), {}))
        parameters = jax.vmap(lambda state, item_data: self._parameters(self.target(item_data, {}), state.fit))
        return density, jax.jit(parameters)(states, data)

    # --- the fit -----------------------------------------------------------------------------------------------

    def _svi(self, key: Array) -> tuple[numpyro.infer.SVI, Any]:
        args, kwargs = self._arguments
        loss = numpyro.infer.Trace_ELBO(num_particles=self.num_particles)
        svi = numpyro.infer.SVI(self._model, self._guide, self.optimizer, loss)
        return svi, svi.init(key, *args, **kwargs)

    def _init(self, target: Target, key: Array, num_chains: int) -> VariationalState:
        init_key, rng_key = jax.random.split(key)
        _, fit = self._svi(init_key)
        u = jax.vmap(target.draw)(chain_keys(rng_key, num_chains))
        zeros, chain = jnp.zeros(num_chains), jnp.arange(num_chains)
        return VariationalState(
            i=jnp.int32(0),
            z=jax.vmap(target.sites)(u),
            lp=zeros,
            log_ratio=zeros,
            n_steps=jnp.zeros(num_chains, jnp.int32),
            population=chain // (num_chains // self._populations),
            population_log_evidence=jnp.full(num_chains, -jnp.inf),
            log_sum=jnp.full(num_chains, -jnp.inf),
            fit=fit,
            elbo=real(-jnp.inf),
            rng_key=rng_key,
        )

    def _sample(self, target: Target, state: VariationalState) -> VariationalState:
        warming = state.i < self._num_warmup if self._warming is None else self._warming
        state = jax.lax.cond(warming, self._fit, lambda s: self._draw(target, s), state)
        return state._replace(i=state.i + 1)

    def _fit(self, state: VariationalState) -> VariationalState:
        args, kwargs = self._arguments
        svi, _ = self._svi(jax.random.key(0))  # for its transforms alone
        fit, loss = svi.stable_update(state.fit, *args, **kwargs)
        return state._replace(fit=fit, elbo=-loss, n_steps=state.n_steps.at[0].set(self.num_particles))

    def _draw(self, target: Target, state: VariationalState) -> VariationalState:
        args, kwargs = self._arguments
        start = GuideStart(self._density(target), self._parameters(target, state.fit), prior_share=0.0)
        assert self._model is not None
        guided = numpyro_target(self._model, args, kwargs, initial=start)
        num_chains = state.lp.shape[0]
        keys = chain_keys(jax.random.fold_in(state.rng_key, state.i), num_chains)
        u = jax.vmap(guided.draw)(keys)
        ratio = jax.vmap(lambda v: guided.tilt(v).sum())(u)
        ratio = jnp.where(jnp.isnan(ratio), -jnp.inf, ratio)
        log_sum = jnp.logaddexp(state.log_sum, ratio)
        size = num_chains // self._populations
        drawn = real(state.i - self._num_warmup + 1) * size
        evidence = logsumexp(log_sum.reshape(self._populations, size), axis=1) - jnp.log(drawn)
        return state._replace(
            z=jax.vmap(target.sites)(u),
            lp=jax.vmap(lambda v: guided.reference(v).sum())(u) + ratio,
            log_ratio=ratio,
            n_steps=jnp.zeros_like(state.n_steps),
            population_log_evidence=jnp.repeat(evidence, size, total_repeat_length=num_chains),
            log_sum=log_sum,
        )

    def _density(self, target: Target) -> Any:
        return dist.MultivariateNormal if self._laplace else self._guide

    def _parameters(self, target: Target, fit: Any) -> dict[str, Array]:
        svi, _ = self._svi(jax.random.key(0))
        params = svi.get_params(fit)
        if not self._laplace:
            return params
        (loc,) = (value for name, value in params.items() if name.endswith("_loc"))
        loc = loc[coordinate_order(self._guide)]
        hessian = jax.hessian(lambda u: -(target.reference(u).sum() + target.tilt(u).sum()))(loc)
        return {"loc": loc, "precision_matrix": hessian}

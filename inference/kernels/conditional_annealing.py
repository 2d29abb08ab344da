"""Annealing around one exact draw: the upper half of bidirectional Monte Carlo.

Given an exact draw z* of the posterior (simulated data have one: the latent they were made from), the reversed transitions
carry it from beta = 1 down to beta = 0. That path is then one particle of an annealed run: it is never replaced, and the others
are resampled around it. Such a run is distributed as the extended target of particle MCMC, under which

    E[ 1 / Zhat ] = 1 / Z,

so that log Zhat is a stochastic upper bound of the log evidence, as the forward run's is a lower one.

    Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo, section 3;
    Andrieu, Doucet and Holenstein (2010), Particle Markov chain Monte Carlo methods, section 4.3 (conditional SMC).

HMC with a fresh momentum is reversible, so the reversed transition at a temperature is the transition itself. The free
particles are resampled multinomially (conditional SMC is simple for it alone), where the forward run is systematic: both
bounds hold for the same evidence, this one a little less tightly than it could.
"""

from __future__ import annotations

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.annealing.populations import resample_conditionally
from cogen.inference.kernels.annealed_hmc import AnnealedHMC, AnnealedState, Particles
from cogen.inference.kernels.hamiltonian import trajectory, transition_noise
from cogen.inference.targets.numpyro_target import Point, Target, evaluate
from cogen.inference.targets.sums import Sum, real

Array = jax.Array


class ConditionalAnnealedHMC(AnnealedHMC):
    """An `AnnealedHMC` that keeps, in the first slot of every population, a path that ends in an exact posterior draw.

    Its draws are of no use; its ``population_log_evidence`` is.
    """

    _exact: np.ndarray

    @classmethod
    def of(cls, kernel: AnnealedHMC, exact: np.ndarray) -> Self:
        """As ``kernel`` (made without a model, nothing in it adapting), around ``exact`` draws (item, dim) in flat
        unconstrained coordinates. Raises ValueError for a kernel that adapts or has no evidence."""
        if kernel.adapts:
            raise ValueError("the kernel adapts as it runs, which voids the bound: freeze it, as in kernel.frozen(pilot)")
        cls.check(kernel)
        conditional = cls.__new__(cls)
        conditional.__dict__.update(kernel.__dict__)
        conditional._exact = np.asarray(exact, dtype=np.float64)
        return conditional

    @staticmethod
    def check(kernel: AnnealedHMC) -> None:
        """Raises ValueError for a kernel whose evidence has no bounds."""
        if not kernel.evidence_kind:
            raise ValueError("a run with flat_prior=True has no evidence to bound")
        if kernel.bridge:
            raise ValueError("the evidence of a kernel with bridge=True is no bound: make the kernel without it")

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        if len(self._exact) != self._num_items:
            raise ValueError(f"{len(self._exact)} exact draws were given for {self._num_items} items")

    def _init(self, target: Target, key: Array, num_chains: int) -> AnnealedState:
        forward_key, reverse_key = jax.random.split(key)
        state = super()._init(target, forward_key, num_chains)
        if self._exact.shape[1] != target.dim:
            raise ValueError(f"exact draws have {self._exact.shape[1]} coordinates, the model has {target.dim}")
        exact = jnp.broadcast_to(real(self._exact)[self._item], (self._populations, target.dim))
        path = self._reversed_path(target, reverse_key, jax.vmap(lambda u: evaluate(target, u))(exact))
        pinned = self._pin(state.particles.point, jax.tree.map(lambda a: a[0], path))
        weight = state.particles.log_weight
        if (start_weight := target.start_weight) is not None:
            start = jax.vmap(lambda u: start_weight(u).sum())(pinned.u[self._slots(num_chains)])
            weight = Sum(weight.high.at[self._slots(num_chains)].set(start), weight.low.at[self._slots(num_chains)].set(0.0))
        return state._replace(particles=state.particles._replace(point=pinned, log_weight=weight), extra=path)

    def _reversed_path(self, target: Target, key: Array, end: Point) -> Point:
        """The pinned particle of every population before each transition and after the last: (transition + 1, population)."""
        assert self._beta is not None
        ladder = real(self._beta)
        ladder = ladder if ladder.ndim == 1 else ladder[self._item]
        count = self._num_warmup

        def back(point: Point, k: Array) -> tuple[Point, Point]:
            beta = ladder[k // self.moves_per_temperature + 1]
            momentum, uniform = transition_noise(jax.random.fold_in(key, k), self._populations, target.dim)
            step = self.step_size.step_size(self.step_size.init(self._item), beta)
            moved = jax.vmap(
                lambda normal, u, start: trajectory(
                    target,
                    normal,
                    u[0],
                    start,
                    beta,
                    step * (1.0 + self.jitter * (2.0 * u[1] - 1.0)),
                    self.num_leapfrog,
                    self.inverse_mass,
                    self._unroll,
                )
            )(momentum, uniform, point)
            return moved.point, moved.point

        _, points = jax.lax.scan(back, end, jnp.arange(count), reverse=True)
        return jax.tree.map(lambda before, last: jnp.concatenate([before, last[None]]), points, end)

    def _resampled(self, uniform: Array, particles: Particles, threshold: Array, everyone: Array) -> Particles:
        return resample_conditionally(uniform, particles, self._populations, threshold)

    def _moved(self, state: AnnealedState, point: Point) -> Point:
        return self._pin(point, jax.tree.map(lambda a: a[jnp.minimum(state.made + 1, self._num_warmup)], state.extra))

    def _slots(self, num_chains: int) -> Array:
        return jnp.arange(self._populations) * (num_chains // self._populations)

    def _pin(self, point: Point, pinned: Point) -> Point:
        slots = self._slots(point.u.shape[0])
        return jax.tree.map(lambda all_, kept: all_.at[slots].set(kept), point, pinned)

"""Langevin dynamics for Pyro models, Metropolis-adjusted (MALA) or not (ULA), all chains of all items in one batch.

    x' = x + (h^2 / 2) M grad log p(x, y) + h M^(1/2) xi,        xi ~ Normal(0, I).

The counterpart of `cogen.inference.kernels.langevin`, which documents the acceptance, the papers and the bias of ULA.
"""

# mypy: disable-error-code="override"
# Arrays of one item in Kernel are tensors of all items here.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from torch import Tensor

from cogen.inference.kernels.kernel import Kernel, Start
from cogen.inference.kernels.langevin import LangevinSettings, Moments
from cogen.inference.kernels.warmup_rounds import round_ends
from cogen.inference.targets.sums import real
from cogen.inference.torch.ensemble_kernel import PyroEnsembleKernel
from cogen.inference.torch.hamiltonian import DIVERGENCE, mean_acceptance, transition_noise
from cogen.inference.torch.jax_rules import StepSizes, to_jax, to_torch
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import Point, PyroTarget


class LangevinState(NamedTuple):
    """The input of the next transition."""

    iteration: int
    """The number of transitions made."""
    beta: Tensor
    """The inverse temperature of the invariant density, one, (item,)."""
    point: Point
    nonfinite: Tensor
    """The number of proposals with a non-finite gradient or log density, (chain, item)."""
    scale: Tensor | None
    """M^(1/2): None, a diagonal (item, dim) or lower triangular (item, dim, dim); the item axis is one if items share it."""
    moments: Moments
    """JAX arrays (item, dim)."""
    adaptation: Any


class LangevinInfo(NamedTuple):
    """Statistics of a transition, arrays (chain, item), with the fields of the JAX version."""

    acceptance_rate: Tensor | None
    """The acceptance probability of the proposal; None for ULA, which does not compute it."""
    step_size: Tensor
    diverging: Tensor
    """Whether the proposal's acceptance probability was below exp(-1000) or NaN."""
    nonfinite: Tensor
    """The number of proposals so far that had a non-finite gradient or log density (rejected, also by ULA)."""
    lp: Tensor
    n_steps: Tensor
    """Gradient evaluations: one."""


@dataclass(frozen=True, eq=False)
class LangevinKernel(Kernel):
    """The transitions of MALA or ULA."""

    settings: LangevinSettings
    num_warmup: int
    num_chains: int

    gradients_to_start = 1

    @cached_property
    def _step_sizes(self) -> StepSizes:
        return StepSizes(self.settings.rule)

    @cached_property
    def _add(self) -> Any:
        return jax.jit(Moments.add)

    def metric(self, state: LangevinState) -> Tensor | None:
        return state.scale**2 if self.settings.adapt_preconditioner and state.scale is not None else None

    def log_density(self, state: LangevinState) -> Tensor:
        return state.point.log_density(state.beta)

    def path(self, state: LangevinState, info: LangevinInfo) -> dict[str, Tensor]:
        accepted = {} if info.acceptance_rate is None else {"acceptance_rate": info.acceptance_rate.mean(0)}
        return {
            **accepted,
            "step_size": info.step_size[0],
            "lp": info.lp.mean(0),
            "diverging": info.diverging.sum(0),
        }

    def init(self, target: PyroTarget, random: Random, start: Start) -> LangevinState:
        items, dim, root = target.num_items, target.dim, self.settings.root
        if root is not None and root.shape[0] != dim:
            raise ValueError(f"preconditioner has shape {root.shape}, the model has {dim} unconstrained coordinates")
        point = target.evaluate(target.positions(start, random))
        scale = None if root is None else torch.tensor(root[None]).to(point.u)
        if self.settings.adapt_preconditioner:
            scale = torch.ones(items, dim).to(point.u)
        elif target.own.variance is not None:
            scale = torch.tensor(target.own.variance).to(point.u).sqrt()
        return LangevinState(
            iteration=0,
            beta=torch.ones(items, dtype=torch.float64, device=point.u.device),
            point=point,
            nonfinite=torch.zeros_like(point.increment, dtype=torch.int64),
            scale=scale,
            moments=_no_moments(items, dim),
            adaptation=self._step_sizes.init(target.own.steps, items),
        )

    def step(self, target: PyroTarget, random: Random, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        settings, beta, scale, moments = self.settings, state.beta, state.scale, state.moments
        if settings.adapt_preconditioner and state.iteration in round_ends(self.num_warmup):
            assert scale is not None
            scale, moments = to_torch(moments.scale(), scale), _no_moments(*scale.shape)
        step = self._step_sizes.step_size(state.adaptation, beta)
        normal, uniform = transition_noise(random, self.num_chains, target.dim, state.point.u)
        end = propose(target, state.point, normal, beta, step, scale)
        gain = log_ratio(state.point, end, normal, beta, step, scale)
        nonfinite = gain.isnan() | ~end.gradient(beta).isfinite().all(-1) | ~end.u.isfinite().all(-1)
        acceptance = torch.where(nonfinite, 0.0, gain.exp().clamp(max=1.0))
        point = end.where(uniform[..., 0] < acceptance if settings.metropolis else ~nonfinite, state.point)
        adaptation = state.adaptation
        if state.iteration < self.num_warmup:
            adaptation = self._step_sizes.update(adaptation, mean_acceptance(acceptance, state.point))
        new = state._replace(
            iteration=state.iteration + 1,
            point=point,
            nonfinite=state.nonfinite + nonfinite,
            scale=scale,
            moments=self._add(moments, to_jax(point.u)) if settings.adapt_preconditioner else moments,
            adaptation=adaptation,
        )
        return new, LangevinInfo(
            acceptance_rate=acceptance if settings.metropolis else None,
            step_size=step.expand_as(acceptance),
            diverging=~(gain > -DIVERGENCE) & ~end.excluded,
            nonfinite=new.nonfinite,
            lp=self.log_density(new),
            n_steps=torch.ones_like(new.nonfinite),
        )


class PyroLangevin(PyroEnsembleKernel, settings=LangevinSettings, kernel=LangevinKernel):
    """MALA or ULA for any Pyro model from draws of q0, for ``cogen.inference.infer`` or plain ``pyro.infer.MCMC``.

    Adaptation is shared by the chains of an item, and stops after the warm-up. The kernel runs all chains itself: leave
    ``MCMC(num_chains=1)``.
    """

    settings: LangevinSettings


def propose(target: PyroTarget, start: Point, normal: Tensor, beta: Tensor, step: Tensor, scale: Tensor | None) -> Point:
    """The proposal x' with its gradients, the one evaluation of a transition."""
    length = step.to(normal)[:, None]
    pulled = normal + 0.5 * length * _transposed(scale, start.gradient(beta))
    u = start.u + length * _times(scale, pulled)
    # Non-finite proposals are evaluated at their start (and rejected): one NaN makes torch.linalg raise for the whole batch.
    return target.evaluate(torch.where(u.isfinite().all(-1, keepdim=True), u, start.u))._replace(u=u)


def log_ratio(start: Point, end: Point, normal: Tensor, beta: Tensor, step: Tensor, scale: Tensor | None) -> Tensor:
    """The log of the acceptance ratio."""
    pull = 0.5 * step.to(normal)[:, None] * _transposed(scale, start.gradient(beta) + end.gradient(beta))
    return end.log_density_gain(start, beta) + proposal_log_ratio(normal, pull)


def proposal_log_ratio(normal: Tensor, pull: Tensor) -> Tensor:
    """log q(x | x') - log q(x' | x): the reverse move has noise -(xi + pull), with pull = (h / 2) M^(1/2) (grad + grad')."""
    return -(pull * (normal + 0.5 * pull)).sum(-1, dtype=torch.float64)


def _no_moments(num_items: int, dim: int) -> Moments:
    return Moments(real(0.0), jnp.zeros((num_items, dim)), jnp.zeros((num_items, dim)))


def _times(scale: Tensor | None, vector: Tensor) -> Tensor:
    if scale is None:
        return vector
    return scale * vector if scale.ndim == 2 else (scale @ vector[..., None])[..., 0]


def _transposed(scale: Tensor | None, vector: Tensor) -> Tensor:
    return _times(scale.mT if scale is not None and scale.ndim == 3 else scale, vector)

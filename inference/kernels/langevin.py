"""Langevin dynamics, Metropolis-adjusted (MALA) or not (ULA).

The Langevin diffusion along the gradient of the log posterior leaves it invariant; a transition is one Euler step of it,

    x' = x + (h^2 / 2) M grad log p(x, y) + h M^(1/2) xi,        xi ~ Normal(0, I),

with a preconditioner M, ideally the posterior covariance. MALA accepts it with the probability

    min(1, p(x', y) q(x | x') / (p(x, y) q(x' | x))),

which is exact; its step size is adapted to an acceptance of 0.574, the optimum in high dimensions. ULA accepts every proposal
and is biased: it needs no step-size control and never rejects. For a normal posterior with covariance M, ULA's draws have the
covariance M / (1 - h^2 / 4) (they form an AR(1) series with the coefficient 1 - h^2 / 2): too large by 0.25 % at h = 0.1, by a
third at h = 1, and unbounded at h = 2. In general the bias is of order h^2, in units of the narrowest direction of M^(-1/2) x.

    Roberts and Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations
    (both algorithms; h there is h^2 here);
    Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions (0.574).

A transition costs one gradient evaluation; MALA is an HMC trajectory of one leapfrog step. Chains do not move between separated
modes of a posterior: see `AnnealedHMC` and `ParallelTempering`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.annealing.step_size import ConstantGain, Fixed, StepSizeRule, step_size_rule
from cogen.inference.annealing.tuning import RecordedMetric, Tuning
from cogen.inference.kernels.hamiltonian import DIVERGENCE, mean_acceptance, transition_noise
from cogen.inference.kernels.kernel import Kernel, Own, Start
from cogen.inference.kernels.warmup_rounds import round_ends
from cogen.inference.targets.numpyro_target import Initial
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Point, Target, evaluate

Array = jax.Array


class Moments(NamedTuple):
    """The mean and sum of squared deviations (dim,) over all chains since the round began."""

    draws: Array
    mean: Array
    square: Array

    def add(self, u: Array) -> Moments:
        """Add the positions (chain, dim) of one transition (Chan, Golub and LeVeque 1983)."""
        draws = self.draws + u.shape[0]
        mean = u.mean(axis=0)
        delta = mean - self.mean
        within = ((u - mean) ** 2).sum(axis=0)
        return Moments(
            draws,
            self.mean + delta * u.shape[0] / draws,
            self.square + within + delta**2 * self.draws * u.shape[0] / draws,
        )

    def scale(self) -> Array:
        """Standard deviations, shrunk towards a small number for few draws (Stan's regularisation of its mass matrix)."""
        variance = self.square / jnp.maximum(self.draws - 1.0, 1.0)
        return jnp.sqrt((self.draws * variance + 5e-3) / (self.draws + 5.0))


class LangevinState(NamedTuple):
    """The input of the next transition of an item's chains."""

    iteration: Array
    """The number of transitions made."""
    beta: Array
    """The inverse temperature of the invariant density: one."""
    point: Point
    nonfinite: Array
    """The number of proposals with a non-finite gradient or log density, (chain,)."""
    scale: Array | None
    """M^(1/2): None, (dim,) or lower triangular (dim, dim)."""
    moments: Moments
    adaptation: Any

    @property
    def position(self) -> Array:
        return self.point.u


class LangevinInfo(NamedTuple):
    """Statistics of a transition for every chain."""

    acceptance_rate: Array | None
    """The acceptance probability of the proposal; None for ULA, which does not compute it."""
    step_size: Array
    diverging: Array
    """Whether the proposal's acceptance probability was below exp(-1000) or NaN."""
    nonfinite: Array
    """The number of proposals so far that had a non-finite gradient or log density (rejected, also by ULA)."""
    lp: Array
    """The unnormalised log density, in unconstrained coordinates."""
    n_steps: Array
    """Gradient evaluations: one."""


@dataclass(frozen=True, eq=False)
class LangevinSettings:
    """Settings of Langevin dynamics.

    :param metropolis: accept or reject proposals (MALA), or accept all (ULA), with a bias that depends on the step size (see
        `cogen.inference.kernels.langevin`).
    :param step_size: h, a fixed positive number, or for MALA an adaptation rule for the warm-up; default a rule with target
        acceptance 0.574. ULA requires a number.
    :param preconditioner: M: None (identity), (dim,) its diagonal or (dim, dim), positive definite, in unconstrained
        coordinates; or a `RecordedMetric` for each item.
    :param adapt_preconditioner: estimate the diagonal of M by the variance over all chains, in rounds of doubling length. h is
        then in units of the posterior's standard deviations. A warm-up shorter than 11 transitions has no rounds.
    :param initial: q0, a distribution of the model's library over the latent site (or a mapping over sites), or a guide start
        (`GuideStart`, `PyroGuideStart`); default the prior.
    :raises ValueError: for values out of these ranges.
    """

    metropolis: bool = True
    step_size: StepSizeRule | float | None = None
    preconditioner: Any = None
    adapt_preconditioner: bool = False
    initial: Initial = None

    def __post_init__(self) -> None:
        rule = step_size_rule(self.step_size) if self.step_size is not None else ConstantGain(target=0.574)
        if not self.metropolis and not isinstance(rule, Fixed):
            raise ValueError(
                f"step_size={self.step_size}: ULA rejects no proposals and cannot adapt its step size: give a number"
            )
        if self.preconditioner is not None and self.adapt_preconditioner:
            raise ValueError("preconditioner was given and adapt_preconditioner=True would replace it: choose one")
        object.__setattr__(self, "step_size", rule)  # the dataclass is frozen
        _ = self.root  # checks the preconditioner

    @property
    def rule(self) -> StepSizeRule:
        """``step_size`` as a rule."""
        return self.step_size  # type: ignore[return-value]

    @cached_property
    def root(self) -> np.ndarray | None:
        """M^(1/2), float64: (dim,) or lower triangular (dim, dim)."""
        if self.preconditioner is None or isinstance(self.preconditioner, RecordedMetric):
            return None
        return _root(np.asarray(self.preconditioner, np.float64))

    @property
    def tunable(self) -> bool:
        """Whether a pilot can adapt these settings."""
        return self.rule.adapts or self.adapt_preconditioner

    def frozen(self, pilot: Tuning) -> Self:
        """These settings with the step sizes and, if adapted, the metric of a pilot.

        :raises TypeError: unless ``pilot`` is a `Tuning`.
        """
        if not isinstance(pilot, Tuning):
            raise TypeError(f"Langevin settings are frozen from the Tuning of a pilot, not from a {type(pilot).__name__}")
        changed: dict[str, Any] = {"step_size": pilot.steps} if self.rule.adapts else {}
        if self.adapt_preconditioner:
            changed |= {"adapt_preconditioner": False, "preconditioner": pilot.metric}
        return replace(self, **changed)

    @property
    def recorded(self) -> np.ndarray | None:
        """The ids of the items with recorded step sizes or metrics, if known."""
        ids = (getattr(each, "ids", None) for each in (self.step_size, self.preconditioner))
        return next((each for each in ids if each is not None), None)

    def own(self, num_warmup: int) -> Own:
        """The per-item values of the settings."""
        metric = self.preconditioner.variance if isinstance(self.preconditioner, RecordedMetric) else None
        return Own.of(self.rule, self.initial)._replace(variance=metric)


@dataclass(frozen=True, eq=False)
class LangevinKernel(Kernel):
    """The transitions of MALA or ULA."""

    settings: LangevinSettings
    num_warmup: int
    num_chains: int

    gradients_to_start = 1

    def metric(self, state: LangevinState) -> Array | None:
        return state.scale**2 if self.settings.adapt_preconditioner and state.scale is not None else None

    def log_density(self, state: LangevinState) -> Array:
        return jax.vmap(lambda point: point.log_density(state.beta))(state.point)

    def path(self, state: LangevinState, info: LangevinInfo) -> dict[str, Array]:
        accepted = {} if info.acceptance_rate is None else {"acceptance_rate": info.acceptance_rate.mean()}
        return {
            **accepted,
            "step_size": info.step_size[0],
            "lp": info.lp.mean(),
            "diverging": info.diverging.sum(),
        }

    def init(self, target: Target, key: Array, start: Start) -> LangevinState:
        scale = None if self.settings.root is None else real(self.settings.root)
        if scale is not None and scale.shape[0] != target.dim:
            raise ValueError(f"preconditioner has shape {scale.shape}, the model has {target.dim} unconstrained coordinates")
        own = target.own or Own()
        if self.settings.adapt_preconditioner:
            scale = jnp.ones(target.dim)
        elif own.variance is not None:
            scale = jnp.sqrt(own.variance)
        return LangevinState(
            iteration=jnp.int32(0),
            beta=real(1.0),
            point=jax.vmap(lambda u: evaluate(target, u))(start.positions(target, key)),
            nonfinite=jnp.zeros(self.num_chains, jnp.int32),
            scale=scale,
            moments=_no_moments(target.dim),
            adaptation=self.settings.rule.init(own.steps),
        )

    def step(self, target: Target, key: Array, state: LangevinState) -> tuple[LangevinState, LangevinInfo]:
        settings, beta = self.settings, state.beta
        round_over = (state.iteration == np.asarray(round_ends(self.num_warmup), np.int32)).any()
        scale, moments = state.scale, state.moments
        if scale is not None and settings.adapt_preconditioner:
            scale = jnp.where(round_over, moments.scale(), scale)
            moments = jax.tree.map(lambda new, old: jnp.where(round_over, new, old), _no_moments(target.dim), moments)
        step = settings.rule.step_size(state.adaptation, beta)
        normal, uniform = transition_noise(key, self.num_chains, target.dim)
        end = jax.vmap(lambda start, xi: propose(target, start, xi, beta, step, scale))(state.point, normal)
        gain = jax.vmap(lambda start, end, xi: log_ratio(start, end, xi, beta, step, scale))(state.point, end, normal)
        nonfinite = jnp.isnan(gain) | ~jnp.isfinite(end.gradient(beta)).all(axis=1)
        acceptance = jnp.where(nonfinite, 0.0, jnp.minimum(1.0, jnp.exp(gain)))
        accepted = uniform[:, 0] < acceptance if settings.metropolis else ~nonfinite
        point = jax.vmap(choose)(accepted, end, state.point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(state.iteration < self.num_warmup, new, old),
            settings.rule.update(state.adaptation, mean_acceptance(acceptance, state.point)),
            state.adaptation,
        )
        new = state._replace(
            iteration=state.iteration + 1,
            point=point,
            nonfinite=state.nonfinite + nonfinite,
            scale=scale,
            moments=moments.add(point.u) if settings.adapt_preconditioner else moments,
            adaptation=adaptation,
        )
        return new, LangevinInfo(
            acceptance_rate=acceptance if settings.metropolis else None,
            step_size=jnp.full(self.num_chains, step),
            diverging=~(gain > -DIVERGENCE) & ~end.excluded,
            nonfinite=new.nonfinite,
            lp=self.log_density(new),
            n_steps=jnp.ones(self.num_chains, jnp.int32),
        )


class Langevin(EnsembleKernel, settings=LangevinSettings, kernel=LangevinKernel):
    """MALA or ULA from draws of q0. Adaptation is shared by the chains of an item, and stops after the warm-up."""

    settings: LangevinSettings


def propose(target: Target, start: Point, normal: Array, beta: Array, step: Array, scale: Array | None) -> Point:
    """The proposal x' with its gradients, the one evaluation of a transition."""
    return evaluate(target, euler(start.u, start.gradient(beta), normal, step, scale))


def euler(u: Array, gradient: Array, normal: Array, step: Array, scale: Array | None) -> Array:
    """The proposal x' from x and the gradient at x."""
    return u + step * _times(scale, normal + 0.5 * step * _transposed(scale, gradient))


def log_ratio(start: Point, end: Point, normal: Array, beta: Array, step: Array, scale: Array | None) -> Array:
    """The log of the acceptance ratio."""
    pull = 0.5 * step * _transposed(scale, start.gradient(beta) + end.gradient(beta))
    return end.log_density_gain(start, beta) + proposal_log_ratio(normal, pull)


def proposal_log_ratio(normal: Array, pull: Array) -> Array:
    """log q(x | x') - log q(x' | x): the reverse move has noise -(xi + pull), with pull = (h / 2) M^(1/2) (grad + grad')."""
    return -jnp.dot(pull, normal + 0.5 * pull)


def choose(accepted: Array, end: Point, start: Point) -> Point:
    """The accepted proposal, or the start, with their evaluations."""
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, start)


def _no_moments(dim: int) -> Moments:
    return Moments(real(0.0), jnp.zeros(dim), jnp.zeros(dim))


def _root(matrix: np.ndarray) -> np.ndarray:
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not (matrix.ndim == 1 or square):
        raise ValueError(f"preconditioner has shape {matrix.shape}: give a diagonal (dim,) or a matrix (dim, dim)")
    if matrix.ndim == 1:
        if not (np.isfinite(matrix).all() and (matrix > 0).all()):
            raise ValueError("preconditioner: its diagonal must be positive, as variances are")
        return np.sqrt(matrix)
    try:
        if not np.allclose(matrix, matrix.T, rtol=1e-5):
            raise np.linalg.LinAlgError
        return np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        raise ValueError("preconditioner: the matrix must be symmetric and positive definite, as covariances are") from None


def _times(scale: Array | None, vector: Array) -> Array:
    if scale is None:
        return vector
    return scale * vector if scale.ndim == 1 else scale @ vector


def _transposed(scale: Array | None, vector: Array) -> Array:
    return _times(scale.T if scale is not None and scale.ndim == 2 else scale, vector)

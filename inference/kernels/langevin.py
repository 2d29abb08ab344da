"""Langevin dynamics at beta = 1, Metropolis-adjusted (MALA) or not (ULA).

A diffusion along the gradient of the log posterior leaves it invariant; a transition is one Euler step of it,

    x' = x + (h^2 / 2) M grad log p(x, y) + h M^(1/2) xi,        xi ~ Normal(0, I),

with a preconditioner M that is, at best, the posterior covariance. MALA accepts it with the probability

    min(1, p(x', y) q(x | x') / (p(x, y) q(x' | x))),

which is exact; its step size is led to an acceptance of 0.574, the best one in many dimensions. ULA accepts everything and is
biased on purpose: it needs no step control and never stands still. For a normal posterior with covariance M, ULA's draws have
the covariance M / (1 - h^2 / 4) (they form an AR(1) series with the coefficient 1 - h^2 / 2): too wide by 0.25 % at h = 0.1, by
a third at h = 1, and without bound at h = 2. In general the bias is of order h^2, in the units of the narrowest direction of
M^(-1/2) x.

    Roberts and Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations
    (both algorithms; h there is h^2 here);
    Roberts and Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions (0.574).

A transition costs one gradient evaluation, and MALA is an HMC trajectory of one leapfrog step. Where the posterior has several
modes, its chains stay in theirs: see `AnnealedHMC` and `ParallelTempering`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel, chain_keys
from cogen.inference.annealing.step_size import ConstantGain, Fixed, StepSizeRule, check_recorded, step_size_rule
from cogen.inference.kernels.hamiltonian import DIVERGENCE, mean_acceptance, transition_noise
from cogen.inference.kernels.warmup_rounds import round_ends
from cogen.inference.targets.numpyro_target import Initial, Point, Target, evaluate
from cogen.inference.targets.sums import real

Array = jax.Array


class Moments(NamedTuple):
    """Mean and sum of squared deviations (dim,) of all chains since the round began."""

    draws: Array
    mean: Array
    square: Array

    def add(self, u: Array) -> Moments:
        """With the positions (chain, dim) of one transition (Chan, Golub and LeVeque 1983)."""
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
        """Standard deviations, drawn towards a small number while there are few draws (Stan's rule for its mass matrix)."""
        variance = self.square / jnp.maximum(self.draws - 1.0, 1.0)
        return jnp.sqrt((self.draws * variance + 5e-3) / (self.draws + 5.0))


class LangevinState(NamedTuple):
    """The state of all chains of one item."""

    i: Array
    """Transitions made."""
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    acceptance_rate: Array
    """Acceptance probability of the last proposal. ULA does not ask for it: there it is no statistic of the run."""
    step_size: Array
    diverging: Array
    """Whether the last proposal's acceptance probability was below exp(-1000) or not a number."""
    nonfinite: Array
    """How many proposals, since the start, had a gradient or density that was no number (rejected, also by ULA)."""
    lp: Array
    """Log density, unnormalised, in unconstrained coordinates."""
    n_steps: Array
    """Gradient evaluations of the last transition: one."""
    point: Point
    scale: Array | None
    """M^(1/2): None, (dim,) or lower triangular (dim, dim)."""
    moments: Moments
    adaptation: Any
    rng_key: Array


class Langevin(EnsembleKernel):
    """MALA or ULA from draws of q0. What the warm-up learns is shared by the chains of an item, and frozen for the draws.

    :param model: a conditioned NumPyro model, or None for a recipe that `infer` binds.
    :param metropolis: accept or reject (MALA), or not (ULA), which is biased by its step size: the module says how much.
    :param step_size: h, a fixed positive number, or for MALA a rule that is followed during the warm-up; default towards an
        acceptance of 0.574. ULA has no acceptance and needs a number.
    :param preconditioner: M: None (identity), (dim,) its diagonal or (dim, dim), positive definite, over the unconstrained
        coordinates.
    :param adapt_preconditioner: take the diagonal of M from the variance of all chains, in rounds of doubling length. h then
        is in units of the posterior's standard deviations. A warm-up shorter than 11 transitions has no rounds.
    :param initial: q0, a NumPyro distribution over the latent site (or a mapping over sites), or a `GuideStart`; default
        the prior.

    Raises ValueError for values out of these ranges.
    """

    gradients_to_start = 1

    def __init__(
        self,
        model: Callable | None = None,
        *,
        metropolis: bool = True,
        step_size: StepSizeRule | float | None = None,
        preconditioner: Any = None,
        adapt_preconditioner: bool = False,
        initial: Initial = None,
    ) -> None:
        super().__init__(model)
        rule = None if step_size is None else step_size_rule(step_size)
        if not metropolis and not isinstance(rule, Fixed):
            raise ValueError(f"step_size={step_size}: ULA rejects nothing from which a rule could learn, so it needs a number")
        if preconditioner is not None and adapt_preconditioner:
            raise ValueError("preconditioner was given and adapt_preconditioner=True would replace it: choose one")
        self.metropolis = metropolis
        self.step_size: StepSizeRule = ConstantGain(target=0.574) if rule is None else rule
        self.adapt_preconditioner = adapt_preconditioner
        self.initial = initial
        self._scale = None if preconditioner is None else _root(np.asarray(preconditioner, np.float64))
        fields = LangevinState._fields[1:-5]
        self.chain_fields = fields if metropolis else tuple(name for name in fields if name != "acceptance_rate")

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        super().prepare(num_warmup, num_chains)
        check_recorded(self.step_size, self._num_items)
        self._round_ends = np.asarray(round_ends(num_warmup), np.int32)

    def path(self, state: LangevinState) -> dict[str, Array]:
        return {
            "acceptance_rate": state.acceptance_rate.mean(),
            "step_size": state.step_size[0],
            "lp": state.lp.mean(),
            "diverging": state.diverging.sum(),
        }

    def get_diagnostics_str(self, state: LangevinState) -> str:
        return f"acc. prob {jnp.mean(state.acceptance_rate):.2f}, step {jnp.ravel(state.step_size)[0]:.2e}"

    def _init(self, target: Target, key: Array, num_chains: int) -> LangevinState:
        scale = None if self._scale is None else real(self._scale)
        if scale is not None and scale.shape[0] != target.dim:
            raise ValueError(f"preconditioner has shape {scale.shape}, the model has {target.dim} unconstrained coordinates")
        if self.adapt_preconditioner:
            scale = jnp.ones(target.dim)
        init_key, rng_key = jax.random.split(key)
        point = jax.vmap(lambda k: evaluate(target, target.draw(k)))(chain_keys(init_key, num_chains))
        nothing = jnp.zeros(num_chains)
        adaptation = self.step_size.init(self._item)
        return LangevinState(
            i=jnp.int32(0),
            z=jax.vmap(target.sites)(point.u),
            acceptance_rate=nothing,
            step_size=jnp.full(num_chains, self.step_size.step_size(adaptation, real(1.0))),
            diverging=nothing > 0,
            nonfinite=jnp.zeros(num_chains, jnp.int32),
            lp=jax.vmap(lambda p: p.log_density(real(1.0)))(point),
            n_steps=jnp.ones(num_chains, jnp.int32),
            point=point,
            scale=scale,
            moments=_no_moments(target.dim),
            adaptation=adaptation,
            rng_key=rng_key,
        )

    def _sample(self, target: Target, state: LangevinState) -> LangevinState:
        num_chains = state.lp.shape[0]
        round_over = (state.i == self._round_ends).any()
        scale, moments = state.scale, state.moments
        if scale is not None and self.adapt_preconditioner:
            scale = jnp.where(round_over, moments.scale(), scale)
            moments = jax.tree.map(lambda new, old: jnp.where(round_over, new, old), _no_moments(target.dim), moments)
        step = self.step_size.step_size(state.adaptation, real(1.0))
        normal, uniform = transition_noise(jax.random.fold_in(state.rng_key, state.i), num_chains, target.dim)
        end = jax.vmap(lambda start, xi: propose(target, start, xi, step, scale))(state.point, normal)
        gain = jax.vmap(lambda start, end, xi: log_ratio(start, end, xi, step, scale))(state.point, end, normal)
        nonfinite = jnp.isnan(gain) | ~jnp.isfinite(end.gradient(real(1.0))).all(axis=1)
        acceptance = jnp.where(nonfinite, 0.0, jnp.minimum(1.0, jnp.exp(gain)))
        accepted = uniform[:, 0] < acceptance if self.metropolis else ~nonfinite
        point = jax.vmap(choose)(accepted, end, state.point)
        adaptation = jax.tree.map(
            lambda new, old: jnp.where(state.i < self._num_warmup, new, old),
            self.step_size.update(state.adaptation, mean_acceptance(acceptance, state.point)),
            state.adaptation,
        )
        return LangevinState(
            i=state.i + 1,
            z=jax.vmap(target.sites)(point.u),
            acceptance_rate=acceptance,
            step_size=jnp.full(num_chains, step),
            diverging=~(gain > -DIVERGENCE) & ~end.excluded,
            nonfinite=state.nonfinite + nonfinite,
            lp=jax.vmap(lambda p: p.log_density(real(1.0)))(point),
            n_steps=jnp.ones(num_chains, jnp.int32),
            point=point,
            scale=scale,
            moments=moments.add(point.u) if self.adapt_preconditioner else moments,
            adaptation=adaptation,
            rng_key=state.rng_key,
        )


def propose(target: Target, start: Point, normal: Array, step: Array, scale: Array | None) -> Point:
    """x' and its gradients: the one evaluation of a transition."""
    pulled = normal + 0.5 * step * _transposed(scale, start.gradient(real(1.0)))
    return evaluate(target, start.u + step * _times(scale, pulled))


def log_ratio(start: Point, end: Point, normal: Array, step: Array, scale: Array | None) -> Array:
    """The log of the acceptance ratio."""
    one = real(1.0)
    pull = 0.5 * step * _transposed(scale, start.gradient(one) + end.gradient(one))
    return end.log_density_gain(start, one) + proposal_log_ratio(normal, pull)


def proposal_log_ratio(normal: Array, pull: Array) -> Array:
    """log q(x | x') - log q(x' | x): the way back takes the noise -(xi + pull), with pull = (h / 2) M^(1/2) (grad + grad')."""
    return -jnp.dot(pull, normal + 0.5 * pull)


def choose(accepted: Array, end: Point, start: Point) -> Point:
    """The position and everything known about it, together."""
    return jax.tree.map(lambda new, old: jnp.where(accepted, new, old), end, start)


def _no_moments(dim: int) -> Moments:
    return Moments(real(0.0), jnp.zeros(dim), jnp.zeros(dim))


def _root(matrix: np.ndarray) -> np.ndarray:
    square = matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1]
    if not (matrix.ndim == 1 or square):
        raise ValueError(f"preconditioner has shape {matrix.shape}: a diagonal (dim,) or a matrix (dim, dim) is needed")
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

"""One Hamiltonian trajectory of every chain of every item in torch: the sister of `hamiltonian`.

    p ~ Normal(0, M),   L leapfrog steps of size e along d log pi_beta,   accept with probability min(1, exp(gain)),

each chain with its own accept decision, each item with its own step size and inverse temperature (Neal 2011, MCMC using
Hamiltonian dynamics, section 5.3).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import Point, PyroTarget

DIVERGENCE = 1000.0
"""An energy error above this many nats is a divergence, as in Pyro."""


class Transition(NamedTuple):
    """What became of the trajectories, each (chain, item)."""

    point: Point
    acceptance: Tensor
    diverging: Tensor
    energy: Tensor
    nonfinite: Tensor
    """Whether the trajectory met anything that is not finite."""


def transition_noise(random: Random, num_chains: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """All randomness of one transition: (chain, item, dim) normals and (chain, item, 3) uniforms on [0, 1). A chain's numbers
    do not depend on how many chains there are."""
    normal = np.stack([numbers.standard_normal((num_chains, dim)) for numbers in random.streams(0)], axis=1)
    uniform = np.stack([numbers.random((num_chains, 3)) for numbers in random.streams(1)], axis=1)
    return torch.from_numpy(normal).to(like), torch.from_numpy(uniform).to(like.device)


def trajectory(
    target: PyroTarget,
    normal: Tensor,
    uniform: Tensor,
    start: Point,
    beta: Tensor,
    step: Tensor,
    num_leapfrog: int,
    inverse_mass: Tensor | None,
) -> Transition:
    """``normal`` (chain, item, dim) becomes the momenta, ``uniform`` (chain, item) decides; ``step`` is (chain, item), ``beta``
    (item,). A trajectory that ends where the density is zero is rejected, and no divergence."""
    momentum, step = _momentum(normal, inverse_mass), step[..., None]
    u, p = start.u, momentum + 0.5 * step * start.gradient(beta)
    lost = torch.zeros_like(uniform, dtype=torch.bool)
    for leap in range(num_leapfrog):
        u = u + step * _velocity(p, inverse_mass)
        # A chain that is lost goes on from its start: one NaN makes torch.linalg raise for the whole batch.
        lost = lost | ~u.isfinite().all(-1)
        u = torch.where(lost[..., None], start.u, u)
        if leap < num_leapfrog - 1:
            p = p + step * target.gradient(u, beta)
    end = target.evaluate(u)
    p = p + 0.5 * step * end.gradient(beta)

    kinetic, kinetic_start = (0.5 * (q * _velocity(q, inverse_mass)).sum(-1, dtype=torch.float64) for q in (p, momentum))
    gain = end.log_density_gain(start, beta) - (kinetic - kinetic_start)
    nonfinite = lost | gain.isnan() | ~p.isfinite().all(-1)
    diverging = nonfinite | (~(gain > -DIVERGENCE) & ~end.excluded)
    acceptance = torch.where(nonfinite, 0.0, gain.exp().clamp(max=1.0))
    accepted = uniform < acceptance
    point = end.where(accepted, start)
    energy = torch.where(accepted, kinetic, kinetic_start) - point.log_density(beta)
    return Transition(point, acceptance, diverging, energy, nonfinite)


def mean_acceptance(acceptance: Tensor, start: Point) -> Tensor:
    """What step sizes (item,) learn from: not from chains that start where the density is zero, unless all do."""
    counted = ~start.excluded
    number = counted.sum(0)
    of_them = torch.where(counted, acceptance, 0.0).sum(0) / number.clamp(min=1)
    return torch.where((number == 0) | (number == len(acceptance)), acceptance.mean(0), of_them)


def _momentum(normal: Tensor, inverse_mass: Tensor | None) -> Tensor:
    if inverse_mass is None:
        return normal
    if inverse_mass.ndim == 1:
        return normal / inverse_mass.sqrt()
    flat = normal.reshape(-1, normal.shape[-1]).T
    solved = torch.linalg.solve_triangular(torch.linalg.cholesky(inverse_mass).T, flat, upper=True)
    return solved.T.reshape(normal.shape)


def _velocity(momentum: Tensor, inverse_mass: Tensor | None) -> Tensor:
    if inverse_mass is None:
        return momentum
    return inverse_mass * momentum if inverse_mass.ndim == 1 else momentum @ inverse_mass

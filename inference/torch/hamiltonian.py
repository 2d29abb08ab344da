"""One Hamiltonian trajectory of every chain of every item in torch: the counterpart of `cogen.inference.kernels.hamiltonian`.

    p ~ Normal(0, M),   L leapfrog steps of size e along d log pi_beta,   accept with probability min(1, exp(gain)),

with an accept decision per chain, and a step size and inverse temperature per item (Neal 2011, MCMC using Hamiltonian dynamics,
section 5.3).
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
    """The outcomes of the trajectories, arrays (chain, item)."""

    point: Point
    acceptance: Tensor
    diverging: Tensor
    energy: Tensor
    nonfinite: Tensor
    """Whether the trajectory had a non-finite position, gradient or log density."""


def transition_noise(random: Random, num_chains: int, dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """All random numbers of one transition: (chain, item, dim) normals and (chain, item, 3) uniforms, float64.

    A chain's numbers do not depend on the number of chains.
    """
    drawn = np.stack([numbers.standard_normal((num_chains, 3 + dim)) for numbers in random.generators()], axis=1)
    normal = torch.from_numpy(drawn).to(like.device)
    return normal[..., 3:].to(like.dtype), torch.special.ndtr(normal[..., :3])


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
    """Make one trajectory of every chain and accept or reject it.

    A trajectory that ends at density zero is rejected, and does not count as a divergence.

    :param normal: standard normal numbers that become the momenta, (chain, item, dim).
    :param uniform: the numbers that decide on acceptance, (chain, item).
    :param beta: inverse temperatures, (item,).
    :param step: step sizes, (chain, item).
    """
    momentum, step = _momentum(normal, inverse_mass), step[..., None]
    u, p = start.u, momentum + 0.5 * step * start.gradient(beta)
    lost = torch.zeros_like(uniform, dtype=torch.bool)
    for leap in range(num_leapfrog):
        u = u + step * _velocity(p, inverse_mass)
        # A non-finite chain continues from its start: one NaN makes torch.linalg raise for the whole batch.
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
    """The mean acceptance over chains for step-size adaptation, (item,).

    Chains that start at density zero are left out, unless all do.
    """
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

"""One Hamiltonian trajectory of every chain of every item in torch: the sister of `hamiltonian`.

    p ~ Normal(0, M),   L leapfrog steps of size e along d log pi_beta,   accept with probability min(1, exp(gain)),

each chain with its own accept decision, each item with its own step size and inverse temperature (Neal 2011, MCMC using
Hamiltonian dynamics, section 5.3).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

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


def transition_noise(
    generators: list[torch.Generator], waiting: list[bool], num_chains: int, dim: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """All randomness of one transition: (chain, item, dim) normals and (chain, item, 3) uniforms on [0, 1). Items that
    wait draw nothing, so that their later draws do not depend on how long they waited."""
    cpu = torch.device("cpu")
    normal, uniform = [], []
    for generator, waits in zip(generators, waiting, strict=True):
        if waits:
            normal.append(torch.zeros(num_chains, dim, dtype=like.dtype))
            uniform.append(torch.zeros(num_chains, 3, dtype=torch.float64))
        else:
            normal.append(torch.randn(num_chains, dim, generator=generator, dtype=like.dtype, device=cpu))
            uniform.append(torch.rand(num_chains, 3, generator=generator, dtype=torch.float64, device=cpu))
    return torch.stack(normal, dim=1).to(like.device), torch.stack(uniform, dim=1).to(like.device)


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
    gain = (end.reference - start.reference) + beta * (end.tilt - start.tilt) - (kinetic - kinetic_start)
    excluded, outside = _excluded(end), _excluded(start)  # as behind a hard constraint, where log q0 alone decides
    under_q0 = (end.reference - start.reference) - (kinetic - kinetic_start)
    gain = torch.where(excluded, torch.where(outside, under_q0, -torch.inf), gain)
    nonfinite = lost | gain.isnan() | ~p.isfinite().all(-1)
    diverging = nonfinite | (~(gain > -DIVERGENCE) & ~excluded)
    acceptance = torch.where(nonfinite, 0.0, gain.exp().clamp(max=1.0))
    accepted = uniform < acceptance

    def chosen(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(accepted.reshape(accepted.shape + (1,) * (new.ndim - 2)), new, old)

    point = end.map(chosen, start)
    energy = torch.where(accepted, kinetic, kinetic_start) - point.log_density(beta)
    return Transition(point, acceptance, diverging, energy, nonfinite)


def mean_acceptance(acceptance: Tensor, start: Point) -> Tensor:
    """What step sizes (item,) learn from: not from chains that start where the density is zero, unless all do."""
    counted = ~_excluded(start)
    number = counted.sum(0)
    of_them = torch.where(counted, acceptance, 0.0).sum(0) / number.clamp(min=1)
    return torch.where((number == 0) | (number == len(acceptance)), acceptance.mean(0), of_them)


def _excluded(point: Point) -> Tensor:
    return point.reference.isneginf() | point.tilt.isneginf()


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

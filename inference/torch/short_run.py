"""Langevin steps on an energy in torch, for training and refinement, without a graph for gradients.

    y' = y + r grad f(y) + s xi,    xi ~ Normal(0, I),

from a given start. With r = delta^2 / 2 and s = delta this is the Langevin equation of exp f (`ShortRun.langevin`), with other
values that of exp(f / T) at the temperature T = s^2 / 2 r. In practice energies are trained at temperatures far below one, or
without noise, where the chains perform gradient ascent on f.

Memory does not grow with the number of steps, and the weights of f get no gradient.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Eq. 5, and its correction by Metropolis and Hastings).
    Nijkamp, Hill, Zhu, Wu. Learning non-convergent non-persistent short-run MCMC toward energy-based model. NeurIPS 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from cogen.inference.torch.langevin import proposal_log_ratio

Value = Callable[[Tensor], Tensor]
"""The function f, (batch, *event) -> (batch,); each value depends on its own y only."""


class ChainsLost(FloatingPointError):
    """Chains that left their range or became non-finite."""


@dataclass(frozen=True)
class ShortRun:
    """A fixed number of Langevin steps.

    :param steps: the number of steps, >= 1.
    :param rate: r, the factor of the gradient, positive.
    :param noise: s, the standard deviation of a step's noise, >= 0; 0 is gradient ascent.
    :param reference_scale: if given, -|y|^2 / 2 scale^2 is added to f: the Gaussian reference of an `EnergyModel`.
    :param clip: the largest move of an entry by the gradient in one step.
    :param bounds: the interval to which entries are clamped.
    :param limit: a chain with an entry beyond +- limit is lost.
    :param metropolis: accept or reject each step, which leaves exp(f / T) invariant.
    :raises ValueError: for numbers out of range, and for ``metropolis`` with clipped moves, bounds or without noise, since such
        steps have no reverse.
    """

    steps: int
    rate: float
    noise: float
    reference_scale: float | None = None
    clip: float | None = None
    bounds: tuple[float, float] | None = None
    limit: float | None = None
    metropolis: bool = False

    def __post_init__(self) -> None:
        positive = {"rate": self.rate, "clip": self.clip, "limit": self.limit, "reference_scale": self.reference_scale}
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value}: it must be positive")
        if self.steps < 1 or self.noise < 0:
            raise ValueError(f"steps={self.steps}, noise={self.noise}: steps must be at least 1, and noise at least 0")
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(self.bounds))  # JSON has lists only
            if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
                raise ValueError(f"bounds={self.bounds}: give two numbers, the lower one first")
        if self.metropolis and (self.noise == 0 or self.clip is not None or self.bounds is not None):
            raise ValueError(
                "metropolis=True with clip, bounds or noise=0: the correction requires plain Langevin steps; omit clip and"
                " bounds, and give noise > 0"
            )

    @classmethod
    def langevin(cls, steps: int, step_size: float, **more: float | bool | None) -> Self:
        """Steps with rate step_size^2 / 2 and noise step_size, at temperature one (Eq. 5)."""
        return cls(steps, step_size**2 / 2, step_size, **more)  # type: ignore[arg-type]

    @property
    def temperature(self) -> float:
        """T = s^2 / 2 r; without clipping the steps are those of exp(f / T)."""
        return self.noise**2 / (2 * self.rate)

    def __call__(self, value: Value, start: Tensor, *, free: Tensor | None = None) -> Tensor:
        """Run the steps from ``start`` (batch, *event), with noise from torch's global generator.

        :param value: the function f.
        :param free: a boolean mask that broadcasts to the shape of the chains; entries where it is False are fixed.
        :returns: the end points, (batch, *event).
        :raises ChainsLost: for chains beyond the limit or non-finite; the message names a chain and its step.
        """
        y, limit = start.detach(), torch.finfo(start.dtype).max if self.limit is None else self.limit
        lost_at = torch.zeros(len(y), dtype=torch.int64, device=y.device)
        height, slope = self._evaluated(value, y)
        for step in range(1, self.steps + 1):
            normal = torch.randn_like(y)
            drift = self.rate * slope
            if self.clip is not None:
                drift = drift.clamp(-self.clip, self.clip)
            move = drift + self.noise * normal
            new = y + (move if free is None else torch.where(free, move, 0.0))
            if self.bounds is not None:
                new = new.clamp(*self.bounds)
            if self.metropolis:
                new_height, new_slope = self._evaluated(value, new)
                accepted = self._accepted(height, new_height, slope, new_slope, normal, free)
                shown = accepted.reshape(-1, *(1,) * (y.ndim - 1))
                height = torch.where(accepted, new_height, height)
                y, slope = torch.where(shown, new, y), torch.where(shown, new_slope, slope)
            else:
                y = new
                if step < self.steps:
                    _, slope = self._evaluated(value, y)
            bad = ~(y.abs().flatten(1).amax(1) <= limit)  # NaN is not
            lost_at = torch.where((lost_at == 0) & bad, step, lost_at)
        if (lost_at > 0).any():
            chain = int((lost_at > 0).nonzero()[0, 0])
            range_of = "finite" if self.limit is None else f"within +-{self.limit:g}"
            raise ChainsLost(
                f"{int((lost_at > 0).sum())} of {len(y)} chains are no longer {range_of}; chain {chain} left at Langevin step"
                f" {int(lost_at[chain])} of {self.steps}"
            )
        return y

    def _evaluated(self, value: Value, y: Tensor) -> tuple[Tensor, Tensor]:
        """f plus the reference, (batch,), and the gradient with respect to y."""
        y = y.detach().requires_grad_()
        with torch.enable_grad():
            height = value(y)
            (slope,) = torch.autograd.grad(height.sum(), y)
        height, y = height.detach(), y.detach()
        if self.reference_scale is None:
            return height, slope
        return height - y.square().flatten(1).sum(1) / (2 * self.reference_scale**2), slope - y / self.reference_scale**2

    def _accepted(
        self, height: Tensor, new_height: Tensor, slope: Tensor, new_slope: Tensor, normal: Tensor, free: Tensor | None
    ) -> Tensor:
        """Whether the proposals from points with ``height`` and ``slope`` are accepted, (batch,)."""
        pull = self.rate / self.noise * (slope + new_slope)
        if free is not None:
            pull = torch.where(free, pull, 0.0)
        log_ratio = (new_height - height) / self.temperature + proposal_log_ratio(normal.flatten(1), pull.flatten(1))
        return torch.rand_like(height) < log_ratio.exp()

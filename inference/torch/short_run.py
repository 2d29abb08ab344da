"""Langevin steps on an energy in torch, for its learning and for what it refines: no graph runs through them.

    y' = y + r grad f(y) + s xi,    xi ~ Normal(0, I),

from wherever y begins. With r = delta^2 / 2 and s = delta that is the Langevin equation of exp f (`ShortRun.langevin`), with
other numbers that of exp(f / T) at the temperature T = s^2 / 2 r. What energies are trained with in practice is far colder than
one, or has no noise at all: then the chains climb, and no density stands behind them but exp(f / T).

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
"""f, (batch, *event) -> (batch,), each value from its own y alone."""


class ChainsLost(FloatingPointError):
    """Chains that left their range or are no longer finite."""


@dataclass(frozen=True)
class ShortRun:
    """So many Langevin steps.

    :param steps: at least 1.
    :param rate: r, of the gradient, positive.
    :param noise: s, the standard deviation of a step's noise; 0 climbs.
    :param reference_scale: where given, -|y|^2 / 2 scale^2 is added to f: the Gaussian reference of an `EnergyModel`.
    :param clip: the gradient moves no entry further than that in a step.
    :param bounds: entries are kept in this interval.
    :param limit: a chain with an entry beyond +- limit is lost.
    :param metropolis: accept or reject each step, so that exp(f / T) is left as it is.

    Raises ValueError for numbers out of range, and for ``metropolis`` with clipped moves, bounds or without noise: these are no
    steps that have a reverse.
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
            raise ValueError(f"steps={self.steps}, noise={self.noise}: at least one step, and a noise of 0 or more")
        if self.bounds is not None:
            object.__setattr__(self, "bounds", tuple(self.bounds))  # JSON has lists only
            if len(self.bounds) != 2 or not self.bounds[0] < self.bounds[1]:
                raise ValueError(f"bounds={self.bounds}: two numbers, the lower one first")
        if self.metropolis and (self.noise == 0 or self.clip is not None or self.bounds is not None):
            raise ValueError(
                "metropolis=True with clip, bounds or noise=0: only a step of the Langevin equation can be corrected; leave"
                " these out"
            )

    @classmethod
    def langevin(cls, steps: int, step_size: float, **more: float | bool | None) -> Self:
        """With the rate step_size^2 / 2 and the noise step_size, at the temperature one (Eq. 5)."""
        return cls(steps, step_size**2 / 2, step_size, **more)  # type: ignore[arg-type]

    @property
    def temperature(self) -> float:
        """T = s^2 / 2 r: the steps are those of exp(f / T), where nothing is clipped."""
        return self.noise**2 / (2 * self.rate)

    def __call__(self, value: Value, start: Tensor, *, free: Tensor | None = None) -> Tensor:
        """Where chains that begin at ``start`` (batch, *event) are after the steps.

        ``free`` is boolean, of a shape that broadcasts to that of the chains: the entries where it is False stay. The noise is
        that of torch's random numbers.

        Raises `ChainsLost`, saying which and at which step, for chains beyond the limit or not finite.
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
        """f with the reference, (batch,), and its gradient in y."""
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
        """(batch,), of the proposals that began at ``height`` and ``slope``."""
        pull = self.rate / self.noise * (slope + new_slope)
        if free is not None:
            pull = torch.where(free, pull, 0.0)
        log_ratio = (new_height - height) / self.temperature + proposal_log_ratio(normal.flatten(1), pull.flatten(1))
        return torch.rand_like(height) < log_ratio.exp()

"""Cooperative networks: a fast initializer makes y from noise, a slow solver refines it, and each learns from the next stage.

    y0 = g(z, c) + start_noise eps,    z ~ Normal(0, I)             the initializer
    y1 = a few Langevin steps of f(., c) from y0                    the solver (`ShortRun`)

    solver:        ascend  mean f(y, c) - mean f(y1, c)             objective shift, from refined to observed (Eqs. 4, 6, 17)
    initializer:   descend mean |y1 - g(z, c)|^2 / 2 sigma^2        mapping shift, with the z that made y0 (Eqs. 8, 18)

c is a class, or a condition image as in `cogen.models.families.pix2pix`; the initializer's loss may then include ``weight``
times its mean absolute difference from y (4.2.2). If c is y with a hidden part, only hidden entries move (4.2.4).
The initializer needs no inference of z, since it drew z; the solver needs no long chains, since the initializer starts them
near the data. Without a class these are the CoopNets of Xie et al. 2018.

The density that a solver learns is exp(f / T) at the temperature of its steps (`ShortRun.temperature`), with the Gaussian
reference of the steps, if any. `RECIPE` and `CONDITIONAL` are for small budgets: the value is a mean over units and small,
since its square and its gradient are penalised; steps are clipped, y stays in [-1, 1], and there is no reference. As a density
such a solver is very cold. The paper's networks and constants are in `cogen.models.families.published_coopnets`.

Training has failed when the solver separates refined samples from the data and a few steps cannot bring them together. The gap,
the difference of the mean values in units of their standard deviation, both over about a hundred steps, is tracked. From the
hundredth step on, training stops when the gap exceeds ``largest_gap``.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Algorithm 1).
    Xie, Lu, Gao, Zhu, Wu. Cooperative training of descriptor and generator networks. IEEE TPAMI 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss
from torch.optim import Optimizer

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.ebm import objective_shift, run_of
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.gan import squared_gradient
from cogen.models.families.pix2pix import DROPOUT
from cogen.models.families.pix2pix import RECIPE as TRANSLATION
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import PairSizes, Sizes

MEMORY = 100
"""Number of training steps over which values are averaged."""


def mapping_shift(refined: Tensor, made: Tensor, scale: float) -> Tensor:
    """The initializer's loss, of refined samples and its output for the same z, (batch, *event) each."""
    return (refined - made).square().mean() / (2 * scale**2)


class CoopNets(Family):
    """An initializer and a solver; labels or condition images in the batch are inputs of both.

    `step` raises FloatingPointError if chains become non-finite or the gap is too large.

    :param generator: the initializer g, (z) or (z, c) -> y.
    :param energy: the solver f, (y) or (y, c) -> (batch,).
    :param run: the solver's steps.
    :param scale: sigma of Eq. 7, positive.
    :param start_noise: standard deviation of the noise on y0; the paper's algorithm has sigma.
    :param penalty: weight of the squared values.
    :param gamma: the solver's loss includes ``gamma / 2`` times its squared gradient at data (R1, as in
        `cogen.models.families.gan`).
    :param penalty_every: the R1 term is added in every ``penalty_every``-th step, multiplied by ``penalty_every``.
    :param weight: weight of the initializer's mean absolute difference from the data.
    :param fills: c is y with a hidden part and a mask as its last channel, 1 where y is seen and -1 where it is hidden; the
        solver's steps move only hidden entries.
    :param noisy_steps: number of training steps with Langevin noise; None for all.
    :param largest_gap: gap of the mean values, in standard deviations, above which training stops.
    :param learning_rate: learning rate of Adam for the initializer.
    :param solver_rate: learning rate of Adam for the solver.
    :param betas: betas of Adam.
    :raises ValueError: for settings out of their range.
    """

    moments: Tensor
    """Running means of values and of their squares, of data and of refined samples, over about `MEMORY` steps, (2, 2). The mean
    of all values of a step is subtracted, since the level of f is arbitrary and may drift."""
    count: Tensor
    """Number of steps taken."""

    def __init__(
        self,
        generator: nn.Module,
        energy: nn.Module,
        latent_dim: int,
        run: ShortRun,
        *,
        scale: float = 0.3,
        start_noise: float = 0.0,
        penalty: float = 0.0,
        gamma: float = 0.0,
        penalty_every: int = 8,
        weight: float = 0.0,
        fills: bool = False,
        noisy_steps: int | None = None,
        largest_gap: float = 5.0,
        learning_rate: float = 1e-3,
        solver_rate: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        if not (min(start_noise, penalty, gamma, weight) >= 0 and min(scale, largest_gap) > 0 and penalty_every >= 1):
            raise ValueError(
                f"scale={scale}, start_noise={start_noise}, penalty={penalty}, gamma={gamma}, penalty_every={penalty_every},"
                f" weight={weight}, largest_gap={largest_gap}: scale and largest_gap must be positive,"
                " penalty_every at least 1, and the others not negative"
            )
        self.generator, self.energy, self.latent_dim = generator, energy, latent_dim
        self.run, self.scale, self.start_noise, self.penalty = run, scale, start_noise, penalty
        self.gamma, self.penalty_every = gamma, penalty_every
        self.weight, self.fills, self.noisy_steps, self.largest_gap = weight, fills, noisy_steps, largest_gap
        self.learning_rate, self.solver_rate, self.betas = learning_rate, solver_rate, betas
        self.register_buffer("moments", torch.zeros(2, 2, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(()))

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "solver": adam(self.energy, learning_rate=self.solver_rate, betas=self.betas),
            "initializer": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas),
        }

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        observed, *context = batch
        made = self.generator(self.latent(len(observed)), *context)
        start = made.detach()
        if self.start_noise:
            noise, free = self.start_noise * torch.randn_like(start), self._free(*context)
            start = start + (noise if free is None else noise * free)

        def value(y: Tensor) -> Tensor:
            return self.energy(y, *context)

        quiet = self.noisy_steps is not None and iteration >= self.noisy_steps
        refined = self.refined(start, *context, run=replace(self.run, noise=0.0) if quiet else None)

        def solver_loss() -> Tensor:
            loss = self._solver_loss(value(observed), value(refined))
            if not self.variant(iteration):
                return loss
            return loss + 0.5 * self.gamma * self.penalty_every * squared_gradient(value, observed).mean()

        update("solver", solver_loss)
        update("initializer", lambda: self._initializer_loss(refined, made, observed))
        if self.count >= MEMORY and (gap := self.gap) > self.largest_gap:
            raise FloatingPointError(
                f"the solver's mean values of data and refined samples differ by {gap:.1f} standard deviations, more than"
                f" largest_gap={self.largest_gap:g}: use more than {self.run.steps} Langevin steps, a larger rate of these"
                " steps or a smaller solver_rate"
            )

    def variant(self, iteration: int) -> bool:
        """Whether the solver's gradient is penalised."""
        return self.gamma > 0 and iteration % self.penalty_every == 0

    @property
    def gap(self) -> float:
        """Difference of the mean values of data and of refined samples, in standard deviations.

        Batches of one item underestimate the standard deviation by a factor of 1.4: the variance of 2n values about their own
        mean is 1 - 1 / 2n of the true one.
        """
        mean, square = self.moments
        return float((mean[0] - mean[1]) / (square - mean.square()).mean().clamp(min=1e-24).sqrt())

    def refined(self, start: Tensor, *context: Tensor, run: ShortRun | None = None) -> Tensor:
        """The end of the solver's steps (or those of ``run``) from ``start``, (batch, *event) each."""
        return (run or self.run)(lambda y: self.energy(y, *context), start, free=self._free(*context))

    def _free(self, *context: Tensor) -> Tensor | None:
        """A mask of the entries that may move, broadcastable to y; None if all may."""
        return context[0][:, -1:] < 0 if self.fills else None

    def _initializer_loss(self, refined: Tensor, made: Tensor, observed: Tensor) -> Tensor:
        loss = mapping_shift(refined, made, self.scale)
        return loss + self.weight * l1_loss(made, observed) if self.weight else loss

    def _solver_loss(self, observed: Tensor, refined: Tensor) -> Tensor:
        values = torch.stack([observed.detach(), refined.detach()]).double()
        values -= values.mean()
        self.count += 1
        now = torch.stack([values.mean(1), values.square().mean(1)])
        self.moments.lerp_(now, (1 / self.count).clamp(min=1 / MEMORY).double())
        return objective_shift(observed, refined, self.penalty)


# --- recipes -------------------------------------------------------------------------------------------------------


SHORT = ShortRun(1, rate=1.0, noise=0.001, clip=0.1, bounds=(-1.0, 1.0))
"""For small budgets and values in [-1, 1]; its temperature is 5e-7. It takes one step, because runs with more steps were worse
after the same time (docs/cooperative.md). In the paper runs with few steps fail; with clipped steps and penalised gradients
they did not fail here."""
PENALTIES = {"penalty": 0.02, "gamma": 0.1}
"""Penalties of the solver's loss for images."""


def _build(sizes: Sizes, rates: Mapping[str, Any], *, steps: int | None = None) -> CoopNets:
    run = run_of(sizes, SHORT, steps)
    settings: dict[str, Any] = PENALTIES if len(sizes.event_shape) == 3 else {}
    settings = {**settings, "solver_rate": rates["learning_rate"], **rates}
    return CoopNets(sizes.generator(), sizes.energy(), sizes.latent_dim, run, **settings)


def _of_pairs(sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 10.0, steps: int | None = None) -> CoopNets:
    run = replace(SHORT, steps=steps or SHORT.steps)
    # On label maps and photographs the gap soon exceeds five standard deviations, and training still improves.
    own = {"weight": weight, "fills": sizes.fills, "solver_rate": 2 * rates["learning_rate"], "largest_gap": 20.0}
    settings: dict[str, Any] = {**PENALTIES, **own, **rates}
    return CoopNets(sizes.unet(DROPOUT, dropout_layers=None), sizes.energy(), sizes.latent_dim, run, **settings)


RECIPE = Recipe(_build, learning_rate=2e-3, latent_dim=128, energy=Sizes.energy_architecture)
CONDITIONAL = replace(RECIPE, labelled=True)
OF_PAIRS = replace(
    TRANSLATION,
    build=_of_pairs,
    learning_rate=1e-3,
    generator=partial(PairSizes.unet_architecture, dropout=DROPOUT, dropout_layers=None),
    energy=PairSizes.energy_architecture,
)
"""The U-Net has dropout in all decoder layers but the last, as in the paper."""

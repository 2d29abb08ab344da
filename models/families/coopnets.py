"""Cooperative networks: a fast initializer makes y of noise, a slow solver refines it, and each learns from what comes next.

    y0 = g(z, c) + start_noise eps,    z ~ Normal(0, I)             the initializer
    y1 = a few Langevin steps of f(., c) from y0                    the solver (`ShortRun`)

    solver:        ascend  mean f(y, c) - mean f(y1, c)             objective shift, from refined to observed (Eqs. 4, 6, 17)
    initializer:   descend mean |y1 - g(z, c)|^2 / 2 sigma^2        mapping shift, with the z that made y0 (Eqs. 8, 18)

The initializer needs no inference of z, since it knows the z that it drew; the solver needs no long chains, since the
initializer puts them where they belong. Without a class these are the CoopNets of Xie et al. 2018.

What a solver learns as a density is exp(f / T) at the temperature of its steps (`ShortRun.temperature`), with a Gaussian
reference if they have one. `RECIPE` and `CONDITIONAL` work on small budgets: the value is a mean of units and small, since its
square is penalised; moves are clipped, y is kept in [-1, 1], there is no reference. As a density such a solver is very cold.
The paper's networks and constants are in `cogen.models.families.published_coopnets`.

A run whose refined samples stay far from the data in the solver's own eyes has failed: the solver has learned to tell them
apart, and a few steps cannot bring them together. That distance, the gap of the mean values in units of the values' spread, is
followed with a memory of a hundred steps, and the run stops where it is larger than ``largest_gap``.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Algorithm 1).
    Xie, Lu, Gao, Zhu, Wu. Cooperative training of descriptor and generator networks. IEEE TPAMI 2018.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.ebm import objective_shift, run_of
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Recipe
from cogen.models.families.sizes import Sizes


def mapping_shift(refined: Tensor, made: Tensor, scale: float) -> Tensor:
    """The initializer's loss, of refined samples and of what it makes of the same z, (batch, *event) each."""
    return (refined - made).square().mean() / (2 * scale**2)


class CoopNets(Family):
    """An initializer and a solver; with labels in the batch, both of a class.

    :param generator: the initializer g, (z) or (z, label) -> y.
    :param energy: the solver f, (y) or (y, label) -> (batch,).
    :param run: the solver's steps.
    :param scale: sigma of Eq. 7, positive.
    :param start_noise: standard deviation of the noise on y0; the paper's algorithm has sigma.
    :param penalty: of the squared values.
    :param noisy_steps: training steps after which the Langevin noise is off; None for never.
    :param largest_gap: of values, in units of their standard deviation, at which the run stops.
    :param learning_rate: of Adam, for the initializer.
    :param solver_rate: of Adam, for the solver.
    :param betas: Adam's.

    `step` raises FloatingPointError where chains are lost or the gap is too large.
    """

    gap: Tensor

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
        noisy_steps: int | None = None,
        largest_gap: float = 5.0,
        learning_rate: float = 1e-3,
        solver_rate: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        if not (scale > 0 and start_noise >= 0 and penalty >= 0 and largest_gap > 0):
            raise ValueError(
                f"scale={scale}, start_noise={start_noise}, penalty={penalty}, largest_gap={largest_gap}: the scale and the gap"
                " are positive, the others not negative"
            )
        self.generator, self.energy, self.latent_dim = generator, energy, latent_dim
        self.run, self.scale, self.start_noise, self.penalty = run, scale, start_noise, penalty
        self.noisy_steps, self.largest_gap = noisy_steps, largest_gap
        self.learning_rate, self.solver_rate, self.betas = learning_rate, solver_rate, betas
        self.register_buffer("gap", torch.zeros(()))

    def optimizers(self) -> dict[str, Any]:
        return {
            "solver": adam(self.energy, learning_rate=self.solver_rate, betas=self.betas),
            "initializer": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas),
        }

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        observed, *label = batch
        made = self.generator(self.latent(len(observed)), *label)
        start = made.detach()
        if self.start_noise:
            start = start + self.start_noise * torch.randn_like(start)

        def value(y: Tensor) -> Tensor:
            return self.energy(y, *label)

        quiet = self.noisy_steps is not None and iteration >= self.noisy_steps
        run = replace(self.run, noise=0.0) if quiet else self.run
        refined = run(value, start)
        update("solver", lambda: self._solver_loss(value(observed), value(refined)))
        update("initializer", lambda: mapping_shift(refined, made, self.scale))
        if self.gap > self.largest_gap:
            raise FloatingPointError(
                f"the solver tells refined samples from data by {float(self.gap):.1f} standard deviations of its value, and"
                f" {self.largest_gap:g} are allowed: {self.run.steps} Langevin steps do not bring them together; more steps, a"
                " larger rate of theirs or a smaller solver_rate may help"
            )

    def _solver_loss(self, observed: Tensor, refined: Tensor) -> Tensor:
        with torch.no_grad():
            values = torch.stack([observed, refined]).float()
            spread = values.std(1).square().mean().sqrt().clamp(min=1e-12)
            self.gap.lerp_((values[0].mean() - values[1].mean()) / spread, 0.01)
        return objective_shift(observed, refined, self.penalty)


# --- recipes -------------------------------------------------------------------------------------------------------


SHORT = ShortRun(1, rate=0.3, noise=0.005, clip=0.1, bounds=(-1.0, 1.0))
"""Of small budgets, for values in [-1, 1], at the temperature 4e-5. One step: in the same time, more of them were worse
(docs/cooperative.md). The paper's runs of few steps fail; those with clipped moves and small values did not."""
PENALTY = 0.02


def _build(sizes: Sizes, rates: Mapping[str, Any], *, steps: int | None = None) -> CoopNets:
    run = run_of(sizes, SHORT, steps)
    penalty = PENALTY if len(sizes.event_shape) == 3 else 0.0
    return CoopNets(sizes.generator(), sizes.energy(), sizes.latent_dim, run, penalty=penalty, **rates)


RECIPE = Recipe(_build, latent_dim=128, energy=Sizes.energy_architecture)
CONDITIONAL = replace(RECIPE, labelled=True)

"""An energy learned by contrastive divergence: up on data, down on samples of chains.

    grad log-likelihood = mean grad f(y) - E grad f(y'),    y' ~ p(y'),        p(y) = exp f(y) / Z (with a reference, if any)

where y' are chains of a few Langevin steps (`ShortRun`) that begin

* at the data: contrastive divergence (Hinton 2002), biased towards what the steps cannot leave;
* at noise, afresh at each step: short-run learning (Nijkamp et al. 2019), which makes a sampler, and no density;
* where the last ones of them ended: persistent chains (Tieleman 2008), whose bias goes as the rates do.

Persistent chains are many more than a batch; at each step a random part of them goes on, and a share of these begins afresh.

References:
    Hinton. Training products of experts by minimizing contrastive divergence. Neural Computation 2002.
    Tieleman. Training restricted Boltzmann machines using approximations to the likelihood gradient. ICML 2008.
    Nijkamp, Hill, Zhu, Wu. Learning non-convergent non-persistent short-run MCMC toward energy-based model. NeurIPS 2019.
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Eqs. 4 to 6).
    Du, Mordatch. Implicit generation and modeling with energy-based models. NeurIPS 2019 (a buffer of chains, of which a share
        begins afresh).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.networks.energies import ConvolutionalEnergy
from cogen.models.training.preparation import as_floats

Chains = Literal["data", "noise", "persistent"]


def objective_shift(observed: Tensor, sampled: Tensor, penalty: float = 0.0) -> Tensor:
    """The loss of an energy, of its values of data and of samples, (batch,) each; ``penalty`` weighs their mean squares."""
    shift = sampled.mean() - observed.mean()
    return shift + penalty * (observed.square().mean() + sampled.square().mean()) if penalty else shift


class EBM(Family):
    """An energy; with labels in the batch, of y and a class, and then every chain has a class.

    :param energy: f, (y) or (y, label) -> (batch,).
    :param event_shape: of one y.
    :param run: the steps of the chains.
    :param chains: where they begin.
    :param count: of persistent chains.
    :param afresh: the share of persistent chains that begin at noise at each step.
    :param start_scale: the standard deviation of that noise, which is normal; default the run's reference, or one.
    :param penalty: of the squared values.
    :param learning_rate: of Adam.
    :param betas: Adam's.

    Raises ValueError for numbers out of range; `step` FloatingPointError where chains are lost.
    """

    kept: Tensor
    """The persistent chains, (chain, *event)."""
    kept_labels: Tensor
    """And their classes, -1 for a chain that has not begun."""

    def __init__(
        self,
        energy: nn.Module,
        event_shape: Sequence[int],
        run: ShortRun,
        *,
        chains: Chains = "persistent",
        count: int = 2_000,
        afresh: float = 0.0,
        start_scale: float | None = None,
        penalty: float = 0.0,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if chains not in ("data", "noise", "persistent"):
            raise ValueError(f"chains={chains!r}: they begin at 'data', at 'noise', or are 'persistent'")
        if count < 1 or not 0 <= afresh <= 1 or penalty < 0 or (start_scale is not None and not start_scale > 0):
            raise ValueError(
                f"count={count}, afresh={afresh}, penalty={penalty}, start_scale={start_scale}: at least one chain, a share in"
                " [0, 1], a penalty that is not negative, and a positive scale"
            )
        self.energy, self.event_shape, self.run = energy, tuple(event_shape), run
        self.chains, self.afresh, self.penalty = chains, afresh, penalty
        self.start_scale = start_scale or run.reference_scale or 1.0
        self.learning_rate, self.betas = learning_rate, betas
        if chains == "persistent":
            self.register_buffer("kept", torch.zeros(count, *event_shape))
            self.register_buffer("kept_labels", torch.full((count,), -1))

    @property
    def averaged(self) -> nn.Module:
        return self.energy

    def optimizers(self) -> dict[str, Any]:
        return {"energy": adam(self.energy, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        observed, *label = batch
        rows: Tensor | None = None
        start, of_start = observed, label
        if self.chains == "noise":
            start = self._noise(observed)
        elif self.chains == "persistent":
            rows = torch.randperm(len(self.kept), device=observed.device)[: len(observed)]
            start, of_start = self._going_on(rows, observed, label)
        sampled = self.run(lambda y: self.energy(y, *of_start), start)
        if rows is not None:
            self.kept[rows] = sampled
        update(
            "energy",
            lambda: objective_shift(self.energy(observed, *label), self.energy(sampled, *of_start), self.penalty),
        )

    def starts(self, count: int) -> Tensor:
        """Where chains may begin, (count, *event): persistent ones that are under way, or noise."""
        if self.chains == "persistent" and (begun := self.kept[self.kept_labels >= 0]).shape[0]:
            return begun[torch.randint(len(begun), (count,))]
        return self._noise(torch.zeros(count, *self.event_shape))

    def samples(self, energy: nn.Module, count: int) -> Tensor:
        """Where the steps of an energy without classes lead from there, (count, *event_shape)."""
        return self.run(energy, self.starts(count))

    def _noise(self, like: Tensor) -> Tensor:
        start = self.start_scale * torch.randn_like(like)
        return start if self.run.bounds is None else start.clamp(*self.run.bounds)

    def _going_on(self, rows: Tensor, observed: Tensor, label: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Where these persistent chains begin, and their classes; those that begin afresh take the batch's."""
        labels = self.kept_labels[rows]
        fresh = (labels < 0) | (torch.rand(len(rows), device=rows.device) < self.afresh)
        given = label[0][: len(rows)] if label else torch.zeros_like(labels)
        self.kept_labels[rows] = labels = torch.where(fresh, given, labels)
        noise = self._noise(observed[: len(rows)])
        shown = fresh.reshape(-1, *(1,) * (noise.ndim - 1))
        return torch.where(shown, noise, self.kept[rows]), [labels] if label else []


# --- recipe --------------------------------------------------------------------------------------------------------

SHORT = ShortRun(40, rate=0.3, noise=0.005, clip=0.1, bounds=(-1.0, 1.0))
"""For images with values in [-1, 1]: very cold as a density."""
LANGEVIN = ShortRun.langevin(16, 0.2, reference_scale=2.0, limit=100.0)
"""For points within a few units of zero: at the temperature one, a density."""


def run_of(sizes: Sizes, of_images: ShortRun, steps: int | None) -> ShortRun:
    """``of_images`` for images and `LANGEVIN` for points, with so many steps, if any are given."""
    run = of_images if len(sizes.event_shape) == 3 else LANGEVIN
    return replace(run, steps=steps or run.steps)


def _build(sizes: Sizes, rates: Mapping[str, Any], *, chains: Chains = "persistent", steps: int | None = None) -> EBM:
    run = run_of(sizes, SHORT, steps)
    if len(sizes.event_shape) == 1:
        return EBM(sizes.energy(), sizes.event_shape, run, chains=chains, **rates)
    images: dict[str, Any] = {"afresh": 0.05, "start_scale": 0.5, "penalty": 0.02, "betas": (0.5, 0.999)}
    return EBM(sizes.energy(), sizes.event_shape, run, chains=chains, **{**images, **rates})


NOISE = 0.3
"""Standard deviation of what is added to the images of a density, which has steps of half that length."""
AT_ONE = ShortRun.langevin(20, NOISE / 2, reference_scale=1.0, limit=20.0)
"""For images with that noise: at the temperature one, a density."""


def with_noise(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], and `NOISE`."""
    values = as_floats(images)
    return values + NOISE * torch.randn_like(values)


def _summed(sizes: Sizes) -> Architecture:
    return Architecture("ConvolutionalEnergy", {"event_shape": sizes.event_shape, "value": "sum"})


def _density(sizes: Sizes, rates: Mapping[str, Any], *, steps: int | None = None) -> EBM:
    energy = ConvolutionalEnergy(**_summed(sizes).arguments).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = replace(AT_ONE, steps=steps or AT_ONE.steps)
    return EBM(energy, sizes.event_shape, run, count=1_000, afresh=0.01, **{"betas": (0.5, 0.999), **rates})


RECIPE = Recipe(
    _build, learning_rate=3e-4, reads=frozenset({"convolutional"}), generator=None, energy=Sizes.energy_architecture
)
DENSITY = Recipe(
    _density,
    takes=frozenset({Kind.IMAGES}),
    prepare=with_noise,
    learning_rate=1e-4,
    epochs=6,
    reads=frozenset(),
    generator=None,
    energy=_summed,
)
"""Of images: what `EnergyModel` samples."""

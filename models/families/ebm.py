"""An energy learned by contrastive divergence: its value is raised on data and lowered on samples of chains.

    grad log-likelihood = mean grad f(y) - E grad f(y'),    y' ~ p(y'),        p(y) = exp f(y) / Z (with a reference, if any)

where y' are chains of a few Langevin steps (`ShortRun`) that start

* at the data: contrastive divergence (Hinton 2002), biased towards regions that the steps cannot leave;
* at new noise in each step: short-run learning (Nijkamp et al. 2019), which gives a sampler but no density;
* at their last state: persistent chains (Tieleman 2008), whose bias vanishes with the learning rate.

There are many more persistent chains than items in a batch; each step continues a random subset of them and restarts a fraction
of this subset.

References:
    Hinton. Training products of experts by minimizing contrastive divergence. Neural Computation 2002.
    Tieleman. Training restricted Boltzmann machines using approximations to the likelihood gradient. ICML 2008.
    Nijkamp, Hill, Zhu, Wu. Learning non-convergent non-persistent short-run MCMC toward energy-based model. NeurIPS 2019.
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (Eqs. 4 to 6).
    Du, Mordatch. Implicit generation and modeling with energy-based models. NeurIPS 2019 (a buffer of chains, a fraction of
        which is restarted).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.family import Batch, Family, Update, adam
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.networks.energies import ConvolutionalEnergy
from cogen.models.training.preparation import as_floats

Chains = Literal["data", "noise", "persistent"]


def objective_shift(observed: Tensor, sampled: Tensor, penalty: float = 0.0) -> Tensor:
    """The loss of an energy from its values at data and samples, (batch,) each; ``penalty`` is the weight of mean squares."""
    shift = sampled.mean() - observed.mean()
    return shift + penalty * (observed.square().mean() + sampled.square().mean()) if penalty else shift


class EBM(Family):
    """An energy; with labels in the batch, an energy of (y, label), and then every chain has a label.

    `step` raises FloatingPointError if chains become non-finite.

    :param energy: f, (y) or (y, label) -> (batch,).
    :param event_shape: shape of one y.
    :param run: the Langevin steps of the chains.
    :param chains: where chains start.
    :param count: number of persistent chains.
    :param afresh: fraction of the persistent chains that restart at noise in each step, in [0, 1].
    :param start_scale: standard deviation of this normal noise; default the run's reference scale, or 1.
    :param penalty: weight of the squared values.
    :param learning_rate: learning rate of Adam.
    :param betas: betas of Adam.
    :raises ValueError: for unknown ``chains``, or settings out of their range.
    """

    kept: Tensor
    """The persistent chains, (chain, *event)."""
    kept_labels: Tensor
    """The labels of the persistent chains, -1 for a chain that has not started."""

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
            raise ValueError(f"chains={chains!r}: it must be 'data', 'noise' or 'persistent'")
        if count < 1 or not 0 <= afresh <= 1 or penalty < 0 or (start_scale is not None and not start_scale > 0):
            raise ValueError(
                f"count={count}, afresh={afresh}, penalty={penalty}, start_scale={start_scale}: count must be at"
                " least 1, afresh in [0, 1], penalty not negative, and start_scale positive"
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

    def optimizers(self) -> dict[str, Optimizer]:
        return {"energy": adam(self.energy, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        observed, *label = batch
        rows: Tensor | None = None
        start, of_start = observed, label
        if self.chains == "noise":
            start = self._noise(observed)
        elif self.chains == "persistent":
            rows = torch.randperm(len(self.kept), device=observed.device)[: len(observed)]
            start, of_start = self._continued(rows, observed, label)
        sampled = self.run(lambda y: self.energy(y, *of_start), start)
        if rows is not None:
            self.kept[rows] = sampled
        update(
            "energy",
            lambda: objective_shift(self.energy(observed, *label), self.energy(sampled, *of_start), self.penalty),
        )

    def starts(self, count: int) -> Tensor:
        """Initial states of chains, (count, *event): states of persistent chains that have started, or noise."""
        if self.chains == "persistent" and (begun := self.kept[self.kept_labels >= 0]).shape[0]:
            return begun[torch.randint(len(begun), (count,))]
        return self._noise(torch.zeros(count, *self.event_shape))

    def samples(self, energy: nn.Module, count: int) -> Tensor:
        """The end of the steps of an energy without labels from `starts`, (count, *event_shape)."""
        return self.run(energy, self.starts(count))

    def _noise(self, like: Tensor) -> Tensor:
        start = self.start_scale * torch.randn_like(like)
        return start if self.run.bounds is None else start.clamp(*self.run.bounds)

    def _continued(self, rows: Tensor, observed: Tensor, label: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Initial states and labels of the persistent chains ``rows``; restarted chains take the labels of the batch."""
        labels = self.kept_labels[rows]
        fresh = (labels < 0) | (torch.rand(len(rows), device=rows.device) < self.afresh)
        given = label[0][: len(rows)] if label else torch.zeros_like(labels)
        self.kept_labels[rows] = labels = torch.where(fresh, given, labels)
        noise = self._noise(observed[: len(rows)])
        restarted = fresh.reshape(-1, *(1,) * (noise.ndim - 1))
        return torch.where(restarted, noise, self.kept[rows]), [labels] if label else []


# --- recipe --------------------------------------------------------------------------------------------------------

SHORT = ShortRun(40, rate=0.3, noise=0.005, clip=0.1, bounds=(-1.0, 1.0))
"""For images with values in [-1, 1]; as a density very cold."""
LANGEVIN = ShortRun.langevin(16, 0.2, reference_scale=2.0, limit=100.0)
"""For points within a few units of zero; a density at temperature 1."""


def run_of(sizes: Sizes, of_images: ShortRun, steps: int | None) -> ShortRun:
    """``of_images`` for images and `LANGEVIN` for points, with ``steps`` steps unless None."""
    run = of_images if len(sizes.event_shape) == 3 else LANGEVIN
    return replace(run, steps=steps or run.steps)


def _build(sizes: Sizes, rates: Mapping[str, Any], *, chains: Chains = "persistent", steps: int | None = None) -> EBM:
    run = run_of(sizes, SHORT, steps)
    if len(sizes.event_shape) == 1:
        return EBM(sizes.energy(), sizes.event_shape, run, chains=chains, **rates)
    images: dict[str, Any] = {"afresh": 0.05, "start_scale": 0.5, "penalty": 0.02, "betas": (0.5, 0.999)}
    return EBM(sizes.energy(), sizes.event_shape, run, chains=chains, **{**images, **rates})


NOISE = 0.3
"""Standard deviation of the noise added to the images of a density; its Langevin steps are half as long."""
AT_ONE = ShortRun.langevin(20, NOISE / 2, reference_scale=1.0, limit=20.0)
"""For images with that noise; a density at temperature 1."""


def with_noise(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], plus normal noise of scale `NOISE`."""
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
"""A density of images, which `EnergyModel` samples."""

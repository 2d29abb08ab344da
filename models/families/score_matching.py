"""Score matching: fit the gradient of an energy, without its partition function.

With the score s(x) = grad log p(x) of a model, whose log density is f(x) - |x|^2 / 2 r^2 up to log Z, the loss is the mean of
|s(x) - grad log q(x)|^2 / 2 over the data's density q, up to a constant, in one of three forms:

    explicit     E [ tr grad s(x) + |s(x)|^2 / 2 ]
    sliced       E [ v' grad s(x) v + (v' s(x))^2 / 2 ],   or |s(x)|^2 / 2 for its second term; E v v' = I
    denoising    E | s(x + sigma e) + e / sigma |^2 / 2,   e ~ Normal(0, I)

The explicit form needs d second derivatives for an event of d dimensions. The sliced form needs one for any d; its second form
has the explicit loss as its mean over v. The denoising form needs none, and fits the density of y = x + sigma e, which is
wider than that of the data. Its minimiser is (E[x given y] - y) / sigma^2, so that a denoising autoencoder contains a score.

A noise-conditional score s(x, sigma) is fitted for all noise levels at once,

    E sigma^2 | s(x + sigma e, sigma) + e / sigma |^2 / 2,       log sigma uniform between two limits,

and need not be a gradient: the network gives s itself. `cogen.models.score_prior` conditions it.

Score matching compares gradients where there are data. Without data between distant modes it does not determine the weights of
the modes (Wenliang and Kanagawa 2020); noise that is wide enough to connect the modes does.

References:
    Hyvarinen. Estimation of non-normalized statistical models by score matching. JMLR 2005 (theorem 1, equation 4).
    Vincent. A connection between score matching and denoising autoencoders. Neural Computation 2011 (the denoising
        objective, and the energy for which it is the squared error of an autoencoder).
    Song, Garg, Shi, Ermon. Sliced score matching. UAI 2019 (SSM, and SSM-VR with reduced variance).
    Song, Ermon. Generative modeling by estimating gradients of the data distribution. NeurIPS 2019 (equations 5 and 6).
    Wenliang, Kanagawa. Blindness of score-based methods to isolated components and mixing proportions. 2020.
Departures: noise is drawn in pairs e, -e, which keep the variance of the denoising loss bounded as sigma falls (its limit is
the sliced loss along e; with single noise the variance grows as 1 / sigma^2). sigma is drawn for every item from an interval,
not from a list of levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam

Score = Callable[[Tensor], Tensor]
"""From x (batch, *event) to grad log p(x), of the same shape."""


def score_of(log_density: Callable[[Tensor], Tensor]) -> Score:
    """The differentiable gradient of an unnormalised log density, (batch, *event) -> (batch,)."""

    def score(x: Tensor) -> Tensor:
        x = x if x.requires_grad else x.detach().requires_grad_()
        return torch.autograd.grad(log_density(x).sum(), x, create_graph=True)[0]

    return score


# --- losses --------------------------------------------------------------------------------------------------------


def explicit(score: Score, x: Tensor) -> Tensor:
    """Hyvarinen's loss of each x (batch, *event), (batch,), with the exact trace: one gradient for every dimension of x."""
    x = x.detach().requires_grad_()
    s = score(x)
    flat = s.flatten(1)
    trace = sum(_along(flat[:, k].sum(), x).flatten(1)[:, k] for k in range(flat.shape[1]))
    return trace + _half_square(s)


def sliced(score: Score, x: Tensor, direction: Tensor, *, variance_reduced: bool = True) -> Tensor:
    """The sliced loss of each x (batch, *event) along a ``direction`` of the same shape, (batch,).

    :param direction: draws with E v v' = I; those of `rademacher` have the least variance.
    :param variance_reduced: replace (v' s)^2 / 2 by its mean, |s|^2 / 2.
    """
    x = x.detach().requires_grad_()
    s = score(x)
    projected = (direction * s).flatten(1).sum(1)
    curvature = (direction * _along(projected.sum(), x)).flatten(1).sum(1)
    return curvature + (_half_square(s) if variance_reduced else 0.5 * projected.square())


def denoising(score: Score, x: Tensor, sigma: float | Tensor, noise: Tensor) -> Tensor:
    """Vincent's loss of each x (batch, *event) with its standard normal ``noise`` of the same shape, (batch,).

    :param sigma: standard deviation of the noise, a float, or (batch,) for each x.
    """
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, *(1,) * (x.ndim - 1))
    return _half_square(score(x + sigma * noise) + noise / sigma)


def rademacher(x: Tensor) -> Tensor:
    """Random directions of x's shape with entries 1 and -1."""
    return torch.randint_like(x, 2) * 2 - 1


def _half_square(s: Tensor) -> Tensor:
    return 0.5 * s.square().flatten(1).sum(1)


def _along(value: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(value, x, create_graph=True)[0]


# --- an energy -----------------------------------------------------------------------------------------------------


class Objective(Protocol):
    """The loss that `ScoreMatching` minimises."""

    def loss(self, score: Score, x: Tensor) -> Tensor:
        """The loss of each x, (batch,)."""
        ...


@dataclass(frozen=True)
class Explicit:
    """The objective `explicit`."""

    def loss(self, score: Score, x: Tensor) -> Tensor:
        return explicit(score, x)


@dataclass(frozen=True)
class Sliced:
    """The objective `sliced`, along one random direction for each x.

    :param variance_reduced: as in `sliced`.
    """

    variance_reduced: bool = True

    def loss(self, score: Score, x: Tensor) -> Tensor:
        return sliced(score, x, rademacher(x), variance_reduced=self.variance_reduced)


@dataclass(frozen=True)
class Denoising:
    """The objective `denoising`, with a pair of opposite noise for each x.

    :param sigma: standard deviation of the noise, positive; the learned energy is that of the data with this noise.
    :raises ValueError: for a sigma that is not positive and finite.
    """

    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"sigma={self.sigma}: the standard deviation of the noise must be positive and finite")

    def loss(self, score: Score, x: Tensor) -> Tensor:
        noise = torch.randn_like(x)
        return 0.5 * (denoising(score, x, self.sigma, noise) + denoising(score, x, self.sigma, -noise))


class ScoreMatching(Family):
    """An energy, learned by its score.

    :param network: f, from (batch, *event) to (batch,), twice differentiable (SiLU, not ReLU); with labels in the batch, f of
        (x, label).
    :param objective: `Explicit`, `Sliced` or `Denoising`; default `Sliced`.
    :param reference_scale: r, the scale of the Gaussian reference; the learned density is
        ``EnergyModel(network, reference_scale=r, ...)``. None for no reference.
    :raises ValueError: for a reference scale that is not positive and finite.
    """

    def __init__(
        self,
        network: nn.Module,
        objective: Objective | None = None,
        *,
        reference_scale: float | None = None,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if reference_scale is not None and not 0 < reference_scale < math.inf:
            raise ValueError(f"reference_scale={reference_scale}: it must be positive and finite")
        self.network, self.objective = network, objective or Sliced()
        self.reference_scale = reference_scale
        self.learning_rate, self.betas = learning_rate, betas

    @property
    def averaged(self) -> nn.Module:
        return self.network

    def log_density(self, x: Tensor, *label: Tensor) -> Tensor:
        """The unnormalised log density, (batch,)."""
        value = self.network(x, *label)
        return value if self.reference_scale is None else value - _half_square(x) / self.reference_scale**2

    def optimizers(self) -> dict[str, Optimizer]:
        return {"loss": adam(self.network, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, *label = batch
        score = score_of(lambda x: self.log_density(x, *label))
        update("loss", lambda: self.objective.loss(score, x).mean())


# --- a score of every noise level ----------------------------------------------------------------------------------


class NCSN(Family):
    """A noise-conditional score network.

    :param network: s, from x (batch, *event) and ``sigma`` (batch,) to (batch, *event); with labels in the batch, s of
        (x, sigma, label).
    :param noise_levels: the smallest and the largest sigma. Samples keep noise of the smallest; the largest should be the
        largest distance between two data items (Song and Ermon 2020, Improved techniques for training score-based generative
        models, technique 1).
    :raises ValueError: for levels that are not positive and increasing.
    """

    def __init__(
        self,
        network: nn.Module,
        noise_levels: tuple[float, float],
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        check_levels(noise_levels)
        self.network, self.noise_levels = network, noise_levels
        self.learning_rate, self.betas = learning_rate, betas

    @property
    def averaged(self) -> nn.Module:
        return self.network

    def optimizers(self) -> dict[str, Optimizer]:
        return {"loss": adam(self.network, learning_rate=self.learning_rate, betas=self.betas)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, *label = batch
        least, greatest = map(math.log, self.noise_levels)
        sigma = (least + (greatest - least) * torch.rand(len(x), device=x.device)).exp()
        noise = torch.randn_like(x)

        def loss() -> Tensor:
            both = (denoising(lambda x: self.network(x, sigma, *label), x, sigma, sign * noise) for sign in (1, -1))
            return (0.5 * sigma.square() * sum(both)).mean()

        update("loss", loss)


def check_levels(noise_levels: tuple[float, float]) -> None:
    """Check the noise levels.

    :raises ValueError: for levels that are not positive, finite and increasing.
    """
    least, greatest = noise_levels
    if not 0 < least < greatest < math.inf:
        raise ValueError(f"noise_levels={noise_levels}: give two positive standard deviations, the smaller first")

"""Conditional generation by learning how the latent moves (cGML): an encoder H, a generator G, and a predictor Z.

In every step a latent on the unit sphere is drawn for each item and descends the cost E = d(x, G(z, H(c))):

    "turning"       z_t+1 = z_t rotated against dE / dz by the angle step_size (1 - t / num_steps)
    "gradient"      z_t+1 = unit(z_t - step_size dE / dz)                                        as published

    predictor       descend L1[Z(z_t, h), (z_t+1, alpha |z_t+1 - z_t|)] over all t               + a penalty, below
    G and H         descend E at the last z                                                      + a penalty, below

If a condition has several x, the latents of each x gather where G generates it. Z never sees x, and learns the paths there.
`LatentDescent` follows Z from a condition alone.

The gradient of an L1 cost hardly depends on the distance to the minimum, so that gradient steps converge for few step sizes.
Decreasing angles converge for many, whatever the scale of x. They also move z away from a minimum, so that G must generate the
same x from all latents near it, which spreads every x over much of the sphere.

Both penalties make the networks smooth: the mean absolute difference of their outputs for inputs with and without noise
(appendix 2.4).

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (Algorithm 1).
Departures: decreasing angles are not in the paper. Z takes one optimiser step on all num_steps pairs of a batch; with ``each``
one step on each pair, as published. The paper does not give the factor of dE / dz.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import l1_loss
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update, adam, held
from cogen.models.families.pix2pix import RECIPE as TRANSLATION
from cogen.models.families.sizes import Architecture, PairSizes
from cogen.models.frozen import frozen
from cogen.models.networks.latent_descent import LatentDescent, Predictor, SphericalGenerator, on_sphere, spherical_generator

Cost = Callable[[Tensor, Tensor], Tensor]
"""From generated and observed x, (batch, *event) each, to the cost of each item, (batch,)."""


@dataclass(frozen=True)
class AbsoluteDifference:
    """The mean absolute difference of each item; a dataclass, so that a checkpoint identifies it by its name."""

    def __call__(self, made: Tensor, x: Tensor) -> Tensor:
        return (made - x).abs().flatten(1).mean(1)


ABSOLUTE = AbsoluteDifference()


class CGML(Family):
    """A spherical generator and a predictor of the paths of its latents; batches are (x, condition).

    :param cost: cost of generated x; must be a dataclass if the training writes checkpoints.
    :param num_steps: steps of z before each update, and in the descent.
    :param moves: how z moves, as in the module's docstring.
    :param step_size: the first angle in radians, or the factor of the gradient.
    :param alpha: factor of the expected momentum (section 2.2).
    :param noise: standard deviation of the noise on the inputs of both networks in the penalties.
    :param penalty: weight of the penalties; 0 omits them.
    :param momentum: whether the descent has the momentum rho.
    :param each: Z takes one optimiser step on each pair.
    :param predictor_rate: learning rate of Adam for Z; default ``learning_rate``.
    :raises ValueError: for an unknown ``moves``, or settings out of their range.
    """

    generator: SphericalGenerator

    def __init__(
        self,
        generator: SphericalGenerator,
        predictor: Predictor,
        latent_dim: int,
        *,
        cost: Cost = ABSOLUTE,
        num_steps: int = 20,
        moves: Literal["turning", "gradient"] = "turning",
        step_size: float = 0.4,
        alpha: float = 1.0,
        noise: float = 0.01,
        penalty: float = 0.0,
        momentum: bool = True,
        each: bool = False,
        learning_rate: float = 1e-3,
        predictor_rate: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__()
        if moves not in ("turning", "gradient"):
            raise ValueError(f"moves={moves!r}: it must be 'turning' or 'gradient'")
        if num_steps < 1 or not min(step_size, alpha) > 0 or not min(noise, penalty) >= 0:
            raise ValueError(
                f"num_steps={num_steps}, step_size={step_size}, alpha={alpha}, noise={noise}, penalty={penalty}: num_steps"
                " must be at least 1, step_size and alpha positive, and noise and penalty not negative"
            )
        self.generator, self.predictor, self.latent_dim = generator, predictor, latent_dim
        self.cost, self.num_steps, self.alpha = cost, num_steps, alpha
        self.moves, self.step_size = moves, step_size
        self.noise, self.penalty, self.momentum, self.each = noise, penalty, momentum, each
        self.learning_rate, self.predictor_rate, self.betas = learning_rate, predictor_rate or learning_rate, betas

    @property
    def descent(self) -> LatentDescent:
        """The descent of latents with a frozen copy of the current networks."""
        network: Any = self.generator.network
        return frozen(LatentDescent(network.down, self.predictor, self.num_steps, self.momentum))

    def optimizers(self) -> dict[str, Optimizer]:
        return {
            "predictor": adam(self.predictor, learning_rate=self.predictor_rate, betas=self.betas),
            "generator": adam(self.generator, learning_rate=self.learning_rate, betas=self.betas),
        }

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, condition = batch
        network: Any = self.generator.network
        with held(list(self.generator.parameters())):
            features = network.down(condition)
            path = self.ways(x, condition, features)
        for part in pairwise(path) if self.each else [tuple(path)]:
            update("predictor", functools.partial(self._predictor_loss, part, features[-1].flatten(1)))
        update("generator", lambda: self._generator_loss(path[-1], x, condition))

    def ways(self, x: Tensor, condition: Tensor, features: Sequence[Tensor], z: Tensor | None = None) -> Tensor:
        """Paths of latents given x, from z (batch, latent_dim) or new draws: (num_steps + 1, batch, latent_dim)."""
        network: Any = self.generator.network
        path = [on_sphere(self.latent(len(x)) if z is None else z)]
        for t in range(self.num_steps):
            latent = path[-1].detach().requires_grad_()
            with torch.enable_grad():
                cost = self.cost(network.decode(latent, features, condition), x).sum()
                (gradient,) = torch.autograd.grad(cost, latent)
            path.append(self._moved(path[-1], gradient, t))
        return torch.stack(path)

    def _moved(self, z: Tensor, gradient: Tensor, t: int) -> Tensor:
        if self.moves == "gradient":
            return on_sphere(z - self.step_size * gradient)
        angle = self.step_size * (1 - t / self.num_steps)
        tangent = on_sphere(gradient - (gradient * z).sum(-1, keepdim=True) * z)
        return on_sphere(math.cos(angle) * z - math.sin(angle) * tangent)

    def _predictor_loss(self, path: tuple[Tensor, ...], h: Tensor) -> Tensor:
        before, after = torch.cat(path[:-1]), torch.cat(path[1:])
        moved = self.alpha * (after - before).norm(dim=1, keepdim=True)
        target, distance = self.predictor(before, self.predictor.project(h).repeat(len(path) - 1, 1))
        loss = (target - after).abs().sum(1).mean() + (distance - moved).abs().mean()
        if not self.penalty:
            return loss
        other, _ = self.predictor(self._noisy(before), self.predictor.project(self._noisy(h)).repeat(len(path) - 1, 1))
        return loss + self.penalty * l1_loss(other, target)

    def _generator_loss(self, z: Tensor, x: Tensor, condition: Tensor) -> Tensor:
        network: Any = self.generator.network
        features = network.down(condition)
        made = network.decode(z, features, condition)
        loss = self.cost(made, x).mean()
        if not self.penalty:
            return loss
        other = network.decode(self._noisy(z), [self._noisy(each) for each in features], condition)
        return loss + self.penalty * l1_loss(other, made)

    def _noisy(self, values: Tensor) -> Tensor:
        return values + self.noise * torch.randn_like(values)


# --- recipe --------------------------------------------------------------------------------------------------------


OF_IMAGES: dict[str, Any] = {"num_steps": 2, "momentum": False}
"""For images, with a first angle of `STEP_SIZE`: more steps do not repay their cost, the predictor does not learn larger
angles, and with rho the end points of an image collapse to one (docs/cgml.md)."""
STEP_SIZE = 0.5

PUBLISHED: dict[str, Any] = {"num_steps": 20, "moves": "gradient", "each": True, "penalty": 1.0, "learning_rate": 1e-5}
"""Settings of appendix 3.1; it does not state the weights of the penalties and of the gradient, which are 1 here."""
INITIAL_SD = 0.5
"""Standard deviation of the initial weights there."""


def published(sizes: PairSizes, rates: Mapping[str, Any], cost: Cost = ABSOLUTE) -> CGML:
    """`CGML` with the `PUBLISHED` settings, batch norm, and the published initial weights."""
    generator = spherical_generator(**sizes.spherical_architecture().arguments, batch_norm=True)
    family = CGML(generator, sizes.predictor(), sizes.latent_dim, cost=cost, step_size=1.0, **{**PUBLISHED, **rates})
    for name, weights in family.named_parameters():
        if name.endswith("weight") and weights.ndim > 1:  # the scales of norms stay one
            torch.nn.init.normal_(weights, std=INITIAL_SD)
    return family


def _build(sizes: PairSizes, rates: Mapping[str, Any]) -> CGML:
    return CGML(sizes.spherical(), sizes.predictor(), sizes.latent_dim, step_size=STEP_SIZE, **OF_IMAGES, **rates)


def _descent(sizes: PairSizes) -> Architecture:
    name, arguments = sizes.predictor_architecture()
    return Architecture(name, {**arguments, **OF_IMAGES})


RECIPE = replace(
    TRANSLATION,
    build=_build,
    latent_dim=16,
    learning_rate=1e-3,
    batch_size=20,
    epochs=20.0,
    generator=PairSizes.spherical_architecture,
    predictor=_descent,
)

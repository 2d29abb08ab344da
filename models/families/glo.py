"""Generative latent optimisation: every training item has its own latent, which is learned with the generator.

    loss = E_i d(G(z_i), x_i),    |z_i| <= 1,    d(x, x') = sum over levels j of mean |L_j(x) - L_j(x')|

with the levels L_j of the Laplacian pyramid, which weight edges as much as areas. Events that are not images have one level.
There is no critic and no encoder. After training a Gaussian is fitted to the latents, and draws are G(mean + factor z) with
z ~ Normal(0, 1). The stored generator includes mean and factor, so that its latent is standard normal.

References:
    Bojanowski, Joulin, Lopez-Paz, Szlam. Optimizing the latent space of generative networks. ICML 2018 (equations 1 and 2;
        section 3: the ball, the Laplacian pyramid loss; section 4: a Gaussian with the latents' covariance).
    Burt, Adelson. The Laplacian pyramid as a compact image code. IEEE Transactions on Communications 1983 (binomial weights).
Departures: Adam for both in place of gradient descent; the latents have ten times the generator's learning rate, as in the
paper. Initial latents are random on the sphere, not principal components. The mean over a level's pixels is the paper's 4^j
times their sum, up to a constant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, normalize, pad
from torch.optim import Optimizer

from cogen.models.families.family import Batch, Family, Update
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Architecture, Sizes
from cogen.models.networks.architectures import PLAIN

SMALLEST = 8
"""The last level of a pyramid is the first whose shorter side is below this."""


class WhitenedGenerator(nn.Module):
    """A generator of a standard normal z: a network whose input is mean + factor z.

    :param architecture: name of the network, a key of `PLAIN`.
    :param latent_dim: size of z.
    :param arguments: keyword arguments of the network.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, architecture: str, latent_dim: int, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = PLAIN[architecture](**arguments)
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("factor", torch.eye(latent_dim))

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """Set the mean and the covariance to those of latents (item, latent_dim)."""
        covariance = torch.cov(latents.T).reshape(2 * self.mean.shape)
        self.mean.copy_(latents.mean(0))
        self.factor.copy_(torch.linalg.cholesky(covariance + 1e-6 * torch.eye(len(covariance), device=covariance.device)))

    def forward(self, z: Tensor) -> Tensor:
        """z (batch, latent_dim) -> (batch, *event_shape)."""
        return self.network(self.mean + z @ self.factor.T)


class GLO(Family):
    """A generator and the latents of its training items. Switching to evaluation mode fits the Gaussian of the latents.

    :param num_items: number of training items, at least 2.
    :raises ValueError: for fewer than two items.
    """

    generator: WhitenedGenerator
    takes_items = True

    def __init__(
        self,
        generator: WhitenedGenerator,
        latent_dim: int,
        num_items: int,
        *,
        learning_rate: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
    ) -> None:
        super().__init__()
        if num_items < 2:
            raise ValueError(f"num_items={num_items}: give the number of training items, at least 2")
        self.generator, self.latent_dim = generator, latent_dim
        self.latents = nn.Parameter(normalize(torch.randn(num_items, latent_dim), dim=1))
        self.learning_rate, self.betas = learning_rate, betas

    def optimizers(self) -> dict[str, Optimizer]:
        groups = [
            {"params": list(self.generator.parameters()), "lr": self.learning_rate},
            {"params": [self.latents], "lr": 10 * self.learning_rate},
        ]
        return {"distance": torch.optim.Adam(groups, betas=self.betas, fused=True)}

    def step(self, batch: Batch, update: Update, iteration: int) -> None:
        x, items = batch
        update("distance", lambda: pyramid_distance(self.generator.network(self.latents[items]), x))
        with torch.no_grad():  # Adam also moves the latents of items outside the batch
            self.latents.div_(self.latents.norm(dim=1, keepdim=True).clamp_min(1.0))

    def train(self, mode: bool = True) -> GLO:
        if not mode:
            self.generator.fit(self.latents)
        return super().train(mode)


def pyramid_distance(made: Tensor, x: Tensor) -> Tensor:
    """The mean absolute difference of events (batch, *event_shape), summed over the levels of the Laplacian pyramid."""
    difference = made - x  # the pyramid is linear
    loss = torch.zeros((), device=x.device)
    while difference.ndim == 4 and min(difference.shape[2:]) >= SMALLEST:
        smaller = _halved(difference)
        larger = interpolate(smaller, size=difference.shape[2:], mode="bilinear", align_corners=False)
        loss = loss + (difference - larger).abs().mean()
        difference = smaller
    return loss + difference.abs().mean()


def _halved(images: Tensor) -> Tensor:
    """Images smoothed by binomial weights and subsampled by two."""
    weights = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device, dtype=images.dtype) / 16
    kernel = torch.outer(weights, weights).expand(images.shape[1], 1, 5, 5)
    return conv2d(pad(images, (2, 2, 2, 2), mode="reflect"), kernel, stride=2, groups=images.shape[1])


# --- recipe --------------------------------------------------------------------------------------------------------


def _architecture(sizes: Sizes) -> Architecture:
    name, arguments = sizes.generator_architecture()
    return Architecture("WhitenedGenerator", {"architecture": name, "latent_dim": sizes.latent_dim, "arguments": arguments})


def _build(sizes: Sizes, rates: Mapping[str, Any]) -> GLO:
    return GLO(WhitenedGenerator(**_architecture(sizes).arguments), sizes.latent_dim, sizes.num_items, **rates)


RECIPE = Recipe(_build, takes=frozenset({Kind.IMAGES}), epochs=50, generator=_architecture)

"""Kernels on a sphere as a Pyro distribution; `kernels_on_sphere_jax` is the NumPyro version and defines the density."""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Beta, constraints
from torch.nn.functional import normalize


class KernelsOnSphere(TorchDistribution):
    """The kernel estimate of each item; the batch shape is (item,).

    :param directions: unit vectors (item, kernel, latent_dim).
    :param concentration: concentration of the kernels, (item,), positive.
    """

    arg_constraints = {"concentration": constraints.positive}  # noqa: RUF012 (torch reads it so)
    support = constraints.real_vector

    def __init__(self, directions: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.directions, self.concentration = directions, concentration
        super().__init__(concentration.shape, directions.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> KernelsOnSphere:
        directions = self.directions.expand(*batch_shape, *self.directions.shape[-2:])
        return KernelsOnSphere(directions, self.concentration.expand(batch_shape), self._validate_args)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        *_, count, dim = self.directions.shape
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            chosen = torch.randint(count, shape)[..., None, None].expand(*shape, 1, dim)
            mu = self.directions.expand(*shape, count, dim).gather(-2, chosen)[..., 0, :]
            half = torch.full(shape, (dim - 1) / 2)
            cosine = 2 * Beta(half + self.concentration, half).sample()[..., None] - 1
            aside = normalize(torch.randn(*shape, dim - 1), dim=-1)
            first = torch.cat([cosine, (1 - cosine.square()).clamp(min=0).sqrt() * aside], dim=-1)
            mirror = -mu
            mirror[..., 0] += 1  # between the first axis and mu
            mirror = normalize(mirror, dim=-1, eps=1e-6)
            direction = first - 2 * (mirror * first).sum(-1, keepdim=True) * mirror
            return direction * torch.randn(*shape, dim).norm(dim=-1, keepdim=True)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        *_, count, dim = self.directions.shape
        kappa, half = self.concentration, (dim - 1) / 2
        direction = normalize(value, dim=-1)
        cosine = (self.directions @ direction[..., None])[..., 0].clamp(-1 + 1e-6, 1.0)
        normal = -0.5 * (value.square().sum(-1) + dim * math.log(2 * math.pi))
        kernels = (kappa[..., None] * cosine.log1p()).logsumexp(-1) - math.log(count)
        norm = (
            (2 * half + kappa) * math.log(2) + half * math.log(math.pi) + (half + kappa).lgamma() - (2 * half + kappa).lgamma()
        )
        area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
        return normal + kernels - norm + area

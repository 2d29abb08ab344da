"""Where learned descents end as a guide with a density, and as the start of an annealing.

The end points of an item are draws without a density. A kernel around each gives one: directions have a mixture of kernels on
the sphere, and lengths the prior's distribution, which nothing depends on. Kernels are as wide as makes every end point most
likely given the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from torch import Tensor

from cogen.models.frozen import evaluation
from cogen.models.networks.latent_descent import LatentDescent, given_condition, on_sphere

CONCENTRATIONS = 2.0 ** np.arange(-2.0, 14.0, 0.5)
"""Among which that of the kernels is chosen."""


class EndpointGuide:
    """A guide of the items of a conditioned `CoGenerator`.

    :param descent: trained with the model's generator.
    :param seen: the model, its condition given.
    :param num_starts: descents of each item, two or more.
    :param widen: kernels are so many times as wide as fits the end points best, which gather closer than the posterior lies.
    :param seed: of their starts, in [0, 2^63).

    Called with the model's arguments it is the Pyro guide. Raises ValueError for a model without
    a condition or with a latent of another size, and for fewer starts.
    """

    def __init__(self, descent: LatentDescent, seen: Any, *, num_starts: int = 256, widen: float = 3.0, seed: int = 0) -> None:
        dim = descent.predictor.latent_dim
        if num_starts < 2 or dim < 2:
            raise ValueError(
                f"num_starts={num_starts}, latent_dim={dim}: kernels need two end points, and a circle or a sphere"
            )
        if not widen > 0:
            raise ValueError(f"widen={widen}: a positive factor")
        if seen.latent_dim != dim:
            raise ValueError(f"the descent leads {dim} latents, the model has {seen.latent_dim}")
        condition = torch.as_tensor(given_condition(seen.item_data))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluation(descent):
            torch.manual_seed(seed)
            u = torch.randn(num_starts * len(condition), dim)
            ends = descent(u, condition.repeat_interleave(num_starts, 0))
        self.directions: Tensor = on_sphere(ends).unflatten(0, (-1, num_starts))
        """(item, start, latent_dim)"""
        fitted = torch.tensor([concentration(each) for each in self.directions.numpy()], dtype=torch.float32)
        self.concentration = fitted / widen**2
        """(item,)"""

    def posterior(self) -> Any:
        """q(u | condition) as a Pyro distribution, batch shape (item,)."""
        from cogen.models.networks.kernels_on_sphere_torch import KernelsOnSphere

        return KernelsOnSphere(self.directions, self.concentration)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        import pyro

        with pyro.plate("item", len(self.directions), dim=-1):
            pyro.sample("z", self.posterior())

    def start(self, prior_share: float = 0.1) -> Any:
        """For ``AnnealedHMC(initial=...)``: q0 = (1 - prior_share) q(u | condition) + prior_share prior, item by item."""
        from cogen.inference import GuideStart
        from cogen.models.networks.kernels_on_sphere_jax import KernelsOnSphere

        parameters = {"directions": self.directions.numpy(), "concentration": self.concentration.numpy()}
        return GuideStart(KernelsOnSphere, parameters, prior_share=prior_share, per_item=True)

    def pyro_start(self, prior_share: float = 0.1) -> Any:
        """The same for ``PyroAnnealedHMC(initial=...)``."""
        from cogen.inference.torch.guide_start import PyroGuideStart

        return PyroGuideStart(self.posterior(), prior_share=prior_share)


def concentration(directions: np.ndarray) -> float:
    """That of `CONCENTRATIONS` under which each of these unit vectors (kernel, dim) is most likely given the others."""
    count, dim = directions.shape
    cosine = np.clip(directions.astype(np.float64) @ directions.T, -1 + 1e-6, 1.0)
    half = (dim - 1) / 2
    others = ~np.eye(count, dtype=bool)
    best, found = -np.inf, CONCENTRATIONS[0]
    for kappa in CONCENTRATIONS:
        norm = kappa * np.log(2) + gammaln(half + kappa) - gammaln(2 * half + kappa)
        total = logsumexp(kappa * np.log1p(cosine), axis=1, b=others).sum() - count * norm
        if total > best:
            best, found = total, kappa
    return float(found)

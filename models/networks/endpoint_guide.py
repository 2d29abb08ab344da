"""The end points of learned descents as a guide with a density, and as a start of annealing.

The end points of an item are draws without a density. A kernel estimate gives one: directions have a mixture of kernels on the
sphere, and lengths the prior's distribution, since the generator does not depend on them. The width of the kernels maximises
the leave-one-out likelihood of the end points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.special import gammaln, logsumexp
from torch import Tensor

from cogen.models.frozen import evaluation
from cogen.models.networks.latent_descent import LatentDescent, given_condition, on_sphere

if TYPE_CHECKING:
    from cogen.inference import GuideStart, PyroGuideStart
    from cogen.models.cogenerator import CoGenerator
    from cogen.models.networks.kernels_on_sphere_torch import KernelsOnSphere

CONCENTRATIONS = 2.0 ** np.arange(-2.0, 14.0, 0.5)
"""Candidates of the concentration of the kernels."""


class EndpointGuide:
    """A guide of the items of a conditioned `CoGenerator`.

    Called with the model's arguments it is the Pyro guide.

    :param descent: the descent trained with the model's generator.
    :param seen: the model with its condition given.
    :param num_starts: number of descents of each item, at least 2.
    :param widen: factor of the kernels' fitted width, positive; end points are more concentrated than the posterior.
    :param seed: seed of the starts, in [0, 2^63).
    :raises ValueError: for a model without a condition or with another ``latent_dim``, or settings out of range.
    """

    def __init__(
        self, descent: LatentDescent, seen: CoGenerator, *, num_starts: int = 256, widen: float = 3.0, seed: int = 0
    ) -> None:
        dim = descent.predictor.latent_dim
        if num_starts < 2 or dim < 2:
            raise ValueError(f"num_starts={num_starts}, latent_dim={dim}: num_starts and latent_dim must be at least 2")
        if not widen > 0:
            raise ValueError(f"widen={widen}: it must be positive")
        if seen.latent_dim != dim:
            raise ValueError(f"the descent has {dim} latents, but the model has {seen.latent_dim}")
        condition = torch.as_tensor(given_condition(seen.item_data))
        with torch.no_grad(), torch.random.fork_rng(devices=[]), evaluation(descent):
            torch.manual_seed(seed)
            u = torch.randn(num_starts * len(condition), dim)
            ends = descent(u, condition.repeat_interleave(num_starts, 0))
        self.directions: Tensor = on_sphere(ends).unflatten(0, (-1, num_starts))
        """Directions of the end points, (item, start, latent_dim)."""
        fitted = torch.tensor([concentration(each) for each in self.directions.numpy()], dtype=torch.float32)
        self.concentration = fitted / widen**2
        """Concentration of the kernels, (item,)."""

    def posterior(self) -> KernelsOnSphere:
        """q(u | condition) as a Pyro distribution of batch shape (item,)."""
        from cogen.models.networks.kernels_on_sphere_torch import KernelsOnSphere

        return KernelsOnSphere(self.directions, self.concentration)

    def __call__(self, *args: object, **kwargs: object) -> None:
        import pyro

        with pyro.plate("item", len(self.directions), dim=-1):
            pyro.sample("z", self.posterior())

    def start(self, prior_share: float = 0.1) -> GuideStart:
        """The start (1 - prior_share) q(u | condition) + prior_share prior of each item, for ``AnnealedHMC(initial=...)``."""
        from cogen.inference import GuideStart
        from cogen.models.networks.kernels_on_sphere_jax import KernelsOnSphere

        parameters = {"directions": self.directions.numpy(), "concentration": self.concentration.numpy()}
        return GuideStart(KernelsOnSphere, parameters, prior_share=prior_share, per_item=True)

    def pyro_start(self, prior_share: float = 0.1) -> PyroGuideStart:
        """`start` for ``PyroAnnealedHMC(initial=...)``."""
        from cogen.inference.torch.guide_start import PyroGuideStart

        return PyroGuideStart(self.posterior(), prior_share=prior_share)


def concentration(directions: np.ndarray) -> float:
    """The value of `CONCENTRATIONS` with the largest leave-one-out likelihood of unit vectors (kernel, dim)."""
    count, dim = directions.shape
    cosine = np.clip(directions.astype(np.float64) @ directions.T, -1 + 1e-6, 1.0)
    half = (dim - 1) / 2
    others = ~np.eye(count, dtype=bool)
    best, chosen = -np.inf, CONCENTRATIONS[0]
    for kappa in CONCENTRATIONS:
        norm = kappa * np.log(2) + gammaln(half + kappa) - gammaln(2 * half + kappa)
        total = logsumexp(kappa * np.log1p(cosine), axis=1, b=others).sum() - count * norm
        if total > best:
            best, chosen = total, kappa
    return float(chosen)

"""Masked densities in NumPyro models: which values count, what is drawn, and what ``obs_mask`` hides."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpyro.distributions as dist
from numpyro.primitives import Messenger


class ProperUnobserved(Messenger):
    """The model in which what ``obs_mask`` hides keeps its prior.

    ``numpyro.sample(name, ..., obs=y, obs_mask=m)`` makes a latent site ``<name>_unobserved`` of the full shape, and masks out
    of its density what is observed: directions in which the density is flat, where chains drift for ever. With their prior in
    the place of the flat density nothing else of the posterior changes, since the prior integrates to one.
    """

    def __enter__(self) -> Any:
        self._observed: set[str] = set()
        return super().__enter__()

    def process_message(self, message: dict) -> None:
        if message["type"] != "sample":
            return
        name = message["name"]
        if message["is_observed"]:
            self._observed.add(name)
        elif name.endswith("_unobserved") and f"{name.removesuffix('_unobserved')}_observed" in self._observed:
            message["fn"] = unmasked(message["fn"])


def unmasked(distribution: dist.Distribution) -> dist.Distribution:
    """The distribution that a masked one draws from."""
    if not is_masked(distribution):
        return distribution
    if isinstance(distribution, dist.Independent):
        return unmasked(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    return unmasked(distribution.base_dist).expand(distribution.batch_shape)


def is_masked(distribution: dist.Distribution) -> bool:
    """Whether any of the log density is masked out."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.MaskedDistribution)


def seen(distribution: dist.Distribution) -> np.ndarray | None:
    """Which values of a batch a masked distribution counts; None where it counts all."""
    masks = []
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(distribution, dist.MaskedDistribution):
            masks.append(np.broadcast_to(np.asarray(distribution._mask), distribution.batch_shape))
        distribution = distribution.base_dist
    return functools.reduce(np.logical_and, masks) if masks else None

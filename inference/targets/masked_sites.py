"""Masked densities in NumPyro models: counted entries, unmasked distributions, and values hidden by ``obs_mask``."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.primitives import Messenger

Array = jax.Array


class ProperUnobserved(Messenger):
    """Keeps the prior of values hidden by ``obs_mask``.

    ``numpyro.sample(name, ..., obs=y, obs_mask=m)`` makes a latent site ``<name>_unobserved`` of the full shape, and masks the
    observed entries out of its density. The density is flat in these directions, so chains would drift without bound. This
    handler replaces the flat density by the unscaled prior, which leaves the rest of the posterior unchanged, since the prior
    integrates to one.
    """

    def __enter__(self) -> Any:
        self._observed: set[str] = set()
        return super().__enter__()

    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample":
            return
        name = message["name"]
        if message["is_observed"]:
            self._observed.add(name)
        elif name.endswith("_unobserved") and f"{name.removesuffix('_unobserved')}_observed" in self._observed:
            counted = seen(message["fn"])
            message["fn"] = unmasked(message["fn"])
            if message.get("scale") is not None and counted is not None:
                message["scale"] = jnp.where(counted, message["scale"], 1.0)


def unmasked(distribution: dist.Distribution) -> dist.Distribution:
    """The distribution from which a masked one draws."""
    if not is_masked(distribution):
        return distribution
    if isinstance(distribution, dist.Independent):
        return unmasked(distribution.base_dist).to_event(distribution.reinterpreted_batch_ndims)
    return unmasked(distribution.base_dist).expand(distribution.batch_shape)


def is_masked(distribution: dist.Distribution) -> bool:
    """Whether parts of the log density are masked out."""
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    return isinstance(distribution, dist.MaskedDistribution)


def seen(distribution: dist.Distribution) -> Array | None:
    """The entries of a value that a masked distribution counts, as a mask that broadcasts against it; None: all."""
    masks = []
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        if isinstance(distribution, dist.MaskedDistribution):
            mask = jnp.asarray(distribution._mask)
            masks.append(mask.reshape(mask.shape + (1,) * distribution.event_dim))
        distribution = distribution.base_dist
    return functools.reduce(jnp.logical_and, masks) if masks else None

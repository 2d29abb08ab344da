"""A small neural generator with two latents and twelve outputs, seen through masks that differ from item to item."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from cogen.models import CoGenerator, views

OUTPUTS, NOISE = 12, 0.5

_rng = np.random.default_rng(3)
_FIRST, _SHIFT = _rng.normal(size=(2, 16)).astype(np.float32), 0.5 * _rng.normal(size=16).astype(np.float32)
_SECOND = _rng.normal(size=(16, OUTPUTS)).astype(np.float32) / 3


def generator(z):
    """x = tanh(z W + b) V: (batch, 2) -> (batch, 12)."""
    return jnp.tanh(z @ _FIRST + _SHIFT) @ _SECOND


def build(masks, scale=NOISE):
    return CoGenerator(generator, latent_dim=2, views={"visible": views.Mask(masks, scale=scale)})


def seeing(count):
    """A function that draws masks which show ``count`` of the outputs."""
    return lambda rng: np.isin(np.arange(OUTPUTS), rng.choice(OUTPUTS, count, replace=False))


MASKS = {"few": seeing(3), "many": seeing(8)}

"""Six posteriors over two latents whose moments and evidence are known, as items of one model.

All share the prior Normal(0, 3) on each latent and are told apart by a number among the data, so that a kernel is compiled once
for all of them. The first four are normalised densities (evidence one); the generators' evidence and everybody's moments come
from quadrature on a grid that holds all of the mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.stats import norm
from scipy.special import logsumexp

PRIOR = 3.0
NAMES = ("gaussian", "mixture", "funnel", "banana", "linear generator", "neural generator")
MULTIMODAL = ("mixture",)

_RNG = np.random.default_rng(11)
_LINEAR = _RNG.normal(size=(2, 5)) * 0.8
_HIDDEN, _OUT = _RNG.normal(size=(2, 8)), _RNG.normal(size=(8, 6)) * 0.6
_NOISE = 0.6
_SEEN_LINEAR = np.array([0.4, -1.0, 0.8, 0.3, -0.2])
_SEEN_NEURAL = np.array([0.5, -0.3, 0.9, 0.1, -0.7, 0.4])


def _prior(z):
    return norm.logpdf(z, 0.0, PRIOR).sum()


def _gaussian(z):
    rho = 0.8
    a, b = (z[0] - 1.0) / 1.5, (z[1] + 1.0) / 0.7
    return -0.5 * (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2) - jnp.log(2 * jnp.pi * 1.5 * 0.7 * jnp.sqrt(1 - rho**2))


def _mixture(z):
    """Weights 0.8 and 0.2, seven standard deviations apart."""
    left = jnp.log(0.8) + norm.logpdf(z, jnp.array([-2.0, 1.0]), 0.8).sum()
    right = jnp.log(0.2) + norm.logpdf(z, jnp.array([3.5, -1.0]), 0.8).sum()
    return jnp.logaddexp(left, right)


def _funnel(z):
    return norm.logpdf(z[0], 0.0, 1.2) + norm.logpdf(z[1], 0.0, jnp.exp(0.5 * z[0]))


def _banana(z):
    return norm.logpdf(z[0], 0.0, 1.5) + norm.logpdf(z[1], 0.5 * (z[0] ** 2 - 2.0), 0.7)


def _linear(z):
    return _prior(z) + norm.logpdf(_SEEN_LINEAR, z / PRIOR @ _LINEAR, _NOISE).sum()


def _neural(z):
    return _prior(z) + norm.logpdf(_SEEN_NEURAL, jnp.tanh(z / PRIOR @ _HIDDEN) @ _OUT, _NOISE).sum()


DENSITIES = (_gaussian, _mixture, _funnel, _banana, _linear, _neural)
"""log p(z, y) of each, z (2,)."""


def statistics(z: np.ndarray) -> np.ndarray:
    """The test functions: (..., 2) -> (..., 6)."""
    a, b = z[..., 0], z[..., 1]
    return np.stack([a, b, a**2 / 3, b**2 / 3, a * b / 3, (a > 1.0).astype(float)], axis=-1)


class Known:
    """By quadrature: the log evidence of every target, the means of the statistics, and exact draws."""

    def __init__(self, cells: int = 900, reach: float = 14.0) -> None:
        edges = np.linspace(-reach, reach, cells + 1)
        self.width = edges[1] - edges[0]
        centre = 0.5 * (edges[1:] + edges[:-1])
        self.grid = np.stack(np.meshgrid(centre, centre, indexing="ij"), axis=-1).reshape(-1, 2)
        log_p = [np.asarray(jax.jit(jax.vmap(density))(self.grid.astype(np.float32)), float) for density in DENSITIES]
        self.log_evidence = np.array([logsumexp(p) + 2 * np.log(self.width) for p in log_p])
        self.mass = [np.exp(p - logsumexp(p)) for p in log_p]
        self.means = np.stack([mass @ statistics(self.grid) for mass in self.mass])

    def draw(self, target: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 2), up to the width of a cell."""
        cells = rng.choice(len(self.grid), size=count, p=self.mass[target])
        return self.grid[cells] + self.width * (rng.random((count, 2)) - 0.5)


class Targets:
    """An `ItemModel` with ``repeats`` items of every target that is named."""

    dims: Mapping[str, tuple[str, ...]] = {"z": ("latent",), "x": ("latent",)}
    event_shape = (2,)
    attributes: Mapping[str, Any] = {}

    def __init__(self, repeats: int, names: tuple[str, ...] = NAMES) -> None:
        self.which = np.repeat([NAMES.index(name) for name in names], repeats)
        self.names, self.repeats = names, repeats
        self.item_data = {"y": {"value": self.which}}

    def condition(self, **data: Any) -> Targets:
        return self

    def __call__(self, data: Any = None) -> None:
        raise NotImplementedError

    def numpyro(self, data: Any = None) -> None:
        data = self.item_data if data is None else data
        with numpyro.plate("item", len(data["y"]["value"]), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), PRIOR).to_event(1))
            joint = jax.vmap(lambda k, v: jnp.stack([density(v) for density in DENSITIES])[k])(data["y"]["value"], z)
            numpyro.factor("y", joint - jax.vmap(_prior)(z))

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        return {}

    def result_groups(self) -> dict:
        return {}

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
import pyro
import torch
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


# Every density is written once, for jax.numpy and for torch: m is the module, z (..., 2) its array.


def _normal(m, value, mean, sd):
    """Normal log densities of arrays; sd a number or an array."""
    log_sd = np.log(sd) if isinstance(sd, float) else m.log(sd)
    return -0.5 * ((value - mean) / sd) ** 2 - log_sd - 0.5 * np.log(2 * np.pi)


def _prior(m, z):
    return _normal(m, z, 0.0, PRIOR).sum(-1)


def _gaussian(m, z):
    rho = 0.8
    a, b = (z[..., 0] - 1.0) / 1.5, (z[..., 1] + 1.0) / 0.7
    return -0.5 * (a**2 - 2 * rho * a * b + b**2) / (1 - rho**2) - np.log(2 * np.pi * 1.5 * 0.7 * np.sqrt(1 - rho**2))


def _mixture(m, z):
    """Weights 0.8 and 0.2, seven standard deviations apart."""
    left = np.log(0.8) + _normal(m, z[..., 0], -2.0, 0.8) + _normal(m, z[..., 1], 1.0, 0.8)
    right = np.log(0.2) + _normal(m, z[..., 0], 3.5, 0.8) + _normal(m, z[..., 1], -1.0, 0.8)
    return m.logaddexp(left, right)


def _funnel(m, z):
    return _normal(m, z[..., 0], 0.0, 1.2) + _normal(m, z[..., 1], 0.0, m.exp(0.5 * z[..., 0]))


def _banana(m, z):
    return _normal(m, z[..., 0], 0.0, 1.5) + _normal(m, z[..., 1], 0.5 * (z[..., 0] ** 2 - 2.0), 0.7)


def _linear(m, z):
    x = z / PRIOR @ m.asarray(_LINEAR, dtype=m.float32)
    return _prior(m, z) + _normal(m, m.asarray(_SEEN_LINEAR, dtype=m.float32), x, _NOISE).sum(-1)


def _neural(m, z):
    hidden, out = (m.asarray(weight, dtype=m.float32) for weight in (_HIDDEN, _OUT))
    x = m.tanh(z / PRIOR @ hidden) @ out
    return _prior(m, z) + _normal(m, m.asarray(_SEEN_NEURAL, dtype=m.float32), x, _NOISE).sum(-1)


DENSITIES = (_gaussian, _mixture, _funnel, _banana, _linear, _neural)
"""log p(z, y) of each."""

_joint = jax.jit(lambda z: jnp.stack([density(jnp, z) for density in DENSITIES], axis=-1))


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
        log_p = [np.asarray(density(jnp, self.grid.astype(np.float32)), float) for density in DENSITIES]
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
        which = torch.as_tensor((self.item_data if data is None else data)["y"]["value"])
        with pyro.plate("item", len(which), dim=-1):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(2), PRIOR).to_event(1))
            joint = torch.stack([density(torch, z) for density in DENSITIES], dim=-1)
            pyro.factor("y", joint.gather(-1, which[:, None])[:, 0] - _prior(torch, z))

    def numpyro(self, data: Any = None) -> None:
        data = self.item_data if data is None else data
        with numpyro.plate("item", len(data["y"]["value"]), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(2), PRIOR).to_event(1))
            chosen = jnp.take_along_axis(_joint(z), data["y"]["value"][:, None], axis=-1)[:, 0]
            numpyro.factor("y", chosen - _prior(jnp, z))

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        return {}

    def result_groups(self) -> dict:
        return {}

"""Posteriors whose moments and evidence are known: six over two latents, as items of one model, and weighted observations.

The six share the prior Normal(0, 3) on each latent and are told apart by a number among the data, so that a kernel is compiled
once for all of them. The first four are normalised densities (evidence one); the generators' evidence and everybody's moments
come from quadrature on a grid that holds all of the mass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import torch
from known import GaussianPosteriors
from scipy import stats
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


class Known:
    """By quadrature, at an inverse temperature: log normalising constants (the evidence at beta = 1), exact draws, and
    functions of draws whose means are known."""

    def __init__(self, beta: float = 1.0, cells: int = 900, reach: float = 14.0) -> None:
        self.beta = beta
        edges = np.linspace(-reach, reach, cells + 1)
        self.width = edges[1] - edges[0]
        centre = 0.5 * (edges[1:] + edges[:-1])
        self.grid = np.stack(np.meshgrid(centre, centre, indexing="ij"), axis=-1).reshape(-1, 2)
        log_p = self.log_density(self.grid).T
        self.log_evidence = logsumexp(log_p, axis=1) + 2 * np.log(self.width)
        self.mass = np.exp(log_p - logsumexp(log_p, axis=1, keepdims=True))
        self.means = np.stack([mass @ self._functions(self.grid, row) for mass, row in zip(self.mass, log_p, strict=True)])

    def log_density(self, z: np.ndarray) -> np.ndarray:
        """(..., 2) -> (..., target): (1 - beta) log p(z) + beta log p(z, y)."""
        z = z.astype(np.float32)
        return (1 - self.beta) * np.asarray(_prior(jnp, z), float)[..., None] + self.beta * np.asarray(_joint(z), float)

    def draw(self, target: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """(count, 2), up to the width of a cell."""
        cells = rng.choice(len(self.grid), size=count, p=self.mass[target])
        return self.grid[cells] + self.width * (rng.random((count, 2)) - 0.5)

    def departures(self, z: np.ndarray, which: np.ndarray) -> np.ndarray:
        """Functions of draws (..., item, 2) of the targets ``which`` (item,) that have the mean zero: (..., item, 7)."""
        log_p = np.take_along_axis(self.log_density(z), np.broadcast_to(which, z.shape[:-1])[..., None], axis=-1)[..., 0]
        return self._functions(z, log_p) - self.means[which]

    def _functions(self, z: np.ndarray, log_p: np.ndarray) -> np.ndarray:
        a, b = z[..., 0], z[..., 1]
        return np.stack([a, b, a**2 / 3, b**2 / 3, a * b / 3, (a > 1.0).astype(float), log_p], axis=-1)


class _Items:
    """What an `ItemModel` without a generator says of itself."""

    attributes: Mapping[str, Any] = {}
    dims: Mapping[str, tuple[str, ...]] = {"z": ("latent",), "x": ("latent",)}

    def condition(self, **data: Any) -> Self:
        return self

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        return {}

    def result_groups(self) -> dict:
        return {}


class Targets(_Items):
    """An `ItemModel` with ``repeats`` items of every target that is named."""

    event_shape = (2,)

    def __init__(self, repeats: int, names: tuple[str, ...] = NAMES) -> None:
        self.which = np.repeat([NAMES.index(name) for name in names], repeats)
        self.names, self.repeats = names, repeats
        self.item_data = {"y": {"value": self.which}}

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


class WeightedCase(_Items, GaussianPosteriors):
    """Linear observations with weights, w log p(y | z), and the answers: y_i ~ Normal(A_i z, s) for N rows i.

    One half of a row's outputs is one site of N vectors with weights (item, N); the other half is a site of single numbers with
    the same weights, given as (item, N, 1). With the precision sum_i w_i A_i' A_i / s^2 and the pull sum_i w_i A_i' y_i / s^2,
    the closed form is that of any normal likelihood.
    """

    OUTPUTS, NOISE = 2, 1.0

    def __init__(self, items: int, *, latent_dim: int = 3, rows: int = 5) -> None:
        rng = np.random.default_rng(21)
        self.design = rng.normal(size=(2, rows, self.OUTPUTS, latent_dim))  # (half, row, output, latent)
        truth = rng.normal(size=(items, latent_dim))
        y = np.einsum("hrol,il->hiro", self.design, truth) + self.NOISE * rng.normal(size=(2, items, rows, self.OUTPUTS))
        weight = rng.choice([0.25, 0.5, 1.0, 2.0], size=(items, rows))
        self.event_shape = (latent_dim,)
        self.item_data = {
            "vectors": {"value": y[0].astype(np.float32), "weight": weight.astype(np.float32)},
            "numbers": {"value": y[1].astype(np.float32), "weight": weight[..., None].astype(np.float32)},
        }
        precision = np.einsum("ir,hrol,hrom->ilm", weight, self.design, self.design) / self.NOISE**2
        pull = np.einsum("ir,hrol,hiro->il", weight, self.design, y) / self.NOISE**2
        constant = (weight * stats.norm(scale=self.NOISE).logpdf(y).sum(axis=(0, -1))).sum(axis=1)
        GaussianPosteriors.__init__(self, precision, pull, constant)

    @property
    def conditioned(self) -> Self:
        return self

    def __call__(self, data: Any = None) -> None:
        data = self.item_data if data is None else data
        vectors, numbers = (
            {name: torch.as_tensor(value) for name, value in data[site].items()} for site in ("vectors", "numbers")
        )
        first, second = (torch.as_tensor(half, dtype=torch.float32) for half in self.design)
        normal = pyro.distributions.Normal
        with pyro.plate("item", len(vectors["value"]), dim=-1):
            z = pyro.sample("z", normal(torch.zeros(self.event_shape), 1.0).to_event(1))
        with pyro.poutine.scale(scale=vectors["weight"]):
            mean = torch.einsum("rol,il->iro", first, z)
            pyro.sample("vectors", normal(mean, self.NOISE).to_event(1), obs=vectors["value"])
        with pyro.poutine.scale(scale=numbers["weight"]):
            pyro.sample("numbers", normal(torch.einsum("rol,il->iro", second, z), self.NOISE), obs=numbers["value"])

    def numpyro(self, data: Any = None) -> None:
        data = self.item_data if data is None else data
        vectors, numbers = data["vectors"], data["numbers"]
        with numpyro.plate("item", len(vectors["value"]), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(self.event_shape), 1.0).to_event(1))
        first, second = (jnp.einsum("rol,il->iro", half, z) for half in self.design)
        with numpyro.handlers.scale(scale=vectors["weight"]):
            numpyro.sample("vectors", dist.Normal(first, self.NOISE).to_event(1), obs=vectors["value"])
        with numpyro.handlers.scale(scale=numbers["weight"]):
            numpyro.sample("numbers", dist.Normal(second, self.NOISE), obs=numbers["value"])

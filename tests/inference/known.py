"""Targets whose posterior and evidence are known, and tests of a run against them.

A test of exactness is a function from a run to a p-value, so that a deliberately broken kernel can be put to the same
test. Items are independent repetitions: the spread over items is an honest standard error, whatever happened inside.

With log weights log w, draws z and the true evidence Z, every annealed run that leaves its targets invariant satisfies

    E[ mean_chains  w / Z  h(z) ] = E_posterior[h],        h = 1, a component of z, a product of two, the log density,

exactly, with or without resampling, whatever the number of chains (Del Moral 2004, Theorem 7.4.2). For a kernel without weights
w / Z = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import torch
from scipy import stats
from torch import nn

from cogen.models import CoGenerator, views

NOISE = 0.5


class LinearGenerator(nn.Module):
    """x = W z + b with correlated weights."""

    def __init__(self, latent_dim: int = 8, outputs: int = 32, seed: int = 0) -> None:
        super().__init__()
        rng = np.random.default_rng(seed)
        mixing = np.eye(latent_dim) + 0.5 * rng.normal(size=(latent_dim, latent_dim)) / np.sqrt(latent_dim)
        weight = rng.normal(size=(outputs, latent_dim)) @ mixing / np.sqrt(latent_dim)
        self.linear = nn.Linear(latent_dim, outputs)
        self.linear.weight.data = torch.as_tensor(weight, dtype=torch.float32)
        self.linear.bias.data = torch.as_tensor(rng.normal(size=outputs), dtype=torch.float32)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.linear(z)


class GaussianPosteriors:
    """Items with the standard normal prior and the log likelihood ``constant + pull z - z' precision z / 2``, and the answers.

    Tempered, p(z) p(y | z)^beta is the normal with the covariance (I + beta precision)^-1 and the mean beta covariance pull.

    :param precision: (dim, dim) of all items, or (item, dim, dim).
    :param pull: (item, dim).
    :param constant: (item,).
    """

    conditioned: Any

    def __init__(self, precision: np.ndarray, pull: np.ndarray, constant: np.ndarray) -> None:
        self.precision, self.pull = precision, pull
        self.mean, self.covariance = self.tempered(1.0)
        determinant = np.linalg.slogdet(self.covariance)[1]
        self.log_evidence = constant + 0.5 * (self.pull * self.mean).sum(axis=1) + 0.5 * determinant  # (item,)

    def tempered(self, beta: float) -> tuple[np.ndarray, np.ndarray]:
        """Means (item, dim) and covariances, of the shape of ``precision``."""
        covariance = np.linalg.inv(np.eye(self.pull.shape[1]) + beta * self.precision)
        return np.einsum("...ij,...j->...i", covariance, beta * self.pull), covariance

    def draw(self, chains: int, rng: np.random.Generator, beta: float = 1.0) -> np.ndarray:
        """Exact draws (chain, item, dim)."""
        mean, covariance = self.tempered(beta)
        normal = rng.normal(size=(chains, *mean.shape))
        return mean + np.einsum("...ij,...j->...i", np.linalg.cholesky(covariance), normal)

    def whitened(self, z: np.ndarray, beta: float = 1.0) -> np.ndarray:
        """Draws (..., item, dim) in coordinates in which the posterior is standard normal."""
        mean, covariance = self.tempered(beta)
        return np.linalg.solve(np.linalg.cholesky(covariance), (z - mean)[..., None])[..., 0]


class LinearCase(GaussianPosteriors):
    """A linear generator, a part of its outputs seen with Gaussian noise in ``items`` simulated items, and the answers."""

    def __init__(self, items: int, *, latent_dim: int = 8, outputs: int = 32, seen: int = 20, seed: int = 0) -> None:
        rng = np.random.default_rng(seed + 1)
        generator = LinearGenerator(latent_dim, outputs, seed)
        mask = np.zeros(outputs, dtype=bool)
        mask[rng.permutation(outputs)[:seen]] = True
        weight, bias = (p.detach().double().numpy() for p in generator.parameters())
        truth = rng.normal(size=(items, latent_dim))
        data = truth @ weight.T + bias + NOISE * rng.normal(size=(items, outputs))
        self.model = CoGenerator(generator, latent_dim=latent_dim, views={"seen": views.Mask(mask, scale=NOISE)})
        self.conditioned = self.model.condition(seen=np.where(mask, data, np.nan))
        weight, residual = weight[mask], data[:, mask] - bias[mask]
        constant = stats.norm(scale=NOISE).logpdf(residual).sum(axis=1)
        super().__init__(weight.T @ weight / NOISE**2, residual @ weight / NOISE**2, constant)


def standard_normal_moments(r: np.ndarray) -> np.ndarray:
    """Functions (..., dim) -> (..., dim + dim (dim + 1) / 2 + 1) with the mean zero under the standard normal: means, products,
    and the log density, which is what a wrong inverse temperature or a wrong acceptance shifts first."""
    upper = np.triu_indices(r.shape[-1])
    products = (r[..., :, None] * r[..., None, :] - np.eye(r.shape[-1]))[..., upper[0], upper[1]]
    return np.concatenate([r, products, (r**2 - 1.0).sum(axis=-1, keepdims=True)], axis=-1)


def relative_weights(posterior: Any, log_evidence: np.ndarray) -> np.ndarray:
    """w / Z, (chain, draw, item); ones for a kernel without weights."""
    stats_group = posterior["sample_stats"]
    if "log_weight" not in stats_group:
        return np.ones(posterior["posterior"]["z"].shape[:3])
    return np.exp(stats_group["log_weight"].values.astype(float) - log_evidence)


def repeated_means_p_value(per_item: np.ndarray) -> float:
    """Whether all of several quantities (item, quantity) have the mean zero: t-tests over items, Bonferroni's p-value."""
    constant = np.ptp(per_item, axis=0) == 0
    if constant.any():
        if np.any(per_item[:, constant] != 0):
            return 0.0
        per_item = per_item[:, ~constant]
    if not np.isfinite(per_item).all():
        return 0.0
    p = stats.ttest_1samp(per_item, 0.0, axis=0).pvalue
    return float(min(1.0, p.size * p.min()))


def moments_p_value(case: GaussianPosteriors, posterior: Any) -> float:
    """Mean, covariance, log density and (where there are weights) evidence, by the identity above: the p-value of exactness.

    Under an exact kernel it falls below a with probability at most a, up to the normal approximation of the t-tests over
    items (46 quantities for 8 latents, Bonferroni). They are blind to a few enormous weights, so there is one test more: the
    product over items of the unbiased Zhat / Z has the mean one, so that it exceeds k with probability at most 1 / k (Markov).
    """
    r = case.whitened(posterior["posterior"]["z"].values.astype(float))
    weight = relative_weights(posterior, case.log_evidence)
    one = (weight - 1.0).mean(axis=(0, 1))[:, None]
    columns = [np.einsum("cdi,cdik->ik", weight, standard_normal_moments(r)) / weight[..., 0].size]
    if np.any(one):
        columns.append(one)
    p_means = repeated_means_p_value(np.concatenate(columns, axis=1))
    p_product = float(np.exp(-max(0.0, np.log1p(one).sum())))
    return min(1.0, 2 * min(p_means, p_product))


class Repeated:
    """An `ItemModel` whose items are repetitions of one NumPyro density over a scalar: seeds for the price of one compilation.

    ``log_likelihood(z)`` is added to a prior Normal(0, ``prior_scale``).
    """

    dims: Mapping[str, tuple[str, ...]] = {"z": ("latent",), "x": ("latent",)}
    event_shape = (1,)
    attributes: Mapping[str, Any] = {}

    def __init__(self, log_likelihood: Callable, prior_scale: float, items: int) -> None:
        self.log_likelihood, self.prior_scale = log_likelihood, prior_scale
        self.item_data = {"y": {"value": np.zeros((items, 1), np.float32)}}

    def condition(self, **data: Any) -> Repeated:
        return self

    def __call__(self, data: Any = None) -> Any:
        raise NotImplementedError

    def numpyro(self, data: Any = None) -> None:
        data = self.item_data if data is None else data
        with numpyro.plate("item", len(data["y"]["value"]), dim=-1):
            z = numpyro.sample("z", dist.Normal(jnp.zeros(1), self.prior_scale).to_event(1))
            numpyro.factor("y", self.log_likelihood(z[..., 0]))

    def decode(self, z: np.ndarray) -> np.ndarray:
        return z

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        return {}

    def result_groups(self) -> dict:
        return {}

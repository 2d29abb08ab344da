"""Stacking: a mixture of several predictive distributions, with weights from their scores on held-out items.

With P_k the predictive distributions of K models and w on the simplex, the mixture sum_k w_k P_k has the CRPS

    sum_k w_k E|X_k - y| - sum_kl w_k w_l E|X_k - X_l'| / 2,    X_k ~ P_k,  X_l' ~ P_l independent,

a convex function of w if it is averaged over enough items, so that the best weights on held-out items are the solution of a
small quadratic program. Weights by evidence select one of several wrong models; stacking weights optimize the prediction. Yao
et al. use the log score, which would require a predictive density.

References:
    Yao, Vehtari, Simpson, Gelman. Using stacking to average Bayesian predictive distributions. Bayesian Analysis 2018 (eq. 5;
        section 2.2 for other proper scores).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from cogen.diagnostics.fair_scores import ItemDraws, absolute_difference, items_of, mean_difference
from cogen.inference.signatures import ArrayLike


@dataclass(frozen=True)
class Stacking:
    """The terms of the CRPS of a mixture of models, item by item.

    :param names: of the models.
    :param error: E|X_k - y|, mean over the judged pixels, (item, model).
    :param distance: E|X_k - X_l'|, mean over the judged pixels, (item, model, model); its expectation does not depend on the
        number of draws.
    """

    names: tuple[str, ...]
    error: np.ndarray
    distance: np.ndarray

    @classmethod
    def of(cls, draws: Mapping[str, ArrayLike], truth: ArrayLike, mask: ArrayLike | None = None) -> Stacking:
        """Compute the terms from draws with independent, equally weighted chains.

        :param draws: by the model's name, (chain, draw, item, ...) each.
        :param truth: (item, ...).
        :param mask: boolean, True where a pixel is judged, (item, ...) or (...); all pixels when None.
        :raises ValueError: for fewer than two models, for shapes that do not match, and for items without two chains, without
            judged pixels or with non-finite values.
        """
        if len(draws) < 2:
            raise ValueError(f"stacking needs at least two models, not {len(draws)}")
        found = [_whole_items(name, items_of(x, truth, mask)) for name, x in draws.items()]
        items = list(zip(*found, strict=True))
        error = [[np.abs(one.draws - one.truth).mean() for one in models] for models in items]
        distance = [[[_distance(one, other) for other in models] for one in models] for models in items]
        return cls(tuple(draws), np.array(error), np.array(distance))

    def crps(self, weights: Mapping[str, float]) -> np.ndarray:
        """Fair CRPS of the mixture with these weights, by the model's name, (item,)."""
        w = np.array([weights[name] for name in self.names])
        return self.error @ w - np.einsum("ikl,k,l->i", self.distance, w, w) / 2

    def weights(self) -> dict[str, float]:
        """The weights with the least mean CRPS over the items; they sum to one.

        :raises ArithmeticError: if the optimization fails.
        """
        error, distance, count = self.error.mean(axis=0), self.distance.mean(axis=0), len(self.names)
        found = minimize(
            lambda w: error @ w - w @ distance @ w / 2,
            np.full(count, 1 / count),
            jac=lambda w: error - distance @ w,
            bounds=[(0, 1)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            options={"ftol": 1e-12},
        )
        if not found.success:
            raise ArithmeticError(f"the optimization of the stacking weights failed: {found.message}")
        w = found.x.clip(0)
        return dict(zip(self.names, (w / w.sum()).tolist(), strict=True))


def stacked(draws: Mapping[str, ArrayLike], weights: Mapping[str, float], seed: int) -> np.ndarray:
    """Draws of the mixture: for every chain and item those of one model, which is picked by weight.

    :param draws: by the model's name, (chain, draw, item, ...), of the same shape.
    :param weights: by the model's name, summing to one (`Stacking.weights`).
    :param seed: of the picks.
    :raises ValueError: for draws of different shapes.
    """
    shapes = {name: np.shape(x) for name, x in draws.items()}
    if len(set(shapes.values())) > 1:
        raise ValueError(f"draws of a mixture must have the same shape, not {shapes}")
    values = np.stack([draws[name] for name in weights])  # (model, chain, draw, item, ...)
    chains, items = values.shape[1], values.shape[3]
    chosen = np.random.default_rng(seed).choice(len(weights), size=(chains, items), p=list(weights.values()))
    return values[chosen[:, None], np.arange(chains)[:, None, None], np.arange(values.shape[2])[:, None], np.arange(items)]


def _whole_items(name: str, items: Iterable[ItemDraws | None]) -> list[ItemDraws]:
    found: list[ItemDraws] = []
    for number, one in enumerate(items):
        if one is None or len(np.unique(one.group)) < 2:
            raise ValueError(f"{name!r}, item {number}: stacking needs finite draws of at least two chains, and a judged pixel")
        found.append(one)
    return found


def _distance(one: ItemDraws, other: ItemDraws) -> float:
    """E|X - X'| between the draws of two models, or between different chains of one model, mean over the pixels."""
    if one is other:
        return float(mean_difference(one, absolute_difference).mean())
    pooled, weight = np.concatenate([one.draws, other.draws]), np.concatenate([one.weight, other.weight])
    inside = absolute_difference(one.draws, one.weight) + absolute_difference(other.draws, other.weight)
    return float((absolute_difference(pooled, weight) - inside).mean() / 2)

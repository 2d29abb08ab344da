"""Stacking finds the mixture that was there, and its CRPS is that of the mixture's draws."""

from __future__ import annotations

import numpy as np
import pytest

from cogen.diagnostics import Stacking, fair_crps, stacked

SHARE = 0.3


def samples(items: int, seed: int, chains: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Two models, and a third that is wrong everywhere; truths of which three tenths come from the first."""
    random = np.random.default_rng(seed)
    draws = {
        "low": random.normal(-2, 1, (chains, 1, items, 4)),
        "high": random.normal(2, 1, (chains, 1, items, 4)),
        "far": random.normal(9, 1, (chains, 1, items, 4)),
    }
    truth = np.where(random.random((items, 1)) < SHARE, -2, 2) + random.normal(0, 1, (items, 4))
    return draws, truth


def test_finds_the_mixture_that_the_truths_are_from():
    """Twenty runs of 400 items: the mean weight within four standard errors of the truth, the wrong model's near zero."""
    found = [Stacking.of(*samples(400, seed)).weights() for seed in range(20)]
    low = np.array([weights["low"] for weights in found])
    assert abs(low.mean() - SHARE) < 4 * low.std(ddof=1) / np.sqrt(len(low))
    assert all(abs(sum(weights.values()) - 1) < 1e-9 for weights in found)
    assert max(weights["far"] for weights in found) < 0.02


def test_no_vertex_is_better_and_a_worse_mixture_scores_worse():
    stacking = Stacking.of(*samples(400, 1))
    weights = stacking.weights()
    best = stacking.crps(weights).mean()
    for name in weights:
        assert best <= stacking.crps({other: float(other == name) for other in weights}).mean() + 1e-9
    assert stacking.crps({"low": 0.9, "high": 0.1, "far": 0.0}).mean() > best + 0.1  # the weights the other way round


def test_the_crps_of_a_mixture_is_that_of_its_draws():
    """Means over 1,000 items, the difference within four of its standard errors; of a single model exactly."""
    draws, truth = samples(1_000, 2)
    stacking = Stacking.of(draws, truth)
    weights = {"low": 0.25, "high": 0.75, "far": 0.0}
    difference = stacking.crps(weights) - fair_crps(stacked(draws, weights, seed=0), truth)
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / np.sqrt(len(difference))
    np.testing.assert_allclose(stacking.crps({"low": 1.0, "high": 0.0, "far": 0.0}), fair_crps(draws["low"], truth), rtol=1e-9)


def test_draws_are_taken_by_the_weights():
    draws = {"a": np.zeros((4, 2, 5_000, 1)), "b": np.ones((4, 2, 5_000, 1))}
    mixed = stacked(draws, {"a": 0.2, "b": 0.8}, seed=0)
    assert mixed.shape == (4, 2, 5_000, 1)
    assert abs(mixed.mean() - 0.8) < 4 * 0.4 / np.sqrt(20_000)
    np.testing.assert_array_equal(mixed[:, 0], mixed[:, 1])  # a chain stays with its model


def test_says_what_does_not_fit():
    draws, truth = samples(3, 0)
    with pytest.raises(ValueError, match="at least two models, not 1"):
        Stacking.of({"low": draws["low"]}, truth)
    with pytest.raises(ValueError, match="'high', item 0: stacking needs finite draws of at least two chains"):
        Stacking.of({"low": draws["low"], "high": draws["high"][:1]}, truth)
    with pytest.raises(ValueError, match=r"the same shape, not \{'a': \(8, .*'b': \(2, "):
        stacked({"a": draws["low"], "b": draws["high"][:2]}, {"a": 0.5, "b": 0.5}, seed=0)

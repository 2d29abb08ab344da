"""Compensated sums against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogen.inference.targets.sums import Sum, compensated_sum


def double(pair: Sum) -> np.ndarray:
    return np.asarray(pair.high, dtype=np.float64) + np.asarray(pair.low, dtype=np.float64)


@pytest.mark.parametrize("compiled", [False, True])
def test_24000_pixels_at_noise_a_twentieth(compiled):
    rng = np.random.default_rng(0)
    terms = (-0.5 * (rng.normal(size=(5, 24_000)) / 0.05 * rng.uniform(0, 3, size=(5, 1))) ** 2).astype(np.float32)
    exact = terms.astype(np.float64).sum(axis=1)
    found = double((jax.jit(compensated_sum) if compiled else compensated_sum)(jnp.asarray(terms)))
    assert np.abs(found - exact).max() < 1e-6 * np.abs(terms).max()
    assert np.abs(found - exact).max() < 1e-9 * np.abs(exact).max()


def test_differences_keep_what_float32_loses():
    terms = np.random.default_rng(1).normal(size=24_000).astype(np.float32) * 1000
    moved = terms.copy()
    moved[7] += np.float32(1.0)
    step = float(moved[7]) - float(terms[7])
    assert float((compensated_sum(jnp.asarray(moved)) - compensated_sum(jnp.asarray(terms))).value) == pytest.approx(
        step, abs=2e-3
    )


@jax.jit
def accumulate(increments):
    zero = Sum(jnp.float32(0.0), jnp.float32(0.0))
    return jax.lax.scan(lambda total, x: (total + Sum(x, jnp.float32(0.0)), None), zero, increments)[0]


def test_increments_add_up_without_drift():
    increments = np.concatenate([[3e5], np.full(10_000, 1e-3)]).astype(np.float32)
    exact = increments.astype(np.float64).sum()
    assert abs(double(accumulate(jnp.asarray(increments))) - exact) < 1e-5
    assert abs(increments.cumsum()[-1] - exact) > 1  # what plain float32 does


def test_scaling():
    total = compensated_sum(jnp.asarray([1e6, 0.125, -3.0], dtype=jnp.float32))
    assert double(total.times(jnp.float32(0.25))) == pytest.approx(0.25 * (1e6 + 0.125 - 3.0), rel=1e-7)


def test_infinite_terms_stay_infinite():
    assert float(compensated_sum(jnp.asarray([1.0, -jnp.inf])).value) == -np.inf
    assert np.isnan(float(compensated_sum(jnp.asarray([1.0, jnp.nan])).value))
    assert float(compensated_sum(jnp.zeros(3)).value) == 0.0
    assert float(compensated_sum(jnp.zeros((0,))).value) == 0.0

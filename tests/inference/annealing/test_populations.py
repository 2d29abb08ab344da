"""Weighted particles: resampling is unbiased, keeps the evidence, and buries the dead."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogen.inference.annealing.populations import (
    add_log_weight,
    distinct,
    effective_fraction,
    log_mean_exp,
    population_count,
    population_evidence,
    systematic,
)
from cogen.inference.annealing.populations import resample as resample_eagerly
from cogen.inference.targets.sums import Sum

resample = jax.jit(resample_eagerly, static_argnums=2)


class Labelled(NamedTuple):
    label: jax.Array
    log_weight: Sum


def particles(log_weight) -> Labelled:
    log_weight = jnp.asarray(log_weight, jnp.float32)
    return Labelled(jnp.arange(log_weight.size), Sum(log_weight, jnp.zeros_like(log_weight)))


def test_systematic_resampling_is_unbiased_and_never_off_by_one_copy():
    log_weight = jnp.asarray(np.random.default_rng(0).normal(size=16), jnp.float32)
    share = np.asarray(jax.nn.softmax(log_weight)) * 16
    grid = (jnp.arange(2000) + 0.5) / 2000
    chosen = np.asarray(jax.vmap(systematic, (0, None))(grid, log_weight))
    counts = np.stack([np.bincount(row, minlength=16) for row in chosen])
    np.testing.assert_allclose(counts.mean(axis=0), share, atol=2e-3)
    assert (np.abs(counts - share) < 1 + 1e-4).all()


def test_effective_fraction_and_log_mean_exp():
    assert float(effective_fraction(jnp.zeros(8))) == pytest.approx(1.0)
    assert float(effective_fraction(jnp.asarray([0.0, -200.0, -200.0, -jnp.inf]))) == pytest.approx(0.25)
    log_weight = np.random.default_rng(1).normal(size=(3, 10)) * 3
    weight = np.exp(log_weight)
    np.testing.assert_allclose(
        effective_fraction(jnp.asarray(log_weight)), weight.sum(1) ** 2 / (weight**2).sum(1) / 10, rtol=1e-4
    )
    np.testing.assert_allclose(log_mean_exp(jnp.asarray(log_weight)), np.log(weight.mean(1)), rtol=1e-4, atol=1e-5)
    assert float(log_mean_exp(jnp.asarray([1e4, 1e4]))) == pytest.approx(1e4)


def test_resampling_keeps_the_evidence_of_every_population():
    start = particles(np.random.default_rng(2).normal(size=32) * 3 - 5000)
    before = population_evidence(start, 4)
    after = resample(jnp.full(32, 0.3), start, 4, jnp.float32(1.1), everyone=jnp.asarray(False))
    np.testing.assert_allclose(population_evidence(after, 4), before, atol=1e-3)
    assert (np.asarray(after.label) // 8 == np.arange(32) // 8).all()  # nobody left their population
    values = np.asarray(after.log_weight.value).reshape(4, 8)
    assert (values == values[:, :1]).all()
    everyone = resample(jnp.full(32, 0.3), start, 4, jnp.float32(-1.0), everyone=jnp.asarray(True))
    expected = np.log(np.mean(np.exp(np.asarray(start.log_weight.high, np.float64) + 5000))) - 5000
    np.testing.assert_allclose(everyone.log_weight.value, expected, atol=1e-3)


def test_only_populations_below_the_threshold_are_resampled():
    start = particles([0.0, 0.0, 0.1, 0.0, 0.0, -50.0, -50.0, -50.0])
    after = resample(jnp.full(8, 0.5), start, 2, jnp.float32(0.5), everyone=jnp.asarray(False))
    assert after.label.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    np.testing.assert_array_equal(after.log_weight.value[:4], start.log_weight.value[:4])
    np.testing.assert_allclose(after.log_weight.value[4:], -np.log(4), atol=1e-6)


def test_the_dead_are_not_resampled_and_weigh_nothing():
    start = add_log_weight(particles(np.zeros(8)), Sum(jnp.asarray([0, -jnp.inf, jnp.nan, 0, 0, 0, 0, jnp.inf]), jnp.zeros(8)))
    assert np.isneginf(np.asarray(start.log_weight.value)).tolist() == [False, True, True] + [False] * 4 + [True]
    np.testing.assert_allclose(population_evidence(start, 2)[::4], np.log([0.5, 0.75]), atol=1e-6)
    after = resample(jnp.linspace(0.01, 0.99, 8), start, 2, jnp.float32(1.0), everyone=jnp.asarray(False))
    assert set(after.label.tolist()) <= {0, 3, 4, 5, 6}
    np.testing.assert_allclose(population_evidence(after, 2), population_evidence(start, 2), atol=1e-6)
    again = add_log_weight(after, Sum(jnp.zeros(8), jnp.zeros(8)))
    np.testing.assert_array_equal(again.log_weight.value, after.log_weight.value)


def test_a_population_that_died_out_has_no_evidence_and_leaves_the_others_alone():
    start = particles([-np.inf] * 4 + [0.0, 1.0, 2.0, 3.0])
    assert np.isneginf(np.asarray(population_evidence(start, 2)[:4])).all()
    after = resample(jnp.full(8, 0.5), start, 2, jnp.float32(0.9), everyone=jnp.asarray(False))
    assert np.isneginf(np.asarray(after.log_weight.value[:4])).all()
    assert np.isfinite(np.asarray(after.log_weight.value[4:])).all()
    everyone = resample(jnp.full(8, 0.5), start, 2, jnp.float32(-1.0), everyone=jnp.asarray(True))
    assert (everyone.label >= 4).all()
    assert np.isfinite(np.asarray(everyone.log_weight.value)).all()


def test_distinct():
    assert int(distinct(jnp.asarray([3, 3, 0, 1]))) == 3


@pytest.mark.parametrize(
    ("chains", "wanted", "resampling", "count"),
    [(64, None, True, 4), (3, None, False, 3), (1, None, False, 1), (64, 8, True, 8)],
)
def test_how_many_populations(chains, wanted, resampling, count):
    assert population_count(chains, wanted, resampling) == count


@pytest.mark.parametrize(
    ("chains", "wanted", "resampling", "said"),
    [
        (10, None, False, "does not divide"),
        (8, 0, False, "num_populations=0: it must be at least 1"),
        (4, None, True, "cannot be resampled"),
        (1, None, True, "one chain"),
    ],
)
def test_populations_that_cannot_be(chains, wanted, resampling, said):
    with pytest.raises(ValueError, match=said):
        population_count(chains, wanted, resampling)

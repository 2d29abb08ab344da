"""The tests of uniform ranks keep the false alarms that they state, and see what is not uniform.

The seeds are fixed; with others, each of the four comparisons of a frequency with its bound fails once in 10,000 times at most.
"""

import itertools

import numpy as np
import pytest
from scipy.stats import binomtest

from cogen.diagnostics import chi_squared_p_value, ecdf_envelope, envelope_p_value
from cogen.diagnostics.rank_uniformity import num_bins

REPETITIONS = 1000


def uniform(size, num_ranks, seed=0):
    return np.random.default_rng(seed).integers(0, num_ranks + 1, (REPETITIONS, size))


@pytest.mark.parametrize(("size", "num_ranks"), [(60, 7), (150, 15)])
@pytest.mark.parametrize("test", [envelope_p_value, chi_squared_p_value])
def test_false_alarms_are_as_stated(test, size, num_ranks):
    p = np.array([test(ranks, num_ranks) for ranks in uniform(size, num_ranks)])
    assert binomtest(int((p <= 0.05).sum()), REPETITIONS, 0.05, alternative="greater").pvalue > 1e-4
    assert (p <= 0.05).mean() > 0.03  # and not far fewer


def test_envelope_p_value_is_exact_where_all_can_be_counted():
    """All 4^5 sequences of five ranks among three draws."""
    everything = [np.array(ranks) for ranks in itertools.product(range(4), repeat=5)]
    p = np.array([envelope_p_value(ranks, 3) for ranks in everything])
    for level in np.unique(p):
        assert (p <= level + 1e-9).mean() == pytest.approx(level, abs=1e-9)


def test_the_envelope_covers_the_whole_curve():
    size, num_ranks = 100, 15
    lower, upper = ecdf_envelope(size, num_ranks, 0.9)
    ranks = uniform(size, num_ranks, seed=1)
    share = (ranks[:, :, None] < np.arange(1, num_ranks + 1)).mean(axis=1)
    inside = ((share >= lower) & (share <= upper)).all(axis=1)
    assert binomtest(int(inside.sum()), REPETITIONS, 0.9, alternative="less").pvalue > 1e-4
    assert inside.mean() < 0.95
    assert (lower < upper).all()


@pytest.mark.parametrize("size", [200, 1000])
def test_bias_narrowness_and_width_are_seen(size):
    rng = np.random.default_rng(2)
    for mean, sd in ((0.5, 1.0), (0.0, 1.6), (0.0, 0.5)):
        ranks = (rng.standard_normal((15, size)) < rng.normal(mean, sd, size)).sum(axis=0)
        assert envelope_p_value(ranks, 15) < 1e-3
        assert chi_squared_p_value(ranks, 15) < 1e-3


def test_a_hopeless_sampler_has_a_tiny_p_value_and_few_ranks_have_none():
    assert 0 <= envelope_p_value(np.zeros(300, int), 15) < 1e-100
    assert np.isnan(chi_squared_p_value(np.zeros(6, int), 15))
    assert (num_bins(1000, 15), num_bins(50, 15), num_bins(1000, 16), num_bins(50, 16)) == (16, 8, 17, 1)


def test_what_are_no_ranks_is_refused():
    for ranks in (np.array([0, 16]), np.array([-1]), np.array([0.5]), np.zeros((2, 2), int), np.array([], int)):
        with pytest.raises(
            ValueError, match=r"ranks among 15 draws must be integers from 0 to 15|ranks have shape .*; they must be"
        ):
            envelope_p_value(ranks, 15)
    with pytest.raises(ValueError, match="coverage=1"):
        ecdf_envelope(100, 15, 1.0)

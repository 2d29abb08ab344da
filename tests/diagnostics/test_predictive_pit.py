"""PIT values: uniform when the truth comes from the predictive, whatever the number of draws, and not otherwise."""

import numpy as np
import pytest
from scipy import stats

from cogen.diagnostics import pit_p_value
from cogen.diagnostics.predictive_pit import NUM_BINS, dispersion, histogram, joint_pit, randomised_pit

PIXELS = 20_000


def pit_of(draws, truth, rng, weight=None):
    weight = np.full(len(draws), 1 / len(draws)) if weight is None else weight
    return randomised_pit(draws, truth, weight, rng.random(truth.size), (weight**2).sum())


def uniform_p(pit):
    return stats.kstest(pit, "uniform").pvalue


@pytest.mark.parametrize("count", [1, 4, 50])
def test_pit_is_uniform_for_any_number_of_draws_and_ties(count):
    rng = np.random.default_rng(count)
    draws, truth = rng.standard_normal((count, PIXELS)), rng.standard_normal(PIXELS)
    assert uniform_p(pit_of(draws, truth, rng)) > 1e-3
    saturated = pit_of(np.clip(draws, -0.5, 1), np.clip(truth, -0.5, 1), rng)
    assert uniform_p(saturated) > 1e-3
    for level in (0.5, 0.9):
        inside = (np.abs(saturated - 0.5) <= level / 2).mean()
        assert abs(inside - level) < 4 * np.sqrt(level * (1 - level) / PIXELS)


def test_pixels_chosen_by_their_truth_are_not_uniform():
    """Seven in ten pixels saturate, in truth and draws alike: over the others, half the draws seem to cover a quarter."""
    rng = np.random.default_rng(41)
    draws, truth = (np.clip(rng.standard_normal(shape), -2, -0.5) for shape in ((20, PIXELS), (PIXELS,)))
    pit = pit_of(draws, truth, rng)
    unsaturated = (truth > -2) & (truth < -0.5)
    assert uniform_p(pit) > 1e-3
    assert uniform_p(pit[unsaturated]) < 1e-100
    assert (np.abs(pit[unsaturated] - 0.5) <= 0.25).mean() < 0.3


def test_too_narrow_too_wide_and_shifted_predictives_show():
    rng = np.random.default_rng(42)
    draws, truth = rng.standard_normal((20, PIXELS)), rng.standard_normal(PIXELS)
    right, narrow, wide = (pit_of(scale * draws, truth, rng) for scale in (1.0, 0.6, 1.6))
    assert dispersion(right) == pytest.approx(1, abs=0.03)
    assert dispersion(narrow) > 1.3 > 0.7 > dispersion(wide)
    assert uniform_p(narrow) < 1e-100
    assert pit_of(draws + 0.5, truth, rng).mean() < 0.4
    np.testing.assert_allclose(histogram(right), 1 / NUM_BINS, atol=0.01)
    assert histogram(narrow)[[0, -1]].min() > 0.15
    assert histogram(np.array([0.0, 1.0]))[[0, -1]].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("ancestors", [4, 13])
def test_copies_of_few_draws_are_too_dispersed_by_what_the_module_says(ancestors):
    rng = np.random.default_rng(45)
    draws, truth = rng.standard_normal((ancestors, PIXELS)).repeat(60, axis=0), rng.standard_normal(PIXELS)
    assert dispersion(pit_of(draws, truth, rng)) == pytest.approx(1 + 2 / ancestors, rel=0.03)


def test_pit_of_weighted_draws_and_of_a_whole_distribution():
    draws, truth = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 3.0]]), np.array([1.5, 0.0])
    weight, uniform = np.array([0.2, 0.5, 0.3]), np.array([0.5, 0.25])
    np.testing.assert_allclose(randomised_pit(draws, truth, weight, uniform, 0.0), [0.7, 0.25 * 0.7])
    np.testing.assert_allclose(randomised_pit(draws, truth, weight, uniform, 0.25), [(0.7 + 0.125) / 1.25, 0.25 * 0.95 / 1.25])
    assert np.isnan(randomised_pit(draws, np.array([np.nan, 0.0]), weight, uniform, 0.0))[0]


def test_joint_pit_is_uniform_whatever_the_dependence_of_the_pixels():
    """Pixels of very different scale with a common factor; each pixel alone has the right width in the second case too."""
    rng = np.random.default_rng(43)
    scale = np.array([0.1, 1.0, 3.0, 1.0])

    def sample(*shape):
        return scale * (rng.standard_normal((*shape, 1)) + 0.3 * rng.standard_normal((*shape, 4)))

    weight = np.full(7, 1 / 7)
    right, independent = [], []
    for _ in range(4_000):
        truth, draws = sample(), sample(7)
        right.append(joint_pit(draws, truth, weight, rng.random(), 1 / 7))
        shuffled = np.stack([sample(7)[:, pixel] for pixel in range(4)], axis=1)
        independent.append(joint_pit(shuffled, truth, weight, rng.random(), 1 / 7))
    assert uniform_p(right) > 1e-3
    assert uniform_p(independent) < 1e-6


def test_p_value_of_dependent_pixels_is_a_p_value_and_finds_a_narrow_predictive():
    """Sixteen items of 100 pixels that depend much: 400 p-values are uniform, those of pooled pixels are not."""
    rng = np.random.default_rng(44)
    weight = np.full(20, 1 / 20)

    def pits(width, items):
        shared = [np.sqrt(0.9) * rng.standard_normal(shape) for shape in ((20, items, 1), (items, 1))]
        draws, truth = (values + np.sqrt(0.1) * rng.standard_normal((*values.shape[:-1], 100)) for values in shared)
        joint = [joint_pit(width * draws[:, item], truth[item], weight, rng.random(), 1 / 20) for item in range(items)]
        return joint, pit_of(width * draws.reshape(20, -1), truth.reshape(-1), rng)

    found = [pits(1.0, 16) for _ in range(400)]
    assert uniform_p([pit_p_value(joint) for joint, _ in found]) > 1e-3
    assert np.mean([uniform_p(pixels) < 0.05 for _, pixels in found]) > 0.8
    assert pit_p_value(pits(0.2, 100)[0]) < 1e-6


def test_p_value_of_items_without_a_value():
    assert np.isnan(pit_p_value([np.nan]))
    assert np.isnan(pit_p_value([]))
    assert pit_p_value([0.4, np.nan, 0.6]) == pit_p_value([0.4, 0.6])

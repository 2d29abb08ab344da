"""Fair scores as statistics: unbiased for any number of draws where the unfair ones are not, and their weighted formula."""

import numpy as np
import pytest
from scipy import special, stats
from synthetic import annealed_run, plain_run

from cogen.diagnostics import crps, energy_score, fair_crps, independent_groups
from cogen.diagnostics.fair_scores import absolute_difference, crps_of, euclidean_difference, items_of, pair_weight
from cogen.diagnostics.scores import crps_pixels

TRUTH = 0.7
EXACT = TRUTH * (2 * stats.norm.cdf(TRUTH) - 1) + 2 * stats.norm.pdf(TRUTH) - 1 / np.sqrt(np.pi)
"""CRPS of a standard normal at TRUTH (Gneiting and Raftery, 2007, eq. 21)."""


def z_score(values, exact):
    return (values.mean() - exact) / (values.std(ddof=1) / np.sqrt(values.size))


@pytest.mark.parametrize("count", [2, 3, 8])
def test_fair_crps_is_unbiased_for_any_number_of_draws_and_the_unfair_one_is_not(count):
    draws = np.random.default_rng(count).standard_normal((count, 1, 1, 20_000))  # a repetition is a pixel
    truth = np.full((1, 20_000), TRUTH)
    assert abs(z_score(crps_of(next(items_of(draws, truth))), EXACT)) < 4
    assert z_score(crps_pixels(draws, truth), EXACT) > 15


@pytest.mark.parametrize("count", [2, 5])
def test_the_energy_score_is_unbiased_for_any_number_of_draws_and_the_unfair_one_is_not(count):
    """Standard normal in three dimensions, truth at 0: E||X|| is the mean of a chi, E||X - X'|| sqrt(2) times it."""
    rng = np.random.default_rng(20 + count)
    draws, truth = rng.standard_normal((count, 1, 4_000, 3)), np.zeros((4_000, 3))
    chi = np.sqrt(2) * special.gamma(2) / special.gamma(1.5)
    exact = chi - np.sqrt(2) * chi / 2
    assert abs(z_score(energy_score(draws, truth), exact)) < 4
    error = np.linalg.norm(draws, axis=-1).mean(axis=(0, 1))
    distance = np.linalg.norm(draws[:, None, 0] - draws[None, :, 0], axis=-1).mean(axis=(0, 1))
    assert z_score(error - distance / 2, exact) > 15


def test_pairs_come_from_different_groups():
    """Two populations of four chains each, which share all but a tenth of their variance: two independent draws, not eight."""
    rng = np.random.default_rng(30)
    shared, own = rng.standard_normal((2, 1, 1, 4_000, 1)), rng.standard_normal((2, 4, 3, 4_000, 1))
    draws = (np.sqrt(0.9) * shared + np.sqrt(0.1) * own).reshape(8, 3, 4_000, 1)
    truth = np.full((4_000, 1), TRUTH)
    population = np.broadcast_to(np.repeat([0, 1], 4)[:, None, None], (8, 3, 4_000))
    assert abs(z_score(fair_crps(draws, truth, group=population), EXACT)) < 4
    assert z_score(fair_crps(draws, truth), EXACT) > 15  # chains taken as independent
    assert abs(z_score(energy_score(draws, truth, group=population), EXACT)) < 4  # of one pixel, both are the same score
    assert z_score(energy_score(draws, truth), EXACT) > 15


def test_weighted_scores_are_their_formula():
    """Against loops over pairs: weights, dead draws with NaN, groups that differ by item, a mask."""
    rng = np.random.default_rng(31)
    draws, truth = rng.standard_normal((5, 4, 3, 2, 2)), rng.standard_normal((3, 2, 2))
    log_weight = rng.normal(0, 1.5, (5, 4, 3))
    log_weight[2, :, 1] = -np.inf
    draws[2, :, 1] = np.nan
    group = rng.integers(0, 3, (5, 4, 3))
    mask = np.array([[True, False], [True, True]])
    found, together = fair_crps(draws, truth, mask, log_weight, group), energy_score(draws, truth, mask, log_weight, group)
    for item in range(3):
        weight = np.exp(log_weight[..., item]).ravel()
        alive = weight > 0
        weight, label = weight[alive] / weight.sum(), group[..., item].ravel()[alive]
        pixels, target = draws[:, :, item].reshape(20, 2, 2)[alive][:, mask], truth[item][mask]
        pair = np.where(label[:, None] != label, np.outer(weight, weight), 0)
        pair /= pair.sum()
        apart = pixels[:, None] - pixels
        by_pixel = weight @ np.abs(pixels - target) - (pair[..., None] * np.abs(apart)).sum((0, 1)) / 2
        assert found[item] == pytest.approx(by_pixel.mean(), abs=1e-12)
        error = weight @ np.linalg.norm(pixels - target, axis=1)
        assert together[item] == pytest.approx(error - (pair * np.linalg.norm(apart, axis=-1)).sum() / 2, abs=1e-7)


def test_importance_weights_leave_a_bias_of_one_over_n():
    """N(0, 1) through draws of N(0, 1.4^2): what is left at n and 2 n extrapolates to the exact score, at n it does not."""
    rng = np.random.default_rng(32)
    found = {}
    truth = np.full((10_000, 1), TRUTH)
    for count in (8, 16):
        draws = 1.4 * rng.standard_normal((count, 1, 10_000, 1))
        log_weight = (stats.norm.logpdf(draws) - stats.norm.logpdf(draws, scale=1.4))[..., 0]
        found[count] = fair_crps(draws, truth, log_weight=log_weight)
        unfair = crps(draws, truth, log_weight=log_weight)
        assert abs(found[count].mean() - EXACT) < 0.2 / count < 0.4 / count < unfair.mean() - EXACT
    assert z_score(found[8], EXACT) < -4
    assert abs(z_score(2 * found[16] - found[8], EXACT)) < 4


def test_sums_over_pairs_are_their_definition():
    rng = np.random.default_rng(33)
    draws, weight = 100 + rng.standard_normal((1100, 3)), rng.random(1100)  # more rows than are held at once
    draws[1] = draws[0]
    apart, pair = draws[:, None] - draws, np.outer(weight, weight)
    np.testing.assert_allclose(absolute_difference(draws, weight), (pair[..., None] * np.abs(apart)).sum((0, 1)))
    assert euclidean_difference(draws, weight) == pytest.approx((pair * np.linalg.norm(apart, axis=-1)).sum())


def test_groups_of_a_run_are_its_populations_or_its_chains():
    run, _ = annealed_run(chains=8, draws=2, items=3, populations=4)
    groups = independent_groups(run)
    assert groups.dims == ("chain", "draw", "item")
    np.testing.assert_array_equal(groups[:, 1, 2], [0, 0, 1, 1, 2, 2, 3, 3])
    np.testing.assert_array_equal(independent_groups(plain_run(items=2))[:, 5, 1], np.arange(4))
    assert independent_groups(plain_run()).dims == ("chain", "draw")


def test_without_independent_draws_there_is_no_score():
    draws, truth = np.random.default_rng(34).standard_normal((4, 3, 2, 5)), np.zeros((2, 5))
    label = np.zeros((4, 3, 2), int)
    label[:2, :, 1] = 1
    log_weight = np.zeros((4, 3, 2))
    for score in (fair_crps, energy_score):
        np.testing.assert_array_equal(np.isnan(score(draws, truth, group=label)), [True, False])
        np.testing.assert_array_equal(np.isnan(score(draws[:1], truth)), [True, True])
        log_weight[:2, :, 1] = -np.inf  # all weight on one group
        assert np.isnan(score(draws, truth, log_weight=log_weight, group=label)).all()
        assert np.isnan(score(draws, truth, np.zeros(5, bool))).all()
    one = next(items_of(draws, truth, group=label[..., ::-1]))
    assert pair_weight(one) == pytest.approx(0.5)
    assert pair_weight(one, is_sample=False) == 1


def test_bad_inputs_are_named():
    draws, truth = np.zeros((2, 3, 4, 5)), np.zeros((4, 5))
    with pytest.raises(ValueError, match=r"group has shape \(2,\); it must be \(chain, draw, item\) = \(2, 3, 4\)"):
        fair_crps(draws, truth, group=np.zeros(2))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\), the truth \(5,\)"):
        energy_score(draws, truth[0])
    with pytest.raises(TypeError, match="dtype int64"):
        fair_crps(draws, truth, np.ones((4, 5), dtype=np.int64))


def test_where_rounding_would_be_divided_by_there_is_no_score():
    """One chain has all the weight but for 1e-13 and less: a score, then none, and never a number made of rounding."""
    rng = np.random.default_rng(61)
    draws, truth = rng.standard_normal((4, 5, 1, 8)), rng.standard_normal((1, 8))

    def scores(gap):
        log_weight = np.zeros((4, 5, 1))
        log_weight[1:] = gap
        return fair_crps(draws, truth, log_weight=log_weight)[0], energy_score(draws, truth, log_weight=log_weight)[0]

    np.testing.assert_allclose(scores(-15.0), scores(-10.0), rtol=1e-3)
    for gap in (-24.0, -33.0, -36.0, -40.0, -np.inf):
        assert np.isnan(scores(gap)).all()

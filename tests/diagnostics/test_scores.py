"""CRPS against its integral and closed forms, coverage of calibrated and broken posteriors, squared errors."""

import itertools

import numpy as np
import pytest
from scipy import stats

from cogen.diagnostics import coverage, crps, mean_of_draws, mse, mse_of_draws, psnr
from cogen.diagnostics.scores import covered_pixels, crps_pixels, masked_mean


def integral_crps(draws, weight, truth):
    """Integral of (F - 1{x >= y})^2, piece by piece between draws and truth."""
    knots = np.sort(np.append(draws, truth))
    total = 0.0
    for left, right in itertools.pairwise(knots):
        middle = (left + right) / 2
        total += (right - left) * (weight[draws <= middle].sum() - (middle >= truth)) ** 2
    return total


def test_crps_is_its_integral_for_any_weights():
    rng = np.random.default_rng(11)
    draws, truth = rng.standard_normal((5, 4, 3, 2, 2)), rng.standard_normal((3, 2, 2)) * 2
    log_weight = np.broadcast_to(rng.normal(0, 1.5, (5, 1, 3)), (5, 4, 3)).copy()
    log_weight[2, :, 1] = -np.inf
    found = crps_pixels(draws, truth, log_weight)
    for item, row, column in np.ndindex(3, 2, 2):
        weight = np.exp(log_weight[:, :, item]).ravel()
        expected = integral_crps(draws[:, :, item, row, column].ravel(), weight / weight.sum(), truth[item, row, column])
        assert found[item, row, column] == pytest.approx(expected, abs=1e-12)


def test_crps_of_a_normal_is_its_closed_form():
    """sd (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)): Gneiting and Raftery (2007), eq. 21. Draws are normal quantiles."""
    count = 20_000
    draws = 1 + 2 * stats.norm.ppf((np.arange(count) + 0.5) / count)[:, None, None, None]
    truth = np.array([[-3.0], [1.0], [2.5], [8.0]])
    z = (truth - 1) / 2
    expected = 2 * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / np.sqrt(np.pi))
    found = crps_pixels(np.broadcast_to(draws, (count, 1, 4, 1)), truth)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_crps_of_one_draw_is_the_absolute_error_and_the_posterior_beats_its_distortions():
    rng = np.random.default_rng(12)
    truth = rng.standard_normal((1, 4000))
    draws = rng.standard_normal((50, 4, 1, 4000))
    np.testing.assert_allclose(crps_pixels(draws[:1, :1], truth), np.abs(draws[0, 0] - truth))
    right = crps(draws, truth)[0]
    for distorted in (0.5 * draws, 2 * draws, draws + 0.5):
        assert crps(distorted, truth)[0] > right + 0.02


def test_coverage_is_calibrated_and_a_broken_posterior_is_not():
    """5,000 pixels of known distribution, importance-weighted draws; z-scores of the binomial count."""
    rng = np.random.default_rng(13)
    count = 5_000
    truth = rng.standard_normal((1, count)) + 1
    draws = rng.standard_normal((400, 1, 1, count)).astype(np.float32) * 1.2 + 1
    for level in (0.5, 0.9):
        wide = 2 * stats.norm.cdf(1.2 * stats.norm.ppf((1 + level) / 2)) - 1
        error = np.sqrt(wide * (1 - wide) / count) + 1 / 400  # draws are finite: 1 / n of resolution
        assert abs(coverage(draws, truth, level=level)[0] - wide) < 4 * error
        exact = (draws - 1) / 1.2 + 1
        error = np.sqrt(level * (1 - level) / count) + 1 / 400
        assert abs(coverage(exact, truth, level=level)[0] - level) < 4 * error
        assert abs(coverage(0.7 * exact, truth, level=level)[0] - level) > 20 * np.sqrt(level * (1 - level) / count)


def test_coverage_honours_weights_and_noise():
    rng = np.random.default_rng(14)
    draws = np.concatenate([rng.standard_normal((200, 1, 1, 3000)), 0.01 * rng.standard_normal((200, 1, 1, 3000))])
    log_weight = np.where(np.arange(400) < 200, 0.0, -np.inf)[:, None, None]
    truth = rng.standard_normal((1, 3000))
    assert abs(coverage(draws, truth, level=0.9, log_weight=log_weight)[0] - 0.9) < 0.03
    assert coverage(draws, truth, level=0.5)[0] < 0.1  # without the weights half the draws crowd at 0
    noisy = truth + rng.standard_normal(truth.shape)
    assert coverage(draws[:200], noisy, level=0.9)[0] < 0.8


def test_masks_choose_pixels():
    values = np.arange(8.0).reshape(2, 4)
    mask = np.array([[True, False, False, True], [False] * 4])
    found = masked_mean(values, mask)
    assert found[0] == 1.5
    assert np.isnan(found[1])
    np.testing.assert_allclose(masked_mean(values, mask[0]), [1.5, 5.5])
    spoiled = np.where(mask, values, np.nan)  # hidden truth may be NaN where it does not count
    assert mse(values, spoiled, mask)[0] == 0
    assert crps(values[None, None], spoiled, mask)[0] == 0
    assert coverage(values[None, None], spoiled, mask, level=0.5)[0] == 1


def test_mse_and_psnr_know_the_value_range():
    truth = np.zeros((2, 1, 2, 2))
    estimate = truth + np.array([0.2, 0.0])[:, None, None, None]
    np.testing.assert_allclose(mse(estimate, truth), [0.04, 0])
    np.testing.assert_allclose(psnr(estimate, truth, (-1, 1)), [20, np.inf])
    np.testing.assert_allclose(psnr(estimate, truth, (0, 1))[0], 10 * np.log10(25))


def test_bad_inputs_are_named():
    draws, truth = np.zeros((2, 3, 4, 5)), np.zeros((4, 5))
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 5\), the truth \(5,\)"):
        crps(draws, truth[0])
    with pytest.raises(TypeError, match="dtype int64"):
        crps(draws, truth, mask=np.ones((4, 5), dtype=np.int64))
    with pytest.raises(ValueError, match=r"mask has shape \(4,\)"):
        crps(draws, truth, mask=np.ones(4, dtype=bool))
    with pytest.raises(ValueError, match="level 90"):
        covered_pixels(draws, truth, 90)
    with pytest.raises(ValueError, match="log_weight has shape"):
        crps(draws, truth, log_weight=np.zeros((2, 3, 1)))
    with pytest.raises(ValueError, match=r"value range \(1\.0, -1\.0\) is empty: give \(low, high\)"):
        psnr(truth, truth, (1, -1))
    with pytest.raises(ValueError, match=r"has shape \(4, 5\), the truth \(1, 5\)"):
        mse(truth, truth[:1])


def test_error_of_draws_is_that_of_the_mean_plus_their_variance():
    random = np.random.default_rng(0)
    draws, truth = random.normal(size=(4, 3, 2, 1, 5, 5)), random.normal(size=(2, 1, 5, 5))
    mask = random.random(truth.shape) < 0.5
    log_weight = np.repeat(random.normal(size=(4, 1, 2)), 3, axis=1)
    mean = mean_of_draws(draws, log_weight)
    share = np.exp(log_weight) / np.exp(log_weight).sum(axis=(0, 1))
    np.testing.assert_allclose(mean[1, 0, 2, 3], (share[:, :, 1] * draws[:, :, 1, 0, 2, 3]).sum())
    variance = mean_of_draws((draws - mean) ** 2, log_weight)
    expected = mse(mean, truth, mask) + np.array([variance[i][mask[i]].mean() for i in range(2)])
    np.testing.assert_allclose(mse_of_draws(draws, truth, mask, log_weight), expected)

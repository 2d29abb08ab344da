"""The scorer of completions: each score against its definition, calibration end to end, paired standard errors."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from cogen.diagnostics import (
    compare_scores,
    crps,
    energy_score,
    fair_crps,
    hidden_ssim,
    mse,
    mse_of_draws,
    paired_difference,
    pit_p_value,
    psnr,
    score_completions,
)
from cogen.diagnostics.scores import covered_pixels, mean_of_draws

RANGE = (-1.0, 1.0)


def images(seed, chains=6, draws=3, items=4, side=12):
    rng = np.random.default_rng(seed)
    x, truth = rng.uniform(-1, 1, (chains, draws, items, 1, side, side)), rng.uniform(-1, 1, (items, 1, side, side))
    hidden = np.zeros((1, side, side), bool)
    hidden[:, side // 2 :] = True
    return x.astype(np.float32), truth.astype(np.float32), hidden


def test_scores_are_those_of_their_rooms():
    x, truth, hidden = images(50)
    log_weight = np.random.default_rng(51).normal(0, 1, (6, 1, 4)).repeat(3, axis=1)
    group = np.broadcast_to(np.repeat([0, 1, 2], 2)[:, None, None], (6, 3, 4))
    found = score_completions(x, truth, hidden, value_range=RANGE, noise_scale=0.1, log_weight=log_weight, group=group)
    mean = mean_of_draws(x, log_weight)
    expected = {
        "crps": fair_crps(x, truth, hidden, log_weight, group),
        "energy_score": energy_score(x, truth, hidden, log_weight, group),
        "mse_of_draws": mse_of_draws(x, truth, np.broadcast_to(hidden, truth.shape), log_weight),
        "mse_of_mean": mse(mean, truth, hidden),
        "psnr": psnr(mean, truth, RANGE, hidden),
        "ssim": hidden_ssim(*(np.where(hidden, image, -1.0) for image in (mean, truth)), hidden, RANGE),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, err_msg=name)
    assert found["pit_histogram"].dims == ("item", "bin")
    np.testing.assert_allclose(found["pit_histogram"].sum("bin"), 1)
    given = score_completions(x, truth, hidden, value_range=RANGE, mean=truth)
    assert (given["mse_of_mean"] == 0).all()
    spoilt = np.where(hidden, truth, np.nan)  # what is not judged may be NaN
    xr.testing.assert_identical(*(score_completions(x, y, hidden, value_range=RANGE) for y in (truth, spoilt)))


def calibrated(seed, items=64, draws=40, noise=0.5, width=1.0):
    """Sixteen dependent pixels, clipped as saturated ones are: draws and truth from one distribution, the truth with noise."""
    rng = np.random.default_rng(seed)

    def sample(*shape):
        return np.clip(rng.standard_normal((*shape, 1)) + 0.5 * rng.standard_normal((*shape, 16)), -0.5, 1.5)

    truth = sample(items) + noise * rng.standard_normal((items, 16))
    return width * sample(draws, 1, items), truth


def test_a_calibrated_predictive_passes_with_its_noise_and_fails_without_or_too_narrow():
    found = {
        "right": score_completions(*calibrated(52, items=400), value_range=RANGE, noise_scale=0.5),
        "narrow": score_completions(*calibrated(52, items=400, width=0.5), value_range=RANGE, noise_scale=0.5),
        "noiseless": score_completions(*calibrated(52, items=400), value_range=RANGE),
    }
    right = found["right"]
    for level in (50, 90):
        for name in (f"coverage_{level}", f"joint_coverage_{level}"):
            error = right[name].std(ddof=1) / np.sqrt(400)
            assert abs(right[name].mean() - level / 100) < 4 * error, name
        # with no noise, the descriptive coverage is the coverage
        np.testing.assert_array_equal(found["noiseless"][f"coverage_{level}"], right[f"descriptive_coverage_{level}"])
    assert right["descriptive_coverage_90"].mean() < 0.8  # it falls short of the noisy truth
    assert pit_p_value(right["joint_pit"]) > 1e-3
    for wrong in ("narrow", "noiseless"):
        assert pit_p_value(found[wrong]["joint_pit"]) < 1e-6
        assert found[wrong]["pit_dispersion"].mean() > 1.1


def test_sharpness_is_the_width_of_intervals_and_the_distance_of_draws():
    rng = np.random.default_rng(53)
    draws, truth = 2 * rng.standard_normal((4000, 1, 1, 3)), np.zeros((1, 3))
    found = score_completions(draws, truth, value_range=RANGE, noise_scale=1.5)
    for level in (50, 90):
        width = 2 * 2.5 * stats.norm.ppf((1 + level / 100) / 2)
        assert float(found[f"interval_width_{level}"][0]) == pytest.approx(width, rel=0.05)
    chi = np.sqrt(2) * 2 / np.sqrt(np.pi)  # of three dimensions
    assert float(found["pairwise_distance"][0]) == pytest.approx(np.sqrt(2) * 2 * chi, rel=0.03)


def test_the_best_of_k_draws_is_the_expected_least_error():
    rng = np.random.default_rng(54)
    draws, truth = rng.standard_normal((5, 1, 2, 3)), np.zeros((2, 3))
    log_weight = rng.normal(0, 1, (5, 1, 2))
    found = score_completions(draws, truth, value_range=RANGE, log_weight=log_weight, best_of=3)
    for item in range(2):
        error = (draws[:, 0, item] ** 2).mean(axis=1)
        weight = np.exp(log_weight[:, 0, item]) / np.exp(log_weight[:, 0, item]).sum()
        least = np.minimum(np.minimum(error[:, None, None], error[None, :, None]), error[None, None])
        assert float(found["mse_of_best"][item]) == pytest.approx(np.einsum("abc,a,b,c", least, weight, weight, weight))
    assert found.attrs["best_of"] == 3
    one = score_completions(draws, truth, value_range=RANGE, best_of=1)
    np.testing.assert_allclose(one["mse_of_best"], one["mse_of_draws"])


def test_a_point_is_its_own_distribution():
    """Its CRPS is the absolute error, and its intervals are those of the noise around it."""
    x, truth, hidden = images(55, chains=1, draws=1)
    found = score_completions(x, truth, hidden, value_range=RANGE, noise_scale=0.4, is_sample=False)
    every = np.broadcast_to(hidden, truth.shape)
    error = (x[0, 0] - truth)[every].reshape(4, -1).astype(float)
    np.testing.assert_allclose(found["crps"], np.abs(error).mean(axis=1))
    np.testing.assert_allclose(found["energy_score"], np.linalg.norm(error, axis=1))
    np.testing.assert_allclose(found["coverage_90"], (np.abs(error) < 1.645 * 0.4).mean(axis=1), atol=0.03)
    np.testing.assert_allclose(found["interval_width_90"], 2 * 1.645 * 0.4, rtol=0.03)
    assert (found["descriptive_coverage_90"] == 0).all()
    assert found["crps"].notnull().all()
    assert score_completions(x, truth, hidden, value_range=RANGE)["crps"].isnull().all()  # a sample of one has no fair score
    many, _, _ = images(56)
    np.testing.assert_allclose(
        score_completions(many, truth, hidden, value_range=RANGE, is_sample=False)["crps"], crps(many, truth, every)
    )


def test_items_without_weights_have_no_scores_and_the_others_keep_theirs():
    x, truth, hidden = images(57)
    log_weight = np.zeros((6, 3, 4))
    whole = score_completions(x, truth, hidden, value_range=RANGE, log_weight=log_weight)
    log_weight[:, :, 2] = -np.inf
    x[:, :, 2] = np.nan
    found = score_completions(x, truth, hidden, value_range=RANGE, log_weight=log_weight)
    for name in found.data_vars:
        assert np.isnan(found[name][2]).all(), name
    xr.testing.assert_identical(found.isel(item=[0, 1, 3]), whole.isel(item=[0, 1, 3]))


def test_bad_inputs_are_named():
    x, truth, hidden = images(58)
    with pytest.raises(ValueError, match=r"noise_scale -0\.1"):
        score_completions(x, truth, hidden, value_range=RANGE, noise_scale=-0.1)
    with pytest.raises(ValueError, match="best_of 0"):
        score_completions(x, truth, hidden, value_range=RANGE, best_of=0)
    with pytest.raises(ValueError, match=r"the estimate has shape \(1, 1, 12, 12\)"):
        score_completions(x, truth, hidden, value_range=RANGE, mean=truth[:1])
    with pytest.raises(ValueError, match=r"the mask has shape \(4,\)"):
        score_completions(x, truth, np.ones(4, bool), value_range=RANGE)
    with pytest.raises(ValueError, match=r"draws must be \(chain, draw, \*truth\.shape\)"):
        score_completions(x[0], truth, hidden, value_range=RANGE)


# --- methods beside each other -----------------------------------------------------------------------------------------


def test_paired_errors_are_those_of_correlated_scores():
    """Scores of sd 1 and 2 with correlation 0.9: 2,000 repetitions of 25 items."""
    rng = np.random.default_rng(59)
    covariance = np.array([[1, 1.8], [1.8, 4]])
    scores = rng.multivariate_normal([3, 2], covariance, (2_000, 25))
    mean, error = np.array([paired_difference(*pair.T) for pair in scores]).T
    exact = (1 + 4 - 2 * 1.8) / 25
    assert mean.std(ddof=1) ** 2 == pytest.approx(exact, rel=0.1)
    assert (error**2).mean() == pytest.approx(exact, rel=0.03)
    assert (np.abs(mean - 1) < stats.t.ppf(0.975, 24) * error).mean() == pytest.approx(0.95, abs=0.02)
    unpaired = np.sqrt(sum(scores[..., k].var(axis=1, ddof=1) for k in (0, 1)) / 25)
    assert (unpaired**2).mean() > 3 * exact


def scored(**values):
    return xr.Dataset({name: ("item", np.asarray(row, dtype=float)) for name, row in values.items()})


def test_methods_are_compared_over_the_items_that_all_have_scored():
    table = compare_scores(
        {"hmc": scored(crps=[1, 2, np.nan, 4]), "descent": scored(crps=[2, 4, 1, 9]), "nuts": scored(crps=[1, 2, 3, 4])}
    )
    assert list(table.index) == ["hmc", "descent", "nuts"]
    assert (table["items"] == 3).all()
    row = table.loc["descent"]
    assert (row["mean"], row["difference"]) == (5, pytest.approx(8 / 3))
    assert row["se"] == pytest.approx(np.std([2, 4, 9], ddof=1) / np.sqrt(3))
    assert row["difference_se"] == pytest.approx(np.std([1, 2, 5], ddof=1) / np.sqrt(3))
    assert tuple(table.loc["hmc", ["difference", "difference_se"]]) == (0, 0)
    other = compare_scores({"a": scored(psnr=[1, np.inf]), "b": scored(psnr=[3, 4])}, "psnr", reference="b")
    assert other.loc["a", "difference"] == -2
    assert np.isnan(other.loc["a", "difference_se"])
    assert other.loc["a", "items"] == 1


def test_bad_comparisons_are_named():
    one, two = scored(crps=[1, 2]), scored(crps=[1, 2, 3])
    with pytest.raises(ValueError, match="1 methods given"):
        compare_scores({"a": one})
    with pytest.raises(ValueError, match=r"the same items, in the same order; .* \{'a': 2, 'b': 3\}"):
        compare_scores({"a": one, "b": two})
    with pytest.raises(ValueError, match=r"the scores of 'a' have no 'ssim' with one value per item; they have \['crps'\]"):
        compare_scores({"a": one, "b": one}, "ssim")
    with pytest.raises(ValueError, match=r"reference 'c' is not among the methods \['a', 'b'\]"):
        compare_scores({"a": one, "b": one}, reference="c")
    with pytest.raises(ValueError, match=r"scores have shapes \(2,\) and \(3,\)"):
        paired_difference([1, 2], [1, 2, 3])


def test_coverage_has_no_answer_where_there_is_no_truth_and_no_weight():
    draws, truth = np.zeros((3, 1, 2, 2)), np.array([[0.0, np.nan], [0.0, 0.0]])
    log_weight = np.zeros((3, 1, 2))
    log_weight[:, :, 1] = -np.inf
    np.testing.assert_array_equal(covered_pixels(draws, truth, 0.5, log_weight), [[1, np.nan], [np.nan, np.nan]])


def test_dead_draws_do_not_spoil_the_mean_and_the_error_of_draws():
    draws, truth, log_weight = np.ones((2, 1, 1, 3)), np.zeros((1, 3)), np.zeros((2, 1, 1))
    draws[1], log_weight[1] = np.nan, -np.inf
    np.testing.assert_array_equal(mean_of_draws(draws, log_weight), np.ones((1, 3)))
    np.testing.assert_array_equal(mse_of_draws(draws, truth, log_weight=log_weight), [1])


def test_an_item_with_values_that_are_no_numbers_has_no_score():
    draws, truth = calibrated(70, items=3)
    truth[0, 4], draws[7, 0, 1, 2] = np.nan, np.inf
    found = score_completions(draws, truth, value_range=RANGE, noise_scale=0.5)
    for name, values in found.data_vars.items():
        if name not in ("mse_of_mean", "psnr", "ssim"):
            assert np.isnan(values[:2]).all(), name
            assert np.isfinite(values[2]).all(), name


def test_what_is_not_judged_does_not_touch_the_similarity():
    rng = np.random.default_rng(71)
    truth = rng.uniform(-1, 1, (2, 1, 16, 16))
    hidden = np.zeros((16, 16), bool)
    hidden[8:] = True
    draws = np.where(hidden, truth, rng.uniform(-1, 1, truth.shape))[None, None]
    found = score_completions(draws, np.where(hidden, truth, np.nan), hidden[None], value_range=RANGE)
    np.testing.assert_allclose(found["ssim"], 1.0)


def test_methods_over_other_items_are_not_compared():
    found = score_completions(*calibrated(72, items=4), value_range=RANGE)
    with pytest.raises(ValueError, match="over the same items, in the same order"):
        compare_scores({"a": found.isel(item=[0, 1]), "b": found.isel(item=[1, 2])})

"""Weighted statistics against numpy, against repetition of draws, and against ArviZ's Pareto k."""

import warnings

import numpy as np
import pytest
import xarray as xr
from synthetic import annealed_run, plain_run

from cogen.diagnostics import (
    draw_weights,
    pareto_k,
    resample,
    weight_ess,
    weighted_mean,
    weighted_quantile,
    weighted_sd,
)
from cogen.diagnostics.groups import group
from cogen.diagnostics.weights import normalise, systematic_indices


def test_equal_weights_give_numpy_statistics():
    run, _ = annealed_run()
    z, weight = group(run, "posterior")["z"], draw_weights(run)
    flat = z.values.reshape(-1, *z.shape[2:]).astype(float)
    np.testing.assert_allclose(weighted_mean(z, weight), flat.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(weighted_sd(z, weight), flat.std(axis=0), atol=1e-12)
    for q in (0.0, 0.05, 0.31, 0.5, 0.95, 1.0):
        expected = np.quantile(flat, q, axis=0, method="inverted_cdf")
        np.testing.assert_allclose(weighted_quantile(z, q, weight), expected)


def test_integer_weights_equal_repeated_draws():
    rng = np.random.default_rng(1)
    values, counts = rng.standard_normal((5, 3, 2)), np.array([1, 4, 0, 2, 3])
    dims = ("chain", "draw", "item")
    weight = xr.DataArray(np.broadcast_to((counts / counts.sum() / 3)[:, None, None], values.shape), dims=dims)
    repeated = np.repeat(values, counts, axis=0).reshape(-1, 2)
    array = xr.DataArray(values, dims=dims)
    np.testing.assert_allclose(weighted_mean(array, weight), repeated.mean(axis=0))
    np.testing.assert_allclose(weighted_sd(array, weight), repeated.std(axis=0))
    levels = (0.11, 0.5, 0.87)
    expected = np.quantile(repeated, levels, axis=0, method="inverted_cdf")
    np.testing.assert_allclose(weighted_quantile(array, levels, weight), expected)
    np.testing.assert_allclose(weighted_quantile(array, list(levels), weight), expected)


def test_dead_particles_do_not_count_even_when_nan():
    run, _ = annealed_run(chains=8)
    run["sample_stats"]["log_weight"][dict(chain=3)] = -np.inf  # noqa: C408
    z = group(run, "posterior")["z"].astype(float)
    z[3] = np.nan
    weight = draw_weights(run)
    alive = np.delete(z.values, 3, axis=0).reshape(-1, *z.shape[2:])
    np.testing.assert_allclose(weighted_mean(z, weight), alive.mean(axis=0))
    np.testing.assert_allclose(weighted_sd(z, weight), alive.std(axis=0))
    np.testing.assert_allclose(weighted_quantile(z, 0.0, weight), alive.min(axis=0))
    np.testing.assert_allclose(weight_ess(run), 7.0)


def test_weights_do_not_overflow_and_an_item_without_any_has_nan():
    huge = np.array([[[5000.0]], [[5000.0 + np.log(3)]]])
    np.testing.assert_allclose(normalise(huge).ravel(), [0.25, 0.75])
    np.testing.assert_array_equal(normalise(np.array([[[0.0, -np.inf, np.nan, np.inf]]])), [[[1.0, np.nan, np.nan, np.nan]]])
    run, _ = annealed_run()
    with pytest.raises(ValueError, match=r"quantile 1\.5"):
        weighted_quantile(group(run, "posterior")["z"], 1.5, draw_weights(run))


def test_weight_ess_counts_chains_and_unweighted_runs_have_all_of_them():
    run, _ = annealed_run(chains=16)
    np.testing.assert_allclose(weight_ess(run), 16.0)
    assert weight_ess(plain_run()).item() == pytest.approx(4)
    run["sample_stats"]["log_weight"][...] = -1e4
    run["sample_stats"]["log_weight"][dict(chain=5)] = 0.0  # noqa: C408
    np.testing.assert_allclose(weight_ess(run), 1.0)


def test_importance_weights_estimate_the_shifted_mean():
    """Draws from N(0, 1) weighted to N(1, 1): mean 1, sd 1, within four standard errors of the weighted estimate."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4000, 1, 5))
    weight = xr.DataArray(normalise(x - 0.5), dims=("chain", "draw", "item"))
    array = xr.DataArray(x, dims=("chain", "draw", "item"))
    error = np.sqrt((weight.values**2 * (x - 1) ** 2).sum(axis=(0, 1)))
    assert (np.abs((weighted_mean(array, weight) - 1) / error) < 4).all()
    assert (np.abs(array.mean(("chain", "draw")) - 1) / error > 10).all()  # without the weights it is plainly wrong


@pytest.mark.parametrize("log_scale", [0.3, 1.0, 2.5])
def test_pareto_k_is_arviz_pareto_k(log_scale):
    run, _ = annealed_run(chains=400, draws=1, items=3)
    log_weight = np.random.default_rng(3).normal(0, log_scale, (400, 1, 3))
    run["sample_stats"]["log_weight"][...] = log_weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        if not hasattr(az, "psislw"):
            pytest.skip("this ArviZ has no psislw")
        expected = [az.psislw(log_weight[:, 0, item])[1] for item in range(3)]
    np.testing.assert_allclose(pareto_k(run), expected, atol=1e-6)


def test_pareto_k_of_equal_weights_is_nan():
    assert np.isnan(pareto_k(annealed_run()[0])).all()


def test_systematic_resampling_is_unbiased_and_stays_within_one():
    rng = np.random.default_rng(4)
    weight = rng.dirichlet(np.ones(10))
    weight[[0, 9]] = 0
    weight /= weight.sum()
    counts = np.stack([np.bincount(systematic_indices(weight, 25, u), minlength=10) for u in (np.arange(2000) + 0.5) / 2000])
    assert (np.abs(counts - 25 * weight) < 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), 25 * weight, atol=2e-3)
    assert counts[:, [0, 9]].sum() == 0


def test_resample_keeps_chains_whole_and_items_apart():
    run, _ = annealed_run(chains=16, draws=6, items=3, weights="random")
    run["sample_stats"]["log_weight"][dict(chain=7)] = -np.inf  # noqa: C408
    before = group(run, "posterior")["z"].copy()
    equal = resample(run, num_draws=3, seed=5)
    assert type(equal) is type(run)
    z = group(equal, "posterior")["z"]
    assert z.dims == before.dims
    assert z.shape == (16, 3, 3, 4)
    sources = before.values[:, [0, 2, 5]]
    share = draw_weights(run).sum("draw").values
    for item in range(3):
        matches = (z.values[:, None, :, item] == sources[None, :, :, item]).all(axis=(2, 3))  # (new, old)
        assert (matches.sum(axis=1) == 1).all()
        assert (np.abs(matches.sum(axis=0) - 16 * share[:, item]) < 1).all()
        assert matches[:, 7].sum() == 0
    assert (group(equal, "sample_stats")["log_weight"] == 0).all()
    assert "beta" in group(equal, "warmup_sample_stats")
    with pytest.raises(ValueError, match="num_draws is 7"):
        resample(run, num_draws=7)


def test_resampling_a_general_model_only_thins_it():
    thin = group(resample(plain_run(draws=50), num_draws=10), "posterior")
    assert dict(thin.sizes) == {"chain": 4, "draw": 10, "scale_dim_0": 2}

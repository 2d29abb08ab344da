"""R-hat and ESS against ArviZ, nested R-hat against its definition and its null distribution."""

import logging
import warnings

import numpy as np
import pytest
import xarray as xr
from synthetic import annealed_run, ar1, plain_run

from cogen.diagnostics import ess_bulk, ess_tail, nested_rhat, rhat, rhat_and_ess
from cogen.diagnostics.groups import group


def arviz_answers(values):
    """(rhat, bulk, tail) of values (chain, draw, scalar)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz as az

        logging.getLogger("arviz").setLevel(logging.CRITICAL)  # it logs a line for every short chain
        dataset = xr.Dataset({"x": (("chain", "draw", "scalar"), values)})
        answers = az.rhat(dataset), az.ess(dataset, method="bulk"), az.ess(dataset, method="tail", prob=(0.05, 0.95))
    return [np.asarray(answer["x"]) for answer in answers]


@pytest.mark.parametrize("shape", [(4, 250), (4, 101), (3, 7), (16, 20), (2, 4), (2, 5), (1, 60), (4, 3), (5, 6)])
@pytest.mark.parametrize("coefficient", [0.0, 0.95, -0.7])
def test_rhat_and_ess_are_arviz(shape, coefficient):
    rng = np.random.default_rng(6)
    values = ar1(rng, coefficient, (*shape, 12))
    values[..., 1] += np.arange(shape[0])[:, None]  # chains in different places
    values[..., 2] *= 1 + np.arange(shape[0])[:, None]  # and of different spread
    values[..., 3] = np.exp(5 * values[..., 3])  # heavy tail
    values[..., 4] = 2.5  # constant
    for ours, theirs in zip(rhat_and_ess(values), arviz_answers(values), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_ties_of_rejected_proposals_are_arviz():
    rng = np.random.default_rng(7)
    values = np.repeat(rng.standard_normal((4, 40, 10)), rng.integers(1, 5, 40), axis=1)
    ours, theirs = rhat_and_ess(values), arviz_answers(values)
    np.testing.assert_allclose(ours.rhat, theirs[0], rtol=1e-9)
    np.testing.assert_allclose(ours.ess_bulk, theirs[1], rtol=1e-9)


def test_nan_stays_with_its_scalar_and_dataarrays_come_back():
    values = np.random.default_rng(8).standard_normal((4, 50, 2, 3))
    values[1, 2, 0, 1] = np.nan
    array = xr.DataArray(values, dims=("chain", "draw", "item", "latent")).transpose("item", "draw", "latent", "chain")
    found = rhat(array)
    assert found.dims == ("item", "latent")
    assert np.isnan(found.values).sum() == 1
    assert np.isnan(found.values[0, 1])
    np.testing.assert_array_equal(ess_bulk(array), ess_bulk(values))
    np.testing.assert_array_equal(ess_tail(array), ess_tail(values))
    with pytest.raises(ValueError, match="chain, draw"):
        rhat(np.zeros(5))


def test_blocks_change_nothing(monkeypatch):
    values = np.random.default_rng(9).standard_normal((4, 50, 23))
    whole = rhat_and_ess(values)
    monkeypatch.setattr("cogen.diagnostics.convergence.BLOCK", 400)
    for first, second in zip(whole, rhat_and_ess(values), strict=True):
        np.testing.assert_array_equal(first, second)


def direct_nested_rhat(values, labels, weight):
    """The docstring's formula, loop by loop, for one scalar: values (chain, draw)."""
    groups = [k for k in np.unique(labels) if weight[labels == k].sum() > 0]
    masses, means, withins = [], [], []
    for k in groups:
        chosen = values[labels == k]
        u = weight[labels == k] / weight[labels == k].sum()
        m = chosen.mean(axis=1)
        mean = (u * m).sum()
        between = (u * (m - mean) ** 2).sum() / (1 - (u**2).sum()) if len(u) > 1 else 0.0
        withins.append(between + (u * chosen.var(axis=1, ddof=1)).sum())
        means.append(mean)
        masses.append(weight[labels == k].sum())
    masses, means, withins = np.array(masses), np.array(means), np.array(withins)
    grand = (masses * means).sum()
    between = (masses * (means - grand) ** 2).sum() / (1 - (masses**2).sum())
    return np.sqrt(1 + between / (masses * withins).sum())


def test_nested_rhat_of_unequal_weighted_groups_is_its_formula():
    run, _ = annealed_run(chains=12, items=2, weights="random")
    labels = np.array([[0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 3], [1, 1, 1, 0, 0, 0, 0, 0, 0, 3, 3, 3]])
    run["sample_stats"]["population"][...] = labels.T[:, None, :]
    found = nested_rhat(run)["z"]
    assert found.dims == ("item", "latent")
    weight = np.exp(run["sample_stats"]["log_weight"].values[:, 0])
    weight /= weight.sum(axis=0)
    z = group(run, "posterior")["z"].values.astype(float)
    for item in range(2):
        for latent in range(4):
            expected = direct_nested_rhat(z[:, :, item, latent], labels[item], weight[:, item])
            assert found.values[item, latent] == pytest.approx(expected, rel=1e-6)


def test_nested_rhat_of_equal_groups_is_the_papers_formula():
    run, _ = annealed_run(chains=16, draws=6, items=1)
    z = group(run, "posterior")["z"].values[:, :, 0].astype(float).reshape(4, 4, 6, -1)  # (superchain, chain, draw, latent)
    between = z.mean(axis=(1, 2)).var(axis=0, ddof=1)
    within = (z.mean(axis=2).var(axis=1, ddof=1) + z.var(axis=2, ddof=1).mean(axis=1)).mean(axis=0)
    np.testing.assert_allclose(nested_rhat(run)["z"][0], np.sqrt(1 + between / within), rtol=1e-6)


def test_nested_rhat_null_distribution_and_power():
    """Independent draws: M (nR^2 - 1) K-1 degrees of freedom has mean 1; populations two sd apart stand out."""
    run, _ = annealed_run(chains=64, draws=1, items=400, latents=1)
    excess = 16 * (nested_rhat(run)["z"].values.ravel() ** 2 - 1)  # about F(3, 60)
    expected, sd = 60 / 58, np.sqrt(2 * (60 / 58) ** 2 * 61 / (3 * 56))
    assert abs(excess.mean() - expected) < 4 * sd / 20
    run["posterior"]["z"][...] += 2 * run["sample_stats"]["population"].values[..., None]
    assert (nested_rhat(run)["z"] > 1.8).all()


def test_nested_rhat_infinite_after_a_collapse_and_absent_without_populations():
    run, _ = annealed_run(items=2)
    run["sample_stats"]["population"][..., 1] = 2
    found = nested_rhat(run)["z"].values
    assert np.isfinite(found[0]).all()
    assert np.isinf(found[1]).all()
    run["sample_stats"]["log_weight"].values[4:, :, 0] = -np.inf  # all weight in population 0
    assert np.isinf(nested_rhat(run)["z"].values[0]).all()
    with pytest.raises(ValueError, match="NUTS has no populations"):
        nested_rhat(plain_run())
    with pytest.raises(ValueError, match="the posterior has no variable 'w'"):
        nested_rhat(run, ["w"])

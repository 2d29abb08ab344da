"""Posterior predictive checks on a linear model whose posterior is drawn exactly: silent when it is right, loud when wrong.

p-values of realised discrepancies are nearer to 1/2 than uniform ones, so the stated false alarms are bounds; each frequency is
tested at 1e-4, with fixed seeds.
"""

from collections.abc import Mapping

import numpy as np
import pytest
import xarray as xr
from scipy.stats import binomtest
from synthetic import annealed_run, inference_data

from cogen.diagnostics import diagnose, predictive_checks
from cogen.diagnostics.predictive_checks import STATISTICS, can_check, tail_probability

ITEMS, SIDE, LATENTS, NOISE = 120, 12, 4, 0.5
EVENT = ("channel", "height", "width")


class Linear:
    """x = W z on pictures, seen whole through ``visible`` and by column means through ``columns``; an ItemModel."""

    dims: Mapping[str, tuple[str, ...]] = {"z": ("latent",), "x": EVENT, "visible": EVENT, "columns": ("column",)}
    event_shape = (1, SIDE, SIDE)
    attributes: Mapping[str, object] = {}
    item_data: Mapping[str, object] = {}
    weight = np.random.default_rng(0).normal(size=(LATENTS, SIDE * SIDE)) / np.sqrt(LATENTS)

    def condition(self, **data):
        return self

    def __call__(self, data=None):
        raise NotImplementedError

    def numpyro(self, data=None):
        raise NotImplementedError

    def result_groups(self):
        return {}

    def decode(self, z):
        return (z @ self.weight).reshape(-1, *self.event_shape)

    def simulate(self, x, sites, *, seed):
        rng = np.random.default_rng(seed)
        means = x[:, 0].mean(axis=1)
        return {name: value + NOISE * rng.normal(size=value.shape) for name, value in (("visible", x), ("columns", means))}


def exact_run(noise=NOISE, *, smooth=False, chains=10, draws=20, seed=1):
    """Exact posterior draws under NOISE of data with ``noise``, part of the pixels hidden, stored with x and replicates."""
    rng, model = np.random.default_rng(seed), Linear()
    x = model.decode(rng.normal(size=(ITEMS, LATENTS)))
    error = rng.normal(size=x.shape)
    if smooth:
        error = (error + np.roll(error, 1, axis=2) + np.roll(error, 1, axis=3)) / np.sqrt(3)
    y = x + noise * error
    columns = x[:, 0].mean(axis=1) + noise * rng.normal(size=(ITEMS, SIDE))
    mask = np.random.default_rng(2).random(x.shape) < 0.6
    z = np.empty((chains, draws, ITEMS, LATENTS))
    for item in range(ITEMS):
        weight = model.weight[:, mask[item].ravel()]
        covariance = np.linalg.inv(np.eye(LATENTS) + weight @ weight.T / NOISE**2)
        mean = covariance @ weight @ y[item][mask[item]] / NOISE**2
        z[:, :, item] = rng.multivariate_normal(mean, covariance, (chains, draws))
    shape = (chains, draws, ITEMS, *x.shape[1:])
    completed = model.decode(z.reshape(-1, LATENTS)).reshape(shape)
    lead = ("chain", "draw", "item")
    groups = {
        "posterior": {"z": ((*lead, "latent"), z), "x": ((*lead, *EVENT), completed)},
        "posterior_predictive": {"visible": ((*lead, *EVENT), completed + NOISE * rng.normal(size=shape))},
        "observed_data": {"visible": (("item", *EVENT), np.where(mask, y, np.nan)), "columns": (("item", "column"), columns)},
        "constant_data": {"visible_mask": (("item", *EVENT), mask)},
    }
    return inference_data({name: xr.Dataset(group) for name, group in groups.items()})


@pytest.fixture(scope="module")
def right():
    return exact_run()


def alarms(checks, view, statistic, level=0.05):
    return int((tail_probability(checks).sel(view=view, statistic=statistic) <= level).sum())


@pytest.mark.parametrize("with_model", [False, True])
def test_the_right_model_is_not_accused(right, with_model):
    checks = predictive_checks(right, Linear() if with_model else None, num_draws=100)
    assert checks["view"].values.tolist() == (["visible", "columns"] if with_model else ["visible"])
    assert checks["p_value"].dims == ("view", "statistic", "item")
    assert (checks["effective_draws"].values.round(6) == (100 if with_model else 200)).all()
    for statistic in STATISTICS:
        found = alarms(checks, "visible", statistic)
        assert binomtest(found, ITEMS, 0.05, alternative="greater").pvalue > 1e-4
    assert abs(float(checks["p_value"].sel(view="visible").mean()) - 0.5) < 0.05
    rms = checks["replicated"].sel(view="visible", statistic="rms").mean()
    assert float(rms) == pytest.approx(NOISE * (np.sqrt(1 + 1 / 16) if with_model else 1), rel=0.03)


@pytest.mark.parametrize(
    ("change", "statistic", "exceeds"),
    [
        ({"noise": 2 * NOISE}, "rms", True),
        ({"noise": 0.3 * NOISE}, "rms", False),
        ({"noise": 3 * NOISE}, "largest", True),
        ({"smooth": True}, "neighbours", True),
    ],
    ids=["too noisy", "too clean", "large", "smooth"],
)
def test_a_wrong_model_is_named_by_its_statistic(change, statistic, exceeds):
    wrong = exact_run(**change)
    for model in (None, Linear()):
        checks = predictive_checks(wrong, model, num_draws=60)
        p = checks["p_value"].sel(view="visible", statistic=statistic)
        found = alarms(checks, "visible", statistic)
        assert found > 0.4 * ITEMS  # and not a few, as of the right model
        assert bool((p < 0.5).mean() > 0.9 if exceeds else (p > 0.5).mean() > 0.9)


def test_views_of_another_shape_are_checked_with_the_model(right):
    right["observed_data"]["columns"].values[0] += 4.0
    checks = predictive_checks(right, Linear(), num_draws=100)
    p = tail_probability(checks).sel(view="columns", statistic="rms").values
    right["observed_data"]["columns"].values[0] -= 4.0
    assert p[0] < 0.02
    assert (p[1:] < 0.02).mean() < 0.2


def test_weights_count():
    """Half of the chains are far off and have no weight, NaN in one of them included."""
    run = exact_run(chains=4)
    run["posterior"]["x"].values[2:] += 3.0
    run["posterior"]["x"].values[3, 0] = np.nan
    log_weight = np.zeros((4, 20, ITEMS))
    stored = predictive_checks(run)
    assert np.isnan(stored["p_value"]).all()
    log_weight[2:] = -np.inf
    weighted = xr.Dataset({"log_weight": (("chain", "draw", "item"), log_weight)})
    groups = {name: run[name] for name in ("posterior", "posterior_predictive", "observed_data")}
    groups = {name: one.to_dataset() if isinstance(one, xr.DataTree) else one for name, one in groups.items()}
    run = inference_data({**groups, "sample_stats": weighted})
    stored = predictive_checks(run)
    assert (stored["effective_draws"].values.round(6) == 40).all()
    assert abs(float(stored["p_value"].mean()) - 0.5) < 0.05


def test_an_item_that_shows_nothing_has_no_p_value(right):
    kept = right["observed_data"]["visible"].values[0].copy()
    right["observed_data"]["visible"].values[0] = np.nan
    checks = predictive_checks(right)
    right["observed_data"]["visible"].values[0] = kept
    assert np.isnan(checks["p_value"].sel(view="visible").values[:, 0]).all()
    assert not np.isnan(checks["p_value"].sel(view="visible").values[:, 1:]).any()


def test_few_draws_cannot_alarm():
    checks = predictive_checks(exact_run(5 * NOISE, chains=2, draws=5))
    assert float(tail_probability(checks).min()) >= 2 / 11


def with_replicates(offset):
    """A synthetic annealed run whose replicates have noise 0.1 around x, and whose data are off by ``offset`` on item 1."""
    run, made = annealed_run(keep_x=True, chains=32, draws=40, items=3, side=6)
    x, rng = run["posterior"]["x"], np.random.default_rng(4)
    x.values[:] = made.truth
    groups = {name: run[name] for name in ("posterior", "sample_stats", "observed_data", "constant_data")}
    groups = {name: one.to_dataset() if isinstance(one, xr.DataTree) else one for name, one in groups.items()}
    noise = 0.1 * rng.normal(size=made.truth.shape)
    noise[1] += offset
    groups["observed_data"]["visible"].values[:] = np.where(made.mask, made.truth + noise, np.nan)
    replicates = (x.dims, x.values + 0.1 * rng.normal(size=x.shape))
    return inference_data({**groups, "posterior_predictive": xr.Dataset({"visible": replicates})})


def test_diagnose_speaks_of_the_seen_part():
    assert not can_check(annealed_run(keep_x=True)[0])
    assert diagnose(with_replicates(0.0)) == []
    (sentence,) = diagnose(with_replicates(0.3))
    assert sentence.startswith("item 1: in the seen part of view 'visible' the residuals are larger than the noise explains")
    assert "Use a larger noise scale" in sentence


def test_what_cannot_be_checked_is_said(right):
    run, _ = annealed_run(keep_x=False)
    with pytest.raises(ValueError, match="give the model"):
        predictive_checks(run)
    with pytest.raises(ValueError, match="is not a model of items"):
        predictive_checks(right, lambda: None)
    bare = inference_data({"posterior": xr.Dataset({"z": (("chain", "draw"), np.zeros((2, 2)))})})
    with pytest.raises(ValueError, match="no observed_data"):
        predictive_checks(bare)

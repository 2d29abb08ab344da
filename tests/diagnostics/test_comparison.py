"""Models compared by evidence: sums, errors and weights by hand, and what cannot be compared is refused."""

import numpy as np
import pytest
from synthetic import annealed_run, plain_run

from cogen.diagnostics import compare, log_evidence
from cogen.diagnostics.comparison import stacking_weights

ITEMS = 12


def run(shift=0.0, *, seed=0, items=ITEMS, **options):
    """A run whose evidences are higher by ``shift``, an array per item or a number; the observed data are always the same."""
    made, _ = annealed_run(items=items, seed=seed, **options)
    made["sample_stats"]["population_log_evidence"].values[:] += shift
    reference, _ = annealed_run(items=items, seed=0, **options)
    made["observed_data"]["visible"].values[:] = reference["observed_data"]["visible"].values
    return made


def test_sums_errors_and_order_by_hand():
    shift = np.random.default_rng(1).normal(2.0, 1.0, ITEMS)
    good, bad = run(shift), run(seed=1)
    table = compare({"bad": bad, "good": good})
    assert table.index.name == "name"
    assert list(table.columns) == ["rank", "log_evidence", "log_evidence_diff", "weight", "se", "dse", "mc_se", "warning"]
    assert list(table.index) == ["good", "bad"]
    assert table["rank"].tolist() == [0, 1]
    first, second = (log_evidence(one)["estimate"].values for one in (good, bad))
    assert table.loc["good", "log_evidence"] == pytest.approx(first.sum())
    assert table.loc["bad", "log_evidence_diff"] == pytest.approx((first - second).sum())
    assert table.loc["good", ["log_evidence_diff", "dse"]].tolist() == [0, 0]
    assert table.loc["bad", "se"] == pytest.approx(np.sqrt(ITEMS) * second.std(ddof=1))
    assert table.loc["bad", "dse"] == pytest.approx(np.sqrt(ITEMS) * (first - second).std(ddof=1))
    assert table.loc["bad", "mc_se"] == pytest.approx(np.sqrt((log_evidence(bad)["standard_error"].values ** 2).sum()))
    assert table["weight"].sum() == pytest.approx(1)
    assert not table["warning"].any()


def test_paired_differences_are_calibrated():
    """The difference of two models over ITEMS of many items: (diff - truth) / dse is t with ITEMS - 1 degrees of freedom."""
    rng = np.random.default_rng(5)
    found = []
    for seed in range(60):
        shared, shift = rng.normal(0, 30, ITEMS), rng.normal(1.0, 2.0, ITEMS)
        table = compare({"a": run(shared, seed=seed, side=4), "b": run(shared + shift, seed=seed + 1000, side=4)})
        sign = 1 if table.index[0] == "b" else -1
        found.append((sign * table["log_evidence_diff"].max() - ITEMS) / table["dse"].max())
        assert table["dse"].max() < 0.3 * table["se"].min()  # what items share cancels
    assert np.abs(np.mean(found)) < 0.6  # 4 standard errors
    assert (np.abs(found) < 2.2).mean() > 0.8  # 95 % on average


def test_stacking_finds_the_mixture():
    """Items of two kinds, each only probable under its own model: the weights are the shares. A beaten model has none."""
    log_densities = np.zeros((3, 10))
    log_densities[0, 3:] = log_densities[1, :3] = -50.0
    log_densities[2] = -10.0
    np.testing.assert_allclose(stacking_weights(log_densities), [0.3, 0.7, 0], atol=1e-6)
    rng = np.random.default_rng(0)
    sharp = rng.normal(0, 1, (3, 200))
    weight = stacking_weights(sharp)
    density = np.exp(sharp)
    gradient = (density / (weight @ density)).mean(axis=1)  # 1 where the weight is positive, at most 1 elsewhere
    assert gradient.max() < 1 + 1e-4
    np.testing.assert_allclose(gradient[weight > 1e-3], 1, atol=1e-4)


def test_the_warning_column():
    apart = run(seed=1)
    apart["sample_stats"]["population_log_evidence"].values[:4, :, 3] += 20
    table = compare({"fine": run(), "adapted": run(seed=2, adapted=1), "apart": apart})
    assert table["warning"].to_dict() == {"fine": False, "adapted": True, "apart": True}


def test_one_item_and_a_model_that_lost_an_item():
    table = compare({"a": run(items=1), "b": run(5.0, items=1, seed=1)})
    assert list(table.index) == ["b", "a"]
    assert np.isnan(table["se"]).all()
    lost = run(seed=1)
    lost["sample_stats"]["population_log_evidence"].values[..., 4] = -np.inf
    table = compare({"lost": lost, "fine": run()})
    assert table.loc["lost", ["rank", "log_evidence", "log_evidence_diff"]].tolist() == [1, -np.inf, np.inf]
    assert table.loc["lost", "warning"]
    with pytest.raises(ValueError, match=r"items \[4\] have no finite evidence under any model"):
        compare({"lost": lost, "too": lost})


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="1 runs given"):
        compare({"only": run()})
    with pytest.raises(ValueError, match="run 'nuts' \\(NUTS\\) has no evidence"):
        compare({"a": run(), "nuts": plain_run()})
    with pytest.raises(ValueError, match="'a' and 'b' have 12 and 3 items"):
        compare({"a": run(), "b": run(items=3)})
    other = run(seed=1)
    other["observed_data"]["visible"].values[2, 0, 0, 0] += 1e-3
    with pytest.raises(ValueError, match="'a' and 'b' observed different data of view 'visible'"):
        compare({"a": run(), "b": other})
    hidden = run(seed=1)
    hidden["observed_data"]["visible"].values[2, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="different masks"):
        compare({"a": run(), "b": hidden})
    renamed = run(seed=1)
    renamed["observed_data"]["thumbnail"] = renamed["observed_data"]["visible"]
    with pytest.raises(ValueError, match=r"observed different views, \['visible'\] and \['thumbnail', 'visible'\]"):
        compare({"a": run(), "b": renamed})

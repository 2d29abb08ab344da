"""The tables, and the sentences: silent on a good run, and naming each thing that was spoilt."""

import re

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from synthetic import annealed_run, plain_run

from cogen.diagnostics import diagnose, item_summary, log_evidence, nested_rhat, rhat, summary, weight_ess
from cogen.diagnostics.diagnosis import nested_rhat_threshold
from cogen.diagnostics.groups import group
from cogen.inference import AnnealedHMC, infer


def test_summary_of_an_annealed_run_is_weighted():
    run, _ = annealed_run(weights="random")
    table = summary(run)
    assert table.index[0] == "z[0, 0]"
    assert len(table) == 3 * 4
    z = group(run, "posterior")["z"].values[..., 2, 1].astype(float)
    weight = np.exp(run["sample_stats"]["log_weight"].values[..., 2])
    row = table.loc["z[2, 1]"]
    assert row["mean"] == pytest.approx(np.average(z, weights=weight))
    assert row["sd"] == pytest.approx(np.sqrt(np.average((z - row["mean"]) ** 2, weights=weight)))
    assert z[z <= row["q50"]].size / z.size == pytest.approx(0.5, abs=0.2)
    np.testing.assert_allclose(table["nested_rhat"], nested_rhat(run)["z"].values.ravel())
    assert "rhat" not in table


def test_summary_of_a_general_model_has_plain_rows():
    run = plain_run()
    table = summary(run, quantiles=(0.25,))
    assert list(table.index) == ["location", "scale[0]", "scale[1]"]
    assert list(table.columns) == ["mean", "sd", "q25", "ess_bulk", "ess_tail", "rhat"]
    assert table.loc["location", "mean"] == pytest.approx(group(run, "posterior")["location"].values.mean())
    assert list(summary(run, var_names=["location"]).index) == ["location"]
    with pytest.raises(ValueError, match="no variable 'speed'"):
        summary(run, var_names=["speed"])


def test_item_summary_gathers_what_the_rooms_say():
    run, _ = annealed_run(weights="random")
    table = item_summary(run)
    assert list(table.index) == [0, 1, 2]
    np.testing.assert_allclose(table["nested_rhat_max"], nested_rhat(run)["z"].max("latent"))
    np.testing.assert_allclose(table["weight_ess"], weight_ess(run))
    np.testing.assert_allclose(table["log_evidence"], log_evidence(run)["estimate"])
    assert (table["ancestors"] == 16).all()
    plain = item_summary(plain_run(items=2))
    np.testing.assert_allclose(plain["rhat_max"], rhat(group(plain_run(items=2), "posterior")["z"]).max("latent"))
    assert plain["log_evidence"].isna().all()
    general = item_summary(plain_run())
    assert list(general.index) == ["all"]
    assert general.loc["all", "ess_min"] > 100


def test_pixels_are_not_parameters_unless_they_are_named():
    run, _ = annealed_run(keep_x=True)
    assert all(name.startswith("z[") for name in summary(run).index)
    assert all(name.startswith("x[") for name in summary(run, ["x"], quantiles=[0.1, 0.9]).index)


def test_a_context_that_is_called_a_mask_is_no_mask():
    run, _ = annealed_run()
    run["constant_data"]["photo_mask"] = run["constant_data"]["visible_mask"] | True
    assert not [sentence for sentence in diagnose(run) if "photo" in sentence]


@pytest.mark.parametrize(
    "run",
    [annealed_run(chains=64)[0], annealed_run(weights="random")[0], plain_run(draws=1500), plain_run(draws=1500, items=2)],
)
def test_nothing_is_said_of_an_unremarkable_run(run):
    assert diagnose(run) == []


def test_nested_rhat_sentences_are_false_alarms_in_one_of_a_hundred_items_at_most():
    run, _ = annealed_run(chains=32, draws=1, items=1500, latents=5)
    alarms = (nested_rhat(run)["z"].max("latent") > nested_rhat_threshold(run)).mean()
    assert 0 < alarms < 0.03


def spoilt(change, **options):
    run, _ = annealed_run(**options)
    change(run)
    return run


def set_stat(name, where, value):
    def change(run):
        run["sample_stats"][name].values[where] = value

    return change


def set_attribute(run):
    run["posterior"].attrs["adapted"] = 1


def move_population(run):
    run["posterior"]["z"].values[:4, :, 0, 2] += 5


def show_everything(run):
    run["constant_data"]["visible_mask"].values[1] = True


SPOILT = {
    "one ancestor": (set_stat("ancestor", np.s_[..., 1], 3), "item 1: all chains descend from one ancestor"),
    "heavy chain": (
        set_stat("log_weight", np.s_[4, :, 1:], 20.0),
        r"items 1 and 2: one chain has at worst 100\.0% of the weight",
    ),
    "thin weights": (set_stat("log_weight", np.s_[:1, :, 0], 4.5), r"item 0: the weight ESS is .*% of the number of chains"),
    "evidence": (
        set_stat("population_log_evidence", np.s_[:4, :, 2], -90.0),
        "item 2: .* standard deviation of 5[.].* nats, above 1",
    ),
    "populations": (move_population, r"item 0: the populations disagree: nested R-hat is .*, above 1\."),
    "adapted": (set_attribute, "adapted = 1"),
    "divergences": (set_stat("diverging", np.s_[:3, :, 2], True), r"item 2: 18\.8% of the transitions diverged"),
    "low acceptance": (
        set_stat("acceptance_rate", ..., 0.2),
        r"all 3 items: the acceptance rate is at worst 0\.20, below 0\.4",
    ),
    "high acceptance": (
        set_stat("acceptance_rate", np.s_[..., 0], 0.999),
        r"item 0: the acceptance rate is 1\.00, above 0\.98",
    ),
    "mask": (show_everything, "item 1: the mask of view 'visible' shows all entries"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_was_spoilt_is_named(name):
    change, pattern = SPOILT[name]
    found = diagnose(spoilt(change, chains=16 if name != "thin weights" else 64, draws=6))
    assert any(re.search(pattern, sentence) for sentence in found), found
    assert len(found) <= 2  # not a flood
    assert all(sentence.endswith(".") for sentence in found)


def test_plain_runs_are_judged_by_rhat_and_ess():
    run = plain_run(draws=1500, items=2)
    run["posterior"]["z"].values[0, :, 1] += 4
    (first, second) = diagnose(run)
    assert first.startswith("item 1: the chains disagree: R-hat is ")
    assert "effective sample size" in second
    assert any("below 100" in sentence for sentence in diagnose(plain_run(draws=60, coefficient=0.8)))


@pytest.mark.filterwarnings("ignore:.*non-finite gradient")
def test_latents_of_different_scale_are_named_first():
    """They explain the other sentences; without any other sentence nothing is said."""

    def model():
        small = numpyro.sample("small", dist.Normal(0, 1e-3))
        large = numpyro.sample("large", dist.Normal(0, 1e3))
        numpyro.sample("y", dist.Normal(1e3 * small + 1e-3 * large, 0.5), obs=1.0)

    counts = {"num_warmup": 50, "num_samples": 30, "num_chains": 8, "seed": 0, "progress": False}
    first, *others = diagnose(infer(model, AnnealedHMC(), **counts))
    assert "the latents differ in scale: the standard deviation of 'large' is" in first
    assert "times that of 'small'. Rescale them" in first
    assert others

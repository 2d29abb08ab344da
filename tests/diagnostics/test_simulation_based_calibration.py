"""Calibration of exact and of wrong samplers on a neural generator with two latents and random masks.

False alarms: at most 1e-3 for each exact sampler (Bonferroni over quantities, strata and both tests), 3e-3 for the file, with
the finite ensemble's error on top; the seeds are fixed. The wrong samplers are put to the same p-value.
"""

import functools

import numpy as np
import numpyro.infer
import pytest
from two_latents import MASKS, NOISE, OUTPUTS, build, seeing

from cogen.diagnostics import (
    calibration_p_value,
    calibration_table,
    plot_rank_ecdfs,
    plot_rank_histograms,
    simulation_based_calibration,
)
from cogen.inference import AnnealedHMC, GradientDescent, ImportanceResampling

FALSE_ALARM = 1e-3
ANNEALED = {"num_warmup": 20, "num_samples": 3, "num_chains": 32}


def calibrate(kernel, *, simulations=128, masks=MASKS, **options):
    return simulation_based_calibration(
        build,
        kernel,
        masks=masks,
        num_simulations=simulations,
        num_ranks=7,
        seed=1,
        items_at_once=simulations,
        progress=False,
        **options,
    )


@pytest.fixture(scope="module")
def annealed():
    return calibrate(AnnealedHMC(num_leapfrog=5, resample_threshold=0.5), **ANNEALED)


@pytest.fixture(scope="module")
def prior():
    """Descent that does not move: independent draws of the prior."""
    return calibrate(GradientDescent(step_size=1e-9), num_warmup=0, num_samples=1, num_chains=7)


def test_annealed_hmc_with_resampling_is_calibrated(annealed):
    assert calibration_p_value(annealed) > FALSE_ALARM


def test_annealed_importance_sampling_is_calibrated_with_its_weights():
    found = calibrate(AnnealedHMC(num_leapfrog=5, resample_threshold=0.0), **ANNEALED)
    assert calibration_p_value(found) > FALSE_ALARM
    assert 10 < found.attrs["weight_ess"] < 31


def test_nuts_is_calibrated():
    kernel = functools.partial(numpyro.infer.NUTS, max_tree_depth=3)
    found = calibrate(kernel, num_warmup=60, num_samples=42, num_chains=1)
    assert calibration_p_value(found) > FALSE_ALARM


def test_the_prior_passes_by_ranks_of_z_and_fails_by_the_likelihood(prior):
    table = calibration_table(prior)[["chi_squared", "envelope"]]
    of_z = table.index.get_level_values("quantity") != "log_likelihood"
    assert of_z.sum() * 2 * np.nanmin(table[of_z].values) > FALSE_ALARM
    assert calibration_p_value(prior) < FALSE_ALARM
    assert calibration_table(prior).loc[("all", "log_likelihood"), "mean_rank"] > 0.7


def test_gradient_descent_fails():
    found = calibrate(GradientDescent(step_size=0.1), num_warmup=60, num_samples=1, num_chains=7)
    assert calibration_p_value(found) < FALSE_ALARM


def test_a_wrong_noise_level_fails():
    found = calibrate(
        ImportanceResampling(num_proposals=8),
        inferred=lambda masks: build(masks, scale=2 * NOISE),
        num_warmup=8,
        num_samples=1,
        num_chains=32,
    )
    assert calibration_p_value(found) < FALSE_ALARM
    assert calibration_table(found).loc[("all", "log_likelihood"), "mean_rank"] > 0.6


def test_the_result_says_what_was_done(annealed):
    assert annealed["rank"].dims == ("quantity", "simulation")
    assert annealed["quantity"].values.tolist() == ["log_likelihood", "projection_0", "projection_1", "hidden_pixel"]
    assert annealed["stratum"].values[:3].tolist() == ["few", "many", "few"]
    wanted = {
        "kernel": "AnnealedHMC",
        "num_chains": 32,
        "num_warmup": 20,
        "num_samples": 3,
        "num_ranks": 7,
        "num_simulations": 128,
    }
    assert wanted.items() <= annealed.attrs.items()
    table = calibration_table(annealed)
    assert list(table.loc["all"].index) == annealed["quantity"].values.tolist()
    assert table["simulations"].groupby("stratum").first().to_dict() == {"all": 128, "few": 64, "many": 64}


def test_pictures(annealed, prior):
    histograms = plot_rank_histograms(annealed, "few")
    assert len(histograms.axes) == 2 * 4
    heights = [bar.get_height() for bar in histograms.axes[0].patches]
    assert sum(height for height in heights if height != 1) >= 64
    compared = plot_rank_ecdfs({"annealed": annealed, "prior": prior})
    assert len(compared.axes) == 2 * 4
    for figure in (histograms, compared):
        figure.canvas.draw()
    with pytest.raises(ValueError, match="no stratum 'left'; the calibration has all, few, many"):
        plot_rank_histograms(annealed, "left")
    with pytest.raises(ValueError, match="same quantities"):
        plot_rank_ecdfs({"annealed": annealed, "prior": prior.isel(quantity=slice(2))})


def test_bad_input_is_named():
    small = {"num_warmup": 0, "num_samples": 1, "num_chains": 7, "simulations": 2}
    descent = GradientDescent()
    with pytest.raises(ValueError, match="num_ranks=7: 2 chains x 1 draws"):
        calibrate(descent, **{**small, "num_chains": 2})
    with pytest.raises(ValueError, match="masks is empty"):
        calibrate(descent, masks={}, **small)
    with pytest.raises(ValueError, match="'everything' hides nothing"):
        calibrate(descent, masks={"everything": np.ones(OUTPUTS, bool)}, **small)
    with pytest.raises(TypeError, match="mask 'half' is float64"):
        calibrate(descent, masks={"half": np.zeros(OUTPUTS)}, **small)
    with pytest.raises(ValueError, match="mask 'short' has shape"):
        calibrate(descent, masks={"long": seeing(3), "short": np.zeros(5, bool)}, **small)
    with pytest.raises(ValueError, match="label 'all' is reserved"):
        calibrate(descent, masks={"all": seeing(3)}, **small)
    with pytest.raises(TypeError, match="build returned a NoneType"):
        simulation_based_calibration(
            lambda masks: None, descent, masks=MASKS, num_simulations=2, num_warmup=0, num_samples=1, num_chains=15, seed=0
        )

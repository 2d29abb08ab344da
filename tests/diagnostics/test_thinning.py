"""Thinned draws: another chain each where there are enough, weights honoured, and spread along a chain that is taken often."""

import numpy as np
import pytest
from synthetic import annealed_run, plain_run

from cogen.diagnostics.groups import group
from cogen.diagnostics.thinning import pick_draws, take_draws


def test_equal_weights_take_every_chain_once():
    run, _ = annealed_run(chains=16, draws=6)
    chain, draw = pick_draws(run, 8, np.random.default_rng(0))
    assert chain.shape == draw.shape == (8, 3)
    assert all(np.unique(column).size == 8 for column in chain.T)
    taken = take_draws(group(run, "posterior")["z"], (chain, draw))
    np.testing.assert_array_equal(taken[5, 2], run["posterior"]["z"].values[chain[5, 2], draw[5, 2], 2])


def test_all_draws_can_be_taken_once_each():
    chain, draw = pick_draws(annealed_run(chains=4, draws=6)[0], 24, np.random.default_rng(0))
    for item in range(3):
        assert len(set(zip(chain[:, item], draw[:, item], strict=True))) == 24


def test_chains_are_taken_as_often_as_they_weigh():
    run, _ = annealed_run(chains=8, draws=6)
    weight = np.array([0.5, 0.25, 0.25, 0, 0, 0, 0, 0])
    with np.errstate(divide="ignore"):
        run["sample_stats"]["log_weight"].values[:] = np.log(weight)[:, None, None]
    chain, draw = pick_draws(run, 8, np.random.default_rng(0))
    for item in range(3):
        assert np.bincount(chain[:, item], minlength=8).tolist() == [4, 2, 2, 0, 0, 0, 0, 0]
        assert np.unique(draw[chain[:, item] == 0, item]).size == 4


def test_a_general_model_is_one_item_and_counts_are_checked():
    chain, _ = pick_draws(plain_run(), 5, np.random.default_rng(0))
    assert chain.shape == (5, 1)
    for count in (0, 801):
        with pytest.raises(ValueError, match=f"{count} draws requested; the run has 4 chains x 200 draws"):
            pick_draws(plain_run(), count, np.random.default_rng(0))

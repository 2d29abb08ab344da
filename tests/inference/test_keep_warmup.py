"""`infer(keep_warmup=K)`: the positions of K chains during the warm-up, for every library, split and resumed."""

import functools

import numpy as np
import numpyro.infer
import pyro.infer
import pytest
from known import LinearCase

from cogen.inference import AnnealedHMC, InProcess, PyroAnnealedHMC, Run, infer

RUN = {"num_warmup": 20, "num_samples": 2, "num_chains": 8, "seed": 0, "progress": False}
SMALL = {"num_leapfrog": 2, "step_size": 0.2}


@pytest.fixture(scope="module")
def case():
    return LinearCase(3, latent_dim=2, outputs=5, seen=3)


@pytest.mark.parametrize(
    "kernel",
    [
        AnnealedHMC(**SMALL),
        PyroAnnealedHMC(**SMALL),
        numpyro.infer.NUTS,
        functools.partial(pyro.infer.HMC, step_size=0.1, num_steps=2, adapt_step_size=False),
    ],
    ids=["ours", "ours on Pyro", "NumPyro", "Pyro"],
)
def test_positions_have_the_dims_of_draws_and_the_draws_stay_the_same(case, kernel):
    plain = infer(case.conditioned, kernel, **RUN)
    kept = infer(case.conditioned, kernel, **RUN, keep_warmup=3)
    z = kept["warmup_posterior"]["z"]
    assert z.dims == kept["posterior"]["z"].dims
    assert z.shape == (3, 20, 3, 2)
    assert kept["warmup_posterior"]["transition"].values.tolist() == list(range(20))
    assert len(np.unique(z.values[..., 0])) > 60  # they move
    np.testing.assert_array_equal(plain["posterior"]["z"].values, kept["posterior"]["z"].values)
    assert "warmup_posterior" not in plain


def test_the_last_position_is_where_the_draws_go_on(case):
    """With tiny fixed steps a draw stays beside the position before it, and other chains are far."""
    kernel = AnnealedHMC(num_leapfrog=1, step_size=1e-4, weighted=False, resample_threshold=0.0)
    kept = infer(case.conditioned, kernel, **RUN, keep_warmup=8)
    last, first = kept["warmup_posterior"]["z"].values[:, -1], kept["posterior"]["z"].values[:, 0]
    assert np.abs(last - first).max() < 1e-2 < np.abs(last - np.roll(first, 1, axis=0)).max(axis=-1).min()


def test_a_long_warm_up_keeps_at_most_200_points_those_of_its_statistics(case):
    kept = infer(case.conditioned, AnnealedHMC(**SMALL), **{**RUN, "num_warmup": 450}, keep_warmup=1)
    assert kept["warmup_posterior"].sizes["draw"] <= 200
    for group in ("warmup_posterior", "warmup_sample_stats"):
        np.testing.assert_array_equal(kept[group]["transition"].values, kept["warmup_sample_stats"]["transition"].values)
    assert kept["warmup_posterior"]["transition"].values[-1] == 449


def test_blocks_jobs_and_checkpoints_give_the_same_positions(case, tmp_path):
    kernel = AnnealedHMC(**SMALL)
    whole = infer(case.conditioned, kernel, **RUN, keep_warmup=2)["warmup_posterior"]["z"].values
    blocks = infer(case.conditioned, kernel, **RUN, keep_warmup=2, items_at_once=1)["warmup_posterior"]["z"].values
    np.testing.assert_allclose(blocks, whole, atol=1e-5)
    jobs = infer(case.conditioned, kernel, **RUN, keep_warmup=2, executor=InProcess(2))["warmup_posterior"]["z"].values
    np.testing.assert_allclose(jobs, whole, atol=1e-5)
    for _ in range(2):  # the second reads what the first has stored
        stored = infer(case.conditioned, kernel, **RUN, keep_warmup=2, checkpoint=tmp_path / "run")
        np.testing.assert_array_equal(stored["warmup_posterior"]["z"].values, whole)
    with pytest.raises(ValueError, match="keep_warmup was 2 there and is None here"):
        infer(case.conditioned, kernel, **RUN, checkpoint=tmp_path / "run")


def test_a_pilot_keeps_none(case):
    run = Run(case.conditioned, AnnealedHMC(num_leapfrog=2), **RUN, keep_warmup=2)
    run.pilot(8)
    assert run.draw()["warmup_posterior"]["z"].shape == (2, 20, 3, 2)


def test_a_negative_number_is_refused(case):
    with pytest.raises(ValueError, match="keep_warmup=-1: it must be at least 0"):
        infer(case.conditioned, AnnealedHMC(**SMALL), **RUN, keep_warmup=-1)

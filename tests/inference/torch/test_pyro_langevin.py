"""Langevin dynamics on Pyro: MALA's exactness, what its warm-up learns, and its life inside `infer` and Pyro's MCMC.

Invariance, ULA's bias and broken versions: see the contracts. False alarms: at most 1e-4 for each statistical test, with fixed
seeds.
"""

import inspect
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from known import LinearCase, moments_p_value
from pyro.infer import MCMC

from cogen.inference import Checkpoint, ConstantGain, Langevin, PyroLangevin, Run, infer
from cogen.inference.kernels import langevin
from cogen.inference.kernels.kernel import GivenPositions
from cogen.inference.seeds import id_halves
from cogen.inference.torch import langevin as pyro_langevin
from cogen.inference.torch.random_numbers import Random

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4
QUICK = {"num_warmup": 12, "num_samples": 2, "num_chains": 4, "seed": 0, "progress": False}


def correlated():
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    pyro.sample("y", dist.Normal(z.sum(), 0.5), obs=torch.tensor(1.0))


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24, latent_dim=4, outputs=16, seen=8)


@pytest.fixture(scope="module")
def mala_run(case):
    kernel = PyroLangevin(adapt_preconditioner=True)
    return Run(case.conditioned, kernel, num_warmup=300, num_chains=8, seed=1, progress=False)


@pytest.fixture(scope="module")
def mala(mala_run):
    return mala_run.draw(100)


def test_mala_is_exact(case, mala):
    assert moments_p_value(case, mala) > FALSE_ALARM
    assert mala["posterior"].attrs["evidence_kind"] == ""
    assert mala["sample_stats"]["gradient_evaluations"].values.tolist() == [8 * (1 + 400)] * 24
    assert (mala["sample_stats"]["n_steps"].values == 1).all()


def test_the_step_size_went_to_the_best_acceptance_and_stands(mala):
    acceptance, step = (mala["sample_stats"][name].values for name in ("acceptance_rate", "step_size"))
    assert acceptance.mean() == pytest.approx(0.574, abs=0.05)
    assert np.ptp(step, axis=(0, 1)).max() == 0
    assert np.ptp(step) > 0


def test_the_preconditioner_is_the_posterior_s_variance(case, mala_run, mala):
    scale = mala_run.last_state.scale.numpy()  # (item, dim)
    np.testing.assert_allclose(scale.mean(axis=0), np.sqrt(np.diag(case.covariance)), rtol=0.1)


def test_steps_are_functions_of_their_arguments(case):
    """The same state and random numbers give the same step, and the state before it stays what it was."""
    recipe = PyroLangevin()
    kernel, target = recipe.kernel(10, 8), recipe.target(case.conditioned, num_chains=8)
    random = Random.of(0, id_halves(target.ids))
    state = kernel.init(target, random, GivenPositions(torch.ones(8, 24, 4)))
    assert (state.point.u == 1).all()
    before = state.point.u.clone()
    (first, info), (second, again) = (kernel.step(target, random.at(0), state) for _ in range(2))
    assert torch.equal(first.point.u, second.point.u)
    assert torch.equal(info.lp, again.lp)
    assert torch.equal(state.point.u, before)
    assert not torch.equal(kernel.step(target, random.at(1), state)[0].point.u, first.point.u)
    for shape in ((8, 24, 3), (7, 24, 4), (8, 4)):
        with pytest.raises(ValueError, match=rf"start has shape {re.escape(str(shape))}, .* \(8, 24, 4\)"):
            kernel.init(target, random, GivenPositions(np.zeros(shape)))


def test_settings_and_what_is_reported_are_those_of_the_sister():
    theirs = inspect.signature(Langevin).parameters
    assert list(inspect.signature(PyroLangevin).parameters) == ["model", "num_chains", *list(theirs)[1:]]
    assert ":param metropolis:" in PyroLangevin.__doc__
    assert pyro_langevin.LangevinInfo._fields == langevin.LangevinInfo._fields
    assert set(pyro_langevin.LangevinState._fields) == set(langevin.LangevinState._fields)


def test_ula_has_no_acceptance():
    posterior = infer(correlated, PyroLangevin(metropolis=False, step_size=0.1), **QUICK)
    assert "acceptance_rate" not in posterior["sample_stats"]
    assert "acceptance_rate" not in posterior["warmup_sample_stats"]


@pytest.mark.parametrize("metropolis", [True, False], ids=["mala", "ula"])
def test_proposals_that_are_no_numbers_are_rejected_and_counted(metropolis):
    """log z of a negative z is no number; ULA would walk there. torch.linalg raises for a NaN anywhere in the batch."""

    def positive():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        root = torch.linalg.cholesky(torch.eye(2) + z**2)
        pyro.factor("y", -torch.where(z > 0, z, torch.sqrt(z)) + 0.0 * root.sum())

    recipe = PyroLangevin(metropolis=metropolis, step_size=1.0)
    kernel, target = recipe.kernel(0, 64), recipe.target(positive, num_chains=64)
    random = Random.of(0, id_halves(target.ids))
    state = kernel.init(target, random, GivenPositions(np.ones((64, 1))))
    for k in range(10):
        state, info = kernel.step(target, random.at(k), state)
    assert (state.point.u > 0).all()
    assert 0 < info.nonfinite.sum() < 640
    assert info.lp.isfinite().all()


def test_inside_pyro_s_mcmc():
    pyro.set_rng_seed(0)
    kernel = PyroLangevin(correlated, num_chains=128, preconditioner=np.array([[4.5, -4.3], [-4.3, 4.5]]))
    mcmc = MCMC(kernel, num_samples=20, warmup_steps=60, num_chains=1, disable_progbar=True)
    mcmc.run()
    z = mcmc.get_samples()["z"]
    assert z.shape == (20, 128, 2)  # (draw, chain, latent)
    assert z.sum(-1).mean() == pytest.approx(18 / 18.25, abs=0.1)
    assert z.sum(-1).std() == pytest.approx(np.sqrt(18 * 0.25 / 18.25), rel=0.15)
    assert list(kernel.logging()) == ["acc. prob", "step size"]
    assert mcmc.diagnostics()["acceptance_rate"]["chain 0"].shape == (128, 1)  # of the last transition


def test_draws_go_on(case):
    runs = [Run(case.conditioned, PyroLangevin(), **QUICK) for _ in range(2)]
    whole = runs[0].draw(4)["posterior"]["z"]
    parts = [runs[1].draw(n)["posterior"]["z"] for n in (1, 3)]
    assert parts[1]["draw"].values.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(np.concatenate([part.values for part in parts], axis=1), whole.values)


def test_a_run_that_was_killed_goes_on(case, tmp_path):
    class Killed(Checkpoint):
        saved = 0

        def save(self, block, tree):
            super().save(block, tree)
            self.saved += 1
            if self.saved == 7:
                raise KeyboardInterrupt

    kernel = PyroLangevin(adapt_preconditioner=True)
    whole = infer(case.conditioned, kernel, **QUICK)
    with pytest.raises(KeyboardInterrupt):
        infer(case.conditioned, kernel, checkpoint=Killed(tmp_path / "run", every=0.0), **QUICK)
    again = infer(case.conditioned, kernel, checkpoint=tmp_path / "run", **QUICK)
    np.testing.assert_array_equal(again["posterior"]["z"].values, whole["posterior"]["z"].values)
    for other in ({"adapt_preconditioner": False}, {"step_size": 0.1}, {"preconditioner": np.ones(4)}):
        changed = {"adapt_preconditioner": "preconditioner" not in other} | other
        with pytest.raises(ValueError, match="another run: settings was"):
            infer(case.conditioned, PyroLangevin(**changed), checkpoint=tmp_path / "run", **QUICK)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"step_size": 0.0}, "step_size=0.0"),
        ({"metropolis": False}, "ULA rejects no proposals"),
        ({"metropolis": False, "step_size": ConstantGain()}, "ULA rejects no proposals"),
        ({"preconditioner": np.ones(2), "adapt_preconditioner": True}, "choose one"),
        ({"preconditioner": np.array([1.0, -1.0])}, "must be positive"),
        ({"preconditioner": np.ones(3)}, "2 unconstrained coordinates"),
        ({"initial": dist.Normal(torch.zeros(3), 1.0)}, "initial for site 'z'"),
        ({"num_chains": 3}, "the kernel has num_chains=3"),
    ],
)
def test_refusals(settings, said):
    with pytest.raises(ValueError, match=said):
        infer(correlated, PyroLangevin(**settings), **QUICK)


def test_a_pilot_freezes_the_step_sizes_and_the_metric(case):
    run = Run(case.conditioned, PyroLangevin(adapt_preconditioner=True), num_warmup=150, num_chains=8, seed=3, progress=False)
    tuning = run.pilot(8)
    np.testing.assert_allclose(tuning.variance.mean(axis=0), np.diag(case.covariance), rtol=0.25)
    posterior = run.draw(100)
    assert moments_p_value(case, posterior) > FALSE_ALARM
    np.testing.assert_allclose(posterior["sample_stats"]["step_size"].values[0, 0], tuning.step_size[:, 0], rtol=1e-6)
    np.testing.assert_allclose(run.last_state.scale.numpy() ** 2, tuning.variance, rtol=1e-5)


def test_what_learns_nothing_has_no_pilot():
    with pytest.raises(ValueError, match="a pilot requires a kernel of cogen"):
        infer(correlated, PyroLangevin(metropolis=False, step_size=0.1), pilot=4, **QUICK)
    with pytest.raises(ValueError, match="was constructed with a model"):
        infer(correlated, PyroLangevin(correlated), **QUICK)

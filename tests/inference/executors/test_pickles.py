"""What was used can be sent to another process: models without what they compiled, kernels, and what was learnt."""

import functools
import pickle

import numpy as np
import numpyro.infer
import pytest
from numpyro.infer.autoguide import AutoNormal
from small_runs import COUNTS, annealed, assert_same, conditioned

from cogen.inference import SVI, AnnealedHMC, GradientDescent, GuideStart, Langevin, ParallelTempering, Run, infer

RUN = COUNTS | {"num_warmup": 20, "num_samples": 2, "num_chains": 8}


def sent(value):
    return pickle.loads(pickle.dumps(value))


def test_a_model_that_was_used_is_pickled_without_what_it_compiled():
    fresh, used = conditioned(2), conditioned(2)
    size = len(pickle.dumps(fresh))
    before = infer(used, AnnealedHMC(), **RUN)
    assert len(pickle.dumps(used)) == size
    assert_same(before, infer(sent(used), AnnealedHMC(), **RUN))
    assert_same(before, infer(used, AnnealedHMC(), **RUN))  # the model itself stays as it is


KERNELS = {
    "annealed": annealed(),
    "langevin": Langevin(step_size=0.1),
    "descent": GradientDescent(),
    "tempering": ParallelTempering(num_leapfrog=2),
    "partial": functools.partial(numpyro.infer.HMC, num_steps=2, trajectory_length=None),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS)
def test_a_kernel_that_was_used_is_pickled(kernel):
    model = conditioned(2)
    before = infer(model, kernel, **RUN)
    assert_same(before, infer(model, sent(kernel), **RUN))


def test_what_a_pilot_has_learnt_is_pickled():
    model = conditioned(3)
    run = Run(model, annealed(), **RUN)
    tuning = run.pilot(8)
    assert (sent(tuning).step_size == tuning.step_size).all()
    assert (sent(run.kernel).settings.step_size.steps == tuning.step_size).all()
    frozen = Run(model, annealed().frozen(tuning), **RUN)
    assert_same(frozen.draw(), Run(model, annealed().frozen(sent(tuning)), **RUN).draw())


@pytest.mark.slow
def test_a_start_from_a_guide_is_pickled():
    model = conditioned(2)
    fit = Run(model, SVI(AutoNormal), **RUN)
    fit.draw(1)
    start = GuideStart.of(fit)
    assert {name: np.asarray(value).tolist() for name, value in sent(start).params.items()} == {
        name: np.asarray(value).tolist() for name, value in start.params.items()
    }
    assert_same(infer(model, AnnealedHMC(initial=start), **RUN), infer(model, AnnealedHMC(initial=sent(start)), **RUN))

"""A fitted guide is judged by its density ratios: silent when it has converged, loud when it has not."""

import numpy as np
import pytest
import torch
from numpyro.infer.autoguide import AutoNormal
from pyro.infer.autoguide import AutoNormal as PyroAutoNormal
from synthetic import annealed_run
from torch import nn

from cogen.diagnostics import diagnose
from cogen.diagnostics.weights import pareto_k_of_ratios
from cogen.inference import SVI, PyroSVI, infer
from cogen.models import CoGenerator, views

SVIS = pytest.mark.parametrize("kernel", [SVI(AutoNormal), PyroSVI(PyroAutoNormal)], ids=["numpyro", "pyro"])


@pytest.fixture(scope="module")
def seen():
    """Two latents seen almost directly: the posterior means lie 0.85 from the prior's, eight posterior sds."""
    generator = nn.Linear(2, 4, bias=False)
    generator.weight.data = torch.tensor([[1.0, 0.3], [0.2, 1.0], [0.5, -0.5], [1.0, 1.0]])
    model = CoGenerator(generator, latent_dim=2, views={"v": views.Mask(np.array([True, True, False, False]), scale=0.1)})
    return model.condition(v=np.array([[0.6, -0.7, 0.0, 0.0]], dtype=np.float32))


def about_the_guide(seen, kernel, steps):
    run = infer(seen, kernel, num_warmup=steps, num_samples=20, num_chains=32, seed=0, progress=False)
    return run, [sentence for sentence in diagnose(run) if "the guide" in sentence]


@SVIS
def test_a_guide_that_has_not_converged(seen, kernel):
    for steps in (20, 100):
        run, said = about_the_guide(seen, kernel, steps)
        assert np.abs(run["posterior"]["z"].values.mean(axis=(0, 1, 2)) - [0.86, -0.87]).max() > 0.1  # it is wrong indeed
        assert len(said) == 1
        assert said[0].startswith("item 0: ")
        assert "Take more steps (num_warmup)" in said[0]


@SVIS
def test_a_guide_that_has_converged(seen, kernel):
    run, said = about_the_guide(seen, kernel, 1500)
    assert said == []
    assert pareto_k_of_ratios(run).dims == ("item",)


def test_only_a_guide_has_ratios():
    with pytest.raises(ValueError, match="only SVI and PyroSVI"):
        pareto_k_of_ratios(annealed_run()[0])

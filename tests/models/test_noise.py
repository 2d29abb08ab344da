"""A noise scale fitted to what is seen."""

import numpy as np
import pytest
import torch
from torch import nn

from cogen.models import CoGenerator, views
from cogen.models.noise import fit_scale


def linear(outputs=40):
    torch.manual_seed(0)
    return nn.Linear(3, outputs)


def test_the_scale_of_simulated_data_is_found():
    """Eight items of 30 seen values and 3 latents: 216 degrees of freedom, so a relative standard error of 5 %."""
    generator, rng = linear(), np.random.default_rng(0)
    mask = np.arange(40) < 30
    with torch.no_grad():
        x = generator(torch.randn(8, 3)).numpy()
    data = np.where(mask, x + 0.2 * rng.normal(size=x.shape), np.nan)
    model = CoGenerator(generator, latent_dim=3, views={"seen": views.Mask(mask, scale=1.0)}).condition(seen=data)
    assert fit_scale(model, num_steps=300, best_of=2) == pytest.approx(0.2, rel=0.2)


@pytest.mark.parametrize("view", [views.Identity(likelihood=views.Laplace(0.1)), views.Identity(likelihood=views.Bernoulli())])
def test_other_noise_is_refused(view):
    model = CoGenerator(linear(), latent_dim=3, views={"seen": view}).condition(seen=np.ones((1, 40)))
    with pytest.raises(ValueError, match="one view with Gaussian noise"):
        fit_scale(model)


def test_an_unconditioned_model_is_refused():
    with pytest.raises(ValueError, match="one view with Gaussian noise"):
        fit_scale(CoGenerator(linear(), latent_dim=3, views={"seen": views.Identity(scale=0.1)}))

"""A noise scale fitted to what is seen."""

import numpy as np
import pytest
import torch
from torch import nn

from cogen.models import CoGenerator, views
from cogen.models.noise import fit_scale, residuals


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


def test_residuals_are_those_of_the_best_descent():
    """Of a linear generator all descents end at the minimum; of x = |z| - 1 with two minima each, at one of them."""
    generator = linear()
    x = torch.randn(5, 40)
    left = residuals(generator, x, torch.tensor(True), 3, starts=4, num_steps=400)
    design, target = generator.weight.detach(), x - generator.bias.detach()
    z = torch.linalg.solve(design.T @ design + 0.1**2 * torch.eye(3), design.T @ target.T)
    torch.testing.assert_close(left, ((design @ z).T - target), atol=0.02, rtol=0)


def test_residuals_given_a_context():
    class Shifted(nn.Module):
        def forward(self, z, shift):
            return z + shift

    shift = torch.tensor([[100.0], [-50.0], [0.0]])
    x = shift + torch.tensor([[0.5], [0.2], [-0.3]])
    left = residuals(Shifted(), x, torch.tensor(True), 1, contexts=[shift], starts=8, num_steps=400)
    assert left.abs().max() < 0.02
    hidden = residuals(Shifted(), x, torch.tensor(False), 1, contexts=[shift], starts=2, num_steps=100)
    assert hidden.shape == (3, 1)

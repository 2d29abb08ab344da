"""Alternating back-propagation on a linear generator, whose likelihood is known: it learns the covariance of the data."""

import pytest
import torch
from torch import nn

from cogen.inference import ShortRun
from cogen.models.families.alternating import AlternatingBackPropagation
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SCALE = 0.6
FACTOR = torch.tensor([[1.0, -0.5, 0.8]])
LANGEVIN = ShortRun.langevin(5, 0.4, reference_scale=1.0, metropolis=True)


def data(count):
    random = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, generator=random) @ FACTOR + SCALE * torch.randn(count, 3, generator=random)


def learned(run):
    """The covariance of g(z) that is learned, w' w."""
    torch.manual_seed(0)
    family = AlternatingBackPropagation(nn.Linear(1, 3, bias=False), 1, 1_000, run, scale=SCALE, learning_rate=2e-2)
    train(family, data(1_000), num_steps=300, batch_size=200, seed=0, schedule=Falling(300), progress=False)
    weight = family.generator.weight.detach()
    return weight @ weight.T, family


def test_factor_analysis_is_recovered():
    covariance, family = learned(LANGEVIN)
    x = data(1_000)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    likeliest = (values[-1] - SCALE**2) * torch.outer(vectors[:, -1], vectors[:, -1])  # Tipping and Bishop 1999, equation 7
    assert (covariance - likeliest).abs().max() < 0.06
    assert family.latents.std() == pytest.approx(1.0, abs=0.05)


def test_without_noise_the_latents_are_no_posterior_and_the_generator_is_too_wide():
    """Latents at their modes lie nearer to zero, and the generator makes up for it."""
    covariance, family = learned(ShortRun(5, LANGEVIN.rate, 0.0, reference_scale=1.0))
    right, _ = learned(LANGEVIN)
    assert torch.trace(covariance) > torch.trace(right) + 0.05
    assert family.latents.std() < 1


def test_what_is_refused():
    for wrong, message in (({"num_items": 1}, "num_items=1"), ({"scale": 0.0}, "scale=0.0")):
        with pytest.raises(ValueError, match=message):
            AlternatingBackPropagation(nn.Linear(1, 3), 1, **{"num_items": 5, **wrong})
    with pytest.raises(ValueError, match="reference_scale=None: it must be 1, as the prior of z is standard normal"):
        AlternatingBackPropagation(nn.Linear(1, 3), 1, 5, ShortRun(1, 0.1, 0.1))

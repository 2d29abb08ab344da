"""Generative latent flow: the flow learns the codes and leaves the autoencoder alone, and the latent is standard normal."""

import numpy as np
import pytest
import torch
from scipy import stats

from cogen.models.families.glf import GLF, LatentFlowGenerator
from cogen.models.networks.architectures import DenseEncoder
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DECODER = {"latent_dim": 2, "event_shape": (6,), "hidden": (32,), "bounded": False}


def two_clouds(count, seed):
    """Rows of six numbers that depend on two, which lie in two clouds: codes that no single normal describes."""
    random = torch.Generator().manual_seed(seed)
    side = 2.0 * torch.randint(2, (count, 1), generator=random) - 1
    code = side * torch.tensor([1.5, 0.8]) + 0.3 * torch.randn(count, 2, generator=random)
    mixing = torch.randn(2, 6, generator=torch.Generator().manual_seed(9))
    return code @ mixing + 0.05 * torch.randn(count, 6, generator=random)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    family = GLF(DenseEncoder(2, (6,), (32,)), LatentFlowGenerator("DenseGenerator", DECODER), 2, scale=0.1)
    train(family, two_clouds(4_000, 0), num_steps=2_000, batch_size=64, seed=0, progress=False)
    return family.eval()


def test_the_latent_of_new_data_is_standard_normal_though_their_codes_are_not(trained):
    """Kolmogorov's distance from the normal, of 2,000 latents and of the standardised codes, by their worst direction."""
    x = two_clouds(2_000, 1)
    with torch.no_grad():
        code, log_sd = trained.code_encoder(x)
        code = code + log_sd.exp() * torch.randn(code.shape, generator=torch.Generator().manual_seed(2))
        z, _ = trained.generator.flow.inverse(code)

    def distance(values):
        angles = np.linspace(0, np.pi, 12, endpoint=False)
        along = values.numpy() @ np.stack([np.cos(angles), np.sin(angles)])
        along = (along - along.mean(0)) / along.std(0)
        return max(stats.kstest(column, "norm").statistic for column in along.T)

    assert distance(code) > 0.15
    assert distance(z) < 0.06
    assert z.mean(0).abs().max() < 0.15
    assert (z.std(0) - 1).abs().max() < 0.15


def test_samples_fall_into_the_two_clouds(trained):
    """A decoder on normal codes fills the gap between them: here one sample in fifty lies in it, at most."""
    x = two_clouds(2_000, 1)
    with torch.no_grad():
        made = trained.generator(torch.randn(2_000, 2, generator=torch.Generator().manual_seed(3)))
        decoded = trained.generator.decoder(torch.randn(2_000, 2, generator=torch.Generator().manual_seed(3)))
    direction = torch.linalg.svd(x - x.mean(0)).Vh[0]
    inner = (x @ direction).abs().quantile(0.005)  # nearer to the middle than all but ten of the data
    assert ((made @ direction).abs() < inner).float().mean() < 0.02
    assert ((decoded @ direction).abs() < inner).float().mean() > 0.05


def test_the_latent_of_data_makes_them_again(trained):
    x = two_clouds(100, 4)
    with torch.no_grad():
        again = trained.generator(trained.infer(x))
    assert (again - x).square().mean().sqrt() < 0.15


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"scale=0\.0: the noise of the Gaussian likelihood is a positive number"):
        GLF(DenseEncoder(2, (6,), (8,)), LatentFlowGenerator("DenseGenerator", DECODER), 2, scale=0.0)
    with pytest.raises(ValueError, match="has the decoder DenseGenerator or DcganGenerator or MixerGenerator, not 'Linear'"):
        LatentFlowGenerator("Linear", DECODER)
    with pytest.raises(ValueError, match="two numbers"):
        LatentFlowGenerator("DenseGenerator", {**DECODER, "latent_dim": 1})
    family = GLF(DenseEncoder(2, (6,), (8,)), LatentFlowGenerator("DenseGenerator", DECODER), 2)
    with pytest.raises(ValueError, match="this family models x alone"):
        family.step((torch.zeros(2, 6), torch.zeros(2)), lambda *_: None, 0)

"""Generative latent flow: the flow learns the codes and leaves the autoencoder alone, and the latent is standard normal."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cogen.models.families.glf import GLF, RECIPE, LatentFlowGenerator, _architecture
from cogen.models.families.sizes import Sizes
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


@pytest.mark.slow
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


def test_the_bound_lies_below_the_exact_density_and_near_it_for_an_autoencoder_that_is_exact():
    """x = W e + noise with the flow an identity: log p(x) is Gaussian, and so is q(e | x). The gap of the exact q is zero, of
    another one its divergence."""
    torch.manual_seed(0)
    generator = LatentFlowGenerator("DenseGenerator", {**DECODER, "hidden": ()})
    weight = generator.decoder.layers[0].weight.detach()
    family = GLF(DenseEncoder(2, (6,), ()), generator, 2, scale=0.5)
    precision = torch.eye(2) + weight.T @ weight / 0.25
    basis = torch.linalg.eigh(precision)
    with torch.no_grad():  # codes along the eigenvectors, so that the posterior has independent coordinates
        generator.decoder.layers[0].weight.copy_(weight @ basis.eigenvectors)
        weight = generator.decoder.layers[0].weight.clone()
        encoder = family.code_encoder.layers[-1]
        encoder.weight[:2] = (weight.T / 0.25) / basis.eigenvalues[:, None]
        encoder.weight[2:] = 0
        encoder.bias[:2] = 0
        encoder.bias[2:] = -0.5 * basis.eigenvalues.log()
    x = torch.randn(50, 6)
    exact = torch.distributions.MultivariateNormal(torch.zeros(6), weight @ weight.T + 0.25 * torch.eye(6)).log_prob(x)
    torch.testing.assert_close(-family.negative_bound(x), exact, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        encoder.bias[2:] += 0.7  # too wide by 0.7 nat a code: KL = 2 (exp(1.4) / 2 - 1 / 2 - 0.7)
    gap = (exact + torch.stack([family.negative_bound(x) for _ in range(200)]).mean(0)).mean()
    assert gap.item() == pytest.approx(math.exp(1.4) - 1 - 1.4, abs=0.05)


def test_the_losses_of_the_paper_leave_the_encoder_to_the_autoencoder():
    torch.manual_seed(0)
    family = GLF(DenseEncoder(2, (6,), (8,)), LatentFlowGenerator("DenseGenerator", DECODER), 2, joint=False)
    x = two_clouds(64, 0)
    torch.manual_seed(1)
    with_flow = torch.autograd.grad(family.negative_bound(x).mean(), list(family.code_encoder.parameters()))
    with torch.no_grad():
        family.generator.flow.log_scale += 1.0
    torch.manual_seed(1)
    with_another = torch.autograd.grad(family.negative_bound(x).mean(), list(family.code_encoder.parameters()))
    assert all(torch.equal(one, other) for one, other in zip(with_flow, with_another, strict=True))


def test_images_get_a_mixer_with_a_noise_and_points_a_gaussian():
    images = _architecture(Sizes((1, 8, 8), 4))
    assert images.arguments["architecture"] == "MixerGenerator"
    assert images.arguments["noise"]
    assert _architecture(Sizes((1, 8, 8), 4, widths=(32, 2))).arguments["arguments"]["blocks"] == 2
    dense = _architecture(Sizes((1, 7, 7), 4))
    assert (dense.arguments["architecture"], dense.arguments["arguments"]["bounded"]) == ("DenseGenerator", False)
    assert "noise" not in _architecture(Sizes((2,), 2)).arguments
    for sizes in (Sizes((1, 8, 8), 4), Sizes((3, 8, 8), 4), Sizes((1, 7, 7), 4), Sizes((2,), 2)):
        family = RECIPE.family(sizes)
        assert torch.isfinite(family.negative_bound(2 * torch.rand(5, *sizes.event_shape) - 1)).all()


def test_a_longer_latent_widens_the_flow_and_a_third_width_narrows_the_first_layer():
    colour = _architecture(Sizes((3, 8, 8), 70, widths=(12, 1, 5)))
    assert colour.arguments["hidden"] == (70, 70)
    assert colour.arguments["arguments"]["projected"] == 5
    generator = LatentFlowGenerator(**colour.arguments)
    assert generator.decoder.project.out_features == 4 * 5
    assert generator.flow.couplings[0].network[0].out_features == 70
    assert "hidden" not in _architecture(Sizes((3, 8, 8), 64)).arguments
    with pytest.raises(ValueError, match=r"widths \(12,\): give the features of a patch, the number of blocks and optionally"):
        _architecture(Sizes((3, 8, 8), 4, widths=(12,)))


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
    with pytest.raises(ValueError, match=r"scale=0\.0: the noise scale of the Gaussian likelihood must be positive"):
        GLF(DenseEncoder(2, (6,), (8,)), LatentFlowGenerator("DenseGenerator", DECODER), 2, scale=0.0)
    with pytest.raises(
        ValueError, match="'Linear': the decoder of a latent flow must be DenseGenerator or DcganGenerator or MixerGenerator"
    ):
        LatentFlowGenerator("Linear", DECODER)
    with pytest.raises(ValueError, match=r"event_shape \(1,\): .* at least two dimensions"):
        LatentFlowGenerator("DenseGenerator", {**DECODER, "latent_dim": 1})
    family = GLF(DenseEncoder(2, (6,), (8,)), LatentFlowGenerator("DenseGenerator", DECODER), 2)
    with pytest.raises(ValueError, match="this family models x alone"):
        family.step((torch.zeros(2, 6), torch.zeros(2)), lambda *_: None, 0)

"""Shapes, ranges and the training steps of the small architectures."""

import math

import pytest
import torch

from cogen.models.families import gan, vae
from cogen.models.networks.architectures import (
    ConvolutionalCritic,
    DcganGenerator,
    DenseCritic,
    DenseGenerator,
    FourierFeatures,
    MixerGenerator,
)

SHAPE = (1, 8, 12)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenseGenerator(5, SHAPE, hidden=(16,)),
        lambda: DcganGenerator(5, SHAPE, (8, 4)),
        lambda: MixerGenerator(5, SHAPE, channels=8, blocks=2),
        lambda: MixerGenerator(5, SHAPE, channels=8, blocks=2, projected=3),
    ],
)
def test_generators_make_events_in_range_one_by_one(make):
    torch.manual_seed(0)
    generator = make().eval()
    z = 3 * torch.randn(7, 5)
    x = generator(z)
    assert x.shape == (7, *SHAPE)
    assert x.abs().max() <= 1
    # In evaluation mode an output depends on its own latent alone.
    torch.testing.assert_close(generator(z[2:3]), x[2:3], rtol=1e-4, atol=1e-5)


def test_an_unbounded_generator_is_linear_at_the_end_and_takes_any_event_shape():
    generator = DenseGenerator(2, (2,), hidden=(), bounded=False)
    z = torch.randn(4, 2)
    torch.testing.assert_close(generator(2 * z), 2 * generator(z))


def test_a_mixer_without_blocks_makes_each_patch_of_its_own_features():
    """A weight of one patch's features moves the pixels of this patch, in every colour, and no others."""
    torch.manual_seed(0)
    mixer = MixerGenerator(3, (2, 8, 12), channels=4, blocks=0, bounded=False)
    z = torch.randn(1, 3)
    before = mixer(z).detach()
    with torch.no_grad():
        mixer.project.bias.view(6, 4)[4] += 1  # the second row of patches, its second
    moved = (mixer(z) != before).squeeze(0)
    expected = torch.zeros(2, 8, 12, dtype=torch.bool)
    expected[:, 4:8, 4:8] = True
    assert torch.equal(moved, expected)
    narrow = MixerGenerator(3, (2, 8, 12), channels=4, blocks=0, bounded=False, projected=2)
    before = narrow(z).detach()
    with torch.no_grad():
        narrow.project.bias.view(6, 2)[4] += 1
    assert torch.equal((narrow(z) != before).squeeze(0), expected)
    mixed = MixerGenerator(3, (2, 8, 12), channels=4, blocks=1, bounded=False)
    before = mixed(z).detach()
    with torch.no_grad():
        mixed.project.bias.view(6, 4)[4] += 1
    assert (mixed(z) != before).all()


def test_a_fresh_dense_generator_passes_its_signal_on():
    torch.manual_seed(0)
    spread = DenseGenerator(64, SHAPE, hidden=(128, 128), bounded=False)(torch.randn(512, 64)).std(0).mean()
    assert 0.4 < spread < 1.5


def test_folding_batch_norm_away_changes_nothing():
    torch.manual_seed(0)
    generator = DenseGenerator(5, SHAPE, hidden=(16, 8), normalize=True)
    for _ in range(20):
        generator(2 + torch.randn(64, 5))
    z = torch.randn(7, 5)
    folded = generator.folded()
    plain = DenseGenerator(5, SHAPE, hidden=(16, 8))
    plain.load_state_dict(folded.state_dict())
    torch.testing.assert_close(plain(z), generator.eval()(z), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "critic",
    [
        DenseCritic(SHAPE, (16,)),
        DenseCritic(SHAPE, (16,), FourierFeatures(math.prod(SHAPE), 8, 1.0)),
        ConvolutionalCritic(SHAPE, (4, 8), 16),
    ],
)
def test_critics_give_one_number_an_event(critic):
    assert critic(torch.randn(3, *SHAPE)).shape == (3,)


def test_fourier_features_have_a_gaussian_kernel():
    """The inner product of two events' features estimates exp(-(bandwidth distance)^2 / 2) (Rahimi and Recht 2007)."""
    torch.manual_seed(0)
    width, bandwidth = 20_000, 1.5
    x = torch.randn(6, 2)
    features = FourierFeatures(2, width, bandwidth)(x)
    kernel = features @ features.T / (width / 2)
    expected = torch.exp(-0.5 * (bandwidth * torch.cdist(x, x)) ** 2)
    assert (kernel - expected).abs().max() < 5 / (width / 2) ** 0.5  # five standard errors, at most
    assert not torch.allclose(kernel, torch.exp(-0.5 * (2 * bandwidth * torch.cdist(x, x)) ** 2), atol=0.05)


@pytest.mark.parametrize(("width", "bandwidth"), [(7, 1.0), (0, 1.0), (8, 0.0), (8, math.nan)])
def test_fourier_features_refuse_what_they_cannot_be(width, bandwidth):
    with pytest.raises(ValueError, match=f"width={width}, bandwidth={bandwidth}"):
        FourierFeatures(2, width, bandwidth)


def test_fourier_features_of_another_size_are_named():
    with pytest.raises(ValueError, match=r"fourier has 2 inputs, but an event of shape \(3,\) has 3"):
        DenseCritic((3,), (8,), FourierFeatures(2, 8, 1.0))


def test_fourier_features_learn_what_is_fine():
    """A function of period 1 / 8 on [-4, 4]: out of reach of a perceptron of x in the same steps."""
    errors = {}
    for name, bandwidth in (("plain", None), ("fourier", 30.0)):
        torch.manual_seed(1)
        critic = DenseCritic((1,), (64, 64), None if bandwidth is None else FourierFeatures(1, 64, bandwidth))
        optimizer = torch.optim.Adam(critic.parameters(), 1e-2)
        for _ in range(300):
            x = 8 * torch.rand(256, 1) - 4
            loss = (critic(x) - (16 * math.pi * x[:, 0]).sin()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors[name] = loss.item()
    assert errors["fourier"] < 0.1 < 0.4 < errors["plain"], errors


def test_a_classifier_has_features_and_classes():
    classifier = ConvolutionalCritic(SHAPE, (4, 8), width=16, outputs=10)
    x = torch.randn(3, *SHAPE)
    assert classifier.features(x).shape == (3, 16)
    assert classifier(x).shape == (3, 10)


def test_convolutional_networks_name_a_size_they_cannot_make():
    with pytest.raises(ValueError, match=r"event_shape \(1, 30, 28\).*divisible by four"):
        DcganGenerator(5, (1, 30, 28))
    with pytest.raises(ValueError, match=r"event_shape \(1, 30, 28\).*divisible by four"):
        MixerGenerator(5, (1, 30, 28))
    with pytest.raises(ValueError, match=r"event_shape \(7,\)"):
        ConvolutionalCritic((7,))


def test_squared_gradient_of_a_linear_critic_is_the_square_of_its_weights():
    critic = DenseCritic(SHAPE, hidden=())
    expected = critic.last.weight.square().sum().detach()
    torch.testing.assert_close(gan.squared_gradient(critic, torch.randn(3, *SHAPE)), expected.expand(3))


def test_kl_and_elbo_agree_with_closed_forms():
    mean, log_sd = torch.randn(6, 3), torch.randn(6, 3)
    q = torch.distributions.Normal(mean, log_sd.exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(vae.kl_to_standard_normal(mean, log_sd), expected)

    # A decoder that ignores z and returns zero: the reconstruction is the density of x at its own root mean square.
    x = torch.randn(50, *SHAPE)
    decoder = DenseGenerator(3, SHAPE, hidden=(), bounded=False)
    torch.nn.init.zeros_(decoder.layers[-1].weight)

    class Prior(torch.nn.Module):
        def forward(self, x):
            return torch.zeros(len(x), 3), torch.zeros(len(x), 3)

    loss, scale = vae.negative_elbo(Prior(), decoder, x)
    torch.testing.assert_close(scale, x.square().mean().sqrt())
    expected = -torch.distributions.Normal(0.0, scale).log_prob(x).flatten(1).sum(-1).mean()
    torch.testing.assert_close(loss, expected)

"""Score matching against what is known of it: closed forms of Gaussians, and each loss against the others.

Statistical bounds hold for fixed seeds; what is exact is tested to rounding, in float64.
"""

import itertools

import pytest
import torch
from torch import nn

from cogen.models import NCSN, ScoreMatching
from cogen.models.families.score_matching import Denoising, Explicit, Sliced, denoising, explicit, rademacher, score_of, sliced
from cogen.models.networks.architectures import Conditioned
from cogen.models.networks.scores import ConvolutionalScore, DenseScore
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = torch.tensor([[0.8, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.2, 0.1, 0.6]], dtype=torch.float64)
COVARIANCE, MEAN = ROOT @ ROOT.T, torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)


def gaussian(covariance, mean=MEAN):
    """The score of a Gaussian."""
    return lambda x: -(x - mean) @ torch.linalg.inv(covariance)


def smooth_energy(size=3):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0)).double()


def points(count, dtype=torch.float64):
    torch.manual_seed(1)
    return (MEAN + torch.randn(count, 3, dtype=torch.float64) @ ROOT.T).to(dtype)


# --- the losses ----------------------------------------------------------------------------------------------------


def test_the_explicit_loss_of_a_gaussian():
    x, precision = points(20), torch.linalg.inv(COVARIANCE)
    known = -precision.trace() + 0.5 * ((x - MEAN) @ precision).square().sum(1)
    torch.testing.assert_close(explicit(gaussian(COVARIANCE), x), known)


def test_the_trace_is_that_of_the_hessian_on_pictures_too():
    f, x = smooth_energy(4), torch.randn(5, 1, 2, 2, dtype=torch.float64)
    s = score_of(f)(x)
    hessians = [torch.autograd.functional.hessian(lambda y: f(y.reshape(1, 1, 2, 2))[0], one.flatten()) for one in x]
    known = torch.stack([hessian.trace() for hessian in hessians]) + 0.5 * s.flatten(1).square().sum(1)
    torch.testing.assert_close(explicit(score_of(f), x), known)


@pytest.mark.parametrize("variance_reduced", [True, False])
def test_the_sliced_loss_is_the_explicit_one_in_the_mean_of_all_directions(variance_reduced):
    score, x = score_of(smooth_energy()), points(10)
    corners = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)
    along = [sliced(score, x, corner.expand_as(x), variance_reduced=variance_reduced) for corner in corners]
    torch.testing.assert_close(torch.stack(along).mean(0), explicit(score, x))


def test_directions_are_signs():
    assert set(rademacher(torch.zeros(100, 3)).flatten().tolist()) == {-1.0, 1.0}


def test_a_pair_of_opposite_noise_goes_over_into_the_sliced_loss():
    """So that its variance does not grow as 1 / sigma^2."""
    score, x, noise, sigma = score_of(smooth_energy()), points(10), points(10), 1e-4
    pair = 0.5 * (denoising(score, x, sigma, noise) + denoising(score, x, sigma, -noise))
    constant = 0.5 * noise.square().sum(1) / sigma**2
    torch.testing.assert_close(pair - constant, sliced(score, x, noise), rtol=1e-5, atol=1e-6)


# --- Vincent's autoencoder -----------------------------------------------------------------------------------------


class LinearAutoencoder(nn.Module):
    """r(y) = W' (W y + b) + c: tied weights, so that (r(y) - y) / sigma^2 is the gradient of an energy."""

    def __init__(self, weight, hidden, visible):
        super().__init__()
        self.weight, self.hidden, self.visible = map(nn.Parameter, (weight, hidden, visible))

    def forward(self, y):
        return (y @ self.weight.T + self.hidden) @ self.weight + self.visible


def spread(sigma, dim):
    """Noise with exactly the moments of Normal(0, sigma^2): the same for every x, so that its mean is a sum."""
    signs = torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)])
    return signs * dim**0.5


def vincent(autoencoder, sigma):
    return lambda y: (autoencoder(y) - y) / sigma**2


@pytest.fixture(scope="module")
def corrupted():
    """Each x with each of six corruptions: x (row, 3), noise (row, 3)."""
    x, noise = points(40), spread(1.0, 3)
    return x.repeat_interleave(len(noise), 0), noise.repeat(len(x), 1)


def test_the_denoising_loss_is_the_autoencoder_s_squared_error(corrupted):
    torch.manual_seed(2)
    x, noise = corrupted
    autoencoder, sigma = LinearAutoencoder(*(torch.randn(shape, dtype=torch.float64) for shape in ((2, 3), (2,), (3,)))), 0.3
    error = (autoencoder(x + sigma * noise) - x).square().sum(1)
    torch.testing.assert_close(denoising(vincent(autoencoder, sigma), x, sigma, noise), error / (2 * sigma**4))


def test_the_best_linear_denoising_autoencoder_has_the_score_of_the_noisy_density(corrupted):
    """Its weights by least squares on corrupted points; the score in closed form of their moments. Both to rounding, and the
    gradient of the denoising loss vanishes there; that of another sigma does not."""
    (x, noise), sigma = corrupted, 0.3
    noisy = x + sigma * noise
    best = torch.linalg.lstsq(torch.cat([noisy, torch.ones(len(x), 1)], 1), x).solution
    matrix, shift = best[:3].clone().requires_grad_(), best[3].clone().requires_grad_()
    learned = vincent(lambda y: y @ matrix + shift, sigma)
    known = gaussian(torch.cov(x.T, correction=0) + sigma**2 * torch.eye(3, dtype=x.dtype), x.mean(0))
    y = points(50) * 2
    torch.testing.assert_close(learned(y), known(y), rtol=1e-10, atol=1e-9)
    scale = denoising(learned, x, sigma, noise).mean().item()
    for right, believed in ((True, sigma), (False, 1.1 * sigma)):
        loss = denoising(learned, x, believed, noise).mean()
        slopes = torch.autograd.grad(loss, [matrix, shift])
        assert (max(float(slope.abs().max()) for slope in slopes) < 1e-9 * scale) == right
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-10)  # a gradient, as that of a tied autoencoder is


# --- families ------------------------------------------------------------------------------------------------------


class Quadratic(nn.Module):
    def __init__(self):
        super().__init__()
        self.root, self.slope = nn.Parameter(torch.eye(3)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return x @ self.slope - 0.5 * (x @ self.root).square().sum(1)


@pytest.mark.parametrize("objective", [Explicit(), Sliced(), Sliced(variance_reduced=False), Denoising(0.5)], ids=repr)
def test_a_gaussian_is_learned_beside_its_reference(objective):
    """The reference's precision is part of what is learned: forgotten, the covariance would be another by a third."""
    family = ScoreMatching(Quadratic(), objective, reference_scale=1.2, learning_rate=0.05)
    x = points(4_000, torch.float32)
    train(family, x, num_steps=200, batch_size=256, seed=0, schedule=lambda step, _: 1 - step / 200, progress=False)
    with torch.no_grad():
        precision = family.network.root @ family.network.root.T + torch.eye(3) / 1.2**2
        covariance = torch.linalg.inv(precision)
        noise = objective.sigma**2 if isinstance(objective, Denoising) else 0.0
        torch.testing.assert_close(covariance, torch.cov(x.T) + noise * torch.eye(3), rtol=0.15, atol=0.05)
        torch.testing.assert_close(covariance @ family.network.slope, x.mean(0), rtol=0.1, atol=0.06)


def pictures(count):
    """Bright and dark bars, (count, 1, 8, 8)."""
    random = torch.Generator().manual_seed(0)
    place = torch.randint(8, (count, 1, 1, 1), generator=random)
    return torch.where(torch.arange(8)[None, None, :, None] == place, 1.0, -1.0).expand(-1, 1, 8, 8).contiguous()


def test_an_energy_of_pictures_and_the_average_of_its_weights():
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(1, 8, 4, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(128, 1), nn.Flatten(0))
    family = ScoreMatching(convolutions, Denoising(0.5), learning_rate=5e-3)
    trained = train(family, pictures(200), num_steps=60, batch_size=32, seed=0, average=0.9, progress=False)
    loss = trained.losses["loss"]
    assert loss[-10:].mean() < loss[:10].mean() - 5
    assert trained.average(pictures(3)).shape == (3,)
    mine, theirs = (next(network.parameters()) for network in (family.network, trained.average))
    assert 0 < (mine - theirs).abs().max() < 0.1


def test_a_score_of_every_noise_level_of_pictures():
    """Its denoiser x + sigma^2 s tells the bar from noise of any level: half the error that independent pixels leave."""
    torch.manual_seed(0)
    family = NCSN(ConvolutionalScore((1, 8, 8), (8, 8, 8), data_scale=1.0), (0.1, 2.0), learning_rate=1e-2)
    train(family, pictures(500), num_steps=80, batch_size=16, seed=0, progress=False)
    x = pictures(100)
    with torch.no_grad():
        for sigma in (0.3, 1.0):
            noisy = x + sigma * torch.randn_like(x)
            denoised = noisy + sigma**2 * family.network(noisy, torch.full((100,), sigma))
            assert (denoised - x).square().mean() < 0.5 * sigma**2 / (1 + sigma**2)


def test_the_score_without_a_network_is_that_of_a_gaussian():
    network = DenseScore((3,), (4,), data_scale=0.7)
    nn.init.zeros_(network.layers[-1].weight)
    nn.init.zeros_(network.layers[-1].bias)
    x, sigma = torch.randn(5, 3), torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    torch.testing.assert_close(network(x, sigma), -x / (0.49 + sigma.square())[:, None])


class OfAClass(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Conditioned(nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1)), 2)

    def forward(self, x, sigma, label):
        width = (1 + sigma.square())[:, None].sqrt()
        return (self.network(x / width, label) * width - x) / width.square()


def test_labels_are_given_to_the_networks():
    """Class 0 lies at the left, class 1 at the right."""
    torch.manual_seed(0)
    label = torch.arange(600) % 2
    x = (4.0 * label - 2.0)[:, None] + 0.3 * torch.randn(600, 1)

    class Energy(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = Conditioned(nn.Sequential(nn.Linear(3, 16), nn.SiLU(), nn.Linear(16, 1)), 2)

        def forward(self, x, label):
            return self.network(x, label)[:, 0]

    def ncsn():
        return NCSN(OfAClass(), (0.5, 4.0), learning_rate=3e-2)

    def matching():
        return ScoreMatching(Energy(), Denoising(0.5), reference_scale=3.0, learning_rate=3e-2)

    zero = torch.zeros(2, 1)
    for family in (ncsn(), matching()):
        train(family, (x, label), num_steps=80, batch_size=64, seed=0, progress=False)
        if isinstance(family, NCSN):
            slopes = family.network(zero, torch.ones(2), torch.tensor([0, 1]))
        else:
            slopes = score_of(lambda y, of=family: of.log_density(y, torch.tensor([0, 1])))(zero)
        assert slopes[0] < -0.5
        assert slopes[1] > 0.5


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Denoising(0.0), "sigma=0.0: the standard deviation of the noise"),
        (lambda: ScoreMatching(nn.Linear(2, 1), reference_scale=-1.0), "reference_scale=-1.0"),
        (lambda: NCSN(nn.Linear(2, 2), (1.0, 0.1)), r"noise_levels=\(1.0, 0.1\): give two positive standard deviations"),
        (lambda: DenseScore((2,), data_scale=0.0), "data_scale=0.0: the standard deviation of the data"),
        (lambda: ConvolutionalScore((1, 7, 8)), "with sides divisible by four"),
    ],
)
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(ValueError, match=said):
        make()

"""Sample scores: closed forms, expectations under equal distributions, and the numbers of torchmetrics."""

import json

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import sqrtm

from cogen.diagnostics.sample_quality import (
    Score,
    frechet_distance,
    inception_score,
    kernel_distance,
    mode_coverage,
    outputs,
)


def test_inception_score_between_one_and_the_number_of_classes():
    sure = np.tile(np.eye(10), (50, 1))
    assert inception_score(sure) == pytest.approx((10, 0, ""))
    assert inception_score(np.full((500, 10), 0.1)).mean == pytest.approx(1)
    assert inception_score(np.tile([[0.0, 1.0]], (20, 1))).mean == pytest.approx(1)  # a collapsed generator
    assert inception_score(np.repeat(np.eye(10), 50, axis=0)).mean == pytest.approx(1)  # in class order: shuffle first
    assert inception_score(np.repeat(np.eye(10), 50, axis=0), splits=1)[1:] == (None, "")
    assert inception_score(np.repeat(np.eye(10), 50, axis=0), splits=1).mean == pytest.approx(10)


def test_inception_score_is_mutual_information():
    """exp(H(y) - H(y | x)): the mean and the population sd over parts."""
    p = np.random.default_rng(0).dirichlet(np.ones(5) / 3, 103)
    parts = np.array_split(p, 4)
    expected = [np.exp(stats.entropy(part.mean(0)) - stats.entropy(part, axis=1).mean()) for part in parts]
    assert inception_score(p, splits=4, network="toy") == pytest.approx((np.mean(expected), np.std(expected), "toy"))


def with_moments(count, mean, covariance, seed):
    """Samples whose sample mean and covariance are the given ones, exactly."""
    x = np.random.default_rng(seed).standard_normal((count, len(mean)))
    x -= x.mean(0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_gaussians():
    a = with_moments(50, np.zeros(3), np.diag([1.0, 4.0, 9.0]), seed=0)
    b = with_moments(70, np.array([1.0, -2.0, 0.0]), np.diag([4.0, 1.0, 9.0]), seed=1)
    assert frechet_distance(a, b).mean == pytest.approx(1 + 4 + (1 - 2) ** 2 + (2 - 1) ** 2)  # commuting covariances
    assert frechet_distance(a, a).mean == pytest.approx(0, abs=1e-12)
    random = np.random.default_rng(2)
    first, second = (m @ m.T for m in random.standard_normal((2, 6, 6)))
    a, b = with_moments(50, np.zeros(6), first, seed=3), with_moments(60, np.ones(6), second, seed=4)
    expected = 6 + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert frechet_distance(a, b).mean == pytest.approx(expected)
    assert frechet_distance(b, a).mean == pytest.approx(expected)


def test_frechet_distance_with_dead_features_and_scales_far_apart():
    """ReLU features that never fire make covariances singular; the remaining ones still count to the last digit."""
    random = np.random.default_rng(5)
    scales = np.array([1e6, 1.0, 1e-6, 0.0])
    x = random.standard_normal((500, 4))
    a, b = x * scales, (2 * x + 1) * scales  # standard deviations s and 2 s of the same directions
    covariance = np.cov(a.T)
    expected = np.square(b.mean(0) - a.mean(0)).sum() + np.trace(covariance)
    assert frechet_distance(a, b).mean == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(a[:, 2:], b[:, 2:]).mean == pytest.approx(
        np.square(b[:, 2].mean() - a[:, 2].mean()) + covariance[2, 2], rel=1e-9
    )


def test_few_items_for_many_features_warn():
    x = np.random.default_rng(6).standard_normal((40, 20))
    with pytest.warns(UserWarning, match="20 items of 20 features: .* singular .* kernel_distance"):
        biased = frechet_distance(x[:20], x[20:])
    assert biased.mean > 5  # of equal distributions


def biased_squared_mmd(a, b):
    """The V-statistic: pairs of an item with itself are counted."""
    return sum(sign * ((x @ y.T / x.shape[1] + 1) ** 3).mean() for x, y, sign in [(a, a, 1), (b, b, 1), (a, b, -2)])


def test_kernel_distance_is_unbiased_and_its_biased_form_is_not():
    """300 pairs of sets of one distribution: |z| < 4, a false alarm in 16,000 (normal approximation)."""
    random = np.random.default_rng(7)
    pairs = random.standard_normal((300, 2, 40, 5)) ** 2
    found = np.array([kernel_distance(a, b, subsets=3, subset_size=20, seed=i).mean for i, (a, b) in enumerate(pairs)])
    biased = np.array([biased_squared_mmd(a, b) for a, b in pairs])
    standard_error = np.sqrt(len(pairs))
    assert abs(found.mean()) < 4 * found.std() / standard_error
    assert biased.mean() > 4 * biased.std() / standard_error
    shifted = [kernel_distance(a, b + 0.5, subsets=3, subset_size=20).mean for a, b in pairs]
    assert np.mean(shifted) > 4 * np.std(shifted) / standard_error


def test_kernel_distance_is_its_sum_over_pairs():
    a, b = np.random.default_rng(8).standard_normal((2, 6, 3))

    def k(x, y):
        return (x @ y / 3 + 1) ** 3

    within = sum(k(x[i], x[j]) for x in (a, b) for i in range(6) for j in range(6) if i != j) / 30
    between = sum(k(x, y) for x in a for y in b) / 36
    assert kernel_distance(a, b, subsets=2, subset_size=6) == pytest.approx((within - 2 * between, 0, ""), abs=1e-12)


def test_modes_captured_and_samples_of_high_quality():
    centres = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    samples = np.array([[0.0, 0.0], [0.0, 2.9], [0.0, 3.1], [13.0, 0.0], [10.0, 4.0]])  # a distance of exactly 3 counts
    found = mode_coverage(samples, centres, sd=1)
    assert found[:2] == (2, 0.6)
    assert found.counts.tolist() == [2, 1, 0]
    assert mode_coverage(samples, centres, sd=1, at_least=2).captured == 1
    assert mode_coverage(samples, centres, sd=1, within=4.0).high_quality == 1
    assert mode_coverage(samples[-1:], centres, sd=1)[:2] == (0, 0)


def test_perfect_samples_are_of_high_quality_as_often_as_the_chi_squared_says():
    """Binomial count of 20,000 samples, |z| < 4: a false alarm in 16,000."""
    random = np.random.default_rng(9)
    centres = 100 * np.arange(8)[:, None] * np.ones(2)
    samples = np.tile(centres, (2500, 1)) + 0.5 * random.standard_normal((20_000, 2))
    found, expected = mode_coverage(samples, centres, sd=0.5), stats.chi2(2).cdf(9)
    assert found.captured == 8
    assert abs(found.high_quality - expected) < 4 * np.sqrt(expected * (1 - expected) / 20_000)


def test_outputs_come_in_batches_and_without_gradients():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    sizes = []
    network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    images = np.random.default_rng(10).standard_normal((7, 3)).astype(np.float32)
    found = outputs(network, images, batch_size=3)
    assert sizes == [3, 3, 1]
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, images @ network.weight.detach().numpy().T + network.bias.detach().numpy(), rtol=1e-5, atol=1e-6
    )
    with pytest.raises(ValueError, match="batch_size=0"):
        outputs(network, images, 0)


def test_a_score_prints_the_network_and_goes_into_json():
    assert str(Score(9.412, 0.0531, "mnist_classifier")) == "9.412 (sd 0.053, by mnist_classifier)"
    assert str(Score(3.7)) == "3.7"
    x = np.random.default_rng(11).standard_normal((30, 2))
    score = frechet_distance(x, x + 1, network="toy")
    assert str(score) == "2 (by toy)"
    assert json.loads(json.dumps(score._asdict())) == {"mean": pytest.approx(2), "sd": None, "network": "toy"}
    assert kernel_distance(x, x, subset_size=30, network="toy").network == "toy"


def test_bad_inputs_are_named():
    p, x = np.full((20, 4), 0.25), np.zeros((20, 4))
    broken = np.where(np.arange(4) == 1, np.nan, x)
    with pytest.raises(ValueError, match=r"a row sums to 8; .* softmax"):
        inception_score(8 * p)
    with pytest.raises(ValueError, match=r"the least probability is -0\.5"):
        inception_score(np.tile([1.25, -0.5, 0.25, 0.0], (20, 1)))
    for splits in (0, 21):
        with pytest.raises(ValueError, match=f"splits={splits} of 20 samples"):
            inception_score(p, splits)
    with pytest.raises(ValueError, match=r"shape \(20,\); they must be \(item, class\)"):
        inception_score(p[:, 0])
    with pytest.raises(ValueError, match=r"shape \(0, 4\)"):
        inception_score(p[:0])
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match=r"\(20, 4\), features_b \(20, 3\)"):
            distance(x, x[:, :3])
        with pytest.raises(ValueError, match="features_b contain 20 non-finite values"):
            distance(x, broken)
        with pytest.raises(ValueError, match="features_b 1; at least two"):
            distance(x, x[:1])
    for size in (1, 21):
        with pytest.raises(ValueError, match=f"subset_size={size}, .* between 2 and 20"):
            kernel_distance(x, x, subset_size=size)
    with pytest.raises(ValueError, match="subsets=0"):
        kernel_distance(x, x, subsets=0, subset_size=20)
    with pytest.raises(ValueError, match=r"samples have shape \(20, 4\), centres \(2, 3\)"):
        mode_coverage(x, x[:2, :3], sd=1)
    with pytest.raises(ValueError, match=r"sd=0, .* must be positive"):
        mode_coverage(x, x[:2], sd=0)
    with pytest.raises(ValueError, match="samples contain 20 non-finite values"):
        mode_coverage(broken, x[:2], sd=1)


# ------------------------------------------------------------------------------------------------ against torchmetrics


class Features(torch.nn.Module):
    """A network with four features of an image of three values, correlated and skewed."""

    num_features = 4

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(12)
        self.register_buffer("weight", torch.randn(3, 4, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return torch.nn.functional.silu(x @ self.weight)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(13)
    first = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    return first, 1.3 * torch.randn(300, 3, generator=generator, dtype=torch.float64) + 0.5


def test_frechet_distance_is_that_of_torchmetrics(images):
    fid = pytest.importorskip("torchmetrics.image.fid")
    network = Features()
    metric = fid.FrechetInceptionDistance(feature=network)
    for x, real in zip(images, (True, False), strict=True):
        metric.update(x, real=real)
    a, b = (outputs(network, x) for x in images)
    assert frechet_distance(a, b).mean == pytest.approx(metric.compute().item(), rel=1e-9)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save:UserWarning")
def test_kernel_distance_is_that_of_torchmetrics(images):
    """Whole sets, where no subset is drawn, to the last digit; subsets to their Monte Carlo error (|z| < 4: 1 in 16,000)."""
    kid = pytest.importorskip("torchmetrics.image.kid")
    network = Features()
    a, b = images[0][:300], images[1]
    for subsets, size in ((1, 300), (400, 50)):
        metric = kid.KernelInceptionDistance(feature=network, subsets=subsets, subset_size=size)
        metric.update(a, real=True)
        metric.update(b, real=False)
        with torch.random.fork_rng():
            torch.manual_seed(14)
            mean, sd = (value.item() for value in metric.compute())
        found = kernel_distance(outputs(network, a), outputs(network, b), subsets, size)
        if subsets == 1:
            assert found.mean == pytest.approx(mean, rel=1e-9)
        else:
            assert abs(found.mean - mean) < 4 * np.hypot(found.sd, sd) / np.sqrt(subsets)
            assert found.sd == pytest.approx(sd, rel=0.3)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
def test_inception_score_is_that_of_torchmetrics(images):
    """It shuffles, and divides the variance by splits - 1. Its normalize=True would turn the images into bytes."""
    inception = pytest.importorskip("torchmetrics.image.inception")
    network = Features()
    metric = inception.InceptionScore(feature=network, splits=5, normalize=False)
    metric.update(images[0])
    with torch.random.fork_rng():
        torch.manual_seed(15)
        mean, sd = metric.compute()
        torch.manual_seed(15)
        order = torch.randperm(len(images[0]))
    found = inception_score(outputs(lambda x: network(x).softmax(-1), images[0])[order.numpy()], splits=5)
    assert found.mean == pytest.approx(mean.item(), rel=1e-9)
    assert found.sd == pytest.approx(sd.item() * np.sqrt(4 / 5), rel=1e-9)

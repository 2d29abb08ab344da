"""Score priors against posteriors that are known: a mixture of Gaussians whose score is exact, and Gaussians.

z-scores are of independent chains; one beyond 4.5 is a false alarm of 7e-6, for fixed seeds.
"""

import numpy as np
import pyro.distributions
import pytest
import torch
from torch import nn

from cogen.inference import AnnealedLangevin, Langevin, PyroAnnealedHMC, infer
from cogen.models import Array, Classes, ScorePrior, as_jax, views
from cogen.models import score_prior as module
from cogen.models.likelihoods import Normal
from cogen.models.networks.scores import ConvolutionalScore

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Z_MOST, DETECTED = 4.5, 6.0

MEANS = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.8]])
SD, SHARES = 0.3, np.array([0.5, 0.3, 0.2])
ROW, NOISE = np.array([1.0, 0.5]), 1.0
SEEN = np.array([0.5, -1.5])


class Mixture(nn.Module):
    """The score of a mixture of round Gaussians with noise."""

    def __init__(self):
        super().__init__()
        self.register_buffer("means", torch.tensor(MEANS, dtype=torch.float32))
        self.register_buffer("log_shares", torch.tensor(SHARES, dtype=torch.float32).log())

    def forward(self, y, sigma):
        variance = (SD**2 + sigma.square())[:, None]
        off = y[:, None] - self.means  # (batch, mode, 2)
        share = (self.log_shares - 0.5 * off.square().sum(2) / variance).softmax(1)
        return -(share[..., None] * off).sum(1) / variance


def mixture():
    seen = {"seen": views.Linear(ROW[None], scale=NOISE)}
    return ScorePrior(Mixture(), noise_levels=(0.02, 4.0), event_shape=(2,), views=seen)


def sampled(model, **options):
    run = {"num_warmup": 400, "num_samples": 1, "num_chains": 4_096, "seed": 0, "progress": False, "items_at_once": 2}
    return infer(model, AnnealedLangevin(step_size=0.7), **(run | options))


def exact(seen):
    """Shares (mode,), means (mode, 2) and the covariance of the modes of the posterior."""
    variance = SD**2 * ROW @ ROW + NOISE**2
    residual = seen - MEANS @ ROW
    shares = SHARES * np.exp(-0.5 * residual**2 / variance)
    gain = SD**2 * ROW / variance
    return shares / shares.sum(), MEANS + residual[:, None] * gain, SD**2 * (np.eye(2) - np.outer(ROW, gain))


def z_scores(y, seen):
    """Of the shares of the modes and of the first and second moments of draws (chain, 2)."""
    shares, means, covariance = exact(seen)
    off = y[:, None] - means
    log_share = np.log(shares) - 0.5 * np.einsum("cmi,ij,cmj->cm", off, np.linalg.inv(covariance), off)
    share = np.exp(log_share - log_share.max(1, keepdims=True))
    quantities = np.concatenate([share / share.sum(1, keepdims=True), y, y[:, [0, 0, 1]] * y[:, [0, 1, 1]]], 1)
    second = covariance + np.einsum("m,mi,mj->ij", shares, means, means)
    known = np.concatenate([shares, shares @ means, second[[0, 0, 1], [0, 1, 1]]])
    return (quantities.mean(0) - known) / (quantities.std(0) / len(y) ** 0.5)


def largest(posterior):
    y = posterior["posterior"]["z"].values[:, 0].astype(float)  # (chain, item, 2)
    return max(np.abs(z_scores(y[:, item], seen)).max() for item, seen in enumerate(SEEN))


def test_the_posterior_of_a_mixture():
    posterior = sampled(mixture().condition(seen=SEEN[:, None]))
    assert largest(posterior) < Z_MOST
    assert posterior["posterior"].attrs["noise_levels"] == [0.02, 4.0]
    assert "energy" not in posterior["observed_data"]
    assert posterior["predictions"]["x_mean"].shape == (2, 2)


def test_a_likelihood_that_is_wider_on_the_way_has_other_shares(monkeypatch):
    """The noise of y added to that of the view at every level (Jalal et al.)."""

    def wider(self, location, scale):
        noise = module._level(self.noise_levels) ** 2 * self.rows.numpy()
        return Normal.numpyro(self, location, (scale**2 + noise) ** 0.5)

    monkeypatch.setattr(module._Noisy, "numpyro", wider)
    assert largest(sampled(mixture().condition(seen=SEEN[:, None]))) > DETECTED


@pytest.mark.slow
def test_an_item_s_draws_do_not_depend_on_the_others():
    model = mixture().condition(seen=np.array([[0.5], [-1.0], [2.0]]))
    few = {"num_warmup": 20, "num_chains": 8}
    all_of_them = sampled(model.with_ids([5, 6, 7]), **few)["posterior"]["z"].values
    some = sampled(mixture().condition(seen=np.array([[2.0], [0.5]])).with_ids([7, 5]), **few)["posterior"]["z"].values
    np.testing.assert_array_equal(some, all_of_them[:, :, [2, 0]])


# --- Gaussians -----------------------------------------------------------------------------------------------------


class Correlated(nn.Module):
    """The score of a Gaussian with noise; its mean is the class's."""

    def __init__(self):
        super().__init__()
        self.variances, self.axes = map(nn.Buffer, torch.linalg.eigh(torch.tensor(COVARIANCE, dtype=torch.float32)))

    def forward(self, y, sigma, label):
        off = y - (label @ torch.tensor([-1.0, 1.0]))[:, None]
        return -(off @ self.axes / (self.variances + sigma.square()[:, None])) @ self.axes.T


COVARIANCE = np.array([[1.0, 0.6, 0.2], [0.6, 0.8, 0.3], [0.2, 0.3, 0.5]])


@pytest.mark.slow
def test_a_class_is_given_and_entries_are_clamped():
    model = ScorePrior(Correlated(), noise_levels=(0.02, 5.0), event_shape=(3,), contexts={"label": Classes(2)})
    values = np.array([[9.0, 0.5, 9.0], [9.0, 0.5, 9.0]])
    clamped = model.given(label=[0, 1]).clamp(np.array([False, True, False]), values)
    posterior = sampled(clamped, num_warmup=800, num_chains=1_024, keep_x=True)
    y = posterior["posterior"]["x"].values[:, 0]
    np.testing.assert_array_equal(y[..., 1], 0.5)
    gain = COVARIANCE[[0, 2], 1] / COVARIANCE[1, 1]
    spread = COVARIANCE[np.ix_([0, 2], [0, 2])] - np.outer(gain, COVARIANCE[[0, 2], 1])
    for item, mean in enumerate((-1.0, 1.0)):
        z = (y[:, item][:, [0, 2]].mean(0) - mean - gain * (0.5 - mean)) / np.sqrt(np.diag(spread) / len(y))
        assert np.abs(z).max() < Z_MOST
        assert np.abs(np.cov(y[:, item][:, [0, 2]].T) - spread).max() < 0.1


class Independent(nn.Module):
    """The score of pixels that are Normal(0, 0.5^2), each for itself."""

    def forward(self, y, sigma):
        return -y / (0.25 + sigma.square()[:, None, None, None])


@pytest.mark.slow
def test_a_picture_is_conditioned_on_a_thumbnail():
    seen = {
        "thumbnail": views.Thumbnail(2, scale=0.2),
        "top": views.Mask(views.half((1, 4, 4), "top"), scale=0.3),
    }
    model = ScorePrior(Independent(), noise_levels=(0.01, 2.0), event_shape=(1, 4, 4), views=seen)
    rows = {name: model.views[name].likelihood.rows.unique().tolist() for name in seen}
    assert rows == {"thumbnail": [0.25], "top": [1.0]}
    small = sampled(model.condition(thumbnail=np.full((1, 1, 2, 2), 0.4)), num_warmup=800, num_chains=512, keep_x=True)
    pooled = 0.25 / 4 / (0.25 / 4 + 0.2**2)  # of the mean of four pixels
    x = small["posterior"]["x"].values[:, 0, 0, 0]  # (chain, height, width)
    means = x.reshape(-1, 2, 2, 2, 2).mean((2, 4))
    sd = np.sqrt(0.25 / 4 * (1 - pooled))
    assert np.abs((means.mean(0) - 0.4 * pooled) / (sd / 512**0.5)).max() < Z_MOST
    assert np.abs(means.std(0) / sd - 1).max() < 0.15
    assert np.abs(x.std(0) / np.sqrt(0.25 * 0.75 + sd**2) - 1).max() < 0.15


def test_a_u_net_has_a_form_in_jax():
    network = ConvolutionalScore((1, 4, 4), (4, 4, 4))
    y, sigma = torch.randn(3, 1, 4, 4), torch.tensor([0.1, 1.0, 5.0])
    function = as_jax(module._OfLogLevel(network), (1, 4, 4), {"log_sigma": ()})
    with torch.no_grad():
        known = network(y, sigma).numpy()
    np.testing.assert_allclose(function(y.numpy(), log_sigma=np.log(sigma.numpy())), known, rtol=1e-3, atol=1e-3)


# --- what is refused -----------------------------------------------------------------------------------------------


class Wrong(nn.Module):
    def forward(self, y, sigma):
        return -y.sum(1) / sigma


class WithoutNoise(nn.Module):
    def forward(self, y):
        return -y


def prior(network=None, **options):
    return ScorePrior(network or Mixture(), **({"noise_levels": (0.1, 4.0), "event_shape": (2,)} | options))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: prior(noise_levels=(4.0, 0.1)), ValueError, r"noise_levels=\(4.0, 0.1\): give two positive"),
        (lambda: prior(Wrong()), ValueError, r"the score returns shape \(\) for a y of shape \(2,\)"),
        (lambda: prior(WithoutNoise()), ValueError, "the score does not take y of shape .* with sigma"),
        (
            lambda: prior(views={"y": views.Identity(scale=pyro.distributions.HalfNormal(1.0))}),
            ValueError,
            "the noise scale of view 'y' would be latent",
        ),
        (
            lambda: prior(contexts={"label": Classes(2, unknown="relaxed")}),
            ValueError,
            "context 'label' would be latent, but annealed Langevin samples only y",
        ),
        (lambda: infer(prior().items(1), PyroAnnealedHMC(), seed=0, progress=False), TypeError, "a score has no density"),
        (
            lambda: infer(prior().items(1), Langevin(), seed=0, progress=False),
            ValueError,
            "a score has no log density",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_a_view_that_is_not_linear_has_its_likelihood_as_it_is():
    class Square(views.View):
        def forward(self, x):
            return x.square()

    model = prior(
        views={
            "square": Square(scale=0.1),
            "laplace": views.Identity(likelihood=views.Laplace(0.1)),
            "whole": views.Identity(scale=0.1),
        },
        contexts={"photo": Array((3,))},
    )
    kinds = {name: type(model.views[name].likelihood) for name in ("square", "laplace", "whole")}
    assert kinds == {"square": Normal, "laplace": views.Laplace, "whole": module._Noisy}

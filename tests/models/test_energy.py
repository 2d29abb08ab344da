"""Energies whose partition function, moments and conditionals are known, in both libraries.

A z-score fails beyond 4.5 (a false alarm in 150,000); Monte Carlo errors are those of independent populations or chains.
"""

import math

import numpy as np
import pytest
import torch
from numpyro.infer import NUTS
from torch import nn

from cogen.diagnostics import evidence_bounds, log_evidence, log_partition, simulate
from cogen.inference import AnnealedHMC, Langevin, PyroAnnealedHMC, infer
from cogen.models import Array, Classes, CoGenerator, EnergyModel, Tilt, views

PRECISION = np.array([[1.75, 0.6, 0.0], [0.6, 1.45, 0.3], [0.0, 0.3, 1.05]])
"""Of y, f and reference together."""
COVARIANCE = np.linalg.inv(PRECISION)
LOG_Z = 0.5 * (3 * math.log(2 * math.pi) - np.linalg.slogdet(PRECISION)[1])
Z_MOST = 4.5


class Quadratic(nn.Module):
    """f with which exp(f - |y|^2 / 2 s^2) is the Gaussian of `PRECISION`, whatever s."""

    def __init__(self, scale):
        super().__init__()
        self.register_buffer("matrix", torch.tensor(PRECISION, dtype=torch.float32) - torch.eye(3) / scale**2)

    def forward(self, y):
        y = y.flatten(1)
        return -0.5 * ((y @ self.matrix) * y).sum(1)


class Ring(nn.Module):
    """A ring in the plane whose radius is the class's, or the context's."""

    def forward(self, y, label):
        radius = label @ torch.tensor([0.7, 1.6])
        return -6 * ((y.square().sum(1) + 1e-6).sqrt() - radius).square()


def gaussian(scale=2.0, **options):
    return EnergyModel(Quadratic(scale), reference_scale=scale, event_shape=(3,), **options)


def sampled(model, kernel=None, **options):
    settings = {"num_warmup": 60, "num_samples": 4, "num_chains": 256, "seed": 0, "progress": False} | options
    return infer(model, kernel or AnnealedHMC(), **settings)


def ring_log_z(radius, scale):
    """By quadrature over the radius."""
    r = np.linspace(0, 12, 200_001)
    return math.log(np.sum(2 * np.pi * r * np.exp(-6 * (r - radius) ** 2 - r**2 / (2 * scale**2))) * (r[1] - r[0]))


def z_score(estimate, error, exact):
    """Of Z, whose estimate is unbiased, by the delta method."""
    return np.abs(np.expm1(np.asarray(estimate) - exact)) / np.asarray(error)


@pytest.mark.parametrize("kernel", [AnnealedHMC(), PyroAnnealedHMC()], ids=["numpyro", "pyro"])
def test_the_partition_function_and_the_moments_of_a_gaussian(kernel):
    posterior = sampled(gaussian().items(2), kernel)
    found = log_partition(posterior)
    assert (z_score(found["estimate"], found["standard_error"], LOG_Z) < Z_MOST).all()
    y = posterior["posterior"]["z"].values[:, -1]  # (chain, item, entry)
    assert (np.abs(y.mean(0)) < Z_MOST * np.sqrt(np.diag(COVARIANCE) / 50)).all()  # resampled: a fifth of the chains count
    assert np.abs(np.cov(y.reshape(-1, 3).T) - COVARIANCE).max() < 0.3


def test_log_z_does_not_depend_on_the_reference_and_the_evidence_does():
    """A reference whose volume is forgotten fails: the evidences of two differ by 3 log(3 / 2)."""
    runs = [sampled(gaussian(scale).items(1)) for scale in (2.0, 3.0)]
    for posterior in runs:
        found = log_partition(posterior)
        assert z_score(found["estimate"], found["standard_error"], LOG_Z).item() < Z_MOST
    narrow, wide = (log_evidence(posterior)["estimate"].item() for posterior in runs)
    assert narrow - wide == pytest.approx(3 * math.log(1.5), abs=0.3)
    assert runs[0]["posterior"].attrs["evidence_of"] == "Z / (2 pi s^2)^(d / 2)"


def test_a_class_is_given_to_the_energy():
    model = EnergyModel(Ring(), reference_scale=1.5, event_shape=(2,), contexts={"label": Classes(2)})
    posterior = sampled(model.given(label=[0, 1]), num_chains=512)
    found = log_partition(posterior)
    exact = np.array([ring_log_z(0.7, 1.5), ring_log_z(1.6, 1.5)])
    assert (z_score(found["estimate"], found["standard_error"], exact) < Z_MOST).all()
    assert np.abs(found["estimate"].values - exact).max() < 0.2
    radius = np.linalg.norm(posterior["posterior"]["z"].values, axis=-1).mean((0, 1))
    np.testing.assert_allclose(radius, [0.77, 1.57], atol=0.1)


@pytest.mark.parametrize("kernel", [AnnealedHMC(), PyroAnnealedHMC()], ids=["numpyro", "pyro"])
def test_a_view_conditions_y(kernel):
    """The sum of the entries, with noise."""
    model = gaussian(views={"total": views.Linear(np.ones((1, 3)), scale=0.5)})
    seen = np.array([[2.0], [-1.0]])
    posterior = sampled(model.condition(total=seen), kernel)
    gain = COVARIANCE.sum(1) / (COVARIANCE.sum() + 0.25)
    y = posterior["posterior"]["z"].values[:, -1]
    conditional = COVARIANCE - np.outer(gain, COVARIANCE.sum(0))
    assert (np.abs(y.mean(0) - seen * gain) < Z_MOST * np.sqrt(np.diag(conditional) / 50)).all()
    assert "energy" not in posterior["observed_data"]


def test_clamped_entries_stay_and_the_others_have_their_conditional():
    values = np.array([[9.0, 0.7, 9.0], [9.0, -1.4, 9.0]])
    posterior = sampled(gaussian().clamp(np.array([False, True, False]), values), keep_x=True)
    assert posterior["posterior"]["z"].sizes["latent"] == 2
    x = posterior["posterior"]["x"].values[:, -1]
    np.testing.assert_array_equal(x[..., 1], np.broadcast_to(np.float32([0.7, -1.4]), x.shape[:2]))
    free = PRECISION[np.ix_([0, 2], [0, 2])]
    for item, value in enumerate((0.7, -1.4)):
        slope = -PRECISION[[0, 2], 1] * value
        mean, spread = np.linalg.solve(free, slope), np.sqrt(np.diag(np.linalg.inv(free)))
        assert (np.abs(x[:, item, [0, 2]].mean(0) - mean) < Z_MOST * spread / np.sqrt(50)).all()
        found = log_partition(posterior).isel(item=item)
        rest = Quadratic(2.0).matrix[1, 1].item() * value**2  # of f alone: the reference is over what moves
        exact = math.log(2 * math.pi) - 0.5 * np.linalg.slogdet(free)[1] + 0.5 * slope @ mean - 0.5 * rest
        assert z_score(found["estimate"], found["standard_error"], exact) < Z_MOST


def test_clamped_pictures_beside_a_class_and_a_view():
    class Smooth(nn.Module):
        def forward(self, y, label):
            mean = (label @ torch.tensor([-1.0, 1.0]))[:, None, None, None]
            return -4 * (y - mean).square().flatten(1).sum(1)

    model = EnergyModel(
        Smooth(),
        reference_scale=1.0,
        event_shape=(1, 4, 4),
        contexts={"label": Classes(2)},
        views={"thumbnail": views.Thumbnail(2, scale=0.1)},
    )
    stays = views.half((1, 4, 4), "top")
    picture = np.full((2, 1, 4, 4), 0.25, np.float32)
    clamped = model.given(label=[0, 1]).clamp(stays, picture)
    posterior = sampled(clamped, num_chains=32)
    np.testing.assert_allclose(posterior["predictions"]["x_mean"].values[:, 0, :2], 0.25, atol=1e-6)
    below = posterior["predictions"]["x_mean"].values[:, 0, 2:].mean((1, 2))
    np.testing.assert_allclose(below, [-8 / 9, 8 / 9], atol=0.1)
    seen = clamped.condition(thumbnail=np.zeros((2, 1, 2, 2)))
    below = sampled(seen, num_chains=32)["predictions"]["x_mean"].values[:, 0, 2:].mean((1, 2))
    assert (np.abs(below) < 0.3).all()  # the thumbnail says zero


@pytest.mark.slow
def test_bounds_hold_log_z_and_other_kernels_sample():
    model = gaussian().items(3)
    truth = np.random.default_rng(0).multivariate_normal(np.zeros(3), COVARIANCE, 3).astype(np.float32)
    bounds = evidence_bounds(model, AnnealedHMC(), {"z": truth}, num_warmup=60, num_chains=64, seed=0, pilot=8, progress=False)
    exact = LOG_Z - model.attributes["log_reference_volume"]
    assert (bounds["lower"] - Z_MOST * bounds["lower_se"] < exact).all()
    assert (bounds["upper"] + Z_MOST * bounds["upper_se"] > exact).all()
    for kernel in (Langevin(), NUTS):
        y = sampled(model, kernel, num_warmup=200, num_samples=100, num_chains=8)["posterior"]["z"].values
        assert np.abs(np.cov(y.reshape(-1, 3).T) - COVARIANCE).max() < 0.25


def test_an_energy_tilts_a_generator():
    """p(z) exp f(G(z)) of a linear G and a quadratic f is a Gaussian."""
    generator = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        generator.weight.copy_(torch.tensor([[1.0, 0.5], [0.0, 1.0], [-0.5, 0.3]]))
    model = CoGenerator(generator, latent_dim=2, views={"energy": Tilt(Quadratic(1e3))})
    posterior = sampled(model.condition(energy=np.zeros(2)))
    weight = generator.weight.detach().numpy()
    covariance = np.linalg.inv(np.eye(2) + weight.T @ PRECISION @ weight)
    found = log_evidence(posterior)
    assert (z_score(found["estimate"], found["standard_error"], 0.5 * np.linalg.slogdet(covariance)[1]) < Z_MOST).all()
    z = posterior["posterior"]["z"].values[:, -1].reshape(-1, 2)
    assert np.abs(np.cov(z.T) - covariance).max() < 0.1


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: gaussian(0.0), ValueError, "reference_scale=0.0: annealing starts from draws of a Gaussian reference"),
        (lambda: gaussian(views={"energy": views.Identity(scale=1.0)}), ValueError, "rename the view"),
        (lambda: EnergyModel(nn.Linear(3, 2), reference_scale=1.0, event_shape=(3,)), ValueError, r"not \(batch, 2\)"),
        (lambda: gaussian().items(0), ValueError, "at least 1"),
        (lambda: gaussian().condition(energy=np.zeros(2)), ValueError, r"use model.items\(n\)"),
        (lambda: gaussian().clamp(np.array([1, 0, 0]), np.zeros((1, 3))), TypeError, "the mask must be boolean"),
        (lambda: gaussian().clamp(np.array([True, False]), np.zeros((1, 3))), ValueError, "the mask has shape"),
        (lambda: gaussian().clamp(np.ones(3, bool), np.zeros((1, 3))), ValueError, "fixes 3 of 3 entries"),
        (lambda: gaussian().clamp(np.array([True, False, False]), np.full((1, 3), np.nan)), ValueError, "context 'clamped'"),
        (lambda: simulate(gaussian(), 2, seed=0), ValueError, "an energy cannot be sampled without a kernel"),
        (
            lambda: log_partition(
                sampled(
                    CoGenerator(nn.Linear(1, 1), latent_dim=1, views={"y": views.Identity(scale=1.0)}).condition(y=[[0.0]]),
                    num_warmup=2,
                    num_chains=8,
                )
            ),
            ValueError,
            "not a run of an EnergyModel: use log_evidence",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, error, said):
    with pytest.raises(error, match=said):
        make()


def test_items_follow_what_is_known():
    model = gaussian(views={"whole": views.Identity(scale=1.0)}, contexts={"photo": Array((2,))})
    assert (model.num_items, model.items(4).num_items) == (1, 4)
    assert model.items(4).given(photo=np.zeros((2, 2))).num_items == 2
    assert model.condition(whole=np.zeros((3, 3))).num_items == 3
    clamped = model.items(2).with_ids([7, 3]).clamp(np.array([True, False, False]), np.zeros((2, 3)))
    assert clamped.ids.tolist() == [7, 3]
    with pytest.raises(ValueError, match="have different numbers of items"):
        model.condition(whole=np.zeros((3, 3))).given(photo=np.zeros((2, 2)))

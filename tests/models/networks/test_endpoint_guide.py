"""Kernels around end points: a density, its draws, the width that is chosen, and exact evidence from such a start."""

import math

import jax
import numpy as np
import pytest
import torch
from scipy.stats import chi2, kstest

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, PyroAnnealedHMC, infer
from cogen.models import EndpointGuide, LatentDescent
from cogen.models.networks.endpoint_guide import concentration
from cogen.models.networks.kernels_on_sphere_jax import KernelsOnSphere as InJax
from cogen.models.networks.kernels_on_sphere_torch import KernelsOnSphere as InTorch
from cogen.models.networks.latent_descent import on_sphere
from tests.models.networks.test_latent_descent import Features, Towards, seen  # noqa: F401 (a fixture)

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def kernels(dim, count=5, kappa=7.0):
    generator = torch.Generator().manual_seed(dim)
    return on_sphere(torch.randn(2, count, dim, generator=generator)), torch.tensor([kappa, 2.0])


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_the_density_integrates_to_one(dim):
    """Its mean over draws of the standard normal, in units of that density, is one: z below 4.5."""
    directions, kappa = kernels(dim)
    u = torch.randn(40_000, 1, dim, generator=torch.Generator().manual_seed(1))
    normal = -0.5 * (u.square().sum(-1) + dim * math.log(2 * math.pi))
    ratio = (InTorch(directions, kappa).log_prob(u) - normal).double().exp()
    error = ratio.std(0) / len(u) ** 0.5
    assert ((ratio.mean(0) - 1).abs() / error).max() < 4.5
    assert ((1.03 * ratio.mean(0) - 1).abs() / error).min() > 3 or dim > 3


@pytest.mark.parametrize("dim", [2, 3, 10])
def test_draws_have_the_density(dim):
    """E_q[p / q] = 1 with p the standard normal, the lengths are those of normal vectors, and the kernels are met alike."""
    directions, kappa = kernels(dim)
    torch.manual_seed(0)
    of_torch = InTorch(directions, kappa).sample(torch.Size([20_000]))[:, 0].numpy()
    in_jax = InJax(directions[0].numpy(), kappa[0].numpy())
    of_jax = np.asarray(in_jax.sample(jax.random.key(0), (20_000,)))
    for u in (of_torch, of_jax):
        assert kstest(np.square(u).sum(1), chi2(dim).cdf).pvalue > 1e-4
        u = u.astype(np.float64)
        cosine = (u / np.linalg.norm(u, axis=1, keepdims=True)) @ directions[0].double().numpy().T
        # E log(1 + mu . d) of the mixture, by weighted draws of the uniform
        v = np.random.default_rng(0).normal(size=(200_000, dim))
        d = v / np.linalg.norm(v, axis=1, keepdims=True)
        logs = np.log1p(np.clip(d @ directions[0].numpy().T, -1 + 1e-9, 1))
        weight = np.exp(7.0 * logs)
        weight = (weight / weight.mean(0)).mean(1)
        for k in range(cosine.shape[1]):
            values = np.log1p(np.clip(cosine[:, k], -1 + 1e-9, 1))
            terms = weight * logs[:, k]
            error = math.sqrt(values.var() / len(values) + terms.var() / len(terms))
            assert abs(values.mean() - terms.mean()) / error < 4.5


def test_both_libraries_have_the_same_density():
    directions, kappa = kernels(4)
    u = torch.randn(50, 1, 4)
    of_torch = InTorch(directions, kappa).log_prob(u)[:, 0].numpy()
    of_jax = InJax(directions[0].numpy(), kappa[0].numpy()).log_prob(u[:, 0].numpy())
    np.testing.assert_allclose(np.asarray(of_jax), of_torch, rtol=1e-4, atol=1e-4)


def test_kernels_are_as_wide_as_the_end_points_lie_apart():
    torch.manual_seed(0)
    centre = torch.tensor([1.0, 0, 0, 0])
    for kappa in (8.0, 64.0, 512.0):
        # A power spherical distribution: as estimate of it by itself, wider kernels than those of all end points together.
        draws = on_sphere(InTorch(centre[None, None], torch.tensor([kappa])).sample(torch.Size([300]))[:, 0])
        found = concentration(draws.numpy())
        assert kappa < found < 100 * kappa
    assert concentration(on_sphere(torch.randn(300, 4)).numpy()) < 50


def test_annealing_from_end_points_finds_the_evidence(seen):  # noqa: F811
    """x = (z, condition), z on the circle: log N(0; x, 1) is the same for every z, so that it is the evidence."""
    descent = LatentDescent(Features(), Towards(0.3), num_steps=40)
    guide = EndpointGuide(descent, seen, num_starts=64, seed=0)
    exact = -0.5 * 2 - 2 * math.log(2 * math.pi)
    assert guide.directions.shape == (3, 64, 2)
    for kernel in (AnnealedHMC(initial=guide.start()), PyroAnnealedHMC(initial=guide.pyro_start())):
        posterior = infer(seen, kernel, num_warmup=40, num_samples=2, num_chains=2_048, seed=0, progress=False)
        found = log_evidence(posterior)  # with a standard error of about 0.07
        assert np.abs(found["estimate"].values - exact).max() < 0.3


def test_what_is_no_guide(seen):  # noqa: F811
    descent = LatentDescent(Features(), Towards(0.3))
    with pytest.raises(ValueError, match="num_starts=1, latent_dim=2: num_starts and latent_dim must be at least 2"):
        EndpointGuide(descent, seen, num_starts=1)
    with pytest.raises(ValueError, match="widen=0: it must be positive"):
        EndpointGuide(descent, seen, widen=0)
    descent.predictor.latent_dim = 5
    with pytest.raises(ValueError, match="the descent has 5 latents, but the model has 2"):
        EndpointGuide(descent, seen)

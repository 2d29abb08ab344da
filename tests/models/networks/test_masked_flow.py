"""The conditional flow: an exact density, the same in JAX, a posterior that it learns, and the start of an annealing."""

import jax
import numpy as np
import pyro
import pytest
import torch
from torch import nn

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, GuideStart, PyroAnnealedHMC, infer
from cogen.models import CoGenerator, FlowGuide, train, views
from cogen.models.families.amortized import Amortized
from cogen.models.networks.architectures import DenseCritic, DenseGenerator, MixerFeatures
from cogen.models.networks.flow_posterior_torch import FlowPosterior
from cogen.models.networks.masked_flow import MaskedFlow

pytestmark = pytest.mark.usefixtures("one_torch_thread")

NOISE = 0.3
MASKS = torch.tensor([[True, False, False], [False, True, True], [True, True, True]])


def flow_of(latent_dim: int, seed: int = 0, spread: float = 0.2, couplings: int = 4) -> MaskedFlow:
    """Of rows of three columns, with random weights."""
    torch.manual_seed(seed)
    flow = MaskedFlow(DenseCritic((6,), (16,)).features, 16, latent_dim, context=4, couplings=couplings, hidden=(16,))
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=spread)
    return flow.eval()


def linear() -> tuple[DenseGenerator, torch.Tensor]:
    """x = W z, with two latents and three columns."""
    torch.manual_seed(3)
    generator = DenseGenerator(2, (3,), hidden=(), bounded=False)
    with torch.no_grad():
        generator.layers[-1].bias.zero_()
    return generator, generator.layers[-1].weight.detach()


@pytest.mark.parametrize("latent_dim", [2, 5, 8])
def test_the_density_is_that_of_the_draws_by_the_jacobian(latent_dim):
    flow = flow_of(latent_dim).double()
    context = flow.context(torch.randn(3, 3, dtype=torch.float64), torch.ones(3, 3, dtype=torch.float64))
    e = torch.randn(3, latent_dim, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, context), e)
    log_det = torch.stack([torch.linalg.slogdet(jacobian[i, :, i])[1] for i in range(3)])
    of_e = torch.distributions.Normal(0.0, 1.0).log_prob(e).sum(1)
    torch.testing.assert_close(flow.log_density(flow(e, context), context), of_e - log_det)


def test_every_number_meets_every_other():
    flow = flow_of(8, spread=0.5, couplings=8)
    context = flow.context(torch.zeros(1, 3), torch.ones(1, 3))
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, context), torch.randn(1, 8))[0, :, 0]
    assert (jacobian.abs() > 1e-6).all()


def test_both_libraries_have_the_same_density():
    from cogen.models.networks import flow_posterior_jax

    flow = flow_of(4)
    with torch.no_grad():
        context = flow.context(torch.randn(5, 3), (torch.rand(5, 3) < 0.5).float())
        z = torch.randn(7, 5, 4)
        expected = FlowPosterior(flow, context).log_prob(z)
    made = flow_posterior_jax.FlowPosterior(flow_posterior_jax.FlowInJax(flow), context.numpy())
    np.testing.assert_allclose(made.log_prob(z.numpy()), expected.numpy(), rtol=1e-4, atol=1e-4)
    assert made.sample(jax.random.key(0), (7,)).shape == (7, 5, 4) == FlowPosterior(flow, context).sample((7,)).shape


def test_it_learns_the_posterior_under_every_mask_with_its_correlations():
    generator, weight = linear()
    torch.manual_seed(0)
    flow = MaskedFlow(DenseCritic((6,), (64,)).features, 64, 2, context=16, couplings=3, hidden=(32,))
    family = Amortized(generator, flow, 2, views=[views.Mask(MASKS, scale=NOISE)], learning_rate=3e-3)
    train(family, torch.zeros(1_024, 1), num_steps=800, batch_size=128, seed=0, progress=False, average=0.0)
    x = torch.tensor([0.7, -0.4, 0.9])
    for mask in MASKS:
        seen = weight[mask]
        covariance = (torch.eye(2) + seen.T @ seen / NOISE**2).inverse()
        mean = covariance @ seen.T @ x[mask] / NOISE**2
        with torch.no_grad():
            shown, weights = views.Mask(mask, scale=NOISE).shown(x[None], mask[None])
            z = FlowPosterior(flow, flow.context(shown, weights)).sample((4_000,))[:, 0]
        torch.testing.assert_close(z.mean(0), mean, atol=0.12, rtol=0)
        torch.testing.assert_close(z.T.cov(), covariance, atol=0.1, rtol=0.15)


def evidence_of(seen, kernel) -> np.ndarray:
    posterior = infer(seen, kernel, num_warmup=60, num_samples=1, num_chains=256, seed=0, progress=False)
    return np.asarray(log_evidence(posterior)["estimate"])


@pytest.mark.parametrize("start", ["own coordinates", "the model's", "pyro"])
def test_an_annealing_from_any_flow_has_the_evidence(start):
    generator, weight = linear()
    x = np.array([[0.7, -0.4, np.nan], [-1.0, 0.3, np.nan]], np.float32)
    view = views.Mask(np.array([True, True, False]), scale=NOISE)
    seen = CoGenerator(generator, latent_dim=2, views={"part": view}).condition(part=x)
    guide = FlowGuide(flow_of(2), seen)  # which was never trained: a poor guide must cost nothing but time
    if start == "pyro":
        kernel = PyroAnnealedHMC(initial=guide.pyro_start(0.3))
    else:
        kernel = AnnealedHMC(initial=guide.start(0.3, affine=start == "own coordinates"))
    covariance = weight[:2] @ weight[:2].T + NOISE**2 * torch.eye(2)
    known = torch.distributions.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.from_numpy(x[:, :2]))
    np.testing.assert_allclose(evidence_of(seen, kernel), known.numpy(), atol=0.3)


def test_given_starts_lie_where_they_were_given_in_whatever_coordinates():
    generator, _ = linear()
    seen = CoGenerator(generator, latent_dim=2, views={"all": views.Identity(scale=NOISE)}).condition(all=np.zeros((1, 3)))
    given = np.random.default_rng(0).standard_normal((8, 1, 2)).astype(np.float32)
    kernel = AnnealedHMC(initial=FlowGuide(flow_of(2), seen).start(), step_size=1e-6, weighted=False, resample_threshold=0.0)
    posterior = infer(seen, kernel, num_warmup=1, num_samples=1, num_chains=8, seed=0, start={"z": given}, progress=False)
    np.testing.assert_allclose(posterior["posterior"]["z"].values[:, 0], given, atol=1e-3)


def test_it_is_a_guide_of_both_libraries():
    from numpyro import handlers

    generator, _ = linear()
    seen = CoGenerator(generator, latent_dim=2, views={"all": views.Identity(scale=NOISE)}).condition(all=np.zeros((2, 3)))
    guide = FlowGuide(flow_of(2), seen)
    pyro.clear_param_store()
    loss = pyro.infer.SVI(seen, guide, pyro.optim.SGD({"lr": 0.0}), pyro.infer.Trace_ELBO()).evaluate_loss()
    assert np.isfinite(loss)
    trace = handlers.trace(handlers.seed(guide.numpyro, jax.random.key(0))).get_trace()
    assert trace["z"]["value"].shape == (2, 2)
    assert isinstance(guide.start(), GuideStart)


def test_the_guide_says_what_does_not_fit():
    generator, _ = linear()
    part = {"sum": views.Columns(["a"], of=("a", "b", "c"), scale=1.0), "all": views.Identity(scale=1.0)}
    model = CoGenerator(generator, latent_dim=2, views=part)
    with pytest.raises(ValueError, match="view 'sum' cannot be the input of a flow: Columns cannot be mapped"):
        FlowGuide(flow_of(2), model.condition(sum=np.zeros((1, 1))))
    with pytest.raises(ValueError, match="the flow has 5 latents, but the model has 2"):
        FlowGuide(flow_of(5), model.condition(all=np.zeros((1, 3))))
    with pytest.raises(ValueError, match="it must be at least 2, since a coupling"):
        flow_of(1)


def test_features_of_patches_and_what_a_thumbnail_shows():
    features = MixerFeatures((2, 8, 12), width=5, channels=6, blocks=1)
    assert features(torch.zeros(3, 2, 8, 12)).shape == (3, 5)
    shown, weight = views.Thumbnail(4, scale=0.1).shown(torch.arange(6.0).reshape(1, 1, 2, 3), None)
    assert shown.shape == (1, 1, 8, 12)
    assert shown[0, 0, 0, :8].tolist() == [0.0] * 4 + [1.0] * 4
    assert torch.equal(weight, torch.full_like(weight, 1 / 16))


def test_assorted_masks_are_of_every_kind():
    masks = views.assorted((1, 8, 8), 10, seed=0)
    assert masks.shape == (10, 1, 8, 8)
    assert masks.dtype == bool
    share = masks.reshape(10, -1).mean(1)
    assert (share[[0, 5]] == 0.5).all()  # halves
    assert ((share > 0) & (share < 1)).all()
    assert np.array_equal(masks, views.assorted((1, 8, 8), 10, seed=0))

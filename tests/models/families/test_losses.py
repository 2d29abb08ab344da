"""Losses against what is known of them: optimal critics, closed forms, Pyro's own SVI."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from scipy.special import logsumexp
from torch.distributions import Normal

from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator, views
from cogen.models.families.fgan import KL, conjugate
from cogen.models.families.gan import NonSaturating, Saturating, discriminator_loss, squared_gradient
from cogen.models.families.glo import GLO, WhitenedGenerator, pyramid_distance
from cogen.models.families.vae import VAE, negative_elbo
from cogen.models.families.wgan import Clipping, GradientPenalty, distance
from cogen.models.networks.architectures import DenseCritic, DenseEncoder, DenseGenerator
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

DATA, MODEL = Normal(1.0, 1.0), Normal(0.0, 1.0)


def log_ratio(x: torch.Tensor) -> torch.Tensor:
    return (DATA.log_prob(x) - MODEL.log_prob(x)).squeeze(-1)


def draws(count: int = 200_000) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return DATA.sample((count, 1)), MODEL.sample((count, 1))


def test_the_best_discriminator_gives_the_jensen_shannon_divergence():
    real, fake = draws()
    x = torch.linspace(-8, 9, 20_001)
    p, q = DATA.log_prob(x).exp(), MODEL.log_prob(x).exp()
    middle = (p + q) / 2
    divergence = torch.trapezoid(0.5 * p * (p / middle).log() + 0.5 * q * (q / middle).log(), x)
    found = discriminator_loss(log_ratio(real), log_ratio(fake))
    assert float(found) == pytest.approx(float(2 * math.log(2) - 2 * divergence), abs=0.01)
    for other in (0.5, 1.5):  # any other does worse
        assert discriminator_loss(other * log_ratio(real), other * log_ratio(fake)) > found


def test_label_smoothing_is_the_cross_entropy_of_its_targets():
    real, fake = torch.randn(50), torch.randn(50)
    targets = torch.nn.functional.binary_cross_entropy_with_logits
    expected = targets(real, torch.full_like(real, 0.9)) + targets(fake, torch.zeros_like(fake))
    torch.testing.assert_close(discriminator_loss(real, fake, 0.9), expected)
    with pytest.raises(ValueError, match="real_target in"):
        NonSaturating(real_target=0.4)


def test_saturating_is_the_minimax_loss():
    critic, fake = DenseCritic((2,), (8,)), torch.randn(30, 2)
    expected = (1 - torch.sigmoid(critic(fake))).log().mean()
    torch.testing.assert_close(Saturating().generator_loss(critic, fake), expected)


def test_the_best_critic_of_the_f_gan_gives_the_kl_divergence():
    real, fake = draws()
    objective = KL()

    def best(x):
        return 1 + log_ratio(x)

    assert -float(objective.critic_loss(best, real, fake, 0)) == pytest.approx(0.5, abs=0.02)  # KL(N(1, 1) || N(0, 1))
    for shift in (-0.3, 0.3):
        assert objective.critic_loss(lambda x, s=shift: best(x) + s, real, fake, 0) > objective.critic_loss(best, real, fake, 0)


def test_the_conjugate_is_exponential_and_then_straight():
    t = torch.tensor([0.0, 5.0, 11.0, 12.0, 300.0], requires_grad=True)
    value = conjugate(t)
    torch.testing.assert_close(value[:3], (t[:3] - 1).exp())
    torch.testing.assert_close(value[3], math.exp(10) * (1 + 1) * torch.ones(()))
    value.sum().backward()
    torch.testing.assert_close(t.grad[3:], torch.full((2,), math.exp(10)))


def test_the_gradient_penalty_is_zero_for_a_slope_of_one_and_the_distance_is_the_shift():
    critic = DenseCritic((2,), ())
    with torch.no_grad():
        critic.last.weight.copy_(torch.tensor([[0.6, 0.8]]))
    fake = torch.randn(500, 2)
    real = fake + torch.tensor([0.6, 0.8])
    torch.testing.assert_close(squared_gradient(critic, real), torch.ones(500))
    assert distance(critic, real, fake).item() == pytest.approx(1.0, abs=1e-5)  # the Wasserstein distance of a shift by one
    assert GradientPenalty().critic_loss(critic, real, fake, 0).item() == pytest.approx(-1.0, abs=1e-5)
    with torch.no_grad():
        critic.last.weight.mul_(2)
    assert GradientPenalty(10.0).critic_loss(critic, real, fake, 0).item() == pytest.approx(-2 + 10, abs=1e-4)


def test_clipping_bounds_every_weight():
    critic = DenseCritic((2,), (8,))
    Clipping(0.05).constrain(critic)
    assert max(p.abs().max() for p in critic.parameters()) <= 0.05


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Clipping(clip=0), r"clip=0, .* clip must be positive"),
        (lambda: GradientPenalty(penalty=-1), r"penalty=-1, .* penalty must be positive"),
        (lambda: KL(critic_steps=0), r"critic_steps=0, .* critic_steps must be at least 1"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# --- variational autoencoders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bernoulli", [False, True])
def test_pyro_s_svi_has_the_analytic_elbo(bernoulli):
    """One draw of z each, over many repetitions: the two means agree within their errors (|z| < 4: false alarm 1e-4)."""
    pyro.clear_param_store()
    torch.manual_seed(0)
    decoder = DenseGenerator(2, (5,), (8,), bounded=False)
    made = torch.nn.Sequential(decoder, torch.nn.Sigmoid()) if bernoulli else decoder
    family = VAE(DenseEncoder(2, (5,), (8,)), made, 2, bernoulli=bernoulli, **({} if bernoulli else {"scale": 0.7}))
    x = torch.rand(6, 5).round() if bernoulli else torch.randn(6, 5)
    svi = SVI(family.model, family.guide, pyro.optim.SGD({"lr": 0.0}), Trace_ELBO())
    with torch.no_grad():
        theirs = np.array([svi.evaluate_loss(x) / len(x) for _ in range(600)])
        scale = None if bernoulli else 0.7
        ours = np.array(
            [float(negative_elbo(family.encoder, made, x, scale=scale, bernoulli=bernoulli)[0]) for _ in range(600)]
        )
    error = np.hypot(theirs.std(), ours.std()) / np.sqrt(600)
    assert abs(theirs.mean() - ours.mean()) < 4 * error
    pyro.clear_param_store()


def test_svi_trains_the_family_s_networks():
    pyro.clear_param_store()
    torch.manual_seed(0)
    family = VAE(DenseEncoder(2, (5,), (8,)), DenseGenerator(2, (5,), (8,), bounded=False), 2, scale=0.5)
    x = torch.randn(64, 1) @ torch.randn(1, 5) + 0.1 * torch.randn(64, 5)
    svi = SVI(family.model, family.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())
    losses = [svi.step(x) for _ in range(150)]
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    pyro.clear_param_store()


def test_importance_weights_and_annealing_agree_on_the_density_of_x():
    """log p(x) of a VAE, by 20,000 weighted draws of its encoder and by annealed HMC; both above the ELBO."""
    torch.manual_seed(0)
    family = VAE(DenseEncoder(2, (4,), (16,)), DenseGenerator(2, (4,), (16,), bounded=False), 2, scale=0.3, learning_rate=5e-3)
    x = torch.tanh(torch.randn(500, 2) @ torch.randn(2, 4)) + 0.1 * torch.randn(500, 4)
    train(family, x, num_steps=400, batch_size=50, seed=0, progress=False)
    family.eval()
    some = x[:4]
    with torch.no_grad():
        mean, log_sd = family.encoder(some)
        q, count = Normal(mean, log_sd.exp()), 20_000
        z = q.sample((count,))
        likelihood = Normal(family.generator(z.flatten(0, 1)).unflatten(0, (count, 4)), 0.3).log_prob(some).sum(-1)
        ratio = (likelihood + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)).double().numpy()
        elbo = -np.mean([float(negative_elbo(family.encoder, family.generator, some, scale=0.3)[0]) for _ in range(500)])
    weighted = logsumexp(ratio, axis=0) - math.log(count)
    assert elbo < weighted.mean() + 0.05
    model = CoGenerator(family.generator, latent_dim=2, views={"all": views.Identity(scale=0.3)})
    posterior = infer(
        model.condition(all=some.numpy()), AnnealedHMC(), num_warmup=100, num_samples=1, num_chains=128, seed=0, progress=False
    )
    log_z = posterior["sample_stats"]["population_log_evidence"].values[:, -1].astype(float)
    annealed = logsumexp(log_z, axis=0) - math.log(len(log_z))
    np.testing.assert_allclose(annealed, weighted, atol=0.15)


def test_a_bernoulli_likelihood_has_no_scale():
    with pytest.raises(ValueError, match=r"scale=0\.1"):
        VAE(DenseEncoder(2, (4,)), DenseGenerator(2, (4,)), 2, scale=0.1, bernoulli=True)


# --- latents of the items ------------------------------------------------------------------------------------------


def test_the_pyramid_distance_has_a_level_for_every_size():
    flat = torch.full((2, 3, 16, 16), 0.5)
    assert pyramid_distance(flat, 0 * flat).item() == pytest.approx(0.5, abs=1e-6)  # in the last level alone
    assert pyramid_distance(flat[:, 0, 0], 0 * flat[:, 0, 0]).item() == pytest.approx(0.5)
    board = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1  # blurred away, all of it is in the first level
    assert pyramid_distance(board[None, None], torch.zeros(1, 1, 16, 16)).item() == pytest.approx(1.0, abs=1e-6)


def test_latents_stay_in_the_ball_and_draws_have_their_mean_and_covariance():
    torch.manual_seed(0)
    family = GLO(WhitenedGenerator("DenseGenerator", 2, {"latent_dim": 2, "event_shape": (2,), "hidden": ()}), 2, 500)
    train(family, torch.randn(500, 2), num_steps=50, batch_size=50, seed=0, progress=False)
    assert family.latents.norm(dim=1).max() <= 1 + 1e-6
    taken = []
    family.generator.network.forward = lambda z: taken.append(z) or z
    family.generator(torch.eye(2))
    (one, two), mean = taken[0] - family.generator.mean, family.latents.mean(0)
    torch.testing.assert_close(family.generator.mean, mean.detach())
    covariance = torch.outer(one, one) + torch.outer(two, two)
    torch.testing.assert_close(covariance, torch.cov(family.latents.T).detach(), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="num_items=0: give the number of training items"):
        GLO(family.generator, 2, 0)

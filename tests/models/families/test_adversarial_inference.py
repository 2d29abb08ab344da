"""ALI, ALICE, VEEGAN and the unrolled GAN: what each update trains, identities of their losses, and that they learn."""

import copy
import functools
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from cogen.models.families import ali
from cogen.models.families.aim import AIM
from cogen.models.families.ali import ALI, JointCritic
from cogen.models.families.alice import ALICE
from cogen.models.families.family import Updates
from cogen.models.families.fgan import KL
from cogen.models.families.gan import GAN, NonSaturating, Saturating
from cogen.models.families.published_aim import CIFAR, DIGITS
from cogen.models.families.sizes import Sizes
from cogen.models.families.unrolled import UnrolledGAN, surrogate_loss, unrolled
from cogen.models.families.veegan import VEEGAN, Reconstructor
from cogen.models.networks.architectures import ConvolutionalCritic, DcganGenerator, DenseCritic, DenseEncoder, DenseGenerator
from cogen.models.networks.encoders import head
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

LATENT = 2
WIDTHS = (32, 32)


def networks():
    """Generator, encoder and joint critic of points in the plane."""
    generator = DenseGenerator(LATENT, (2,), WIDTHS, bounded=False)
    return generator, DenseEncoder(LATENT, (2,), WIDTHS), JointCritic((2,), LATENT, hidden=WIDTHS)


def make_veegan(**options):
    generator, _, critic = networks()
    return VEEGAN(generator, DenseGenerator(2, (LATENT,), WIDTHS, bounded=False), critic, LATENT, **options)


FAMILIES = {
    "ALI": lambda **options: ALI(*networks(), LATENT, **options),
    "BiGAN": lambda **options: ALI(*networks(), LATENT, stochastic=False, **options),
    "ALICE": lambda **options: ALICE(*networks(), LATENT, **options),
    "adversarial ALICE": lambda **options: ALICE(*networks(), LATENT, cycle_critic=DenseCritic((4,), WIDTHS), **options),
    "VEEGAN": make_veegan,
    "unrolled GAN": lambda **options: UnrolledGAN(networks()[0], DenseCritic((2,), WIDTHS), LATENT, unroll=2, **options),
}


def three_gaussians(count):
    """On a circle of radius two, (count, 2)."""
    angle = 2 * math.pi / 3 * torch.randint(3, (count,))
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.2 * torch.randn(count, 2)


def energy_distance(a, b):
    def mean_distance(x, y):
        return torch.cdist(x, y).mean()

    return (2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)).item()


# ------------------------------------------------------------------------------------------------------- one step


@pytest.mark.parametrize("name", FAMILIES)
def test_each_update_changes_what_it_owns_and_nothing_else(name):
    torch.manual_seed(0)
    family = FAMILIES[name]()
    optimizers = family.optimizers()
    plain, seen = Updates(family, optimizers), []

    def update(which, loss):
        before = {key: weight.clone() for key, weight in family.named_parameters()}
        plain(which, loss)
        owned = {id(weight) for group in optimizers[which].param_groups for weight in group["params"]}
        for key, weight in family.named_parameters():
            assert torch.equal(weight, before[key]) != (id(weight) in owned), (which, key)
        seen.append(which)

    family.step((three_gaussians(16),), update, 0)
    assert sorted(seen) == sorted(optimizers)
    # No weight is left out, and none has two optimisers.
    everything = [id(weight) for each in optimizers.values() for group in each.param_groups for weight in group["params"]]
    assert sorted(everything) == sorted(id(weight) for weight in family.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_shapes(name):
    family = FAMILIES[name]()
    assert family.generator(family.latent(5)).shape == (5, 2)
    if name != "unrolled GAN":
        mean, log_sd = family.encoder(three_gaussians(5))
        assert mean.shape == log_sd.shape == (5, LATENT)
        assert family.critic(three_gaussians(5), family.latent(5)).shape == (5,)


def test_images_step_too():
    torch.manual_seed(0)
    shape = (1, 28, 28)

    def parts():
        critic = JointCritic(shape, 3, ConvolutionalCritic(shape, (4, 4), 8).features, hidden=(16,))
        return DcganGenerator(3, shape, (4, 4)), critic

    (first, critic), (second, another) = parts(), parts()
    reconstructor = nn.Sequential(nn.Flatten(), DenseGenerator(784, (3,), (16,), bounded=False))
    cycles = ConvolutionalCritic((2, *shape[1:]), (4, 4), 8)
    for family in (
        ALICE(first, DenseEncoder(3, shape, (16,)), critic, 3, cycle_critic=cycles),
        VEEGAN(second, reconstructor, another, 3),
    ):
        update = Updates(family, family.optimizers())
        family.step((torch.rand(6, *shape),), update, 0)
        assert all(loss.isfinite() for loss in update.losses.values())


def test_a_joint_critic_judges_pairs_not_marginals():
    torch.manual_seed(0)
    critic, x, z = JointCritic((2,), 3), torch.randn(4, 2), torch.randn(4, 3)
    together = critic(x, z)
    assert not torch.allclose(critic(x, z.flip(0)), together)
    torch.testing.assert_close(critic(x[1:2], z[1:2]), together[1:2])


def test_a_deterministic_encoder_gives_its_mean():
    family = FAMILIES["BiGAN"]()
    x = three_gaussians(5)
    assert torch.equal(family.infer(x), family.encoder(x)[0])


# ------------------------------------------------------------------------------------------------------- identities


class Line(nn.Module):
    """y | x = Normal(slope x, sd): as a generator it draws, as an encoder it returns mean and log sd."""

    def __init__(self, slope, sd, draws):
        super().__init__()
        self.slope, self.sd, self.draws = nn.Parameter(torch.tensor(slope)), sd, draws

    def forward(self, x):
        mean = self.slope * x
        if self.draws:
            return mean + self.sd * torch.randn_like(x)
        return mean, torch.full_like(x, math.log(self.sd))

    def log_prob(self, x, y):
        return torch.distributions.Normal(self.slope * x, self.sd).log_prob(y)


class LogRatio(nn.Module):
    """log q(x, z) / p(x, z), the best critic, times a factor plus a shift; data are Normal(0, 1)."""

    def __init__(self, encoder, generator, factor=1.0, shift=0.0):
        super().__init__()
        self.encoder, self.generator, self.factor, self.shift = encoder, generator, factor, shift

    def log_q_and_p(self, x, z):
        standard = torch.distributions.Normal(0.0, 1.0)
        return (
            standard.log_prob(x) + self.encoder.log_prob(x, z),
            standard.log_prob(z) + self.generator.log_prob(z, x),
        )

    def forward(self, x, z):
        log_q, log_p = self.log_q_and_p(x, z)
        return (self.factor * (log_q - log_p) + self.shift).squeeze(-1)


def test_the_best_critic_measures_the_divergence_of_the_joints():
    """critic's loss = 2 log 2 - 2 JS, of linear Gaussians whose JS is integrated on a grid; other critics lose more."""
    torch.manual_seed(0)
    generator, encoder = Line(0.6, 0.8, draws=True), Line(-0.3, 0.7, draws=False)
    best = LogRatio(encoder, generator)
    line = torch.linspace(-7, 7, 701, dtype=torch.float64)
    x, z = torch.meshgrid(line, line, indexing="ij")
    log_q, log_p = best.log_q_and_p(x, z)
    log_middle = torch.logaddexp(log_q, log_p) - math.log(2)
    cell = (line[1] - line[0]) ** 2
    divergence = 0.5 * cell * (log_q.exp() * (log_q - log_middle) + log_p.exp() * (log_p - log_middle)).sum()

    data = torch.randn(400_000, 1)
    losses = []
    for critic in (best, LogRatio(encoder, generator, factor=0.7), LogRatio(encoder, generator, shift=0.3)):
        family = ALI(generator, encoder, critic, 1)
        pairs = family.pairs(data)
        losses.append(ali.critic_loss(critic, pairs).item())
    assert losses[0] == pytest.approx(2 * math.log(2) - 2 * divergence.item(), abs=0.005)
    assert min(losses[1:]) > losses[0] + 0.005

    # The posterior of the generator: z | x = Normal(0.6 x, 0.8), since x has variance 0.6^2 + 0.8^2 = 1.
    posterior = Line(0.6, 0.8, draws=False)
    critic = LogRatio(posterior, generator)
    pairs = ALI(generator, posterior, critic, 1).pairs(data[:100])
    assert ali.critic_loss(critic, pairs).item() == pytest.approx(2 * math.log(2), abs=1e-5)
    assert ali.generator_encoder_loss(critic, pairs).item() == pytest.approx(2 * math.log(2), abs=1e-5)


def test_the_penalty_counts_both_parts_of_a_pair():
    """D(x, z) = a . x + b . z + 3: a gradient of squared length |a|^2 + |b|^2, everywhere."""
    a, b = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 2.0, 1.0])
    found = ali.squared_joint_gradient(lambda x, z: x @ a + z @ b + 3, torch.randn(4, 2), torch.randn(4, 3))
    torch.testing.assert_close(found, torch.full((4,), 10.25))


def trained(family, steps=4, **options):
    family = copy.deepcopy(family)
    update = Updates(family, family.optimizers())
    torch.manual_seed(1)
    for iteration in range(steps):
        family.step((three_gaussians(16 * family.batches_per_step),), update, iteration)
    return family.state_dict()


def test_alice_without_cycle_weight_is_ali():
    torch.manual_seed(0)
    parts = networks()
    expected = trained(ALI(*parts, LATENT))
    torch.testing.assert_close(trained(ALICE(*parts, LATENT, weight=0.0)), expected, rtol=0, atol=0)
    other = trained(ALICE(*parts, LATENT, weight=0.1))
    assert not torch.equal(other["generator.layers.0.weight"], expected["generator.layers.0.weight"])


@pytest.mark.parametrize("objective", [Saturating(gamma=0.0), NonSaturating(critic_steps=2, real_target=0.9)])
def test_a_gan_that_unrolls_nothing_is_a_gan(objective):
    torch.manual_seed(0)
    parts = DenseGenerator(LATENT, (2,), WIDTHS, bounded=False), DenseCritic((2,), WIDTHS), LATENT, objective
    expected = trained(GAN(*parts))
    torch.testing.assert_close(trained(UnrolledGAN(*parts, unroll=0)), expected, rtol=0, atol=0)
    other = trained(UnrolledGAN(*parts, unroll=1))
    assert not torch.equal(other["generator.layers.0.weight"], expected["generator.layers.0.weight"])


def test_one_unrolled_step_of_a_scalar_game():
    """D(x) = w x, G = t: df_1/dt by hand. With f = -softplus(-w x) - softplus(w t) and s the sigmoid,

    w_1 = w + r (x s(-w x) - t s(w t)),    df_1/dt = -w_1 s(w_1 t) + (x s(-w_1 x) - t s(w_1 t)) dw_1/dt,
    dw_1/dt = -r (s(w t) + w t s'(w t)).
    """
    w, x, t, rate = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 1.3, -0.4, 0.3))
    s = torch.sigmoid
    later = w + rate * (x * s(-w * x) - t * s(w * t))
    answer = -rate * (s(w * t) + w * t * s(w * t) * s(-w * t))
    expected = -later * s(later * t) + (x * s(-later * x) - t * s(later * t)) * answer

    critic = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.constant_(critic.weight, w.item())
    fake = t.clone().requires_grad_()
    objective, sample, point = Saturating(gamma=0.0), fake.reshape(1, 1), x.reshape(1, 1)
    ahead = unrolled(critic, lambda judge: objective.critic_loss(judge, point, sample, 0), steps=1, rate=rate.item())
    (gradient,) = torch.autograd.grad(surrogate_loss(objective, ahead, point, sample), fake)
    torch.testing.assert_close(gradient, expected)
    assert critic.weight.item() == w
    assert critic.weight.grad is None


@pytest.mark.parametrize("objective", [Saturating(gamma=0.0, real_target=0.9), NonSaturating(gamma=0.5, penalty_every=1)])
def test_the_unrolled_gradient_is_that_of_a_critic_trained_anew(objective):
    """Against central differences of the loss, where the critic's steps are torch's own SGD on a copy."""
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 1), nn.Flatten(0)).double()
    real, base, direction = (torch.randn(8, 2, dtype=torch.float64) for _ in range(3))
    steps, rate = 3, 0.2

    def loss_afresh(shift):
        judge, fake = copy.deepcopy(critic), base + shift * direction
        sgd = torch.optim.SGD(judge.parameters(), rate)
        for _ in range(steps):
            sgd.zero_grad()
            objective.critic_loss(judge, real, fake, 0).backward()
            sgd.step()
        return surrogate_loss(objective, judge, real, fake).item()

    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    fake = base + shift * direction
    later = unrolled(critic, lambda judge: objective.critic_loss(judge, real, fake, 0), steps, rate)
    loss = surrogate_loss(objective, later, real, fake)
    (gradient,) = torch.autograd.grad(loss, shift)
    assert loss.item() == pytest.approx(loss_afresh(0.0), rel=1e-10)
    assert gradient.item() == pytest.approx((loss_afresh(1e-4) - loss_afresh(-1e-4)) / 2e-4, rel=1e-6)
    # A critic that took the same steps but does not answer the generator's move gives another gradient.
    fixed = unrolled(critic, lambda judge: objective.critic_loss(judge, real, fake.detach(), 0), steps, rate)
    (unanswered,) = torch.autograd.grad(surrogate_loss(objective, fixed, real, base + shift * direction), shift)
    assert unanswered.item() != pytest.approx(gradient.item(), rel=0.01)


def test_an_unrolled_gan_may_be_conditional():
    class Conditional(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x, label):
            return self.network(torch.cat([x, nn.functional.one_hot(label, 3)], dim=1))

    generator = Conditional(DenseGenerator(LATENT + 3, (2,), WIDTHS, bounded=False))
    family = UnrolledGAN(generator, Conditional(DenseCritic((5,), WIDTHS)), LATENT, unroll=2)
    update = Updates(family, family.optimizers())
    family.step((three_gaussians(12), torch.arange(12) % 3), update, 0)
    assert all(loss.isfinite() for loss in update.losses.values())


# ------------------------------------------------------------------------------------------------------- learning

STEPS = 300


@functools.cache
def learned(name):
    """The errors on held-out data before and after a short training."""
    torch.manual_seed(0)
    family = FAMILIES[name](learning_rate=3e-3)
    data, held_out, z = three_gaussians(4_000), three_gaussians(1_000), torch.randn(1_000, LATENT)

    @torch.no_grad()
    def errors():
        made = family.generator(z)
        found = {"distance": energy_distance(made, held_out)}
        if name != "unrolled GAN":
            found["reconstruction"] = (family.generator(family.encoder(held_out)[0]) - held_out).square().sum(1).mean().item()
            found["latent"] = (family.encoder(made)[0] - z).square().mean().item()
        return found

    before = errors()
    train(family, data, num_steps=STEPS, batch_size=64, seed=0, schedule=Falling(STEPS), progress=False)
    after = errors()
    return {key: (before[key], after[key]) for key in before}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "BiGAN"])
def test_samples_come_closer_to_held_out_data(name):
    before, after = learned(name)["distance"]
    assert after < 0.3 * before


@pytest.mark.parametrize("name", ["ALICE", "adversarial ALICE"])
def test_alice_learns_to_reconstruct(name):
    before, after = learned(name)["reconstruction"]
    assert after < 0.1 * before
    assert after < learned("ALI")["reconstruction"][1]


def test_veegan_learns_to_lead_back_to_z():
    before, after = learned("VEEGAN")["latent"]
    assert after < 0.3 * before


def test_the_sd_of_a_reconstructor_is_the_size_of_its_errors():
    torch.manual_seed(0)
    encoder, sd = Reconstructor(nn.Identity(), LATENT), torch.tensor([0.3, 2.0])
    for _ in range(400):
        encoder.follow(sd * torch.randn(64, LATENT), rate=0.02)
    mean, log_sd = encoder(torch.ones(3, LATENT))
    assert torch.equal(mean, torch.ones(3, LATENT))
    torch.testing.assert_close(log_sd.exp(), sd.expand(3, -1), rtol=0.1, atol=0)


# ------------------------------------------------------------------------------------------------------- what is refused


def test_what_is_out_of_range_is_named():
    generator, encoder, critic = networks()
    with pytest.raises(ValueError, match=r"weight=-1.*not negative; 0 is ALI"):
        ALICE(generator, encoder, critic, LATENT, weight=-1.0)
    with pytest.raises(ValueError, match=r"weight=nan.*latent error"):
        make_veegan(weight=math.nan)
    with pytest.raises(ValueError, match=r"gamma=-1.*gradient penalty.*0 disables it"):
        ALI(generator, encoder, critic, LATENT, gamma=-1.0)
    with pytest.raises(ValueError, match=r"unroll=-1.*0 is a plain GAN"):
        UnrolledGAN(generator, DenseCritic((2,)), LATENT, unroll=-1)
    with pytest.raises(ValueError, match=r"unroll_rate=0.*positive"):
        UnrolledGAN(generator, DenseCritic((2,)), LATENT, unroll_rate=0.0)


@pytest.mark.parametrize("family", [ALI, ALICE, VEEGAN])
def test_a_critic_of_other_latents_is_refused(family):
    generator, encoder, _ = networks()
    with pytest.raises(
        ValueError, match=r"latent_dim=2, but the critic was made for latent_dim=3: make it with .*latent_dim=2\)"
    ):
        family(generator, encoder, JointCritic((2,), 3), LATENT)


# ------------------------------------------------------------------------------------------------------- AIM


def aim(**options):
    torch.manual_seed(0)
    critic = DenseCritic((2,), WIDTHS)
    return AIM(DenseGenerator(LATENT, (2,), WIDTHS, bounded=False), critic, head(WIDTHS[-1], LATENT), LATENT, **options)


def test_lambda_is_one_with_the_divergence_and_one_over_the_latents_with_the_log_odds():
    assert aim(objective=KL()).weight == 1.0
    assert aim().weight == 1.0 / LATENT
    assert aim(objective=KL(), weight=0.3).weight == 0.3


def test_together_is_algorithm_one():
    """All gradients at the same weights, of one batch of latents."""
    real = three_gaussians(16)
    family = aim(objective=NonSaturating(gamma=0.0), together=True)
    torch.manual_seed(1)
    z = family.latent(16)
    fake = family.generator(z)
    negative_log_q = family.encoder_loss(z, fake)
    players = [*family.generator.parameters(), *family.head.parameters()]
    answers = torch.autograd.grad(softplus(-family.critic(fake)).mean() + negative_log_q / LATENT, players)
    loss = softplus(-family.critic(real)).mean() + softplus(family.critic(fake.detach())).mean()
    judged = torch.autograd.grad(loss, list(family.critic.parameters()))
    optimizers = {name: torch.optim.SGD(one.param_groups[0]["params"], 1.0) for name, one in family.optimizers().items()}
    before = {id(p): p.detach().clone() for p in family.parameters()}
    torch.manual_seed(1)
    family.step((real,), Updates(family, optimizers), 0)
    for parameter, gradient in zip([*players, *family.critic.parameters()], [*answers, *judged], strict=True):
        torch.testing.assert_close(parameter.detach(), before[id(parameter)] - gradient)


def test_together_wants_one_step_of_the_critic():
    with pytest.raises(ValueError, match="set critic_steps=1"):
        aim(objective=NonSaturating(critic_steps=2), together=True)


@pytest.mark.parametrize(("recipes", "shape"), [(DIGITS, (1, 28, 28)), (CIFAR, (3, 64, 64))])
def test_published_networks(recipes, shape):
    """The sizes that the tables state: 6272 = 128 x 7 x 7, 576 = 64 x 3 x 3, 512 = 128 x 2 x 2 numbers."""
    torch.manual_seed(0)
    made = recipes["aim"]
    family = made.family(Sizes(shape, made.latent_dim))
    assert (family.learning_rate, family.betas, family.weight) == (2e-4, (0.5, 0.999), 1 / made.latent_dim)
    assert made.schedule(10)(0, 3.2) == 0.5  # over the root of the fourth epoch
    assert family.together
    low, high = made.value_range
    x = family.generator(family.latent(2))
    assert x.shape == (2, *shape)
    assert low < x.min() <= x.max() < high
    assert family.encoder(x)[0].shape == (2, made.latent_dim)
    first = next(layer for layer in family.generator.modules() if isinstance(layer, (nn.Linear, nn.ConvTranspose2d)))
    assert first.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert made.prepare(torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)).max() == high
    with pytest.raises(ValueError, match=r"the paper has networks for \(1, 28, 28\)"):
        made.family(Sizes((1, 32, 32), 3))

"""Losses of the families of pairs against values by hand, and what their terms may and may not teach."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from cogen.models.families.bicyclegan import BicycleGAN
from cogen.models.families.context_encoder import ContextEncoder, hidden, squared_error
from cogen.models.families.family import Updates
from cogen.models.families.gan import LeastSquares
from cogen.models.families.pix2pix import Pix2Pix, Regression
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import PairSizes
from cogen.models.networks.translation import UNet

X = torch.tensor([0.5, -0.5]).reshape(2, 1, 1, 1)
CONDITION = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)


class Shifted(nn.Module):
    """x = z + shift * condition."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.25))

    def forward(self, z, condition):
        return z[:, :, None, None] + self.shift * condition


class Sum(nn.Module):
    """A critic: weight * (x + condition)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, *condition):
        return (self.weight * sum((x, *condition)))[:, 0]


class Halved(nn.Module):
    """An encoder: mean x / 2, sd 0.1."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        mean = self.slope * x[:, :, 0, 0]
        return mean, torch.full_like(mean, math.log(0.1))


@pytest.fixture
def fixed(monkeypatch):
    """Standard normal draws that are all one."""
    monkeypatch.setattr(torch, "randn", lambda *shape, **_: torch.ones(*shape))
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)


def losses(family) -> dict[str, float]:
    """Of a step that leaves the weights as they are."""
    found = {}
    family.step((X, CONDITION), lambda name, loss: found.update({name: loss().item()}), 0)
    return found


MADE = 1 + 0.25 * CONDITION  # of z = 1
AGAIN = X[:, :, 0, 0] / 2 + 0.1  # z ~ q(z | x)
RECONSTRUCTED = AGAIN[:, :, None, None] + 0.25 * CONDITION


def test_pix2pix_is_the_game_of_pairs_and_the_distance(fixed):
    found = losses(Pix2Pix(Shifted(), Sum(), 1, weight=10.0))
    fake, real = 2 * (MADE + CONDITION), 2 * (X + CONDITION)
    assert found["critic"] == pytest.approx(float(softplus(-real).mean() + softplus(fake).mean()))
    assert found["generator"] == pytest.approx(float(softplus(-fake).mean() + 10 * (MADE - X).abs().mean()))
    assert losses(Regression(Shifted(), 1)) == pytest.approx({"generator": float((MADE - X).abs().mean())})


def test_draws_are_asked_to_differ(monkeypatch):
    """(z, condition) -> z + c / 4: draws differ as much as their latents do, up to the bound."""
    torch.manual_seed(0)
    plain = losses(Pix2Pix(Shifted(), Sum(), 1))["generator"]
    for most, ratio in ((10.0, 1.0), (0.5, 0.5)):
        torch.manual_seed(0)
        found = losses(Pix2Pix(Shifted(), Sum(), 1, diversity=8.0, most=most))["generator"]
        assert found == pytest.approx(plain - 8 * ratio, rel=1e-5)


def test_least_squares_have_their_targets(fixed):
    found = losses(Pix2Pix(Shifted(), Sum(), 1, LeastSquares(), weight=0.0))
    fake, real = 2 * (MADE + CONDITION), 2 * (X + CONDITION)
    assert found["critic"] == pytest.approx(float((real - 1).square().mean() + fake.square().mean()))
    assert found["generator"] == pytest.approx(float((fake - 1).square().mean()))


def encoded_terms() -> float:
    kl = (0.5 * ((X / 2).square() + 0.01 - 1) - math.log(0.1)).mean()
    fooled = (2 * (RECONSTRUCTED + CONDITION) - 1).square().mean()
    return float(fooled + 10 * (RECONSTRUCTED - X).abs().mean() + 0.01 * kl)


def drawn_terms(latent_weight: float) -> float:
    return float((2 * (MADE + CONDITION) - 1).square().mean() + latent_weight * (MADE / 2 - 1).abs().mean())


@pytest.mark.parametrize(
    ("games", "latent_weight", "expected"),
    [
        ((Sum, None), 0.5, encoded_terms()),
        ((None, Sum), 0.5, drawn_terms(0.5)),
        ((Sum, Sum), 0.5, encoded_terms() + drawn_terms(0.5)),
        ((Sum, Sum), 0.0, encoded_terms() + drawn_terms(0.0)),
    ],
    ids=["cvae-gan", "clr-gan", "bicyclegan", "cvae-gan++"],
)
def test_the_games_of_encoded_and_of_drawn_latents_add_up(fixed, games, latent_weight, expected):
    critic, random_critic = (each and each() for each in games)
    settings = {"critic": critic, "random_critic": random_critic, "latent_weight": latent_weight}
    found = losses(BicycleGAN(Shifted(), Halved(), 1, **settings))
    assert found.pop("generator_encoder") == pytest.approx(expected)
    fakes = {"critic": RECONSTRUCTED, "random_critic": MADE}
    assert found == pytest.approx(
        {
            name: float((2 * (X + CONDITION) - 1).square().mean() + (2 * (fake + CONDITION)).square().mean())
            for (name, fake), game in zip(fakes.items(), games, strict=True)
            if game
        }
    )


@pytest.mark.parametrize(("critic", "learns"), [(Sum, False), (None, True)], ids=["beside the other game", "alone"])
def test_the_latent_term_teaches_the_encoder_only_where_nothing_else_does(critic, learns):
    """The difference that the term makes to the gradient of the encoder, draws being the same."""
    gradients = []
    for latent_weight in (0.0, 0.5):
        family = BicycleGAN(
            Shifted(), Halved(), 1, critic=critic and critic(), random_critic=Sum(), latent_weight=latent_weight
        )
        torch.manual_seed(0)
        family.generator_encoder_loss(X, CONDITION).backward()
        gradients.append((family.encoder.slope.grad, family.generator.shift.grad))
    (encoder, generator), (encoder_too, generator_too) = gradients
    assert generator != generator_too
    assert (encoder is None) == learns
    assert learns or torch.equal(encoder, encoder_too)
    assert encoder_too is not None
    assert all(p.requires_grad for p in family.parameters())


def test_a_context_encoder_learns_what_is_hidden_and_its_critic_sees_nothing_else():
    x, made = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    condition = torch.ones(2, 4, 4, 4)
    condition[0, 3, 1:3, 1:3] = -1
    mask = hidden(condition)
    assert mask.sum() == 4
    expected = (made - x)[0, :, 1:3, 1:3].square().mean()
    torch.testing.assert_close(squared_error(made, x, mask), expected)
    assert squared_error(made, x, torch.zeros(2, 1, 4, 4)) == 0
    family = ContextEncoder(nn.Identity(), Sum(), 1, weight=0.9)
    seen = family.judged([condition], made)
    torch.testing.assert_close(seen, 2 * (made * mask)[:, 0])
    loss = family.generator_loss(lambda x: family.judged([condition], x), made, x, condition)
    torch.testing.assert_close(loss, 0.9 * expected + 0.1 * softplus(-seen).mean())


def test_dropout_makes_the_draws_of_the_published_generator_and_ends_where_there_is_a_latent():
    torch.manual_seed(0)
    condition = torch.randn(3, 2, 16, 16)
    published, latent = UNet((1, 16, 16), (2, 16, 16), width=4).eval(), UNet((1, 16, 16), (2, 16, 16), 5, width=4)
    nothing, z = torch.zeros(3, 0), torch.randn(3, 5)
    assert (published(nothing, condition) - published(nothing, condition)).abs().mean() > 1e-3
    assert not torch.equal(latent(z, condition), latent(z, condition))
    latent.eval()
    assert torch.equal(latent(z, condition), latent(z, condition))
    assert not torch.equal(latent(z + 1, condition), latent(z, condition))


def test_a_step_of_the_published_recipe_changes_all_weights():
    torch.manual_seed(0)
    family = recipe("pix2pix", Kind.PAIRS).family(PairSizes((3, 32, 32), (3, 32, 32), width=2))
    before = [p.detach().clone() for p in family.parameters()]
    family.step((torch.randn(1, 3, 32, 32), torch.randn(1, 3, 32, 32)), Updates(family, family.optimizers()), 0)
    assert all(not torch.equal(old, new) for old, new in zip(before, family.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Pix2Pix(Shifted(), Sum(), 1, weight=-1.0), r"weight=-1.0: the weight of the L1 distance"),
        (
            lambda: Pix2Pix(Shifted(), Sum(), 0, diversity=8.0),
            r"diversity=8.0, most=10.0, latent_dim=0: diversity must be finite and not",
        ),
        (lambda: ContextEncoder(Shifted(), Sum(), 1, weight=1.5), r"weight=1.5: the squared error's share of the loss"),
        (
            lambda: BicycleGAN(Shifted(), Halved(), 1, critic=None, random_critic=None),
            r"give a critic for one game, or for both",
        ),
        (
            lambda: BicycleGAN(Shifted(), Halved(), 0, critic=Sum(), random_critic=None),
            r"latent_dim=0: it must be at least 1, since the encoder infers",
        ),
        (
            lambda: BicycleGAN(Shifted(), Halved(), 1, critic=Sum(), random_critic=None, kl_weight=math.nan),
            r"kl_weight=nan: it must be finite and not negative",
        ),
        (
            lambda: recipe("context-encoder", Kind.PAIRS).family(PairSizes((3, 16, 16), (3, 16, 16))),
            r"a context encoder needs a condition that is the image with .* PairSizes\(fills=True\)",
        ),
        (lambda: PairSizes((3, 16, 16), (3, 16, 16), width=0), r"width=0: .* width at least 1"),
    ],
)
def test_what_cannot_be(make, reason):
    with pytest.raises(ValueError, match=reason):
        make()

"""cGML: how z moves in training, what each loss trains, two modes from one condition, and the files that a training leaves."""

import math

import pytest
import torch
from torch import nn

from cogen.models import CGML, Predictor, SphericalGenerator, load_generator, load_predictor
from cogen.models.families.cgml import published
from cogen.models.families.family import Updates
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import PairSizes
from cogen.models.networks.latent_descent import LatentDescent, on_sphere
from cogen.models.storage.encoders import EncoderConfig, save_encoder
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Features(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, 16), nn.SiLU())

    def forward(self, condition):
        return [self.layers(condition)]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = Features()
        self.up = nn.Sequential(nn.Linear(18, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))

    def decode(self, z, features, condition):
        return self.up(torch.cat([z, features[-1]], dim=1))


class Direction(nn.Module):
    """x is the first number of z."""

    def __init__(self):
        super().__init__()
        self.down = Features()

    def decode(self, z, features, condition):
        return z[:, :1]


def family(network=Network, **settings):
    torch.manual_seed(0)
    return CGML(SphericalGenerator(network()), Predictor(2, 16, (32, 32)), 2, **settings)


@pytest.mark.parametrize("moves", ["turning", "gradient"])
def test_z_moves_down_the_cost(moves):
    made = family(Direction, moves=moves, step_size=0.3)
    x, condition = torch.ones(64, 1), torch.zeros(64, 1)
    way = made.ways(x, condition, made.generator.network.down(condition))
    assert way.shape == (21, 64, 2)
    torch.testing.assert_close(way.norm(dim=2), torch.ones(21, 64))
    assert way[-1, :, 0].median() > 0.95 > way[0, :, 0].median()
    if moves == "turning":
        angles = (way[1:] * way[:-1]).sum(2).clamp(-1, 1).arccos()
        expected = torch.tensor([0.3 * (1 - t / 20) for t in range(20)])
        torch.testing.assert_close(angles[:10], expected[:10, None].expand(10, 64), atol=2e-3, rtol=0)


def test_a_step_of_the_gradient_is_algorithm_1():
    made = family(moves="gradient", step_size=0.7, num_steps=1)
    x, condition, z = torch.randn(3, 1), torch.randn(3, 1), on_sphere(torch.randn(3, 2))
    features = made.generator.network.down(condition)
    leaf = z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad((made.generator.network.decode(leaf, features, condition) - x).abs().sum(), leaf)
    torch.testing.assert_close(made.ways(x, condition, features, z)[1], on_sphere(z - 0.7 * gradient))


def test_what_each_loss_trains():
    made = family(penalty=0.1)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    batch = (torch.randn(8, 1), torch.rand(8, 1))
    for name in ("predictor", "generator"):
        optimizers = made.optimizers()
        plain = Updates(made, {name: optimizers[name]})
        made.step(batch, lambda n, loss, name=name, plain=plain: plain(n, loss) if n == name else loss(), 0)
        changed = {key.split(".")[0] for key, value in made.state_dict().items() if not torch.equal(value, before[key])}
        assert changed == {name}
        before = {key: value.clone() for key, value in made.state_dict().items()}


def test_rho_learns_how_far_z_moved():
    made = family(Direction, step_size=0.2, num_steps=1, alpha=3.0, predictor_rate=1e-2)
    update = Updates(made, {"predictor": made.optimizers()["predictor"]})

    def of_predictor(name, loss):
        return update(name, loss) if name == "predictor" else loss().detach()

    made.generator.requires_grad_(False)
    for iteration in range(400):
        made.step((torch.full((64, 1), 9.0), torch.zeros(64, 1)), of_predictor, iteration)
    z = on_sphere(torch.randn(500, 2))
    with torch.no_grad():
        target, rho = made.predictor(z, made.predictor.project(made.generator.network.down(torch.zeros(500, 1))[-1]))
    assert abs(float(rho.mean()) - 3 * 2 * math.sin(0.1)) < 0.02
    assert (target[:, 0] - z[:, 0]).mean() > 0.05


@pytest.mark.parametrize(("each", "steps"), [(False, 1), (True, 20)])
def test_how_often_the_predictor_learns(each, steps):
    made, named = family(each=each), []
    batch = (torch.randn(8, 1), torch.rand(8, 1))
    made.step(batch, lambda name, loss: named.append((name, float(loss().detach()))), 0)
    assert [name for name, _ in named] == ["predictor"] * steps + ["generator"]
    torch.manual_seed(1)
    once, every = [], []
    for kept, found in ((False, once), (True, every)):
        torch.manual_seed(1)
        made.each = kept
        made.step(batch, lambda name, loss, found=found: found.append(float(loss().detach())), 0)
    assert sum(every[:-1]) / 20 == pytest.approx(once[0], rel=1e-4)  # no step was taken: the mean of all pairs


def test_the_published_settings():
    made = published(PairSizes((1, 8, 8), (1, 8, 8), latent_dim=3, width=2), {})
    assert (made.moves, made.num_steps, made.each, made.learning_rate) == ("gradient", 20, True, 1e-5)
    weights = torch.cat([p.detach().flatten() for name, p in made.named_parameters() if name.endswith("weight") and p.ndim > 1])
    assert abs(float(weights.std()) - 0.5) < 0.01
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in made.generator.modules())
    batch = (torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8))
    before = made.predictor.layers[-1].weight.detach().clone()
    made.step(batch, Updates(made, made.optimizers()), 0)
    assert not torch.equal(before, made.predictor.layers[-1].weight)


def test_one_condition_has_two_modes():
    """x = +-(1 + c): both signs are learned, and both are met from random starts."""
    generator = torch.Generator().manual_seed(0)
    condition = torch.rand(4_000, 1, generator=generator)
    x = (1 + condition) * torch.where(torch.rand(4_000, 1, generator=generator) < 0.5, -1.0, 1.0)
    made = family(learning_rate=3e-3, num_steps=10, step_size=0.6)
    train(made, [x, condition], num_steps=1_200, batch_size=64, seed=1, schedule=Falling(1_200), progress=False)
    asked = torch.rand(500, 1, generator=generator)
    with torch.no_grad():
        ends = made.generator(made.descent(torch.randn(500, 2, generator=generator), asked), asked)
    distance = (ends.abs() - (1 + asked)).abs()
    assert 0.2 < (ends > 0).float().mean() < 0.8
    assert distance.median() < 0.3
    assert (distance < 0.5).float().mean() > 0.9


def test_a_descent_is_what_the_networks_are_now():
    made = family()
    descent = made.descent
    u, condition = torch.randn(4, 2), torch.rand(4, 1)
    before = descent(u, condition)
    with torch.no_grad():
        made.predictor.of_latent.weight.add_(1)
    assert torch.equal(descent(u, condition), before)
    assert not torch.equal(made.descent(u, condition), before)


def test_a_published_size_can_be_stored_and_read(tmp_path):
    sizes = PairSizes((3, 32, 32), (4, 32, 32), 10, 2)
    made = recipe("cgml", Kind.PAIRS)
    trained = made.family(sizes)
    shape = {"latent_dim": 10, "event_shape": (3, 32, 32), "value_range": (-1.0, 1.0)}
    name, arguments = made.generator(sizes)
    contexts = {"condition": {"shape": (4, 32, 32)}}
    save_generator(
        tmp_path / "g", trained.generator, GeneratorConfig(name, arguments, **shape, noise_scale=0.1, contexts=contexts)
    )
    assert load_predictor(tmp_path / "g") is None
    name, arguments = made.predictor(sizes)
    save_encoder(tmp_path / "g-predictor", trained.descent, EncoderConfig(name, arguments, **shape))
    u, condition = torch.randn(2, 10), torch.randn(2, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_generator(tmp_path / "g")(u, condition=condition), trained.generator(u, condition))
    found = load_predictor(tmp_path / "g")
    assert isinstance(found, LatentDescent)
    torch.testing.assert_close(found(u, condition), trained.descent(u, condition))
    assert (found.num_steps, found.momentum) == (trained.num_steps, trained.momentum)


@pytest.mark.parametrize(
    "settings", [{"num_steps": 0}, {"step_size": 0.0}, {"alpha": -1.0}, {"noise": -1.0}, {"penalty": -0.1}]
)
def test_settings_out_of_range(settings):
    (name, value) = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        family(**settings)


def test_a_strange_move():
    with pytest.raises(ValueError, match="moves='sideways': it must be 'turning' or 'gradient'"):
        family(moves="sideways")

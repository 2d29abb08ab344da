"""Cooperative training: its two losses, that both use the z of the start, when the noise ends, and when a run does."""

import dataclasses

import pytest
import torch

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families import published_coopnets
from cogen.models.families.coopnets import CoopNets, mapping_shift
from cogen.models.families.family import Updates
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import PairSizes, Sizes
from cogen.models.networks.architectures import DenseGenerator, count_parameters
from cogen.models.networks.energies import ConvolutionalEnergy, DenseEnergy
from cogen.models.networks.translation import Noise
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RUN = ShortRun.langevin(4, 0.2, reference_scale=2.0)


def pair(run=RUN, **settings):
    torch.manual_seed(0)
    return CoopNets(DenseGenerator(2, (2,), (16,), bounded=False), DenseEnergy((2,), (16,)), 2, run, **settings)


def test_the_initializer_s_loss_is_half_a_squared_error_over_sigma_squared():
    refined, made = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 4.0]])
    assert float(mapping_shift(refined, made, 0.5)) == pytest.approx(0.5 * (1 + 4) / 2 / 0.25)


def test_the_initializer_follows_what_the_solver_made_of_its_own_draws():
    """A solver that draws everything to (3, 3) teaches the initializer to begin there."""
    family = pair(ShortRun(10, 0.05, 0.0), learning_rate=1e-2)
    family.energy = DrawnTo(3.0)
    update = Updates(family, {"initializer": family.optimizers()["initializer"]})

    def of_initializer(name, loss):
        return update(name, loss) if name == "initializer" else loss()

    for iteration in range(150):
        family.step((torch.randn(32, 2),), of_initializer, iteration)
    assert (family.generator(torch.randn(100, 2)) - 3).abs().mean() < 0.3


class DrawnTo(torch.nn.Module):
    def __init__(self, centre):
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor(centre))

    def forward(self, y):
        return -5 * (y - self.centre).square().sum(1)


@pytest.fixture
def runs(monkeypatch):
    """The runs that a family makes: (run, start, end)."""
    seen, original = [], ShortRun.__call__

    def watched(self, value, start, **free):
        seen.append((self, start, original(self, value, start, **free)))
        return seen[-1][2]

    monkeypatch.setattr(ShortRun, "__call__", watched)
    return seen


def test_the_same_latents_make_the_start_and_what_is_compared(runs):
    family, z, losses = pair(start_noise=0.1), torch.randn(5, 2), {}
    family.latent = lambda count: z
    family.step((torch.randn(5, 2),), lambda name, loss: losses.setdefault(name, loss()), 0)
    ((_, start, refined),) = runs
    made = family.generator(z)
    assert 0.01 < (start - made).std() < 0.3
    torch.testing.assert_close(losses["initializer"], mapping_shift(refined, made, family.scale))


def test_the_initializer_may_be_held_near_the_data(runs):
    family, z, x, losses = pair(weight=2.0), torch.randn(5, 2), torch.randn(5, 2), {}
    family.latent = lambda count: z
    family.step((x,), lambda name, loss: losses.setdefault(name, loss()), 0)
    ((_, start, refined),) = runs
    torch.testing.assert_close(
        losses["initializer"], mapping_shift(refined, start, family.scale) + 2 * (start - x).abs().mean()
    )


def test_of_an_image_with_a_hidden_part_that_part_alone_moves(runs):
    torch.manual_seed(0)
    sizes = PairSizes((1, 8, 8), (2, 8, 8), width=2, fills=True)
    family = CoopNets(sizes.unet(0.5), sizes.energy(), 0, ShortRun(3, 0.3, 0.1), fills=True, start_noise=0.1)
    x, mask = torch.randn(4, 1, 8, 8), torch.ones(4, 1, 8, 8)
    mask[:, :, 2:6] = -1
    family.step((x, torch.cat([x, mask], 1)), Updates(family, family.optimizers()), 0)
    ((_, start, refined),) = runs
    for made in (start, refined):
        assert torch.equal(made[mask > 0], x[mask > 0])
    assert ((refined - start)[mask < 0] != 0).all()


def test_the_noise_ends(runs):
    family = pair(noisy_steps=3)
    update = Updates(family, family.optimizers())
    for iteration in range(5):
        family.step((torch.randn(8, 2),), update, iteration)
    assert [run.noise for run, _, _ in runs] == [0.2, 0.2, 0.2, 0.0, 0.0]


def test_a_solver_that_runs_ahead_ends_the_run_at_its_last_good_checkpoint(tmp_path):
    family = pair(ShortRun(1, 1e-6, 1e-3), largest_gap=1.0, solver_rate=1e-2, learning_rate=1e-6)
    x = torch.randn(200, 2) + 4
    message = (
        r"step \d+: the solver's mean values of data and refined .* 1 Langevin steps, .*; the last good checkpoint \(step \d+\)"
    )
    with pytest.raises(FloatingPointError, match=message):
        train(family, x, num_steps=2_000, batch_size=50, seed=0, checkpoint=tmp_path, save_every=20, progress=False)
    assert (tmp_path / "training.safetensors").is_file()


@pytest.mark.parametrize(
    "wrong", [{"scale": 0.0}, {"penalty": -1.0}, {"weight": -1.0}, {"start_noise": -0.1}, {"largest_gap": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        pair(**wrong)


# --- networks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("made", "shape"), [(published_coopnets.DIGITS, (1, 28, 28)), (published_coopnets.CIFAR, (3, 32, 32))])
def test_the_published_recipes_take_a_step_on_what_they_are_for(made, shape):
    torch.manual_seed(0)
    family = made.family(Sizes(shape, made.latent_dim, 10))
    update = Updates(family, family.optimizers())
    family.step((torch.rand(4, *shape) * 2 - 1, torch.arange(4)), update, 0)
    assert set(update.losses) == {"solver", "initializer"}
    assert family.generator(family.latent(3), torch.arange(3)).shape == (3, *shape)
    assert dataclasses.asdict(family.run)["reference_scale"] == 0.016
    assert family.run.temperature == pytest.approx(1.0)
    with pytest.raises(ValueError, match=r"event_shape=\(1, 8, 8\)"):
        made.family(Sizes((1, 8, 8), 4, 10))


def test_the_published_pair_of_images_is_the_paper_s():
    """Parameters of the solver by hand, from the filters and channels of section 4.2.2."""
    made = published_coopnets.PAIRS
    family = made.family(PairSizes((3, 32, 32), (3, 32, 32)))
    filters = (6 * 25 + 1) * 64 + (64 * 9 + 1) * 128 + (128 * 9 + 1) * 256 + (256 * 64 + 1) * 100
    assert count_parameters(family.energy) == filters
    assert (family.run.steps, family.run.reference_scale) == (15, 0.016)
    assert family.run.temperature == pytest.approx(1.0)
    assert sum(isinstance(part, Noise) for layer in family.generator.up for part in layer) == 4  # of five layers
    update = Updates(family, family.optimizers())
    family.step((torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)), update, 0)
    assert set(update.losses) == {"solver", "initializer"}
    assert made.energy(PairSizes((3, 32, 32), (3, 32, 32))).arguments["value"] == "sum"


def test_late_concatenation_tells_classes_apart_and_the_sum_is_a_hundred_means():
    torch.manual_seed(0)
    energy = ConvolutionalEnergy((1, 12, 12), (4, 4, 8), num_classes=3)
    x, label = torch.randn(2, 1, 12, 12), torch.tensor([0, 2])
    weights = torch.eye(3)[label]
    torch.testing.assert_close(energy(x, label), energy(x, weights))
    assert not torch.allclose(energy(x, label), energy(x, label.flip(0)))
    total = ConvolutionalEnergy((1, 12, 12), (4, 4, 8), num_classes=3, value="sum")
    total.load_state_dict(energy.state_dict())
    torch.testing.assert_close(total(x, label), 100 * energy(x, label))


def test_the_recipes_are_known_by_name():
    assert recipe("ccoopnets", Kind.IMAGES).labelled
    assert recipe("coopnets", Kind.IMAGES).energy is not None
    assert recipe("ebm", Kind.IMAGES).generator is None


def test_the_gap_is_one_of_values_over_steps_whatever_the_batch():
    """Values of data 2 + noise, of refined samples -1 + noise, with standard deviation 1.5, while the level drifts: a gap of 2,
    in units of what 2n values have about their own mean."""
    torch.manual_seed(0)
    for size in (1, 2, 16):
        family = pair()
        for step in range(1_000):
            family._solver_loss(step + 2 + 1.5 * torch.randn(size), step - 1 + 1.5 * torch.randn(size))
        assert family.gap == pytest.approx(2.0 / (1 - 0.5 / size) ** 0.5, abs=0.8 / size**0.5)


def test_the_solver_s_gradient_is_penalised_in_every_so_many_th_step():
    x, losses = torch.randn(6, 2), []
    for gamma in (0.0, 3.0):
        family = pair(gamma=gamma, penalty_every=2)
        for iteration in (0, 1, 2):
            torch.manual_seed(iteration)
            family.step((x,), lambda name, loss: losses.append(loss().detach()) if name == "solver" else None, iteration)
        assert [family.variant(k) for k in range(3)] == [gamma > 0, False, gamma > 0]
    (gradient,) = torch.autograd.grad(family.energy(x.requires_grad_()).sum(), x)
    expected = 0.5 * 3.0 * 2 * gradient.square().sum(1).mean()
    for plain, penalised, times in zip(losses[:3], losses[3:], (1, 0, 1), strict=True):
        torch.testing.assert_close(penalised - plain, times * expected, rtol=1e-4, atol=1e-5)

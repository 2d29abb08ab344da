"""Energies learned by chains: the density that comes out, what chains remember, and what is refused."""

import math

import pytest
import torch

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.ebm import EBM, objective_shift
from cogen.models.families.family import Updates
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import Sizes
from cogen.models.networks.energies import ENERGIES, DenseEnergy
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RUN = ShortRun.langevin(8, 0.3, reference_scale=2.0)
GRID = torch.linspace(-6, 6, 601)[:, None]


def data(count, seed):
    """Two thirds at -1, a third at 1.2, with standard deviations .5 and .4."""
    random = torch.Generator().manual_seed(seed)
    left = torch.rand(count, 1, generator=random) < 2 / 3
    noise = torch.randn(count, 1, generator=random)
    return torch.where(left, -1 + 0.5 * noise, 1.2 + 0.4 * noise)


def log_density(y):
    parts = [
        math.log(share / scale) - ((y - mean) / scale) ** 2 / 2 for share, mean, scale in ((2 / 3, -1, 0.5), (1 / 3, 1.2, 0.4))
    ]
    return torch.logsumexp(torch.stack(parts), 0)[:, 0] - 0.5 * math.log(2 * math.pi)


def divergence(energy, *label):
    """KL of the data from the energy with its reference, on the grid."""
    with torch.no_grad():
        height = energy(GRID, *label) - GRID[:, 0].square() / (2 * RUN.reference_scale**2)
    log_mass, step = log_density(GRID), float(GRID[1, 0] - GRID[0, 0])
    log_model = height - torch.logsumexp(height, 0) - math.log(step)
    return float((log_mass.exp() * (log_mass - log_model)).sum() * step)


def trained(chains, seed=0, steps=400, run=RUN, **settings):
    torch.manual_seed(seed)
    family = EBM(DenseEnergy((1,), (32, 32)), (1,), run, chains=chains, count=500, learning_rate=5e-3, **settings)
    train(
        family,
        data(4_000, seed),
        num_steps=steps,
        batch_size=128,
        seed=seed,
        schedule=Falling(steps),
        progress=False,
        average=0.9,
    )
    return family


def test_the_loss_raises_data_and_lowers_samples():
    observed, sampled = torch.tensor([1.0, 3.0]), torch.tensor([0.5, 0.5])
    assert float(objective_shift(observed, sampled)) == -1.5
    assert float(objective_shift(observed, sampled, penalty=0.1)) == pytest.approx(-1.5 + 0.1 * (5 + 0.25))


def test_persistent_chains_learn_the_density():
    assert divergence(DenseEnergy((1,), (32, 32))) > 0.3
    assert divergence(trained("persistent").energy) < 0.05


def test_few_steps_from_noise_learn_a_sampler_and_no_density():
    assert divergence(trained("noise", run=ShortRun.langevin(2, 0.3, reference_scale=2.0)).energy) > 0.2


def test_classes_have_densities_of_their_own():
    """Class 1 is class 0 mirrored."""
    torch.manual_seed(0)
    family = EBM(DenseEnergy((1,), (32, 32), num_classes=2), (1,), RUN, count=500, learning_rate=5e-3)
    label = torch.arange(4_000) % 2
    y = data(4_000, 0) * (1 - 2 * label[:, None])
    train(family, (y, label), num_steps=400, batch_size=128, seed=0, schedule=Falling(400), progress=False)
    assert divergence(family.energy, torch.zeros(len(GRID), dtype=torch.long)) < 0.1
    assert divergence(lambda y, label: family.energy(-y, label), torch.ones(len(GRID), dtype=torch.long)) < 0.1


def test_chains_go_on_where_they_were_and_begin_afresh_at_noise():
    family = EBM(DenseEnergy((1,), (8,)), (1,), ShortRun(1, 1e-12, 0.0), count=4, start_scale=5.0)
    update = Updates(family, family.optimizers())
    assert (family.kept_labels == -1).all()
    family.step((data(4, 0),), update, 0)
    begun = family.kept.clone()
    assert begun.std() > 1  # noise of scale 5, and not the data's
    family.step((data(4, 1),), update, 1)
    torch.testing.assert_close(family.kept, begun)
    family.afresh = 1.0
    family.step((data(4, 1),), update, 2)
    assert (family.kept != begun).all()
    assert family.starts(7).shape == (7, 1)
    assert torch.isin(family.starts(7), family.kept).all()


def test_chains_from_data_move_from_the_batch():
    family = EBM(DenseEnergy((1,), (8,)), (1,), RUN, chains="data")
    assert family.averaged is family.energy
    assert "kept" not in dict(family.named_buffers())
    assert family.starts(3).shape == (3, 1)


def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path):
    def made(steps, **where):
        torch.manual_seed(0)
        family = EBM(DenseEnergy((1,), (8,)), (1,), RUN, count=50, afresh=0.1)
        train(family, data(100, 0), num_steps=steps, batch_size=10, seed=0, save_every=5, progress=False, **where)
        return family

    made(5, checkpoint=tmp_path)
    again, whole = made(12, checkpoint=tmp_path), made(12)
    assert all(map(torch.equal, again.state_dict().values(), whole.state_dict().values()))


def test_lost_chains_end_the_training_at_the_last_good_checkpoint(tmp_path):
    torch.manual_seed(0)
    family = EBM(DenseEnergy((1,), (8,)), (1,), ShortRun(4, 0.5, 0.1, limit=10.0), count=50, learning_rate=0.01)
    far, settings = data(100, 0) + 20, {"num_steps": 500, "batch_size": 10, "seed": 0, "save_every": 1, "progress": False}
    lost = r"step \d+: \d+ of 10 chains are no longer within \+-10; chain \d+ left at Langevin step \d of 4"
    with pytest.raises(FloatingPointError, match=f"{lost}; the last good checkpoint"):
        train(family, far, checkpoint=tmp_path, **settings)


def test_the_density_of_images_is_of_images_with_noise():
    made = recipe("ebm-density", Kind.IMAGES)
    family = made.family(Sizes((1, 8, 8), 1))
    run = family.run
    assert run.temperature == pytest.approx(1)
    assert (run.bounds, run.clip, run.reference_scale) == (None, None, 1.0)
    torch.manual_seed(0)
    values = made.prepare(torch.full((50, 1, 8, 8), 255, dtype=torch.uint8))
    assert values.mean() == pytest.approx(1, abs=0.03)
    assert values.std() == pytest.approx(0.3, abs=0.03)
    stored = made.energy(Sizes((1, 8, 8), 1))
    twin = ENERGIES[stored.name](**stored.arguments)
    twin.load_state_dict(family.energy.state_dict())
    x = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(family.energy(x), twin(x))


@pytest.mark.parametrize("wrong", [{"chains": "here"}, {"count": 0}, {"afresh": 1.5}, {"penalty": -1.0}, {"start_scale": 0.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EBM(DenseEnergy((1,), (8,)), (1,), RUN, **wrong)

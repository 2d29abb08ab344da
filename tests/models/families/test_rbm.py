"""Contrastive divergence: what its gradient is, that it learns, and that persistent chains go on after a kill."""

import numpy as np
import pytest
import torch

from cogen.models import BernoulliRBM, ContrastiveDivergence, GaussianRBM
from cogen.models.families.family import Updates
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import binarised
from cogen.models.training.trainer import train

pytestmark = pytest.mark.usefixtures("one_torch_thread")


def bars(count, seed=0):
    """Pictures of 3 x 3: each column is on or off with probability a half, and each pixel then flips with one tenth."""
    random = torch.Generator().manual_seed(seed)
    columns = torch.randint(2, (count, 1, 1, 3), generator=random).expand(-1, 1, 3, 3)
    return (columns ^ (torch.rand(columns.shape, generator=random) < 0.1)).float()


def best(x):
    """The mean log density of bars by their own distribution."""
    on = x.sum(2)  # (item, 1, column)
    return float((0.5 * (0.9**on * 0.1 ** (3 - on) + 0.1**on * 0.9 ** (3 - on))).log().sum((1, 2)).mean())


def fresh(**settings):
    torch.manual_seed(0)
    return ContrastiveDivergence(BernoulliRBM((1, 3, 3), 6), **settings)


def log_likelihood(rbm):
    return float(-rbm.free_energy(bars(400, seed=1)).detach().mean()) - rbm.log_partition()


@pytest.mark.parametrize("chains", [0, 64])
def test_it_learns_a_distribution_that_can_be_counted(chains):
    family, held_out = fresh(chains=chains, learning_rate=0.2, weight_decay=0.0), bars(400, seed=1)
    family.initialise(bars(2_000))
    assert log_likelihood(family.rbm) < best(held_out) - 1.0
    train(family, bars(2_000), num_steps=1_000, batch_size=64, seed=0, schedule=Falling(1_000), progress=False)
    assert log_likelihood(family.rbm) > best(held_out) - 0.15


def test_its_gradient_is_the_one_of_the_likelihood_where_the_chains_are_exact():
    """With v' the machine's own states, weighed by their probabilities."""
    rbm = BernoulliRBM((4,), 3)
    torch.nn.init.normal_(rbm.weight)
    states = torch.from_numpy((np.arange(16)[:, None] >> np.arange(4)) & 1).float()
    x = states[[3, 7, 9]]
    share = (-rbm.free_energy(states)).softmax(0).detach()
    loss = rbm.free_energy(x).mean() - share @ rbm.free_energy(states)
    exact = rbm.free_energy(x).mean() + (-rbm.free_energy(states)).logsumexp(0)
    for mine, theirs in zip(*(torch.autograd.grad(each, list(rbm.parameters())) for each in (loss, exact)), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_a_step_is_cd_or_pcd(monkeypatch):
    starts = []
    monkeypatch.setattr(BernoulliRBM, "gibbs", lambda self, v, steps: starts.append((v.clone(), steps)) or 1 - v)
    for family in (fresh(steps=3), fresh(chains=5)):
        update = Updates(family, family.optimizers())
        for iteration in range(2):
            family.step((bars(8),), update, iteration)
    (first, steps), (second, _), (chains, _), (later, _) = starts
    assert steps == 3
    assert torch.equal(first, bars(8))
    assert torch.equal(second, bars(8))
    assert len(chains) == 5
    assert torch.equal(later, 1 - chains)


@pytest.mark.parametrize("chains", [0, 8])
def test_resuming_is_exact(chains, tmp_path):
    """The chains are part of the checkpoint."""
    options = {"batch_size": 16, "seed": 3, "progress": False, "average": 0.9, "save_every": 10}
    whole, cut = fresh(chains=chains), fresh(chains=chains)
    trained = train(whole, bars(100), num_steps=30, **options)
    train(cut, bars(100), num_steps=17, checkpoint=tmp_path, **options)
    again = fresh(chains=chains)
    resumed = train(again, bars(100), num_steps=30, checkpoint=tmp_path, **options)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert torch.equal(trained.average.weight, resumed.average.weight)
    assert not torch.equal(trained.average.weight, whole.rbm.weight)
    with pytest.raises(ValueError, match="is of another run"):
        train(fresh(chains=chains, steps=2), bars(100), num_steps=30, checkpoint=tmp_path, **options)


def test_real_units_and_mixed_precision():
    torch.manual_seed(0)
    x = torch.randn(400, 2) * 0.5 + torch.tensor([2.0, -1.0]) * (torch.rand(400, 1) < 0.5)
    family = ContrastiveDivergence(GaussianRBM((2,), 8, scale=0.5), chains=32, learning_rate=0.05)
    family.initialise(x)
    held_out = torch.randn(400, 2) * 0.5 + torch.tensor([2.0, -1.0]) * (torch.rand(400, 1) < 0.5)

    def likelihood():
        return float(-family.rbm.free_energy(held_out).detach().mean()) - family.rbm.log_partition()

    before = likelihood()
    train(family, x, num_steps=400, batch_size=32, seed=0, progress=False)
    assert likelihood() > before + 0.4
    mixed = train(fresh(chains=8), bars(64), num_steps=4, batch_size=16, seed=0, precision="bf16-mixed", progress=False)
    assert np.isfinite(mixed.losses["free_energy_gap"]).all()


def test_bytes_become_0_and_1_by_their_gray():
    torch.manual_seed(0)
    made = binarised(torch.tensor([0, 51, 255], dtype=torch.uint8).expand(20_000, 3))
    assert set(made.unique().tolist()) == {0.0, 1.0}
    assert (made.mean(0) - torch.tensor([0.0, 0.2, 1.0])).abs().max() < 0.015
    assert made[:, 2].all()


@pytest.mark.parametrize(
    ("settings", "data", "said"),
    [
        ({}, torch.full((20, 1, 3, 3), 0.5), "visible units are 0 or 1, but these values range from 0.5 to 0.5: use"),
        ({}, torch.zeros(20, 9), r"v has shape \(4, 9\): give \(item, 1, 3, 3\)"),
        ({}, (torch.zeros(20, 1, 3, 3), torch.zeros(20)), "this family models x alone"),
        ({"steps": 0}, bars(20), "steps=0, chains=0: steps must be at least 1"),
        ({"chains": -1}, bars(20), "chains=-1: steps must be at least 1, and chains 0"),
    ],
)
def test_what_does_not_fit_is_said(settings, data, said):
    with pytest.raises(ValueError, match=said):
        train(fresh(**settings), data, num_steps=1, batch_size=4, seed=0, progress=False)

"""Langevin steps of an energy: the density that they leave as it is, what stays, and what is refused or lost.

Bands are four standard errors of 4,000 independent chains: a test of six numbers fails by chance once in 2,600 runs.
"""

import math

import pytest
import torch

from cogen.inference.torch.short_run import ChainsLost, ShortRun

pytestmark = pytest.mark.usefixtures("one_torch_thread")

CHAINS = 4_000
PRECISION = torch.tensor([[2.0, 0.8], [0.8, 1.0]])


def gaussian(y):
    return -0.5 * ((y @ PRECISION) * y).sum(1)


def chains(run, start=0.0, **kwargs):
    torch.manual_seed(0)
    return run(gaussian, torch.full((CHAINS, 2), start), **kwargs)


def deviations(y, covariance, mean=0.0):
    """Of the moments of y, in standard errors."""
    centred = y - torch.as_tensor(mean)
    found = centred.T @ centred / len(y)
    variance = covariance.diagonal()
    of_second = ((variance[:, None] * variance + covariance.square()) / len(y)).sqrt()
    return torch.cat([centred.mean(0) / (variance / len(y)).sqrt(), ((found - covariance) / of_second).flatten()]).abs()


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_corrected_steps_sample_the_density_at_their_temperature(temperature):
    rate = 0.3
    run = ShortRun(80, rate, math.sqrt(2 * rate * temperature), metropolis=True)
    assert run.temperature == pytest.approx(temperature)
    exact = torch.linalg.inv(PRECISION) * temperature
    assert deviations(chains(run), exact).max() < 4
    # Without the correction, steps of this length have another density.
    uncorrected = ShortRun(80, rate, math.sqrt(2 * rate * temperature))
    assert deviations(chains(uncorrected), exact).max() > 6


def test_uncorrected_steps_have_the_moments_of_their_recursion():
    run = ShortRun.langevin(60, 0.6)
    one_step = torch.eye(2) - run.rate * PRECISION
    covariance = torch.zeros(2, 2)
    for _ in range(run.steps):
        covariance = one_step @ covariance @ one_step + run.noise**2 * torch.eye(2)
    assert deviations(chains(run), covariance).max() < 4


def test_the_reference_is_part_of_the_density():
    run = ShortRun.langevin(80, 0.6, reference_scale=0.8, metropolis=True)
    assert deviations(chains(run), torch.linalg.inv(PRECISION + torch.eye(2) / 0.8**2)).max() < 4


def test_what_is_not_free_stays_and_the_others_are_conditioned_on_it():
    y = chains(ShortRun.langevin(80, 0.8, metropolis=True), 1.5, free=torch.tensor([False, True]))
    assert (y[:, 0] == 1.5).all()
    assert deviations(y[:, 1:], torch.eye(1), mean=-0.8 * 1.5).max() < 4


def test_moves_are_clipped_and_entries_kept_in_bounds():
    steep = ShortRun(3, rate=1.0, noise=0.0, clip=0.1, bounds=(-1.0, 0.25))
    torch.testing.assert_close(steep(lambda y: 100 * y.sum(1), torch.zeros(2, 3)), torch.full((2, 3), 0.25))
    torch.testing.assert_close(steep(lambda y: -100 * y.sum(1), torch.zeros(2, 3)), torch.full((2, 3), -0.3))


def test_no_graph_runs_through_the_steps_and_no_weight_gets_a_gradient():
    network = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.SiLU(), torch.nn.Linear(4, 1))
    start = torch.zeros(3, 2, requires_grad=True)
    y = ShortRun(5, 0.1, 0.1)(lambda y: network(y)[:, 0], start)
    assert not y.requires_grad
    assert all(p.grad is None for p in network.parameters())
    with torch.no_grad():  # gradients of y are taken here too
        assert ShortRun(1, 0.1, 0.0)(gaussian, torch.ones(1, 2)).lt(1).all()


def test_lost_chains_are_named_with_their_step():
    run = ShortRun(6, rate=1.0, noise=0.0, limit=10.0)
    start = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ChainsLost, match=r"1 of 2 chains are no longer within \+-10; chain 1 left at Langevin step 3 of 6"):
        run(lambda y: y.square().sum(1), start)  # y' = 3 y
    with pytest.raises(ChainsLost, match=r"2 of 2 chains are no longer finite; chain 0 left at Langevin step 1 of 2"):
        ShortRun(2, 1.0, 0.0)(lambda y: y.sum(1) * math.nan, start)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"noise": -0.1}, "noise at least 0"),
        ({"rate": 0.0}, "rate=0.0: it must be positive"),
        ({"clip": -1.0}, "clip=-1.0: it must be positive"),
        ({"reference_scale": 0.0}, "reference_scale=0.0"),
        ({"bounds": (1.0, -1.0)}, "the lower one first"),
        ({"metropolis": True, "clip": 0.1}, "the correction requires plain Langevin steps"),
        ({"metropolis": True, "noise": 0.0}, "the correction requires plain Langevin steps"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        ShortRun(**{"steps": 2, "rate": 0.1, "noise": 0.1, **wrong})

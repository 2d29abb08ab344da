"""Schedules rise from 0 to 1, or say why not."""

import numpy as np
import pytest

from cogen.inference.annealing.schedules import Geometric, Linear, Sigmoid, inverse_temperatures


@pytest.mark.parametrize("schedule", [Sigmoid(-10, 4), Sigmoid(-5, 5), Linear(), Geometric(1e-4)])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_they_rise_from_zero_to_one(schedule, count):
    beta = inverse_temperatures(schedule, count)
    assert beta.shape == (count + 1,)
    assert beta[0] == 0.0
    assert beta[-1] == 1.0
    assert (np.diff(beta) > 0).all()


def test_the_sigmoid_is_the_published_one_moved_to_the_ends():
    raw = 1 / (1 + np.exp(-np.linspace(-10, 2, 501)))
    np.testing.assert_allclose(Sigmoid(-10, 2)(500), (raw - raw[0]) / (raw[-1] - raw[0]))


def test_the_geometric_has_one_ratio():
    beta = Geometric(1e-3)(10)
    assert beta[1] == pytest.approx(1e-3)
    np.testing.assert_allclose(beta[2:] / beta[1:-1], 10 ** (3 / 9))


@pytest.mark.parametrize("make", [lambda: Sigmoid(2, 2), lambda: Sigmoid(3, -3), lambda: Geometric(0), lambda: Geometric(1)])
def test_what_cannot_rise_is_refused(make):
    with pytest.raises(ValueError, match=r"below high|between 0 and 1"):
        make()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0, 0.5], "returned values of shape"),
        ([0.1, 0.5, 1], "rise from 0 to 1"),
        ([0, 0.5, 0.9], "rise from 0 to 1"),
        ([0, 1, 1], "rise from 0 to 1"),
        ([0, np.nan, 1], "rise from 0 to 1"),
    ],
)
def test_a_schedule_of_one_s_own_is_checked(values, said):
    with pytest.raises(ValueError, match=said):
        inverse_temperatures(lambda count: np.array(values), 2)

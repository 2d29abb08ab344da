"""Machines whose states can be counted: energies, conditionals, log Z, and the sweeps of block Gibbs.

False alarms: 1e-4 a test, for fixed seeds; a broken sweep has a p-value below 1e-6.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from cogen.models.networks.restricted_boltzmann import BernoulliRBM, GaussianRBM

FALSE_ALARM, DETECTED = 1e-4, 1e-6


def random_weights(rbm, scale=1.0, seed=0):
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
    return rbm


def states(units):
    return torch.from_numpy((np.arange(2**units)[:, None] >> np.arange(units)) & 1).float()


def pairs(rbm):
    """-E of all pairs of states, (visible, hidden)."""
    v, h = states(rbm.num_visible), states(rbm.num_hidden)
    rows = [-rbm.energy(v.unflatten(1, rbm.event_shape), each.expand(len(v), -1)) for each in h]
    return torch.stack(rows, 1).detach().double()


@pytest.fixture
def rbm():
    return random_weights(BernoulliRBM((1, 2, 2), 3))


def test_the_hidden_layer_is_summed_out(rbm):
    joint, v = pairs(rbm), states(4).unflatten(1, (1, 2, 2))
    torch.testing.assert_close(-rbm.free_energy(v).double(), joint.logsumexp(1))
    torch.testing.assert_close(rbm(v), -rbm.free_energy(v))
    assert rbm.log_partition() == pytest.approx(joint.flatten().logsumexp(0).item(), abs=1e-5)


def test_the_conditionals_of_both_layers(rbm):
    joint = pairs(rbm)
    hidden = joint.softmax(1) @ states(3).double()
    torch.testing.assert_close(rbm.hidden_probability(states(4).unflatten(1, (1, 2, 2))).double(), hidden)
    visible = joint.softmax(0).T @ states(4).double()
    torch.testing.assert_close(rbm.reconstruct(states(3)).flatten(1).double(), visible)


@pytest.mark.parametrize(("visible", "hidden"), [(5, 9), (9, 5)])
def test_either_layer_is_enumerated(visible, hidden):
    """And over more states than are taken at once."""
    rbm = random_weights(BernoulliRBM((visible,), hidden), 0.5)
    whole = states(visible + hidden)
    exact = (-rbm.energy(whole[:, :visible], whole[:, visible:])).double().logsumexp(0)
    assert rbm.log_partition() == pytest.approx(exact.item(), abs=1e-5)
    long = random_weights(BernoulliRBM((20,), 15), 0.3)
    swapped = BernoulliRBM((15,), 20)
    with torch.no_grad():
        swapped.weight.copy_(long.weight.T)
        swapped.visible_bias.copy_(long.hidden_bias)
        swapped.hidden_bias.copy_(long.visible_bias)
    assert long.log_partition() == pytest.approx(swapped.log_partition(), abs=1e-9)


def test_real_visible_units_by_quadrature():
    rbm = random_weights(GaussianRBM((1,), 3, scale=0.7))

    grid = torch.linspace(-15, 15, 30_001)
    assert rbm.log_partition() == pytest.approx(
        rbm(grid[:, None]).detach().double().logsumexp(0).item() + math.log(1e-3), abs=1e-4
    )
    given = rbm.energy(torch.tensor([[0.4]]).expand(8, -1), states(3)).neg().softmax(0) @ states(3)
    torch.testing.assert_close(rbm.hidden_probability(torch.tensor([[0.4]]))[0], given)
    h = torch.tensor([[1.0, 0.0, 1.0]])
    v = torch.linspace(-3, 3, 7)[:, None]
    exact = stats.norm(rbm.reconstruct(h).item(), 0.7).logpdf(v[:, 0])
    found = -rbm.energy(v, h.expand(7, -1)).detach().numpy()
    np.testing.assert_allclose(found - found[0], exact - exact[0], atol=1e-4)


# --- sweeps ----------------------------------------------------------------------------------------------------------------


def sweep_p_value(rbm, count=20_000):
    """A sweep from exact draws leaves the distribution of v what it is."""
    mass = pairs(rbm).logsumexp(1).softmax(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = states(4)[torch.multinomial(mass, count, replacement=True)]
        end = rbm.gibbs(start.unflatten(1, (1, 2, 2)), 1).flatten(1)
    found = torch.bincount((end @ (2.0 ** torch.arange(4))).long(), minlength=16)
    return stats.chisquare(found.numpy(), count * mass.numpy()).pvalue


def test_a_sweep_leaves_the_machine_what_it_is(rbm):
    assert sweep_p_value(rbm) > FALSE_ALARM


@pytest.mark.parametrize("broken", ["field", "bias"])
def test_a_broken_sweep_does_not(rbm, broken, monkeypatch):
    right = BernoulliRBM.visible_mean
    mistakes = {
        "field": lambda self, field: right(self, 0.8 * field),
        "bias": lambda self, field: right(self, field - 0.2 * self.visible_bias),
    }
    monkeypatch.setattr(BernoulliRBM, "visible_mean", mistakes[broken])
    assert sweep_p_value(rbm) < DETECTED


def test_sweeps_of_real_units_have_the_exact_moments():
    rbm = random_weights(GaussianRBM((2,), 3, scale=0.5))
    h = states(3).double()
    weight, b, c = (p.detach().double() for p in (rbm.weight, rbm.visible_bias, rbm.hidden_bias))
    means = b + 0.5 * h @ weight
    mass = (h @ c + ((means**2 - b**2) / (2 * 0.25)).sum(1)).softmax(0)
    torch.manual_seed(0)
    v = rbm.gibbs(torch.zeros(20_000, 2), 40).double()
    mean, square = mass @ means, mass @ (means**2) + 0.25
    spread = (square - mean**2).sqrt()
    assert ((v.mean(0) - mean).abs() < 4.5 * spread / math.sqrt(20_000)).all()
    assert ((v.std(0) / spread).log().abs() < 0.05).all()


# --- data ------------------------------------------------------------------------------------------------------------------


def test_biases_from_data():
    x = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    rbm = BernoulliRBM((3,), 2)
    rbm.initialise(x)
    torch.testing.assert_close(rbm.visible_bias.detach().sigmoid(), torch.tensor([3.5, 1.5, 0.5]) / 4)
    assert torch.equal(rbm.base, rbm.visible_bias)
    torch.manual_seed(0)
    with torch.no_grad():
        rbm.visible_bias.zero_()  # what is drawn at the start follows ``base``
    assert (rbm.independent(20_000).mean(0) - torch.tensor([3.5, 1.5, 0.5]) / 4).abs().max() < 0.02
    real = GaussianRBM((3,), 2, scale=0.1)
    real.initialise(x)
    torch.testing.assert_close(real.visible_bias.detach(), x.mean(0))
    assert (real.independent(20_000).mean(0) - x.mean(0)).abs().max() < 0.01
    free = torch.tensor([True, False, True])
    assert rbm.log_reference_partition(free) == pytest.approx(
        2 * math.log(2) + torch.nn.functional.softplus(rbm.base[free]).sum().item(), abs=1e-5
    )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: BernoulliRBM((3,), 0), r"hidden=0: each layer needs at least one unit"),
        (lambda: GaussianRBM((3,), 2, scale=0.0), "scale=0.0: the standard deviation of v given h must be positive"),
        (lambda: BernoulliRBM((30,), 40).log_partition(), "the layer to enumerate has 30 units, but at most 24 are enumerated"),
        (lambda: GaussianRBM((3,), 30).log_partition(), "the layer to enumerate has 30 units.*BlockGibbs"),
        (lambda: BernoulliRBM((3,), 2).initialise(torch.full((4, 3), 0.5)), "0 or 1, but these values range from 0.5 to 0.5"),
        (lambda: GaussianRBM((1,), 2).initialise(torch.tensor([[torch.nan]])), "some of these values are non-finite"),
        (
            lambda: BernoulliRBM((1, 2, 2), 2).free_energy(torch.zeros(4, 4)),
            r"v has shape \(4, 4\): .*item, 1, 2, 2",
        ),
    ],
)
def test_what_does_not_fit_is_said(make, said):
    with pytest.raises(ValueError, match=said):
        make()

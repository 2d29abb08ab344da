"""Machines as models: both libraries' densities, log Z by annealing against enumeration, and clamped Gibbs against exact
conditionals. False alarms: 1e-4 a test, for fixed seeds; a broken transition has a p-value below 1e-6.
"""

import numpy as np
import pyro
import pytest
import torch
from numpyro import handlers
from scipy import stats
from torch import nn

from cogen.diagnostics import log_partition
from cogen.inference import AnnealedHMC, BlockGibbs, infer
from cogen.inference.kernels import block_gibbs
from cogen.models import BernoulliRBM, GaussianRBM, RBMModel

FALSE_ALARM, DETECTED = 1e-4, 1e-6


def machine(kind, shape, hidden, scale=0.7, seed=0, **settings):
    """Random weights, and a reference that is not the machine's own."""
    rbm, random = kind(shape, hidden, **settings), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in rbm.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=random))
        rbm.base.copy_(rbm.visible_bias + 0.3)
    return rbm


def sampled(model, kernel=None, **options):
    settings = {"num_warmup": 20, "num_samples": 1, "num_chains": 64, "seed": 0, "progress": False} | options
    return infer(model, kernel or BlockGibbs(), **settings)


@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("kind", [BernoulliRBM, GaussianRBM])
def test_both_libraries_have_the_machine_s_own_density(kind, some):
    """log q0 and the factor are -E - log Z_0, at every v and h."""
    rbm = machine(kind, (2, 3), 4)
    mask = np.array([[True, False, False], [False, True, False]])
    values = np.array([[[1, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0]]], np.float32)
    model = RBMModel(rbm).clamp(mask, values) if some else RBMModel(rbm).items(2)
    free = int((~mask).sum()) if some else 6
    random = np.random.default_rng(0)
    z, h = (random.integers(2, size=(2, n)).astype(np.float32) for n in (free, 4))
    trace = handlers.trace(handlers.substitute(model.numpyro, data={"z": z, "h": h})).get_trace()
    in_jax = sum(np.asarray(s["fn"].log_prob(s["value"])) for s in trace.values() if s["type"] == "sample")
    known = pyro.condition(model, data={"z": torch.from_numpy(z), "h": torch.from_numpy(h)})
    found = pyro.poutine.trace(known).get_trace()
    found.compute_log_prob()
    in_torch = sum(site["log_prob"] for site in found.nodes.values() if site["type"] == "sample" and "log_prob" in site)
    volume = model.attributes["log_reference_volume"]
    exact = -rbm.energy(torch.from_numpy(model.decode(z)), torch.from_numpy(h)).detach().numpy() - volume
    np.testing.assert_allclose(in_jax, exact, rtol=1e-4)
    np.testing.assert_allclose(in_torch.detach().numpy(), exact, rtol=1e-4)


# --- log Z -----------------------------------------------------------------------------------------------------------------


def errors_of_log_z(rbm, seed, temperatures, runs=1, chains=200):
    """Of AIS as it is published, an estimate for each chain: the errors, and the same in standard errors, (run,)."""
    kernel = BlockGibbs(resample_threshold=0.0, num_populations=chains)
    found = log_partition(sampled(RBMModel(rbm).items(runs), kernel, num_warmup=temperatures, num_chains=chains, seed=seed))
    error = found["estimate"].values - rbm.log_partition()
    return error, np.expm1(error) / found["standard_error"].values


def check_log_z(errors):
    error, z = (np.concatenate(each) for each in zip(*errors, strict=True))
    assert len(error) == 5
    assert np.abs(error).max() < 0.1, error
    assert FALSE_ALARM < stats.chi2.sf((z**2).sum(), len(z)) < 1 - FALSE_ALARM, z


def test_log_z_of_five_independent_runs():
    check_log_z([errors_of_log_z(machine(BernoulliRBM, (5, 5), 16), 0, 300, runs=5)])


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BernoulliRBM, GaussianRBM])
def test_log_z_of_five_seeds_and_machines(kind):
    """Of 15 to 19 hidden units."""
    scale = 0.6 if kind is BernoulliRBM else 0.3
    check_log_z([errors_of_log_z(machine(kind, (25,), 15 + seed, scale, seed), seed, 1_000) for seed in range(5)])


# --- clamped ---------------------------------------------------------------------------------------------------------------


def states(units):
    return torch.from_numpy((np.arange(2**units)[:, None] >> np.arange(units)) & 1).float()


MASK = np.array([True, False, True, False, False, True])
VALUES = np.array([[1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1], [1, 0, 1, 0, 0, 1]], np.float32)


def clamped(chains=4096):
    """A run of a machine with three of six units clamped; of the states of the others the exact probabilities (item, state),
    and the log of their sum."""
    rbm = machine(BernoulliRBM, (6,), 4, scale=1.2)
    model, kernel = RBMModel(rbm).clamp(MASK, VALUES), BlockGibbs(resample_threshold=0.0)
    posterior = sampled(model, kernel, num_samples=15, num_chains=chains, keep_x=True)
    whole = torch.from_numpy(VALUES).repeat_interleave(8, 0)
    whole[:, ~torch.from_numpy(MASK)] = states(3).repeat(3, 1)
    log_mass = rbm(whole).detach().double().reshape(3, 8)
    return posterior, log_mass.softmax(1).numpy(), log_mass.logsumexp(1).numpy()


def clamped_p_value(x, exact):
    """Of independent chains that are long since at their target: a chi-square over the states of each item, Bonferroni."""
    found = [np.bincount((x[:, k, ~MASK] @ [1, 2, 4]).astype(int), minlength=8) for k in range(3)]
    return min(1.0, 3 * min(stats.chisquare(f, len(x) * e).pvalue for f, e in zip(found, exact, strict=True)))


def test_clamped_gibbs_has_the_exact_conditionals():
    posterior, exact, log_sum = clamped()
    x = posterior["posterior"]["x"].values[:, -1]
    assert (x[..., MASK] == VALUES[:, MASK]).all()
    assert clamped_p_value(x, exact) > FALSE_ALARM
    assert np.abs(log_partition(posterior)["estimate"].values - log_sum).max() < 0.1


def test_a_clamp_that_counts_too_little_is_found(monkeypatch):
    """The hidden units are drawn as if a part of what is clamped, and of their biases, were not there."""
    right = block_gibbs.look

    def mistaken(target, u):
        lp, increment, slope = right(target, u)
        return lp, increment, slope - 0.3 * right(target, 0 * u)[2]

    monkeypatch.setattr(block_gibbs, "look", mistaken)
    posterior, exact, _ = clamped()
    assert clamped_p_value(posterior["posterior"]["x"].values[:, -1], exact) < DETECTED


def test_pictures_side_by_side():
    """What the results hold, and that the draws of an item do not depend on the others."""
    rbm = machine(BernoulliRBM, (1, 4, 4), 5)
    mask = np.zeros((1, 4, 4), bool)
    mask[:, :2] = True
    pictures = np.ones((5, 1, 4, 4))
    pictures[1:, :, 0] = 0
    pictures[:, :, 2:] = np.nan
    options = {"items_at_once": 2, "num_chains": 8, "num_samples": 3}
    posterior = sampled(RBMModel(rbm).clamp(mask, pictures), **options)
    some = sampled(RBMModel(rbm).clamp(mask, pictures[[3, 1]]).with_ids([3, 1]), **options)
    for name, last in (("z", "latent"), ("h", "unit")):
        values = posterior["posterior"][name]
        assert values.dims == ("chain", "draw", "item", last)
        assert set(np.unique(values)) == {0.0, 1.0}
        np.testing.assert_array_equal(values.values[:, :, [3, 1]], some["posterior"][name].values)
    assert not np.array_equal(*some["posterior"]["z"].values.transpose(2, 0, 1, 3))  # they have seen the same
    mean = posterior["predictions"]["x_mean"]
    assert mean.dims == ("item", "channel", "height", "width")
    np.testing.assert_array_equal(mean.values[:, :, :2], pictures[:, :, :2])
    assert (mean.values[:, :, 2:].std() > 0).all()
    shown = posterior["observed_data"]["clamped"].values
    np.testing.assert_array_equal(shown, pictures)
    assert posterior["posterior"].attrs["evidence_of"] == "Z / Z of the base rates"


CLAMP = np.array([[True, False, False], [False, False, False]])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda m: RBMModel(nn.Linear(2, 2)), TypeError, "takes a BernoulliRBM or a GaussianRBM, not Linear"),
        (lambda m: m.items(0), ValueError, "at least 1"),
        (lambda m: m.clamp(CLAMP.astype(int), np.zeros((1, 2, 3))), TypeError, "the mask must be boolean, True = fixed"),
        (lambda m: m.clamp(CLAMP[:1], np.zeros((1, 2, 3))), ValueError, r"the mask has shape \(1, 3\), expected \(2, 3\)"),
        (lambda m: m.clamp(~CLAMP & CLAMP, np.zeros((1, 2, 3))), ValueError, "fixes 0 of 6 entries"),
        (lambda m: m.clamp(CLAMP, np.zeros((2, 3))), ValueError, r"the values have shape \(2, 3\), expected \(item, 2, 3\)"),
        (lambda m: m.clamp(CLAMP, np.full((1, 2, 3), 0.5)), ValueError, "visible units are 0 or 1"),
        (lambda m: m.condition(x=1), ValueError, "x: an RBM has no views; clamp its visible units"),
        (lambda m: m.items(2).with_ids([1, 2, 3]), ValueError, "3 ids for 2 items"),
        (lambda m: sampled(m.items(1), AnnealedHMC()), ValueError, r"is discrete .*use BlockGibbs for two layers"),
    ],
)
def test_what_does_not_fit_is_said(make, error, said):
    with pytest.raises(error, match=said):
        make(RBMModel(BernoulliRBM((2, 3), 4)))

"""Pyro guides: fitted by SVI through `infer`, and as starts of an annealing.

False alarms: at most 1e-4 for each statistical test, with fixed seeds.
"""

import functools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from known import LinearCase, moments_p_value, repeated_means_p_value
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoLaplaceApproximation,
    AutoMultivariateNormal,
    AutoNormal,
)

from cogen.diagnostics import log_evidence
from cogen.inference import PyroAnnealedHMC, PyroGuideStart, PyroSVI, fit_pyro_guide, infer
from cogen.inference.kernels.kernel import ExactDraws
from cogen.inference.seeds import id_halves
from cogen.inference.torch.random_numbers import Random

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4
LATENT, ITEMS = 2, 16


@pytest.fixture(scope="module")
def case():
    return LinearCase(ITEMS, latent_dim=LATENT, outputs=6, seen=4)


@pytest.fixture(scope="module")
def few():
    return LinearCase(3, latent_dim=LATENT, outputs=6, seen=4)


def run(model, kernel, *, num_warmup=40, num_chains=32, num_samples=2, seed=1, **options):
    counts = {"num_warmup": num_warmup, "num_chains": num_chains, "num_samples": num_samples}
    return infer(model, kernel, seed=seed, progress=False, **counts, **options)


FAST = functools.partial(PyroSVI, optimizer=pyro.optim.Adam({"lr": 0.05}))


@pytest.mark.parametrize("guide", [AutoMultivariateNormal, AutoLaplaceApproximation])
def test_guides_that_hold_the_posterior_find_it_and_its_evidence(few, guide):
    found = run(few.conditioned, FAST(guide), num_warmup=300, num_chains=64, num_samples=20)
    z = found["posterior"]["z"]
    assert z.dims == ("chain", "draw", "item", "latent")
    np.testing.assert_allclose(few.whitened(z.values).mean(axis=(0, 1)), 0.0, atol=1.2)  # Adam's noise, in posterior sds
    np.testing.assert_allclose(log_evidence(found)["estimate"].values, few.log_evidence, atol=0.2)
    assert (np.abs(found["warmup_sample_stats"]["elbo"].values[-1] - few.log_evidence) < 3.0).all()
    assert found["posterior"].attrs["evidence_kind"] == "importance"
    # a step of the fit is one gradient, a draw one per chain
    assert found["sample_stats"]["gradient_evaluations"].values.tolist() == [300 + 64 * 20] * 3


@pytest.mark.parametrize(("guide", "share"), [(AutoNormal, 0.3), (AutoDiagonalNormal, 0.0)])
def test_annealing_from_a_guide_is_exact(case, guide, share):
    start = FAST(guide).fit(case.conditioned, num_steps=20, seed=0, prior_share=share)
    posterior = run(case.conditioned, PyroAnnealedHMC(num_leapfrog=3, step_size=0.35, initial=start), num_chains=64)
    assert moments_p_value(case, posterior) > FALSE_ALARM


def test_steps_of_a_fit_are_functions_of_their_arguments(few):
    stored = set(pyro.get_param_store().keys())
    recipe = FAST(AutoDiagonalNormal)
    kernel, target = recipe.kernel(6, 4), recipe.target(few.conditioned, num_chains=4)
    random = Random.of(0, id_halves(target.ids))
    states = [kernel.init(target, random, ExactDraws(4))]
    for k in range(6):
        states.append(kernel.step(target, random.at(k), states[k])[0])
    moved = states[6].fits[1].values["AutoDiagonalNormal.loc"] - states[2].fits[1].values["AutoDiagonalNormal.loc"]
    assert moved.abs().max() > 0.1  # of four steps at a learning rate of 0.05
    again = kernel.step(target, random.at(2), states[2])[0]
    assert torch.equal(again.elbo, states[3].elbo)
    for one, other in zip(again.fits, states[3].fits, strict=True):
        assert all(torch.equal(one.values[name], other.values[name]) for name in other.values)
    draws = [kernel.step(target, random.at(6), states[6])[0].point.u for _ in range(2)]
    assert torch.equal(*draws)
    assert set(pyro.get_param_store().keys()) == stored


def test_a_guide_is_fitted_by_a_function(case):
    options = {"num_steps": 20, "seed": 0, "prior_share": 0.3}
    settings = {"optimizer": pyro.optim.Adam({"lr": 0.05}), "num_particles": 2}
    start = fit_pyro_guide(case.conditioned, AutoNormal, **options, **settings, progress=False)
    method = PyroSVI(AutoNormal, **settings).fit(case.conditioned, **options)
    starts = [each.bind(ITEMS, LATENT).draw(3, 4) for each in (start, method) if torch.manual_seed(0)]
    assert torch.equal(*starts)
    assert start.prior_share == 0.3
    for wrong, said in (
        ({"prior_share": 2.0}, r"prior_share=2\.0"),
        ({"seed": -1}, "seed=-1"),
        ({"num_steps": 0}, "num_warmup=0"),
    ):
        with pytest.raises(ValueError, match=said):
            fit_pyro_guide(case.conditioned, AutoNormal, **{**options, **wrong}, progress=False)


def test_a_fit_has_no_checkpoint(few, tmp_path):
    with pytest.raises(ValueError, match="a kernel whose state is arrays"):
        run(few.conditioned, FAST(AutoNormal), checkpoint=tmp_path / "run")


def test_the_normals_of_all_items_are_fitted_at_once_as_one_by_one(few):
    """Two guides of the same family; the noise of their gradients differs."""
    at_once, by_item = (
        run(few.conditioned, FAST(guide, num_particles=4), num_warmup=100, num_chains=256)["posterior"]["z"].values
        for guide in (AutoNormal, AutoDiagonalNormal)
    )
    np.testing.assert_allclose(at_once.mean(axis=(0, 1)), by_item.mean(axis=(0, 1)), atol=0.3)
    np.testing.assert_allclose(at_once.std(axis=(0, 1)), by_item.std(axis=(0, 1)), rtol=0.3)


def test_a_start_whose_density_is_not_its_own_fails(case, monkeypatch):
    start = FAST(AutoNormal).fit(case.conditioned, num_steps=20, seed=0, prior_share=0.3)
    right = PyroGuideStart.log_density
    monkeypatch.setattr(PyroGuideStart, "log_density", lambda self, u: right(self, 2.0 * u))
    posterior = run(case.conditioned, PyroAnnealedHMC(num_leapfrog=3, step_size=0.35, initial=start), num_chains=64)
    assert moments_p_value(case, posterior) < FALSE_ALARM


def encoder(data):
    """A guide function, as an encoder is: it reads the data, and has the model's plate and site."""
    pixels = torch.as_tensor(data["seen"]["value"]).flatten(1).nan_to_num()
    with pyro.plate("item", len(pixels), dim=-1):
        pyro.sample("z", dist.Normal(0.1 * pixels[:, :LATENT], 0.8).to_event(1))


def test_a_guide_function_of_the_data(case):
    start = PyroGuideStart(encoder, prior_share=0.2)
    posterior = run(case.conditioned, PyroAnnealedHMC(num_leapfrog=3, step_size=0.35, initial=start), num_chains=64)
    assert moments_p_value(case, posterior) > FALSE_ALARM


def test_a_function_is_fitted_to_all_items_at_once(case):
    spread = torch.nn.Linear(case.conditioned.item_data["seen"]["value"].shape[-1], LATENT)

    def amortised(data):
        pyro.module("spread", spread)
        pixels = torch.as_tensor(data["seen"]["value"]).nan_to_num()
        scale = pyro.param("scale", torch.ones(LATENT), constraint=dist.constraints.positive)
        with pyro.plate("item", len(pixels), dim=-1):
            pyro.sample("z", dist.Normal(spread(pixels), scale).to_event(1))

    pyro.clear_param_store()
    found = run(case.conditioned, FAST(amortised), num_warmup=200, num_chains=64, num_samples=10)
    # the posterior's mean is linear in the data, but its covariance is no diagonal: the ELBO is below the evidence
    elbo = found["warmup_sample_stats"]["elbo"].values[-20:].mean()
    assert case.log_evidence.mean() - 3.0 < elbo < case.log_evidence.mean() + 0.3
    np.testing.assert_allclose(log_evidence(found)["estimate"].values, case.log_evidence, atol=0.8)
    pyro.clear_param_store()


def two_modes():
    """Weights 0.9 and 0.1, eight standard deviations apart, evidence one."""
    z = pyro.sample("z", dist.Normal(0.0, 5.0))
    parts = [np.log(weight) + dist.Normal(mean, 1.0).log_prob(z) for weight, mean in ((0.9, -4.0), (0.1, 4.0))]
    pyro.factor("y", torch.logaddexp(*parts) - dist.Normal(0.0, 5.0).log_prob(z))


def test_the_prior_s_share_keeps_the_mode_that_the_guide_has_lost():
    near = torch.distributions.Independent(torch.distributions.Normal(torch.tensor([-4.0]), torch.tensor([1.0])), 1)
    quantities = []
    for seed in range(8):
        kernel = PyroAnnealedHMC(num_leapfrog=4, step_size=0.5, initial=PyroGuideStart(near, prior_share=0.3))
        posterior = run(two_modes, kernel, num_chains=512, num_samples=1, num_warmup=25, seed=seed)
        weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0])
        right = posterior["posterior"]["z"].values[:, 0] > 0
        quantities.append([(weight * right).mean() - 0.1, weight.mean() - 1.0])
    assert repeated_means_p_value(np.array(quantities)) > FALSE_ALARM
    assert np.mean(quantities, axis=0) == pytest.approx([0.0, 0.0], abs=0.03)


def constrained():
    top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
    share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    pyro.sample("y", dist.Normal((share * torch.arange(3.0)).sum(), top), obs=torch.tensor(1.2))


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_several_constrained_sites(guide):
    """The evidence from the prior, from an autoguide and from a guide function with the model's sites agree."""

    def function():
        pyro.sample("top", dist.LogNormal(-0.2, 0.6))
        pyro.sample("share", dist.Dirichlet(torch.tensor([2.0, 2.0, 2.0])))

    starts = [None, FAST(guide).fit(constrained, num_steps=100, seed=0), PyroGuideStart(function, prior_share=0.3)]
    kernels = [PyroAnnealedHMC(num_leapfrog=3, step_size=0.3, initial=start) for start in starts]
    found = [float(log_evidence(run(constrained, kernel, num_chains=512))["estimate"]) for kernel in kernels]
    np.testing.assert_allclose(found, found[0], atol=0.1)


# --- refusals ------------------------------------------------------------------------------------------------------


def other_site(data):
    with pyro.plate("item", len(data["seen"]["value"]), dim=-1):
        pyro.sample("w", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))


def other_shape(data):
    with pyro.plate("item", len(data["seen"]["value"]), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT + 1), 1.0).to_event(1))


def flat(*shape):
    return torch.distributions.Independent(torch.distributions.Normal(torch.zeros(shape), torch.ones(shape)), 1)


@pytest.mark.parametrize(
    ("guide", "said"),
    [
        (other_site, r"the guide has the sites \['w'\]"),
        (other_shape, "the guide's site 'z' has shape"),
        (flat(3), r"draws \(3,\) numbers, an item has 2"),
        (flat(3, LATENT), r"batch shape \(3,\)"),
        ([flat(LATENT)] * 3, "3 guides, but this run has 16 items"),
    ],
    ids=["site", "shape", "dim", "batch", "guides"],
)
def test_guides_that_do_not_fit(case, guide, said):
    with pytest.raises(ValueError, match=said):
        run(case.conditioned, PyroAnnealedHMC(initial=PyroGuideStart(guide)), num_chains=8)


def test_what_is_no_guide():
    with pytest.raises(ValueError, match=r"prior_share=1\.5"):
        PyroGuideStart(flat(2), prior_share=1.5)
    with pytest.raises(TypeError, match="is not a guide"):
        PyroGuideStart(3.0)
    with pytest.raises(ValueError, match="AutoDelta has no density"):
        PyroSVI(AutoDelta)
    with pytest.raises(ValueError, match="pass the class AutoNormal"):
        PyroSVI(AutoNormal(constrained))
    with pytest.raises(ValueError, match="num_particles=0"):
        PyroSVI(AutoNormal, num_particles=0)
    with pytest.raises(ValueError, match="num_warmup=0"):
        run(constrained, PyroSVI(AutoNormal), num_warmup=0, num_chains=4)
    fitted = AutoLaplaceApproximation(constrained)
    fitted()
    with pytest.raises(ValueError, match="laplace_approximation"):
        run(constrained, PyroAnnealedHMC(initial=PyroGuideStart(fitted)), num_chains=8)


def test_a_fit_that_explodes_is_said():
    """The ELBO is no number far out, and the learning rate leads there."""

    def cliff():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("y", torch.where(z < 100, z, torch.nan))

    with (
        pyro.validation_enabled(False),
        pytest.warns(UserWarning, match="NaN"),
        pytest.raises(ValueError, match="ELBO of fit 0 is non-finite"),
    ):
        run(cliff, PyroSVI(AutoNormal, optimizer=pyro.optim.Adam({"lr": 500.0})), num_warmup=50, num_chains=4)

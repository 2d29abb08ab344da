"""The annealed kernel on Pyro: exact where the answer is known, for models of every shape, and its life inside Pyro's MCMC.

`known.moments_p_value` puts means, products and the evidence to tests over items (see test_exactness). False alarms: at most
1e-4 for each statistical test, with fixed seeds.
"""

import inspect

import jax
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from known import LinearCase, moments_p_value, repeated_means_p_value
from pyro.infer import MCMC
from scipy import stats
from torch import nn

from cogen.diagnostics import log_evidence
from cogen.inference import Adaptive, AnnealedHMC, Ladder, MovingAverage, PyroAnnealedHMC, RecordedSteps, Sigmoid, infer
from cogen.inference.kernels import annealed_hmc
from cogen.inference.kernels.kernel import ExactDraws
from cogen.inference.seeds import id_halves
from cogen.inference.torch import annealed_hmc as pyro_annealed_hmc
from cogen.inference.torch.random_numbers import Random
from cogen.models import CoGenerator, views

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4
WARMUP = 60
QUICK = {"num_samples": 2, "num_chains": 8, "seed": 0, "progress": False}


def run(model, kernel, *, seed=1, num_warmup=WARMUP, num_chains=32, num_samples=2, **options):
    return infer(
        model,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        progress=False,
        **options,
    )


class Repeated:
    """An `ItemModel` whose items are repetitions of one Pyro density over a scalar, with the prior Normal(0, prior_scale)."""

    dims = {"z": ("latent",), "x": ("latent",)}  # noqa: RUF012
    event_shape = (1,)
    attributes: dict = {}  # noqa: RUF012

    def __init__(self, log_likelihood, prior_scale, items):
        self.log_likelihood, self.prior_scale = log_likelihood, prior_scale
        self.item_data = {"y": {"value": np.zeros((items, 1), np.float32)}}

    def condition(self, **data):
        return self

    def __call__(self, data=None):
        with pyro.plate("item", len(data["y"]["value"]), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), self.prior_scale).to_event(1))
            pyro.factor("y", self.log_likelihood(z[..., 0]))

    def numpyro(self, data=None):
        raise NotImplementedError

    def decode(self, z):
        return z

    def simulate(self, x, sites, *, seed):
        return {}

    def result_groups(self):
        return {}


def gauss():
    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(z.sum(), 0.5), obs=torch.tensor(1.0))


# --- exactness -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24, latent_dim=4, outputs=16, seen=8)


@pytest.fixture(scope="module")
def pilot(case):
    return run(case.conditioned, PyroAnnealedHMC(num_leapfrog=4, resample_threshold=0.0), seed=0, num_chains=8)


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["ais", "resampling"])
def frozen(request, case, pilot):
    kernel = PyroAnnealedHMC(num_leapfrog=4, resample_threshold=request.param, step_size=RecordedSteps.of(pilot))
    return run(case.conditioned, kernel, num_chains=64)


def test_it_is_exact(case, frozen):
    assert moments_p_value(case, frozen) > FALSE_ALARM
    assert frozen["posterior"].attrs["adapted"] == 0
    found = log_evidence(frozen)
    error = found["estimate"].values - case.log_evidence
    assert repeated_means_p_value(np.exp(error)[:, None] - 1) > FALSE_ALARM
    assert abs(np.log(np.exp(error).mean())) < 0.13  # 4.5 standard errors of a mean over 24 items: 0.029, from 16 seeds
    assert np.sqrt(np.mean(error**2)) < 0.2


def test_a_run_has_the_groups_of_the_jax_kernel(case, frozen, pilot):
    posterior, statistics, path = frozen["posterior"], frozen["sample_stats"], frozen["warmup_sample_stats"]
    assert posterior["z"].dims == ("chain", "draw", "item", "latent")
    assert statistics["log_weight"].dims == ("chain", "draw", "item")
    assert {"acceptance_rate", "step_size", "diverging", "lp", "energy", "n_steps", "ancestor", "population"} <= set(statistics)
    assert path["beta"].dims == ("draw", "item")
    assert {"transition", "acceptance_rate", "step_size", "weight_ess", "ancestors", "log_evidence"} <= set(path)
    # one at the start, then L per transition, for each chain
    assert statistics["gradient_evaluations"].values.tolist() == [64 * (1 + 4 * (WARMUP + 2))] * 24
    assert posterior.attrs["evidence_kind"] == "annealed"
    assert posterior.attrs["num_populations"] == 4
    assert pilot["posterior"].attrs["adapted"] == 1
    assert set(frozen["predictions"]) == {"x_mean", "x_sd"}
    ancestors = statistics["ancestor"].values[:, 0]
    if np.ptp(statistics["log_weight"].values[:, 0, 0]) > 0:
        assert (ancestors == np.arange(64)[:, None]).all()
    else:
        assert np.ptp(statistics["log_weight"].values, axis=(0, 1)).max() == 0
        assert np.unique(ancestors[:, 0]).size < 64
    lp = -0.5 * (case.whitened(posterior["z"].values) ** 2).sum(-1)  # log posterior up to a constant per item
    difference = statistics["lp"].values - lp
    assert np.ptp(difference - difference[:1, :1], axis=None) < 1e-3


@pytest.mark.parametrize("threshold", [0.0, 0.7], ids=["ais", "resampling"])
def test_both_modes_have_their_weights(threshold):
    """Weights 0.9 and 0.1, eight standard deviations apart, normalised so that the evidence is one."""

    def log_likelihood(z):
        def log_prob(mean):
            return dist.Normal(mean, 1.0).log_prob(z)

        return torch.logaddexp(np.log(0.9) + log_prob(-4.0), np.log(0.1) + log_prob(4.0)) - dist.Normal(0.0, 5.0).log_prob(z)

    kernel = PyroAnnealedHMC(num_leapfrog=4, step_size=0.5, resample_threshold=threshold)
    posterior = run(Repeated(log_likelihood, 5.0, items=64), kernel, num_chains=64, num_samples=1, num_warmup=80)
    weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0])  # (chain, item), Z = 1
    right = posterior["posterior"]["z"].values[:, 0, :, 0] > 0
    quantities = np.stack([(weight * right).mean(axis=0) - 0.1, weight.mean(axis=0) - 1.0], axis=1)
    assert repeated_means_p_value(quantities) > FALSE_ALARM
    assert ((weight * right).sum(axis=0) / weight.sum(axis=0)).mean() == pytest.approx(0.1, abs=0.02)


# --- broken on purpose ---------------------------------------------------------------------------------------------


def accepts_everything(monkeypatch):
    right = pyro_annealed_hmc.trajectory
    monkeypatch.setattr(pyro_annealed_hmc, "trajectory", lambda t, normal, u, *rest: right(t, normal, 0.0 * u, *rest))


def starts_with_the_prior_s_gradient(monkeypatch):
    right = pyro_annealed_hmc.trajectory

    def stale(target, normal, u, start, *rest):
        return right(target, normal, u, start._replace(increment_gradient=0.0 * start.increment_gradient), *rest)

    monkeypatch.setattr(pyro_annealed_hmc, "trajectory", stale)


def resamples_and_keeps_the_weights(monkeypatch):
    right = pyro_annealed_hmc.resample

    def careless(uniform, particles, *rest):
        slots = torch.arange(len(particles.ancestor))[:, None].expand_as(particles.ancestor)
        new = right(uniform, particles._replace(ancestor=slots), *rest)
        kept = particles.log_weight.gather(0, new.ancestor)
        return new._replace(log_weight=kept, ancestor=particles.ancestor.gather(0, new.ancestor))

    monkeypatch.setattr(pyro_annealed_hmc, "resample", careless)


def small_setting(case):
    return run(case.conditioned, PyroAnnealedHMC(num_leapfrog=3, resample_threshold=0.7, step_size=0.35), num_chains=64)


@pytest.mark.parametrize("broken", [accepts_everything, starts_with_the_prior_s_gradient, resamples_and_keeps_the_weights])
def test_a_broken_kernel_fails(case, broken, monkeypatch):
    broken(monkeypatch)
    assert moments_p_value(case, small_setting(case)) < FALSE_ALARM


def test_the_small_setting_is_right_when_it_is_not_broken(case):
    assert moments_p_value(case, small_setting(case)) > FALSE_ALARM


# --- any Pyro model ------------------------------------------------------------------------------------------------

COUNTS = torch.tensor([3.0, 5.0, 1.0])


def rates():
    """Exponential counts' rates in a plate, one of them tilted by a factor: conjugate, with sums over the plate inside."""
    with pyro.plate("place", 3):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("count", dist.Poisson(rate), obs=COUNTS)
    pyro.factor("tilt", -0.5 * rate.sum())


def test_constrained_sites_plates_and_factors():
    """Gamma(2, 1) with Poisson counts and exp(-rate / 2): Gamma(2 + count, 2.5), evidence in closed form."""
    posterior = run(rates, PyroAnnealedHMC(num_leapfrog=5, step_size=0.3), num_chains=1024)
    rate = posterior["posterior"]["rate"]
    assert rate.dims == ("chain", "draw", "rate_dim_0")
    assert (rate.values > 0).all()
    shape = 2 + COUNTS.numpy()
    # at least about 400 of 1,024 chains of different descent
    error = np.sqrt(shape / 2.5**2 / 400)
    assert (np.abs(rate.values[:, -1].mean(axis=0) - shape / 2.5) < 4 * error).all()
    exact = sum(torch.lgamma(torch.tensor(s)) - s * np.log(2.5) - torch.lgamma(torch.tensor(s - 1.0)) for s in shape)
    assert float(log_evidence(posterior)["estimate"]) == pytest.approx(float(exact), abs=0.15)


def test_the_density_is_the_joint_of_pyro_s_own_trace():
    """Sites in a simplex and above one another, supports that depend on other sites, a scale and a mask: term by term."""

    def model():
        top = pyro.sample("top", dist.LogNormal(0.0, 0.5))
        low = pyro.sample("low", dist.Uniform(torch.zeros(()), top))
        share = pyro.sample("share", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
        with (
            pyro.plate("row", 4),
            pyro.poutine.scale(scale=2.0),
            pyro.poutine.mask(mask=torch.tensor([True, True, False, True])),
        ):
            pyro.sample("y", dist.Normal(low + (share * torch.arange(3.0)).sum(), top), obs=torch.arange(4.0))

    kernel = PyroAnnealedHMC(model, num_chains=8, num_leapfrog=2, step_size=0.05)
    kernel.setup(4)
    for _ in range(3):
        values = kernel.sample()
    assert kernel.state.point.values["share"].shape == (8, 1, 3)
    for chain in range(8):
        at = {name: value[chain] for name, value in values.items()}
        trace = pyro.poutine.trace(pyro.condition(model, data=at)).get_trace()
        trace.compute_log_prob()
        increment = trace.nodes["y"]["log_prob_sum"]
        assert float(kernel.state.point.increment[chain, 0]) == pytest.approx(float(increment), rel=1e-5, abs=1e-4)
        reference = sum(trace.nodes[name]["log_prob_sum"] for name in ("top", "low", "share"))
        u, jacobian = kernel.state.point.u[chain, 0], 0.0
        for name, size in (("top", 1), ("low", 1), ("share", 2)):
            transform = torch.distributions.biject_to(trace.nodes[name]["fn"].support)
            part, u = u[:size], u[size:]
            jacobian = jacobian + transform.log_abs_det_jacobian(part if name == "share" else part[0], at[name])
        assert float(kernel.state.point.reference[chain, 0]) == pytest.approx(float(reference + jacobian), rel=1e-5, abs=1e-4)


def test_inside_pyro_s_mcmc():
    pyro.set_rng_seed(0)
    kernel = PyroAnnealedHMC(gauss, num_chains=256, num_leapfrog=3, step_size=0.3)
    mcmc = MCMC(kernel, num_samples=4, warmup_steps=30, num_chains=1, disable_progbar=True)
    mcmc.run()
    z = mcmc.get_samples()["z"]
    assert z.shape == (4, 256, 2)  # (draw, chain, latent)
    assert mcmc.get_samples(group_by_chain=True)["z"].shape == (1, 4, 256, 2)
    assert z[-1].sum(-1).mean() == pytest.approx(2 / 2.25, abs=0.2)  # posterior of the sum: Normal(8/9, 2/9)
    said = mcmc.diagnostics()
    assert (said["beta"]["chain 0"] == 1).all()
    evidence = float(dist.Normal(0.0, np.sqrt(2.25)).log_prob(torch.tensor(1.0)))
    assert float(said["log_weight"]["chain 0"][0]) == pytest.approx(evidence, abs=0.15)
    assert list(kernel.logging()) == ["beta", "acc. prob", "step size"]
    pyro.set_rng_seed(0)
    again = MCMC(PyroAnnealedHMC(gauss, num_chains=256, num_leapfrog=3, step_size=0.3), 4, 30, disable_progbar=True)
    again.run()
    assert torch.equal(again.get_samples()["z"], z)


def test_items_inside_pyro_s_mcmc(case):
    kernel = PyroAnnealedHMC(case.conditioned, num_chains=8, num_leapfrog=2)
    mcmc = MCMC(kernel, num_samples=2, warmup_steps=4, disable_progbar=True)
    mcmc.run()
    assert mcmc.get_samples()["z"].shape == (2, 8, 24, 4)  # (draw, chain, item, latent)


class Untranslatable(torch.autograd.Function):
    """An autograd Function without a vmap rule, which no bridge knows."""

    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.sin()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0].cos()


class OddGenerator(nn.Module):
    """torch.linalg (which raises on NaN) and a function that cannot be translated."""

    def forward(self, z):
        gram = torch.eye(3) + z[:, :, None] * z[:, None, :]
        return Untranslatable.apply(torch.linalg.cholesky(gram).flatten(1)) + z.repeat(1, 3)


@pytest.fixture(scope="module")
def odd():
    mask = torch.arange(9) < 5
    model = CoGenerator(OddGenerator(), latent_dim=3, views={"seen": views.Mask(mask, scale=0.3)})
    return model.condition(seen=torch.randn(3, 9, generator=torch.Generator().manual_seed(0)))


def test_a_generator_that_cannot_be_translated(odd):
    state = torch.random.get_rng_state()
    posterior = run(odd, PyroAnnealedHMC(num_leapfrog=3), num_warmup=20, num_chains=16, keep_x=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.isfinite(posterior["posterior"]["z"].values).all()
    assert posterior["posterior"]["x"].shape == (16, 2, 3, 9)
    assert posterior["sample_stats"]["acceptance_rate"].values.mean() > 0.3
    again = run(odd, PyroAnnealedHMC(num_leapfrog=3), num_warmup=20, num_chains=16)
    assert (again["posterior"]["z"].values == posterior["posterior"]["z"].values).all()
    other = run(odd, PyroAnnealedHMC(num_leapfrog=3), num_warmup=20, num_chains=16, seed=2)
    assert (other["posterior"]["z"].values != posterior["posterior"]["z"].values).any()


def test_a_model_that_vmap_refuses_runs_chain_by_chain():
    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        spread = 1.0 if z.item() > -100 else 2.0
        pyro.sample("y", dist.Normal(z, spread), obs=torch.tensor(2.0))

    with pytest.warns(UserWarning, match="one after another"):
        posterior = run(model, PyroAnnealedHMC(num_leapfrog=3, step_size=0.4), num_warmup=10, num_chains=64)
    assert posterior["posterior"]["z"].values.mean() == pytest.approx(1.0, abs=0.4)
    assert float(log_evidence(posterior)["estimate"]) == pytest.approx(-np.log(2 * np.sqrt(np.pi)) - 1.0, abs=0.4)


def test_trajectories_that_are_not_finite_are_rejected_and_counted():
    """The generator's gradient and value are NaN beyond 1: the posterior is cut there."""

    class Cut(nn.Module):
        def forward(self, z):
            return z + 0.0 * (1.0 - z).log()

    model = CoGenerator(Cut(), latent_dim=1, views={"y": views.Identity(scale=1.0)}).condition(y=np.zeros((2, 1)))
    with pytest.warns(UserWarning, match="non-finite gradient or log density and were rejected: items 0"):
        posterior = run(model, PyroAnnealedHMC(num_leapfrog=3, step_size=0.5), num_warmup=40, num_chains=64, num_samples=10)
    z = posterior["posterior"]["z"].values
    assert (z < 1).all()
    cut = dist.Normal(0.0, np.sqrt(0.5))
    inside = float(cut.cdf(torch.tensor(1.0)))
    density = float(cut.log_prob(torch.tensor(1.0)).exp())
    assert z.mean() == pytest.approx(-0.5 * density / inside, abs=0.15)
    evidence = np.log(inside) - 0.5 * np.log(4 * np.pi)
    np.testing.assert_allclose(log_evidence(posterior)["estimate"].values, evidence, atol=0.4)
    assert (posterior["sample_stats"]["nonfinite"].values[:, -1].sum(axis=0) > 0).all()


# --- other paths ---------------------------------------------------------------------------------------------------


def log_likelihood(z):
    return dist.Normal(z, 0.5).log_prob(torch.tensor(1.0))


@pytest.mark.parametrize("initial", [dist.Normal(1.5, 0.8), {"z": torch.distributions.Normal(torch.zeros(1), 0.7)}])
def test_another_start_has_the_same_evidence(initial):
    answer = float(dist.Normal(0.0, np.sqrt(1.25)).log_prob(torch.tensor(1.0)))
    kernel = PyroAnnealedHMC(initial=initial, num_leapfrog=3, step_size=0.3, resample_threshold=0.6)
    posterior = run(Repeated(log_likelihood, 1.0, items=48), kernel, num_warmup=30, num_samples=1)
    weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0] - answer)
    z = posterior["posterior"]["z"].values[:, 0, :, 0]
    quantities = np.stack([weight.mean(0) - 1, (weight * (z - 0.8)).mean(0), (weight * ((z - 0.8) ** 2 - 0.2)).mean(0)], axis=1)
    assert repeated_means_p_value(quantities) > FALSE_ALARM


def test_the_paper_s_own_path_has_no_evidence():
    kernel = PyroAnnealedHMC(
        schedule=Sigmoid(-10, 2), num_leapfrog=8, step_size=MovingAverage(initial=0.2), resample_threshold=0.0, flat_prior=True
    )
    posterior = run(Repeated(log_likelihood, 1.0, items=4), kernel, num_warmup=40, num_chains=64)
    with pytest.raises(ValueError, match="no evidence"):
        log_evidence(posterior)
    z = posterior["posterior"]["z"].values[:, -1, :, 0]
    assert z.mean() == pytest.approx(1.0, abs=0.2)  # the likelihood's mean, where the posterior's would be 0.8
    assert z.std() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
def test_an_inverse_mass_leaves_the_posterior_as_it_is(kind):
    scales = torch.tensor([0.02, 3.0])
    correlation = torch.eye(2) if kind == "diagonal" else torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    covariance = torch.outer(scales, scales) * correlation

    def model():
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 3.0).to_event(1))
        exact = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(z)
        pyro.factor("y", exact - dist.Normal(0.0, 3.0).log_prob(z).sum())

    kernel = PyroAnnealedHMC(
        schedule=Sigmoid(-12, 4),
        inverse_mass=(scales**2 if kind == "diagonal" else covariance).numpy(),
        step_size=0.3,
        num_leapfrog=4,
        moves_per_temperature=2,
    )
    posterior = run(model, kernel, num_warmup=80, num_chains=384, num_samples=1)
    whitened = np.linalg.solve(np.linalg.cholesky(covariance.numpy()), posterior["posterior"]["z"].values[:, -1].T)
    # 384 chains, about 150 of them of different descent: standard errors of 0.08 and 0.12
    np.testing.assert_allclose(whitened.mean(axis=1), 0.0, atol=0.3)
    np.testing.assert_allclose(np.cov(whitened), np.eye(2), atol=0.5)
    assert float(log_evidence(posterior)["estimate"]) == pytest.approx(0.0, abs=0.4)
    beta = posterior["warmup_sample_stats"]["beta"].values
    assert (beta[0::2] == beta[1::2]).all()


def test_a_bridge_is_less_noisy_than_the_weights():
    """Few and large rises: the mean of 48 errors within four standard errors of zero (false alarms: 1e-4)."""
    case = LinearCase(48)
    errors = []
    for bridge in (False, True):
        kernel = PyroAnnealedHMC(
            schedule=Sigmoid(-6, 4), num_leapfrog=10, step_size=0.15, moves_per_temperature=2, bridge=bridge
        )
        posterior = run(case.conditioned, kernel, num_warmup=20, num_chains=64)
        assert posterior["posterior"].attrs["evidence_kind"] == ("bridged" if bridge else "annealed")
        errors.append(log_evidence(posterior)["estimate"].values - case.log_evidence)
    weights, bridged = errors
    assert abs(bridged.mean()) < 4 * bridged.std(ddof=1) / np.sqrt(48)
    assert np.sqrt(np.mean(bridged**2)) < 0.9 * np.sqrt(np.mean(weights**2))


# --- pure functions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"bridge": True}, {"schedule": Adaptive(0.5)}, {"step_size": MovingAverage()}],
    ids=["bridge", "adaptive", "rule"],
)
def test_steps_are_functions_of_their_arguments(case, settings):
    """The same state and random numbers give the same step, whatever was done between."""
    recipe = PyroAnnealedHMC(num_leapfrog=2, **settings)
    kernel, target = recipe.kernel(20, 8), recipe.target(case.conditioned, num_chains=8)
    random = Random.of(0, id_halves(target.ids))
    states = [kernel.init(target, random, ExactDraws(8))]
    infos = []
    for _ in range(22):
        state, info = kernel.step(target, random.at(states[-1].iteration), states[-1])
        states.append(state)
        infos.append(info)
    for k in (0, 7, 21):
        state, info = kernel.step(target, random.at(k), states[k])
        for again, first in ((state, states[k + 1]), (info, infos[k])):
            for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(first), strict=True):
                np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    other = random._replace(keys=random.keys[::-1])
    assert not torch.equal(kernel.init(target, other, ExactDraws(8)).point.u, states[0].point.u)


def test_what_is_reported_and_the_settings_are_those_of_the_sister():
    assert pyro_annealed_hmc.AnnealedInfo._fields == annealed_hmc.AnnealedInfo._fields
    # of the bounds of the evidence, of single items, and of a metric that is learned as it runs
    theirs = set(annealed_hmc.AnnealedState._fields) - {"made", "pinned", "inverse_mass"}
    assert set(pyro_annealed_hmc.AnnealedState._fields) == theirs
    settings = [name for name in inspect.signature(AnnealedHMC).parameters if name not in ("model", "around", "start_draws")]
    assert list(inspect.signature(PyroAnnealedHMC).parameters) == ["model", "num_chains", *settings]
    assert all(f":param {name}:" in PyroAnnealedHMC.__doc__ for name in ("model", "num_chains", *settings))


def test_a_chain_s_random_numbers_do_not_depend_on_how_many_chains_there_are():
    random = Random.of(2**62 + 3, np.array([[0, 1], [1, 0]])).at(4)
    few, many = (pyro_annealed_hmc.transition_noise(random, chains, 3, torch.zeros(())) for chains in (2, 64))
    for one, other in zip(few, many, strict=True):
        assert torch.equal(one, other[:2])
        assert not torch.equal(one[:, 0], one[:, 1])
    noise = [pyro_annealed_hmc.transition_noise(random.at(k), 64, 3, torch.zeros(())) for k in range(64)]
    normal, uniform = (torch.stack(each).flatten(0, 2) for each in zip(*noise, strict=True))
    assert stats.kstest(normal.flatten().numpy(), "norm").pvalue > FALSE_ALARM
    assert stats.kstest(uniform.flatten().numpy(), "uniform").pvalue > FALSE_ALARM
    together = np.corrcoef(torch.cat([normal, uniform], dim=1).numpy().T) - np.eye(6)
    assert np.abs(together).max() < 4.5 / np.sqrt(len(normal))


def test_seeds_and_ids_count_whole():
    """Also where their 32-bit words, one after the other, are the same."""
    seen = set()
    for seed, halves in ((5, (7, 0)), (5 + 7 * 2**32, (0, 0)), (5, (0, 7)), (5 + 2**32, (7, 0)), (6, (7, 0))):
        seen.add(tuple(Random.of(seed, np.array([halves])).seeds()))
    assert len(seen) == 5


# --- chosen as it runs, and a pilot ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def adaptive(case):
    kernel = PyroAnnealedHMC(num_leapfrog=4, schedule=Adaptive(0.9), moves_per_temperature=2)
    return run(case.conditioned, kernel, num_chains=64, num_warmup=120)


def test_an_adaptive_schedule_arrives_and_says_so(case, adaptive):
    path = adaptive["warmup_sample_stats"]
    beta = path["beta"].values
    assert (np.diff(beta, axis=0) >= 0).all()
    assert (beta[-1] == 1).all()
    assert path["transition"].values[-1] < 119  # sooner than its limit
    rising = np.diff(beta, axis=0, prepend=0) > 0
    last = beta == 1
    np.testing.assert_allclose(path["conditional_ess"].values[rising & ~last], 0.9, atol=0.01)
    assert adaptive["posterior"].attrs["adapted"] == 1
    # an item that has arrived waits, and its gradients are not counted
    arrived = (~last).sum(axis=0) + 2
    gradients = adaptive["sample_stats"]["gradient_evaluations"].values
    assert (gradients < 64 * (1 + 4 * (arrived + 2 + 2))).all()
    assert np.ptp(gradients) > 0
    assert np.abs(log_evidence(adaptive)["estimate"].values - case.log_evidence).mean() < 0.3


def test_items_do_not_feel_how_long_others_take(case):
    """The first of two items, of which the other differs in noise."""
    kernel = PyroAnnealedHMC(num_leapfrog=3, schedule=Adaptive(0.8))
    pixels = case.conditioned.item_data["seen"]["value"]
    results = []
    for far in (1.0, 30.0):
        seen = case.model.condition(seen=np.stack([pixels[0], far * pixels[1]]))
        results.append(run(seen, kernel, num_chains=16, num_warmup=60))
    first, second = (result["posterior"]["z"].values for result in results)
    gradients = [result["sample_stats"]["gradient_evaluations"].values.tolist() for result in results]
    assert gradients[0][0] == gradients[1][0]
    assert gradients[0][1] < gradients[1][1]
    np.testing.assert_allclose(first[:, :, 0], second[:, :, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("schedule", [Adaptive(0.9), Sigmoid(-6, 4)], ids=["adaptive", "fixed"])
def test_a_pilot_is_frozen_and_the_run_is_exact(case, schedule):
    kernel = PyroAnnealedHMC(num_leapfrog=4, schedule=schedule)
    posterior = run(case.conditioned, kernel, num_chains=64, pilot=16)
    assert posterior["posterior"].attrs["adapted"] == 0
    assert moments_p_value(case, posterior) > FALSE_ALARM
    again = PyroAnnealedHMC(num_leapfrog=4, step_size=RecordedSteps.of(posterior), schedule=Ladder.of(posterior))
    assert moments_p_value(case, run(case.conditioned, again, num_chains=64, seed=3)) > FALSE_ALARM


def test_a_pilot_of_pyro_s_own_kernels_is_refused():
    with pytest.raises(ValueError, match="a pilot requires a kernel of cogen"):
        infer(gauss, pyro.infer.NUTS, num_warmup=2, **QUICK, pilot=4)


def tempered_in_part():
    """One observation tempered, one not: both normal, so that everything is known."""
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("first", dist.Normal(z, 0.8), obs=torch.tensor(1.0))
    pyro.sample("second", dist.Normal(z, 0.8), obs=torch.tensor(-0.5))


@pytest.mark.parametrize("threshold", [0.0, 0.7], ids=["ais", "resampling"])
def test_what_is_not_tempered_weighs_the_start(threshold):
    variance = 1 / (1 + 2 / 0.64)
    mean = variance * (0.5 / 0.64)
    covariance = torch.ones(2, 2) + 0.64 * torch.eye(2)
    answer = float(dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.tensor([1.0, -0.5])))
    kernel = PyroAnnealedHMC(num_leapfrog=3, step_size=0.3, temper=["first"], resample_threshold=threshold)
    quantities = []
    for seed in range(16):
        posterior = run(tempered_in_part, kernel, num_warmup=20, num_chains=128, num_samples=1, seed=seed)
        weight = np.exp(posterior["sample_stats"]["log_weight"].values[:, 0] - answer)
        z = posterior["posterior"]["z"].values[:, 0]
        quantities.append([(weight - 1).mean(), (weight * (z - mean)).mean(), (weight * ((z - mean) ** 2 - variance)).mean()])
    assert repeated_means_p_value(np.array(quantities)) > FALSE_ALARM
    assert np.abs(np.mean(quantities, axis=0)).max() < 0.05
    start = PyroAnnealedHMC(tempered_in_part, num_chains=4, temper=["first"], resample_threshold=0)
    start.setup(4)
    second = dist.Normal(start.state.point.values["z"], 0.8).log_prob(torch.tensor(-0.5))
    torch.testing.assert_close(start.state.particles.log_weight.float(), second)


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"num_leapfrog": 0},
        {"moves_per_temperature": 0},
        {"resample_threshold": 1.5},
        {"jitter": 1.0},
        {"step_size": 0.0},
        {"num_chains": 0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_out_of_range(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f"{name}={value}"):
        PyroAnnealedHMC(**settings)


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({}, {"num_warmup": 0}, "num_warmup=0"),
        ({"moves_per_temperature": 3}, {}, "moves_per_temperature=3"),
        ({}, {"num_chains": 6}, "does not divide"),
        ({}, {"num_chains": 1}, "cannot be resampled"),
        ({"inverse_mass": np.ones(3)}, {}, "inverse_mass has shape"),
        ({"inverse_mass": np.array([[1.0, 2.0], [2.0, 1.0]])}, {}, "symmetric positive definite"),
        ({"initial": dist.Normal(torch.zeros(3), 1)}, {}, "initial for site 'z'"),
        ({"initial": {"w": dist.Normal(0, 1)}}, {}, r"initial has the sites \['w'\]"),
        ({"num_chains": 4}, {}, "the kernel has num_chains=4"),
        ({"bridge": True, "flat_prior": True}, {}, "nothing to bridge"),
        ({"temper": ["w"]}, {}, r"temper=\('w',\): name one or more of the observed sites \['y'\]"),
        ({"step_size": RecordedSteps(np.array([0.5, 1.0]), np.ones((3, 2)))}, {}, "3 items were recorded"),
    ],
)
def test_runs_that_cannot_be(settings, options, said):
    with pytest.raises(ValueError, match=said):
        infer(gauss, PyroAnnealedHMC(**settings), **{"num_warmup": 10, **QUICK, **options})


def nothing_observed():
    pyro.sample("z", dist.Normal(0.0, 1.0))


def nothing_latent():
    pyro.sample("y", dist.Normal(0.0, 1.0), obs=torch.tensor(0.0))


def discrete():
    k = pyro.sample("k", dist.Bernoulli(0.5))
    pyro.sample("y", dist.Normal(k, 1.0), obs=torch.tensor(0.0))


def subsampled():
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 10, subsample_size=5) as rows:
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(10)[rows])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nothing_observed, "no observed site"),
        (nothing_latent, "no latent site"),
        (discrete, "'k' is discrete"),
        (subsampled, "plate 'rows' draws a subsample"),
    ],
)
def test_models_that_cannot_be(model, said):
    with pytest.raises(ValueError, match=said):
        infer(model, PyroAnnealedHMC(), num_warmup=10, **QUICK)


def test_what_is_missing_is_said(odd):
    with pytest.raises(ValueError, match="no model yet"):
        PyroAnnealedHMC(num_chains=4).setup(10)
    with pytest.raises(ValueError, match="num_chains is missing"):
        PyroAnnealedHMC(gauss).setup(10)
    with pytest.raises(ValueError, match="was constructed with a model"):
        infer(gauss, PyroAnnealedHMC(gauss), num_warmup=10, **QUICK)
    with pytest.raises(ValueError, match="nothing is observed"):
        infer(CoGenerator(OddGenerator(), latent_dim=3, views=odd.views), PyroAnnealedHMC(), num_warmup=10, **QUICK)
    with pytest.raises(ValueError, match="would invalidate its weights"):
        MCMC(PyroAnnealedHMC(gauss, num_chains=8), 2, 4, initial_params={"z": torch.zeros(8, 2)}, disable_progbar=True).run()


def test_a_class_is_a_recipe_too():
    posterior = infer(pyro.condition(gauss, data={}), PyroAnnealedHMC, num_warmup=4, **QUICK)
    assert posterior["posterior"]["z"].shape == (8, 2, 2)

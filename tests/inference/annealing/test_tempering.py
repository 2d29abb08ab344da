"""A tempered model: log p(z) + beta log p(y | z), for either library, and an annealing that tempers some of the data.

The runs are annealed importance sampling with a fixed step size, whose chains are independent, so that t-tests over chains
are honest; false alarms at most 1e-4 per test, with fixed seeds.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyro
import pyro.distributions as pdist
import pytest
import torch
from known import repeated_means_p_value
from numpyro import handlers
from numpyro.infer.util import log_density, potential_energy
from pyro import poutine
from pyro.infer.mcmc.util import initialize_model
from scipy import stats

from cogen.inference import AnnealedHMC, infer, temper
from cogen.inference.targets.numpyro_target import numpyro_target

FALSE_ALARM = 1e-4
Z, DATA = 0.4, np.array([1.0, -0.5, 2.0], np.float32)


def normal(x, mean, sd):
    return float(stats.norm(mean, sd).logpdf(x).sum())


PRIOR, LIKELIHOOD, FACTOR = normal(Z, 0.0, 1.0), normal(DATA, Z, 0.5), -0.7 * Z**2


# --- NumPyro ----------------------------------------------------------------------------------------------------------


def free():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 3):
        numpyro.sample("y", dist.Normal(z, 0.5))
    numpyro.factor("penalty", -0.7 * z**2)


def observed():
    return handlers.condition(free, data={"y": jnp.asarray(DATA)})()


def joint(model):
    return float(log_density(model, (), {}, {"z": jnp.float32(Z)})[0])


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, 2.0])
def test_numpyro_scales_the_likelihood_alone(beta):
    assert joint(temper(observed, beta)) == pytest.approx(PRIOR + beta * (LIKELIHOOD + FACTOR), rel=1e-5)


def test_numpyro_conditioned_outside():
    model = handlers.condition(temper(free, 0.3), data={"y": jnp.asarray(DATA)})
    assert joint(model) == pytest.approx(joint(temper(observed, 0.3)), rel=1e-6)
    by_function = handlers.condition(temper(free, 0.3), condition_fn=lambda m: DATA if m["name"] == "y" else None)
    assert joint(by_function) == pytest.approx(joint(model), rel=1e-6)


def test_a_condition_beyond_a_block_does_not_reach_the_site():
    hidden = handlers.block(handlers.seed(temper(free, 0.3), 0), hide=["y"])
    trace = handlers.trace(handlers.condition(hidden, data={"y": jnp.asarray(DATA)})).get_trace()
    assert "y" not in trace
    inner = handlers.trace(temper(free, 0.3))
    handlers.condition(handlers.block(handlers.seed(inner, 0), hide=["y"]), data={"y": jnp.asarray(DATA)})()
    assert inner.trace["y"]["scale"] is None
    assert inner.trace["penalty"]["scale"] == 0.3


@pytest.mark.parametrize(("sites", "tempered"), [(["y"], LIKELIHOOD), (["penalty"], FACTOR), ((), 0.0)])
def test_numpyro_named_sites(sites, tempered):
    everything = PRIOR + LIKELIHOOD + FACTOR
    assert joint(temper(observed, 0.3, sites=sites)) == pytest.approx(everything - 0.7 * tempered, rel=1e-5)


def test_numpyro_scales_compose():
    wanted = 2 * (PRIOR + 0.3 * (LIKELIHOOD + FACTOR))
    assert joint(handlers.scale(temper(observed, 0.3), 2.0)) == pytest.approx(wanted, rel=1e-5)
    assert joint(temper(handlers.scale(observed, 2.0), 0.3)) == pytest.approx(wanted, rel=1e-5)
    assert joint(temper(temper(observed, 0.5), 0.6)) == pytest.approx(joint(temper(observed, 0.3)), rel=1e-5)


def test_numpyro_s_kernels_see_the_tempered_density_and_its_gradient_in_beta():
    def energy(beta):
        return potential_energy(temper(observed, beta), (), {}, {"z": jnp.float32(Z)})

    value, slope = jax.value_and_grad(energy)(0.3)
    assert float(value) == pytest.approx(-joint(temper(observed, 0.3)), rel=1e-5)
    assert float(slope) == pytest.approx(-(LIKELIHOOD + FACTOR), rel=1e-5)


# --- Pyro -------------------------------------------------------------------------------------------------------------


def pyro_free():
    z = pyro.sample("z", pdist.Normal(0.0, 1.0))
    with pyro.plate("n", 3):
        pyro.sample("y", pdist.Normal(z, 0.5))
    pyro.factor("penalty", -0.7 * z**2)
    pyro.deterministic("double", 2 * z)


Y = {"y": torch.as_tensor(DATA)}


def pyro_joint(model):
    at = poutine.trace(lambda: pyro.sample("z", pdist.Delta(torch.tensor(Z)))).get_trace()
    return float(poutine.trace(poutine.replay(model, trace=at)).get_trace().log_prob_sum())


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0, torch.tensor(2.0)])
def test_pyro_scales_the_likelihood_alone(beta):
    wanted = PRIOR + float(beta) * (LIKELIHOOD + FACTOR)
    assert pyro_joint(temper(pyro.condition(pyro_free, data=Y), beta)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(("sites", "tempered"), [(["y"], LIKELIHOOD), (["penalty"], FACTOR), (["y", "penalty"], None)])
def test_pyro_named_sites_conditioned_on_either_side(sites, tempered):
    wanted = PRIOR + LIKELIHOOD + FACTOR - 0.7 * (LIKELIHOOD + FACTOR if tempered is None else tempered)
    assert pyro_joint(temper(pyro.condition(pyro_free, data=Y), 0.3, sites=sites)) == pytest.approx(wanted, rel=1e-5)
    assert pyro_joint(pyro.condition(temper(pyro_free, 0.3, sites=sites), data=Y)) == pytest.approx(wanted, rel=1e-5)


def test_pyro_scales_compose():
    model = pyro.condition(pyro_free, data=Y)
    wanted = 2 * (PRIOR + 0.3 * (LIKELIHOOD + FACTOR))
    assert pyro_joint(poutine.scale(temper(model, 0.3), scale=2.0)) == pytest.approx(wanted, rel=1e-5)
    assert pyro_joint(temper(poutine.scale(model, scale=2.0), 0.3)) == pytest.approx(wanted, rel=1e-5)


def test_pyro_s_kernels_see_the_tempered_density():
    """They condition the latent sites from outside, which must not make them data."""
    model = temper(pyro.condition(pyro_free, data=Y), 0.3)
    _, potential, _, _ = initialize_model(model)
    wanted = -(PRIOR + 0.3 * (LIKELIHOOD + FACTOR))
    assert float(potential({"z": torch.tensor(Z)})) == pytest.approx(wanted, rel=1e-5)


def pyro_without_factor():
    z = pyro.sample("z", pdist.Normal(0.0, 1.0))
    with pyro.plate("n", 3):
        pyro.sample("y", pdist.Normal(z, 0.5))


def test_pyro_conditioned_outside_needs_names():
    with pytest.raises(ValueError, match=r"\['y'\] are conditioned outside of temper.*sites="):
        pyro.condition(temper(pyro_without_factor, 0.3), data=Y)()
    pyro.condition(temper(pyro_without_factor, 0.3, sites=["y"]), data=Y)()


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"beta=-0\.1"):
        temper(free, -0.1)
    with pytest.raises(ValueError, match="give a list"):
        temper(free, 0.5, sites="y")
    with pytest.raises(ValueError, match=r"sites=\['x'\]: the model has the sites \['penalty', 'y', 'z'\]"):
        joint(temper(observed, 0.5, sites=["x"]))


# --- an annealing that tempers some of the data -----------------------------------------------------------------------

CLOSE, FAR = jnp.asarray([0.5, -1.0]), jnp.asarray([2.0, 1.0])


def two_views(close=CLOSE, far=FAR):
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.factor("close", dist.Normal(z, 1.0).log_prob(close).sum())
    numpyro.sample("far", dist.Normal(z, 0.5).to_event(1), obs=far)


PRECISION = 1.0 + 1.0 + 4.0
MEAN = (np.asarray(CLOSE) + 4 * np.asarray(FAR)) / PRECISION
_MARGINAL = np.eye(2) * np.array([1.0, 0.25]) + 1.0  # of a coordinate's two observations
LOG_EVIDENCE = sum(stats.multivariate_normal(np.zeros(2), _MARGINAL).logpdf([c, f]) for c, f in zip(CLOSE, FAR, strict=True))


class WithoutStartWeight(AnnealedHMC):
    """Forgets that what is not tempered counts from the start."""

    def target(self, *args, **kwargs):
        return super().target(*args, **kwargs)._replace(start_weight=None)


def exact(kernel, seed):
    """The p-value of E[w / Z h(z)] = E[h | y] for h = 1, z and z z^T, over independent chains."""
    run = infer(two_views, kernel, num_warmup=60, num_samples=1, num_chains=2048, seed=seed, progress=False)
    weight = np.exp(run["sample_stats"]["log_weight"].values[:, 0].astype(float) - LOG_EVIDENCE)
    r = (run["posterior"]["z"].values[:, 0] - MEAN) * np.sqrt(PRECISION)
    products = np.stack([r[:, 0] ** 2 - 1, r[:, 1] ** 2 - 1, r[:, 0] * r[:, 1]], axis=1)
    return repeated_means_p_value(np.column_stack([weight - 1, weight[:, None] * r, weight[:, None] * products]))


SETTINGS = {"resample_threshold": 0.0, "step_size": 0.4, "num_leapfrog": 3, "temper": ["far"]}


def test_the_evidence_of_a_model_that_is_tempered_in_part():
    assert exact(AnnealedHMC(**SETTINGS), seed=0) > FALSE_ALARM


def test_without_the_weights_of_the_start_it_is_wrong():
    assert exact(WithoutStartWeight(**SETTINGS), seed=0) < FALSE_ALARM


def test_the_path_of_a_model_that_is_tempered_in_part():
    u = jnp.asarray([0.3, -0.2])
    close = float(dist.Normal(u, 1.0).log_prob(CLOSE).sum())
    for initial in (None, dist.Normal(0.5, 2.0)):
        target = numpyro_target(two_views, initial=initial, temper=["far"])
        start = float((initial or dist.Normal(0.0, 1.0)).log_prob(u).sum())
        assert float(target.start_weight(u).sum()) == pytest.approx(close, rel=1e-5)
        assert float(target.reference(u).sum()) == pytest.approx(start + close, rel=1e-5)
        whole = float(log_density(two_views, (), {}, {"z": u})[0])
        assert float(target.reference(u).sum() + target.increment(u).sum()) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("sites", [["z"], ["nowhere"], "far", []])
def test_sites_that_cannot_be_tempered(sites):
    with pytest.raises(ValueError, match=r"name one or more of the observed sites \['close', 'far'\]"):
        numpyro_target(two_views, temper=sites)

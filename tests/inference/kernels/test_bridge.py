"""The evidence from both ends of every rise: right where it is known, less noisy than the weights, honest about what it is."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import LinearCase, moments_p_value
from scipy import optimize, special

from cogen.diagnostics import evidence_bounds, log_evidence, simulate
from cogen.inference import AnnealedHMC, Fixed, Linear, Sigmoid, infer
from cogen.inference.annealing.bridge import log_ratio

ITEMS = 48


@pytest.fixture(scope="module")
def case():
    return LinearCase(ITEMS)


def run(case, bridge):
    """Few and large rises."""
    kernel = AnnealedHMC(schedule=Sigmoid(-6, 4), num_leapfrog=10, step_size=0.15, moves_per_temperature=2, bridge=bridge)
    options = {"num_warmup": 20, "num_samples": 2, "num_chains": 64, "progress": False, "items_at_once": ITEMS}
    return infer(case.conditioned, kernel, seed=3, **options)


def errors(case, posterior):
    return log_evidence(posterior)["estimate"].values - case.log_evidence


@pytest.fixture(scope="module")
def both(case):
    return {bridge: run(case, bridge) for bridge in (False, True)}


def test_it_is_right_and_less_noisy(case, both):
    """The mean of 48 errors within four standard errors of zero (false alarms: 1e-4); the errors, smaller than those of the
    weights of the same particles."""
    weights, bridge = (errors(case, both[which]) for which in (False, True))
    assert abs(bridge.mean()) < 4 * bridge.std(ddof=1) / np.sqrt(ITEMS)
    assert np.sqrt(np.mean(bridge**2)) < 0.9 * np.sqrt(np.mean(weights**2))
    assert moments_p_value(case, both[True]) > 1e-4
    assert log_evidence(both[True]).attrs["kind"] == "bridged"
    assert log_evidence(both[False]).attrs["kind"] == "annealed"


def test_the_standard_error_is_that_of_the_populations(case, both):
    found = log_evidence(both[True])
    z = errors(case, both[True]) / found["standard_error"].values
    assert 0.5 < np.sqrt(np.mean(np.clip(z, -5, 5) ** 2)) < 2.5  # three degrees of freedom each


def test_a_bridge_that_looks_from_one_end_fails(case, monkeypatch):
    """The far end replaced by the near one: the ratio then lacks half of what it needs."""
    from cogen.inference.annealing import bridge

    right = bridge.log_ratio
    monkeypatch.setattr(bridge, "log_ratio", lambda near, w, far, v, rise: right(near, w, near, w, rise))
    assert abs(errors(case, run(case, True)).mean()) > 0.5


def test_the_ratio_solves_bennett_s_equation():
    """Against SciPy's root, with weights, for increments of thousands; and normal increments whose ratio is known."""
    rng = np.random.default_rng(0)
    near, far = rng.normal(-3_000, 9, 400), rng.normal(-2_960, 9, 400)
    w, v = rng.dirichlet(np.ones(400)), rng.dirichlet(np.ones(400))
    rise = 0.2

    def ends(c):
        return w @ special.expit(rise * near - c) - v @ special.expit(c - rise * far)

    wanted = optimize.brentq(ends, -700, -500, xtol=1e-10)
    found = log_ratio(*(jnp.asarray(a, jnp.float32) for a in (near, np.log(w) - 7, far, np.log(v) + 3, rise)))
    assert float(found) == pytest.approx(wanted, abs=1e-3)
    # l ~ Normal(m, s^2) at beta is Normal(m + r s^2, s^2) at beta + r, and log Z'/Z = r m + r^2 s^2 / 2.
    m, s, n = 4.0, 2.0, 200_000
    ends = rng.normal(m, s, n), rng.normal(m + s**2, s, n)
    equal = jnp.zeros(n)
    found = log_ratio(jnp.asarray(ends[0], jnp.float32), equal, jnp.asarray(ends[1], jnp.float32), equal, jnp.float32(1.0))
    assert float(found) == pytest.approx(m + s**2 / 2, abs=0.03)


def test_dead_particles_count_nothing():
    rng = np.random.default_rng(1)
    near, far = rng.normal(0, 1, 50), rng.normal(1, 1, 50)
    equal = np.zeros(50)
    alive = log_ratio(*(jnp.asarray(a, jnp.float32) for a in (near, equal, far, equal, 1.0)))
    more, without_weight = np.append(near, [5.0, 7.0]), np.append(equal, [-np.inf, -np.inf])
    same = log_ratio(*(jnp.asarray(a, jnp.float32) for a in (more, without_weight, far, equal, 1.0)))
    assert float(same) == pytest.approx(float(alive), abs=1e-5)
    none = jnp.full(50, -jnp.inf)
    assert float(log_ratio(jnp.asarray(near), none, jnp.asarray(far), jnp.asarray(equal), jnp.float32(1.0))) == -np.inf


@pytest.mark.filterwarnings("ignore:.*non-finite gradient or log density")
def test_prior_draws_of_no_likelihood_count_in_the_evidence():
    """z ~ Normal(0, 1), seen is z > 0 exactly: the evidence is a half."""

    def model():
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.factor("y", jnp.where(z > 0, 0.0, -jnp.inf))

    kernel = AnnealedHMC(schedule=Linear(), num_leapfrog=3, step_size=0.5, bridge=True)
    posterior = infer(model, kernel, num_warmup=4, num_samples=1, num_chains=8_192, seed=0, progress=False)
    assert float(log_evidence(posterior)["estimate"]) == pytest.approx(np.log(0.5), abs=0.05)


def test_what_it_cannot_be_used_for(case):
    with pytest.raises(ValueError, match="nothing to bridge"):
        AnnealedHMC(bridge=True, flat_prior=True)
    simulated, truth = simulate(case.model, 2, seed=0)
    kernel = AnnealedHMC(bridge=True, step_size=Fixed(0.1))
    with pytest.raises(ValueError, match="is not a bound"):
        evidence_bounds(simulated, kernel, truth, num_warmup=4, num_chains=8, seed=0, progress=False)

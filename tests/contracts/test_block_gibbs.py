"""Block Gibbs under the contracts of the other kernels, of machines so small that every state can be counted.

* Invariance: one transition from exact draws of the path at beta leaves their distribution what it is, by a chi-square over all
  states of both layers (normal units given the hidden ones by Kolmogorov and Smirnov).
* Moments and evidence: over repetitions, the mean of w / Z h is the posterior's mean of h, with and without resampling.

False alarms: 1e-4 a test, for fixed seeds. A kernel with a mistake has a p-value below 1e-6.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from broken import DETECTED
from known import repeated_means_p_value
from numpyro.infer import MCMC
from scipy import stats

from cogen.diagnostics import evidence_bounds, log_evidence
from cogen.inference import Adaptive, BlockGibbs, Ladder, infer
from cogen.inference.kernels import block_gibbs

FALSE_ALARM = 1e-4
RNG = np.random.default_rng(0)
WEIGHT, VISIBLE, HIDDEN = 1.5 * RNG.normal(size=(3, 4)), RNG.normal(size=4), RNG.normal(size=3)
BASE, SCALE = 0.5 * RNG.normal(size=4), 0.7


def coupling(z, h):
    return z @ VISIBLE + h @ HIDDEN + jnp.einsum("...h,hv,...v->...", h, WEIGHT, z)


def binary(base=BASE):
    """log q0 + t of two Bernoulli layers, of 4 and 3 units."""
    z = numpyro.sample("z", dist.Bernoulli(logits=jnp.asarray(base)).to_event(1))
    h = numpyro.sample("h", dist.Bernoulli(probs=jnp.full(3, 0.4)).to_event(1))
    numpyro.factor("energy", coupling(z, h))


def mixed():
    """The same with a layer of normal units, narrow enough for the coupling."""
    z = numpyro.sample("z", dist.Normal(jnp.asarray(BASE), SCALE).to_event(1))
    h = numpyro.sample("h", dist.Bernoulli(probs=jnp.full(3, 0.4)).to_event(1))
    numpyro.factor("energy", coupling(z, h))


def states(units):
    return ((np.arange(2**units)[:, None] >> np.arange(units)) & 1).astype(float)


ALL = np.concatenate([np.repeat(states(4), 8, axis=0), np.tile(states(3), (16, 1))], axis=1)  # (128, 7)
LOG_Q0 = stats.bernoulli(1 / (1 + np.exp(-BASE))).logpmf(ALL[:, :4]).sum(1) + stats.bernoulli(0.4).logpmf(ALL[:, 4:]).sum(1)
TILT = np.asarray(coupling(ALL[:, :4], ALL[:, 4:]))
LOG_EVIDENCE = np.log(np.sum(np.exp(LOG_Q0 + TILT)))


def law(beta):
    mass = np.exp(LOG_Q0 + beta * TILT)
    return mass / mass.sum()


# --- invariance ------------------------------------------------------------------------------------------------------------


def one_transition(model, start, beta):
    """Of chains that stand at exact draws (chain, dim), at beta."""
    target = BlockGibbs().target(model=model)

    def moved(key, start):
        return block_gibbs.move(target, key, start, block_gibbs.look(target, start)[2], jnp.float32(beta))

    keys = jax.random.split(jax.random.key(1), len(start))
    return np.asarray(jax.jit(jax.vmap(moved))(keys, jnp.float32(start)))


def count_p_value(found, mass):
    """Of numbers of draws in states, those of which fewer than five are expected taken together."""
    expected = found.sum() * mass / mass.sum()
    rare = expected < 5
    found, expected = (np.append(a[~rare], a[rare].sum()) for a in (found, expected))
    kept = expected > 0.5
    return stats.chisquare(found[kept], expected[kept] * found[kept].sum() / expected[kept].sum()).pvalue


def index(u):
    return (u @ 2 ** np.arange(u.shape[1])).astype(int)


def binary_p_value(beta=1.0, chains=40_000):
    start = ALL[np.random.default_rng(2).choice(len(ALL), chains, p=law(beta))]
    found = np.bincount(index(one_transition(binary, start, beta)), minlength=128)
    return count_p_value(found[index(ALL)], law(beta))


def normal_p_value(beta=1.0, chains=40_000):
    """The hidden layer by its exact marginal, and normal units given it."""
    hidden, rng = states(3), np.random.default_rng(3)
    mean = BASE + beta * SCALE**2 * (VISIBLE + hidden @ WEIGHT)
    log_mass = stats.bernoulli(0.4).logpmf(hidden).sum(1) + beta * hidden @ HIDDEN
    mass = np.exp(log_mass + 0.5 * (mean**2 - BASE**2).sum(1) / SCALE**2)
    chosen = rng.choice(8, chains, p=mass / mass.sum())
    start = np.concatenate([mean[chosen] + SCALE * rng.normal(size=(chains, 4)), hidden[chosen]], axis=1)
    end = one_transition(mixed, start, beta)
    now = index(end[:, 4:])
    noise = (end[:, :4] - mean[now]) / SCALE
    p = [count_p_value(np.bincount(now, minlength=8), mass), *(stats.kstest(n, "norm").pvalue for n in noise.T)]
    return min(1.0, len(p) * min(p))


def a_beta_that_is_10_percent_low(right):
    return lambda target, key, u, slope, beta: right(target, key, u, slope, 0.9 * beta)


def a_slope_that_is_10_percent_low(right):
    """The hidden units are drawn as if the connections and their biases were weaker."""
    return lambda target, key, u, slope, beta: right(target, key, u, 0.9 * slope, beta)


def hidden_units_that_are_kept(right):
    """The visible units are drawn given hidden ones that are not those that are reported."""

    def mistaken(target, key, u, slope, beta):
        moved = right(target, key, u, slope, beta)
        return jnp.concatenate([moved[: target.layers.num_visible], u[target.layers.num_visible :]])

    return mistaken


MISTAKES = [a_beta_that_is_10_percent_low, a_slope_that_is_10_percent_low, hidden_units_that_are_kept]


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("p_value", [binary_p_value, normal_p_value])
def test_a_transition_leaves_the_path_what_it_is(p_value, beta):
    assert p_value(beta) > FALSE_ALARM


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("p_value", [binary_p_value, pytest.param(normal_p_value, marks=pytest.mark.slow)])
def test_a_broken_transition_does_not(p_value, mistake, monkeypatch):
    monkeypatch.setattr(block_gibbs, "move", mistake(block_gibbs.move))
    assert p_value(1.0) < DETECTED


# --- moments and evidence --------------------------------------------------------------------------------------------------


class Repeated:
    """The machine many times over, as items."""

    event_shape = (4,)
    attributes: dict = {}  # noqa: RUF012
    dims = {"z": ("latent",), "h": ("unit",), "x": ("latent",)}  # noqa: RUF012

    def __init__(self, repeats):
        self.item_data = {"y": {"value": np.zeros(repeats, np.float32)}}

    def __call__(self, data=None):
        raise NotImplementedError

    def numpyro(self, data=None):
        count = len((self.item_data if data is None else data)["y"]["value"])
        with numpyro.plate("item", count):
            binary(np.broadcast_to(BASE, (count, 4)))

    def condition(self, **data):
        return self

    def decode(self, z):
        return z

    def simulate(self, x, sites, *, seed):
        return {}

    def result_groups(self):
        return {}


def run(kernel, repeats=96, **options):
    counts = {"num_warmup": 6, "num_samples": 2, "num_chains": 32, "seed": 4, "progress": False, "items_at_once": repeats}
    return infer(Repeated(repeats), kernel, **counts | options)


def moments_p_value(posterior):
    u = np.concatenate([posterior["posterior"][name].values for name in ("z", "h")], axis=-1)  # (chain, draw, item, unit)
    weight = np.exp(posterior["sample_stats"]["log_weight"].values - LOG_EVIDENCE)[..., None]
    pairs = (u[..., :4, None] * u[..., None, 4:]).reshape(*u.shape[:-1], 12)
    exact = law(1.0) @ np.concatenate([ALL, (ALL[:, :4, None] * ALL[:, None, 4:]).reshape(128, 12)], axis=1)
    found = np.concatenate([weight * (np.concatenate([u, pairs], axis=-1) - exact), weight - 1], axis=-1)
    return repeated_means_p_value(found.mean(axis=(0, 1)))


@pytest.mark.parametrize("threshold", [pytest.param(0.0, marks=pytest.mark.slow), 0.7])
def test_moments_and_evidence(threshold):
    posterior = run(BlockGibbs(resample_threshold=threshold))
    assert moments_p_value(posterior) > FALSE_ALARM
    ratio = np.exp(log_evidence(posterior)["estimate"].values - LOG_EVIDENCE)
    assert repeated_means_p_value(ratio[:, None] - 1) > FALSE_ALARM
    assert posterior["posterior"].attrs["evidence_kind"] == "annealed"
    if threshold:  # every draw counts the same
        assert np.ptp(posterior["sample_stats"]["log_weight"].values, axis=0).max() < 1e-4


@pytest.mark.slow
def test_a_broken_transition_has_the_wrong_moments(monkeypatch):
    monkeypatch.setattr(block_gibbs, "move", a_slope_that_is_10_percent_low(block_gibbs.move))
    assert moments_p_value(run(BlockGibbs(resample_threshold=0.0), repeats=384)) < DETECTED


@pytest.mark.slow
def test_bounds_hold_the_evidence():
    """Around exact draws of both layers."""
    exact = ALL[np.random.default_rng(6).choice(len(ALL), 256, p=law(1.0))].astype(np.float32)
    truth, counts = {"z": exact[:, :4], "h": exact[:, 4:]}, {"num_warmup": 2, "num_chains": 8, "seed": 0, "progress": False}
    found = evidence_bounds(Repeated(256), BlockGibbs(), truth, items_at_once=256, **counts)
    lower, upper = (np.exp(found[name].values - LOG_EVIDENCE) for name in ("lower", "upper"))
    assert repeated_means_p_value(np.stack([lower - 1, 1 / upper - 1], axis=1)) > FALSE_ALARM
    assert found["lower"].mean() < LOG_EVIDENCE < found["upper"].mean()


# --- what it is given ------------------------------------------------------------------------------------------------------


def driven_by_infer():
    posterior = infer(binary, BlockGibbs(), num_warmup=20, num_samples=4, num_chains=512, seed=0, progress=False)
    assert log_evidence(posterior)["estimate"].item() == pytest.approx(LOG_EVIDENCE, abs=0.1)
    return {name: posterior["posterior"][name].values.mean((0, 1)) for name in ("z", "h")}


def driven_by_numpyro():
    counts = {"num_warmup": 20, "num_samples": 4, "num_chains": 512, "chain_method": "vectorized", "progress_bar": False}
    chains = MCMC(BlockGibbs(binary), **counts)
    chains.run(jax.random.key(0))
    return {name: np.asarray(values).mean(0) for name, values in chains.get_samples().items()}


@pytest.mark.slow
@pytest.mark.parametrize("driven", [driven_by_infer, driven_by_numpyro])
def test_a_model_that_is_one_item(driven):
    found = driven()
    for name, units in (("z", slice(4)), ("h", slice(4, 7))):
        assert np.abs(found[name] - law(1.0) @ ALL[:, units]).max() < 0.1


START = {"z": np.ones((4, 3, 4)), "h": np.zeros((4, 3, 3))}


@pytest.mark.slow
def test_chains_that_start_where_they_are_told():
    posterior = run(BlockGibbs(resample_threshold=0.0), repeats=3, start=START, num_chains=4, num_warmup=1)
    assert posterior["posterior"].attrs["evidence_kind"] == ""
    assert "log_weight" not in posterior["sample_stats"]


def test_a_start_of_one_layer_is_refused():
    with pytest.raises(ValueError, match=r"values are given for the sites \['z'\], the model has the layers \['h', 'z'\]"):
        run(BlockGibbs(resample_threshold=0.0), repeats=3, start={"z": START["z"]}, num_chains=4)


def directed():
    h = numpyro.sample("h", dist.Bernoulli(probs=jnp.full(3, 0.4)).to_event(1))
    z = numpyro.sample("z", dist.Bernoulli(logits=h @ jnp.asarray(WEIGHT)).to_event(1))
    numpyro.factor("energy", z.sum())


def connected_within():
    z = numpyro.sample("z", dist.Bernoulli(logits=jnp.asarray(BASE)).to_event(1))
    h = numpyro.sample("h", dist.Bernoulli(probs=jnp.full(3, 0.4)).to_event(1))
    numpyro.factor("energy", coupling(z, h) + 2.0 * z[0] * z[1] + 3.0 * z[2] * z[3])


def categorical():
    numpyro.sample("z", dist.Categorical(jnp.full(3, 1 / 3)))
    numpyro.sample("h", dist.Bernoulli(0.4))
    numpyro.factor("energy", 1.0)


def normal_hidden():
    numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("h", dist.Normal(0.0, 1.0))
    numpyro.factor("energy", 1.0)


def scaled():
    with numpyro.handlers.scale(scale=2.0):
        numpyro.sample("z", dist.Bernoulli(0.4))
    numpyro.sample("h", dist.Bernoulli(0.4))
    numpyro.factor("energy", 1.0)


@pytest.mark.parametrize(
    ("model", "kernel", "said"),
    [
        (directed, {}, "latent site 'z' depends on the other layer"),
        (connected_within, {}, "not affine in the latent site 'z' given the other layer"),
        (categorical, {}, "latent site 'z' is CategoricalProbs: block Gibbs supports layers of Bernoulli or normal units"),
        (normal_hidden, {}, "latent site 'h' is not Bernoulli"),
        (scaled, {}, "latent site 'z' is scaled or masked"),
        (binary, {"hidden": "top"}, "two latent sites, one of them 'top', and a factor; this one has the latent sites"),
        (binary, {"schedule": Adaptive()}, "block Gibbs requires a fixed schedule"),
        (binary, {"schedule": Ladder(np.array([[0.0, 0.5, 1.0]]))}, "block Gibbs requires one ladder for all items"),
        (binary, {"resample_threshold": 1.5}, "resample_threshold=1.5: a fraction of the chains"),
        (binary, {"num_populations": 3}, "num_chains=8 does not divide into 3 populations"),
    ],
)
def test_what_does_not_fit_is_said(model, kernel, said):
    with pytest.raises(ValueError, match=said):
        infer(model, BlockGibbs(**kernel), num_warmup=2, num_samples=1, num_chains=8, seed=0, progress=False)


def test_a_warm_up_without_transitions_is_refused():
    with pytest.raises(ValueError, match="num_warmup=0: the annealing is the warm-up"):
        infer(binary, BlockGibbs(), num_warmup=0, num_samples=1, num_chains=8, seed=0, progress=False)

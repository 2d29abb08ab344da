"""Any NumPyro model: constrained sites, nested plates, factors, and discrete latents that are summed out.

The runs are annealed importance sampling with a fixed step size, whose chains are independent, so that t-tests over chains
are honest; false alarms at most 1e-4 per test, with fixed seeds. A wrong density would fail them: each run is also held
against the evidence of a model that is wrong in one place, and must be told from it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from known import repeated_means_p_value
from numpyro.infer import MCMC, NUTS
from scipy import stats
from scipy.special import gammaln, logsumexp

from cogen.inference import AnnealedHMC, infer
from cogen.inference.targets.numpyro_target import numpyro_target

FALSE_ALARM = 1e-4
CHAINS = 1024


def kernel(step_size, model=None):
    return AnnealedHMC(model, resample_threshold=0.0, step_size=step_size, num_leapfrog=4)


def p_value(log_weight, log_evidence, centred):
    """Whether E[w / Z] = 1 and E[w / Z (h - E h)] = 0: log weights (chain,), h - E h (chain, quantity)."""
    weight = np.exp(np.asarray(log_weight, dtype=float) - log_evidence)[:, None]
    return repeated_means_p_value(np.concatenate([weight - 1.0, weight * centred], axis=1))


# --- constrained sites, nested plates, a factor, a mask and a scale -------------------------------------------------------

COUNTS = np.array([[1.0, 3.0], [0.0, 2.0], [2.0, 2.0], [1.0, 9.0]], np.float32)  # (observation, group)
SEEN = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # 0: masked
VOTES, VOTERS = 5.0, 6
RATE, PENALTY = 0.5, 0.5


def constrained():
    """Positive rates of groups that count events, and a share of votes, both conjugate."""
    share = numpyro.sample("share", dist.Uniform(0.0, 1.0))
    numpyro.sample("votes", dist.Binomial(VOTERS, share), obs=VOTES)
    with numpyro.plate("group", 2, dim=-1):
        rate = numpyro.sample("rate", dist.Exponential(RATE))
        numpyro.factor("penalty", -PENALTY * rate)
        with numpyro.plate("observation", 4, dim=-2), numpyro.handlers.mask(mask=jnp.asarray(SEEN, bool)):
            numpyro.sample("count", dist.Poisson(rate), obs=jnp.asarray(COUNTS))
    numpyro.deterministic("total", rate.sum())


EVENTS, EXPOSURE = (COUNTS * SEEN).sum(axis=0), SEEN.sum(axis=0)


def log_evidence_of_counts(penalty=PENALTY):
    after = 1.0 + EVENTS
    counts = (
        np.log(RATE) + gammaln(after) - after * np.log(RATE + EXPOSURE + penalty) - (gammaln(COUNTS + 1) * SEEN).sum(axis=0)
    )
    return counts.sum() - np.log(VOTERS + 1)  # a uniform share makes all numbers of votes equally likely


def test_constrained_sites_plates_and_factors():
    run = infer(constrained, kernel(0.3), num_warmup=60, num_samples=1, num_chains=CHAINS, seed=0, progress=False)
    posterior = {name: np.asarray(value)[:, 0] for name, value in run["posterior"].items()}
    assert posterior["rate"].shape == (CHAINS, 2)
    assert (posterior["rate"] > 0).all()
    assert ((posterior["share"] > 0) & (posterior["share"] < 1)).all()
    np.testing.assert_allclose(posterior["total"], posterior["rate"].sum(axis=1), rtol=1e-5)
    rate = stats.gamma(1.0 + EVENTS, scale=1 / (RATE + EXPOSURE + PENALTY))
    share = stats.beta(1 + VOTES, 1 + VOTERS - VOTES)
    columns = [posterior["rate"] - rate.mean(), posterior["rate"] ** 2 - rate.moment(2)]
    columns += [posterior["share"] - share.mean(), (posterior["share"] - share.mean()) ** 2 - share.var()]
    centred = np.column_stack(columns)
    log_weight = run["sample_stats"]["log_weight"].values[:, 0]
    assert p_value(log_weight, log_evidence_of_counts(), centred) > FALSE_ALARM
    assert p_value(log_weight, log_evidence_of_counts(penalty=0.4), centred) < FALSE_ALARM


# --- discrete latents ---------------------------------------------------------------------------------------------------

Y = np.array([-2.0, 0.3, 2.5, 3.1, -1.4])
UP, SHARE, OFFSET = 0.3, np.array([0.5, 0.2, 0.3]), np.array([-2.0, 0.0, 3.0])


def discrete():
    """One component for every observation, inside a plate, and one switch for all of them."""
    location = numpyro.sample("location", dist.Normal(0.0, 2.0))
    up = numpyro.sample("up", dist.Bernoulli(UP))
    with numpyro.plate("n", len(Y)):
        component = numpyro.sample("component", dist.Categorical(jnp.asarray(SHARE)))
        numpyro.sample("y", dist.Normal(location + 1.5 * up + jnp.asarray(OFFSET)[component], 0.7), obs=jnp.asarray(Y))
    numpyro.deterministic("square", location**2)
    numpyro.deterministic("in_first", (component == 0).sum())  # has no value where the components are summed out


def brute_force(up=UP):
    """log p(y), mean and variance of the location: all allocations are summed, the location lies on a grid."""
    grid = np.linspace(-14.0, 14.0, 20_001)
    log_joint = []
    for switch, log_prior in ((0, np.log1p(-up)), (1, np.log(up))):
        terms = stats.norm((grid + 1.5 * switch)[:, None, None] + OFFSET, 0.7).logpdf(Y[:, None])  # (grid, n, component)
        log_joint.append(log_prior + logsumexp(terms + np.log(SHARE), axis=-1).sum(axis=-1))
    log_density = logsumexp(log_joint, axis=0) + stats.norm(0.0, 2.0).logpdf(grid)
    weight = np.exp(log_density - logsumexp(log_density))
    mean = (weight * grid).sum()
    return logsumexp(log_density) + np.log(grid[1] - grid[0]), mean, (weight * (grid - mean) ** 2).sum()


def test_the_tilt_is_the_log_of_the_sum_over_all_allocations():
    target = numpyro_target(discrete)
    u = jnp.linspace(-3.0, 3.0, 5)[:, None]
    ours = jax.jit(jax.vmap(lambda v: target.increment(v).sum()))(u)
    switch = np.array([0.0, 1.0])[:, None, None]
    terms = stats.norm(np.asarray(u)[:, :, None, None] + 1.5 * switch + OFFSET, 0.7).logpdf(Y[:, None])  # (u, up, n, k)
    by_switch = logsumexp(terms + np.log(SHARE), axis=-1).sum(axis=-1)
    np.testing.assert_allclose(ours, logsumexp(by_switch + np.log([1 - UP, UP]), axis=1), rtol=1e-5)


def discrete_moments(z):
    _, mean, variance = brute_force()
    z = np.asarray(z, dtype=float)
    return np.stack([z - mean, (z - mean) ** 2 - variance], axis=1)


def test_enumerated_latents_through_infer():
    run = infer(discrete, kernel(0.5), num_warmup=60, num_samples=1, num_chains=CHAINS, seed=0, progress=False)
    assert set(run["posterior"]) == {"location", "square"}
    np.testing.assert_allclose(run["posterior"]["square"], run["posterior"]["location"] ** 2, rtol=1e-5)
    centred = discrete_moments(run["posterior"]["location"].values[:, 0])
    log_weight = run["sample_stats"]["log_weight"].values[:, 0]
    assert p_value(log_weight, brute_force()[0], centred) > FALSE_ALARM
    assert p_value(log_weight, brute_force(up=0.6)[0], centred) < FALSE_ALARM


def test_enumerated_latents_through_numpyro_s_own_mcmc():
    mcmc = MCMC(
        kernel(0.5, discrete), num_warmup=60, num_samples=1, num_chains=CHAINS, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(jax.random.key(1), extra_fields=("log_weight",))
    assert set(mcmc.get_samples()) == {"location", "square"}
    centred = discrete_moments(mcmc.get_samples(group_by_chain=True)["location"][:, 0])
    log_weight = mcmc.get_extra_fields(group_by_chain=True)["log_weight"][:, 0]
    assert p_value(log_weight, brute_force()[0], centred) > FALSE_ALARM


# --- what is refused ----------------------------------------------------------------------------------------------------


def uncountable():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    events = numpyro.sample("events", dist.Poisson(jnp.exp(z)))
    numpyro.sample("y", dist.Normal(events, 1.0), obs=2.0)


def one_after_the_other():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    k = numpyro.sample("k", dist.Bernoulli(0.5), infer={"enumerate": "sequential"})
    numpyro.sample("y", dist.Normal(z + k, 1.0), obs=2.0)


def hanging():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    z = numpyro.sample("z", dist.Normal(jnp.where(k == 1, -3.0, 3.0), 1.0))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=2.0)


def only_discrete():
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    numpyro.sample("y", dist.Normal(1.0 * k, 1.0), obs=2.0)


def no_latent():
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=1.0)


def no_observation():
    numpyro.sample("z", dist.Normal(0.0, 1.0))


def subsampled():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    with numpyro.plate("n", 5, subsample_size=2) as index:
        numpyro.sample("y", dist.Normal(z, 1.0), obs=jnp.asarray(Y)[index])


def improper():
    z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=2.0)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (
            uncountable,
            r"latent site 'events' is discrete \(Poisson\).*cannot be enumerated: sum it out of the model, or observe",
        ),
        (one_after_the_other, r"latent site 'k' is discrete.*cannot be enumerated"),
        (hanging, r"'z' depends on a discrete latent site.*sum the discrete site out"),
        (only_discrete, r"only latent site, 'k', is discrete .*: add a continuous latent site, or use BlockGibbs"),
        (no_latent, "no latent site"),
        (no_observation, r"no observed site \(latent: z\): condition it first"),
        (subsampled, r"plate 'n' draws a subsample of 2 of 5"),
        (improper, "improper prior"),
    ],
)
def test_models_that_no_kernel_can_run(model, said):
    with pytest.raises(ValueError, match=said):
        infer(model, AnnealedHMC(), num_warmup=10, num_samples=1, num_chains=8, seed=0, progress=False)
    mcmc = MCMC(AnnealedHMC(model), num_warmup=10, num_samples=1, num_chains=8, chain_method="vectorized", progress_bar=False)
    with pytest.raises(ValueError, match=said):
        mcmc.run(jax.random.key(0))


@pytest.mark.parametrize("model", [uncountable, no_latent, no_observation])
def test_the_library_s_kernels_are_refused_alike(model):
    with pytest.raises(ValueError, match=r"is discrete|no latent site|no observed site"):
        infer(model, NUTS, num_warmup=10, num_samples=1, num_chains=2, seed=0, progress=False)


def test_the_sum_over_discrete_latents_is_tempered_whole():
    with pytest.raises(ValueError, match="the whole sum is tempered"):
        numpyro_target(discrete, temper=["y"])

"""One contract for all kernels: the posterior stays what it is, and broken kernels change it.

4,096 chains a target start from exact draws of the six known posteriors, make a few transitions, and are compared with fresh
exact draws by two-sample Kolmogorov-Smirnov tests of both latents and the log density. False alarms: 1e-4 per kernel, for
fixed seeds. (Parallel tempering and MALA: see their own tests.)
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
import pytest
import torch
from broken import BROKEN
from scipy import stats
from targets import DENSITIES, NAMES, Known, Targets

from cogen.inference import AnnealedHMC, PyroAnnealedHMC, pyro_annealed_hmc
from cogen.inference.targets import evaluate, numpyro_target

FALSE_ALARM = 1e-4


@pytest.fixture(scope="module")
def known():
    return Known()


CHAINS, TRANSITIONS = 4096, 4


def invariance_p_value(known: Known, start_and_step) -> float:
    """``start_and_step(model, z)`` runs chains at exact draws z (target, chain, 2) and returns where they end."""
    rng = np.random.default_rng(5)
    values = []
    exact = np.stack([known.draw(k, CHAINS, rng) for k in range(len(NAMES))]).astype(np.float32)
    after = start_and_step(Targets(1), exact)
    for k, density in enumerate(DENSITIES):
        fresh = known.draw(k, 4 * CHAINS, rng)
        log_p = [density(jnp, z.astype(np.float32)) for z in (after[k], fresh)]
        for new, old in (*zip(after[k].T, fresh.T, strict=True), log_p):
            values.append(stats.ks_2samp(np.asarray(new), np.asarray(old)).pvalue)
    return min(1.0, len(values) * min(values))


def for_every_target(run):
    """From a function of one target's model, arguments and chains, in JAX."""

    def start_and_step(model, exact):
        data = {"y": {"value": jnp.arange(len(NAMES))[:, None]}}
        return np.asarray(jax.jit(jax.vmap(lambda item, z: run(model.numpyro, (item,), z)))(data, exact))

    return start_and_step


@for_every_target
def through_annealed_hmc(model, args, z):
    kernel = AnnealedHMC(model, num_leapfrog=3, step_size=1.3, resample_threshold=0.0)
    kernel.prepare(1, CHAINS)
    target = numpyro_target(model, args)
    state = kernel._init(target, jax.random.key(3), CHAINS)
    particles = state.particles._replace(point=jax.vmap(lambda u: evaluate(target, u))(z))
    state = state._replace(i=jnp.int32(2), made=jnp.int32(2), particles=particles)
    state = jax.lax.fori_loop(0, TRANSITIONS, lambda _, s: kernel._sample(target, s), state)
    return state.particles.point.u


def through_torch(model, z):
    kernel = PyroAnnealedHMC(model, num_chains=CHAINS, num_leapfrog=3, step_size=1.3, resample_threshold=0.0)
    kernel.setup(1)
    beta = torch.ones(len(NAMES), dtype=torch.float64)
    point = kernel.target.evaluate(torch.from_numpy(z).transpose(0, 1).contiguous())
    kernel.state = kernel.state._replace(i=2, point=point, beta=beta, step_size=torch.full_like(kernel.state.step_size, 1.3))
    for _ in range(TRANSITIONS):
        kernel.sample()
    return kernel.state.point.u.transpose(0, 1).numpy()


def through_numpyro(kernel_class):
    @for_every_target
    def run(model, args, z):
        kernel = kernel_class(model, step_size=0.35, adapt_step_size=False, adapt_mass_matrix=False)
        keys = jax.random.split(jax.random.key(3), CHAINS)

        def chain(key, start):
            state = kernel.init(key, 0, {"z": start[None]}, args, {})
            state = jax.lax.fori_loop(0, TRANSITIONS, lambda _, s: kernel.sample(s, args, {}), state)
            return state.z["z"][0]

        return jax.vmap(chain)(keys, z)

    return run


def test_annealed_hmc_leaves_the_posterior_invariant(known):
    assert invariance_p_value(known, through_annealed_hmc) > FALSE_ALARM


def test_annealed_hmc_in_torch_leaves_the_posterior_invariant(known):
    assert invariance_p_value(known, through_torch) > FALSE_ALARM


def test_accepting_everything_in_torch_is_not_invariant(known, monkeypatch):
    right = pyro_annealed_hmc.trajectory
    monkeypatch.setattr(pyro_annealed_hmc, "trajectory", lambda t, normal, u, *rest: right(t, normal, 0.0 * u, *rest))
    assert invariance_p_value(known, through_torch) < FALSE_ALARM


def test_nuts_leaves_the_posterior_invariant(known):
    assert invariance_p_value(known, through_numpyro(functools.partial(numpyro.infer.NUTS, max_tree_depth=4))) > FALSE_ALARM


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_kernel_is_not_invariant(known, broken, monkeypatch):
    broken(monkeypatch)
    assert invariance_p_value(known, through_annealed_hmc) < FALSE_ALARM

"""Annealed HMC in plain NumPyro on two devices: the chains lie where their keys lie, and the draws are the same.

Two devices on one CPU must be asked for before JAX starts, so that the runs are in a process of their own.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

DATA, NOISE = (1.0, -2.0), 0.5

PROGRAM = f"""
import json
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from numpyro.infer import MCMC
from cogen.inference import AnnealedHMC

jax.config.update("jax_disable_most_optimizations", True)

def model():
    z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    numpyro.sample("y", dist.Normal(z, {NOISE}).to_event(1), obs=jnp.array({DATA}))

def run(keys, **settings):
    kernel = AnnealedHMC(model, step_size=0.4, num_leapfrog=3, **settings)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=1, num_chains=len(keys), chain_method="vectorized", progress_bar=False)
    mcmc.run(keys, extra_fields=("log_weight", "population"))
    return mcmc

def refusal(keys, **settings):
    try:
        run(keys, **settings)
    except ValueError as error:
        return str(error)

mesh = Mesh(jax.devices(), ("chain",))
keys = jax.random.split(jax.random.key(0), 64)
sharded_keys = jax.device_put(keys, NamedSharding(mesh, P("chain")))
sharded, plain = run(sharded_keys), run(keys)
state = sharded.last_state
leaves = jax.tree.leaves([state.z, state.info, state.state.particles])
try:
    single = {{"num_chains": 2, "chain_method": "parallel", "progress_bar": False}}
    MCMC(AnnealedHMC(model), num_warmup=5, num_samples=1, **single).run(keys[0])
    parallel = None
except ValueError as error:
    parallel = str(error)
explicit = jax.device_put(keys, NamedSharding(jax.make_mesh((2,), ("chain",)), P("chain")))
print(json.dumps({{
    "devices": len(jax.devices()),
    "shards": [[len(leaf.sharding.device_set), leaf.sharding.shard_shape(leaf.shape)[0], leaf.shape[0]] for leaf in leaves],
    "sharded": {{n: jnp.asarray(v).tolist() for n, v in {{**sharded.get_samples(), **sharded.get_extra_fields()}}.items()}},
    "plain": {{n: jnp.asarray(v).tolist() for n, v in {{**plain.get_samples(), **plain.get_extra_fields()}}.items()}},
    "explicit": AnnealedHMC(model).init(explicit, 10, None, (), {{}}).state.particles.ancestor.sharding.shard_shape((64,)),
    "parallel": parallel,
    "replicated": refusal(jax.device_put(keys, NamedSharding(mesh, P()))),
    "one_population": refusal(sharded_keys, num_populations=1),
}}))
"""


@pytest.fixture(scope="module")
def found():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    process = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def test_the_state_lies_on_both_devices_to_the_end(found):
    assert found["devices"] == 2
    assert found["shards"] == [[2, 32, 64]] * len(found["shards"])


def test_the_draws_are_those_of_one_device(found):
    for name, value in found["plain"].items():
        np.testing.assert_allclose(found["sharded"][name], value, rtol=1e-3, atol=1e-3, err_msg=name)


def test_evidence_and_moments_are_right(found):
    """Within five standard errors of 64 chains, of which resampling costs half; the evidence has a relative one of 0.1."""
    data = np.array(DATA)
    log_evidence = stats.norm(0.0, np.sqrt(1 + NOISE**2)).logpdf(data).sum()
    assert np.ptp(found["sharded"]["log_weight"]) == 0
    assert found["sharded"]["log_weight"][0] == pytest.approx(log_evidence, abs=0.5)
    standard = (np.array(found["sharded"]["z"]) - data / (1 + NOISE**2)) / np.sqrt(NOISE**2 / (1 + NOISE**2))
    assert np.abs(standard.mean(axis=0)).max() < 5 * np.sqrt(2 / 64)
    assert np.abs(standard.var(axis=0) - 1).max() < 5 * np.sqrt(2 * 2 / 64)


def test_a_mesh_with_explicit_axes_will_do(found):
    assert found["explicit"] == [32]


def test_what_is_refused_says_what_to_do(found):
    assert "a population of one chain cannot be resampled" in found["parallel"]
    assert "shard the keys' chain axis" in found["parallel"]
    assert "shard their chain axis" in found["replicated"]
    assert "num_populations=1 on 2 devices" in found["one_population"]

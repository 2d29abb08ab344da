"""Annealed HMC against a closed posterior, and broken kernels against the same test.

Eight latents, 32 correlated outputs of which 20 are seen with Gaussian noise, 24 items. `known.moments_p_value` puts 8 means,
36 products and, where there are weights, the evidence to tests over items, with Bonferroni's correction. False alarms: at
most 1e-4 for each of the three exact runs below, so 3e-4 for the file; the seeds are fixed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from known import LinearCase, moments_p_value, relative_weights

from cogen.diagnostics import log_evidence
from cogen.inference import AnnealedHMC, RecordedSteps, infer
from cogen.inference.kernels import annealed_hmc

FALSE_ALARM = 1e-4
WARMUP, CHAINS = 200, 128


@pytest.fixture(scope="module")
def case() -> LinearCase:
    return LinearCase(24)


def run(case, kernel, *, seed=1, num_warmup=WARMUP, num_chains=CHAINS, num_samples=2):
    return infer(
        case.conditioned,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        progress=False,
        items_at_once=24,
    )


@pytest.fixture(scope="module")
def pilot(case):
    return run(case, AnnealedHMC(num_leapfrog=6, resample_threshold=0.0), seed=0, num_chains=16)


@pytest.fixture(scope="module", params=[0.0, 0.7], ids=["ais", "resampling"])
def frozen(request, case, pilot):
    return run(case, AnnealedHMC(num_leapfrog=6, resample_threshold=request.param, step_size=RecordedSteps.of(pilot)))


def test_annealed_hmc_is_exact(case, frozen):
    assert moments_p_value(case, frozen) > FALSE_ALARM


def test_the_evidence_is_within_a_twentieth_of_a_nat(case, frozen):
    """Judged over all items, since one item's estimate has a Monte Carlo error of its own, which must be what it says."""
    found = log_evidence(frozen)
    assert frozen["posterior"].attrs["adapted"] == 0
    ratio = np.exp(found["estimate"].values - case.log_evidence)
    assert abs(np.log(ratio.mean())) < 0.05
    error = found["estimate"].values - case.log_evidence
    assert np.sqrt(np.mean(error**2)) < 0.2
    assert np.mean((error / found["standard_error"].values) ** 2) < 8  # t with 3 degrees of freedom: 3 on average


def test_weights_stay_with_ais_and_are_levelled_by_resampling(case, frozen):
    weights = relative_weights(frozen, case.log_evidence)
    assert (weights == weights[:, :1]).all()
    ancestors = frozen["sample_stats"]["ancestor"].values[:, 0]
    if np.ptp(frozen["sample_stats"]["log_weight"].values[:, 0, 0]) > 0:
        assert (ancestors == np.arange(CHAINS)[:, None]).all()
    else:
        assert (weights == weights[:1]).all()
        assert np.unique(ancestors[:, 0]).size < CHAINS


def test_an_adapted_run_says_so_and_is_close(case, pilot):
    assert pilot["posterior"].attrs["adapted"] == 1
    assert log_evidence(pilot).attrs["adapted"] == 1
    assert abs(np.mean(log_evidence(pilot)["estimate"].values - case.log_evidence)) < 0.3


# --- broken on purpose ---------------------------------------------------------------------------------------------


def keeps_its_momentum(monkeypatch):
    right, key = annealed_hmc.transition_noise, jax.random.key(7)
    monkeypatch.setattr(annealed_hmc, "transition_noise", lambda k, n, dim: (right(key, n, dim)[0], right(k, n, dim)[1]))


def resamples_and_keeps_the_weights(monkeypatch):
    right = annealed_hmc.resample

    def careless(uniform, particles, *rest, **options):
        slots = particles._replace(ancestor=jnp.arange(particles.ancestor.size))
        new = right(uniform, slots, *rest, **options)
        weight = jax.tree.map(lambda a: a[new.ancestor], particles.log_weight)
        return new._replace(log_weight=weight, ancestor=particles.ancestor[new.ancestor])

    monkeypatch.setattr(annealed_hmc, "resample", careless)


@pytest.mark.parametrize("broken", [keeps_its_momentum, resamples_and_keeps_the_weights])
def test_a_broken_kernel_fails(case, broken, monkeypatch):
    broken(monkeypatch)
    posterior = run(case, AnnealedHMC(num_leapfrog=3, resample_threshold=0.7, step_size=0.25), num_warmup=100)
    assert moments_p_value(case, posterior) < FALSE_ALARM


def test_the_small_setting_of_the_broken_ones_is_right_when_it_is_not_broken(case):
    posterior = run(case, AnnealedHMC(num_leapfrog=3, resample_threshold=0.7, step_size=0.25), num_warmup=100)
    assert moments_p_value(case, posterior) > FALSE_ALARM

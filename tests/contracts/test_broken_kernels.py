"""The contracts of invariance and of moments find every broken kernel of `broken`, each with a p-value below 1e-6.

They look at the linear generator alone, with the settings of the right kernels, which pass (here, and in `test_invariance`).
"""

import functools

import blackjax
import chains
import jax.numpy as jnp
import pytest
from broken import (
    DETECTED,
    MALA,
    TRAJECTORIES,
    WRONG_BETAS,
    a_beta_that_is_3_percent_low,
    a_beta_that_is_right_only_at_the_ends,
    a_stale_start_gradient,
    an_acceptance_to_the_power_of_a_half,
    an_elliptical_slice_of_the_whole_posterior,
    break_trajectory,
    swaps_with_a_probability_to_the_power_of_a_half,
)
from invariance import case_named, invariance_p_value, replica_step, replicas_p_value
from known import LinearCase, moments_p_value
from registry import BELOW_ONE, mala_step, step

from cogen.inference import AnnealedHMC, BlackJAX, Langevin, PyroAnnealedHMC, PyroLangevin, infer
from cogen.inference.kernels import annealed_hmc, langevin, parallel_tempering
from cogen.inference.torch import annealed_hmc as pyro_annealed_hmc
from cogen.inference.torch import langevin as pyro_langevin

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4
LIBRARIES = {
    "jax": (annealed_hmc, AnnealedHMC, chains.annealed_hmc),
    "torch": (pyro_annealed_hmc, PyroAnnealedHMC, chains.annealed_hmc_in_torch),
}


# --- annealed kernels: moments ---------------------------------------------------------------------------------------------

linear_case = functools.cache(lambda: LinearCase(64))


def annealed_moments_p_value(kernel_class) -> float:
    """Few leapfrogs at a step that is rejected every fourth time, so that a transition forgets little and errs visibly."""
    kernel = kernel_class(num_leapfrog=3, step_size=0.25)
    counts = {"num_warmup": 40, "num_samples": 4, "num_chains": 256}
    case = linear_case()
    return moments_p_value(case, infer(case.conditioned, kernel, seed=1, progress=False, items_at_once=64, **counts))


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_right_trajectory_has_the_right_moments(library):
    _, kernel_class, _ = LIBRARIES[library]
    assert annealed_moments_p_value(kernel_class) > FALSE_ALARM


# The subtle ones: what is grosser the contract of invariance finds in less time.
SUBTLE = [a_stale_start_gradient, *WRONG_BETAS, an_acceptance_to_the_power_of_a_half]


@pytest.mark.slow
@pytest.mark.parametrize("mistake", SUBTLE)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_broken_trajectory_has_the_wrong_moments(library, mistake, monkeypatch):
    module, kernel_class, _ = LIBRARIES[library]
    break_trajectory(monkeypatch, module, mistake)
    assert annealed_moments_p_value(kernel_class) < DETECTED


# --- annealed kernels: invariance ------------------------------------------------------------------------------------------

AT_A_BETA = [(mistake, BELOW_ONE) for mistake in WRONG_BETAS]
AT_A_BETA += [(mistake, 1.0) for mistake in TRAJECTORIES if mistake is not a_beta_that_is_right_only_at_the_ends]


@pytest.mark.parametrize(("mistake", "beta"), AT_A_BETA)
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_broken_trajectory_is_not_invariant(library, mistake, beta, monkeypatch):
    module, _, through = LIBRARIES[library]
    break_trajectory(monkeypatch, module, mistake)
    assert invariance_p_value(case_named("linear"), through(step("linear", beta)), beta) < DETECTED


# --- replicas, MALA, BlackJAX ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mistake", [a_stale_start_gradient, a_beta_that_is_3_percent_low, an_acceptance_to_the_power_of_a_half]
)
def test_a_broken_trajectory_of_replicas(mistake, monkeypatch):
    break_trajectory(monkeypatch, parallel_tempering, mistake)
    assert replicas_p_value(case_named("linear"), replica_step("linear")) < DETECTED


def test_broken_swaps(monkeypatch):
    swaps_with_a_probability_to_the_power_of_a_half(monkeypatch)
    assert replicas_p_value(case_named("linear"), replica_step("linear")) < DETECTED


MALA_IN = {
    "jax": (langevin, lambda step: chains.at_a_beta(Langevin(step_size=step))),
    "torch": (pyro_langevin, lambda step: chains.langevin_in_torch(PyroLangevin(step_size=step))),
}


@pytest.mark.parametrize("broken", MALA)
@pytest.mark.parametrize("library", MALA_IN)
def test_a_broken_mala(library, broken, monkeypatch):
    module, through = MALA_IN[library]
    broken(monkeypatch, module)
    assert invariance_p_value(case_named("linear"), through(mala_step("linear"))) < DETECTED


def test_a_broken_elliptical_slice(monkeypatch):
    an_elliptical_slice_of_the_whole_posterior(monkeypatch)
    through = chains.blackjax(BlackJAX(blackjax.elliptical_slice, mean=jnp.full(8, 0.3), cov=2.0 * jnp.eye(8)))
    assert invariance_p_value(case_named("linear"), through) < DETECTED

"""One contract for all kernels: from exact draws, transitions leave the posterior what it is (see `invariance`).

False alarms: 1e-4 per kernel, target and beta, for fixed seeds. Broken kernels: see `test_broken_kernels`.
"""

import functools

import blackjax
import chains
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
import pytest
from broken import DETECTED
from invariance import (
    BELOW_ONE,
    CASES,
    Gaussians,
    case_named,
    invariance_p_value,
    mala_step,
    replica_step,
    replicas_p_value,
    step,
)
from known import GaussianPosteriors

from cogen.inference import BlackJAX, Langevin, PyroLangevin

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4

ANNEALED = {"jax": chains.annealed_hmc, "torch": chains.annealed_hmc_in_torch}


@pytest.mark.parametrize("beta", [BELOW_ONE, 1.0])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", ANNEALED)
def test_annealed_hmc(library, name, beta):
    through = ANNEALED[library](step(name, beta))
    assert invariance_p_value(case_named(name), through, beta) > FALSE_ALARM


@pytest.mark.parametrize("name", CASES)
def test_parallel_tempering(name):
    assert replicas_p_value(case_named(name), replica_step(name)) > FALSE_ALARM


LANGEVIN = {
    "jax": lambda **settings: chains.at_a_beta(Langevin(**settings)),
    "torch": lambda **settings: chains.langevin_in_torch(PyroLangevin(**settings)),
}


@pytest.mark.parametrize("beta", [BELOW_ONE, 1.0])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("library", LANGEVIN)
def test_mala(library, name, beta):
    through = LANGEVIN[library](step_size=mala_step(name))
    assert invariance_p_value(case_named(name), through, beta) > FALSE_ALARM


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("library", LANGEVIN)
def test_mala_with_a_preconditioner(library, kind):
    """The covariance of the items, which is one for all."""
    covariance = case_named("linear").case.covariance
    metric = covariance if kind == "dense" else np.diag(covariance)
    through = LANGEVIN[library](step_size=0.9, preconditioner=metric)
    assert invariance_p_value(case_named("linear"), through) > FALSE_ALARM


def random_walk(key, u):
    return u + 0.2 * jax.random.normal(key, u.shape)


BLACKJAX = {
    "hmc": lambda dim, h: BlackJAX(blackjax.hmc, step_size=h, inverse_mass_matrix=jnp.ones(dim), num_integration_steps=3),
    "nuts": lambda dim, h: BlackJAX(blackjax.nuts, step_size=h, inverse_mass_matrix=jnp.ones(dim), max_num_doublings=3),
    "mala": lambda dim, h: BlackJAX(blackjax.mala, step_size=0.5 * h**2),
    "barker": lambda dim, h: BlackJAX(blackjax.barker, step_size=h),
    "rmh": lambda dim, h: BlackJAX(blackjax.rmh, proposal_generator=random_walk),
    "elliptical_slice": lambda dim, h: BlackJAX(blackjax.elliptical_slice, mean=jnp.full(dim, 0.3), cov=2.0 * jnp.eye(dim)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sampler", BLACKJAX)
def test_blackjax(sampler, name):
    case = case_named(name)
    through = chains.blackjax(BLACKJAX[sampler](case.dim, 0.8 * step(name)))
    assert invariance_p_value(case, through) > FALSE_ALARM


@pytest.mark.parametrize("name", ["shapes", "weighted"])
def test_nuts(name):
    make = functools.partial(
        numpyro.infer.NUTS, step_size=0.3 * step(name), adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=3
    )
    assert invariance_p_value(case_named(name), chains.numpyro_kernel(make)) > FALSE_ALARM


# --- ULA's own law -------------------------------------------------------------------------------------------------------


def law_of_ula(h: float) -> Gaussians:
    """What ULA leaves invariant in the place of a normal posterior with the precision Q.

    A transition is x' = m + (I - h^2 Q / 2) (x - m) + h xi, an autoregression whose stationary covariance S solves

        S = (I - h^2 Q / 2) S (I - h^2 Q / 2) + h^2 I.

    S commutes with Q, so that S (h^2 Q - h^4 Q^2 / 4) = h^2 I, which is S^-1 = Q - h^2 Q^2 / 4.
    """
    linear = case_named("linear")
    q = np.linalg.inv(linear.case.covariance)
    precision = q - 0.25 * h**2 * q @ q
    law = GaussianPosteriors(precision - np.eye(len(q)), linear.case.mean @ precision, np.zeros(24))
    return Gaussians(law, linear.model)


def through_ula(library):
    return LANGEVIN[library](metropolis=False, step_size=0.25)


@pytest.mark.parametrize("library", LANGEVIN)
def test_ula_keeps_the_law_of_its_step(library):
    assert invariance_p_value(law_of_ula(0.25), through_ula(library)) > FALSE_ALARM


@pytest.mark.parametrize("believed", [0.0, 0.24])
@pytest.mark.parametrize("library", LANGEVIN)
def test_ula_does_not_keep_the_posterior_nor_the_law_of_another_step(library, believed):
    assert invariance_p_value(law_of_ula(believed), through_ula(library)) < DETECTED

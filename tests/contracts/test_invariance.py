"""One contract for all kernels: from exact draws, transitions leave the posterior what it is (see `invariance`).

False alarms: 1e-4 per kernel, target and beta, for fixed seeds. Broken kernels: see `test_broken_kernels`.
"""

import chains
import numpy as np
import pytest
from broken import DETECTED
from invariance import (
    CASES,
    Gaussians,
    case_named,
    invariance_p_value,
    replica_step,
    replicas_p_value,
)
from known import GaussianPosteriors
from registry import PLACED

from cogen.inference import Langevin, PyroLangevin

pytestmark = pytest.mark.usefixtures("one_torch_thread")

FALSE_ALARM = 1e-4

PLACINGS = [
    pytest.param(name, case, beta, marks=pytest.mark.slow if name.split(",")[0] in ("blackjax", "numpyro") else ())
    for name, entry in PLACED.items()
    for case in entry.cases
    for beta in entry.betas
]
"""Kernels of other libraries, which change rarely, are put to the contract in the slow tests."""


@pytest.mark.parametrize(("name", "case", "beta"), PLACINGS)
def test_the_posterior_stays_what_it_is(name, case, beta):
    known = case_named(case)
    assert invariance_p_value(known, PLACED[name].through(case, known.dim, beta), beta) > FALSE_ALARM


@pytest.mark.parametrize("name", CASES)
def test_parallel_tempering(name):
    assert replicas_p_value(case_named(name), replica_step(name)) > FALSE_ALARM


LANGEVIN = {
    "jax": lambda **settings: chains.at_a_beta(Langevin(**settings)),
    "torch": lambda **settings: chains.langevin_in_torch(PyroLangevin(**settings)),
}


@pytest.mark.parametrize("kind", ["diagonal", "dense"])
@pytest.mark.parametrize("library", LANGEVIN)
def test_mala_with_a_preconditioner(library, kind):
    """The covariance of the items, which is one for all."""
    covariance = case_named("linear").case.covariance
    metric = covariance if kind == "dense" else np.diag(covariance)
    through = LANGEVIN[library](step_size=0.9, preconditioner=metric)
    assert invariance_p_value(case_named("linear"), through) > FALSE_ALARM


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

"""Kernels with a mistake: what a contract must find, each with a p-value below 1e-6.

A trajectory is broken in the module that calls it (`break_trajectory`), so that JAX's annealed HMC, its sister in torch and
parallel tempering have the same mistakes; MALA, in JAX and in torch, and the swaps of replicas have their own.
"""

import functools

import numpy as np

from cogen.inference import GuideStart
from cogen.inference.adapters.blackjax_kernel import BlackJAXSettings
from cogen.inference.kernels import parallel_tempering

DETECTED = 1e-6


def break_trajectory(monkeypatch, module, mistake):
    """The trajectories that ``module`` calls make the mistake, a function of the right trajectory and its arguments."""
    monkeypatch.setattr(module, "trajectory", functools.partial(mistake, module.trajectory))


def a_momentum_of_the_wrong_sign(right, target, normal, uniform, start, *rest):
    """The first half step goes down the gradient."""
    flipped = start._replace(reference_gradient=-start.reference_gradient, increment_gradient=-start.increment_gradient)
    return right(target, normal, uniform, flipped, *rest)


def a_stale_start_gradient(right, target, normal, uniform, start, *rest):
    """The start's gradient is still the one of a lower beta."""
    return right(target, normal, uniform, start._replace(increment_gradient=0.7 * start.increment_gradient), *rest)


def a_beta_that_is_3_percent_low(right, target, normal, uniform, start, beta, *rest):
    return right(target, normal, uniform, start, 0.97 * beta, *rest)


def a_beta_that_is_right_only_at_the_ends(right, target, normal, uniform, start, beta, *rest):
    return right(target, normal, uniform, start, beta**1.1, *rest)


def an_acceptance_of_everything(right, target, normal, uniform, *rest):
    return right(target, normal, 0.0 * uniform, *rest)


def an_acceptance_to_the_power_of_a_half(right, target, normal, uniform, *rest):
    """u < sqrt(acceptance)."""
    return right(target, normal, uniform**2, *rest)


def an_acceptance_without_the_kinetic_energy(right, target, normal, uniform, start, beta, *rest):
    end = right(target, normal, 0.0 * uniform, start, beta, *rest).point
    accepted = uniform < np.e ** (end.log_density(beta) - start.log_density(beta))
    return right(target, normal, 1.0 - 1.0 * accepted, start, beta, *rest)


WRONG_BETAS = [a_beta_that_is_3_percent_low, a_beta_that_is_right_only_at_the_ends]
TRAJECTORIES = [
    a_momentum_of_the_wrong_sign,
    a_stale_start_gradient,
    *WRONG_BETAS,
    an_acceptance_of_everything,
    an_acceptance_to_the_power_of_a_half,
    an_acceptance_without_the_kinetic_energy,
]


# --- MALA: each takes a monkeypatch and the module, in JAX or in torch -----------------------------------------------------


def mala_with_a_stale_start_gradient(monkeypatch, langevin):
    right = langevin.propose
    monkeypatch.setattr(
        langevin,
        "propose",
        lambda t, start, *rest: right(t, start._replace(increment_gradient=0.7 * start.increment_gradient), *rest),
    )


def mala_with_a_beta_that_is_3_percent_low(monkeypatch, langevin):
    right = langevin.log_ratio

    def low(start, end, normal, beta, *rest):
        rise = end.increment - start.increment
        return right(start, end, normal, beta, *rest) - 0.03 * beta * getattr(rise, "value", rise)  # a Sum in JAX

    monkeypatch.setattr(langevin, "log_ratio", low)


def mala_with_an_acceptance_to_the_power_of_a_half(monkeypatch, langevin):
    right = langevin.log_ratio
    monkeypatch.setattr(langevin, "log_ratio", lambda *arguments: 0.5 * right(*arguments))


def mala_without_the_way_back(monkeypatch, langevin):
    monkeypatch.setattr(langevin, "proposal_log_ratio", lambda normal, pull: 0.0)


# --- replicas, BlackJAX, a guide: each takes a monkeypatch ------------------------------------------------------------------


def swaps_with_a_probability_to_the_power_of_a_half(monkeypatch):
    right = parallel_tempering.swap_probability
    monkeypatch.setattr(parallel_tempering, "swap_probability", lambda *arguments: right(*arguments) ** 0.5)


def an_elliptical_slice_of_the_whole_posterior(monkeypatch):
    """The Gaussian is not divided out, and so counts twice."""
    monkeypatch.setattr(BlackJAXSettings, "divisor", lambda self, u: 0.0)


def a_guide_density_that_is_3_percent_off(monkeypatch):
    right = GuideStart.log_density
    monkeypatch.setattr(GuideStart, "log_density", lambda self, *arguments: 0.97 * right(self, *arguments))


MALA = [
    mala_with_a_stale_start_gradient,
    mala_with_a_beta_that_is_3_percent_low,
    mala_with_an_acceptance_to_the_power_of_a_half,
    mala_without_the_way_back,
]

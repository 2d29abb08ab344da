"""Annealed kernels with a mistake: what a test of exactness must catch. Each takes a monkeypatch."""

import jax
import jax.numpy as jnp

from cogen.inference import annealed_hmc


def with_start(monkeypatch, change):
    right = annealed_hmc.trajectory
    monkeypatch.setattr(
        annealed_hmc, "trajectory", lambda t, normal, u, start, *rest: right(t, normal, u, change(start), *rest)
    )


def a_momentum_of_the_wrong_sign(monkeypatch):
    """The first half step goes down the gradient."""
    flip = lambda p: p._replace(reference_gradient=-p.reference_gradient, tilt_gradient=-p.tilt_gradient)  # noqa: E731
    with_start(monkeypatch, flip)


def a_stale_gradient_after_beta_changed(monkeypatch):
    """The start's gradient is still the one of a lower beta."""
    with_start(monkeypatch, lambda p: p._replace(tilt_gradient=0.4 * p.tilt_gradient))


def an_acceptance_of_everything(monkeypatch):
    right = annealed_hmc.trajectory
    monkeypatch.setattr(annealed_hmc, "trajectory", lambda t, normal, u, *rest: right(t, normal, 0.0 * u, *rest))


def an_acceptance_without_the_kinetic_energy(monkeypatch):
    right = annealed_hmc.trajectory

    def careless(target, normal, u, start, beta, *rest):
        moved = right(target, normal, 0.0 * u, start, beta, *rest)
        accepted = u < jnp.minimum(1.0, jnp.exp(moved.point.log_density_gain(start, beta)))
        return moved._replace(point=jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved.point, start))

    monkeypatch.setattr(annealed_hmc, "trajectory", careless)


BROKEN = [
    a_momentum_of_the_wrong_sign,
    a_stale_gradient_after_beta_changed,
    an_acceptance_of_everything,
    an_acceptance_without_the_kinetic_energy,
]

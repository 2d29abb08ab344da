"""A PPL model as an annealing path: what is known before the data, and what the data add.

The annealed density of inverse temperature beta is

    log pi_beta(u) = reference(u) + beta tilt(u),

with ``reference = log q0`` and ``tilt = log p(z, y) - log q0``, which is the log likelihood when q0 is the prior. The
two stay apart, so that a new beta costs no evaluation of the model, and each is given as the *terms* of its sum (one per
pixel), which `compensated_sum` adds.

Everything lives in unconstrained coordinates u, one flat vector for all latent sites; a site's density there carries the
log Jacobian of NumPyro's ``biject_to(support)``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to

from cogen.inference.sums import Sum, compensated_sum

Array = jax.Array
Sites = dict[str, Array]


class Target(NamedTuple):
    """One item's annealing path, in flat unconstrained coordinates u of shape (dim,)."""

    dim: int
    draw: Callable[[Array], Array]
    """An exact draw from q0: key -> u."""
    reference: Callable[[Array], Array]
    """The terms of log q0: u -> (n,)."""
    tilt: Callable[[Array], Array]
    """The terms of log p(z, y) - log q0: u -> (m,)."""
    sites: Callable[[Array], Sites]
    """u -> unconstrained values by site name."""


class Point(NamedTuple):
    """A position, with everything a transition needs to know about it. No beta in here."""

    u: Array
    reference: Sum
    tilt: Sum
    reference_gradient: Array
    tilt_gradient: Array

    def log_density(self, beta: Array) -> Array:
        return self.reference.value + beta * self.tilt.value

    def gradient(self, beta: Array) -> Array:
        return self.reference_gradient + beta * self.tilt_gradient

    def log_density_gain(self, start: Point, beta: Array) -> Array:
        """log pi_beta(self) - log pi_beta(start), the differences taken before the rounding."""
        return (self.reference - start.reference).value + beta * (self.tilt - start.tilt).value


def evaluate(target: Target, u: Array) -> Point:
    """One gradient evaluation of the model."""

    def pull(terms_of: Callable[[Array], Array]) -> tuple[Sum, Array]:
        terms, back = jax.vjp(terms_of, u)
        return compensated_sum(terms), back(jnp.ones_like(terms))[0]

    reference, reference_gradient = pull(target.reference)
    tilt, tilt_gradient = pull(target.tilt)
    return Point(u, reference, tilt, reference_gradient, tilt_gradient)


def gradient_at(target: Target, u: Array, beta: Array) -> Array:
    """The gradient of log pi_beta alone, for the inner steps of a trajectory."""
    return jax.grad(lambda v: target.reference(v).sum() + beta * target.tilt(v).sum())(u)


def numpyro_target(
    model: Callable,
    args: tuple = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    initial: dist.Distribution | Mapping[str, dist.Distribution] | None = None,
    flat_prior: bool = False,
) -> Target:
    """The annealing path of a NumPyro model with these arguments.

    ``initial`` replaces the prior as q0: a distribution over the model's one latent site, or a mapping from the name of
    every latent site to one. ``flat_prior`` leaves the prior out at beta = 1 (Fang and Schwing's own path: pi_beta =
    p(z)^(1 - beta) p(y | z)^beta); the end point may then be improper and has no evidence.

    Raises ValueError for a model without latent or without observed sites, for a discrete latent site, and for an
    ``initial`` whose sites or shapes are not the model's.
    """
    kwargs = dict(kwargs or {})
    prototype = _trace(handlers.seed(model, jax.random.key(0)), args, kwargs)
    latent = {name: site for name, site in prototype.items() if not site["is_observed"]}
    _check_sites(prototype, latent)
    start = _start(latent, initial)

    def unconstrained(trace: dict) -> Sites:
        return {name: biject_to(trace[name]["fn"].support).inv(trace[name]["value"]) for name in latent}

    flat, unravel = ravel_pytree(unconstrained(prototype))

    def trace_at(u: Array) -> tuple[dict, Array]:
        values = unravel(u)

        def constrain(site: dict) -> Array | None:
            name = site["name"]
            return biject_to(site["fn"].support)(values[name]) if site["type"] == "sample" and name in values else None

        trace = _trace(handlers.substitute(handlers.seed(model, jax.random.key(0)), substitute_fn=constrain), args, kwargs)
        jacobian = [
            jnp.ravel(biject_to(trace[name]["fn"].support).log_abs_det_jacobian(values[name], trace[name]["value"]))
            for name in latent
        ]
        return trace, jnp.concatenate(jacobian)

    def start_terms(trace: dict) -> Array:
        return jnp.concatenate([_terms(start[name], trace[name]["value"]) for name in latent])

    def prior_terms(trace: dict) -> Array:
        return jnp.concatenate([_site_terms(trace[name]) for name in latent])

    def reference(u: Array) -> Array:
        trace, jacobian = trace_at(u)
        return jnp.concatenate([prior_terms(trace) if initial is None else start_terms(trace), jacobian])

    def tilt(u: Array) -> Array:
        trace, _ = trace_at(u)
        parts = [_site_terms(site) for site in trace.values() if site["is_observed"]]
        if initial is not None:
            parts.append(-start_terms(trace))
            if not flat_prior:
                parts.append(prior_terms(trace))
        elif flat_prior:
            parts.append(-prior_terms(trace))
        return jnp.concatenate(parts)

    def draw(key: Array) -> Array:
        if initial is None:
            return ravel_pytree(unconstrained(_trace(handlers.seed(model, key), args, kwargs)))[0]
        keys = dict(zip(latent, jax.random.split(key, len(latent)), strict=True))
        values = {name: start[name].sample(keys[name]) for name in latent}
        trace = _trace(handlers.seed(handlers.substitute(model, data=values), key), args, kwargs)
        return ravel_pytree(unconstrained(trace))[0]

    return Target(flat.size, draw, reference, tilt, unravel)


def _trace(model: Callable, args: tuple, kwargs: dict) -> dict:
    trace = handlers.trace(model).get_trace(*args, **kwargs)
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def _terms(distribution: dist.Distribution, value: Array) -> Array:
    """The log density of a value, one term per element where the distribution is a product over elements."""
    while isinstance(distribution, dist.Independent):
        distribution = distribution.base_dist
    return jnp.ravel(distribution.log_prob(value))


def _site_terms(site: dict) -> Array:
    terms = _terms(site["fn"], site["value"])
    return terms if site.get("scale") is None else jnp.ravel(site["scale"] * terms)


def _check_sites(prototype: dict, latent: dict) -> None:
    if not latent:
        raise ValueError("the model has no latent site: there is nothing to infer (are all of its sites conditioned?)")
    if len(latent) == len(prototype):
        raise ValueError(
            f"the model has no observed site (latent: {', '.join(latent)}): condition it first, as in"
            " model.condition(visible=pixels) or numpyro.handlers.condition(model, data=...)"
        )
    for name, site in latent.items():
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"latent site {name!r} is discrete ({type(site['fn']).__name__}), and no gradient moves it: sum it out of"
                " the model, or observe it"
            )


def _start(latent: dict, initial: dist.Distribution | Mapping[str, dist.Distribution] | None) -> dict:
    if initial is None:
        return {}
    if isinstance(initial, dist.Distribution):
        if len(latent) != 1:
            raise ValueError(f"initial is one distribution, the model has the latent sites {sorted(latent)}: give a mapping")
        initial = dict.fromkeys(latent, initial)
    if set(initial) != set(latent):
        raise ValueError(f"initial has the sites {sorted(initial)}, the model has the latent sites {sorted(latent)}")
    started = {}
    for name, distribution in initial.items():
        shape, wanted = distribution.batch_shape + distribution.event_shape, jnp.shape(latent[name]["value"])
        fits = len(shape) <= len(wanted) and all(
            have in (1, want) for have, want in zip(shape[::-1], wanted[::-1], strict=False)
        )
        if not fits:
            raise ValueError(f"initial for site {name!r} has shape {shape}, the site has {wanted}")
        started[name] = distribution.expand(wanted[: len(wanted) - distribution.event_dim])
    return started

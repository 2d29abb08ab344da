"""A NumPyro model as an annealing path (see `target`).

The observed sites to temper can be named; the others then count fully at every beta, and a draw of the prior starts with their
density as its weight. Discrete latent sites are summed out by NumPyro's enumeration (with funsor): the increment is then the
log of the sum, not a sum of tempered terms.

The density of a site is NumPyro's, with the scale and the mask that its handlers set. A latent site is drawn without them,
so that log q0 excludes them, and the increment includes their effect.

All coordinates u are unconstrained, one flat vector for all latent sites; a site's density includes the log Jacobian of
NumPyro's ``biject_to(support)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.extend.core import Literal
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import constrain_fn, unconstrain_fn

from cogen.inference.annealing.guide_start import GuideStart
from cogen.inference.signatures import Model
from cogen.inference.targets.masked_sites import is_masked, unmasked
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Program, Sites, Target

Array = jax.Array
Initial: TypeAlias = dist.Distribution | Mapping[str, dist.Distribution] | GuideStart | None


def numpyro_target(
    model: Model,
    args: tuple[object, ...] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    initial: Initial = None,
    temper: Sequence[str] | None = None,
    flat_prior: bool = False,
) -> Target:
    """The annealing path of a NumPyro model with these arguments.

    :param initial: q0 instead of the prior: a distribution over the model's one latent site, a mapping from the name of every
        latent site to one, or a guide mixed with the prior.
    :param temper: names of the observed sites to temper (default: all).
    :param flat_prior: leave the prior out at beta = 1 (Fang and Schwing's path: pi_beta = p(z)^(1 - beta) p(y | z)^beta); the
        end point may then be improper and has no evidence.
    :raises ValueError: for a model without latent or observed sites, with an improper prior or with a subsampled plate, for a
        discrete latent site that cannot be enumerated, for a name in ``temper`` that is not an observed site, and for an
        ``initial`` whose sites or shapes are not the model's.
    """
    kwargs = dict(kwargs or {})
    prototype = first_trace(model, args, kwargs)
    hidden = {name: site for name, site in prototype.items() if not site["is_observed"]}
    discrete = [name for name, site in hidden.items() if site["fn"].support.is_discrete]
    latent = {name: site for name, site in hidden.items() if name not in discrete}
    nesting = max((-frame.dim for site in prototype.values() for frame in site["cond_indep_stack"]), default=0)
    _check_sites(prototype, hidden, latent)
    tempered = _tempered(prototype, temper)
    changed = [name for name, site in latent.items() if site.get("scale") is not None or is_masked(site["fn"])]
    guide = initial if isinstance(initial, GuideStart) else None
    start = {} if isinstance(initial, GuideStart) else _start(latent, initial)

    def unconstrained(values: Mapping[str, Array], trace: dict[str, Any]) -> Sites:
        return {name: biject_to(trace[name]["fn"].support).inv(values[name]) for name in latent}

    first = {name: latent[name]["value"] for name in latent}
    raveled, unravel_exactly = ravel_pytree(unconstrained(first, prototype))
    flat = real(raveled)

    def unravel(u: Array) -> Sites:
        return unravel_exactly(u.astype(raveled.dtype))

    if guide is not None:
        places = unravel(flat)
        guide.check({n: {"value": site["value"], "unconstrained": places[n]} for n, site in latent.items()}, args, kwargs)

    def trace_at(u: Array) -> tuple[dict[str, Any], Array]:
        values = unravel(u)

        def constrain(site: dict[str, Any]) -> Array | None:
            name = site["name"]
            return biject_to(site["fn"].support)(values[name]) if site["type"] == "sample" and name in values else None

        trace = sample_sites(
            handlers.substitute(handlers.seed(model, jax.random.key(0)), substitute_fn=constrain), args, kwargs
        )
        jacobian = [
            jnp.ravel(biject_to(trace[name]["fn"].support).log_abs_det_jacobian(values[name], trace[name]["value"]))
            for name in latent
        ]
        return trace, jnp.concatenate(jacobian)

    def start_terms(u: Array, trace: dict[str, Any], jacobian: Array) -> Array:
        if guide is None:
            return jnp.concatenate([_terms(start[name], trace[name]["value"]) for name in latent])
        values = {name: trace[name]["value"] for name in latent}
        log_guide = guide.log_density(u, values, jacobian.sum(), args, kwargs) - jacobian.sum()
        share = real(guide.prior_share)
        return jnp.logaddexp(jnp.log1p(-share) + log_guide, jnp.log(share) + drawn_terms(trace).sum())[None]

    def drawn_terms(trace: dict[str, Any]) -> Array:
        """The terms of the density of prior draws, without scales and masks."""
        return jnp.concatenate([_terms(unmasked(trace[name]["fn"]), trace[name]["value"]) for name in latent])

    def change_terms(trace: dict[str, Any]) -> list[Array]:
        """The terms of its change by scales and masks."""
        parts = [(site_terms(trace[name]), -_terms(unmasked(trace[name]["fn"]), trace[name]["value"])) for name in changed]
        return [terms for part in parts for terms in part]

    def observed_terms(u: Array, trace: dict[str, Any], chosen: bool) -> list[Array]:
        if discrete:
            values = {name: trace[name]["value"] for name in latent}
            return [_enumerated(model, args, kwargs, values, latent, nesting)[None]] if chosen else []
        return [site_terms(site) for name, site in trace.items() if site["is_observed"] and (name in tempered) == chosen]

    def terms(u: Array) -> tuple[Array, Array]:
        trace, jacobian = trace_at(u)
        drawn = drawn_terms(trace)
        known = drawn if initial is None else start_terms(u, trace, jacobian)
        parts = observed_terms(u, trace, True)
        if initial is not None:
            parts.append(-known)
            if not flat_prior:
                parts.append(drawn)
        elif flat_prior:
            parts.append(-drawn)
        if not flat_prior:
            parts += change_terms(trace)
        reference = [known, jacobian, *observed_terms(u, trace, False)]
        return real(jnp.concatenate(reference)), real(jnp.concatenate(parts))

    def start_weight(u: Array) -> Array:
        return real(jnp.concatenate(observed_terms(u, trace_at(u)[0], False)))

    def prior_draw(key: Array) -> Array:
        trace = sample_sites(handlers.seed(model, key), args, kwargs)
        return ravel_pytree(unconstrained({name: trace[name]["value"] for name in latent}, trace))[0]

    def from_values(key: Array, values: Mapping[str, Array]) -> Array:
        trace = sample_sites(handlers.seed(handlers.substitute(model, data=dict(values)), key), args, kwargs)
        return ravel_pytree(unconstrained(values, trace))[0]

    def guide_draw(key: Array, start: GuideStart) -> Array:
        which, prior_key, guide_key = jax.random.split(key, 3)
        drawn = start.draw(guide_key, args, kwargs)
        drawn = from_values(guide_key, drawn) if isinstance(drawn, dict) else drawn
        return jnp.where(jax.random.uniform(which) < start.prior_share, prior_draw(prior_key), drawn)

    def draw(key: Array) -> Array:
        if guide is not None:
            return real(guide_draw(key, guide))
        if initial is None:
            return real(prior_draw(key))
        keys = dict(zip(latent, jax.random.split(key, len(latent)), strict=True))
        return real(from_values(key, {name: start[name].sample(keys[name]) for name in latent}))

    if discrete:
        jax.eval_shape(terms, flat)  # raises an error if the enumeration fails
    untempered = not discrete and any(site["is_observed"] and name not in tempered for name, site in prototype.items())
    # A compiled function is traced once for all its calls in a transition.
    weight, program = start_weight if untempered else None, Program(model, args, kwargs)
    target = Target(flat.size, draw, jax.jit(terms), unravel, weight, program)
    return target if guide is None or guide.affine is None else target.in_coordinates(guide.affine)


def unconstrained_position(model: Model, args: tuple[object, ...], values: Mapping[str, Array | np.ndarray]) -> Array:
    """The flat unconstrained coordinates (dim,) of values of a model's latent sites.

    :raises ValueError: for sites other than the model's continuous latent ones.
    """
    prototype = first_trace(model, args, {})
    latent = {name for name, site in prototype.items() if is_latent(site) and not site["fn"].support.is_discrete}
    if set(values) != latent:
        raise ValueError(f"values are given for the sites {sorted(values)}, the model has the latent sites {sorted(latent)}")
    found = unconstrain_fn(handlers.seed(model, jax.random.key(0)), args, {}, values)
    return ravel_pytree({name: found[name] for name in latent})[0]


def constrained_sites(
    model: Model,
    args: tuple[object, ...],
    kwargs: Mapping[str, object] | None,
    unconstrained: Sites,
    *,
    deterministic: bool = True,
) -> Sites:
    """The values of a model's latent and deterministic sites at one unconstrained position.

    A deterministic site that depends on a summed-out discrete latent has no value and is omitted.
    """
    kwargs = dict(kwargs or {})
    seeded = handlers.seed(model, jax.random.key(0))  # draws discrete sites, which have no coordinates
    values = constrain_fn(seeded, args, kwargs, unconstrained, return_deterministic=deterministic)
    undecided = _deterministic_of_discrete(model, args, kwargs) if deterministic else set()
    return {name: value for name, value in values.items() if name not in undecided}


def _deterministic_of_discrete(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> set[str]:
    """The deterministic sites that depend on a discrete latent site in the traced program of the model."""
    trace = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
    discrete = {n: s["value"] for n, s in trace.items() if is_latent(s) and s["fn"].support.is_discrete}
    names = [name for name, site in trace.items() if site["type"] == "deterministic"]
    if not discrete or not names:
        return set()

    def values(discrete: Sites) -> list[Array]:
        model_at = handlers.substitute(handlers.seed(model, jax.random.key(0)), data=discrete)
        trace = handlers.trace(model_at).get_trace(*args, **kwargs)
        return [jnp.asarray(trace[name]["value"]) for name in names]

    program = jax.make_jaxpr(values)(discrete).jaxpr
    reached = set(program.invars)
    for equation in program.eqns:
        if any(v in reached for v in equation.invars if not isinstance(v, Literal)):
            reached.update(equation.outvars)
    return {n for n, v in zip(names, program.outvars, strict=True) if not isinstance(v, Literal) and v in reached}


def is_latent(site: dict[str, Any]) -> bool:
    return site["type"] == "sample" and not site["is_observed"]


def sample_sites(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
    trace = handlers.trace(model).get_trace(*args, **kwargs)
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def first_trace(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> dict[str, Any]:
    """The sites of one run of the model.

    :raises ValueError: for a model that cannot be drawn from, or whose posterior changes between runs.
    """
    try:
        trace = handlers.trace(handlers.seed(model, jax.random.key(0))).get_trace(*args, **kwargs)
    except NotImplementedError as error:
        raise ValueError(
            "the model cannot be drawn from, but chains start from exact draws: if a latent site has an improper prior"
            " (ImproperUniform), give it a proper one"
        ) from error
    for name, site in trace.items():
        if site["type"] == "plate" and site["args"][1] is not None and site["args"][1] < site["args"][0]:
            with jax.ensure_compile_time_eval():
                seeded = [handlers.seed(model, jax.random.key(k)) for k in range(2)]
                first, second = (np.asarray(handlers.trace(m).get_trace(*args, **kwargs)[name]["value"]) for m in seeded)
            if not np.array_equal(first, second):
                raise ValueError(
                    f"plate {name!r} draws a subsample of {site['args'][1]} of {site['args'][0]}, which changes the posterior"
                    " in every run: use the full plate, or fix the subsample (numpyro.handlers.substitute)"
                )
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def _terms(distribution: dist.Distribution, value: Array, scale: Array | None = None) -> Array:
    """The log density of a value, one term per element if the distribution is a product over elements.

    NumPyro multiplies the terms by the scale of their batch before the sum.
    """
    event_dims = 0
    while isinstance(distribution, dist.Independent):
        event_dims += distribution.reinterpreted_batch_ndims
        distribution = distribution.base_dist
    terms = distribution.log_prob(value)
    if scale is not None:
        terms = jnp.reshape(scale, jnp.shape(scale) + (1,) * event_dims) * terms
    return jnp.ravel(terms)


def site_terms(site: dict[str, Any]) -> Array:
    return _terms(site["fn"], site["value"], site.get("scale"))


def _check_sites(prototype: dict[str, Any], hidden: dict[str, Any], latent: dict[str, Any]) -> None:
    if not hidden:
        raise ValueError("the model has no latent site: there is nothing to infer (are all of its sites conditioned?)")
    if len(hidden) == len(prototype):
        raise ValueError(
            f"the model has no observed site (latent: {', '.join(hidden)}): condition it first, as in"
            " model.condition(visible=pixels) or numpyro.handlers.condition(model, data=...)"
        )
    for name in hidden.keys() - latent.keys():
        kind = type(hidden[name]["fn"]).__name__
        masked = ""
        if name.endswith("_unobserved"):
            masked = f" (obs_mask= of {name.removesuffix('_unobserved')!r} makes this site: a mask handler makes none)"
        if not hidden[name]["fn"].has_enumerate_support or hidden[name]["infer"].get("enumerate", "parallel") != "parallel":
            raise ValueError(
                f"latent site {name!r} is discrete ({kind}), has no gradient and cannot be enumerated: sum it out of the"
                f" model, or observe it{masked}"
            )
        try:
            import funsor  # noqa: F401
        except ImportError:
            raise ValueError(
                f"latent site {name!r} is discrete ({kind}): summing it out requires funsor (pip install funsor)"
            ) from None
    if not latent:
        names = ", ".join(map(repr, hidden))
        raise ValueError(
            f"the only latent site, {names}, is discrete and has no gradient: add a continuous latent site, or use BlockGibbs"
            " for two layers of units"
        )


def _tempered(prototype: dict[str, Any], temper: Sequence[str] | None) -> set[str]:
    observed = {name for name, site in prototype.items() if site["is_observed"]}
    if temper is None:
        return observed
    if isinstance(temper, str) or not set(temper) or not set(temper) <= observed:
        raise ValueError(f"temper={temper!r}: name one or more of the observed sites {sorted(observed)}")
    if len(observed) < len(prototype) and any(
        site["fn"].support.is_discrete and not site["is_observed"] for site in prototype.values()
    ):
        raise ValueError(
            "temper= cannot name sites of a model whose discrete latents are summed out: the whole sum is tempered"
        )
    return set(temper)


def _enumerated(
    model: Model, args: tuple[object, ...], kwargs: Mapping[str, object], values: Sites, latent: dict[str, Any], nesting: int
) -> Array:
    """log p(y | continuous latents), with the discrete latents summed out by NumPyro's funsor backend.

    :param nesting: the number of nested plates; enumeration dimensions are to their left.
    """
    from numpyro.contrib.funsor import config_enumerate, enum, log_density

    seeded = handlers.seed(model, jax.random.key(0))
    enumerated = enum(config_enumerate(seeded), first_available_dim=-nesting - 1)
    inner = handlers.trace(handlers.substitute(enumerated, data=dict(values)))
    # The continuous latents are hidden, since adding and subtracting their densities would cause rounding errors.
    log_likelihood, _ = log_density(handlers.block(inner, hide=list(latent)), args, kwargs, {})
    for name, site in latent.items():
        if inner.trace[name]["fn"].batch_shape != site["fn"].batch_shape:
            raise ValueError(
                f"latent site {name!r} depends on a discrete latent site, so its prior cannot be separated: sum the discrete"
                " site out of the model, as dist.MixtureSameFamily does"
            )
    return log_likelihood


def _start(latent: dict[str, Any], initial: dist.Distribution | Mapping[str, dist.Distribution] | None) -> dict[str, Any]:
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

"""A NumPyro model of two layers of units as an annealing path: an exponential-family harmonium.

Its two latent sites are independent under q0 = q(v) q(h), with Bernoulli or normal units, and the log likelihood t (a
``factor``, or any observed sites) is affine in each site when the other is fixed. On the path log q0 + beta t the units of one
layer are then independent given the other layer: a Bernoulli unit of log odds l has the log odds l + beta dt/du, and a normal
one of mean m and standard deviation s the mean m + beta s^2 dt/du. Every conditional therefore needs one gradient, and a
Bernoulli layer is summed out in closed form,

    log E_{q(h)} exp(beta t(v, h)) = beta t(v, 0) + sum_j [ softplus(l_j + beta dt/dh_j) - softplus(l_j) ].

Unlike in `numpyro_target`, the coordinates are the values of the sites.

References:
    Welling, Rosen-Zvi, Hinton. Exponential family harmoniums with an application to information retrieval. NeurIPS 2005.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers

from cogen.inference.signatures import Model
from cogen.inference.targets.masked_sites import is_masked
from cogen.inference.targets.numpyro_target import first_trace, is_latent, sample_sites, site_terms
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Program, Sites, Target

Array = jax.Array


class BernoulliUnits(NamedTuple):
    """A layer of Bernoulli units."""

    logits: Array  # (unit,)

    def tilted(self, key: Array, slope: Array) -> Array:
        """A draw of q0(u) exp(slope u), normalised, (unit,)."""
        return (jax.random.uniform(key, slope.shape) < jax.nn.sigmoid(self.logits + slope)).astype(slope.dtype)

    def log_means(self, slope: Array) -> Array:
        """log E_{q0} exp(slope u), (unit,)."""
        return jax.nn.softplus(self.logits + slope) - jax.nn.softplus(self.logits)


class NormalUnits(NamedTuple):
    """A layer of normal units."""

    mean: Array  # (unit,)
    scale: Array

    def tilted(self, key: Array, slope: Array) -> Array:
        """A draw of q0(u) exp(slope u), normalised, (unit,)."""
        return self.mean + self.scale * (self.scale * slope + jax.random.normal(key, slope.shape))


class Layers(NamedTuple):
    """The two layers; a position has the visible units followed by the hidden ones, (visible + hidden,)."""

    visible: BernoulliUnits | NormalUnits
    hidden: BernoulliUnits

    @property
    def num_visible(self) -> int:
        return len(self.visible[0])

    def split(self, u: Array) -> tuple[Array, Array]:
        """Visible and hidden units of positions (..., dim)."""
        return u[..., : self.num_visible], u[..., self.num_visible :]


def layered_target(
    model: Model, args: tuple[object, ...] = (), kwargs: Mapping[str, object] | None = None, *, hidden: str
) -> Target:
    """The annealing path of a model of two layers, with its `Layers`.

    :param hidden: the latent site that is summed out.
    :raises ValueError: for a model without two such layers (`check_layers` checks more).
    """
    kwargs = dict(kwargs or {})
    sites = first_trace(model, args, kwargs)
    names = _names(sites, hidden)
    units = {name: _units(name, sites[name]) for name in names}
    layers = Layers(units[names[0]], units[hidden])  # type: ignore[arg-type]
    shapes = {name: jnp.shape(sites[name]["value"]) for name in names}

    def values(u: Array) -> Sites:
        return {name: part.reshape(shapes[name]) for name, part in zip(names, layers.split(u), strict=True)}

    def terms(u: Array) -> tuple[Array, Array]:
        trace = _at(model, args, kwargs, values(u))
        observed = [site_terms(site) for site in trace.values() if site["is_observed"]]
        return jnp.concatenate([site_terms(trace[name]) for name in names]), real(jnp.concatenate(observed))

    def draw(key: Array) -> Array:
        trace = sample_sites(handlers.seed(model, key), args, kwargs)
        return jnp.concatenate([jnp.ravel(real(trace[name]["value"])) for name in names])

    dim = sum(math.prod(shape) for shape in shapes.values())
    return Target(dim, draw, jax.jit(terms), values, program=Program(model, args, kwargs), layers=layers)


def layered_position(model: Model, args: tuple[object, ...], values: Mapping[str, Array | np.ndarray], *, hidden: str) -> Array:
    """The position (dim,) of values of the two layers.

    :raises ValueError: for values of other sites.
    """
    names = _names(first_trace(model, args, {}), hidden)
    if set(values) != set(names):
        raise ValueError(f"values are given for the sites {sorted(values)}, the model has the layers {sorted(names)}")
    return jnp.concatenate([jnp.ravel(real(values[name])) for name in names])


def check_layers(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object], *, hidden: str) -> None:
    """Check a model of two layers at two random positions (real values for Bernoulli units too, as for gradients).

    :raises ValueError: for a model without two layers, whose layers are not independent under q0, or whose log likelihood is
        not affine in each of them.
    """

    def looked_at() -> dict[str, tuple[Any, ...]]:
        """For each layer, its units under q0 at two positions, and t at the first, with this layer of the second, and at the
        midpoint."""
        target = layered_target(model, args, kwargs, hidden=hidden)
        first, second = jax.random.normal(jax.random.key(0), (2, target.dim))
        traces = [_at(model, args, dict(kwargs), target.sites(u)) for u in (first, second)]
        cut, found = target.layers.num_visible, {}
        swapped = jnp.concatenate([second[:cut], first[cut:]]), jnp.concatenate([first[:cut], second[cut:]])
        for name, other in zip(_names(traces[0], hidden), swapped, strict=True):
            units = [_units(name, trace[name]) for trace in traces]
            found[name] = (*units, [target.increment(u).sum() for u in (first, other, 0.5 * (first + other))])
        return found

    for name, (one, other, likelihood) in jax.jit(looked_at)().items():
        if not all(np.allclose(a, b) for a, b in zip(one, other, strict=True)):
            raise ValueError(
                f"latent site {name!r} depends on the other layer, but under q0 the two must be independent: couple them by a"
                " factor, as in numpyro.factor('energy', ...)"
            )
        start, end, middle = map(float, likelihood)
        if not math.isclose(middle, 0.5 * (start + end), rel_tol=1e-3, abs_tol=1e-3 * (1 + abs(start) + abs(end))):
            raise ValueError(
                f"the log likelihood is not affine in the latent site {name!r} given the other layer, so its units are not"
                " independent: block Gibbs requires two layers without connections within a layer"
            )


def _at(model: Model, args: tuple[object, ...], kwargs: Mapping[str, object], values: Sites) -> dict[str, Any]:
    return sample_sites(handlers.substitute(handlers.seed(model, jax.random.key(0)), data=values), args, kwargs)


def _names(sites: dict[str, Any], hidden: str) -> tuple[str, str]:
    """The names of the visible and the hidden layer."""
    latent = [name for name, site in sites.items() if is_latent(site)]
    if len(latent) != 2 or hidden not in latent or len(latent) == len(sites):
        observed = [name for name in sites if name not in latent]
        raise ValueError(
            f"block Gibbs requires a model with two latent sites, one of them {hidden!r}, and a factor; this one has the latent"
            f" sites {latent} and the observed {observed}: name the layer that is summed out, as in BlockGibbs(hidden='h')"
        )
    (visible,) = set(latent) - {hidden}
    for name in latent:
        if sites[name].get("scale") is not None or is_masked(sites[name]["fn"]):
            raise ValueError(f"latent site {name!r} is scaled or masked, which block Gibbs does not support")
    if not isinstance(_units(hidden, sites[hidden]), BernoulliUnits):
        raise ValueError(f"latent site {hidden!r} is not Bernoulli, but the hidden layer is summed out: name a Bernoulli layer")
    return visible, hidden


def _units(name: str, site: dict[str, Any]) -> BernoulliUnits | NormalUnits:
    distribution = site["fn"]
    while isinstance(distribution, dist.Independent | dist.ExpandedDistribution):
        distribution = distribution.base_dist
    shape = jnp.shape(site["value"])

    def each(parameter: Any) -> Array:
        return jnp.ravel(jnp.broadcast_to(real(parameter), shape))

    if isinstance(distribution, dist.BernoulliLogits | dist.BernoulliProbs):
        return BernoulliUnits(each(distribution.logits))
    if isinstance(distribution, dist.Normal):
        return NormalUnits(each(distribution.loc), each(distribution.scale))
    raise ValueError(
        f"latent site {name!r} is {type(distribution).__name__}: block Gibbs supports layers of Bernoulli or normal units"
    )

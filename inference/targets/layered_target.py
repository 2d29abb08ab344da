"""A NumPyro model of two layers of units as an annealing path: an exponential-family harmonium.

Its two latent sites are independent under q0 = q(v) q(h), Bernoulli or normal unit by unit, and the log likelihood t (a
``factor``, or any observed sites) is affine in each site when the other is fixed. On the path log q0 + beta t the units of one
layer are then independent given the other layer: a Bernoulli unit of log odds l has the log odds l + beta dt/du, and a normal
one of mean m and standard deviation s the mean m + beta s^2 dt/du. So every conditional comes from one gradient, and a
Bernoulli layer is summed out in closed form,

    log E_{q(h)} exp(beta t(v, h)) = beta t(v, 0) + sum_j [ softplus(l_j + beta dt/dh_j) - softplus(l_j) ].

Unlike those of `numpyro_target`, its coordinates are the values of the sites.

References:
    Welling, Rosen-Zvi, Hinton. Exponential family harmoniums with an application to information retrieval. NeurIPS 2005.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro import handlers

from cogen.inference.targets.masked_sites import is_masked
from cogen.inference.targets.numpyro_target import first_trace, is_latent, sample_sites, site_terms
from cogen.inference.targets.sums import real
from cogen.inference.targets.target import Program, Sites, Target

Array = jax.Array


class BernoulliUnits(NamedTuple):
    """A layer of 0 and 1."""

    logits: Array  # (unit,)

    def tilted(self, key: Array, slope: Array) -> Array:
        """A draw of q0(u) exp(slope u), normalised, (unit,)."""
        return (jax.random.uniform(key, slope.shape) < jax.nn.sigmoid(self.logits + slope)).astype(slope.dtype)

    def log_means(self, slope: Array) -> Array:
        """log E_{q0} exp(slope u), (unit,)."""
        return jax.nn.softplus(self.logits + slope) - jax.nn.softplus(self.logits)


class NormalUnits(NamedTuple):
    """A layer of real numbers."""

    mean: Array  # (unit,)
    scale: Array

    def tilted(self, key: Array, slope: Array) -> Array:
        """A draw of q0(u) exp(slope u), normalised, (unit,)."""
        return self.mean + self.scale * (self.scale * slope + jax.random.normal(key, slope.shape))


class Layers(NamedTuple):
    """The two layers; a position is the visible units and then the hidden ones, (visible + hidden,)."""

    visible: BernoulliUnits | NormalUnits
    hidden: BernoulliUnits

    @property
    def num_visible(self) -> int:
        return len(self.visible[0])

    def split(self, u: Array) -> tuple[Array, Array]:
        """Visible and hidden units of positions (..., dim)."""
        return u[..., : self.num_visible], u[..., self.num_visible :]


def layered_target(model: Callable, args: tuple = (), kwargs: Mapping[str, Any] | None = None, *, hidden: str) -> Target:
    """The annealing path of a model whose latent site ``hidden`` is the layer that is summed out, with its `Layers`.

    Raises ValueError for a model that is not of two such layers (`check_layers` looks at it more closely).
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


def layered_position(model: Callable, args: tuple, values: Sites, *, hidden: str) -> Array:
    """The position (dim,) of values of the two layers. Raises ValueError for values of other sites."""
    names = _names(first_trace(model, args, {}), hidden)
    if set(values) != set(names):
        raise ValueError(f"values are given of the sites {sorted(values)}, the model has the layers {sorted(names)}")
    return jnp.concatenate([jnp.ravel(real(values[name])) for name in names])


def check_layers(model: Callable, args: tuple, kwargs: Mapping[str, Any], *, hidden: str) -> None:
    """Raises ValueError for a model that has no two layers, whose layers are not independent under q0, or whose likelihood is
    not affine in each of them, which two random positions show (real numbers for Bernoulli units too: a gradient is taken)."""

    def looked_at() -> dict[str, tuple]:
        """Of each layer: its units under q0 at two positions, and t at the first, where this layer is that of the second, and
        between the two."""
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
                f"latent site {name!r} depends on the other layer, and under q0 the two are independent: put what couples them"
                " into a factor, as in numpyro.factor('energy', ...)"
            )
        start, end, middle = map(float, likelihood)
        if not math.isclose(middle, 0.5 * (start + end), rel_tol=1e-3, abs_tol=1e-3 * (1 + abs(start) + abs(end))):
            raise ValueError(
                f"the log likelihood is not affine in the latent site {name!r} given the other layer, so its units are not"
                " independent: block Gibbs is for two layers without connections within"
            )


def _at(model: Callable, args: tuple, kwargs: dict, values: Sites) -> dict:
    return sample_sites(handlers.substitute(handlers.seed(model, jax.random.key(0)), data=values), args, kwargs)


def _names(sites: dict, hidden: str) -> tuple[str, str]:
    """Of the visible and of the hidden layer."""
    latent = [name for name, site in sites.items() if is_latent(site)]
    if len(latent) != 2 or hidden not in latent or len(latent) == len(sites):
        observed = [name for name in sites if name not in latent]
        raise ValueError(
            f"block Gibbs takes a model with two latent sites, one of them {hidden!r}, and a factor; this one has the latent"
            f" sites {latent} and the observed {observed}: name the layer that is summed out, as in BlockGibbs(hidden='h')"
        )
    (visible,) = set(latent) - {hidden}
    for name in latent:
        if sites[name].get("scale") is not None or is_masked(sites[name]["fn"]):
            raise ValueError(f"latent site {name!r} is scaled or masked: block Gibbs draws its units as they are")
    if not isinstance(_units(hidden, sites[hidden]), BernoulliUnits):
        raise ValueError(f"latent site {hidden!r} is not Bernoulli, and the hidden layer is summed out unit by unit")
    return visible, hidden


def _units(name: str, site: dict) -> BernoulliUnits | NormalUnits:
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
        f"latent site {name!r} is {type(distribution).__name__}: block Gibbs draws layers of Bernoulli or normal units"
    )

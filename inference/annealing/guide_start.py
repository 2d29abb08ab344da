"""Annealing from a guide: q0 = (1 - eps) guide + eps prior.

A guide is closer to the posterior than the prior is, so the annealing path is shorter; the prior component covers modes that
the guide misses. Both components have exact draws and known densities, the only requirements of annealed importance sampling on
a start (Neal 2001, section 2).

A guide also approximates the scale of the posterior in every direction. With ``affine`` coordinates the chains move in v, where
u = center + factor v and the guide is approximately standard normal, so that one step size fits all directions.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol, Self, TypedDict, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.autoguide import AutoContinuous

from cogen.inference.program import Program
from cogen.inference.signatures import ArrayLike, Model
from cogen.inference.targets.target import Target

Array = jax.Array


class Affine(NamedTuple):
    """Coordinates v with u = center + factor v."""

    center: np.ndarray | Array
    """(dim,), or (item, dim)."""
    factor: np.ndarray | Array
    """(dim, dim), or (item, dim, dim): lower triangular with a positive diagonal."""


State = TypeVar("State")
Found = TypeVar("Found")


class Site(TypedDict):
    """The used entries of a latent site of the model."""

    value: Array
    unconstrained: Array


class FittedRun(Protocol):
    """A `Run` whose kernel has fitted a guide to every item."""

    @property
    def program(self) -> Program: ...

    def over_items(self, function: Callable[[Target, State], Found]) -> Found: ...


class GuideStart:
    """A NumPyro guide mixed with the prior, as the ``initial`` of `AnnealedHMC`.

    :param guide: a fitted autoguide, any other guide function whose sample sites are the model's latent sites (it is
        called with the model's arguments), or a distribution over the flat unconstrained latents, sites in alphabetical
        order; or its class, or a `functools.partial` of the class, which is then called with the parameters.
    :param params: the parameters of the guide or distribution by name, as arrays.
    :param prior_share: eps, in [0, 1]; with eps = 0 a mode that the guide misses is lost.
    :param per_item: whether the parameters, and ``affine``, have a leading item axis.
    :param affine: the coordinates in which chains move; default those of the model.
    :raises ValueError: for a share out of range.
    """

    def __init__(
        self,
        guide: Model | dist.Distribution,
        params: Mapping[str, ArrayLike] | None = None,
        *,
        prior_share: float = 0.1,
        per_item: bool = False,
        affine: Affine | None = None,
    ) -> None:
        if not 0.0 <= prior_share <= 1.0:
            raise ValueError(f"prior_share={prior_share}: it must be in [0, 1]")
        self.guide = guide
        self.params: Mapping[str, ArrayLike] = dict(params or {})
        self.prior_share = prior_share
        self.per_item = per_item
        self.affine = affine

    @classmethod
    def of(cls, run: FittedRun, *, prior_share: float = 0.1) -> GuideStart:
        """The guides fitted by a `Run` with the kernel `SVI`, one per item.

        :raises ValueError: for a run of another kernel, and before its first draw.
        """
        kernel = getattr(run.program, "kernel", None)
        if kernel is None or not hasattr(kernel, "parameters"):
            raise ValueError(f"GuideStart.of requires a run of SVI; a run of {run.program.name} fits no guide")
        return cls(kernel.density, run.over_items(kernel.parameters), prior_share=prior_share, per_item=True)

    @property
    def rows(self) -> tuple[Mapping[str, ArrayLike], Affine | None] | None:
        """The per-item values; None without any."""
        return (self.params, self.affine) if self.per_item else None

    def with_row(self, row: tuple[Mapping[str, ArrayLike], Affine | None]) -> Self:
        """A copy with the values of one item."""
        copied = copy.copy(self)
        copied.params, copied.affine = row
        copied.per_item = False
        return copied

    def check(self, latent: Mapping[str, Site], args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
        """Check the guide's sites against the model's latent sites ``latent``.

        :raises ValueError: for other sites or shapes.
        """
        if self.flat is None:
            trace = handlers.trace(self._seeded(jax.random.key(0))).get_trace(*args, **kwargs)
            sites = {name: site for name, site in trace.items() if site["type"] == "sample" and not site["is_observed"]}
            if set(sites) != set(latent):
                raise ValueError(f"the guide has the sites {sorted(sites)}, the model has the latent sites {sorted(latent)}")
            for name, site in sites.items():
                have, want = jnp.shape(site["value"]), jnp.shape(latent[name]["value"])
                if have != want:
                    raise ValueError(f"the guide's site {name!r} has shape {have}, the model's has {want}")
        else:
            size = sum(int(jnp.size(site["unconstrained"])) for site in latent.values())
            if self.flat.event_shape != (size,):
                raise ValueError(f"the guide draws {self.flat.event_shape} numbers, the model has {size} latent coordinates")

    @property
    def flat(self) -> dist.Distribution | None:
        """The guide as a distribution over flat unconstrained coordinates; None if it is a guide function."""
        if isinstance(self.guide, AutoContinuous):
            posterior = self.guide.get_posterior(self.params)
            return posterior.to_event(len(posterior.batch_shape))  # AutoDiagonalNormal's has a batch shape
        made = self.guide.func if isinstance(self.guide, functools.partial) else self.guide
        if isinstance(made, type) and issubclass(made, dist.Distribution):
            return self.guide(**self.params)
        return self.guide if isinstance(self.guide, dist.Distribution) else None

    def draw(self, key: Array, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Array | dict[str, Array]:
        """A draw from the guide: flat unconstrained coordinates, or the constrained values of its sites."""
        if self.flat is not None:
            return self.flat.sample(key)[self._order]
        trace = handlers.trace(self._seeded(key)).get_trace(*args, **kwargs)
        return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}

    def log_density(
        self, u: Array, values: Mapping[str, Array], jacobian: Array, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> Array:
        """The log density of the guide in unconstrained coordinates u.

        :param values: the constrained values at u.
        :param jacobian: the summed log Jacobian at u.
        """
        if self.flat is not None:
            return self.flat.log_prob(jnp.zeros_like(u).at[self._order].set(u))
        guide = handlers.substitute(self._seeded(jax.random.key(0)), data=dict(values))
        trace = handlers.trace(guide).get_trace(*args, **kwargs)
        return sum(trace[name]["fn"].log_prob(value).sum() for name, value in values.items()) + jacobian

    @property
    def _order(self) -> np.ndarray | slice:
        return coordinate_order(self.guide) if isinstance(self.guide, AutoContinuous) else slice(None)

    def _seeded(self, key: Array) -> Model:
        return handlers.seed(handlers.substitute(self.guide, data=self.params), key)


def coordinate_order(guide: AutoContinuous) -> np.ndarray:
    """The indices of the alphabetically ordered flat coordinates in an autoguide's coordinates, which follow the model."""
    with jax.ensure_compile_time_eval():
        positions = guide._unpack_latent(jnp.arange(guide.latent_dim))
        return np.asarray(ravel_pytree(dict(positions))[0])

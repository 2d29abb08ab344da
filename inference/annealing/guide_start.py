"""Annealing that starts from a guide: q0 = (1 - eps) guide + eps prior.

A guide is nearer to the posterior than the prior is, so the path from it is shorter; what the guide has missed, the share of
the prior keeps within reach, so that no mode is lost for good. Both parts are exact draws with known densities, which is
all that the weights of annealed importance sampling ask of a start (Neal 2001, section 2).

A guide also knows about how wide the posterior is in which directions. With ``affine`` coordinates the chains walk where the
guide is about standard normal, in v of u = center + factor v, so that one step size fits all directions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.flatten_util import ravel_pytree
from numpyro import handlers
from numpyro.infer.autoguide import AutoContinuous

Array = jax.Array


class Affine(NamedTuple):
    """Coordinates v of u = center + factor v."""

    center: Any
    """(dim,), or (item, dim)."""
    factor: Any
    """(dim, dim), or (item, dim, dim): lower triangular, its diagonal positive."""


class GuideStart:
    """A NumPyro guide mixed with the prior, as the ``initial`` of `AnnealedHMC`.

    :param guide: a fitted autoguide, any other guide function whose sample sites are the model's latent sites (it is
        called with the model's arguments), or a distribution over the flat unconstrained latents, sites in alphabetical
        order.
    :param params: the guide's parameters (of a distribution: its own, by name), as arrays.
    :param prior_share: eps, in [0, 1]; a guide without any of the prior may lose a mode for good.
    :param per_item: the parameters, and ``affine``, have a leading item axis.
    :param affine: the coordinates in which chains walk; default those of the model.

    Raises ValueError for a share out of range.
    """

    def __init__(
        self,
        guide: Any,
        params: Mapping[str, Any] | None = None,
        *,
        prior_share: float = 0.1,
        per_item: bool = False,
        affine: Affine | None = None,
    ) -> None:
        if not 0.0 <= prior_share <= 1.0:
            raise ValueError(f"prior_share={prior_share}: the prior's share of the start lies in [0, 1]")
        self.guide = guide
        self.params = dict(params or {})
        self.prior_share = prior_share
        self.per_item = per_item
        self.affine = affine

    @classmethod
    def of(cls, run: Any, *, prior_share: float = 0.1) -> GuideStart:
        """The guide that a `Run` with the kernel `SVI` has fitted, item by item.

        Raises ValueError for a run of another kernel, and for one that has not drawn yet.
        """
        kernel = run.program.kernel
        if not hasattr(kernel, "parameters"):
            raise ValueError(f"GuideStart.of: a run of {run.program.name} has fitted no guide; run SVI first")
        return cls(kernel.density, run.over_items(kernel.parameters), prior_share=prior_share, per_item=True)

    @property
    def rows(self) -> Any:
        """What is held item by item; None where nothing is."""
        return (self.params, self.affine) if self.per_item else None

    def with_row(self, row: Any) -> Self:
        """A copy with what is held of one item."""
        copied = copy.copy(self)
        copied.params, copied.affine = row
        copied.per_item = False
        return copied

    def check(self, latent: Mapping[str, Any], args: tuple, kwargs: dict) -> None:
        """Raises ValueError where the guide's sites are not the model's latent ``latent``."""
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
        """The guide as a distribution over flat unconstrained coordinates, where it is one."""
        if isinstance(self.guide, AutoContinuous):
            posterior = self.guide.get_posterior(self.params)
            return posterior.to_event(len(posterior.batch_shape))  # AutoDiagonalNormal's is a batch of numbers
        if isinstance(self.guide, type) and issubclass(self.guide, dist.Distribution):
            return self.guide(**self.params)
        return self.guide if isinstance(self.guide, dist.Distribution) else None

    def draw(self, key: Array, args: tuple, kwargs: dict) -> Array | dict[str, Array]:
        """A draw of the guide: flat unconstrained coordinates, or the constrained values of the sites it samples."""
        if self.flat is not None:
            return self.flat.sample(key)[self._order]
        trace = handlers.trace(self._seeded(key)).get_trace(*args, **kwargs)
        return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}

    def log_density(self, u: Array, values: Mapping[str, Array], jacobian: Array, args: tuple, kwargs: dict) -> Array:
        """log guide at unconstrained u (constrained: ``values``; summed log Jacobian: ``jacobian``), in the coordinates u."""
        if self.flat is not None:
            return self.flat.log_prob(jnp.zeros_like(u).at[self._order].set(u))
        guide = handlers.substitute(self._seeded(jax.random.key(0)), data=dict(values))
        trace = handlers.trace(guide).get_trace(*args, **kwargs)
        return sum(trace[name]["fn"].log_prob(value).sum() for name, value in values.items()) + jacobian

    @property
    def _order(self) -> Any:
        return coordinate_order(self.guide) if isinstance(self.guide, AutoContinuous) else slice(None)

    def _seeded(self, key: Array) -> Callable:
        return handlers.seed(handlers.substitute(self.guide, data=self.params), key)


def coordinate_order(guide: AutoContinuous) -> np.ndarray:
    """Where the alphabetically ordered flat coordinates stand in an autoguide's own, which follow the model."""
    with jax.ensure_compile_time_eval():
        places = guide._unpack_latent(jnp.arange(guide.latent_dim))
        return np.asarray(ravel_pytree(dict(places))[0])

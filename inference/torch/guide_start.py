"""Annealing in torch from a Pyro guide: q0 = (1 - eps) guide + eps prior, the counterpart of `annealing.guide_start`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoContinuous, AutoGuide, AutoLaplaceApproximation, AutoNormal
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from cogen.inference.signatures import Model


class PyroGuideStart:
    """A Pyro guide mixed with the prior, as the ``initial`` of `PyroAnnealedHMC`.

    :param guide: a fitted autoguide (of one item, or an ``AutoNormal`` of all items); a sequence of autoguides, one per item;
        a distribution over the flat unconstrained latents, sites in the order of the model, with batch shape () or (item,); or
        any other guide function, called with the model's arguments, whose sample sites are the model's latent sites.
    :param prior_share: eps, in [0, 1]; with eps = 0 a mode that the guide misses is lost.
    :raises ValueError: for a share out of range.
    :raises TypeError: for an object that is not a guide.
    """

    def __init__(self, guide: Model | Distribution | Sequence[AutoGuide], *, prior_share: float = 0.1) -> None:
        if not 0.0 <= prior_share <= 1.0:
            raise ValueError(f"prior_share={prior_share}: it must be in [0, 1]")
        if not (callable(guide) or isinstance(guide, Sequence | Distribution)):
            raise TypeError(f"{guide!r} is not a guide: pass a fitted autoguide, a list of them, a distribution or a function")
        self.guide = guide
        self.prior_share = prior_share
        self.function: Model | None = None if isinstance(guide, Sequence | Distribution | AutoGuide) else guide
        """The guide, if it is a function of the model's arguments."""
        self._flat: list[Distribution] = []
        """Otherwise one distribution for all items, or one per item."""

    def bind(self, num_items: int, dim: int) -> PyroGuideStart:
        """A copy for ``num_items`` items with ``dim`` unconstrained coordinates each.

        :raises ValueError: for a guide of other shapes.
        """
        bound = copy.copy(self)
        if self.function is not None:
            return bound
        guides = list(self.guide) if isinstance(self.guide, Sequence) else [self.guide]
        if len(guides) not in (1, num_items):
            raise ValueError(f"the start has {len(guides)} guides, but this run has {num_items} items")
        bound._flat = [_flat(each, 1 if len(guides) > 1 else num_items) for each in guides]
        for each in bound._flat:
            if each.event_shape != (dim,):
                raise ValueError(
                    f"the guide draws {tuple(each.event_shape)} numbers, an item has {dim} latent coordinates"
                    + (": give one guide per item, as PyroSVI(...).fit does" if num_items > 1 else "")
                )
            if each.batch_shape not in ((), (num_items,)) or (len(guides) > 1 and each.batch_shape):
                raise ValueError(f"the guide has batch shape {tuple(each.batch_shape)}, but this run has {num_items} items")
        return bound

    def draw(self, item: int, num_chains: int) -> Tensor:
        """Draws from a flat guide for one item, (chain, dim)."""
        guide = self._flat[item if len(self._flat) > 1 else 0]
        drawn = guide.sample(torch.Size([num_chains]))
        return drawn[:, item] if guide.batch_shape else drawn

    def draw_values(self, *args: object, **kwargs: object) -> dict[str, Tensor]:
        """A draw from a guide function: the values of its sample sites."""
        assert self.function is not None
        trace = pyro.poutine.trace(self.function).get_trace(*args, **kwargs)
        sites = {name: site for name, site in trace.nodes.items() if site["type"] == "sample" and not site_is_subsample(site)}
        return {name: torch.as_tensor(site["value"]) for name, site in sites.items()}

    def log_density(self, u: Tensor) -> Tensor:
        """The log density of a flat guide at (dim,) or (row, dim), where the rows are ordered by chain, then item."""
        if u.ndim == 1:
            return self._flat[0].log_prob(u)
        (first, *others) = self._flat
        if first.batch_shape:
            return first.log_prob(u.unflatten(0, (-1, *first.batch_shape))).flatten()
        if not others:
            return first.log_prob(u)
        columns = u.unflatten(0, (-1, len(self._flat))).unbind(1)
        return torch.stack([each.log_prob(column) for each, column in zip(self._flat, columns, strict=True)], dim=1).flatten()


def check_sites(whose: str, given: Mapping[str, Tensor], latent: Mapping[str, torch.Size]) -> None:
    """Check the sites of a guide or a start against the model's latent sites.

    :raises ValueError: for other sites or shapes.
    """
    if set(given) != set(latent):
        raise ValueError(f"{whose} has the sites {sorted(given)}, the model has the latent sites {sorted(latent)}")
    for name, value in given.items():
        if value.shape != latent[name]:
            raise ValueError(f"{whose}'s site {name!r} has shape {tuple(value.shape)}, the model's has {tuple(latent[name])}")


def _flat(guide: Any, num_items: int) -> Distribution:
    """A guide as a distribution over flat unconstrained coordinates."""
    with torch.no_grad(), pyro.validation_enabled(False):  # torch.vmap cannot run validation
        if isinstance(guide, AutoNormal):
            assert guide.prototype_trace is not None
            sites = [guide._get_loc_and_scale(name) for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
            shape = (num_items, -1) if num_items > 1 else (-1,)
            loc, scale = (torch.cat([m.reshape(shape) for m in moments], dim=-1) for moments in zip(*sites, strict=True))
            return Independent(Normal(loc, scale), 1)
        if isinstance(guide, AutoContinuous) and not isinstance(guide, AutoLaplaceApproximation):
            return guide.get_posterior()
        if isinstance(guide, Distribution):
            return guide
    if isinstance(guide, AutoLaplaceApproximation):
        raise ValueError(
            "AutoLaplaceApproximation has a density only after the fit: pass the result of its laplace_approximation(*args)"
        )
    raise ValueError(
        f"{type(guide).__name__} has no density over flat latents: use an AutoNormal, an AutoContinuous or a guide function"
    )

"""Handlers that run a Pyro model over a batch of chains and collect what an annealing path needs of its sites.

`SiteDraws` draws the latent sites, `SiteDensities` evaluates the log densities of all sites at unconstrained coordinates, and
`GuideDensities` those of a guide function. The log density of a site is summed over its terms in float64, one value a row
(chain and item).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal, biject_to

Message = Any


class SiteDraws(Messenger):
    """Draws the latent sites, except the given ones, and stores their unconstrained values."""

    def __init__(self, initial: Callable[[str], Distribution | None], lead: torch.Size, given: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.initial, self.lead, self.given = initial, lead, given
        self.values: dict[str, Tensor] = {}
        self.shapes: dict[str, torch.Size] = {}
        self.observed: set[str] = set()

    def _pyro_sample(self, msg: Message) -> None:
        if msg["is_observed"] or site_is_subsample(msg):
            return
        start = self.initial(msg["name"])
        if msg["name"] in self.given:
            msg["value"] = self.given[msg["name"]]
        elif start is not None:
            wanted = msg["fn"].shape()
            msg["value"] = _expanded(msg["name"], start, wanted, self.lead).sample()

    def _pyro_post_sample(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        if site_is_subsample(msg):
            if fn.subsample_size is not None and fn.subsample_size < fn.size:
                raise ValueError(
                    f"plate {name!r} draws a subsample at every call, which changes the posterior: use the full plate, or"
                    " fix the subsample, as in pyro.plate(..., subsample=index)"
                )
        elif msg["is_observed"]:
            if not msg["infer"].get("_deterministic", False):
                self.observed.add(name)
        elif fn.support.is_discrete:
            raise ValueError(
                f"latent site {name!r} is discrete ({type(fn).__name__}) and has no gradient: sum it out of the model, or"
                " observe it (poutine.mask instead of obs_mask= makes no latent site)"
            )
        else:
            self.values[name] = biject_to(fn.support).inv(msg["value"])
            self.shapes[name] = msg["value"].shape


class SiteDensities(Messenger):
    """Runs the model at given unconstrained coordinates and stores the log density of every site, summed over the row."""

    def __init__(self, coordinates: dict[str, Tensor], initial: Callable[[str], Distribution | None], lead: torch.Size) -> None:
        super().__init__()
        self.coordinates, self.initial, self.lead = coordinates, initial, lead
        self.values: dict[str, Tensor] = {}
        self.jacobian: list[Tensor] = []
        self.prior: list[Tensor] = []
        """The log densities of draws of the latent sites."""
        self.change: list[Tensor] = []
        """Their changes by scales and masks."""
        self.start: list[Tensor] = []
        self.observed: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Message) -> None:
        u = self.coordinates.get(msg["name"])
        if u is not None:
            transform = biject_to(msg["fn"].support)
            msg["value"] = self.values[msg["name"]] = transform(u)
            self.jacobian.append(_row_sum(self.lead, msg, transform.log_abs_det_jacobian(u, msg["value"])))

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] in self.values:
            drawn = _row_sum(self.lead, msg, _terms(_unmasked(msg["fn"]), msg["value"]))
            self.prior.append(drawn)
            if _is_changed(msg):
                self.change.append(_row_sum(self.lead, msg, _site_terms(msg)) - drawn)
            start = self.initial(msg["name"])
            if start is not None:
                self.start.append(_row_sum(self.lead, msg, _terms(start, msg["value"])))
        elif msg["is_observed"] and not site_is_subsample(msg) and not msg["infer"].get("_deterministic", False):
            self.observed[msg["name"]] = _row_sum(self.lead, msg, _site_terms(msg))


class GuideDensities(Messenger):
    """Runs a guide function with given values of its sites, and stores their log densities, summed over the row."""

    def __init__(self, values: Mapping[str, Tensor], lead: torch.Size) -> None:
        super().__init__()
        self.values, self.lead = values, lead
        self.terms: list[Tensor] = []

    def _pyro_sample(self, msg: Message) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]

    def _pyro_post_sample(self, msg: Message) -> None:
        if msg["name"] in self.values:
            self.terms.append(_row_sum(self.lead, msg, _site_terms(msg)))


def _row_sum(lead: torch.Size, msg: Message, terms: Tensor) -> Tensor:
    """The sum over a row's terms, (row,) or ()."""
    if terms.shape[: len(lead)] != lead:
        raise ValueError(
            f"site {msg['name']!r} has a log density of shape {tuple(terms.shape)} in a run of {lead[0]} items: every site of"
            " an ItemModel must be in the plate over items"
        )
    return terms.reshape(*lead, -1).sum(-1, dtype=torch.float64)


def _terms(distribution: Any, value: Tensor) -> Tensor:
    """The log density of a value, one term per element if the distribution is a product over elements."""
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    return _lean(distribution).log_prob(value)


class _LeanNormal:
    """A normal log density, -r^2 / 2 - log(sd sqrt(2 pi)) with r = (value - mean) / sd, in half of torch's passes over pixels.

    Torch's passes cost a twentieth of a small convolutional generator. Functions of an expanded sd are computed before the
    expansion.
    """

    def __init__(self, normal: Normal) -> None:
        self.batch_shape = normal.batch_shape
        strides = normal.scale.stride()
        self.mean, self.sd = normal.loc, normal.scale[tuple(slice(None) if stride else slice(1) for stride in strides)]

    def log_prob(self, value: Tensor) -> Tensor:
        r = (value - self.mean) * self.sd.reciprocal()  # a division is slower than a product
        return torch.addcmul(-(self.sd.log() + 0.5 * math.log(2 * math.pi)), r, r, value=-0.5)


def _lean(distribution: Any) -> Any:
    if type(distribution) in (Normal, pyro.distributions.Normal):
        return _LeanNormal(distribution)
    if isinstance(distribution, MaskedDistribution):
        distribution = copy.copy(distribution)
        distribution.base_dist = _lean(distribution.base_dist)
    return distribution


def _site_terms(msg: Message) -> Tensor:
    scale, mask = msg["scale"], msg["mask"]
    if isinstance(scale, Tensor) or isinstance(mask, Tensor):  # with the batch shape of the whole site
        return scale_and_mask(msg["fn"].log_prob(msg["value"]), scale, mask)
    return scale_and_mask(_terms(msg["fn"], msg["value"]), scale, mask)


def _unmasked(distribution: Any) -> Any:
    """The distribution that a masked one draws from."""
    if isinstance(distribution, MaskedDistribution):
        return _unmasked(distribution.base_dist)
    if isinstance(distribution, Independent):
        return Independent(_unmasked(distribution.base_dist), distribution.reinterpreted_batch_ndims)
    return distribution


def _is_changed(msg: Message) -> bool:
    """Whether the log density of a latent site differs from that of its draws."""
    distribution = msg["fn"]
    while isinstance(distribution, Independent):
        distribution = distribution.base_dist
    scaled = isinstance(msg["scale"], Tensor) or msg["scale"] != 1
    return scaled or msg["mask"] is not None or isinstance(distribution, MaskedDistribution)


def _expanded(name: str, start: Distribution, wanted: torch.Size, lead: torch.Size) -> Distribution:
    shape = start.batch_shape + start.event_shape
    one = (*(1 for _ in lead), *wanted[len(lead) :])  # the shape of the site of one item
    fits = len(shape) <= len(one) and all(have in (1, want) for have, want in zip(shape[::-1], one[::-1], strict=False))
    if not fits:
        raise ValueError(f"initial for site {name!r} has shape {tuple(shape)}, the site has {one}")
    return start.expand(wanted[: len(wanted) - len(start.event_shape)])

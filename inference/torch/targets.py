"""A Pyro model as an annealing path, evaluated for all chains of all items in one batched call of torch.

    log pi_beta(u) = reference(u) + beta increment(u),

as in `targets`: ``reference = log q0`` with the log Jacobians of ``biject_to(support)``, ``increment = log p(z, y) - log q0``,
and u one flat vector for the latent sites of a chain of an item. Sums over terms (pixels) are computed in float64, so that
accept decisions and weights are free of float32 rounding errors.

A model written for one value of each site is batched over chains as follows:

* An `ItemModel` takes any number of items, so its data are repeated along the item axis, once per chain.
* Any other model is one item and runs under `torch.vmap` over u. A plate of chains around the model (Pyro's
  ``vectorize_particles``) would also batch, but requires every statement of the model to allow one more dimension on the left;
  a model that does not (``z.sum()``, ``W @ z``, ``z[0]``) would silently get a wrong density. Under vmap the density is right.
* A model that vmap does not support (a Python ``if`` on a value, ``.item()``, an autograd Function without a vmap rule) runs
  chain by chain, with a warning.

Supports may depend on other sites, since constrained values are computed while the model runs.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution

from cogen.inference.items import ItemModel, count_items, find_items, item_ids, items_apart, take_items
from cogen.inference.kernels.kernel import ExactDraws, Own, Start
from cogen.inference.signatures import Model
from cogen.inference.targets.model_checks import check_supports
from cogen.inference.torch.guide_start import PyroGuideStart, check_sites
from cogen.inference.torch.model_checks import ProperUnobserved, check_pyro_model
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.site_densities import GuideDensities, SiteDensities, SiteDraws

Initial = Distribution | Mapping[str, Distribution] | PyroGuideStart | None
Sums = tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]
"""Reference, increment, and the untempered observed part of the reference, each (row,); constrained values by site,
(row, *shape)."""

PIXELS_AT_ONCE = 200_000
"""The approximate number of entries of x (256 digits) in a block of chains of an `ItemModel`. Blocks bound the memory of the
generator's activations; smaller blocks have more overhead from handlers."""


class Point(NamedTuple):
    """Positions and their evaluations for a transition, independent of beta."""

    u: Tensor  # (chain, item, dim)
    reference: Tensor  # (chain, item), float64
    increment: Tensor  # (chain, item), float64
    reference_gradient: Tensor  # (chain, item, dim)
    increment_gradient: Tensor  # (chain, item, dim)
    values: dict[str, Tensor]  # constrained, (chain, item, *shape)

    def log_density(self, beta: Tensor) -> Tensor:
        """log pi_beta, (chain, item), at the inverse temperatures (item,). At beta = 0 an infinite increment is ignored."""
        return self.reference + torch.where(beta == 0, 0.0, beta * self.increment)

    def gradient(self, beta: Tensor) -> Tensor:
        return self.reference_gradient + beta.to(self.u.dtype)[:, None] * self.increment_gradient

    def log_density_gain(self, start: Point, beta: Tensor) -> Tensor:
        """log pi_beta(self) - log pi_beta(start); -inf where pi_beta(self) = 0.

        If both densities are zero, only log q0 counts: a chain that starts at density zero moves under q0 until it leaves.
        """
        known = self.reference - start.reference
        gain = known + beta * (self.increment - start.increment)
        return torch.where(self.excluded, torch.where(start.excluded, known, -torch.inf), gain)

    @property
    def excluded(self) -> Tensor:
        """Whether the density is zero, as outside of a hard constraint."""
        return self.reference.isneginf() | self.increment.isneginf()

    def where(self, accepted: Tensor, start: Point) -> Point:
        """These points where ``accepted`` (chain, item), and ``start`` elsewhere."""
        return self.map(lambda new, old: torch.where(accepted.reshape(accepted.shape + (1,) * (new.ndim - 2)), new, old), start)

    def map(self, change: Callable[..., Tensor], *others: Point) -> Point:
        """Apply ``change`` to every array together with the same arrays of other points."""
        arrays = zip(self[:-1], *(other[:-1] for other in others), strict=True)
        u, reference, increment, reference_gradient, increment_gradient = (change(*group) for group in arrays)
        values = {name: change(value, *(o.values[name] for o in others)) for name, value in self.values.items()}
        return Point(u, reference, increment, reference_gradient, increment_gradient, values)


Call: TypeAlias = tuple[tuple[object, ...], Mapping[str, object]]
"""The arguments of a model, positional and by name."""


class PyroTarget:
    """The annealing paths of a model's items for ``num_chains`` chains each.

    :param initial: q0 instead of the prior: a torch or Pyro distribution over the one latent site, a mapping by site, or
        a guide mixed with the prior.
    :param temper: names of the observed sites to temper (default: all); the others count fully at every beta.
    :param flat_prior: leave the prior out at beta = 1.
    :param own: the per-item values of a kernel's settings.
    :raises ValueError: for a model without observed or latent sites, a discrete latent site, a subsampled plate, a name in
        ``temper`` that is not an observed site, and an ``initial`` whose sites or shapes are not the model's.
    """

    def __init__(
        self,
        model: Model,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
        *,
        num_chains: int,
        initial: Initial = None,
        temper: Sequence[str] | None = None,
        flat_prior: bool = False,
        own: Own | None = None,
    ) -> None:
        self.items: ItemModel | None = None if args or kwargs else find_items(model)
        if self.items is not None and not self.items.item_data:
            raise ValueError("nothing is observed: condition the model first, as in model.condition(visible=pixels)")
        self.num_chains, self.initial, self.temper, self.flat_prior = num_chains, initial, temper, flat_prior
        self.own, self.ids = own or Own(), item_ids(self.items)
        if self.items is None:
            check_pyro_model(model, args, kwargs)
        self.model: Model = ProperUnobserved()(model) if self.items is None else self.items
        self.args, self.kwargs = args, kwargs
        self.num_items, self._block = 1, num_chains
        if self.items is not None:
            self.num_items = count_items(self.items.item_data)
            self._block = min(num_chains, max(1, PIXELS_AT_ONCE // (self.num_items * math.prod(self.items.event_shape))))
            self._repeated = take_items(self.items.item_data, np.tile(np.arange(self.num_items), self._block))
        self._by_vmap = self._untried = self.items is None
        self._sites: dict[str, torch.Size] = {}
        """The shapes of an item's unconstrained values."""
        self._shapes: dict[str, torch.Size] = {}
        """The shapes of the values drawn by a run of the model."""
        self._like = self._drawn([0], num_chains=1)  # finds and checks the sites

    @property
    def dim(self) -> int:
        """The number of unconstrained coordinates of an item."""
        return sum(shape.numel() for shape in self._sites.values())

    def positions(self, start: Start, random: Random) -> Tensor:
        """Starting positions, (chain, item, dim).

        :raises ValueError: for given positions of another shape.
        """
        if isinstance(start, ExactDraws):
            return self._drawn(random.seeds(), start.num_chains)
        given = start.u if isinstance(start.u, Tensor) else torch.from_numpy(np.array(start.u))
        u = (given if given.ndim == 3 else given[:, None]).to(self._like)
        if u.shape != (wanted := (self.num_chains, self.num_items, self.dim)):
            raise ValueError(f"the start has shape {tuple(given.shape)}, expected (chain, item, coordinate) {wanted}")
        return u

    def coordinates(self, values: Mapping[str, np.ndarray]) -> Tensor:
        """Values of the latent sites, (item, chain, *shape), as unconstrained coordinates (chain, item, dim).

        :raises ValueError: for sites or shapes that are not the model's, and for values outside of their supports.
        """
        given = {name: torch.as_tensor(value).to(self._like) for name, value in values.items()}
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.validation_enabled(False):
            (call, *_), lead = self._calls(0, self.num_chains)
            self._draw_once(*call, lead)  # finds the shapes for this number of rows
            items = [self._given(item, {name: value[item] for name, value in given.items()}) for item in range(self.num_items)]
        u = torch.stack(items, dim=1)
        check_supports(values, [u])
        return u

    def starting_from(self, guide: PyroGuideStart) -> Self:
        """The annealing paths of the same model from a guide."""
        other = copy.copy(self)
        other.initial = guide.bind(self.num_items, self.dim)
        return other

    def evaluate(self, u: Tensor) -> Point:
        """One gradient evaluation at (chain, item, dim): one forward pass, and one backward pass through each of both parts.

        The prior does not depend on the generator's output, so that only one backward pass goes through the generator.
        """
        return self._in_blocks(self._evaluate, u)

    def place(self, u: Tensor) -> Point:
        """As `evaluate`, by a forward pass only; the gradients are zero."""
        return self._in_blocks(self._place, u)

    def sites(self, u: Tensor) -> dict[str, Tensor]:
        """Unconstrained values by site: (..., dim) -> (..., *shape)."""
        parts = u.split([shape.numel() for shape in self._sites.values()], dim=-1)
        return {n: p.reshape(u.shape[:-1] + s) for (n, s), p in zip(self._sites.items(), parts, strict=True)}

    def _in_blocks(self, evaluation: Callable[[Tensor], Point], u: Tensor) -> Point:
        try:
            first, *rest = (evaluation(block) for block in u.split(self._block))
        except RuntimeError as error:
            if not self._untried:
                raise
            self._by_vmap = self._untried = False
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"torch.vmap cannot run this model ({reason}): its chains are evaluated one after another. To batch them,"
                " avoid Python branches on values and .item(), give an autograd Function a vmap rule, or write the model as an"
                " ItemModel (see cogen.inference.items)",
                stacklevel=4,
            )
            return self._in_blocks(evaluation, u)
        self._untried = False
        return first.map(lambda *parts: torch.cat(parts), *rest) if rest else first

    def gradient(self, u: Tensor, beta: Tensor) -> Tensor:
        """The gradient of log pi_beta only, for the inner steps of a trajectory: (chain, item, dim)."""
        return torch.cat([self._gradient(block, beta) for block in u.split(self._block)])

    def start_weight(self, u: Tensor) -> Tensor:
        """The log weight of draws from q0, (chain, item): the log density of the observed sites that are not tempered."""
        if self.temper is None:
            return torch.zeros(u.shape[:2], dtype=torch.float64, device=u.device)
        with torch.no_grad(), pyro.validation_enabled(False):
            sums = [self._sums(block.reshape(-1, self.dim))[2] for block in u.split(self._block)]
        return torch.cat(sums).reshape(u.shape[:2])

    def _evaluate(self, u: Tensor) -> Point:
        with torch.enable_grad(), pyro.validation_enabled(False):
            rows = u.detach().reshape(-1, self.dim).requires_grad_()
            reference, increment, _, values = self._sums(rows)
            reference_gradient = _gradient(reference, rows, keep=True)
            increment_gradient = _gradient(increment, rows, keep=False)
        return _at(u, reference, increment, reference_gradient, increment_gradient, values)

    def _place(self, u: Tensor) -> Point:
        with torch.no_grad(), pyro.validation_enabled(False):
            reference, increment, _, values = self._sums(u.reshape(-1, self.dim))
        zeros = u.new_zeros(u[..., 0].numel(), self.dim)
        return _at(u, reference, increment, zeros, zeros, values)

    def _gradient(self, u: Tensor, beta: Tensor) -> Tensor:
        with torch.enable_grad(), pyro.validation_enabled(False):
            rows = u.detach().reshape(-1, self.dim).requires_grad_()
            reference, increment, _, _ = self._sums(rows)
            return _gradient(reference + beta.repeat(len(u)) * increment, rows, keep=False).reshape(u.shape)

    def _sums(self, rows: Tensor) -> Sums:
        if self.items is not None:
            data = self._repeated if len(rows) == self._block * self.num_items else take_items(self._repeated, slice(len(rows)))
            return self._run(rows, data)
        if self._by_vmap:
            return torch.vmap(self._run)(rows)
        *sums, values = zip(*(self._run(row) for row in rows), strict=True)
        reference, increment, untempered = (torch.stack(each) for each in sums)
        return reference, increment, untempered, {n: torch.stack([v[n] for v in values]) for n in values[0]}

    def _run(self, u: Tensor, data: Any = None) -> Sums:
        """Run the model at u: (row, dim) for an `ItemModel` with the rows' ``data``, (dim,) for any other."""
        lead, args = u.shape[:-1], self.args if data is None else (data,)
        with items_apart(), SiteDensities(self.sites(u), self._initial_of, lead) as density:
            self.model(*args, **self.kwargs)
        rest = [term for name, term in density.observed.items() if self.temper is not None and name not in self.temper]
        known = density.prior if self.initial is None else density.start
        if isinstance(self.initial, PyroGuideStart):
            known = [self._guide_mixture(self.initial, u, density, args)]
        new = density.jacobian + known + rest
        added = [term for name, term in density.observed.items() if self.temper is None or name in self.temper]
        if self.initial is not None:
            added += [-term for term in known] + ([] if self.flat_prior else density.prior)
        elif self.flat_prior:
            added += [-term for term in density.prior]
        if not self.flat_prior:
            added += density.change
        untempered = torch.stack(rest).sum(0) if rest else torch.zeros(lead, dtype=torch.float64, device=u.device)
        return torch.stack(new).sum(0), torch.stack(added).sum(0), untempered, density.values

    def _guide_mixture(self, start: PyroGuideStart, u: Tensor, density: SiteDensities, args: tuple[object, ...]) -> Tensor:
        """The log density of (1 - eps) guide + eps prior at the constrained values."""
        jacobian, prior = torch.stack(density.jacobian).sum(0), torch.stack(density.prior).sum(0)
        if start.function is None:
            log_guide = start.log_density(u).double() - jacobian
        else:
            with GuideDensities(density.values, u.shape[:-1]) as given:
                start.function(*args, **self.kwargs)
            log_guide = torch.stack(given.terms).sum(0)
        share = torch.tensor(start.prior_share, dtype=torch.float64, device=u.device)
        return torch.logaddexp(torch.log1p(-share) + log_guide, share.log() + prior)

    def _drawn(self, seeds: Sequence[int], num_chains: int) -> Tensor:
        """Exact draws from q0, (chain, item, dim), a function of the seed of each item."""
        with torch.random.fork_rng(devices=[]), torch.no_grad(), pyro.validation_enabled(False):
            return torch.stack([self._draw(item, seed, num_chains) for item, seed in enumerate(seeds)], dim=1)

    def _draw(self, item: int, seed: int, chains: int) -> Tensor:
        """One item's draws from q0, (chain, dim); also finds and checks the sites."""
        torch.manual_seed(seed)
        calls, lead = self._calls(item, chains)
        u = torch.stack([self._draw_once(*call, lead) for call in calls]).reshape(chains, -1)
        if not isinstance(self.initial, PyroGuideStart):
            return u
        self.initial = start = self.initial.bind(self.num_items, self.dim)
        if start.function is None:
            guided = start.draw(item, chains)
        else:
            guided = self._coordinates("the guide", [start.draw_values(*args, **kwargs) for args, kwargs in calls], calls, lead)
        return torch.where(torch.rand(chains, 1, device=u.device) < start.prior_share, u, guided.to(u))

    def _given(self, item: int, values: dict[str, Tensor]) -> Tensor:
        """Values (chain, *shape) of one item, as unconstrained coordinates (chain, dim)."""
        calls, lead = self._calls(item, self.num_chains)
        rows = [values] if lead else [{name: value[chain] for name, value in values.items()} for chain in range(len(calls))]
        return self._coordinates("start", rows, calls, lead)

    def _coordinates(self, whose: str, given: Sequence[dict[str, Tensor]], calls: Sequence[Call], lead: torch.Size) -> Tensor:
        """The unconstrained coordinates of the values given for each call, (chain, dim)."""
        for values in given:
            check_sites(whose, values, self._shapes)
        parts = [self._draw_once(*call, lead, values) for call, values in zip(calls, given, strict=True)]
        return torch.cat([part.reshape(-1, self.dim) for part in parts])

    def _calls(self, item: int, chains: int) -> tuple[list[Call], torch.Size]:
        """The arguments of each run of the model for this number of chains of an item, and the chain axes of a run."""
        if self.items is None:
            return [(self.args, self.kwargs)] * chains, torch.Size()
        return [((take_items(self.items.item_data, np.full(chains, item)),), {})], torch.Size([chains])

    def _draw_once(
        self, args: tuple[object, ...], kwargs: Mapping[str, object], lead: torch.Size, given: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Run the model with latent sites drawn from q0 or ``given``, and return their unconstrained values."""
        with items_apart(), SiteDraws(self._initial_of, lead, given or {}) as drawn:
            self.model(*args, **kwargs)
        _check_sites(drawn, self.initial, self.temper)
        self._shapes = drawn.shapes
        sites = {name: value.shape[len(lead) :] for name, value in drawn.values.items()}
        if self._sites and sites != self._sites:
            raise ValueError(
                f"the latent sites changed from draw to draw ({self._sites}, then {sites}): they must stay the same"
            )
        self._sites = sites
        return torch.cat([value.reshape(*lead, -1) for value in drawn.values.values()], dim=-1)

    def _initial_of(self, name: str) -> Distribution | None:
        if isinstance(self.initial, PyroGuideStart):
            return None
        return self.initial.get(name) if isinstance(self.initial, Mapping) else self.initial


def _at(
    u: Tensor,
    reference: Tensor,
    increment: Tensor,
    reference_gradient: Tensor,
    increment_gradient: Tensor,
    values: Mapping[str, Tensor],
) -> Point:
    """Points at positions (chain, item, dim), from values computed by row."""

    def shaped(value: Tensor) -> Tensor:
        return value.detach().reshape(*u.shape[:2], *value.shape[1:])

    by_site = {name: shaped(value) for name, value in values.items()}
    return Point(u, shaped(reference), shaped(increment), shaped(reference_gradient), shaped(increment_gradient), by_site)


def _gradient(sums: Tensor, rows: Tensor, keep: bool) -> Tensor:
    if not sums.requires_grad:  # a flat prior without a Jacobian
        return torch.zeros_like(rows)
    found = torch.autograd.grad(sums.sum(), rows, retain_graph=keep, allow_unused=True)[0]
    return torch.zeros_like(rows) if found is None else found


def _check_sites(drawn: SiteDraws, initial: Initial, temper: Sequence[str] | None) -> None:
    latent = sorted(drawn.values)
    if not latent:
        raise ValueError("the model has no latent site: there is nothing to infer (are all of its sites conditioned?)")
    if not drawn.observed:
        raise ValueError(
            f"the model has no observed site (latent: {', '.join(latent)}): condition it first, as in"
            " model.condition(visible=pixels) or pyro.condition(model, data=...)"
        )
    if temper is not None and (not set(temper) or not set(temper) <= drawn.observed):
        raise ValueError(f"temper={temper!r}: name one or more of the observed sites {sorted(drawn.observed)}")
    if isinstance(initial, Mapping):
        if set(initial) != set(latent):
            raise ValueError(f"initial has the sites {sorted(initial)}, the model has the latent sites {latent}")
    elif isinstance(initial, Distribution) and len(latent) != 1:
        raise ValueError(f"initial is one distribution, the model has the latent sites {latent}: give a mapping")

"""Stochastic variational inference for Pyro models, the counterpart of `cogen.inference.variational`.

    maximise  E_{z ~ q} [log p(z, y) - log q(z)]

by Pyro's own `SVI` with any autoguide, one per item, or one guide function for all items (Hoffman, Blei, Wang and Paisley
2013). After the warm-up every transition draws each chain independently from q, with its log ratio log p(z, y) - log q(z).
"""

# mypy: disable-error-code="override"
# Arrays of one item in Kernel are tensors of all items here.

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoLaplaceApproximation, AutoNormal
from pyro.optim import PyroOptim
from pyro.optim.pytorch_optimizers import Adam  # type: ignore[attr-defined]
from torch import Tensor
from tqdm.auto import tqdm

from cogen.inference.annealing.populations import population_count
from cogen.inference.items import items_apart, take_items
from cogen.inference.kernels.kernel import ExactDraws, Kernel, Start
from cogen.inference.seeds import check_seed, id_halves
from cogen.inference.signatures import Model
from cogen.inference.torch.ensemble_kernel import PyroEnsembleKernel
from cogen.inference.torch.guide_start import PyroGuideStart
from cogen.inference.torch.random_numbers import Random
from cogen.inference.torch.targets import Call, Point, PyroTarget
from cogen.inference.variational import VariationalSettings


class Fit(NamedTuple):
    """The fit of one guide: an autoguide, or a function whose parameters are in Pyro's own store."""

    guide: Any
    items: list[int]
    """The items of the guide."""
    store: Any
    """An autoguide's parameters and constraints, in the form of Pyro's store; a step copies ``values`` into it."""
    values: dict[str, Tensor]
    """The values of the parameters."""
    optimizer: dict[str, Any]
    """The optimiser's state by parameter name."""


class FitSettings(TypedDict, total=False):
    """Settings of `PyroSVI` as keyword arguments."""

    optimizer: PyroOptim
    num_particles: int
    num_populations: int | None


class VariationalState(NamedTuple):
    """The fits and, after the warm-up, draws from the guides."""

    iteration: int
    point: Point
    """Draws of the guides; during the warm-up draws of the prior."""
    log_sum: Tensor
    """The log of the sum of the chain's ratios p(z, y) / q(z) so far, (chain, item)."""
    elbo: Tensor
    """The ELBO, (item,); the mean over items if they are fitted together."""
    fits: tuple[Fit, ...]
    start: PyroGuideStart | None
    """The fitted guides, after the warm-up."""


class VariationalInfo(NamedTuple):
    """Statistics of a fit step or, after the warm-up, of one draw per chain; arrays (chain, item)."""

    lp: Tensor
    log_ratio: Tensor
    """log p(z, y) - log q(z) of the draw."""
    n_steps: Tensor
    """Gradient evaluations; those of the fit are attributed to the first chain."""
    population: Tensor
    population_log_evidence: Tensor
    """The log mean ratio of the population's draws so far."""


@dataclass(frozen=True, eq=False)
class VariationalKernel(Kernel):
    """Fit steps during the warm-up, then draws from the guide."""

    settings: VariationalSettings
    num_warmup: int
    num_chains: int
    guide: Any

    evidence_kind = "importance"

    @cached_property
    def populations(self) -> int:
        return population_count(self.num_chains, self.settings.num_populations, resampling=False)

    @property
    def _autoguide(self) -> bool:
        return _is_class(self.guide, AutoGuide)

    def path(self, state: VariationalState, info: VariationalInfo) -> dict[str, Tensor]:
        return {"elbo": state.elbo}

    def init(self, target: PyroTarget, random: Random, start: Start) -> VariationalState:
        point = target.evaluate(target.positions(start, random))
        # The factors of an AutoNormal are independent, so that all items can be fitted in one batch.
        by_item = self._autoguide and not _is_class(self.guide, AutoNormal)
        groups = [[k] for k in range(target.num_items)] if by_item else [list(range(target.num_items))]
        guides = [self.guide(target.model) if self._autoguide else self.guide for _ in groups]
        stores: list[dict[str, Any]] = [{"params": {}, "constraints": {}} for _ in groups]
        fits = tuple(Fit(*each, {}, {}) for each in zip(guides, groups, stores, strict=True))
        zeros = torch.zeros(target.num_items, device=point.u.device)
        return VariationalState(0, point, torch.full_like(point.increment, -torch.inf), zeros, fits, None)

    def step(self, target: PyroTarget, random: Random, state: VariationalState) -> tuple[VariationalState, VariationalInfo]:
        if state.iteration < self.num_warmup:
            new = self._fitted(target, random, state)
            n_steps = torch.zeros_like(state.log_sum, dtype=torch.int64)
            n_steps[0] = self.settings.num_particles
        else:
            start = self.guide_start(target, random, state) if state.start is None else state.start
            guided = target.starting_from(start)
            point = guided.evaluate(guided.positions(ExactDraws(self.num_chains), random))
            point = point._replace(increment=torch.where(point.increment.isnan(), -torch.inf, point.increment))
            new = state._replace(point=point, log_sum=torch.logaddexp(state.log_sum, point.increment), start=start)
            n_steps = torch.ones_like(state.log_sum, dtype=torch.int64)
        new = new._replace(iteration=state.iteration + 1)
        size = self.num_chains // self.populations
        drawn = size * max(1, new.iteration - self.num_warmup)
        evidence = new.log_sum.unflatten(0, (self.populations, size)).logsumexp(1) - np.log(drawn)
        return new, VariationalInfo(
            lp=new.point.reference + new.point.increment,
            log_ratio=new.point.increment,
            n_steps=n_steps,
            population=torch.arange(self.num_chains)[:, None].expand_as(new.log_sum) // size,
            population_log_evidence=evidence.repeat_interleave(size, dim=0),
        )

    def guide_start(
        self, target: PyroTarget, random: Random, state: VariationalState, prior_share: float = 0.0
    ) -> PyroGuideStart:
        """The fitted guides, mixed with the prior."""
        if not self._autoguide:
            return PyroGuideStart(self.guide, prior_share=prior_share)
        guides, seeds = [], random.seeds()
        for fit in state.fits:
            args, kwargs = _call(target, fit.items)
            with items_apart(), self._in_store(fit, seeds[fit.items[0]]):
                laplace = isinstance(fit.guide, AutoLaplaceApproximation)
                guides.append(fit.guide.laplace_approximation(*args, **kwargs) if laplace else fit.guide)
        return PyroGuideStart(guides, prior_share=prior_share)

    def _fitted(self, target: PyroTarget, random: Random, state: VariationalState) -> VariationalState:
        """Make one step of every fit."""
        fits, elbo, seeds = [], torch.zeros_like(state.elbo), random.seeds()
        for index, fit in enumerate(state.fits):
            args, kwargs = _call(target, fit.items)
            optimizer = copy.copy(self.settings.optimizer)
            waiting = copy.deepcopy(fit.optimizer)  # replaced, since set_state would add to it
            vars(optimizer).update(optim_objs={}, grad_clip={}, _state_waiting_to_be_consumed=waiting)
            with items_apart(), self._in_store(fit, seeds[fit.items[0]]):
                loss = Trace_ELBO(num_particles=self.settings.num_particles)
                found = -pyro.infer.SVI(target.model, fit.guide, optimizer, loss).step(*args, **kwargs)
                learnt = optimizer.get_state()
            values = {name: value.detach().clone() for name, value in fit.store["params"].items()}
            fits.append(fit._replace(values=values, optimizer=learnt))
            if not np.isfinite(found):
                raise ValueError(
                    f"the ELBO of fit {index} is non-finite at step {state.iteration}: use a smaller learning rate, or a guide"
                    " with a better initialization"
                )
            elbo[fit.items] = found / len(fit.items)
        return state._replace(fits=tuple(fits), elbo=elbo)

    @contextmanager
    def _in_store(self, fit: Fit, seed: int) -> Iterator[None]:
        """Put the values of a fit into Pyro's store and seed torch.

        Autoguides of different items have the same parameter names, so each has its own store.
        """
        with torch.no_grad():
            for name, value in fit.values.items():
                fit.store["params"][name].copy_(value)
        own: Any = pyro.get_param_store().scope(fit.store) if self._autoguide else nullcontext()
        with torch.random.fork_rng(devices=[]), own:
            torch.manual_seed(seed)
            yield


class PyroSVI(PyroEnsembleKernel):
    """SVI in `infer`, as in ``infer(seen, PyroSVI(AutoNormal), num_warmup=1000, ...)``.

    :param guide: a Pyro autoguide class (or a ``functools.partial`` of one), fitted item by item (``AutoNormal``: all items at
        once, which is equivalent), or a guide function with the model's arguments and latent sites, fitted to all items.
    :param optimizer: a Pyro optimiser; default ``pyro.optim.Adam({"lr": 0.01})``.
    :param num_particles: draws from the guide per fit step, >= 1.
    :param num_populations: groups of chains for the standard error of the evidence; default four.
    :raises ValueError: for a count below one, a guide without a density (`AutoDelta`) and a guide that already has a model.
    """

    settings: VariationalSettings

    settings_type = VariationalSettings

    def __init__(
        self, guide: Model, *, optimizer: PyroOptim | None = None, num_particles: int = 1, num_populations: int | None = None
    ) -> None:
        optimizer = Adam({"lr": 0.01}) if optimizer is None else optimizer
        super().__init__(optimizer=optimizer, num_particles=num_particles, num_populations=num_populations)
        if _is_class(guide, AutoDelta):
            raise ValueError("AutoDelta has no density: for the posterior mode use GradientDescent(prior=True)")
        if isinstance(guide, AutoGuide):
            raise ValueError(f"pass the class {type(guide).__name__} or a functools.partial of it: the model comes from infer")
        self.guide = guide

    def kernel(self, num_warmup: int, num_chains: int) -> VariationalKernel:
        if num_warmup < 1:
            raise ValueError(f"num_warmup={num_warmup}: the warm-up fits the guide and needs at least one step")
        kernel = VariationalKernel(self.settings, num_warmup, num_chains, self.guide)
        _ = kernel.populations  # checks the number of chains
        return kernel

    def fit(self, model: Model, *, num_steps: int, seed: int, prior_share: float = 0.1) -> PyroGuideStart:
        """`fit_pyro_guide` with this guide and these settings."""
        counts: dict[str, Any] = {"num_steps": num_steps, "seed": seed, "prior_share": prior_share, "progress": False}
        return fit_pyro_guide(model, self.guide, **counts, **vars(self.settings))


def fit_pyro_guide(
    model: Model,
    guide: Model,
    *,
    num_steps: int,
    seed: int,
    prior_share: float = 0.1,
    progress: bool = True,
    **settings: Unpack[FitSettings],
) -> PyroGuideStart:
    """Fit a guide to the items of a conditioned Pyro model, for use as the ``initial`` of a kernel.

    :param guide: as for `PyroSVI`.
    :param num_steps: fit steps, >= 1.
    :param seed: in [0, 2^63).
    :param prior_share: the mixture weight of the prior in the start, in [0, 1].
    :param settings: the other settings of `PyroSVI` (optimizer, num_particles).

    >>> import pyro, pyro.distributions as dist, torch
    >>> from pyro.infer.autoguide import AutoNormal
    >>> from cogen.inference import PyroAnnealedHMC, fit_pyro_guide
    >>> def model():
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
    >>> kernel = PyroAnnealedHMC(initial=fit_pyro_guide(model, AutoNormal, num_steps=100, seed=0, progress=False))
    """
    PyroGuideStart(guide, prior_share=prior_share)  # checks the share before the fit
    recipe, chains = PyroSVI(guide, **settings), 4
    kernel, target = recipe.kernel(num_steps, chains), recipe.target(model, num_chains=chains)
    random = Random.of(check_seed(seed), id_halves(target.ids))
    state = kernel.init(target, random, ExactDraws(chains))
    for k in tqdm(range(num_steps), disable=not progress, unit="step"):
        state, _ = kernel.step(target, random.at(k), state)
    return kernel.guide_start(target, random.at(num_steps), state, prior_share)


def _is_class(guide: Any, kind: type) -> bool:
    """Whether ``guide`` is a class of this kind, or a ``functools.partial`` of one."""
    factory = guide.func if isinstance(guide, functools.partial) else guide
    return inspect.isclass(factory) and issubclass(factory, kind)


def _call(target: PyroTarget, items: list[int]) -> Call:
    """The arguments of the model for these items."""
    if target.items is None:
        return target.args, target.kwargs
    return (take_items(target.items.item_data, np.array(items)),), {}

"""Stochastic variational inference as a kernel for Pyro models, the sister of `variational`.

    maximise  E_{z ~ q} [log p(z, y) - log q(z)]

by Pyro's own `SVI` with any autoguide, one per item, or one guide function for all items (Hoffman, Blei, Wang and Paisley
2013). After the warm-up every transition draws each chain anew from q, with its log ratio log p(z, y) - log q(z).
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import numpy as np
import pyro
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoGuide, AutoLaplaceApproximation, AutoNormal
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from pyro.optim.pytorch_optimizers import Adam  # type: ignore[attr-defined]
from torch import Tensor

from cogen.inference.annealing.populations import population_count
from cogen.inference.items import take_items
from cogen.inference.seeds import torch_seed
from cogen.inference.torch.guide_start import PyroGuideStart
from cogen.inference.torch.targets import Point, PyroTarget


class VariationalState(NamedTuple):
    """Draws of the guides of all items."""

    i: int
    point: Point
    """During the warm-up draws of the prior."""
    log_sum: Tensor
    """(chain, item): the log of the sum of the chain's ratios p(z, y) / q(z) so far."""
    elbo: Tensor
    """(item,); where all items are fitted at once, the mean over them."""
    cost: Tensor
    """(item,): gradient evaluations of the last transition, over all chains."""


class PyroSVI(MCMCKernel):
    """SVI in `infer`, as in ``infer(seen, PyroSVI(AutoNormal), num_warmup=1000, ...)``.

    :param guide: a Pyro autoguide class (or a ``functools.partial`` of one), fitted item by item (``AutoNormal``: all items at
        once, which is the same), or a guide function with the model's arguments and latent sites, fitted to all items.
    :param optimizer: a Pyro optimiser; default ``pyro.optim.Adam({"lr": 0.01})``.
    :param num_particles: draws of the guide per step of the fit, >= 1.
    :param num_populations: groups of chains for the evidence's standard error; default four.

    Raises ValueError for a count below one, a guide without a density (`AutoDelta`) and a guide that has a model already.
    """

    transforms: dict[str, Any] = {}  # noqa: RUF012 (for Pyro's MCMC: draws are constrained already)
    evidence_kind = "importance"
    adapts = False
    moves_per_temperature = 1
    num_populations_used = 0
    """Found by `setup`."""
    ladder_statistics: tuple[str, ...] = ()
    starts_at_density = False

    def __init__(
        self, guide: Any, *, optimizer: Any = None, num_particles: int = 1, num_populations: int | None = None
    ) -> None:
        if num_particles < 1:
            raise ValueError(f"num_particles={num_particles}: at least one is needed")
        factory = guide.func if isinstance(guide, functools.partial) else guide
        if inspect.isclass(factory) and issubclass(factory, AutoDelta):
            raise ValueError("AutoDelta has no density: for the posterior mode use GradientDescent(prior=True)")
        if isinstance(guide, AutoGuide):
            raise ValueError(f"pass the class {type(guide).__name__} or a functools.partial of it: the model comes from infer")
        self.guide = guide
        self.optimizer = Adam({"lr": 0.01}) if optimizer is None else optimizer
        self.num_particles = num_particles
        self.num_populations = num_populations
        self._autoguide = inspect.isclass(factory) and issubclass(factory, AutoGuide)
        # The factors of an AutoNormal do not feel each other, so that all items can be fitted in one batch.
        self._by_item = self._autoguide and not (inspect.isclass(factory) and issubclass(factory, AutoNormal))
        self.model: Callable | None = None
        self.num_chains = 0

    def bind(self, model: Callable, num_chains: int) -> Self:
        """A copy for a model and so many chains."""
        bound = copy.copy(self)
        bound.model, bound.num_chains = model, num_chains
        return bound

    def fit(self, model: Callable, *, num_steps: int, seed: int, prior_share: float = 0.1) -> PyroGuideStart:
        """Fit the guide to a conditioned model, as the ``initial`` of a `PyroAnnealedHMC`."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(torch_seed(seed))
            kernel = self.bind(model, 4)
            kernel.setup(num_steps)
            for _ in range(num_steps):
                kernel.sample()
        return kernel.start(prior_share)

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        if self.model is None:
            raise ValueError("PyroSVI has no model yet: pass it to cogen.inference.infer")
        if warmup_steps < 1:
            raise ValueError(f"num_warmup={warmup_steps}: the fit is the warm-up")
        self.num_populations_used = population_count(self.num_chains, self.num_populations, resampling=False)
        self._warmup, self._arguments = warmup_steps, (args, kwargs)
        target = PyroTarget(self.model, args, kwargs, num_chains=self.num_chains)
        self._seeds = [torch.Generator("cpu").manual_seed(s) for s in torch.randint(2**62, (target.num_items,)).tolist()]
        point = target.start(self._next_seeds())  # what is wrong with the model is said here
        self.target = target
        self._calls: list[tuple[tuple, dict]] = [(args, kwargs)]
        if target.items is not None:
            rows = [[k] for k in range(target.num_items)] if self._by_item else [list(range(target.num_items))]
            self._calls = [((take_items(target.items.item_data, np.array(each)),), {}) for each in rows]
        loss = Trace_ELBO(num_particles=self.num_particles)
        self.guides = [self.guide(target.model) if self._autoguide else self.guide for _ in self._calls]
        self._fits = [pyro.infer.SVI(target.model, guide, self.optimizer, loss) for guide in self.guides]
        self._stores: list[Any] = [{"params": {}, "constraints": {}} for _ in self._fits]
        zeros = torch.zeros(target.num_items, device=point.u.device)
        self._state = VariationalState(0, point, torch.full_like(point.tilt, -torch.inf), zeros, zeros.long())

    def start(self, prior_share: float) -> PyroGuideStart:
        """What was fitted, mixed with the prior."""
        if not self._autoguide:
            return PyroGuideStart(self.guide, prior_share=prior_share)
        guides = [
            guide.laplace_approximation(*args, **kwargs) if isinstance(guide, AutoLaplaceApproximation) else guide
            for guide, (args, kwargs) in zip(self.guides, self._calls, strict=True)
        ]
        return PyroGuideStart(guides, prior_share=prior_share)

    def sample(self, params: Any = None) -> dict[str, Tensor]:
        """A step of the fit or, after the warm-up, a draw of the guide. Returns the latent sites, (chain, [item,] *shape)."""
        state = self._state
        if state.i < self._warmup:
            elbo = [-self._step(k) for k in range(len(self._fits))]
            if not np.isfinite(elbo).all():
                raise ValueError(
                    f"the ELBO of fit {int(np.flatnonzero(~np.isfinite(elbo))[0])} is no number at step {state.i}: take a"
                    " smaller learning rate, or a guide that starts nearer"
                )
            shared = self.target.num_items / len(elbo)
            each = torch.tensor(elbo).to(state.elbo).div(shared).expand_as(state.elbo)
            state = state._replace(elbo=each, cost=torch.full_like(state.cost, self.num_particles))
        else:
            if state.i == self._warmup:
                settings: dict[str, Any] = {"num_chains": self.num_chains, "initial": self.start(0.0)}
                args, kwargs = self._arguments
                self.target = PyroTarget(self.model, args, kwargs, **settings)  # type: ignore[arg-type]
            point = self.target.start(self._next_seeds())
            point = point._replace(tilt=torch.where(point.tilt.isnan(), -torch.inf, point.tilt))
            log_sum = torch.logaddexp(state.log_sum, point.tilt)
            state = state._replace(point=point, log_sum=log_sum, cost=torch.full_like(state.cost, self.num_chains))
        self._state = state._replace(i=state.i + 1)
        return self._sites()

    @property
    def state(self) -> VariationalState:
        """The state after the last transition."""
        return self._state

    @property
    def cost(self) -> Tensor:
        return self._state.cost

    warmed_up = False
    """The fit goes on to the end of the warm-up."""

    def statistics(self) -> dict[str, Tensor]:
        """The statistics of the last draw by their ArviZ names, each (chain, item)."""
        state, populations = self._state, self.num_populations_used
        size = self.num_chains // populations
        population = torch.arange(self.num_chains)[:, None].expand_as(state.log_sum) // size
        evidence = state.log_sum.unflatten(0, (populations, size)).logsumexp(1) - np.log(size * max(1, state.i - self._warmup))
        return {
            "lp": state.point.reference + state.point.tilt,
            "log_ratio": state.point.tilt,
            "n_steps": torch.zeros_like(population),
            "population": population,
            "population_log_evidence": evidence.repeat_interleave(size, dim=0),
        }

    def path(self) -> dict[str, Tensor]:
        return {"elbo": self._state.elbo}

    def logging(self) -> OrderedDict[str, str]:
        return OrderedDict(elbo=f"{float(self._state.elbo.mean()):.4g}")

    def _sites(self) -> dict[str, Tensor]:
        items = self.target.items is not None
        return {name: value if items else value[:, 0] for name, value in self._state.point.values.items()}

    def _next_seeds(self) -> list[int]:
        return [int(torch.randint(2**62, (), generator=generator)) for generator in self._seeds]

    def _step(self, index: int) -> float:
        """One step of a fit. Autoguides of all items have parameters of the same names, and so each a store of its own."""
        args, kwargs = self._calls[index]
        if not self._autoguide:
            return self._fits[index].step(*args, **kwargs)
        with pyro.get_param_store().scope(self._stores[index]) as self._stores[index]:
            return self._fits[index].step(*args, **kwargs)

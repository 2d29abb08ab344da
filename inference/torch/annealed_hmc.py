"""Annealed Hamiltonian Monte Carlo for Pyro models, all chains of all items in one batch: the sister of `annealed_hmc`.

The algorithm, its papers and its departures from them are those of `cogen.inference.AnnealedHMC`:

    log w += (beta_t - beta_{t-1}) tilt(u),        tilt = log p(z, y) - log q0(z),

then resampling where the weights' effective sample size fell below a threshold, then HMC that leaves pi_beta = q0^(1 - beta)
p(z, y)^beta invariant. Pyro's own HMC moves one chain at a time; here the chain axis is inside the kernel, so that a
generator in torch, translatable to JAX or not, sees one batch of (chain, item) per gradient, each chain with its own
accept decision and each item with its own step size (Neal 2001; Fang and Schwing 2019; Del Moral, Doucet and Jasra 2006).

What differs from the sister: sums, energies and log weights are float64; an item's random numbers are a function of the
seed and the item for a given number of chains, since torch's generators are sequential.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import torch
from pyro.infer.mcmc.mcmc_kernel import MCMCKernel
from torch import Tensor

from cogen.inference.annealing.populations import population_count
from cogen.inference.annealing.schedules import Adaptive, Ladder, conditional_ess
from cogen.inference.items import item_ids
from cogen.inference.kernels.annealing_settings import AnnealingSettings
from cogen.inference.targets.sums import Sum, real
from cogen.inference.torch.hamiltonian import mean_acceptance, trajectory, transition_noise
from cogen.inference.torch.populations import effective_fraction, log_mean_exp, population_evidence, resampling_indices
from cogen.inference.torch.targets import Point, PyroTarget


class AnnealedState(NamedTuple):
    """All chains of all items after a transition."""

    i: int
    """Transitions asked for."""
    arrived: Tensor
    """(item,): whether the annealing is over."""
    point: Point
    log_weight: Tensor
    """(chain, item), float64; all of an item's equal after the last resampling."""
    ancestor: Tensor
    """(chain, item): the initial chain from which the particle descends."""
    population: Tensor
    """(chain, item): the population of that chain."""
    population_log_evidence: Tensor
    """(chain, item): the evidence estimate of the population of this slot."""
    beta: Tensor
    """(item,): the inverse temperature of the last transition."""
    step_size: Tensor
    """(item,)"""
    acceptance_rate: Tensor
    """(chain, item)"""
    diverging: Tensor
    """(chain, item): whether the last trajectory's energy error passed 1000 nats or was not finite (it is rejected)."""
    energy: Tensor
    n_steps: Tensor
    """(item,): gradient evaluations per chain of the last transition; none where the item waited at beta = 1."""
    nonfinite: Tensor
    """(chain, item): trajectories so far that met a gradient or a density that is not a number, and were rejected."""
    conditional_ess: Tensor
    """(item,): the fraction of the weighted particles that the last rise of beta left effective."""
    adaptation: Any


class PyroAnnealedHMC(MCMCKernel):
    """Annealed HMC for any Pyro model, in ``cogen.inference.infer`` or in plain ``pyro.infer.MCMC``.

    >>> import pyro, pyro.distributions as dist, torch
    >>> from pyro.infer import MCMC
    >>> from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC
    >>> def model():
    ...     z = pyro.sample("z", dist.Normal(0.0, 1.0))
    ...     pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(2.0))
    >>> mcmc = MCMC(PyroAnnealedHMC(model, num_chains=64), num_samples=10, warmup_steps=50, disable_progbar=True)
    >>> mcmc.run()
    >>> mcmc.get_samples()["z"].shape  # (draw, chain, ...); with items (draw, chain, item, ...)
    torch.Size([10, 64])

    The warm-up transitions walk the schedule from exact draws of q0 to the posterior; the sample transitions stay at beta = 1
    with the last step size. ``warmup_steps`` must be a positive multiple of ``moves_per_temperature``. The chains are in here:
    leave ``MCMC(num_chains=1)``. Weights, ancestors and evidence stand in ``mcmc.diagnostics()``.

    :param model: a conditioned Pyro model or `ItemModel` (such as a ``CoGenerator``), or None for a recipe that `infer` binds.
    :param num_chains: chains per item, for ``pyro.infer.MCMC``; `infer` gives its own.
    :param initial: q0, a torch or Pyro distribution over the latent site (or a mapping over sites), or a `PyroGuideStart`;
        default the prior.

    The other parameters (schedule, num_leapfrog, step_size, moves_per_temperature, resample_threshold, temper, flat_prior,
    num_populations, inverse_mass, jitter) are those of `cogen.inference.AnnealedHMC`. Inside an item the chains share one step
    size, and no two items share anything. Draws follow torch's global seed.

    Raises ValueError for values out of these ranges.
    """

    transforms: dict[str, Any] = {}  # noqa: RUF012 (for Pyro's MCMC: draws are constrained already)
    starts_at_density = True
    tunable = True
    num_populations_used = 0
    """Found by `setup`."""

    def __init__(self, model: Callable | None = None, *, num_chains: int | None = None, **settings: Any) -> None:
        self.settings = AnnealingSettings(**settings)
        if num_chains is not None and num_chains < 1:
            raise ValueError(f"num_chains={num_chains}: at least one is needed")
        self.model = model
        self.num_chains = num_chains

    @property
    def adapts(self) -> bool:
        """Whether the warm-up looks at what it weighs, so that its evidence is not unbiased."""
        return self.settings.adapts

    @property
    def evidence_kind(self) -> str:
        return "" if self.settings.flat_prior else "annealed"

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        return ("beta", "step_size") if self.settings.waits else ()

    @property
    def moves_per_temperature(self) -> int:
        return self.settings.moves_per_temperature

    def frozen(self, pilot: Any) -> Self:
        """A recipe that repeats what a pilot has adapted: a `Tuning`, or the results of a run."""
        copied = copy.copy(self)
        copied.settings = self.settings.frozen(pilot)
        return copied

    def bind(self, model: Callable, num_chains: int) -> Self:
        """A copy of this recipe for a model and so many chains. Raises ValueError if it has a model or other chains already."""
        if self.model is not None:
            raise ValueError(f"{type(self).__name__} was made with a model of its own: make it without one for infer")
        if self.num_chains not in (None, num_chains):
            raise ValueError(f"num_chains={num_chains}, and the kernel was made for {self.num_chains}: leave one of them out")
        bound = copy.copy(self)
        bound.model, bound.num_chains = model, num_chains
        return bound

    # --- Pyro's contract -----------------------------------------------------------------------------------------------

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        """Lay out a run: exact draws from q0, evaluated. Raises ValueError for settings that cannot run."""
        if self.model is None:
            raise ValueError(f"{type(self).__name__} has no model yet: give it one, or pass it to cogen.inference.infer")
        if self.num_chains is None:
            raise ValueError(f"how many chains? {type(self).__name__}(model, num_chains=64) holds all of them")
        self.settings.temperatures(warmup_steps)
        self.num_populations_used = population_count(
            self.num_chains, self.settings.num_populations, self.settings.resample_threshold > 0
        )
        self._warmup = warmup_steps
        settings: dict[str, Any] = {
            "initial": self.settings.initial,
            "temper": self.settings.temper,
            "flat_prior": self.settings.flat_prior,
        }
        self.target = target = PyroTarget(self.model, args, kwargs, num_chains=self.num_chains, **settings)
        items = target.num_items
        own = self.settings.own(warmup_steps).for_items(item_ids(target.items), self.settings.recorded)
        beta = self.settings.temperatures(warmup_steps) if own.ladder is None else own.ladder
        self._own_steps = own.steps
        self.ladder = None  # (T + 1, item)
        if beta is not None:
            self.ladder = torch.as_tensor(np.broadcast_to(beta, (items, beta.shape[-1])).T.copy())
        seeds = torch.randint(2**62, (2, items), device="cpu").tolist()
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds[0]]
        self.state = self._start(target.start(seeds[1]))

    @property
    def initial_params(self) -> dict[str, Tensor]:
        return self._sites()

    @initial_params.setter
    def initial_params(self, params: Any) -> None:
        raise ValueError(f"{type(self).__name__} starts from exact draws: initial_params would void its weights")

    def sample(self, params: Any = None) -> dict[str, Tensor]:
        """One transition of all chains. Returns the constrained latent sites, (chain, [item,] *shape)."""
        self.state = self._transition(self.state)
        return self._sites()

    def logging(self) -> OrderedDict[str, str]:
        state = self.state
        return OrderedDict(
            [
                ("beta", f"{float(state.beta.mean()):.3g}"),
                ("acc. prob", f"{float(state.acceptance_rate.mean()):.2f}"),
                ("step size", f"{float(state.step_size.mean()):.2e}"),
            ]
        )

    def diagnostics(self) -> dict[str, Any]:
        """Of the last transition: beta (item,), and what `statistics` gives."""
        return {"beta": self.state.beta, **self.statistics()}

    # --- what infer keeps ----------------------------------------------------------------------------------------------

    @property
    def cost(self) -> Tensor:
        """(item,): gradient evaluations of the last transition, over all chains."""
        return self.state.n_steps * len(self.state.log_weight)

    def statistics(self) -> dict[str, Tensor]:
        """The statistics of the last transition by their ArviZ names, each (chain, item)."""
        state = self.state
        return {
            "acceptance_rate": state.acceptance_rate,
            "step_size": state.step_size.expand_as(state.acceptance_rate),
            "diverging": state.diverging,
            "lp": state.point.reference + state.point.tilt,
            "energy": state.energy,
            "n_steps": state.n_steps.expand_as(state.ancestor),
            "nonfinite": state.nonfinite,
            "log_weight": state.log_weight,
            "ancestor": state.ancestor,
            "population": state.population,
            "population_log_evidence": state.population_log_evidence,
        }

    def path(self) -> dict[str, Tensor]:
        """What tells how the warm-up goes, each (item,)."""
        state = self.state
        slots = torch.zeros_like(state.ancestor).scatter_(0, state.ancestor, 1)
        return {
            "beta": state.beta,
            "acceptance_rate": state.acceptance_rate.mean(0),
            "step_size": state.step_size,
            "conditional_ess": state.conditional_ess,
            "weight_ess": effective_fraction(state.log_weight),
            "ancestors": slots.sum(0),
            "diverging": state.diverging.sum(0),
            "nonfinite": state.nonfinite.sum(0),
            "log_evidence": log_mean_exp(state.population_log_evidence),
        }

    @property
    def warmed_up(self) -> bool:
        """Whether no item needs more of the warm-up."""
        return bool(self.state.arrived.all())

    def end_warmup(self) -> None:
        """Go on to the draws, where the warm-up ended before its limit."""
        self.state = self.state._replace(i=self._warmup)

    def _sites(self) -> dict[str, Tensor]:
        items = self.target.items is not None
        return {name: value if items else value[:, 0] for name, value in self.state.point.values.items()}

    # --- the algorithm -------------------------------------------------------------------------------------------------

    def _start(self, point: Point) -> AnnealedState:
        dim, (chains, items) = self.target.dim, point.tilt.shape
        self.settings.check_dim(dim)
        device = point.u.device
        self.ladder = None if self.ladder is None else self.ladder.to(device)
        self._mass = (
            None if self.settings.inverse_mass is None else torch.tensor(self.settings.inverse_mass).to(device, point.u.dtype)
        )
        # The rules are written for one item in JAX, chains last; both kernels use the same ones.
        self._rule_step = jax.jit(jax.vmap(self.settings.rule.step_size))
        self._rule_update = jax.jit(jax.vmap(self.settings.rule.update))
        self._rule_ess = jax.jit(jax.vmap(conditional_ess))
        if isinstance(self.settings.schedule, Adaptive):
            self._rule_next = jax.jit(jax.vmap(self.settings.schedule.next))
        adaptation = jax.vmap(self.settings.rule.init, axis_size=items)(self._own_steps)
        zeros = torch.zeros_like(point.tilt)
        chain = torch.arange(chains, device=device)[:, None].expand(chains, items)
        beta = torch.zeros(items, dtype=torch.float64, device=device)
        weight = self.target.start_weight(point.u)
        weight = torch.where(weight.isfinite(), weight, -torch.inf)
        return AnnealedState(
            i=0,
            arrived=beta > 0,
            point=point,
            log_weight=weight,
            ancestor=chain,
            population=chain // (chains // self.num_populations_used),
            population_log_evidence=population_evidence(weight, self.num_populations_used),
            beta=beta,
            step_size=self._step(adaptation, beta),
            acceptance_rate=zeros,
            diverging=zeros > 0,
            energy=-point.log_density(beta),
            n_steps=torch.ones_like(chain[0]),
            nonfinite=torch.zeros_like(chain),
            conditional_ess=torch.ones_like(beta),
            adaptation=adaptation,
        )

    def _transition(self, state: AnnealedState) -> AnnealedState:
        annealing = state.i < self._warmup
        waiting = state.arrived & (annealing and isinstance(self.settings.schedule, Adaptive | Ladder))
        if waiting.all():
            return state._replace(i=state.i + 1, n_steps=torch.zeros_like(state.n_steps))
        held = state
        momentum, uniform = transition_noise(
            self.generators, waiting.tolist(), len(state.log_weight), self.target.dim, state.point.u
        )
        populations, moves = self.num_populations_used, self.moves_per_temperature

        beta = state.beta
        new_temperature = annealing and state.i % moves == 0
        if new_temperature:
            beta = self._next_temperature(state)
            rise, tilt = beta - state.beta, state.point.tilt
            effective = self._rule_ess(_jax(rise), _jax_sum(tilt.T), _jax(state.log_weight.T))
            grown = state.log_weight + rise * tilt
            state = state._replace(
                log_weight=torch.where(grown.isfinite(), grown, -torch.inf),  # otherwise the particle is dead
                conditional_ess=_torch(effective, beta),
            )
        if annealing:
            state = state._replace(population_log_evidence=population_evidence(state.log_weight, populations))
        if self.settings.resample_threshold > 0 and new_temperature:
            state = resample(uniform[..., 2], state, populations, self.settings.resample_threshold)
        elif self.settings.resample_threshold > 0 and state.i == self._warmup:
            state = resample(uniform[..., 2], state, 1, torch.inf)

        step = self._step(state.adaptation, beta) if annealing else state.step_size
        stretched = (step * (1.0 + self.settings.jitter * (2.0 * uniform[..., 1] - 1.0))).to(state.point.u.dtype)
        moved = trajectory(
            self.target, momentum, uniform[..., 0], state.point, beta, stretched, self.settings.num_leapfrog, self._mass
        )
        adaptation = state.adaptation
        if annealing:
            adaptation = self._rule_update(adaptation, _jax(mean_acceptance(moved.acceptance, state.point)))
        new = state._replace(
            arrived=(beta == 1.0) & ((state.i + 1) % moves == 0),
            point=moved.point,
            beta=beta,
            step_size=step,
            acceptance_rate=moved.acceptance,
            diverging=moved.diverging,
            energy=moved.energy,
            n_steps=torch.full_like(state.n_steps, self.settings.num_leapfrog),
            nonfinite=state.nonfinite + moved.nonfinite,
            adaptation=adaptation,
        )
        if waiting.any():
            new = _held(waiting, held._replace(n_steps=torch.zeros_like(state.n_steps)), new)
        return new._replace(i=state.i + 1)

    def _next_temperature(self, state: AnnealedState) -> Tensor:
        """The inverse temperatures (item,) of the coming transitions."""
        if self.ladder is not None:
            return self.ladder[min(state.i // self.moves_per_temperature + 1, len(self.ladder) - 1)]
        if state.i >= self._warmup - self.moves_per_temperature:
            return torch.ones_like(state.beta)
        chosen = self._rule_next(_jax(state.beta), _jax_sum(state.point.tilt.T), _jax(state.log_weight.T))
        return _torch(chosen, state.beta)

    def _step(self, adaptation: Any, beta: Tensor) -> Tensor:
        return _torch(self._rule_step(adaptation, _jax(beta)), beta)


def _jax(value: Tensor) -> jax.Array:
    return real(value.cpu().numpy())


def _jax_sum(value: Tensor) -> Sum:
    """A float64 tensor as two float32 numbers."""
    high = value.float()
    return Sum(_jax(high), _jax(value - high))


def _torch(value: jax.Array, like: Tensor) -> Tensor:
    return torch.from_numpy(np.array(value)).to(like)


def _held(waiting: Tensor, old: AnnealedState, new: AnnealedState) -> AnnealedState:
    """The new state, but for the items that wait at beta = 1."""

    def by_item(stays: Tensor, moves: Tensor) -> Tensor:  # (chain, item, ...)
        return torch.where(waiting.reshape(-1, *(1 for _ in stays.shape[2:])), stays, moves)

    def by_row(stays: jax.Array, moves: jax.Array) -> jax.Array:  # (item, ...)
        return jnp.where(rows.reshape(-1, *(1 for _ in stays.shape[1:])), stays, moves)

    rows = jnp.asarray(waiting.cpu().numpy())
    changed: dict[str, Any] = {  # all tensors but the point's are (item,) or (chain, item)
        name: torch.where(waiting, stays, moves)
        for (name, stays), moves in zip(old._asdict().items(), new, strict=True)
        if isinstance(moves, Tensor)
    }
    adaptation = jax.tree.map(by_row, old.adaptation, new.adaptation)
    return new._replace(**changed, point=old.point.map(by_item, new.point), adaptation=adaptation)


def resample(uniform: Tensor, state: AnnealedState, count: int, threshold: float) -> AnnealedState:
    """Copy the survivors of a resampling within ``count`` populations, where there is one."""
    found = resampling_indices(uniform, state.log_weight, count, threshold)
    if found is None:
        return state
    index, log_weight = found
    column = torch.arange(index.shape[1], device=index.device)

    def pick(value: Tensor) -> Tensor:
        return value[index, column]

    return state._replace(
        point=state.point.map(pick), log_weight=log_weight, ancestor=pick(state.ancestor), population=pick(state.population)
    )

"""A kernel: two pure functions over all chains of one item.

    state = init(target, key, start),        state, info = step(target, key, state)

``target`` is the item's annealing path (`cogen.inference.targets.target`), ``start`` gives the starting positions. The state
holds the input of the next step, the info the statistics of every chain; both are NamedTuples. Each algorithm has its own file.
Values that change from step to step (the iteration, the inverse temperature) are in the state; constants are settings.

`infer`, NumPyro's ``MCMC`` and the contract tests call these two functions and use no other part of an algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
import numpy as np

from cogen.inference.targets.target import Target

Array = jax.Array


class Own(NamedTuple):
    """Per-item values of the settings. Every array has a leading item axis; those of a single item lack it."""

    steps: Any = None
    """Recorded step sizes: (beta, log step), each (points,)."""
    ladder: Any = None
    """Inverse temperatures, (T + 1,)."""
    guide: Any = None
    """The parameters of a guide, and its coordinates."""
    exact: Any = None
    """An exact posterior draw, (dim,)."""
    variance: Any = None
    """A recorded metric, (dim,)."""

    @classmethod
    def of(cls, rule: Any, initial: Any) -> Own:
        """The per-item values of a step-size rule and a start."""
        return cls(steps=rule.rows, guide=getattr(initial, "rows", None))

    def for_items(self, ids: np.ndarray, recorded: np.ndarray | None = None) -> Self:
        """The rows of these items, found by the ``recorded`` ids, or in the same order without them.

        :raises ValueError: if items are missing.
        """
        index: Any = slice(None)
        if recorded is not None:
            order = np.argsort(recorded)
            position = np.searchsorted(recorded, ids, sorter=order).clip(max=len(recorded) - 1)
            index = order[position]
            missing = np.asarray(ids)[np.asarray(recorded)[index] != ids]
            if missing.size:
                raise ValueError(f"the items with the ids {missing[:8].tolist()} were not recorded: run a pilot of them")
        for field, what in zip(
            self._fields, ("step sizes", "ladders", "guide's parameters", "exact draws", "metrics"), strict=True
        ):
            for leaf in jax.tree.leaves(getattr(self, field)):
                if len(leaf) != len(ids) and recorded is None:
                    raise ValueError(f"the {what} of {len(leaf)} items were recorded, but this run has {len(ids)} items")
        return jax.tree.map(lambda a: np.asarray(a)[index], self)


@dataclass(frozen=True)
class ExactDraws:
    """A start from exact draws of q0 (the prior, or a guide mixed with it), whose weights estimate the evidence."""

    num_chains: int
    exact: ClassVar[bool] = True

    def positions(self, target: Target, key: Array, *lead: int) -> Array:
        """Starting positions, (chain, *lead, dim). Chain c's draws do not depend on the number of chains."""

        def draw(key: Array, lead: tuple[int, ...]) -> Array:
            return jax.vmap(lambda k: draw(k, lead[1:]))(chain_keys(key, lead[0])) if lead else target.draw(key)

        return draw(key, (self.num_chains, *lead))


@dataclass(frozen=True)
class GivenPositions:
    """A start from given unconstrained coordinates of the model, (chain, dim), or (chain, *lead, dim) if a chain has several
    positions. Their distribution is unknown, so such a run has no evidence."""

    u: Array
    exact: ClassVar[bool] = False

    def positions(self, target: Target, key: Array, *lead: int) -> Array:
        """Starting positions, (chain, *lead, dim).

        :raises ValueError: unless the number of coordinates is the target's.
        """
        if self.u.shape[-1] != target.dim:
            raise ValueError(f"the start has {self.u.shape[-1]} coordinates, the unconstrained model has {target.dim}")
        own = jnp.vectorize(target.own_coordinates, signature="(d)->(d)")(self.u)
        if own.ndim == 2:
            return jnp.broadcast_to(jnp.expand_dims(own, range(1, 1 + len(lead))), (len(own), *lead, target.dim))
        return own


Start = ExactDraws | GivenPositions


class State(Protocol):
    """The input of the next step."""

    @property
    def iteration(self) -> Array:
        """The number of steps made, the same for all items of a block."""
        ...

    @property
    def position(self) -> Array:
        """The unconstrained positions of the chains, (chain, dim)."""
        ...

    @property
    def _replace(self) -> Any: ...


class Kernel(Protocol):
    """One algorithm with its settings, for given numbers of warm-up steps and chains.

    `infer` uses no attributes of a kernel but these.
    """

    num_warmup: int
    num_chains: int

    @property
    def needs_gradient(self) -> bool:
        """Whether a step requires gradients of the target."""
        return True

    @property
    def evidence_kind(self) -> str:
        """The evidence estimator ("annealed", "bridged", "importance", "stepping-stone"); "" without one."""
        return ""

    @property
    def adapts(self) -> bool:
        """Whether the warm-up adapts to the particles that it weights, so that its evidence is not unbiased."""
        return False

    @property
    def weighted(self) -> bool:
        """Whether its weights, populations and ancestors, if any, are recorded."""
        return True

    @property
    def populations(self) -> int:
        """The number of groups of chains with separate evidence estimates; 0 without evidence."""
        return 0

    @property
    def moves_per_temperature(self) -> int:
        """The number of warm-up steps at each inverse temperature."""
        return 1

    @property
    def gradients_to_start(self) -> int:
        """The number of gradient evaluations per chain before the first step."""
        return 0

    @property
    def host_may_dispatch(self) -> bool:
        """Whether the host may dispatch steps one by one, which is faster for a density with convolutions on a CPU."""
        return True

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        """The path statistics recorded at every transition: those that a pilot chooses and a second run repeats."""
        return ()

    @property
    def facts(self) -> dict[str, Any]:
        """Attributes of the kernel stored in the results."""
        return {
            "num_populations": self.populations,
            "moves_per_temperature": self.moves_per_temperature,
            "adapted": int(self.adapts),
            "evidence_kind": self.evidence_kind,
        }

    def init(self, target: Any, key: Any, start: Start) -> Any:
        """The state of all chains before the first step.

        In JAX for one item, from a `Target` and a key; in torch for all items, from a `PyroTarget` and their random numbers.
        """
        ...

    def step(self, target: Any, key: Any, state: Any) -> tuple[Any, Any]:
        """The next state, and the statistics of the step: a NamedTuple of arrays (chain,)."""
        ...

    def path(self, state: Any, info: Any) -> Mapping[str, Array]:
        """Scalars that describe the progress of the warm-up, after a step."""
        ...

    def log_density(self, state: Any) -> Array | None:
        """The chains' log density at beta = 1, (chain,). A run raises an error if it is non-finite at all starts; None omits
        this check."""
        return None

    def metric(self, state: Any) -> Array | None:
        """The variances of the coordinates, (..., dim), estimated for the metric in the warm-up; None without one."""
        return None

    def warmed_up(self, state: Any) -> Array:
        """Whether the item completed its warm-up."""
        return jnp.bool_(False)

    def unrolled(self) -> Self:
        """The kernel without compiled loops, for a caller that dispatches steps one by one."""
        return self


def chain_keys(key: Array, num_chains: int) -> Array:
    """One key per chain; chain c's key does not depend on the number of chains."""
    return jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(num_chains))

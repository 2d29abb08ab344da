"""A kernel: two pure functions over all chains of one item.

    state = init(target, key, start),        state, info = step(target, key, state)

``target`` is the item's annealing path (`cogen.inference.targets.target`), ``start`` says where its chains begin. The state
carries what the next step needs, the info is what a step reports of every chain; both are NamedTuples, one file an algorithm.
Whatever changes from step to step (the iteration, the inverse temperature) is in the state; whatever does not is a setting.

`infer`, NumPyro's ``MCMC`` and the contracts are callers of these two functions and know nothing else of an algorithm.
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
    """What the settings hold item by item, every array with a leading item axis; of one item, without it."""

    steps: Any = None
    """Recorded step sizes: (beta, log step), each (points,)."""
    ladder: Any = None
    """(T + 1,) inverse temperatures."""
    guide: Any = None
    """The parameters of a guide, and its coordinates."""
    exact: Any = None
    """An exact posterior draw, (dim,)."""
    variance: Any = None
    """A recorded metric, (dim,)."""

    @classmethod
    def of(cls, rule: Any, initial: Any) -> Own:
        """What a step-size rule and a start hold item by item."""
        return cls(steps=rule.rows, guide=getattr(initial, "rows", None))

    def for_items(self, ids: np.ndarray, recorded: np.ndarray | None = None) -> Self:
        """The rows of these items: found by the ``recorded`` ids, or in the same order. Raises ValueError where they are of
        other items."""
        index: Any = slice(None)
        if recorded is not None:
            order = np.argsort(recorded)
            place = np.searchsorted(recorded, ids, sorter=order).clip(max=len(recorded) - 1)
            index = order[place]
            missing = np.asarray(ids)[np.asarray(recorded)[index] != ids]
            if missing.size:
                raise ValueError(f"nothing was recorded of the items with the ids {missing[:8].tolist()}: make a pilot of them")
        for field, what in zip(
            self._fields, ("step sizes", "ladders", "guide's parameters", "exact draws", "metrics"), strict=True
        ):
            for leaf in jax.tree.leaves(getattr(self, field)):
                if len(leaf) != len(ids) and recorded is None:
                    raise ValueError(f"the {what} of {len(leaf)} items were recorded, and this run has {len(ids)}")
        return jax.tree.map(lambda a: np.asarray(a)[index], self)


@dataclass(frozen=True)
class ExactDraws:
    """Chains start from exact draws of q0: the prior, or a guide mixed with it. Their weights estimate the evidence."""

    num_chains: int
    exact: ClassVar[bool] = True

    def positions(self, target: Target, key: Array, *lead: int) -> Array:
        """(chain, *lead, dim): chain c's draws do not depend on how many chains there are."""

        def draw(key: Array, lead: tuple[int, ...]) -> Array:
            return jax.vmap(lambda k: draw(k, lead[1:]))(chain_keys(key, lead[0])) if lead else target.draw(key)

        return draw(key, (self.num_chains, *lead))


@dataclass(frozen=True)
class GivenPositions:
    """Chains start at these unconstrained coordinates of the model (chain, dim), or (chain, *lead, dim) where a chain has
    several positions. Nothing is known of where they come from, so that such a run has no evidence."""

    u: Array
    exact: ClassVar[bool] = False

    def positions(self, target: Target, key: Array, *lead: int) -> Array:
        """(chain, *lead, dim). Raises ValueError for coordinates of another number than the target's."""
        if self.u.shape[-1] != target.dim:
            raise ValueError(f"the start has {self.u.shape[-1]} coordinates, the model has {target.dim} unconstrained ones")
        own = jnp.vectorize(target.own_coordinates, signature="(d)->(d)")(self.u)
        if own.ndim == 2:
            return jnp.broadcast_to(jnp.expand_dims(own, range(1, 1 + len(lead))), (len(own), *lead, target.dim))
        return own


Start = ExactDraws | GivenPositions


class State(Protocol):
    """What the next step needs."""

    @property
    def iteration(self) -> Array:
        """Steps made, the same for all items of a block."""
        ...

    @property
    def position(self) -> Array:
        """Where the chains are, (chain, dim), unconstrained."""
        ...

    @property
    def _replace(self) -> Any: ...


class Kernel(Protocol):
    """One algorithm with its settings, for a run of so many warm-up steps and chains.

    What is not said here is said by no other name: `infer` reads nothing else of a kernel.
    """

    num_warmup: int
    num_chains: int

    @property
    def needs_gradient(self) -> bool:
        """Whether a step asks for gradients of the target."""
        return True

    @property
    def evidence_kind(self) -> str:
        """Where the evidence of a run comes from ("annealed", "bridged", "importance", "stepping-stone"); "" without one."""
        return ""

    @property
    def adapts(self) -> bool:
        """Whether the warm-up looks at what it weighs, so that its evidence is not unbiased."""
        return False

    @property
    def weighted(self) -> bool:
        """Whether its weights, populations and ancestors are kept, where it has any."""
        return True

    @property
    def populations(self) -> int:
        """Groups of chains whose estimates are kept apart; 0 where there is nothing to estimate."""
        return 0

    @property
    def moves_per_temperature(self) -> int:
        """Warm-up steps at each inverse temperature."""
        return 1

    @property
    def gradients_to_start(self) -> int:
        """Gradient evaluations per chain before the first step."""
        return 0

    @property
    def host_may_dispatch(self) -> bool:
        """Whether its steps may be dispatched one by one, which is faster for a density with convolutions on a CPU."""
        return True

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        """What of the path is kept whole: what a pilot has chosen and a second run repeats."""
        return ()

    @property
    def facts(self) -> dict[str, Any]:
        """What the results of a run remember of it."""
        return {
            "num_populations": self.populations,
            "moves_per_temperature": self.moves_per_temperature,
            "adapted": int(self.adapts),
            "evidence_kind": self.evidence_kind,
        }

    def init(self, target: Any, key: Any, start: Start) -> Any:
        """The state of all chains before the first step: of one item from a `Target` and a key, in torch of all items from a
        `PyroTarget` and their random numbers."""
        ...

    def step(self, target: Any, key: Any, state: Any) -> tuple[Any, Any]:
        """The next state, and what is reported of the step: a NamedTuple of arrays (chain,)."""
        ...

    def path(self, state: Any, info: Any) -> Mapping[str, Array]:
        """Scalars that tell how the warm-up goes, after a step."""
        ...

    def log_density(self, state: Any) -> Array | None:
        """Of the chains at beta = 1, (chain,): a run whose chains all start where it is not finite is stopped. None where
        chains go on from such starts."""
        return None

    def metric(self, state: Any) -> Array | None:
        """The variances of the coordinates, (..., dim), to which the warm-up has fitted its metric; None without one."""
        return None

    def warmed_up(self, state: Any) -> Array:
        """Whether the item needs no more of the warm-up."""
        return jnp.bool_(False)

    def unrolled(self) -> Self:
        """For a caller that dispatches steps one by one: no compiled loop inside."""
        return self


def chain_keys(key: Array, num_chains: int) -> Array:
    """One key per chain: chain c's does not depend on how many chains there are."""
    return jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(num_chains))

"""Draws of the prior, moved by a network to predicted modes of the posterior, without gradients or densities.

The predictor was trained on latents that move while a cost falls (`cogen.models.networks.latent_descent`). Each transition
draws every chain independently from the prior and applies the predictor. The end points are draws of a distribution without a
known density, which depends on the training only and may differ from the posterior. There are no weights and no evidence;
exact inference can start from the end points (`cogen.models.EndpointGuide`).

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 3: inference).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.kernels.kernel import ExactDraws, Kernel, Start
from cogen.inference.signatures import Model
from cogen.inference.targets.target import Target

Array = jax.Array


class LearnedState(NamedTuple):
    """The end points of one item's chains."""

    iteration: Array
    u: Array
    """(chain, dim)"""

    @property
    def position(self) -> Array:
        return self.u


class LearnedInfo(NamedTuple):
    """Statistics of the end points for every chain."""

    lp: Array
    """The log joint density at the end point."""
    n_steps: Array
    """Gradient evaluations: none."""


@dataclass(frozen=True, eq=False)
class LearnedSettings:
    """The predictor.

    :param predictor: a function from the unconstrained values of the latent sites by name, and the model's arguments, to such
        values; or an object, such as a `LatentDescent`, with this function as its methods ``numpyro`` (JAX, for one chain) and
        ``pyro`` (torch, for values (chain, item, *shape)).
    :raises TypeError: for an object that is not callable.
    """

    predictor: Callable[..., object]

    def __post_init__(self) -> None:
        if not callable(self.predictor):
            raise TypeError(f"the predictor is {self.predictor!r}: give a function, or a trained LatentDescent")

    def function(self, library: str) -> Callable[..., Mapping[str, Any]]:
        """The predictor for "numpyro" or "pyro"."""
        function: Callable[..., Any] = getattr(self.predictor, library, self.predictor)
        return function


def check_counts(name: str, num_warmup: int) -> None:
    """Check that there is no warm-up.

    :raises ValueError: for a warm-up.
    """
    if num_warmup:
        raise ValueError(f"num_warmup={num_warmup}: {name} has no warm-up: give num_warmup=0")


def check_sites(led: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Check the output of a predictor.

    :raises ValueError: if its sites or shapes differ from the input.
    """
    made, given = ({name: tuple(value.shape) for name, value in each.items()} for each in (led, values))
    if made != given:
        raise ValueError(f"the predictor returned the sites {made}, the model has {given}")


def check_start(name: str, start: Start) -> None:
    """Check that no starting positions are given.

    :raises ValueError: for given positions.
    """
    if not start.exact:
        raise ValueError(f"{name} draws its starts from the prior: omit start=")


@dataclass(frozen=True, eq=False)
class LearnedKernel(Kernel):
    settings: LearnedSettings
    num_warmup: int
    num_chains: int

    needs_gradient = False

    @property
    def facts(self) -> dict[str, Any]:
        return {**super().facts, "end_points": 1}

    def path(self, state: LearnedState, info: LearnedInfo) -> dict[str, Array]:
        return {"lp": info.lp.mean()}

    def init(self, target: Target, key: Array, start: Start) -> LearnedState:
        """The starting state.

        :raises ValueError: for given positions and for a warm-up.
        """
        check_counts("LearnedDescent", self.num_warmup)
        check_start("LearnedDescent", start)
        return LearnedState(jnp.int32(0), start.positions(target, key))

    def step(self, target: Target, key: Array, state: LearnedState) -> tuple[LearnedState, LearnedInfo]:
        assert target.program is not None
        _, args, kwargs = target.program
        function = self.settings.function("numpyro")

        def led(u: Array) -> Array:
            values = target.sites(u)
            moved = function(values, *args, **kwargs)
            check_sites(moved, values)
            return ravel_pytree(dict(moved))[0]

        u = jax.vmap(led)(ExactDraws(self.num_chains).positions(target, key))
        lp = jax.vmap(lambda v: target.reference(v).sum() + target.increment(v).sum())(u)
        return LearnedState(state.iteration + 1, u), LearnedInfo(lp, jnp.zeros(self.num_chains, jnp.int32))


class LearnedDescent(EnsembleKernel, settings=LearnedSettings, kernel=LearnedKernel):
    """End points of learned descents, as in ``infer(seen, LearnedDescent(predictor), num_warmup=0, ...)``."""

    settings: LearnedSettings

    def __init__(self, predictor: Callable[..., object], model: Model | None = None) -> None:
        super().__init__(model, predictor=predictor)

"""What our kernels share: a NumPyro ``MCMCKernel`` whose state holds all chains of one item.

NumPyro hands such a kernel a batch of keys (its vectorised chains) or one key (a single chain); inside there is always a
leading chain axis, and it is taken off again for a single chain. A kernel can be made without a model, as a recipe, and
is bound to one by `infer`. Every draw is a function of the item's key and the chain's index.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import jax
import jax.numpy as jnp
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn
from numpyro.util import is_prng_key

from cogen.inference.loops import compiled_loop
from cogen.inference.targets import Target, numpyro_target

Array = jax.Array


class EnsembleKernel(MCMCKernel):
    """A kernel over all chains of one item. Subclasses write `_init` and `_sample` for states with a chain axis.

    Their state is a NamedTuple with the fields ``i``, ``z`` and ``rng_key``; the fields that `chain_fields` names have a
    leading chain axis and can be collected.
    """

    is_ensemble_kernel = True
    sample_field = "z"
    chain_fields: tuple[str, ...] = ("z",)
    evidence_kind = ""
    """What the weights of a run are ("annealed", "importance"), or nothing where there is no evidence."""
    gradients_to_start = 0
    """Gradient evaluations per chain before the first transition."""

    def __init__(self, model: Callable | None) -> None:
        self._model = model
        self._item: Array | int = 0
        self._num_items = 1
        self._unroll = False

    @property
    def model(self) -> Callable | None:
        return self._model

    def bind(self, model: Callable, num_items: int = 1) -> Self:
        """A copy of this kernel for ``model`` and so many items. Raises ValueError if it has one already."""
        if self._model is not None:
            raise ValueError(f"{type(self).__name__} was made with a model of its own: make it without one for infer")
        bound = copy.copy(self)
        bound._model = model
        bound._num_items = num_items
        return bound

    def for_item(self, item: Array | int) -> Self:
        """A copy that knows which item of a batch it serves (step sizes may be recorded per item)."""
        copied = copy.copy(self)
        copied._item = item
        return copied

    def unrolled(self) -> Self:
        """A copy for a caller that dispatches transitions one by one: no compiled loop inside, none around."""
        copied = copy.copy(self)
        copied._unroll = True
        return copied

    def target(self, args: tuple, kwargs: dict | None) -> Target:
        if self._model is None:
            raise ValueError(f"{type(self).__name__} has no model yet: give it one, or pass it to cogen.inference.infer")
        return numpyro_target(self._model, args, kwargs)

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        """Lay out a run, before anything is compiled. Raises ValueError for settings that cannot run."""
        self._num_warmup = num_warmup

    def init(self, rng_key: Array, num_warmup: int, init_params: Any, model_args: tuple, model_kwargs: dict) -> Any:
        if init_params is not None:
            raise ValueError(f"{type(self).__name__} starts from exact draws: init_params would void its weights")
        single = is_prng_key(rng_key)
        num_chains = 1 if single else rng_key.shape[0]
        self.prepare(num_warmup, num_chains)
        item_key = rng_key if single else rng_key[0]
        with self._loop():
            state = self._init(self.target(model_args, model_kwargs), item_key, num_chains)
        return self._squeeze(state) if single else state

    def sample(self, state: Any, model_args: tuple, model_kwargs: dict) -> Any:
        single = jnp.ndim(getattr(state, self.chain_fields[-1])) == 0
        if single:
            state = self._unsqueeze(state)
        with self._loop():
            state = self._sample(self.target(model_args, model_kwargs), state)
        return self._squeeze(state) if single else state

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict | None) -> Callable:
        return lambda z: constrain_fn(self._model, model_args, model_kwargs or {}, z, return_deterministic=True)

    def path(self, state: Any) -> dict[str, Array]:
        """Scalars of one item that tell how the warm-up goes."""
        raise NotImplementedError

    def _init(self, target: Target, key: Array, num_chains: int) -> Any:
        raise NotImplementedError

    def _sample(self, target: Target, state: Any) -> Any:
        raise NotImplementedError

    def _loop(self) -> Any:
        return nullcontext() if self._unroll else compiled_loop()

    def _squeeze(self, state: Any) -> Any:
        return state._replace(**{f: jax.tree.map(lambda a: a[0], getattr(state, f)) for f in self.chain_fields})

    def _unsqueeze(self, state: Any) -> Any:
        return state._replace(**{f: jax.tree.map(lambda a: a[None], getattr(state, f)) for f in self.chain_fields})


def chain_keys(key: Array, num_chains: int) -> Array:
    """One key per chain: chain c's does not depend on how many chains there are."""
    return jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(num_chains))

"""What our kernels share: a NumPyro ``MCMCKernel`` whose state holds all chains of one item.

NumPyro hands such a kernel a batch of keys (its vectorised chains) or one key (a single chain); inside there is always a
leading chain axis, and it is taken off again for a single chain. A kernel can be made without a model, as a recipe, and
is bound to one by `infer`. Every draw is a function of the item's key and the chain's index.

On several devices, shard the chain axis of the keys, and everything with a chain axis is laid out as they are; then the
compiled transitions run on all devices, with the same draws but for rounding:

    mesh = jax.sharding.Mesh(jax.devices(), ("chain",))
    keys = jax.device_put(jax.random.split(key, num_chains), NamedSharding(mesh, PartitionSpec("chain")))
    MCMC(AnnealedHMC(model), num_chains=num_chains, chain_method="vectorized", ...).run(keys)

Each device holds one population or several. NumPyro's ``chain_method="parallel"`` would hand the kernel single chains, which
know nothing of each other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from cogen.inference.loops import compiled_loop
from cogen.inference.targets.masked_sites import ProperUnobserved
from cogen.inference.targets.model_checks import check_numpyro_model
from cogen.inference.targets.numpyro_target import GuideStart, Initial, Target, constrained_sites, numpyro_target

Array = jax.Array


class EnsembleKernel(MCMCKernel):
    """A kernel over all chains of one item. Subclasses write `_init` and `_sample` for states with a chain axis.

    Their state is a NamedTuple with the fields ``i``, ``z`` and ``rng_key``; the fields that `chain_fields` names have a
    leading chain axis and can be collected.
    """

    is_ensemble_kernel = True
    sample_field = "z"
    chain_fields: tuple[str, ...] = ("z",)
    carried_fields: tuple[str, ...] = ()
    """Fields with a leading chain axis that are not collected, and keep it for a single chain."""
    initial: Initial = None
    """q0; None is the prior."""
    evidence_kind = ""
    """Where the evidence of a run comes from ("annealed", "bridged", "importance", "stepping-stone"); nothing without one."""
    starts_at_density = True
    """Whether its chains go nowhere from starts of zero density, so that a run without any other is stopped."""
    gradients_to_start = 0
    """Gradient evaluations per chain before the first transition."""

    def __init__(self, model: Callable | None) -> None:
        self._model: Callable | None = None if model is None else ProperUnobserved(model)
        self._item: Array | int = 0
        self._num_items = 1
        self._unroll = False
        self._warming: Array | None = None

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

    def for_item(self, item: Array | int, warming: Array | None = None) -> Self:
        """A copy that knows which item of a batch it serves (step sizes may be recorded per item), and whether the caller
        is warming up, where that is the same for all items (a branch on it then stays a branch)."""
        copied = copy.copy(self)
        copied._item, copied._warming = item, warming
        return copied

    def unrolled(self) -> Self:
        """A copy for a caller that dispatches transitions one by one: no compiled loop inside, none around."""
        copied = copy.copy(self)
        copied._unroll = True
        return copied

    def target(self, args: tuple, kwargs: dict | None) -> Target:
        """The annealing path of the model with these arguments, from ``initial`` where the kernel has one."""
        initial = self.initial.for_item(self._item) if isinstance(self.initial, GuideStart) else self.initial
        return numpyro_target(self._bound_model(), args, kwargs, initial=initial, **self._target_settings())

    def _target_settings(self) -> dict[str, Any]:
        """What else `numpyro_target` is told."""
        return {}

    def prepare(self, num_warmup: int, num_chains: int) -> None:
        """Lay out a run, before anything is compiled. Raises ValueError for settings that cannot run."""
        self._num_warmup = num_warmup

    def init(self, rng_key: Array, num_warmup: int, init_params: Any, model_args: tuple, model_kwargs: dict) -> Any:
        if init_params is not None:
            raise ValueError(f"{type(self).__name__} starts from exact draws: init_params would void its weights")
        single = is_prng_key(rng_key)
        num_chains = 1 if single else rng_key.shape[0]
        self.prepare(num_warmup, num_chains)
        sharding = None if single else self._sharding(rng_key)
        if sharding is not None:
            rng_key = jax.device_put(rng_key, NamedSharding(sharding.mesh, PartitionSpec()))

        def begin(key: Array) -> Any:
            with self._loop():
                return self._init(self.target(model_args, model_kwargs), key, num_chains)

        if isinstance(rng_key, jax.core.Tracer):
            state = begin(rng_key if single else rng_key[0])
        else:  # one program, rather than one for every operation
            check_numpyro_model(self._bound_model(), model_args, model_kwargs or {})
            key = rng_key if single else rng_key[0]
            state = jax.jit(begin, out_shardings=None if sharding is None else self._layout(begin, key, sharding))(key)
        return self._squeeze(state) if single else state

    def sample(self, state: Any, model_args: tuple, model_kwargs: dict) -> Any:
        single = jnp.ndim(getattr(state, self.chain_fields[-1])) == 0
        if single:
            state = self._unsqueeze(state)
        with self._loop():
            state = self._sample(self.target(model_args, model_kwargs), state)
        return self._squeeze(state) if single else state

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict | None) -> Callable:
        model = self._bound_model()
        return lambda z: constrained_sites(model, model_args, model_kwargs, z)

    @property
    def ladder_statistics(self) -> tuple[str, ...]:
        """What of its path is kept whole: what a pilot has chosen and a second run repeats."""
        return ()

    @property
    def adapts(self) -> bool:
        """Whether the warm-up looks at what it weighs, so that its evidence is not unbiased."""
        return False

    def frozen(self, pilot: Any) -> Self:
        """A copy that repeats what a pilot run (an ArviZ object of `infer`) has adapted."""
        raise ValueError(f"{type(self).__name__} records nothing that a second run could freeze: run it without a pilot")

    def warmed_up(self, state: Any) -> Array:
        """Whether one item needs no more of the warm-up."""
        return jnp.bool_(False)

    def path(self, state: Any) -> dict[str, Array]:
        """Scalars of one item that tell how the warm-up goes."""
        raise NotImplementedError

    def _init(self, target: Target, key: Array, num_chains: int) -> Any:
        raise NotImplementedError

    def _sample(self, target: Target, state: Any) -> Any:
        raise NotImplementedError

    def _loop(self) -> Any:
        return nullcontext() if self._unroll else compiled_loop()

    def _bound_model(self) -> Callable:
        if self._model is None:
            raise ValueError(f"{type(self).__name__} has no model yet: give it one, or pass it to cogen.inference.infer")
        return self._model

    def _sharding(self, keys: Array) -> NamedSharding | None:
        """How the chains lie on several devices, as their keys do; None on one device or inside a compiled function."""
        if isinstance(keys, jax.core.Tracer) or len(keys.sharding.device_set) == 1:
            return None
        if not isinstance(keys.sharding, NamedSharding) or keys.sharding.is_fully_replicated:
            raise ValueError(
                f"the chains' keys lie on {len(keys.sharding.device_set)} devices as {keys.sharding}: shard their chain axis,"
                ' as in jax.device_put(keys, NamedSharding(mesh, PartitionSpec("chain")))'
            )
        shards = keys.shape[0] // keys.sharding.shard_shape(keys.shape)[0]
        populations = getattr(self, "_populations", shards)
        if populations % shards:
            raise ValueError(
                f"num_populations={populations} on {shards} devices: a population lies on one device, so their number must be a"
                f" multiple of {shards}"
            )
        mesh = Mesh(keys.sharding.mesh.devices, keys.sharding.mesh.axis_names)  # the compiler places what a transition makes
        return NamedSharding(mesh, PartitionSpec(keys.sharding.spec[0]))

    def _layout(self, begin: Callable, key: Array, sharding: NamedSharding) -> Any:
        """Where the state that ``begin`` makes shall lie: fields with a chain axis as the chains, all others everywhere."""
        fields = {*self.chain_fields, *self.carried_fields}
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        state = jax.eval_shape(begin, key)
        return state._replace(**{f: sharding if f in fields else everywhere for f in state._fields})

    def _squeeze(self, state: Any) -> Any:
        return state._replace(**{f: jax.tree.map(lambda a: a[0], getattr(state, f)) for f in self.chain_fields})

    def _unsqueeze(self, state: Any) -> Any:
        return state._replace(**{f: jax.tree.map(lambda a: a[None], getattr(state, f)) for f in self.chain_fields})


def chain_keys(key: Array, num_chains: int) -> Array:
    """One key per chain: chain c's does not depend on how many chains there are."""
    return jax.vmap(lambda chain: jax.random.fold_in(key, chain))(jnp.arange(num_chains))

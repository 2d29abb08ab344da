"""The public kernel classes for NumPyro models: recipes for `infer`, and kernels for NumPyro's ``MCMC``.

NumPyro passes an ensemble kernel a batch of keys (its vectorised chains) or one key (a single chain); the pure functions always
have a leading chain axis, which is removed for a single chain. `infer` binds a recipe without a model to one. Every draw is a
function of the item's key and the chain's index.

On several devices, shard the chain axis of the keys. All arrays with a chain axis are then sharded likewise, and the compiled
transitions run on all devices, with the same draws up to rounding:

    mesh = jax.sharding.Mesh(jax.devices(), ("chain",))
    keys = jax.device_put(jax.random.split(key, num_chains), NamedSharding(mesh, PartitionSpec("chain")))
    MCMC(AnnealedHMC(model), num_chains=num_chains, chain_method="vectorized", ...).run(keys)

Each device holds one or more whole populations. NumPyro's ``chain_method="parallel"`` would run single chains, which cannot
exchange particles.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from cogen.inference.adapters.recipe import Recipe
from cogen.inference.annealing.guide_start import GuideStart
from cogen.inference.kernels.kernel import ExactDraws, Kernel, Own
from cogen.inference.loops import compiled_loop
from cogen.inference.signatures import Model
from cogen.inference.targets.masked_sites import ProperUnobserved
from cogen.inference.targets.model_checks import check_numpyro_model
from cogen.inference.targets.numpyro_target import constrained_sites, numpyro_target, unconstrained_position
from cogen.inference.targets.target import Sites, Target

Array = jax.Array


class ChainState(NamedTuple):
    """The state of NumPyro's ``MCMC``. The fields of ``info`` can be collected by their names, as ``extra_fields``."""

    i: Array
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    info: Any
    state: Any
    rng_key: Array

    def __getattr__(self, name: str) -> Any:
        if name in self.info._fields:
            return getattr(self.info, name)
        raise AttributeError(f"the kernel reports no {name!r}; it reports {', '.join(self.info._fields)}")


class EnsembleKernel(Recipe, MCMCKernel):
    """A kernel over all chains of one item."""

    is_ensemble_kernel = True
    sample_field = "z"
    parameters_doc = ":param model: a conditioned NumPyro model, or None for a recipe that `infer` binds to a model."

    def __init__(self, model: Model | None = None, **settings: object) -> None:
        self._model: Model | None = None if model is None else ProperUnobserved(model)
        self.settings = type(self).settings_type(**settings)
        self._kernel: Kernel | None = None

    @property
    def model(self) -> Model | None:
        return self._model

    # --- the interface of infer --------------------------------------------------------------------------------

    def for_model(self, model: Model, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Self:
        """This recipe bound to the model, with the arguments of one item, outside of any trace."""
        return self

    def target(
        self,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
        *,
        model: Model | None = None,
        own: Own | None = None,
    ) -> Target:
        """The annealing path of a model (default: the kernel's) with the arguments of one item, from ``initial`` if the
        settings have one."""
        model = self._bound_model() if model is None else model
        initial = getattr(self.settings, "initial", None)
        own = own or Own()
        if isinstance(initial, GuideStart) and own.guide is not None:
            initial = initial.with_row(own.guide)
        options = {name: getattr(self.settings, name) for name in ("temper", "flat_prior") if hasattr(self.settings, name)}
        return numpyro_target(model, args, kwargs, initial=initial, **options)._replace(own=own)

    def position(self, model: Model, args: tuple[object, ...], values: Mapping[str, Array | np.ndarray]) -> Array:
        """The coordinates (dim,) of values of a model's latent sites.

        :raises ValueError: for values of other sites.
        """
        return unconstrained_position(model, args, values)

    # --- NumPyro's kernel interface ----------------------------------------------------------------------------

    def init(
        self,
        rng_key: Array,
        num_warmup: int,
        init_params: object,
        model_args: tuple[object, ...],
        model_kwargs: Mapping[str, object],
    ) -> ChainState:
        if init_params is not None:
            raise ValueError(f"{type(self).__name__} starts from exact draws: init_params would invalidate its weights")
        single = is_prng_key(rng_key)
        num_chains = 1 if single else rng_key.shape[0]
        seen = self.for_model(self._bound_model(), model_args, model_kwargs or {})
        self._kernel = kernel = seen.kernel(num_warmup, num_chains)
        own = self._own_of_one(num_warmup)
        sharding = None if single else self._sharding(rng_key, kernel.populations)
        if sharding is not None:
            rng_key = jax.device_put(rng_key, NamedSharding(sharding.mesh, PartitionSpec()))

        def begin(key: Array, kernel: Kernel = kernel) -> ChainState:
            with compiled_loop():
                init_key, rng_key = jax.random.split(key)
                target = self.target(model_args, model_kwargs, own=own)
                state = kernel.init(target, init_key, ExactDraws(kernel.num_chains))
                blank = jax.eval_shape(lambda: kernel.step(target, init_key, state)[1])
                info = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), blank)
                return ChainState(jnp.int32(0), jax.vmap(target.sites)(state.position), info, state, rng_key)

        if isinstance(rng_key, jax.core.Tracer):
            state = begin(rng_key if single else rng_key[0])
        else:  # compile one program instead of one per operation
            check_numpyro_model(self._bound_model(), model_args, model_kwargs or {})
            key = rng_key if single else rng_key[0]
            layout = None if sharding is None else self._layout(begin, key, kernel, sharding)
            state = jax.jit(begin, out_shardings=layout)(key)
        return _first_chain(state) if single else state

    def sample(self, state: ChainState, model_args: tuple[object, ...], model_kwargs: Mapping[str, object]) -> ChainState:
        kernel = self._kernel
        assert kernel is not None
        single = jax.tree.leaves(state.info)[0].ndim == 0
        with compiled_loop():
            target = self.target(model_args, model_kwargs, own=self._own_of_one(kernel.num_warmup))
            new, info = kernel.step(target, jax.random.fold_in(state.rng_key, state.i), state.state)
            sites = jax.vmap(target.sites)(new.position)
        after = ChainState(state.i + 1, sites, info, new, state.rng_key)
        return _first_chain(after) if single else after

    def postprocess_fn(
        self, model_args: tuple[object, ...], model_kwargs: Mapping[str, object] | None
    ) -> Callable[[Sites], Sites]:
        model = self._bound_model()
        return lambda z: constrained_sites(model, model_args, model_kwargs, z)

    def get_diagnostics_str(self, state: ChainState) -> str:
        kernel = self._kernel
        assert kernel is not None
        info = jax.tree.map(jnp.atleast_1d, state.info)
        shown = {"beta": "beta", "acceptance_rate": "acc. prob", "step_size": "step", "barrier": "barrier"}
        path = kernel.path(state.state, info)
        return ", ".join(f"{label} {float(path[name]):.3g}" for name, label in shown.items() if name in path)

    # --- parts -------------------------------------------------------------------------------------------------

    def _own_of_one(self, num_warmup: int) -> Own:
        return jax.tree.map(lambda a: jnp.asarray(a)[0], self.own(num_warmup, np.zeros(1, np.int64)))

    def _bound_model(self) -> Model:
        if self._model is None:
            raise ValueError(f"{type(self).__name__} has no model yet: give it one, or pass it to cogen.inference.infer")
        return self._model

    def _sharding(self, keys: Array, populations: int) -> NamedSharding | None:
        """The sharding of the chains on several devices, from that of their keys; None on one device or inside a trace."""
        if isinstance(keys, jax.core.Tracer) or len(keys.sharding.device_set) == 1:
            return None
        if not isinstance(keys.sharding, NamedSharding) or keys.sharding.is_fully_replicated:
            raise ValueError(
                f"the chains' keys are on {len(keys.sharding.device_set)} devices as {keys.sharding}: shard their chain axis,"
                ' as in jax.device_put(keys, NamedSharding(mesh, PartitionSpec("chain")))'
            )
        shards = keys.shape[0] // keys.sharding.shard_shape(keys.shape)[0]
        if populations % shards:
            raise ValueError(
                f"num_populations={populations} on {shards} devices: a population must be on one device, so use a multiple of"
                f" {shards}"
            )
        mesh = Mesh(keys.sharding.mesh.devices, keys.sharding.mesh.axis_names)  # the compiler shards a transition's results
        return NamedSharding(mesh, PartitionSpec(keys.sharding.spec[0]))

    def _layout(self, begin: Callable[..., Any], key: Array, kernel: Kernel, sharding: NamedSharding) -> Any:
        """The sharding of the state: arrays that grow with the number of chains as the chains, all others replicated."""
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        twice = dataclasses.replace(kernel, num_chains=2 * kernel.num_chains)  # type: ignore[type-var]
        one, two = jax.eval_shape(begin, key), jax.eval_shape(lambda k: begin(k, twice), key)
        return jax.tree.map(lambda a, b: everywhere if a.shape == b.shape else sharding, one, two)


def _first_chain(state: ChainState) -> ChainState:
    """The state of a single chain, with draws and statistics without the chain axis."""
    return state._replace(**jax.tree.map(lambda a: a[0], {"z": state.z, "info": state.info}))

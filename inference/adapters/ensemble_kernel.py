"""Our kernels under the names that people use: recipes for `infer`, and kernels of NumPyro's ``MCMC``.

NumPyro hands an ensemble kernel a batch of keys (its vectorised chains) or one key (a single chain); the pure functions inside
always have a leading chain axis, which is taken off again for a single chain. A recipe without a model is bound to one by
`infer`. Every draw is a function of the item's key and the chain's index.

On several devices, shard the chain axis of the keys, and everything with a chain axis is laid out as they are; then the
compiled transitions run on all devices, with the same draws but for rounding:

    mesh = jax.sharding.Mesh(jax.devices(), ("chain",))
    keys = jax.device_put(jax.random.split(key, num_chains), NamedSharding(mesh, PartitionSpec("chain")))
    MCMC(AnnealedHMC(model), num_chains=num_chains, chain_method="vectorized", ...).run(keys)

Each device holds one population or several. NumPyro's ``chain_method="parallel"`` would hand the kernel single chains, which
know nothing of each other.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
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
from cogen.inference.targets.masked_sites import ProperUnobserved
from cogen.inference.targets.model_checks import check_numpyro_model
from cogen.inference.targets.numpyro_target import constrained_sites, numpyro_target, unconstrained_position
from cogen.inference.targets.target import Sites, Target

Array = jax.Array


class ChainState(NamedTuple):
    """What NumPyro's ``MCMC`` carries. The fields of ``info`` can be collected by their names, as ``extra_fields``."""

    i: Array
    z: dict[str, Array]
    """Unconstrained values of the latent sites."""
    info: Any
    state: Any
    rng_key: Array

    def __getattr__(self, name: str) -> Any:
        if name in self.info._fields:
            return getattr(self.info, name)
        raise AttributeError(f"nothing called {name!r} is reported; there are {', '.join(self.info._fields)}")


class EnsembleKernel(Recipe, MCMCKernel):
    """A kernel over all chains of one item."""

    is_ensemble_kernel = True
    sample_field = "z"
    parameters_doc = ":param model: a conditioned NumPyro model, or None for a recipe that `infer` binds."

    def __init__(self, model: Callable | None = None, **settings: Any) -> None:
        self._model: Callable | None = None if model is None else ProperUnobserved(model)
        self.settings = self.settings_type(**settings)
        self._kernel: Kernel | None = None

    @property
    def model(self) -> Callable | None:
        return self._model

    # --- what infer asks for -----------------------------------------------------------------------------------

    def for_model(self, model: Callable, args: tuple, kwargs: dict) -> Self:
        """This recipe after a look at the model, with the arguments of one item, that is not traced."""
        return self

    def target(
        self, args: tuple = (), kwargs: dict | None = None, *, model: Callable | None = None, own: Own | None = None
    ) -> Target:
        """The annealing path of a model (default: the kernel's) with the arguments of one item, from ``initial`` where the
        settings have one."""
        model = self._bound_model() if model is None else model
        initial = getattr(self.settings, "initial", None)
        own = own or Own()
        if isinstance(initial, GuideStart) and own.guide is not None:
            initial = initial.with_row(own.guide)
        options = {name: getattr(self.settings, name) for name in ("temper", "flat_prior") if hasattr(self.settings, name)}
        return numpyro_target(model, args, kwargs, initial=initial, **options)._replace(own=own)

    def position(self, model: Callable, args: tuple, values: Sites) -> Array:
        """The coordinates (dim,) of values of a model's latent sites. Raises ValueError for those of other sites."""
        return unconstrained_position(model, args, values)

    # --- NumPyro's contract --------------------------------------------------------------------------------------

    def init(self, rng_key: Array, num_warmup: int, init_params: Any, model_args: tuple, model_kwargs: dict) -> ChainState:
        if init_params is not None:
            raise ValueError(f"{type(self).__name__} starts from exact draws: init_params would void its weights")
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
        else:  # one program, rather than one for every operation
            check_numpyro_model(self._bound_model(), model_args, model_kwargs or {})
            key = rng_key if single else rng_key[0]
            layout = None if sharding is None else self._layout(begin, key, kernel, sharding)
            state = jax.jit(begin, out_shardings=layout)(key)
        return _first_chain(state) if single else state

    def sample(self, state: ChainState, model_args: tuple, model_kwargs: dict) -> ChainState:
        kernel = self._kernel
        assert kernel is not None
        single = jax.tree.leaves(state.info)[0].ndim == 0
        with compiled_loop():
            target = self.target(model_args, model_kwargs, own=self._own_of_one(kernel.num_warmup))
            new, info = kernel.step(target, jax.random.fold_in(state.rng_key, state.i), state.state)
            sites = jax.vmap(target.sites)(new.position)
        after = ChainState(state.i + 1, sites, info, new, state.rng_key)
        return _first_chain(after) if single else after

    def postprocess_fn(self, model_args: tuple, model_kwargs: dict | None) -> Callable:
        model = self._bound_model()
        return lambda z: constrained_sites(model, model_args, model_kwargs, z)

    def get_diagnostics_str(self, state: ChainState) -> str:
        kernel = self._kernel
        assert kernel is not None
        info = jax.tree.map(jnp.atleast_1d, state.info)
        shown = {"beta": "beta", "acceptance_rate": "acc. prob", "step_size": "step", "barrier": "barrier"}
        path = kernel.path(state.state, info)
        return ", ".join(f"{said} {float(path[name]):.3g}" for name, said in shown.items() if name in path)

    # --- parts -------------------------------------------------------------------------------------------------

    def _own_of_one(self, num_warmup: int) -> Own:
        return jax.tree.map(lambda a: jnp.asarray(a)[0], self.own(num_warmup, np.zeros(1, np.int64)))

    def _bound_model(self) -> Callable:
        if self._model is None:
            raise ValueError(f"{type(self).__name__} has no model yet: give it one, or pass it to cogen.inference.infer")
        return self._model

    def _sharding(self, keys: Array, populations: int) -> NamedSharding | None:
        """How the chains lie on several devices, as their keys do; None on one device or inside a compiled function."""
        if isinstance(keys, jax.core.Tracer) or len(keys.sharding.device_set) == 1:
            return None
        if not isinstance(keys.sharding, NamedSharding) or keys.sharding.is_fully_replicated:
            raise ValueError(
                f"the chains' keys lie on {len(keys.sharding.device_set)} devices as {keys.sharding}: shard their chain axis,"
                ' as in jax.device_put(keys, NamedSharding(mesh, PartitionSpec("chain")))'
            )
        shards = keys.shape[0] // keys.sharding.shard_shape(keys.shape)[0]
        if populations % shards:
            raise ValueError(
                f"num_populations={populations} on {shards} devices: a population lies on one device, so their number must be a"
                f" multiple of {shards}"
            )
        mesh = Mesh(keys.sharding.mesh.devices, keys.sharding.mesh.axis_names)  # the compiler places what a transition makes
        return NamedSharding(mesh, PartitionSpec(keys.sharding.spec[0]))

    def _layout(self, begin: Callable, key: Array, kernel: Kernel, sharding: NamedSharding) -> Any:
        """Where the state shall lie: what grows with the number of chains as the chains do, all else everywhere."""
        everywhere = NamedSharding(sharding.mesh, PartitionSpec())
        twice = dataclasses.replace(kernel, num_chains=2 * kernel.num_chains)  # type: ignore[type-var]
        one, two = jax.eval_shape(begin, key), jax.eval_shape(lambda k: begin(k, twice), key)
        return jax.tree.map(lambda a, b: everywhere if a.shape == b.shape else sharding, one, two)


def _first_chain(state: ChainState) -> ChainState:
    """For a caller that knows one chain: draws and what is reported without their chain axis."""
    return state._replace(**jax.tree.map(lambda a: a[0], {"z": state.z, "info": state.info}))

"""Kernels that make transitions from given positions, at a given inverse temperature.

A way to run is a function of an `ItemModel`, positions (chain, item, dim) and beta that returns where the chains end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from cogen.inference import AnnealedHMC, Langevin, ParallelTempering, PyroAnnealedHMC, PyroLangevin
from cogen.inference.kernels.kernel import GivenPositions
from cogen.inference.seeds import id_halves
from cogen.inference.torch.random_numbers import Random

TRANSITIONS = 8
Run = Callable[[Any, np.ndarray, float], np.ndarray]


def _over_items(run: Callable[[Any, tuple, Any], Any], model: Any, z: Any) -> Any:
    """``run(key, arguments, z)`` of every item, compiled once: z and the result are trees of (chain, item, dim)."""
    data = jax.tree.map(lambda a: jnp.asarray(a)[:, None], dict(model.item_data))
    items = jax.tree.leaves(data)[0].shape[0]
    keys = jax.random.split(jax.random.key(3), items)
    mapped = jax.vmap(lambda key, item, start: run(key, (item,), start), in_axes=(0, 0, 1), out_axes=1)
    return jax.tree.map(np.asarray, jax.jit(mapped)(keys, data, jax.tree.map(jnp.float32, z)))


def _from_given_positions(recipe: Any, model: Any, z: np.ndarray, *, num_warmup: int = 0, **fields: Any) -> Any:
    """Transitions of a kernel from z (chain, item, ..., dim), with these fields of its state: the last state's positions."""
    one = jax.tree.map(lambda a: jnp.asarray(a)[:1], dict(model.item_data))
    recipe = recipe.for_model(model.numpyro, (one,), {})
    kernel = recipe.kernel(num_warmup, len(z))

    def run(key: Any, args: tuple, start: Any) -> Any:
        target = recipe.target(args, model=model.numpyro)
        state = kernel.init(target, key, GivenPositions(start))._replace(**fields)

        def step(k: Any, state: Any) -> Any:
            return kernel.step(target, jax.random.fold_in(key, k), state)[0]

        state = jax.lax.fori_loop(0, TRANSITIONS, step, state)
        return state.replicas.point.u if isinstance(recipe, ParallelTempering) else state.position

    return _over_items(run, model, z)


def annealed_hmc(step: float) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        recipe = AnnealedHMC(num_leapfrog=3, step_size=step, resample_threshold=0.0)
        drawing = {"iteration": jnp.int32(1), "beta": jnp.float32(beta)}
        return _from_given_positions(recipe, model, z, num_warmup=1, **drawing)

    return run


def _in_torch_from_given_positions(recipe: Any, model: Any, z: np.ndarray, beta: float) -> np.ndarray:
    """Where transitions of a kernel in torch, from z (chain, item, dim) at beta, end."""
    kernel = recipe.kernel(1, len(z))
    target = recipe.target(model, num_chains=len(z))
    random = Random.of(3, id_halves(target.ids))
    state = kernel.init(target, random, GivenPositions(z))
    state = state._replace(iteration=1, beta=torch.full_like(state.beta, beta))  # behind the warm-up of one
    for _ in range(TRANSITIONS):
        state, _ = kernel.step(target, random.at(state.iteration), state)
    return state.point.u.numpy()


def annealed_hmc_in_torch(step: float) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        recipe = PyroAnnealedHMC(num_leapfrog=3, step_size=step, resample_threshold=0.0)
        return _in_torch_from_given_positions(recipe, model, z, beta)

    return run


def langevin_in_torch(recipe: PyroLangevin) -> Run:
    """MALA or ULA."""

    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        return _in_torch_from_given_positions(recipe, model, z, beta)

    return run


def tempered_replicas(step: float, model: Any, z: Mapping[float, np.ndarray]) -> dict[float, np.ndarray]:
    """Parallel tempering with a replica at every key of z, and one at beta = 0: where each inverse temperature's replica is."""
    betas = sorted(z)
    recipe = ParallelTempering(
        num_replicas=len(betas) + 1, num_leapfrog=3, step_size=step, schedule=lambda _: np.array([0.0, *betas])
    )
    start = np.stack([z[betas[0]], *(z[beta] for beta in betas)], axis=2)  # the first is drawn anew
    end = _from_given_positions(recipe, model, start)
    return {beta: end[:, :, k + 1] for k, beta in enumerate(betas)}


def at_a_beta(recipe: Langevin) -> Run:
    """MALA or ULA."""

    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        return _from_given_positions(recipe, model, z, beta=jnp.float32(beta))

    return run


def blackjax(recipe: Any) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        return _from_given_positions(recipe, model, z)

    return run


def numpyro_kernel(make: Callable) -> Run:
    """A kernel of NumPyro without adaptation, chain by chain."""

    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        kernel = make(model.numpyro)

        def chains(key: Any, args: tuple, start: Any) -> Any:
            def chain(chain_key: Any, u: Any) -> Any:
                state = kernel.init(chain_key, 0, {"z": u[None]}, args, {})
                state = jax.lax.fori_loop(0, TRANSITIONS, lambda _, s: kernel.sample(s, args, {}), state)
                return state.z["z"][0]

            return jax.vmap(chain)(jax.random.split(key, len(start)), start)

        return _over_items(chains, model, z)

    return run

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

from cogen.inference import AnnealedHMC, Langevin, ParallelTempering, PyroAnnealedHMC
from cogen.inference.adapters.ensemble_kernel import EnsembleKernel
from cogen.inference.kernels.replicas import starting
from cogen.inference.targets.numpyro_target import Target, evaluate

TRANSITIONS = 8
Run = Callable[[Any, np.ndarray, float], np.ndarray]


def _over_items(run: Callable[[Any, tuple, Any, Any], Any], model: Any, z: Any) -> Any:
    """``run(key, arguments, z)`` of every item, compiled once: z and the result are trees of (chain, item, dim)."""
    data = jax.tree.map(lambda a: jnp.asarray(a)[:, None], dict(model.item_data))
    items = jax.tree.leaves(data)[0].shape[0]
    keys = jax.random.split(jax.random.key(3), items)
    mapped = jax.vmap(lambda key, item, start: run(key, (item,), start), in_axes=(0, 0, 1), out_axes=1)
    return jax.tree.map(np.asarray, jax.jit(mapped)(keys, data, jax.tree.map(jnp.float32, z)))


def _ensemble(kernel: EnsembleKernel, model: Any, z: Any, num_warmup: int, place: Callable, read: Callable) -> Any:
    """A kernel of ours: ``place(kernel, target, state, z)`` puts its chains at z, ``read(state)`` finds them."""
    bound = kernel.bind(model.numpyro)
    bound.prepare(num_warmup, len(jax.tree.leaves(z)[0]))

    def run(key: Any, args: tuple, start: Any) -> Any:
        target = bound.target(args, {})
        state = place(bound, target, bound._init(target, key, len(jax.tree.leaves(start)[0])), start)
        return read(jax.lax.fori_loop(0, TRANSITIONS, lambda _, s: bound._sample(target, s), state))

    return _over_items(run, model, z)


def _points(target: Target, z: Any) -> Any:
    return jax.vmap(lambda u: evaluate(target, u))(z)


# Of two temperatures the first is the asked one, and its first transition is behind the chains, so that they stay there.
WARMUP = 2 * (TRANSITIONS + 1)


def _annealing(beta: float, step: float) -> dict[str, Any]:
    return {
        "schedule": lambda _: np.array([0.0, beta if beta < 1 else 0.5, 1.0]),
        "moves_per_temperature": TRANSITIONS + 1,
        "num_leapfrog": 3,
        "step_size": step,
        "resample_threshold": 0.0,
    }


def annealed_hmc(step: float) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        made = 1 if beta < 1 else WARMUP + 1

        def place(kernel: Any, target: Target, state: Any, start: Any) -> Any:
            particles = state.particles._replace(point=_points(target, start))
            return state._replace(i=state.i + made, made=state.made + made, particles=particles)

        return _ensemble(AnnealedHMC(**_annealing(beta, step)), model, z, WARMUP, place, lambda s: s.particles.point.u)

    return run


def annealed_hmc_in_torch(step: float) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        kernel = PyroAnnealedHMC(model, num_chains=len(z), **_annealing(beta, step))
        torch.manual_seed(3)
        kernel.setup(WARMUP)
        point = kernel.target.evaluate(torch.as_tensor(z, dtype=torch.float32))
        made = 1 if beta < 1 else WARMUP + 1
        kernel.state = kernel.state._replace(i=made, point=point, beta=torch.full_like(kernel.state.beta, beta))
        for _ in range(TRANSITIONS):
            kernel.sample()
        return kernel.state.point.u.numpy()

    return run


def tempered_replicas(step: float, model: Any, z: Mapping[float, np.ndarray]) -> dict[float, np.ndarray]:
    """Parallel tempering with a replica at every key of z, and one at beta = 0: where each inverse temperature's replica is."""
    betas = sorted(z)
    kernel = ParallelTempering(
        num_replicas=len(betas) + 1, num_leapfrog=3, step_size=step, schedule=lambda _: np.array([0.0, *betas])
    )

    def place(kernel: Any, target: Target, state: Any, start: Any) -> Any:
        first = state.replicas.point.u[:, 0]
        point = jax.vmap(lambda u: _points(target, u))(jnp.stack([first, *(start[beta] for beta in betas)], axis=1))
        return state._replace(replicas=starting(point))

    def read(state: Any) -> dict[float, Any]:
        return {beta: state.replicas.point.u[:, k + 1] for k, beta in enumerate(betas)}

    return _ensemble(kernel, model, z, 0, place, read)


def langevin(kernel: Langevin) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        def place(kernel: Any, target: Target, state: Any, start: Any) -> Any:
            return state._replace(point=_points(target, start))

        return _ensemble(kernel, model, z, 0, place, lambda s: s.point.u)

    return run


def blackjax(kernel: Any) -> Run:
    def run(model: Any, z: np.ndarray, beta: float) -> np.ndarray:
        def place(kernel: Any, target: Target, state: Any, start: Any) -> Any:
            algorithm = kernel._algorithm(target, {})
            return state._replace(inner=jax.vmap(lambda u: algorithm.init(u, jax.random.key(0)))(start))

        return _ensemble(kernel, model, z, 0, place, lambda s: s.inner.position)

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

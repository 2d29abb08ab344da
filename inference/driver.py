"""`infer`: one driver for every kernel.

A NumPyro kernel (ours or the library's) runs with items and chains as vectorised axes: `vmap` over items of the kernel,
which itself holds all chains (ours) or is mapped over them (the library's). What is compiled is one chunk of transitions,
reused for the warm-up and for the draws, so that a progress bar moves and memory does not grow with the number of steps. On the
CPU, a density with convolutions is not looped over in compiled code: the host dispatches one transition at a time (see
`loops`). A Pyro kernel runs item by item and chain by chain (see `pyro_chains`).
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn
from tqdm.auto import tqdm

from cogen.inference.ensemble_kernel import EnsembleKernel
from cogen.inference.items import ItemModel, find_items
from cogen.inference.loops import compiled_loop, has_convolutions
from cogen.inference.predictions import predictive_groups
from cogen.inference.results import to_arviz
from cogen.inference.targets import numpyro_target

Array = jax.Array

PATH_POINTS = 200
"""At most so many points of the warm-up are kept."""

_LIBRARY_FIELDS = {
    "acceptance_rate": "accept_prob",
    "step_size": "adapt_state.step_size",
    "diverging": "diverging",
    "energy": "energy",
    "n_steps": "num_steps",
}


def infer(
    model: Callable,
    kernel: Any,
    *,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    seed: int,
    progress: bool = True,
    keep_x: bool = False,
) -> Any:
    """Draw from the posterior of a conditioned model and return an ArviZ object.

    :param model: a conditioned ``CoGenerator`` (also inside ``pyro.condition`` or ``numpyro.handlers.condition``), or any
        NumPyro model (with a NumPyro kernel) or Pyro model (with a Pyro kernel), which counts as one item.
    :param kernel: a kernel class (``numpyro.infer.NUTS``, ``pyro.infer.HMC``), a ``functools.partial`` of one, or one of our
        kernels made without a model (``AnnealedHMC(num_leapfrog=10)``).
    :param num_warmup: transitions of adaptation, annealing or descent, >= 0 (>= 1 for `AnnealedHMC`).
    :param num_samples: draws per chain, >= 1.
    :param num_chains: chains per item, >= 1.
    :param seed: every draw is a function of (seed, item, chain).
    :param progress: show a progress bar.
    :param keep_x: keep x = G(z) and posterior predictive draws of every view; otherwise only the mean and standard
        deviation of x per item (group ``predictions``).
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x); ``["posterior"]["z"]`` has the dims (chain,
        draw, item, latent). A model that is one item has no item dimension.

    Raises ValueError for counts out of range and for a model without anything latent or observed, TypeError for a kernel
    that is none of the above.
    """
    _check_counts(num_warmup, num_samples, num_chains)
    if _is_pyro(kernel):
        from cogen.inference.pyro_chains import infer_with_pyro

        return infer_with_pyro(model, kernel, num_warmup, num_samples, num_chains, seed=seed, progress=progress, keep_x=keep_x)
    run = Inference(model, kernel, num_warmup=num_warmup, num_chains=num_chains, seed=seed, progress=progress)
    return run.draw(num_samples, keep_x=keep_x)


class Inference:
    """A run with NumPyro kernels that can be continued: `draw` as often as one likes, the warm-up happens once.

    >>> import numpyro, numpyro.distributions as dist
    >>> from cogen.inference import AnnealedHMC, Inference
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> run = Inference(model, AnnealedHMC(), num_warmup=50, num_chains=64, seed=0, progress=False)
    >>> first = run.draw(10)
    >>> more = run.draw(10)  # from where the first ended
    >>> more["posterior"]["z"].dims
    ('chain', 'draw')

    Parameters as `infer`.
    """

    def __init__(
        self, model: Callable, kernel: Any, *, num_warmup: int, num_chains: int, seed: int, progress: bool = True
    ) -> None:
        _check_counts(num_warmup, 1, num_chains)
        self.items = find_items(model)
        self.num_warmup, self.num_chains, self.seed, self.progress = num_warmup, num_chains, seed, progress
        if self.items is None:
            self._model: Callable = model
            self._data: tuple = ()
            self.num_items = 1
        else:
            if not self.items.item_data:
                raise ValueError("nothing is observed: condition the model first, as in model.condition(visible=pixels)")
            self._model = self.items.numpyro
            data = jax.tree.map(lambda a: jnp.asarray(a)[:, None], dict(self.items.item_data))
            self._data = (data,)
            self.num_items = jax.tree.leaves(data)[0].shape[0]
        # Outside of any tracing: what is wrong with the model is said here, and a generator is translated here.
        numpyro_target(self._model, jax.tree.map(lambda a: a[0], self._data))
        self.kernel = _bind(kernel, self._model, self.num_items)
        if isinstance(self.kernel, EnsembleKernel):
            self.kernel.prepare(num_warmup, num_chains)
        self._states: Any = None
        self._path: list[dict[str, np.ndarray]] = []
        self._warmed = False
        self.gradient_evaluations = np.zeros(self.num_items, dtype=np.int64)
        self.seconds = self.compile_seconds = 0.0

    @property
    def last_state(self) -> Any:
        """The kernel's state after the last transition, every array with a leading item axis."""
        return self._states

    def draw(self, num_samples: int, *, keep_x: bool = False) -> Any:
        """``num_samples`` more draws per chain, after the warm-up if it has not run, as an ArviZ object."""
        _check_counts(self.num_warmup, num_samples, self.num_chains)
        start = time.perf_counter()
        if self._states is None:
            self._compile()
        bar = tqdm(total=num_samples + (0 if self._warmed else self.num_warmup), disable=not self.progress, unit="transition")
        with bar:
            if not self._warmed:
                bar.set_description("warm-up")
                keep_every = max(1, -(-self.num_warmup // PATH_POINTS))
                self._path = self._run(self.num_warmup, "path", bar, keep_every)
                self._warmed = True
            bar.set_description("draws")
            draws = self._run(num_samples, "draw", bar)
        stacked = {name: np.stack([d[name] for d in draws]) for name in draws[0]}  # (draw, item, chain, ...)
        groups = self._groups(stacked)
        if self.items is not None:
            groups.update(predictive_groups(self.items, groups, keep_x=keep_x, seed=self.seed))
        self.seconds += time.perf_counter() - start
        return to_arviz(groups, self._attributes())

    # --- transitions -------------------------------------------------------------------------------------------

    def _compile(self) -> None:
        start = time.perf_counter()
        keys = jax.vmap(lambda item: jax.random.fold_in(jax.random.key(self.seed), item))(jnp.arange(self.num_items))
        keys = jax.vmap(lambda key: jax.random.split(key, self.num_chains))(keys)
        example = jax.tree.map(lambda a: a[0], self._data)
        self._by_host = isinstance(self.kernel, EnsembleKernel) and _convolves(self._model, example)
        if self._by_host:
            self.kernel = self.kernel.unrolled()
        ours = isinstance(self.kernel, EnsembleKernel)
        ensemble = ours or self.kernel.is_ensemble_kernel

        def init(item: Array, item_keys: Array, data: tuple) -> Any:
            kernel = self.kernel.for_item(item) if ours else self.kernel

            def of(key: Array) -> Any:
                return kernel.init(key, self.num_warmup, None, model_args=data, model_kwargs={})

            return of(item_keys) if ensemble else jax.vmap(of)(item_keys)

        def transition(state: Any, data: tuple) -> Any:
            def of(chain_state: Any) -> Any:
                return self.kernel.sample(chain_state, data, {})

            return of(state) if ensemble else jax.vmap(of)(state)

        def record(state: Any, data: tuple) -> dict[str, dict[str, Array]]:
            """What is kept of one item's transition: its draws and statistics per chain, and its path."""
            sites = jax.vmap(lambda z: constrain_fn(self._model, data, {}, z))(getattr(state, self.kernel.sample_field))
            statistics = _statistics(self.kernel, state)
            path = self.kernel.path(state) if ours else _library_path(statistics)
            steps = statistics.get("n_steps", jnp.zeros((), jnp.int32)).sum()
            return {
                "draw": {**_prefix("site", sites), **_prefix("stat", statistics)},
                "path": path,
                "cost": {"n": steps},
            }

        def step(states: Any, data: tuple) -> tuple[Any, dict]:
            states = jax.vmap(transition)(states, data)
            return states, jax.vmap(record)(states, data)

        traced = jax.jit(step)  # traced once, for its shapes and in the chunk

        def chunk(states: Any, data: tuple, buffer: Any, count: Array) -> tuple[Any, Any]:
            def body(k: Array, carry: tuple) -> tuple:
                states, buffer = carry
                states, kept = traced(states, data)
                return states, jax.tree.map(lambda b, r: b.at[k].set(r), buffer, kept)

            return jax.lax.fori_loop(0, count, body, (states, buffer))

        context = nullcontext() if self._by_host else compiled_loop()
        with context:
            items = jnp.arange(self.num_items)
            # It runs once, so that it is not worth the compiler's optimisation.
            once = jax.jit(jax.vmap(init), compiler_options={"xla_backend_optimization_level": 0})
            self._states = once(items, keys, self._data)
            if self._by_host:
                self._step = jax.jit(step, donate_argnums=0).lower(self._states, self._data).compile()
            else:
                shapes = jax.eval_shape(traced, self._states, self._data)[1]
                self._chunk_size = int(np.clip((self.num_warmup or 100) // 20, 1, 50))
                self._buffer = jax.tree.map(lambda s: jnp.zeros((self._chunk_size, *s.shape), s.dtype), shapes)
                lowered = jax.jit(chunk, donate_argnums=(0, 2)).lower(self._states, self._data, self._buffer, 1)
                self._chunk = lowered.compile()
        if ours:
            self.gradient_evaluations += self.num_chains * self.kernel.gradients_to_start
        self.compile_seconds += time.perf_counter() - start

    def _run(self, count: int, keep: str, bar: Any, every: int = 1) -> list[dict[str, np.ndarray]]:
        """``count`` transitions; of each ``every``-th (and the last) what ``keep`` names, as NumPy."""
        kept: list[dict[str, np.ndarray]] = []
        done = 0
        while done < count:
            size = 1 if self._by_host else min(self._chunk_size, count - done)
            if self._by_host:
                self._states, records = self._step(self._states, self._data)
                records = jax.tree.map(lambda a: a[None], records)
            else:
                self._states, self._buffer = self._chunk(self._states, self._data, self._buffer, size)
                records = self._buffer
            self.gradient_evaluations += np.asarray(records["cost"]["n"][:size], dtype=np.int64).sum(axis=0)
            chosen = [k for k in range(size) if (done + k + 1) % every == 0 or done + k + 1 == count]
            values = {name: np.asarray(value) for name, value in records[keep].items()}
            kept += [{"transition": np.asarray(done + k)} | {n: v[k].copy() for n, v in values.items()} for k in chosen]
            done += size
            bar.update(size)
            if values and keep == "path" and not bar.disable:
                shown = {n: f"{values[n][size - 1].mean():.3g}" for n in ("beta", "acceptance_rate", "lp") if n in values}
                bar.set_postfix(shown, refresh=False)
        return kept

    # --- results -----------------------------------------------------------------------------------------------

    def _groups(self, draws: dict[str, np.ndarray]) -> dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]]:
        groups: dict[str, dict] = {"posterior": {}, "sample_stats": {}, "warmup_sample_stats": {}}
        item = () if self.items is None else ("item",)
        for name, value in draws.items():
            kind, _, variable = name.partition(":")
            if kind == "site":
                value = np.moveaxis(value, 2, 0)  # (chain, draw, item, ...)
                value = value[:, :, 0] if self.items is None else value[:, :, :, 0]  # the plate of one item
                dims = _site_dims(self.items, variable, value.ndim - 2 - len(item))
                groups["posterior"][variable] = (("chain", "draw", *item, *dims), value)
            elif kind == "stat":
                value = np.moveaxis(value, 2, 0)
                groups["sample_stats"][variable] = (("chain", "draw", *item), value if item else value[:, :, 0])
        for variable in self._path[0] if self._path else ():
            value = np.stack([p[variable] for p in self._path])
            if variable == "transition":
                groups["warmup_sample_stats"][variable] = (("draw",), value)
            else:
                groups["warmup_sample_stats"][variable] = (("draw", *item), value if item else value[:, 0])
        if self.items is not None:
            groups.update({name: dict(group) for name, group in self.items.result_groups().items()})
        return groups

    def _attributes(self) -> dict[str, Any]:
        ours = isinstance(self.kernel, EnsembleKernel)
        return {
            "inference_library": "cogen" if ours else "numpyro",
            "kernel": type(self.kernel).__name__,
            "num_warmup": self.num_warmup,
            "seed": self.seed,
            "num_populations": getattr(self.kernel, "_populations", 0),
            "adapted": int(getattr(getattr(self.kernel, "step_size", None), "adapts", False)),
            "evidence_kind": getattr(self.kernel, "evidence_kind", ""),
            "gradient_evaluations": self.gradient_evaluations.tolist(),
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            **(dict(self.items.attributes) if self.items is not None else {}),
        }


def _check_counts(num_warmup: int, num_samples: int, num_chains: int) -> None:
    for name, value, least in (
        ("num_warmup", num_warmup, 0),
        ("num_samples", num_samples, 1),
        ("num_chains", num_chains, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: it must be at least {least}")


def _is_pyro(kernel: Any) -> bool:
    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    kind = factory if inspect.isclass(factory) else type(factory)
    return any(base.__module__.partition(".")[0] == "pyro" for base in kind.__mro__)


def _bind(kernel: Any, model: Callable, num_items: int) -> Any:
    if isinstance(kernel, EnsembleKernel):
        return kernel.bind(model, num_items)
    if isinstance(kernel, MCMCKernel):
        raise TypeError(
            f"this {type(kernel).__name__} was made with a model of its own: pass the class, or"
            f" functools.partial({type(kernel).__name__}, ...), and infer gives it the model"
        )
    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    if inspect.isclass(factory) and issubclass(factory, MCMCKernel):
        return kernel(model)
    raise TypeError(
        f"{kernel!r} is no kernel: pass a NumPyro or Pyro kernel class, a functools.partial of one, or one of ours, such as"
        " AnnealedHMC(num_leapfrog=10)"
    )


def _convolves(model: Callable, data: tuple) -> bool:
    def density(data: tuple) -> Array:
        target = numpyro_target(model, data)
        return target.tilt(jnp.zeros(target.dim)).sum()

    return has_convolutions(density, data)


def _statistics(kernel: Any, state: Any) -> dict[str, Array]:
    """The statistics of a state that have a chain axis, under their ArviZ names."""
    if isinstance(kernel, EnsembleKernel):
        return {name: getattr(state, name) for name in kernel.chain_fields if name not in ("z", "beta")}
    found = {}
    for name, path in _LIBRARY_FIELDS.items():
        value = state
        for attribute in path.split("."):
            value = getattr(value, attribute, None)
        if value is not None and jnp.ndim(value) == 1:
            found[name] = value
    potential = getattr(state, "potential_energy", None)
    if potential is not None:
        found["lp"] = -potential
    return found


def _library_path(statistics: Mapping[str, Array]) -> dict[str, Array]:
    names = [name for name in ("acceptance_rate", "step_size") if name in statistics]
    path = {name: statistics[name].mean() for name in names}
    if "diverging" in statistics:
        path["diverging"] = statistics["diverging"].sum()
    return path


def _prefix(kind: str, values: Mapping[str, Array]) -> dict[str, Array]:
    return {f"{kind}:{name}": value for name, value in values.items()}


def _site_dims(items: ItemModel | None, site: str, count: int) -> tuple[str, ...]:
    named = tuple(items.dims.get(site, ())) if items is not None else ()
    return named if len(named) == count else tuple(f"{site}_dim_{k}" for k in range(count))

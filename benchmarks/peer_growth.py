"""Run times by numbers of items and chains and latent size, of annealed HMC and of BlackJAX's tempered SMC with the same work.

    python benchmarks/peer_growth.py --output docs/peer_growth.json

The work is fixed: 20 temperatures with one trajectory of five leapfrog steps each, so that both compute the same gradients of
the same density. Compilation is excluded; both run in alternation, and medians are reported. Our items are run by `infer`,
block by block, including its results; BlackJAX's are run by a compiled function mapped over the items.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from blackjax.smc.base import extend_params
from blackjax.smc.resampling import systematic
from peer_samplers import Program, annealed, model_of

from cogen.inference import AnnealedHMC, Linear, Run
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.models import CoGenerator, load_generator, views
from cogen.models.networks.architectures import DenseGenerator

TEMPERATURES, LEAPFROGS, STEP = 20, 5, 0.02


def kernel(chains: int) -> AnnealedHMC:
    threshold = 0.5 if chains >= 8 else 0.0  # fewer cannot be resampled in four populations
    return AnnealedHMC(schedule=Linear(), num_leapfrog=LEAPFROGS, step_size=STEP, resample_threshold=threshold)


def tempered(seen: CoGenerator, particles: int) -> Callable:
    """BlackJAX's tempered SMC, as a function of a key and of the data of one item."""

    def run(key: jax.Array, data: Any) -> Any:
        target = numpyro_target(lambda: seen.numpyro(data))
        smc = blackjax.tempered_smc.build_kernel(
            lambda u: target.reference(u).sum(),
            lambda u: target.increment(u).sum(),
            blackjax.hmc.build_kernel(),
            blackjax.hmc.init,
            systematic,
        )
        parameters = {"step_size": STEP, "inverse_mass_matrix": jnp.ones(target.dim), "num_integration_steps": LEAPFROGS}
        start_key, key = jax.random.split(key)
        state = blackjax.tempered_smc.init(jax.vmap(target.draw)(jax.random.split(start_key, particles)))
        state = state._replace(tempering_param=jnp.float32(0.0))

        def one(k: jax.Array, state: Any) -> Any:
            return smc(jax.random.fold_in(key, k), state, 1, (k + 1.0) / TEMPERATURES, extend_params(parameters))[0]

        return jax.lax.fori_loop(0, TEMPERATURES, one, state)

    return run


def conditioned(generator: Any, items: int) -> CoGenerator:
    """Simulated items with the top half observed, with noise 0.75."""
    model = CoGenerator(
        generator, latent_dim=latent(generator), views={"seen": views.Mask(views.half((1, 28, 28), "top"), scale=0.75)}
    )
    rng = np.random.default_rng(0)
    x = model.decode(rng.standard_normal((items, model.latent_dim)).astype(np.float32))
    return model.condition(seen=x + 0.75 * rng.standard_normal(x.shape).astype(np.float32))


def latent(generator: Any) -> int:
    return generator.layers[0].in_features


def ours_by_chains(seen: CoGenerator, chains: int) -> Callable[[], float]:
    program = Program(annealed(model_of(seen), chains, TEMPERATURES, lambda _: kernel(chains)), None)
    return lambda: program(1)[1]


def ours_by_items(seen: CoGenerator, chains: int) -> Callable[[], float]:
    """A function for the seconds of `infer`, including its results but not its compilation."""

    def run() -> float:
        run = Run(seen, kernel(chains), num_warmup=TEMPERATURES, num_chains=chains, seed=0, progress=False)
        run.draw(1)
        return run.seconds - run.compile_seconds

    run()  # the first run also compiles the decoding of the draws
    return run


def theirs(seen: CoGenerator, chains: int) -> Callable[[], float]:
    data = jax.tree.map(lambda a: jnp.asarray(a)[:, None], dict(seen.item_data))
    items = jax.tree.leaves(data)[0].shape[0]
    one = tempered(seen, chains)
    mapped = jax.jit(lambda keys, data: jax.lax.map(lambda each: one(*each), (keys, data)))
    keys = jax.random.split(jax.random.key(0), items)
    compiled = mapped.lower(keys, data).compile()

    def run() -> float:
        start = time.perf_counter()
        jax.block_until_ready(compiled(keys, data))
        return time.perf_counter() - start

    run()
    return run


@dataclass
class Options:
    generator: str = "mnist"
    items: tuple[int, ...] = (1, 10, 100, 1_000)
    item_chains: int = 16
    """Chains of every item, for the numbers of items."""
    chains: tuple[int, ...] = (1, 4, 16, 64, 256, 1_024, 4_096)
    """Numbers of chains of a single item."""
    latent_sizes: tuple[int, ...] = (2, 8, 32, 128, 512)
    size_chains: int = 64
    rounds: int = 5
    """Rounds, both sides in alternation; no further rounds after 20 seconds."""
    output: Path | None = None
    """JSON file for the record; the curves are written to a PNG file with the same name."""


def main(options: Options) -> dict[str, dict[str, list[float]]]:
    torch.set_num_threads(1)
    # Every run of `infer` compiles again, which is fast with a cache.
    cache = tempfile.TemporaryDirectory()
    jax.config.update("jax_compilation_cache_dir", cache.name)
    generator = load_generator(options.generator)
    found: dict[str, dict[str, list[float]]] = {
        axis: {"size": [], "cogen": [], "BlackJAX": []} for axis in ("items", "chains", "latent size")
    }

    def add(axis: str, size: int, ours: Callable[[], float], other: Callable[[], float]) -> None:
        taken: list[tuple[float, float]] = []
        while len(taken) < options.rounds and np.sum(taken) < 20.0:
            taken.append((ours(), other()))
        seconds = np.median(taken, axis=0).tolist()
        for which, value in zip(("size", "cogen", "BlackJAX"), (size, *seconds), strict=True):
            found[axis][which].append(value)
        print(f"{axis} {size}: cogen {seconds[0]:.3f} s, BlackJAX {seconds[1]:.3f} s", flush=True)
        if options.output:  # write the results so far
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")

    for count in options.items:
        seen = conditioned(generator, count)
        add("items", count, ours_by_items(seen, options.item_chains), theirs(seen, options.item_chains))
    for count in options.chains:
        seen = conditioned(generator, 1)
        add("chains", count, ours_by_chains(seen, count), theirs(seen, count))
    for size in options.latent_sizes:
        seen = conditioned(DenseGenerator(size, (1, 28, 28)).eval(), 1)
        add("latent size", size, ours_by_chains(seen, options.size_chains), theirs(seen, options.size_chains))
    if options.output:
        draw(found, options.output.with_suffix(".png"))
    return found


def draw(found: dict[str, dict[str, list[float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.2), layout="constrained")
    for axes, (axis, curves) in zip(np.ravel(figure.subplots(1, 3)), found.items(), strict=True):
        for name, colour in (("cogen", "#1f5fa8"), ("BlackJAX", "#d9661f")):
            axes.loglog(curves["size"], curves[name], "o-", color=colour, label=name)
        axes.set(xlabel=axis, title=f"seconds against {axis}")
        every = [*curves["cogen"], *curves["BlackJAX"]]
        axes.set_ylim(0.5 * min(every), 2.0 * max(every))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("seconds, compiled")
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

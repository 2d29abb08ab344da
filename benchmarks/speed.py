"""The cost of annealed HMC, as ratios of alternating runs.

    python benchmarks/speed.py --output docs/speed.json

Each ratio is the median over rounds; in a round both sides run directly after each other, so that other load on the machine
affects both. Compilation is excluded. The targets:

    annealed HMC / bare compiled loop over the same gradients, dense generator               <= 1.05
    annealed HMC / bare series of compiled calls, convolutional generator                    <= 1.15
    annealed HMC / NumPyro's HMC, same steps, items and chains                               <= 1.05
    Pyro's HMC, chain by chain / annealed HMC, 16 chains, per gradient                       >= 10
    annealed HMC / batched eager torch, convolutional generator, per gradient                <= 1
    annealed HMC for Pyro / for NumPyro, convolutional generator                             <= 1

and memory that does not grow with the length of the warm-up.
"""

from __future__ import annotations

import functools
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
import pyro.infer
import torch
import tyro

from cogen.inference import AnnealedHMC, PyroAnnealedHMC, Run, infer
from cogen.models import CoGenerator, as_jax, load_generator, shipped_images, views


@dataclass
class Options:
    dense: str = "mnist"
    convolutional: str = "mnist_dcgan"
    items: int = 16
    chains: int = 32
    leapfrog: int = 10
    transitions: int = 20
    """Transitions per side and round."""
    rounds: int = 5
    output: Path | None = None


def conditioned(name: str, items: int) -> tuple[CoGenerator, np.ndarray]:
    generator = load_generator(name)
    shape = tuple(generator.config.event_shape)
    images = shipped_images("mnist")[0][:items]
    mask = views.Mask(views.half(shape, "top"), scale=generator.config.noise_scale)
    return CoGenerator(generator, views={"seen": mask}).condition(seen=images), images


def through_inference(seen: CoGenerator, kernel: Any, chains: int, transitions: int) -> Callable[[], object]:
    """A function that makes ``transitions`` transitions of the driver's program after the warm-up, all items in one block."""
    warmup = 20 if seen.generator.config.architecture.startswith("Dcgan") else 20 * transitions  # 20 chunks
    run = Run(seen, kernel, num_warmup=warmup, num_chains=chains, seed=0, progress=False, items_at_once=seen.num_items)
    run.draw(1)
    program, block = run.program, run.blocks[0]
    items = run.all_items.take(block.where)

    def transit() -> None:
        left = transitions
        while left:
            block.carried, _, made, _ = program.advance(block.carried, items, min(left, program.chunk_size), False)
            left -= made

    return transit


def through_pyro(seen: CoGenerator, chains: int, leapfrog: int, transitions: int) -> Callable[[], object]:
    """A function that makes as many transitions of the kernel for Pyro."""
    kernel = PyroAnnealedHMC(seen, num_chains=chains, num_leapfrog=leapfrog)
    kernel.setup(20)
    for _ in range(20):
        kernel.sample()
    return lambda: [kernel.sample() for _ in range(transitions)]


def bare(seen: CoGenerator, images: np.ndarray, chains: int, gradients: int, *, loop: bool) -> Callable[[], object]:
    """A function that computes only the same gradients: u += 1e-6 * gradient of the log joint, for all items and chains."""
    generator = as_jax(seen.generator, (seen.latent_dim,))
    mask = jnp.asarray(views.half(seen.event_shape, "top"))
    scale = float(seen.views["seen"].likelihood.scale)
    pixels = jnp.repeat(jnp.asarray(images), chains, axis=0)

    def log_joint(z: jax.Array) -> jax.Array:
        residual = jnp.where(mask, generator(z) - pixels, 0.0)
        return -0.5 * (z**2).sum() - 0.5 * (residual**2).sum() / scale**2

    def step(z: jax.Array) -> jax.Array:
        return z + 1e-6 * jax.grad(log_joint)(z)

    z = jax.random.normal(jax.random.key(0), (len(images) * chains, seen.latent_dim))
    if loop:
        compiled = jax.jit(lambda z: jax.lax.fori_loop(0, gradients, lambda _, u: step(u), z)).lower(z).compile()
        return lambda: jax.block_until_ready(compiled(z))
    once = jax.jit(step).lower(z).compile()

    def series() -> None:
        u = z
        for _ in range(gradients):
            u = once(u)
        jax.block_until_ready(u)

    return series


def eager_torch(seen: CoGenerator, images: np.ndarray, chains: int, gradients: int) -> Callable[[], object]:
    mask = torch.as_tensor(views.half(seen.event_shape, "top"))
    scale = float(seen.views["seen"].likelihood.scale)
    pixels = torch.from_numpy(images).repeat_interleave(chains, dim=0)
    start = torch.randn(len(pixels), seen.latent_dim)

    def run() -> None:
        z = start.clone()
        for _ in range(gradients):
            z.requires_grad_()
            residual = (seen.generator(z) - pixels) * mask
            energy = 0.5 * (z**2).sum() + 0.5 * (residual**2).sum() / scale**2
            z = (z - 1e-6 * torch.autograd.grad(energy, z)[0]).detach()

    return run


def ratio(one: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, list[float]]:
    """The median over rounds of time(one) / time(other), and all of them; the order alternates."""
    one(), other()
    ratios = []
    for turn in range(rounds):
        times = {}
        for name, function in (("one", one), ("other", other))[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            function()
            times[name] = time.perf_counter() - start
        ratios.append(times["one"] / times["other"])
    return float(np.median(ratios)), ratios


def pyro_seconds_per_gradient(seen: CoGenerator, leapfrog: int) -> float:
    kernel = functools.partial(
        pyro.infer.HMC, step_size=0.01, num_steps=leapfrog, adapt_step_size=False, adapt_mass_matrix=False
    )
    posterior = infer(seen, kernel, num_warmup=0, num_samples=20, num_chains=2, seed=0, progress=False)
    attributes = posterior["posterior"].attrs
    return attributes["seconds"] / float(np.sum(attributes["gradient_evaluations"]))


def more_memory(seen: CoGenerator, kernel: Any, chains: int) -> float:
    """MiB by which the peak memory of the process grows if the warm-up is twenty times as long."""

    def peak(warmup: int) -> float:
        Run(seen, kernel, num_warmup=warmup, num_chains=chains, seed=0, progress=False).draw(1)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    peak(100)
    before = peak(100)  # includes memory that the process allocates once
    return peak(2_000) - before


def main(options: Options) -> None:
    rows: dict[str, tuple[float, float, list[float]]] = {}
    print(f"{'ratio':56} {'target':>8} {'measured':>9}   range")

    def add(name: str, asked: float, measured: tuple[float, list[float]]) -> None:
        median, ratios = measured
        rows[name] = asked, median, ratios
        sign = ">=" if asked == 10.0 else "<="
        print(f"{name:56} {sign} {asked:5.2f} {median:9.2f}   {min(ratios):.2f} to {max(ratios):.2f}", flush=True)

    gradients = options.transitions * options.leapfrog
    kernel = AnnealedHMC(num_leapfrog=options.leapfrog)

    seen, images = conditioned(options.dense, options.items)
    annealed = through_inference(seen, kernel, options.chains, options.transitions)
    loop = bare(seen, images, options.chains, gradients, loop=True)
    add("annealed HMC / bare compiled loop, dense", 1.05, ratio(annealed, loop, options.rounds))
    hmc = functools.partial(
        numpyro.infer.HMC, step_size=0.01, num_steps=options.leapfrog, trajectory_length=None, adapt_step_size=False
    )
    library = through_inference(seen, hmc, options.chains, options.transitions)
    add("annealed HMC / NumPyro's HMC, dense", 1.05, ratio(annealed, library, options.rounds))

    few, _ = conditioned(options.dense, 1)
    sixteen = through_inference(few, AnnealedHMC(num_leapfrog=options.leapfrog), 16, options.transitions)
    sixteen()
    speedups = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        sixteen()
        ours = (time.perf_counter() - start) / (gradients * 16)
        speedups.append(pyro_seconds_per_gradient(few, options.leapfrog) / ours)
    add("Pyro's HMC / annealed HMC, 16 chains, per gradient", 10.0, (float(np.median(speedups)), speedups))

    seen, images = conditioned(options.convolutional, min(4, options.items))
    annealed = through_inference(seen, kernel, options.chains, options.transitions)
    series = bare(seen, images, options.chains, gradients, loop=False)
    add("annealed HMC / bare series of calls, convolutional", 1.15, ratio(annealed, series, options.rounds))
    eager = eager_torch(seen, images, options.chains, gradients)
    add("annealed HMC / eager torch, convolutional", 1.0, ratio(annealed, eager, options.rounds))

    torch_side = through_pyro(seen, options.chains, options.leapfrog, options.transitions)
    add("annealed HMC for Pyro / for NumPyro, convolutional", 1.0, ratio(torch_side, annealed, options.rounds))

    seen, _ = conditioned(options.dense, 1)
    grown = more_memory(seen, kernel, options.chains)
    print(f"twenty times the warm-up takes {grown:.1f} MiB more")
    if options.output:
        record = {name: {"asked": a, "measured": m, "rounds": r} for name, (a, m, r) in rows.items()}
        settings = {name: str(value) for name, value in vars(options).items()}
        options.output.write_text(
            json.dumps({"options": settings, "ratios": record, "more_mebibytes": grown}, indent=1) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

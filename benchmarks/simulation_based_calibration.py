"""Simulation-based calibration of several algorithms on a neural generator with two latents.

z is drawn from the prior, x = G(z), and random entries are observed with noise. The ranks of the truth among the draws of a
correct algorithm are uniform for the likelihood, for z and for a hidden entry of x, with few or many observed entries. Gradient
descent, the prior and a wrong noise level must fail, which shows the power of the test.

    python benchmarks/simulation_based_calibration.py --output docs/sbc.json --picture docs/sbc.png
"""

from __future__ import annotations

import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.infer
import tyro
import xarray as xr

from cogen.diagnostics import calibration_p_value, calibration_table, plot_rank_ecdfs, simulation_based_calibration
from cogen.inference import (
    Adaptive,
    AnnealedHMC,
    GradientDescent,
    ImportanceResampling,
    Langevin,
    ParallelTempering,
)
from cogen.models import CoGenerator, views

LEVEL = 1e-3


@dataclass
class Options:
    simulations: int = 384
    """Simulated items for each method."""
    ranks: int = 15
    """Number of draws among which a truth is ranked."""
    chains: int = 64
    """Chains of ensembles; methods with independent chains have fewer and longer ones."""
    warmup: int = 100
    """Temperatures, or transitions of adaptation or descent."""
    samples: int = 10
    noise: float = 0.5
    outputs: int = 12
    few: int = 3
    """Observed entries in the first stratum."""
    many: int = 8
    """Observed entries in the second stratum."""
    only: tuple[str, ...] = ()
    """Names of methods to run; default all."""
    seed: int = 0
    output: Path | None = None
    picture: Path | None = None


def methods(options: Options) -> dict[str, tuple[Any, dict[str, int], bool]]:
    """By name: the kernel, the counts of the run, and whether it is expected to pass."""
    ensemble = {"num_warmup": options.warmup, "num_samples": options.samples, "num_chains": options.chains}
    single = {"num_warmup": 2 * options.warmup, "num_samples": 8 * options.ranks, "num_chains": 4}
    ends = {"num_warmup": options.warmup, "num_samples": 1, "num_chains": options.ranks}
    nuts = functools.partial(numpyro.infer.NUTS, max_tree_depth=6)
    hmc = functools.partial(numpyro.infer.HMC, num_steps=8)
    return {
        "annealed HMC, 0.5": (AnnealedHMC(num_leapfrog=8, resample_threshold=0.5), ensemble, True),
        "annealed HMC, 0": (AnnealedHMC(num_leapfrog=8, resample_threshold=0.0), ensemble, True),
        "annealed HMC, adaptive": (AnnealedHMC(num_leapfrog=8, schedule=Adaptive()), ensemble, True),
        "parallel tempering": (ParallelTempering(), {**ensemble, "num_chains": 4, "num_samples": 60}, True),
        "MALA": (Langevin(), {**single, "num_chains": 8}, True),
        "NumPyro NUTS": (nuts, single, True),
        "NumPyro HMC": (hmc, single, True),
        "importance resampling": (ImportanceResampling(num_proposals=50), {**ensemble, "num_samples": 1}, True),
        "gradient descent": (GradientDescent(), ends, False),
        "the prior": (GradientDescent(step_size=1e-9), {**ends, "num_warmup": 0}, False),  # descent that does not move
        "noise x 1.5": (AnnealedHMC(num_leapfrog=8, resample_threshold=0.5), ensemble, False),
    }


def run(options: Options) -> tuple[list[dict[str, Any]], dict[str, xr.Dataset]]:
    rng = np.random.default_rng(3)
    first, shift = rng.normal(size=(2, 16)), 0.5 * rng.normal(size=16)
    second = rng.normal(size=(16, options.outputs)) / 3

    def generator(z: Any) -> Any:
        return jnp.tanh(z @ jnp.asarray(first, jnp.float32) + shift) @ jnp.asarray(second, jnp.float32)

    def build(masks: np.ndarray, factor: float = 1.0) -> CoGenerator:
        shown = views.Mask(masks, scale=factor * options.noise)
        return CoGenerator(generator, latent_dim=2, views={"visible": shown})

    def showing(count: int) -> Any:
        return lambda rng: np.isin(np.arange(options.outputs), rng.choice(options.outputs, count, replace=False))

    masks = {f"{count} shown": showing(count) for count in (options.few, options.many)}
    rows, found = [], {}
    for name, (kernel, counts, exact) in methods(options).items():
        if options.only and name not in options.only:
            continue
        start = time.perf_counter()
        found[name] = simulation_based_calibration(
            build,
            kernel,
            masks=masks,
            num_simulations=options.simulations,
            num_ranks=options.ranks,
            seed=options.seed,
            inferred=functools.partial(build, factor=1.5) if name.startswith("noise") else None,
            progress=False,
            **counts,
        )
        table = calibration_table(found[name])
        smallest = table[["chi_squared", "envelope"]].min(axis=1).groupby("quantity").min()
        p = calibration_p_value(found[name])
        rows.append(
            {
                "method": name,
                "ought_to_pass": exact,
                "passes": p > LEVEL,
                "p": p,
                **{f"p_{quantity}": float(value) for quantity, value in smallest.items()},
                "mean_rank_log_likelihood": float(table.loc[("all", "log_likelihood"), "mean_rank"]),
                **counts,
                "weight_ess": found[name].attrs["weight_ess"],
                "seconds": time.perf_counter() - start,
            }
        )
        verdict = ("passes" if p > LEVEL else "fails") + ("" if (p > LEVEL) == exact else ", AGAINST EXPECTATION")
        by_quantity = "  ".join(f"{quantity} {value:.2g}" for quantity, value in smallest.items())
        sampler = f"{counts['num_chains']} chains x ({counts['num_warmup']} + {counts['num_samples']})"
        print(f"{name:24} {sampler:22} p {p:<9.2g} {verdict}   smallest by quantity: {by_quantity}", flush=True)
    return rows, found


if __name__ == "__main__":
    options = tyro.cli(Options, description=__doc__)
    rows, found = run(options)
    if options.output:
        command = {name: str(value) for name, value in vars(options).items()}
        options.output.write_text(json.dumps({"options": command, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        plot_rank_ecdfs(found).savefig(options.picture)

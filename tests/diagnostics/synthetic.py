"""A small ArviZ object as `infer` makes it, from random numbers: no sampler runs in these tests."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import xarray as xr


def inference_data(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ArviZ announces its refactoring on import
        import arviz as az

    if az.__version__.startswith("0."):
        return az.InferenceData(**groups)
    return xr.DataTree.from_dict({f"/{name}": dataset for name, dataset in groups.items()})


def ar1(rng, coefficient, shape):
    """Stationary AR(1) chains of unit variance, time on axis 1."""
    values = rng.standard_normal(shape)
    for t in range(1, shape[1]):
        values[:, t] = coefficient * values[:, t - 1] + np.sqrt(1 - coefficient**2) * values[:, t]
    return values


def annealed_run(
    *,
    chains=16,
    draws=6,
    items=3,
    latents=4,
    populations=4,
    weights="equal",
    adapted=0,
    keep_x=False,
    side=12,
    channels=1,
    seed=0,
):
    """An annealed run over `items` images: everything as it should be, unless the caller spoils it afterwards."""
    rng = np.random.default_rng(seed)
    dims, shape = ("chain", "draw", "item"), (chains, draws, items)
    z = rng.standard_normal((*shape, latents)).astype(np.float32)
    log_weight = np.zeros((chains, items))
    if weights == "random":
        log_weight = rng.normal(0, 0.7, (chains, items))
    population = np.repeat(np.arange(populations), chains // populations)
    over_draws = lambda values: np.broadcast_to(values[:, None], shape).copy()  # noqa: E731
    log_z = -100 + rng.normal(0, 0.1, (populations, items))
    stats = {
        "acceptance_rate": rng.uniform(0.7, 0.9, shape),
        "step_size": np.full(shape, 0.1),
        "diverging": np.zeros(shape, bool),
        "lp": rng.normal(-100, 1, shape),
        "energy": rng.normal(100, 2, shape),
        "n_steps": np.full(shape, 10),
        "log_weight": over_draws(log_weight),
        "ancestor": over_draws(np.repeat(np.arange(chains)[:, None], items, axis=1)),
        "population": over_draws(np.repeat(population[:, None], items, axis=1)),
        "population_log_evidence": over_draws(np.repeat(log_z, chains // populations, axis=0)),
    }
    steps = 40
    path = {
        "beta": np.linspace(0, 1, steps)[:, None] * np.ones(items),
        "acceptance_rate": rng.uniform(0.6, 0.95, (steps, items)),
        "step_size": 0.3 * np.exp(-np.linspace(0, 2, steps))[:, None] * rng.uniform(0.8, 1.2, items),
        "weight_ess": rng.uniform(0.5, 1, (steps, items)),
        "ancestors": np.round(np.linspace(chains, chains / 3, steps))[:, None].astype(int) * np.ones(items, int),
        "diverging": np.zeros((steps, items), int),
        "log_evidence": np.linspace(0, -100, steps)[:, None] * np.ones(items),
    }
    event = ("channel", "height", "width")
    pictures = rng.uniform(-1, 1, (items, channels, side, side)).astype(np.float32)
    mask = np.zeros((items, channels, side, side), bool)
    mask[:, :, : side // 2] = True
    attrs = {
        "kernel": "AnnealedHMC",
        "num_populations": populations,
        "num_warmup": 500,
        "seed": seed,
        "gradient_evaluations": 1000,
        "seconds": 1.0,
        "compile_seconds": 1.0,
        "adapted": adapted,
        "value_range": [-1.0, 1.0],
        "evidence_kind": "annealed",
    }
    sites = {"z": ((*dims, "latent"), z)}
    if keep_x:
        sites["x"] = ((*dims, *event), rng.uniform(-1, 1, (*shape, channels, side, side)).astype(np.float32))
    coords = {"chain": np.arange(chains), "draw": np.arange(draws), "item": np.arange(items)}
    groups = {
        "posterior": xr.Dataset(sites, coords, attrs),
        "sample_stats": xr.Dataset({name: (dims, values) for name, values in stats.items()}, coords),
        "warmup_sample_stats": xr.Dataset(
            {name: (("draw", "item"), values) for name, values in path.items()},
            {"draw": np.arange(steps) * 13, "item": np.arange(items)},
        ),
        "observed_data": xr.Dataset({"visible": (("item", *event), np.where(mask, pictures, np.nan))}),
        "constant_data": xr.Dataset({"visible_mask": (("item", *event), mask)}),
        "predictions": xr.Dataset(
            {"x_mean": (("item", *event), pictures), "x_sd": (("item", *event), np.where(mask, 0.02, 0.3))}
        ),
    }
    return inference_data(groups), SimpleNamespace(truth=pictures, mask=mask, log_z=log_z)


def plain_run(*, chains=4, draws=200, items=None, seed=0, coefficient=0.3):
    """A NUTS run: of a general model (no item dimension) or of `items` images."""
    rng = np.random.default_rng(seed)
    shape = (chains, draws) if items is None else (chains, draws, items)
    dims = ("chain", "draw") if items is None else ("chain", "draw", "item")
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    if items is None:
        sites = {
            "location": (dims, 3 + ar1(rng, coefficient, shape)),
            "scale": ((*dims, "scale_dim_0"), np.exp(ar1(rng, coefficient, (*shape, 2)))),
        }
    else:
        sites = {"z": ((*dims, "latent"), ar1(rng, coefficient, (*shape, 3)))}
    stats = {
        "acceptance_rate": (dims, rng.uniform(0.75, 0.9, shape)),
        "step_size": (dims, np.full(shape, 0.3)),
        "diverging": (dims, np.zeros(shape, bool)),
        "lp": (dims, rng.normal(-10, 1, shape)),
        "energy": (dims, rng.normal(10, 1.4, shape)),
        "n_steps": (dims, np.full(shape, 7)),
    }
    attrs = {"kernel": "NUTS", "num_populations": 1, "num_warmup": 200, "seed": seed, "adapted": 1, "evidence_kind": ""}
    return inference_data({"posterior": xr.Dataset(sites, coords, attrs), "sample_stats": xr.Dataset(stats, coords)})

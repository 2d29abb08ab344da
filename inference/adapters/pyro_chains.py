"""Pyro kernels in `infer`: Pyro's own, one chain of one item at a time, and ours, all chains of all items at once.

Pyro's HMC and NUTS are scalar (a batched potential raises), so items and chains run one after another, and a run of many
items takes long. How long is measured on a few gradients and said before it starts. `PyroAnnealedHMC` holds the chain and
the item axis itself, and what comes out of it has the groups, dimensions and attributes of the JAX kernels' runs.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from cogen.inference.checkpoint import Checkpoint, pack, unpack
from cogen.inference.items import ItemModel, count_items, find_items, site_dims, take_items
from cogen.inference.predictions import predictive_groups
from cogen.inference.results import check_names, to_arviz, warn_of_nonfinite
from cogen.inference.seeds import torch_seed
from cogen.inference.targets.model_checks import check_starts
from cogen.inference.warmup_path import WarmupPath


def infer_with_pyro(
    model: Callable,
    kernel: Any,
    *,
    num_warmup: int,
    num_samples: int,
    num_chains: int,
    seed: int,
    progress: bool,
    keep_x: bool,
    before: Any = 0,
    checkpoint: Checkpoint | None = None,
) -> Any:
    """`infer` for a Pyro kernel class, a ``functools.partial`` of one, or a `PyroAnnealedHMC` without a model; ``before`` are
    gradient evaluations of its pilot."""
    import torch

    from cogen.inference.torch.model_checks import ProperUnobserved, check_pyro_model

    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    items = find_items(model)
    ours = _ours(kernel)
    if ours is None and not isinstance(factory, type):
        raise TypeError(
            f"this {type(factory).__name__} was made with a model of its own: pass the class, or"
            f" functools.partial({type(factory).__name__}, ...), and infer gives it the model"
        )
    if items is not None:
        check_names(items.dims, ("chain", "draw", "item"))
    elif ours is None:
        check_pyro_model(model)
    if ours is not None:
        _check_checkpoint(ours, checkpoint)
        rest = {"progress": progress, "keep_x": keep_x, "before": before, "checkpoint": checkpoint}
        return _infer_vectorised(ours.bind(model, num_chains), num_warmup, num_samples, seed=seed, **rest)
    _check_checkpoint(kernel, checkpoint)
    if items is not None and not items.item_data:
        raise ValueError("nothing is observed: condition the model first, as in model.condition(visible=pixels)")
    slices: list[Any] = [None]
    if items is not None:
        slices = [take_items(items.item_data, slice(k, k + 1)) for k in range(count_items(items.item_data))]
    proper = ProperUnobserved()(model)
    target = (lambda data: items(data)) if items is not None else (lambda data: proper())
    start = time.perf_counter()
    runs = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(seed))
        per_gradient = _seconds_per_gradient(target, slices[0])
        total = (num_warmup + num_samples) * num_chains * len(slices)
        if progress:
            _announce(factory.__name__, kernel, total, len(slices), num_chains, per_gradient)
        with tqdm(total=total, disable=not progress, unit="transition") as bar:
            for index, data in enumerate(slices):
                for chain in range(num_chains):
                    torch.manual_seed(int(np.random.SeedSequence([seed, index, chain]).generate_state(1)[0]))
                    runs.append(_chain(kernel, target, data, num_warmup, num_samples, bar))
    groups = _groups(items, runs, num_chains)
    if items is not None:
        groups.update(predictive_groups(items, groups, keep_x=keep_x, seed=seed))
    gradients = np.array([run["gradients"] for run in runs]).reshape(-1, num_chains).sum(axis=1)
    attributes = {
        "inference_library": "pyro",
        "kernel": factory.__name__,
        "num_warmup": num_warmup,
        "seed": seed,
        "num_populations": 0,
        "adapted": 0,
        "evidence_kind": "",
        "gradient_evaluations": gradients.tolist(),
        "seconds": time.perf_counter() - start,
        "compile_seconds": 0.0,
        **(dict(items.attributes) if items is not None else {}),
    }
    return to_arviz(groups, attributes)


def after_pilot(model: Callable, kernel: Any, **options: Any) -> tuple[Any, np.ndarray]:
    """A `PyroAnnealedHMC` with what a pilot run adapted, and the pilot's gradient evaluations by item."""
    from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC

    ours = _ours(kernel)
    if not isinstance(ours, PyroAnnealedHMC):
        raise ValueError("pilot= needs one of our kernels that adapts, such as PyroAnnealedHMC()")
    pilot = infer_with_pyro(model, ours, num_samples=1, keep_x=False, **options)
    return ours.frozen(pilot), np.array(pilot["posterior"].attrs["gradient_evaluations"])


def _check_checkpoint(kernel: Any, checkpoint: Checkpoint | None) -> None:
    from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC

    if checkpoint is not None and not isinstance(kernel, PyroAnnealedHMC):
        raise ValueError("checkpoint= needs PyroAnnealedHMC or a NumPyro kernel; this run could not be taken up again")


def _ours(kernel: Any) -> Any:
    """The recipe, where the kernel holds all chains of all items: one of ours, a class of ours, or a ``functools.partial``."""
    from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC
    from cogen.inference.torch.variational import PyroSVI

    factory = kernel.func if isinstance(kernel, functools.partial) else kernel
    if isinstance(factory, type) and issubclass(factory, PyroAnnealedHMC):
        return kernel()
    return kernel if isinstance(kernel, PyroAnnealedHMC | PyroSVI) else None


def _infer_vectorised(
    kernel: Any,
    num_warmup: int,
    num_samples: int,
    *,
    seed: int,
    progress: bool,
    keep_x: bool,
    before: Any,
    checkpoint: Checkpoint | None,
) -> Any:
    """A run of a kernel that holds all chains of all items."""
    import torch

    from cogen.inference.torch.checkpoint import identity, restore, to_arrays

    start = time.perf_counter()
    draws: list[dict[str, np.ndarray]] = []
    with (
        torch.random.fork_rng(devices=[]),
        tqdm(total=num_warmup + num_samples, disable=not progress, unit="transition", desc="warm-up") as bar,
    ):
        torch.manual_seed(torch_seed(seed))
        kernel.setup(num_warmup)
        path = WarmupPath(kernel.ladder_statistics)
        items = kernel.target.items
        if kernel.starts_at_density:
            lost = ~kernel.statistics()["lp"].isfinite().any(0).numpy(force=True)
            check_starts(np.flatnonzero(lost), kernel.num_chains, items is not None)
        gradients = kernel.cost
        if checkpoint is not None:
            counts = {"seed": seed, "num_warmup": num_warmup, "num_samples": num_samples}
            checkpoint.open({"kernel": type(kernel).__name__, **counts, **identity(kernel)})
            if (arrays := checkpoint.load(0)) is not None:
                state, path, draws = unpack(arrays)
                restore(kernel, state)
                gradients = torch.from_numpy(arrays["gradients"])
                bar.update(path.asked + len(draws))
        while len(draws) < num_samples:
            warming = kernel.state.i < num_warmup
            if warming and kernel.warmed_up:
                bar.update(num_warmup - kernel.state.i)
                kernel.end_warmup()
                continue
            sites = kernel.sample()
            gradients = gradients + kernel.cost
            bar.update(1)
            bar.set_postfix(kernel.logging(), refresh=False)
            if warming:
                path.extend({name: value[None] for name, value in _numpy(kernel.path()).items()}, 1)
            else:
                bar.set_description("draws", refresh=False)
                kept = {"site": _numpy(sites), "stat": _numpy(kernel.statistics())}
                draws.append({f"{kind}:{name}": value for kind, values in kept.items() for name, value in values.items()})
            if checkpoint is not None and (len(draws) == num_samples or checkpoint.due()):
                more = {"gradients": gradients.numpy(force=True)}
                checkpoint.save(0, pack(to_arrays(kernel), path, draws, **more))
    if (nonfinite := kernel.statistics().get("nonfinite")) is not None:
        warn_of_nonfinite(nonfinite.sum(0).numpy(force=True), items is not None, stacklevel=5)
    lead = ("chain", "draw") if items is None else ("chain", "draw", "item")
    posterior = {}
    statistics = {}
    for key in draws[0]:
        kind, _, name = key.partition(":")
        values = np.stack([draw[key] for draw in draws], axis=1)  # (chain, draw, [item,] ...); statistics have the item
        if kind == "site":
            posterior[name] = ((*lead, *site_dims(items, name, values.ndim - len(lead))), values)
        else:
            statistics[name] = (lead, values if items is not None else values[..., 0])
    warmup = {}
    for name in path.points[0]:
        values = np.stack([point[name] for point in path.points])
        if name == "transition":
            warmup[name] = (("draw",), values)
        else:
            warmup[name] = (("draw", *lead[2:]), values if items is not None else values[:, 0])
    for name, values in path.ladder().items():
        warmup[f"ladder_{name}"] = (("warmup_transition", *lead[2:]), values if items is not None else values[:, 0])
    groups = {"posterior": posterior, "sample_stats": statistics, "warmup_sample_stats": warmup}
    if items is not None:
        groups.update({name: dict(group) for name, group in items.result_groups().items()})
        groups.update(predictive_groups(items, groups, keep_x=keep_x, seed=seed))
    attributes = {
        "inference_library": "cogen",
        "kernel": type(kernel).__name__,
        "num_warmup": num_warmup,
        "seed": seed,
        "num_populations": kernel.num_populations_used,
        "adapted": int(kernel.adapts),
        "evidence_kind": kernel.evidence_kind,
        "gradient_evaluations": (gradients.numpy(force=True) + before).tolist(),
        "moves_per_temperature": kernel.moves_per_temperature,
        "seconds": time.perf_counter() - start,
        "compile_seconds": 0.0,
        **(dict(items.attributes) if items is not None else {}),
    }
    return to_arviz(groups, attributes)


def _numpy(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: tensor.numpy(force=True) for name, tensor in tensors.items()}


def _seconds_per_gradient(target: Callable, data: Any, repeats: int = 5) -> float:
    from pyro.infer.mcmc.util import initialize_model

    init, potential, _, _ = initialize_model(target, model_args=(data,))
    init = {name: value.detach().requires_grad_() for name, value in init.items()}
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        potential(init).backward()
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _announce(name: str, kernel: Any, total: int, items: int, chains: int, per_gradient: float) -> None:
    options = getattr(kernel, "keywords", {})
    steps = options.get("num_steps") or max(1, round(options.get("trajectory_length", 10.0) / options.get("step_size", 1.0)))
    most = f"at {steps} gradients a transition" + (" (a NUTS tree may take up to 1,023)" if name == "NUTS" else "")
    most += "; adaptation changes that number"
    tqdm.write(
        f"Pyro's {name} runs {items} x {chains} chains one after another: {total:,} transitions at"
        f" {1e3 * per_gradient:.1f} ms a gradient, about {total * steps * per_gradient / 60:.1f} minutes {most}"
    )


def _chain(kernel: Any, target: Callable, data: Any, num_warmup: int, num_samples: int, bar: Any) -> dict[str, Any]:
    """One chain of one item, with the statistics that Pyro's HMC keeps."""
    from pyro.infer import MCMC

    rates: list[float] = []
    diverged: list[int] = []
    log_densities: list[float] = []
    gradients = 0

    def counted(data: Any) -> Any:
        nonlocal gradients
        gradients += 1
        return target(data)

    def hook(running: Any, parameters: Any, stage: str, i: int) -> None:
        bar.update(1)
        if stage == "Warmup":
            return
        rates.append(float(getattr(running, "_mean_accept_prob", np.nan)))
        diverged.append(len(getattr(running, "_divergences", ())))
        potential = getattr(running, "_potential_energy_last", None)
        log_densities.append(np.nan if potential is None else -float(potential))

    bound = kernel(counted)
    mcmc = MCMC(bound, num_samples=num_samples, warmup_steps=num_warmup, disable_progbar=True, hook_fn=hook)
    mcmc.run(data)
    return {
        "sites": {name: value[0].cpu().numpy() for name, value in mcmc.get_samples(group_by_chain=True).items()},
        "diverging": np.diff(diverged, prepend=0) > 0,
        "acceptance_rate": np.array(rates, dtype=np.float32),
        "lp": np.array(log_densities, dtype=np.float32),
        "step_size": np.full(num_samples, float(getattr(bound, "step_size", np.nan)), dtype=np.float32),
        "gradients": gradients,
    }


def _groups(items: ItemModel | None, runs: list[dict[str, Any]], num_chains: int) -> dict[str, dict]:
    """Runs in the order (item, chain) to groups with the dims (chain, draw, item, ...)."""
    lead = ("chain", "draw") if items is None else ("chain", "draw", "item")

    def gather(values: list[np.ndarray]) -> np.ndarray:
        array = np.stack(values).reshape(-1, num_chains, *values[0].shape)  # (item, chain, draw, ...)
        array = np.moveaxis(array, 0, 2)
        return array if items is not None else array[:, :, 0]

    posterior = {}
    for name in runs[0]["sites"]:
        values = gather([run["sites"][name] for run in runs])
        if items is not None:
            values = values.squeeze(3) if values.shape[3] == 1 else values
        posterior[name] = ((*lead, *site_dims(items, name, values.ndim - len(lead))), values)
    statistics = {
        name: (lead, gather([run[name] for run in runs])) for name in ("acceptance_rate", "lp", "step_size", "diverging")
    }
    groups = {"posterior": posterior, "sample_stats": statistics}
    if items is not None:
        groups.update({name: dict(group) for name, group in items.result_groups().items()})
    return groups

"""`infer`: a `Run` in one call, with its pilot, in jobs, and once a class where a class is unknown."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from cogen.inference.checkpoint import Checkpoint
from cogen.inference.executors.jobs import Executor, infer_in_jobs
from cogen.inference.items import find_items
from cogen.inference.run import Run
from cogen.inference.unknown_contexts import expand_unknown, fold


def infer(
    model: Callable,
    kernel: Any,
    *,
    num_warmup: int = 500,
    num_samples: int = 100,
    num_chains: int = 16,
    seed: int,
    progress: bool = True,
    keep_x: bool = False,
    pilot: int = 0,
    start: Mapping[str, Any] | None = None,
    checkpoint: str | os.PathLike | Checkpoint | None = None,
    items_at_once: int | None = None,
    executor: Executor | None = None,
) -> Any:
    """Draw from the posterior of a conditioned model and return an ArviZ object: a `Run`, its pilot and its draws.

    A class that is unknown and declared "exact" is inferred by one run a class (`cogen.inference.unknown_contexts`).

    :param pilot: chains of a pilot run, which adapts; its step sizes (and, with `Adaptive`, its inverse temperatures) are
        then frozen for the run itself, whose evidence is unbiased (but for ``bridge=True``). 0: no pilot.
    :param keep_x: keep x = G(z) and posterior predictive draws of every view; otherwise only the mean and standard
        deviation of x per item (group ``predictions``).
    :param checkpoint: a folder (or a `Checkpoint`): a run that was killed goes on from there when it is called again.
    :param executor: what runs the items in jobs: `InProcess`, `RayExecutor` or `DeviceMesh` (`cogen.inference.executors`). A
        job's result is a file in the ``checkpoint`` folder, and the arrays returned are read from these files when they are
        used; without a folder they are in memory. Latents and weights are kept, and no x: ``keep_x`` is refused.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x); ``["posterior"]["z"]`` has the dims (chain,
        draw, item, latent). A model that is one item has no item dimension.

    The other parameters, and what is raised and warned of, are those of `Run`.
    """
    if pilot < 0:
        raise ValueError(f"pilot={pilot}: the number of the pilot's chains, 0 for none")
    if executor is not None and keep_x:
        raise ValueError("keep_x=True with an executor: z and the weights are kept, and model.decode(z) makes x when needed")
    items = find_items(model)
    expansion = expand_unknown(items)
    if expansion is not None:
        items = expansion.model
    run = Run(
        model if items is None else items,
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        seed=seed,
        progress=progress,
        start=start,
        items_at_once=items_at_once,
    )
    if expansion is not None:
        expansion.check(run.program)
    store = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    if executor is not None:
        posterior = infer_in_jobs(run, executor, pilot=pilot, store=store)
    else:
        if pilot:
            run.pilot(pilot, checkpoint=store and store.part("pilot"))
        posterior = run.draw(keep_x=keep_x, checkpoint=store)
    return posterior if expansion is None else fold(posterior, expansion, run.seed)

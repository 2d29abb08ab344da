"""`infer`: a `Run` in one call, optionally with a pilot, in jobs, or with unknown classes."""

from __future__ import annotations

import os
from collections.abc import Mapping

from cogen.inference.checkpoint import Checkpoint
from cogen.inference.executors.jobs import Executor, infer_in_jobs
from cogen.inference.items import find_items
from cogen.inference.programs import Sampler
from cogen.inference.run import Run
from cogen.inference.signatures import ArrayLike, ArvizObject, Model
from cogen.inference.unknown_contexts import expand_unknown, fold


def infer(
    model: Model,
    kernel: Sampler,
    *,
    num_warmup: int = 500,
    num_samples: int = 100,
    num_chains: int = 16,
    seed: int,
    progress: bool = True,
    keep_x: bool = False,
    pilot: int = 0,
    start: Mapping[str, ArrayLike] | None = None,
    checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
    items_at_once: int | None = None,
    executor: Executor | None = None,
    keep_warmup: int = 0,
) -> ArvizObject:
    """Draw from the posterior of a conditioned model, by a `Run` with an optional pilot.

    A class that is unknown and declared "exact" is inferred by one run per class (`cogen.inference.unknown_contexts`). The
    other parameters, errors and warnings are those of `Run`.

    :param pilot: chains of an adaptive pilot run, whose step sizes (and, with `Adaptive`, inverse temperatures) are then
        frozen for the run itself, so that its evidence is unbiased (except with ``bridge=True``). 0: no pilot.
    :param keep_x: keep x = G(z) and posterior predictive draws of every view; otherwise only the mean and standard
        deviation of x per item (group ``predictions``).
    :param checkpoint: a folder (or a `Checkpoint`); the same call resumes an interrupted run from it.
    :param executor: runs the items in jobs: `InProcess`, `RayExecutor` or `DeviceMesh` (`cogen.inference.executors`). Each
        job writes a file to the ``checkpoint`` folder, from which the returned arrays are read lazily; without a folder they
        are in memory. Latents and weights are kept, but not x: ``keep_x`` is not available.
    :returns: ``arviz.InferenceData`` (ArviZ 0.x) or ``xarray.DataTree`` (1.x); ``["posterior"]["z"]`` has the dims (chain,
        draw, item, latent). A model that is one item has no item dimension.
    """
    if pilot < 0:
        raise ValueError(f"pilot={pilot}: the number of chains of the pilot must not be negative (0: no pilot)")
    if executor is not None and keep_x:
        raise ValueError("keep_x=True with an executor: only z and the weights are kept; compute x by model.decode(z)")
    items = find_items(model)
    expansion = expand_unknown(items)
    if expansion is not None:
        if keep_warmup:
            raise ValueError(f"keep_warmup={keep_warmup}: positions of a warm-up are not kept where a class is unknown")
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
        keep_warmup=keep_warmup,
    )
    if expansion is not None:
        expansion.check(run.program, run.kernel)
    store = Checkpoint(checkpoint) if isinstance(checkpoint, str | os.PathLike) else checkpoint
    if executor is not None:
        posterior = infer_in_jobs(run, executor, pilot=pilot, store=store)
    else:
        if pilot:
            run.pilot(pilot, checkpoint=store and store.part("pilot"))
        posterior = run.draw(keep_x=keep_x, checkpoint=store)
    return posterior if expansion is None else fold(posterior, expansion, run.seed)

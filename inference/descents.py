"""Descents as a function: where Adam ends, item by item, as values from which chains can start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cogen.inference.kernels.gradient_descent import GradientDescent
from cogen.inference.run import Run


def descend(
    model: Callable,
    *,
    num_steps: int,
    seed: int,
    num_chains: int = 16,
    progress: bool = True,
    items_at_once: int | None = None,
    **settings: Any,
) -> dict[str, np.ndarray]:
    """Follow Adam from draws of the prior, for every item of a conditioned NumPyro model.

    :param num_steps: steps of Adam, >= 1.
    :param settings: those of `GradientDescent`: step_size, best_of, prior.
    :returns: the end points of the descents, values of the latent sites by name: (chain, item, *shape), without the item
        axis for a model that is one item; what ``start=`` of `infer` and `Run` takes.

    Raises ValueError for counts and settings out of range. The other parameters are those of `Run`.

    >>> import numpyro, numpyro.distributions as dist
    >>> from cogen.inference import Langevin, descend, infer
    >>> def model():
    ...     z = numpyro.sample("z", dist.Normal(0, 1))
    ...     numpyro.sample("y", dist.Normal(z, 1), obs=2.0)
    >>> modes = descend(model, num_steps=500, num_chains=4, prior=True, seed=0, progress=False)
    >>> modes["z"].round(2)
    array([1., 1., 1., 1.], dtype=float32)
    >>> posterior = infer(model, Langevin(), num_chains=4, start=modes, seed=0, progress=False)
    """
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps}: it must be at least 1")
    options: dict[str, Any] = {"num_chains": num_chains, "seed": seed, "progress": progress, "items_at_once": items_at_once}
    run = Run(model, GradientDescent(**settings), num_warmup=num_steps - 1, **options)
    ends = run.draw(1)["posterior"]
    latent = run.over_items(lambda target, state: target.sites(state.position[0]))
    return {name: ends[name].values[:, 0] for name in latent}

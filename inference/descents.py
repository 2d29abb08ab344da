"""Gradient descent as a function: the end points of Adam for every item, from which chains can start."""

from __future__ import annotations

from typing import Any

import numpy as np

from cogen.inference.kernels.gradient_descent import DescentState, GradientDescent
from cogen.inference.results import dataset
from cogen.inference.run import Run
from cogen.inference.signatures import Model
from cogen.inference.targets.target import Sites, Target


def descend(
    model: Model,
    *,
    num_steps: int,
    seed: int,
    num_chains: int = 16,
    progress: bool = True,
    items_at_once: int | None = None,
    **settings: object,
) -> dict[str, np.ndarray]:
    """Run Adam from draws of the prior, for every item of a conditioned NumPyro model.

    The other parameters are those of `Run`.

    :param num_steps: steps of Adam, >= 1.
    :param settings: the settings of `GradientDescent`: step_size, best_of, prior.
    :returns: the end points as values of the latent sites by name, (chain, item, *shape), without the item axis for a model
        that is one item; the form of ``start=`` of `infer` and `Run`.
    :raises ValueError: for counts and settings out of range.

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
    run = Run(model, GradientDescent(None, **settings), num_warmup=num_steps - 1, **options)
    ends = dataset(run.draw(1), "posterior")

    def first_end(target: Target, state: DescentState) -> Sites:
        return target.sites(state.position[0])

    latent = run.over_items(first_end)
    return {name: ends[name].values[:, 0] for name in latent}

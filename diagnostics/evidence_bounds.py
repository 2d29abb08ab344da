"""Bidirectional Monte Carlo: lower and upper bounds of the evidence of simulated data.

For simulated data an exact posterior draw is known: the latent from which they were simulated. The forward run estimates
log p(y) from below, a run conditioned on the exact draw (``AnnealedHMC(around=...)``) from above:

    E[log Zhat_forward] <= log p(y) <= E[log Zhat_conditional].

With P populations, each with its own estimate, lower = log mean_p Zhat_p and upper = -log mean_p (1 / Zhat_p); standard errors
by the delta method. The expected gap bounds the error of both.

    Grosse, Ghahramani and Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte Carlo;
    Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo, Eqs. 3-5.

An upper bound needs an exact posterior draw, which is known only for simulated data. Bounds of simulated
images do not carry over to real ones, which the generator cannot produce exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.evidence import log_evidence, population_estimates
from cogen.diagnostics.groups import attributes
from cogen.diagnostics.report import distinct_ancestors
from cogen.diagnostics.weights import pareto_k, weight_ess
from cogen.inference.signatures import ArrayLike, Model

if TYPE_CHECKING:
    from cogen.inference import AnnealedHMC, BlockGibbs
    from cogen.inference.items import ItemModel


def simulate(model: Model, num_items: int, *, seed: int) -> tuple[ItemModel, dict[str, np.ndarray]]:
    """Simulate items from a ``CoGenerator``.

    :param num_items: at least 1; the number of items of the contexts, if contexts are given.
    :param seed: of the latents and of the noise.
    :returns: the model conditioned on all views of new x = G(z), and the latents z of these.
    :raises TypeError: for a model without items.
    :raises ValueError: for a number of items below 1, or other than that of the given contexts.
    """
    from cogen.inference.items import CONTEXT, context_rows, count_items, find_items

    items = find_items(model)
    if items is None:
        raise TypeError(
            f"{type(model).__name__} has no items: simulate its data yourself, and pass the latents to evidence_bounds"
        )
    if num_items < 1:
        raise ValueError(f"num_items={num_items}: at least one is needed")
    given = {CONTEXT: items.item_data[CONTEXT]} if CONTEXT in items.item_data else {}
    if given and count_items(given) != num_items:
        raise ValueError(f"num_items={num_items}: contexts are given for {count_items(given)} items; set num_items to this")
    sites = prior_draws(items, given, num_items, seed=seed)
    context = context_rows(items, sites, np.arange(num_items))
    data = items.simulate(items.decode(sites["z"], **context), {**sites, **context}, seed=seed)
    return items.condition(**data), {name: value for name, value in sites.items() if name not in data}


def prior_draws(items: ItemModel, data: Mapping[str, Any], num_items: int, *, seed: int) -> dict[str, np.ndarray]:
    """Draw the random sites of ``num_items`` items from the model, (item, ...) each.

    :param data: in the form of `ItemModel.item_data`: contexts, on which the draws depend, and views, which are not drawn.
    """
    from numpyro import handlers

    from cogen.inference.items import items_apart
    from cogen.inference.seeds import run_key

    with items_apart():
        trace = handlers.trace(handlers.seed(items.numpyro, run_key(seed))).get_trace(data, num_items=num_items)
    return {n: np.asarray(s["value"]) for n, s in trace.items() if s["type"] == "sample" and not s["is_observed"]}


def evidence_bounds(
    model: Model,
    kernel: AnnealedHMC | BlockGibbs,
    truth: Mapping[str, ArrayLike],
    *,
    num_warmup: int,
    num_chains: int,
    seed: int,
    pilot: int = 0,
    progress: bool = True,
    items_at_once: int | None = None,
) -> xr.Dataset:
    """Bounds of log p(y), in nats, of simulated data.

    :param model: conditioned on data that were simulated from it, as by `simulate`.
    :param kernel: an `AnnealedHMC` or a `BlockGibbs` made without a model.
    :param truth: the latents from which the data were simulated, by site, constrained, with the item axis first if the model
        has items.
    :param num_warmup, num_chains, seed, progress, items_at_once: as in `infer`.
    :param pilot: chains of a pilot run that adapts step sizes and inverse temperatures; required for a kernel that adapts.
    :returns: a Dataset with, per item, ``lower``, ``upper``, their ``lower_se`` and ``upper_se``, ``gap`` = upper - lower, and
        of the forward run ``spread`` (of its populations), ``weight_ess``, ``pareto_k``, ``ancestors``; the attributes are the
        settings and the ``gradient_evaluations`` of all runs.
    :raises ValueError: for latents that do not match the model, and for a kernel that adapts without a pilot.
    """
    from cogen.inference import Run, infer

    if kernel.adapts and not pilot:
        raise ValueError(
            "this kernel adapts as it runs, which biases both bounds: set pilot=, the number of chains of a pilot run"
        )
    exact = _positions(model, kernel, truth)
    kernel.settings.check_bounds()
    options: dict[str, Any] = {"num_warmup": num_warmup, "progress": progress, "items_at_once": items_at_once}
    gradients = 0
    if pilot:
        first = Run(model, kernel, num_chains=num_chains, seed=seed, **options)
        kernel = kernel.frozen(first.pilot(pilot))
        gradients = int(first.gradient_evaluations.sum())
    forward = infer(model, kernel, num_samples=1, num_chains=num_chains, seed=seed, **options)
    backward = infer(model, kernel.replace(around=exact), num_samples=1, num_chains=num_chains, seed=seed + 2, **options)
    gradients += sum(int(attributes(one)["gradient_evaluations"]) for one in (forward, backward))
    below, above = log_evidence(forward), population_estimates(backward)
    share: xr.DataArray = np.exp(above.min("population") - above)  # type: ignore[assignment]  # 1 / Zhat over the largest
    count = above.sizes["population"]
    upper = above.min("population") - np.log(share.mean("population"))
    error = share.std("population", ddof=1) / (np.sqrt(count) * share.mean("population")) if count > 1 else np.nan * upper
    return xr.Dataset(
        {
            "lower": below["estimate"],
            "lower_se": below["standard_error"],
            "upper": upper,
            "upper_se": error,
            "gap": upper - below["estimate"],
            "spread": below["spread"],
            "weight_ess": weight_ess(forward),
            "pareto_k": pareto_k(forward),
            "ancestors": distinct_ancestors(forward),
        },
        attrs={
            "num_populations": count,
            "num_chains": num_chains,
            "num_warmup": num_warmup,
            "gradient_evaluations": gradients,
            "kind": "simulated data",
        },
    )


def _positions(model: Model, kernel: AnnealedHMC | BlockGibbs, truth: Mapping[str, ArrayLike]) -> np.ndarray:
    """Constrained latents as coordinates of the kernel's target, (item, dim)."""
    import jax

    from cogen.inference.items import find_items

    items = find_items(model)
    if items is None:
        return np.asarray(kernel.position(model, (), {name: np.asarray(value) for name, value in truth.items()}))[None]
    data = jax.tree.map(lambda a: np.asarray(a)[:, None], dict(items.item_data))
    counts = {name: len(np.asarray(value)) for name, value in truth.items()}
    wanted = len(jax.tree.leaves(data)[0])
    if set(counts.values()) != {wanted}:
        raise ValueError(
            f"truth has {counts} items by site, the model is conditioned on {wanted}: give the latents of all items"
        )
    values = {name: np.asarray(value)[:, None] for name, value in truth.items()}
    return np.asarray(jax.vmap(lambda v, item: kernel.position(items.numpyro, (item,), v))(values, data))

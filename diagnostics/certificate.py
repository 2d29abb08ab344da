"""A certificate for each real item: does the generator fit, and have the chains converged?

The latent of a real item is unknown. Three numbers compare the item with simulations of the model:

    predictive p    P( T(y_rep, z) >= T(y, z) | y ),   T = -log p(y | z) of the seen part, y_rep ~ p(y | z), z ~ p(z | y)
    evidence rank   #{ j: log Zhat(y_j) < log Zhat(y) },   y_1, ..., y_N ~ p(y), with the item's mask
    gap             upper - lower bound of log p(y*),   y* ~ p(y | z*), z* ~ p(z | y): a neighbour, with the item's mask

*The rank* is Box's prior predictive p-value with log p(y) as the statistic. The item and the N simulated items are inferred by
the same kernel in the same run. Under the model they are therefore exchangeable, and the rank is uniform on 0, ..., N, however
imprecise the estimates are. *The predictive p* is conservative, since the draws depend on the data. Both are two-sided: if the
noise scale is too large, real data fit too well. *The gap* bounds the symmetric divergence between the posterior and the
distribution of the annealed draws.

Departure from Grosse, Ancha and Roy: their latents come from the prior and are exact draws of p(z | y*); a neighbour's z*
depends on y as well. The neighbour lies in the region of the real item's posterior, but the upper bound holds only as far as
the annealing path forgets its starting point. And a real item that the generator cannot produce may be harder than its
neighbours.

References:
    Box (1980), Sampling and Bayes' inference in scientific modelling and robustness, section 2.
    Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness via realized discrepancies.
    Grosse, Ancha and Roy (2016), Measuring the reliability of MCMC inference with bidirectional Monte Carlo, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from cogen.diagnostics.evidence import log_evidence
from cogen.diagnostics.evidence_bounds import evidence_bounds, prior_draws
from cogen.diagnostics.groups import all_groups, assemble, attributes, group, item_labels
from cogen.diagnostics.simulation_based_calibration import log_likelihood_of
from cogen.diagnostics.thinning import pick_draws, take_draws
from cogen.inference.signatures import ArvizObject, Model

if TYPE_CHECKING:
    from cogen.inference import AnnealedHMC
    from cogen.inference.items import ItemModel

GROUP = "certificate"
"""The group of an ArviZ object where `with_certificate` stores the table."""

CHANCE = 0.025
"""False alarm rate per item of the rank; the predictive p has at most this one, so a correct generator is rejected at most once
in twenty."""

LARGE_GAP = 1.0
"""Largest acceptable gap in nats, as `EVIDENCE_SPREAD` of `cogen.diagnostics.diagnosis`."""

MISFIT, NOT_ARRIVED, NOTHING = "the generator does not fit", "the chains have not converged", "nothing found"


def certify(
    seen: Model,
    posterior: ArvizObject,
    kernel: AnnealedHMC | Callable[[ItemModel], AnnealedHMC],
    *,
    num_warmup: int,
    num_chains: int,
    seed: int,
    pilot: int = 0,
    num_simulations: int = 79,
    num_neighbours: int = 1,
    num_replicates: int = 400,
    items_at_once: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Certify every item of a run. The module describes the numbers and their limits.

    The gradients are those of weighted runs (with their pilots) of all items, of ``num_simulations`` further items for every
    different mask and context, and, twice, of ``num_neighbours`` items per item.

    :param seen: the conditioned model of items that `infer` took.
    :param posterior: what `infer` returned, with any kernel: its draws are checked, and the neighbours are drawn from it.
    :param kernel: the kernel whose evidence is compared: a weighted `AnnealedHMC` made without a model; or, if it starts from a
        guide of its items, a function from a conditioned model to one.
    :param num_warmup, num_chains, seed, items_at_once, progress: of these runs, as in `infer`.
    :param pilot: chains of the pilot runs; required for a kernel that adapts.
    :param num_simulations: N, at least 1. Below 79 the rank alone is never extreme enough for a verdict.
    :param num_neighbours: at least 1 per item.
    :param num_replicates: simulated y_rep per item, at least 1, from as many different draws as possible.
    :returns: a Dataset of items: ``predictive_p`` and its two-sided ``predictive_tail``; ``log_evidence``, ``log_evidence_se``,
        ``evidence_rank`` (0 to N) and its two-sided ``evidence_tail``; ``gap`` in nats (mean over neighbours) and ``gap_se``;
        and the ``verdict``: "the generator does not fit" where a tail is at most `CHANCE`, "the chains have not converged"
        where the gap exceeds `LARGE_GAP` by two standard errors, both, or "nothing found". The attributes are the settings and
        ``gradient_evaluations``.
    :raises TypeError: for a model without items, or whose items cannot be replaced by others.
    :raises ValueError: for counts out of range, a posterior with another number of items, a kernel without weights or bounds,
        and one that adapts without a pilot.
    """
    from cogen.inference import infer
    from cogen.inference.items import count_items, find_items, take_items

    items: Any = find_items(seen)
    if items is None or not hasattr(items, "of_items"):
        raise TypeError(f"{type(seen).__name__}: a certificate needs a conditioned model of items, such as a CoGenerator")
    counts = {"num_simulations": num_simulations, "num_neighbours": num_neighbours, "num_replicates": num_replicates}
    if wrong := [f"{name}={value}" for name, value in counts.items() if value < 1]:
        raise ValueError(f"{', '.join(wrong)}: at least 1 is needed")
    labels, count = item_labels(posterior), count_items(items.item_data)
    if "item" not in group(posterior, "posterior").dims or len(labels) != count:
        raise ValueError(
            f"the posterior has {len(labels)} items, the model is conditioned on {count}: pass the model of this posterior"
        )
    own = _kernel_for(kernel, items)
    if not own.settings.weighted:
        raise ValueError("a kernel with weighted=False has no evidence: use a weighted one, such as AnnealedHMC()")
    own.settings.check_bounds()
    if own.adapts and not pilot:
        raise ValueError(
            "this kernel adapts as it runs, which biases the bounds: set pilot=, the number of chains of a pilot run"
        )
    options: Any = {"num_warmup": num_warmup, "num_chains": num_chains, "pilot": pilot}
    options |= {"items_at_once": items_at_once, "progress": progress}
    rng = np.random.default_rng(seed)
    predictive = _predictive_p(items, posterior, num_replicates, rng)

    first, alike = _alike(items.item_data)
    rows = np.repeat(first, num_simulations)
    latents = prior_draws(items, take_items(dict(items.item_data), rows), len(rows), seed=_seed(rng))
    simulated = _shown_as(items, rows, latents, _seed(rng))
    both = items.of_items(_joined(items.item_data, simulated.item_data))
    whole = infer(both, _kernel_for(kernel, both), num_samples=1, seed=_seed(rng), **options)
    evidence = log_evidence(whole)
    estimate, others = np.split(evidence["estimate"].values, [count])
    among = others.reshape(-1, num_simulations)[alike]  # (item, N)
    below, above = (among < estimate[:, None]).sum(axis=1), (among > estimate[:, None]).sum(axis=1)

    picks = pick_draws(posterior, num_neighbours, rng)
    rows = np.tile(np.arange(count), num_neighbours)
    drawn = {name: values.reshape(-1, *values.shape[2:]) for name, values in _sites(posterior, picks).items()}
    neighbours = _shown_as(items, rows, drawn, _seed(rng))
    truth = {name: drawn[name] for name in latents}
    bounds = evidence_bounds(neighbours, _kernel_for(kernel, neighbours), truth, seed=_seed(rng), **options)
    errors = np.hypot(bounds["lower_se"].values, bounds["upper_se"].values).reshape(num_neighbours, count)
    columns = {
        "predictive_p": predictive,
        "predictive_tail": _two_sided(num_replicates * predictive, num_replicates * (1 - predictive), num_replicates),
        "log_evidence": estimate,
        "log_evidence_se": evidence["standard_error"].values[:count],
        "evidence_rank": below,
        "evidence_tail": _two_sided(num_simulations - above, num_simulations - below, num_simulations),
        "gap": bounds["gap"].values.reshape(num_neighbours, count).mean(axis=0),
        "gap_se": np.sqrt((errors**2).sum(axis=0)) / num_neighbours,
    }
    gradients = int(attributes(whole)["gradient_evaluations"]) + int(bounds.attrs["gradient_evaluations"])
    run = {"num_warmup": num_warmup, "num_chains": num_chains, "pilot": pilot, "seed": seed, "gradient_evaluations": gradients}
    table = xr.Dataset({n: ("item", v) for n, v in columns.items()}, {"item": labels}, {**counts, **run})
    return table.assign(verdict=("item", _verdicts(table)))


def with_certificate(posterior: ArvizObject, certificate: xr.Dataset) -> ArvizObject:
    """The posterior with the certificate as a group, which is stored with it and read by `diagnose`."""
    return assemble(posterior, {**all_groups(posterior), GROUP: certificate})


def misfits(certificate: xr.Dataset) -> np.ndarray:
    """Whether the generator does not fit, (item,)."""
    return (smaller_tail(certificate) <= CHANCE * (1 + 1e-9)).astype(bool)


def smaller_tail(certificate: xr.Dataset) -> np.ndarray:
    """The smaller of the two tail probabilities, (item,)."""
    return np.fmin(certificate["predictive_tail"].values, certificate["evidence_tail"].values)


def less_likely(certificate: xr.Dataset) -> np.ndarray:
    """Whether the seen part is less likely than simulated data, rather than more, by the smaller tail, (item,)."""
    by_evidence = certificate["evidence_rank"].values < certificate.attrs["num_simulations"] / 2
    by_draws = certificate["predictive_p"].values < 0.5
    return np.where(certificate["predictive_tail"].values <= certificate["evidence_tail"].values, by_draws, by_evidence)


def not_arrived(certificate: xr.Dataset) -> np.ndarray:
    """Whether the chains have not converged, (item,); true where the gap is NaN."""
    return ~(certificate["gap"].values - 2 * np.nan_to_num(certificate["gap_se"].values) <= LARGE_GAP)


def _verdicts(certificate: xr.Dataset) -> list[str]:
    each = zip(misfits(certificate), not_arrived(certificate), strict=True)
    return ["; ".join([*[MISFIT] * bool(m), *[NOT_ARRIVED] * bool(n)]) or NOTHING for m, n in each]


def _two_sided(at_most: np.ndarray, at_least: np.ndarray, count: int) -> np.ndarray:
    """Two-sided Monte Carlo p-values among ``count`` simulated values, from how many are at most and at least as large."""
    return np.minimum(1.0, 2 * (np.minimum(at_most, at_least) + 1) / (count + 1))


def _kernel_for(kernel: AnnealedHMC | Callable[[ItemModel], AnnealedHMC], model: ItemModel) -> AnnealedHMC:
    from cogen.inference import AnnealedHMC

    return kernel if isinstance(kernel, AnnealedHMC) else kernel(model)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def _sites(posterior: ArvizObject, picks: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Latents of picked draws, (pick, item, ...) each."""
    draws = group(posterior, "posterior").data_vars
    return {str(name): take_draws(values, picks) for name, values in draws.items() if name != "x"}


def _shown_as(items: Any, rows: np.ndarray, sites: dict[str, np.ndarray], seed: int) -> Any:
    """The model of new items, simulated from these latents, with the masks and contexts of these rows."""
    from cogen.inference.items import context_rows, take_items

    context = context_rows(items, sites, rows)
    made = items.simulate(items.decode(sites["z"], **context), {**sites, **context}, seed=seed)
    data = take_items(dict(items.item_data), rows)
    for name in set(data) & set(made):
        shown = data[name].get("mask", True)
        data[name] = {**data[name], "value": np.where(shown, made[name], np.float32(0.0))}
    return items.of_items(data)


def _alike(item_data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Group items by masks and contexts: the first item of each kind, (kind,), and the kind of every item, (item,)."""
    from cogen.inference.items import CONTEXT, count_items

    count = count_items(item_data)
    parts = [*item_data.get(CONTEXT, {}).values(), *(v["mask"] for n, v in item_data.items() if n != CONTEXT and "mask" in v)]
    keys = [b"".join(np.ascontiguousarray(part[item]).tobytes() for part in parts) for item in range(count)]
    return np.unique(keys, return_index=True, return_inverse=True)[1:]


def _joined(one: Any, other: Any) -> Any:
    """Concatenate the item data of both."""
    if isinstance(one, np.ndarray):
        return np.concatenate([one, other])
    return {name: _joined(one[name], other[name]) for name in one}


def _predictive_p(items: ItemModel, posterior: ArvizObject, num_replicates: int, rng: np.random.Generator) -> np.ndarray:
    """The posterior predictive p-value, (item,)."""
    sizes = group(posterior, "posterior").sizes
    num_draws = min(num_replicates, sizes["chain"] * sizes["draw"])
    draws = _sites(posterior, pick_draws(posterior, num_draws, rng))
    log_likelihood, rows = log_likelihood_of(items), np.arange(len(item_labels(posterior)))
    exceeds = np.zeros(len(rows))
    for k in range(num_replicates):
        sites = {name: values[k % num_draws] for name, values in draws.items()}
        replicate = _shown_as(items, rows, sites, _seed(rng))
        real, fake = log_likelihood(sites), log_likelihood(sites, replicate.item_data)
        exceeds += (fake < real) + 0.5 * (fake == real)
    return exceeds / num_replicates

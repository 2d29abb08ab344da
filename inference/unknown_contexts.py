"""Inference of unknown classes: one run per class, weighted by its evidence.

With the evidence Z_c = p(y | c) of a run in which the class is c,

    p(c | y) = p(c) Z_c / sum_c' p(c') Z_c',        p(y) = sum_c p(c) Z_c,

and the posterior of z is the mixture of the posteriors of the classes. All classes of all items are items of one run; then the
chains of an item's classes are resampled together, systematically, in proportion to p(c | y) and their weights, so that chains
stay intact and the draws have equal weights. Several unknown classes are inferred jointly, with one run per combination.

Results: ``posterior`` has the class of every draw, by the name of the context; ``sample_stats`` the combined evidence of every
population, and ``context_log_evidence``, log Z_c, with one more axis for the class, the input of
``cogen.diagnostics.context_probabilities``; ``constant_data`` the log prior of the classes. ``predictions`` are those of the
mixture, by the probabilities themselves rather than the resampled chains; ``warmup_sample_stats`` are those of each item's most
probable class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cogen.inference.items import ItemModel
from cogen.inference.program import Program
from cogen.inference.programs import Sampler
from cogen.inference.results import dataset, to_arviz
from cogen.inference.seeds import id_halves
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    import xarray as xr

_GROUPS = ("posterior", "sample_stats", "posterior_predictive", "observed_data", "constant_data", "warmup_sample_stats")


class Expansion(NamedTuple):
    """A model whose items are repeated for every combination of their unknown classes, each with its classes given."""

    model: ItemModel
    """The expanded model; item i with combination k is its item i * combinations + k."""
    classes: Mapping[str, np.ndarray]
    """The class of every combination, (combination,), by context; the last context varies fastest."""
    log_priors: Mapping[str, np.ndarray]
    """The log prior of the classes, (class,), by context."""
    ids: np.ndarray
    """The ids of the original items, (item,)."""

    @property
    def log_prior(self) -> np.ndarray:
        """The log prior of the combinations, (combination,)."""
        return np.sum([self.log_priors[name][chosen] for name, chosen in self.classes.items()], axis=0)

    def check(self, program: Program, kernel: Sampler) -> None:
        """Check that the kernel estimates the evidence.

        :param program: the program of the run, of this ``kernel``.
        :raises ValueError: if it does not.
        """
        if not program.facts["evidence_kind"]:
            unknown = " and ".join(map(repr, self.classes))
            settings = getattr(kernel, "settings", None)
            causes = {
                "weighted=False": not getattr(settings, "weighted", True),
                "flat_prior=True": getattr(settings, "flat_prior", False),
            }
            cause = next((setting for setting, given in causes.items() if given), None)
            use = "use AnnealedHMC(), ParallelTempering() or PyroAnnealedHMC()"
            raise ValueError(
                f"{program.name}{f' with {cause}' if cause else ''} has no evidence, which the probabilities of the unknown"
                f" context {unknown} require: {f'omit {cause}' if cause else use}, give the classes by model.given(...), or"
                " declare them unknown='relaxed'"
            )


@runtime_checkable
class Expandable(Protocol):
    """An `ItemModel` that may have unknown classes."""

    def expand_unknown(self) -> Expansion | None:
        """The model repeated for every combination of its unknown classes; None if all are known."""
        ...


def expand_unknown(items: ItemModel | None) -> Expansion | None:
    """The expansion of a model with unknown classes, None for any other model."""
    return items.expand_unknown() if isinstance(items, Expandable) else None


def fold(posterior: ArvizObject, expansion: Expansion, seed: int) -> ArvizObject:
    """Convert the results of the expanded model to results of the original model."""
    log_prior = expansion.log_prior
    count = len(log_prior)
    attributes = dict(dataset(posterior, "posterior").attrs)
    evidence = _by_class(dataset(posterior, "sample_stats")["population_log_evidence"], count)  # (item, class, chain, draw)
    num_chains = evidence.shape[2]
    slots = num_chains // max(1, int(attributes["num_populations"]))  # chains per population; all have its estimate
    of_populations = np.moveaxis(evidence[:, :, ::slots, -1], 2, 0).astype(np.float64)  # (population, item, class)
    of_classes = np.logaddexp.reduce(of_populations, axis=0) - np.log(len(of_populations)) + log_prior  # (item, class)
    total = np.logaddexp.reduce(of_classes, axis=1)
    with np.errstate(invalid="ignore"):
        probability = np.exp(of_classes - total[:, None])  # NaN for an item that no class explains
    picked = _resampled(posterior, probability, expansion, seed)  # class, chain: (item, chain) each
    best = np.argmax(np.nan_to_num(probability), axis=1)
    groups: dict[str, dict[str, tuple[tuple[str, ...], np.ndarray]]] = {}
    for name in _GROUPS:
        if name in posterior:
            groups[name] = _fold_group(dataset(posterior, name), count, picked, best)
    for context, classes in expansion.classes.items():
        value = np.broadcast_to(classes[picked[0]].T[:, None], groups["posterior"]["z"][1].shape[:3])
        groups["posterior"][context] = (("chain", "draw", "item"), value)
        del groups["constant_data"][context]
        groups["constant_data"][f"{context}_log_prior"] = ((_class_dim(context, expansion),), expansion.log_priors[context])
    statistics = groups["sample_stats"]
    by_chain = np.moveaxis(evidence, (0, 1), (2, 3))  # (chain, draw, item, class)
    combined = np.logaddexp.reduce(by_chain + log_prior, axis=-1)  # (chain, draw, item)
    statistics["population_log_evidence"] = (("chain", "draw", "item"), combined)
    if "ancestor" in statistics:  # made distinct between classes
        dims, ancestor = statistics["ancestor"]
        statistics["ancestor"] = (dims, ancestor + num_chains * picked[0].T[:, None])
    if "log_weight" in statistics:
        statistics["log_weight"] = (("chain", "draw", "item"), np.broadcast_to(total, combined.shape))
    sizes = [len(prior) for prior in expansion.log_priors.values()]
    dims = ("chain", "draw", "item", *(_class_dim(context, expansion) for context in expansion.classes))
    statistics["context_log_evidence"] = (dims, by_chain.reshape(*by_chain.shape[:3], *sizes))
    groups["predictions"] = _mixed(dataset(posterior, "predictions"), probability)
    cost = dataset(posterior, "sample_stats")["gradient_evaluations"].values.reshape(-1, count)
    statistics["gradient_evaluations"] = (("item",), cost.sum(axis=1))
    return to_arviz(groups, attributes)


def _class_dim(context: str, expansion: Expansion) -> str:
    return "class" if len(expansion.classes) == 1 else f"{context}_class"


def _by_class(variable: xr.DataArray, count: int) -> np.ndarray:
    """(item * class, ...) as (item, class, ...)."""
    values = variable.transpose("item", ...).values
    return values.reshape(-1, count, *values.shape[1:])


def _resampled(
    posterior: ArvizObject, probability: np.ndarray, expansion: Expansion, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The class and the chain assigned to each slot, (item, chain) each: a function of the seed and the item's id."""
    statistics = dataset(posterior, "sample_stats")
    num_chains = dataset(posterior, "posterior").sizes["chain"]
    share = np.full((*probability.shape, num_chains), 1.0 / num_chains)  # (item, class, chain)
    if "log_weight" in statistics:
        log_weight = _by_class(statistics["log_weight"].isel(draw=0), probability.shape[1]).astype(np.float64)
        best = log_weight.max(axis=2, keepdims=True)
        weight = np.where(np.isfinite(best), np.exp(log_weight - np.where(np.isfinite(best), best, 0.0)), 1.0)
        share = weight / weight.sum(axis=2, keepdims=True)
    probability = np.where(np.isfinite(probability), probability, np.exp(expansion.log_prior))
    joint = (probability[..., None] * share).reshape(len(probability), -1)
    picked = np.empty((len(joint), num_chains), dtype=int)
    for item, (weight, (high, low)) in enumerate(zip(joint, id_halves(expansion.ids), strict=True)):
        uniform = np.random.default_rng([seed >> 32, seed & 0xFFFFFFFF, int(high), int(low)]).random()
        cumulative = np.cumsum(weight)
        positions = (np.arange(num_chains) + uniform) / num_chains * cumulative[-1]
        found = np.searchsorted(cumulative, positions, side="right")
        picked[item] = np.minimum(found, np.flatnonzero(weight)[-1])  # rounding must not select a dead chain after it
    classes, chains = np.divmod(picked, num_chains)
    return classes, chains


def _fold_group(
    dataset: xr.Dataset, count: int, picked: tuple[np.ndarray, np.ndarray], best: np.ndarray
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Select the resampled chains of variables with chains, and each item's most probable class of the others."""
    items = np.arange(len(best))
    folded = {}
    for name, variable in dataset.data_vars.items():
        dims = tuple(map(str, variable.dims))
        values = variable.values
        if "item" in dims:
            lead = ("item", "chain") if "chain" in dims else ("item",)
            by_class = _by_class(variable.transpose(*lead, ...), count)
            taken = by_class[items[:, None], picked[0], picked[1]] if "chain" in dims else by_class[items, best]
            rest = [dim for dim in dims if dim not in lead]
            values = taken.transpose([[*lead, *rest].index(dim) for dim in dims])
        folded[str(name)] = (dims, values)
    return folded


def _mixed(predictions: xr.Dataset, probability: np.ndarray) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """The mean and standard deviation of x under the mixture of the classes."""
    count = probability.shape[1]
    mean, deviation = (_by_class(predictions[name], count).astype(np.float64) for name in ("x_mean", "x_sd"))
    weight = probability.reshape(*probability.shape, *(1,) * (mean.ndim - 2))
    alive = weight > 0  # the mean of an impossible class may be NaN
    whole = np.where(alive, weight * mean, 0.0 * weight).sum(axis=1)
    square = np.where(alive, weight * (deviation**2 + (mean - whole[:, None]) ** 2), 0.0 * weight).sum(axis=1)
    dims = tuple(map(str, predictions["x_mean"].dims))
    return {"x_mean": (dims, whole.astype(np.float32)), "x_sd": (dims, np.sqrt(square).astype(np.float32))}

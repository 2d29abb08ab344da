"""`cogen complete --label unknown`: the class of every image is inferred, by one weighted run for each class.

With the evidence Z_c = p(seen part | class c) of each run,

    p(c | seen part) = p(c) Z_c / sum_c' p(c') Z_c'

(`cogen.inference.unknown_contexts`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.options import Complete

if TYPE_CHECKING:
    from cogen.models.contexts import Context

UNKNOWN = "unknown"
"""The word of `--label` for classes that are inferred."""

CHAINS, WARMUP, PILOT = 64, 200, 16
"""Chains, warm-up transitions and chains of the pilot, if no options are given."""

EVIDENCE = ("annealed-hmc", "parallel-tempering")
"""Algorithms that estimate the evidence of every class."""

SHOWN, LEAST = 3, 0.05
"""At most so many classes of an image are shown: the most probable one, and others of at least this probability."""


@dataclass(frozen=True)
class InferredClass:
    """An unknown class of the items.

    :param names: the names of the classes, or their numbers.
    :param probability: of the classes given the seen part, (item, class); NaN if no class explains an item.
    :param standard_error: the Monte Carlo error of the probability, (item, class); NaN for a single population.
    :param of_draws: the class of every draw, (chain, draw, item), thinned as the draws of an `Answer`.
    """

    names: Sequence[str]
    probability: np.ndarray
    standard_error: np.ndarray
    of_draws: np.ndarray

    def most_probable(self, item: int) -> str:
        """The most probable classes of an item, as in "3 (0.71 +- 0.05), 8 (0.22 +- 0.04)"."""
        probability, error = self.probability[item], self.standard_error[item]
        if np.isnan(probability).any():
            return "no class explains what is seen"
        order = np.argsort(-probability, kind="stable")[:SHOWN]
        kept = [k for k in order if k == order[0] or probability[k] >= LEAST]
        errors = [f" +- {error[k]:.2f}" if np.isfinite(error[k]) else "" for k in kept]
        return ", ".join(f"{self.names[k]} ({probability[k]:.2f}{each})" for k, each in zip(kept, errors, strict=True))


# --- options -------------------------------------------------------------------------------------------------------


def label_words(options: Complete) -> list[str]:
    """The words of `--label`, which are separated by spaces or commas."""
    return [word for words in options.label for word in words.replace(",", " ").split()]


def infers_class(options: Complete) -> bool:
    """Whether the class is unknown."""
    return UNKNOWN in label_words(options)


def with_defaults(options: Complete) -> Complete:
    """The options with their defaults filled in where these depend on whether the class is unknown."""
    if not infers_class(options):
        return replace(options, chains=options.num_chains)
    return replace(
        options,
        weighted=options.algorithm == "annealed-hmc",
        chains=CHAINS if options.chains is None else options.chains,
        warmup=WARMUP if options.warmup is None else options.warmup,
        pilot=options.pilot or (PILOT if options.algorithm == "annealed-hmc" else 0),  # parallel tempering makes no pilot
    )


def check_unknown(options: Complete) -> None:
    """Check that the options can be combined with an unknown class, before any file is read.

    :raises ValueError: for options that cannot.
    """
    if not infers_class(options):
        return
    words = label_words(options)
    if set(words) != {UNKNOWN}:
        raise ValueError(
            f"--label {' '.join(words)}: the class is inferred for all images or for none: give --label unknown alone, and"
            " complete the images of known classes by a command of their own"
        )
    refused = {
        f"--algorithm {options.algorithm}": options.algorithm not in EVIDENCE
        and f"it does not estimate the evidence of a class: use {' or '.join(EVIDENCE)}",
        f"--backend {options.backend}": options.backend != "numpyro"
        and "the unbiased evidence of a class needs a pilot run, which this command makes on NumPyro only: omit it",
        f"--tuning {options.tuning}": options.tuning is not None
        and "runs of an unknown class are weighted and use no stored schedule: omit it",
        "--certify": options.certify and "a certificate needs images of known classes: omit it, or give the classes",
        "--noise fit": options.noise == "fit"
        and "the noise is estimated for known classes: give a number, or omit it for the generator's own noise scale",
        f"--guide {options.guide}": options.guide not in ("auto", "none")
        and "runs of an unknown class start at the prior: omit it",
    }
    for option, reason in refused.items():
        if reason:
            raise ValueError(f"--label unknown with {option}: {reason}")


# --- the model and its results -------------------------------------------------------------------------------------


def contexts_declared(options: Complete, generator: Any) -> dict[str, Context]:
    """The contexts of a generator, with its classes declared unknown if they are to be inferred.

    :raises ValueError: for a generator with a class of the name "unknown".
    """
    from cogen.models.contexts import Classes

    contexts = dict(generator.config.contexts)
    if not infers_class(options):
        return contexts
    for name, each in contexts.items():
        if isinstance(each, Classes):
            if UNKNOWN in (each.names or ()):
                raise ValueError(
                    f"--label unknown: a class of {options.generator} has this name: give its number,"
                    f" --label {list(each.names or ()).index(UNKNOWN)}, or infer the class in Python (docs/unknown_class.md)"
                )
            contexts[name] = replace(each, unknown="exact")
    return contexts


def inferred_classes(model: Any, posterior: Any, thinning: int) -> dict[str, InferredClass]:
    """The unknown classes of a run, by context.

    :param model: the conditioned model.
    :param thinning: the interval of the draws that are kept.
    """
    from cogen.diagnostics import context_probabilities
    from cogen.diagnostics.groups import statistic

    if statistic(posterior, "context_log_evidence") is None:
        return {}
    table, found = context_probabilities(posterior), {}
    for name in (str(each) for each in table.data_vars if not str(each).endswith("_se")):
        context = model.contexts[name]
        names = context.names or [str(k) for k in range(context.count)]
        drawn = posterior["posterior"][name].transpose("chain", "draw", "item").values[:, ::thinning]
        found[name] = InferredClass(list(names), table[name].values, table[f"{name}_se"].values, drawn)
    return found


def contexts_of_draws(model: Any, classes: Mapping[str, InferredClass]) -> list[dict[str, np.ndarray]]:
    """The contexts of every draw as arguments of ``decode``, for each chain: (draw x item, *shape) by name."""
    from cogen.inference.items import CONTEXT

    if not classes:
        return []
    drawn = {name: each.of_draws for name, each in classes.items()}
    chains, draws, _ = next(iter(drawn.values())).shape
    given = {
        name: np.tile(values, (draws, *(1,) * (values.ndim - 1))) for name, values in model.item_data.get(CONTEXT, {}).items()
    }
    of_chains = [model.latent_contexts({name: each[k].reshape(-1) for name, each in drawn.items()}) for k in range(chains)]
    return [{**given, **each} for each in of_chains]


def class_lines(classes: Mapping[str, InferredClass], images: Sequence[str]) -> list[str]:
    """A line for each image with its most probable classes."""
    return [f"{image}: {of_item(classes, item)}" for item, image in enumerate(images)] if classes else []


def of_item(classes: Mapping[str, InferredClass], item: int) -> str:
    """The most probable classes of an item; with the name of the context if there are several."""
    texts = {name: each.most_probable(item) for name, each in classes.items()}
    return "; ".join(text if len(texts) == 1 else f"{name} {text}" for name, text in texts.items())


def class_metrics(classes: Mapping[str, InferredClass], chosen: np.ndarray) -> dict[str, Any]:
    """The entry ``classes`` of metrics.json, by context; empty without unknown classes.

    :param chosen: the chains whose last draws are written, (draw, item).
    """
    found = {}
    for name, each in classes.items():
        best = np.argmax(np.nan_to_num(each.probability), axis=1)
        written = each.of_draws[chosen, -1, np.arange(chosen.shape[1])].T  # (item, draw)
        found[name] = {
            "names": list(each.names),
            "probability": each.probability.tolist(),
            "standard_error": each.standard_error.tolist(),
            "most_probable": [each.names[k] for k in best],
            "of_draws": [[each.names[k] for k in of_draws] for of_draws in written],
        }
    return {"classes": found} if found else {}

"""The contexts of a model: those declared, the values given for each item, and the inference of the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.signatures import ArrayLike, Attribute
from cogen.models.contexts import Classes, Context
from cogen.models.item_by_item import POINTS

LOGITS = "_logits"
"""Suffix of the latent site of a relaxed class, after the context's name."""


@dataclass(frozen=True)
class GivenContexts:
    """Contexts by name: the ``declared`` ones, and the values ``given``, (item, *shape) each."""

    declared: Mapping[str, Context]
    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def give(self, values: Mapping[str, ArrayLike]) -> GivenContexts:
        """A copy with these values as well.

        :raises ValueError: for a name that is not declared, and for invalid values.
        """
        given = dict(self.given)
        for name, value in values.items():
            if name not in self.declared:
                raise ValueError(
                    f"there is no context {name!r}; this model has {', '.join(self.declared) or 'none'}: declare it, as in"
                    f" CoGenerator(..., contexts={{{name!r}: Classes(10)}})"
                )
            given[name] = self.declared[name].observe(name, value)
        return replace(self, given=given)

    def unknown(self, how: str) -> dict[str, Classes]:
        """The classes that are not given and are inferred by the method ``how``, "exact" or "relaxed"."""
        contexts = self.declared.items()
        return {n: c for n, c in contexts if isinstance(c, Classes) and c.unknown == how and n not in self.given}

    def split(self, given: Mapping[str, object]) -> dict[str, int]:
        """The number of classes of each relaxed class that is not among the ``given`` contexts, by name.

        :raises ValueError: if another context is missing.
        """
        relaxed = {}
        for name, context in self.declared.items():
            if name in given:
                continue
            if isinstance(context, Classes) and context.unknown == "relaxed":
                relaxed[name] = context.count
                continue
            remedy = f"use model.given({name}=...)"
            if context.unknown == "exact":
                remedy = f"condition on a view, and cogen.inference.infer runs the model once per class; for one class {remedy}"
            elif isinstance(context, Classes):
                remedy += f", or declare it unknown, as in Classes({context.count}, unknown='exact')"
            raise ValueError(f"context {name!r} ({context}) is not given: {remedy}")
        return relaxed

    def combinations(self) -> dict[str, np.ndarray]:
        """All combinations of the unknown classes that are inferred exactly, (combination,) by name."""
        unknown = self.unknown("exact")
        found = np.array(list(product(*(range(context.count) for context in unknown.values()))))
        return dict(zip(unknown, found.T, strict=True))

    def rows(self, count: int, passed: Mapping[str, Any], names: Iterable[str]) -> dict[str, np.ndarray]:
        """These contexts for ``count`` rows, (row, *shape): as ``passed``, otherwise the given ones, repeated cyclically.

        :raises ValueError: for a context that is neither passed nor given, and a ``count`` that is not a multiple of the number
            of items.
        """
        found = {}
        for name in names:
            shape = self.declared[name].shape
            if name in passed:
                found[name] = np.array(passed[name], dtype=np.float32)
                if found[name].shape != (count, *shape):
                    listed = ", ".join(map(str, (count, *shape)))
                    raise ValueError(f"context {name!r} has shape {found[name].shape}, expected ({listed})")
            elif name not in self.given:
                raise ValueError(
                    f"context {name!r} is not given: use model.given({name}=...), or pass {name}= (batch, *{shape})"
                )
            elif count % (items := len(self.given[name])):
                raise ValueError(
                    f"context {name!r} is given for {items} items, and {count} rows are not a multiple of {items}: pass"
                    f" {name}= (batch, *{shape}), the context of each row"
                )
            else:
                found[name] = self.given[name][np.arange(count) % items]
        return found

    def of_sites(self, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The weights (..., class) of the inferred contexts, given the values of the sites: from the logits of a relaxed class,
        and from the class itself if it is inferred exactly."""
        found = {}
        for name, context in self.unknown("exact").items():
            if name in sites:
                found[name] = np.eye(context.count, dtype=np.float32)[np.asarray(sites[name])]
        for name in self.unknown("relaxed"):
            logits = np.asarray(sites[name + LOGITS])
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            found[name] = weights / weights.sum(-1, keepdims=True)
        return found

    def dims(self) -> dict[str, tuple[str, ...]]:
        """Names of the dimensions of each class for one item, and of the weights and logits of a relaxed class."""
        classes = [name for name, context in self.declared.items() if isinstance(context, Classes)]
        named: dict[str, tuple[str, ...]] = dict.fromkeys(classes, ())
        for name in self.unknown("relaxed"):
            named[name] = named[name + LOGITS] = ("class",) if len(classes) == 1 else (f"{name}_class",)
        return named

    def attributes(self) -> dict[str, Attribute]:
        """The declarations, as attributes of the results."""
        described = ", ".join(f"{name}: {context}" for name, context in self.declared.items())
        names = {f"{n}_names": list(c.names) for n, c in self.declared.items() if isinstance(c, Classes) and c.names}
        return {"contexts": described, **names} if self.declared else {}

    def check_names(self, taken: Iterable[str]) -> None:
        """Check that no context has a name used elsewhere in the model.

        :raises ValueError: for a name that is taken.
        """
        taken = set(taken)
        for name in self.declared:
            if name in taken:
                raise ValueError(f"context {name!r}: this name is taken by a view or a site of the model: rename it")
            if name + LOGITS in taken or name + LOGITS in self.declared:
                raise ValueError(
                    f"context {name!r}: {name + LOGITS!r} is the latent site of a relaxed class: rename one of the two"
                )

    def probe(self, generator: Any, z: Tensor) -> tuple[Any, Tensor, str, dict[str, Tensor]]:
        """The function to probe for a generator at z (point, latent_dim), with its points, their name in messages, and the
        contexts. Samplers also use the gradient of the logits of relaxed classes, so the points include these.
        """
        context = {name: context.points(POINTS) for name, context in self.declared.items()}
        relaxed = {name: each.count for name, each in self.unknown("relaxed").items()}
        if not relaxed:
            return generator, z, "z", context
        points = torch.cat([z, torch.randn(len(z), sum(relaxed.values()))], dim=1)
        called = " and ".join(["z", *(name + LOGITS for name in relaxed)])
        known = {name: values for name, values in context.items() if name not in relaxed}
        return _OfLogits(generator, z.shape[1], relaxed), points, called, known


class _OfLogits(nn.Module):
    """A generator as a function of z and the logits of its relaxed classes, concatenated, (batch, latent_dim + classes)."""

    def __init__(self, generator: Any, latent_dim: int, relaxed: Mapping[str, int]) -> None:
        super().__init__()
        self.generator, self.latent_dim, self.relaxed = generator, latent_dim, relaxed

    def forward(self, points: Any, **context: Any) -> Any:
        start = self.latent_dim
        for name, count in self.relaxed.items():
            context[name] = _softmax(points[:, start : start + count])
            start += count
        return self.generator(points[:, : self.latent_dim], **context)


def _softmax(logits: Any) -> Any:
    if isinstance(logits, Tensor):
        return logits.softmax(-1)
    import jax

    return jax.nn.softmax(logits)

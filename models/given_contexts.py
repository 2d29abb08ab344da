"""The contexts of a model: which it declares, what was given of them item by item, and what follows for the others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.contexts import Classes, Context
from cogen.models.item_by_item import POINTS

LOGITS = "_logits"
"""What the latent site of a relaxed class is called, after the context's name."""


@dataclass(frozen=True)
class GivenContexts:
    """Contexts by name: as ``declared``, and as ``given``, (item, *shape) each."""

    declared: Mapping[str, Context]
    given: Mapping[str, np.ndarray] = field(default_factory=dict)

    def give(self, values: Mapping[str, Any]) -> GivenContexts:
        """With these values as well. Raises ValueError for a name that is not declared, and for values that are not right."""
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
        """The classes that are not given and inferred in this way."""
        contexts = self.declared.items()
        return {n: c for n, c in contexts if isinstance(c, Classes) and c.unknown == how and n not in self.given}

    def split(self, given: Mapping[str, Any]) -> dict[str, int]:
        """The relaxed classes that are not among the ``given`` contexts, with how many classes they have.

        Raises ValueError where another context is missing.
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
                remedy = f"conditioned on a view, cogen.inference.infer runs the model once a class; for one class {remedy}"
            elif isinstance(context, Classes):
                remedy += f", or declare it unknown, as in Classes({context.count}, unknown='exact')"
            raise ValueError(f"context {name!r} ({context}) is not given: {remedy}")
        return relaxed

    def combinations(self) -> dict[str, np.ndarray]:
        """Every combination of the classes that are unknown and inferred exactly, (combination,) by name; none without any."""
        unknown = self.unknown("exact")
        found = np.array(list(product(*(range(context.count) for context in unknown.values()))))
        return dict(zip(unknown, found.T, strict=True))

    def rows(self, count: int, passed: Mapping[str, Any], names: Iterable[str]) -> dict[str, np.ndarray]:
        """These contexts for ``count`` rows, (row, *shape): as ``passed``, or the given ones, the items in turn.

        Raises ValueError for a context that is neither, and for rows that are no whole number of rounds over the items.
        """
        found = {}
        for name in names:
            shape = self.declared[name].shape
            if name in passed:
                found[name] = np.array(passed[name], dtype=np.float32)
                if found[name].shape != (count, *shape):
                    listed = ", ".join(map(str, (count, *shape)))
                    raise ValueError(f"context {name!r} has shape {found[name].shape}; of these rows it must have ({listed})")
            elif name not in self.given:
                raise ValueError(
                    f"context {name!r} is not given: use model.given({name}=...), or pass {name}= (batch, *{shape})"
                )
            elif count % (items := len(self.given[name])):
                raise ValueError(
                    f"context {name!r} is given for {items} items, and {count} rows are no whole number of rounds over them:"
                    f" pass {name}= (batch, *{shape}), the context of each row"
                )
            else:
                found[name] = self.given[name][np.arange(count) % items]
        return found

    def of_sites(self, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The contexts that are inferred, of the values of the sites: weights (..., class), of a relaxed class from its logits,
        of another from the class that ``sites`` hold."""
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
        """Names of the dimensions of a class for one item, and of a relaxed one's weights and logits."""
        classes = [name for name, context in self.declared.items() if isinstance(context, Classes)]
        named: dict[str, tuple[str, ...]] = dict.fromkeys(classes, ())
        for name in self.unknown("relaxed"):
            named[name] = named[name + LOGITS] = ("class",) if len(classes) == 1 else (f"{name}_class",)
        return named

    def attributes(self) -> dict[str, Any]:
        """What results remember of the declarations."""
        described = ", ".join(f"{name}: {context}" for name, context in self.declared.items())
        names = {f"{n}_names": list(c.names) for n, c in self.declared.items() if isinstance(c, Classes) and c.names}
        return {"contexts": described, **names} if self.declared else {}

    def check_names(self, taken: Iterable[str]) -> None:
        """Raises ValueError for a context with the name of something else in the model."""
        taken = set(taken)
        for name in self.declared:
            if name in taken:
                raise ValueError(f"context {name!r}: this name is taken by a view or a site of the model: rename it")
            if name + LOGITS in taken or name + LOGITS in self.declared:
                raise ValueError(
                    f"context {name!r}: {name + LOGITS!r} is the latent site of a relaxed class: rename one of the two"
                )

    def probe(self, generator: Any, z: Tensor) -> tuple[Any, Tensor, str, dict[str, Tensor]]:
        """What to probe of a generator at z (point, latent_dim): a function, its points, what they are called, and the
        contexts.

        Samplers follow the gradient to the logits of relaxed classes too, so these are part of the points.
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
    """A generator as a function of z and the logits of its relaxed classes side by side, (batch, latent_dim + classes)."""

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

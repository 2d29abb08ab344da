"""Contexts: inputs of the generator that are known, item by item, or latent with a prior of their own, x = G(z, c).

`Classes` is one of K classes, which networks take as weights (batch, K): one-hot where the class is known. `Array` is anything
else: an image, a vector of attributes. A `CoGenerator` declares its contexts by name, and calls its generator as
``generator(z, label=..., photo=...)``, every context (batch, *shape).

A class that is not known is inferred in one of two ways:

* exactly, by one run a class, p(c | y) proportional to p(c) Z_c with the evidence Z_c = p(y | c)
  (`cogen.inference.unknown_contexts`);
* relaxed, with weights that are the softmax of K standard normal variables a, one more latent site:

      c_k = exp(a_k) / sum_j exp(a_j),      a ~ N(0, I).

    Xie, Zheng, Fang, Zhu and Wu, Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning, IEEE TPAMI 2022, section 4.1 and equation 21.

Weights between the classes are no mixture of them: G(z, c) with such a c is what the network makes of an input that it was not
trained on, and the mean weights are no probabilities of the classes.
"""

from __future__ import annotations

import inspect
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Classes:
    """One of ``count`` classes; networks see weights (batch, count), one-hot where the class is known.

    :param count: how many classes, >= 2.
    :param names: one for each class, all different; then data may name classes.
    :param unknown: how a class is inferred that is not given: "exact" (one run a class, needs a kernel with evidence) or
        "relaxed" (the softmax of normal variables). None: a class that is not given is an error.
    :param prior: the probabilities of the classes, positive with sum one, for ``unknown="exact"``; default equal ones.

    Raises ValueError for what is none of these.

    >>> Classes(3, names=("cat", "dog", "bird")).observe("label", ["dog", "cat"])
    array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    """

    count: int
    names: Sequence[str] | None = None
    unknown: Literal["exact", "relaxed"] | None = None
    prior: Sequence[float] | None = None

    def __post_init__(self) -> None:
        count = _integer(self.count)
        if count is None or count < 2:
            raise ValueError(f"Classes({self.count!r}): the number of classes is an integer, at least 2")
        object.__setattr__(self, "count", count)
        if self.names is not None:
            names = tuple(self.names) if np.iterable(self.names) else ()
            if len(names) != count or not all(isinstance(n, str) for n in names) or len(set(names)) < count:
                raise ValueError(f"Classes: names={self.names!r} must be {count} different strings, one for each class")
            object.__setattr__(self, "names", names)
        if self.unknown not in (None, "exact", "relaxed"):
            raise ValueError(f"Classes: unknown={self.unknown!r}; it is 'exact' (one run a class), 'relaxed' (softmax) or None")
        if self.prior is not None:
            if self.unknown != "exact":
                why = (
                    "the relaxed class has the prior N(0, I) of its logits"
                    if self.unknown
                    else "a class that is given has none"
                )
                raise ValueError(f"Classes: prior= is for unknown='exact'; {why}")
            prior = _floats(self.prior)
            if prior.shape != (self.count,) or not (prior > 0).all() or not math.isclose(prior.sum(), 1.0, abs_tol=1e-6):
                raise ValueError(f"Classes: prior={self.prior!r} must be {self.count} positive probabilities with the sum 1")
            object.__setattr__(self, "prior", tuple(prior.tolist()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weights of one item."""
        return (self.count,)

    @property
    def log_prior(self) -> np.ndarray:
        """(count,)"""
        return np.log(np.full(self.count, 1.0 / self.count) if self.prior is None else np.asarray(self.prior))

    def observe(self, name: str, value: Any) -> np.ndarray:
        """Classes (item,) as one-hot weights (item, count). Raises ValueError for what is no class."""
        classes = _array(value)
        if classes.dtype.kind in "UO" and self.names is not None and classes.ndim == 1:
            classes = np.array([self._index(name, item, label) for item, label in enumerate(classes.tolist())], dtype=int)
        if classes.ndim != 1 or classes.dtype.kind not in "iu":
            a_class = f"0 to {self.count - 1}" + (f" ({', '.join(self.names)})" if self.names else "")
            hint = ""
            if classes.ndim == 0:
                hint = "; the item axis comes first: [3] for one item, np.full(16, 3) for sixteen of one class"
            elif classes.ndim == 2 and classes.shape[1] == self.count:
                hint = "; of one-hot rows give rows.argmax(1)"
            elif classes.dtype.kind == "f":
                hint = "; convert them, as in labels.astype(int)"
            raise ValueError(
                f"context {name!r}: the classes are {classes.dtype} of shape {classes.shape}, and must be integers (item,) from"
                f" {a_class}{hint}"
            )
        _check_count(name, classes)
        wrong = (classes < 0) | (classes >= self.count)
        if wrong.any():
            item = int(np.argmax(wrong))
            raise ValueError(
                f"context {name!r}: item {item} has the class {classes[item]}, and there are classes 0 to {self.count - 1}"
                f" ({int(wrong.sum())} such items); classes count from 0"
            )
        return np.eye(self.count, dtype=np.float32)[classes]

    def _index(self, name: str, item: int, label: Any) -> int:
        assert self.names is not None
        if label not in self.names:
            raise ValueError(f"context {name!r}: item {item} has the class {label!r}; the classes are {', '.join(self.names)}")
        return self.names.index(label)

    def recorded(self, weights: np.ndarray) -> np.ndarray:
        """What results hold of given weights (item, count): the class, (item,)."""
        return weights.argmax(axis=1)

    def points(self, count: int) -> Tensor:
        """A few values of the context to try a network with, (count, *shape)."""
        return torch.eye(self.count)[torch.arange(count) % self.count]

    def __str__(self) -> str:
        return f"{self.count} classes" + (f", unknown, {self.unknown}" if self.unknown else "")


@dataclass(frozen=True)
class Array:
    """An array of floats for each item: an image (channel, height, width), a vector of attributes.

    :param shape: of one item.
    :param value_range: least and greatest value, as of an image in [-1, 1]; data beyond it are refused. None: any values.

    Raises ValueError for a shape that is none, and for a range that is not two finite numbers, the lower first.

    >>> Array((3, 64, 64), value_range=(-1, 1)).shape
    (3, 64, 64)
    """

    shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shape = tuple(map(_integer, self.shape)) if np.iterable(self.shape) else (None,)
        if not all(size is not None and size > 0 for size in shape):
            raise ValueError(
                f"Array(shape={self.shape!r}): a shape is positive integers, as in Array((3, 64, 64)) or Array((5,))"
            )
        object.__setattr__(self, "shape", shape)
        if self.value_range is not None:
            limits = _floats(self.value_range)
            if limits.shape != (2,) or not -math.inf < limits[0] < limits[1] < math.inf:
                raise ValueError(f"Array: value_range={self.value_range!r} must be two finite numbers, the lower first")
            object.__setattr__(self, "value_range", tuple(limits.tolist()))

    @property
    def unknown(self) -> None:
        """Only a class can be inferred."""

    def observe(self, name: str, value: Any) -> np.ndarray:
        """Values (item, *shape) as float32. Raises ValueError for another shape, and for values that are not finite or outside
        of the range."""
        values = _array(value)
        if values.dtype.kind not in "iufb":
            raise ValueError(f"context {name!r}: the values are {values.dtype}, and must be numbers (item, *{self.shape})")
        if values.ndim == 0 or values.shape[1:] != self.shape:
            hint = " (the item axis comes first: use values[None] for one item)" if values.shape == self.shape else ""
            listed = ", ".join(map(str, self.shape))
            raise ValueError(f"context {name!r}: the values have shape {values.shape}, and must have (item, {listed}){hint}")
        _check_count(name, values)
        values = values.astype(np.float32)
        wrong = ~np.isfinite(values)
        if wrong.any():
            item, *place = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"context {name!r}: item {item} holds {values[(item, *place)]} at {tuple(place)} ({int(wrong.sum())} such"
                " values): fill what is missing; a mask can be one more context"
            )
        if self.value_range is not None:
            low, high = self.value_range
            slack = 1e-4 * (high - low)  # of rounding
            beyond = np.maximum(low - values, values - high)
            if beyond.max() > slack:
                item, *place = np.unravel_index(int(beyond.argmax()), beyond.shape)
                raise ValueError(
                    f"context {name!r}: item {int(item)} holds {values[(item, *place)]:g} at {tuple(map(int, place))}, outside"
                    f" of its range [{low:g}, {high:g}]: bring the values into it, bytes by {low:g} + {high - low:g} *"
                    " bytes / 255"
                )
        return values

    def recorded(self, values: np.ndarray) -> np.ndarray:
        """What results hold of given values (item, *shape): these."""
        return values

    def points(self, count: int) -> Tensor:
        """A few values of the context to try a network with, (count, *shape)."""
        drawn = torch.rand(count, *self.shape, generator=torch.Generator().manual_seed(0))
        low, high = self.value_range or (-1.0, 1.0)
        return low + (high - low) * drawn

    def __str__(self) -> str:
        return f"array {self.shape}"


Context = Classes | Array


def contexts_of(stored: Any) -> dict[str, Context]:
    """Contexts by name, each as it is or as a mapping of its arguments, as a configuration stores it.

    Raises ValueError for what is no context, and for a name that is no Python name, or a keyword of Python.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"contexts is {stored!r}; it must be a mapping of names, as in {{'label': Classes(10)}}")
    found: dict[str, Context] = {}
    for name, context in stored.items():
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise ValueError(
                f"context {name!r}: the generator takes it as a keyword argument, so its name must be a Python name, and none"
                " that Python has reserved"
            )
        if isinstance(context, Mapping):
            kind = Classes if "count" in context else Array
            try:
                context = kind(**context)
            except (TypeError, ValueError) as error:
                raise ValueError(f"context {name!r}: {str(error).removeprefix(f'{kind.__name__}.__init__() ')}") from None
        if not isinstance(context, Classes | Array):
            raise ValueError(f"context {name!r} is {context!r}; it must be Classes(count) or Array(shape)")
        found[name] = context
    return found


def taken_by(module: nn.Module, names: Iterable[str]) -> list[str]:
    """Which of these contexts a module's ``forward`` names among its parameters, or its own `takes`: a view or an encoder is
    given those."""
    takes = getattr(module, "takes", None)
    if takes is not None:
        return takes(names)
    parameters = inspect.signature(module.forward).parameters
    return [name for name in names if name in parameters]


def _integer(value: Any) -> int | None:
    """The value as Python's integer, NumPy's too; None for what is no integer."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _floats(values: Any) -> np.ndarray:
    """The values as an array of floats; a single NaN where they are not numbers."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return np.asarray(math.nan)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _check_count(name: str, values: np.ndarray) -> None:
    if len(values) == 0:
        raise ValueError(f"context {name!r}: the data hold no items")

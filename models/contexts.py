"""Contexts: inputs c of the generator x = G(z, c) that are known for each item, or latent with their own prior.

`Classes` is one of K classes, passed to networks as weights (batch, K), one-hot if the class is known. `Array` is any other
input: an image, a vector of attributes. A `CoGenerator` declares its contexts by name and calls its generator as
``generator(z, label=..., photo=...)``, with every context (batch, *shape).

An unknown class is inferred in one of two ways:

* exactly, with one run per class: p(c | y) is proportional to p(c) Z_c with the evidence Z_c = p(y | c)
  (`cogen.inference.unknown_contexts`);
* relaxed: the weights are the softmax of K standard normal variables a, a further latent site:

      c_k = exp(a_k) / sum_j exp(a_j),      a ~ N(0, I).

    Xie, Zheng, Fang, Zhu and Wu, Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning, IEEE TPAMI 2022, section 4.1 and equation 21.

Relaxed weights are not a mixture of the classes: for such a c the network was not trained, and the mean weights are not
probabilities of the classes.
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

from cogen.inference.signatures import ArrayLike


@dataclass(frozen=True)
class Classes:
    """One of ``count`` classes; networks receive weights (batch, count), one-hot if the class is known.

    :param count: number of classes, >= 2.
    :param names: one for each class, all different; data may then contain names.
    :param unknown: how to infer a class that is not given: "exact" (one run per class, requires a kernel with evidence) or
        "relaxed" (the softmax of normal variables). None: a class that is not given is an error.
    :param prior: probabilities of the classes, positive with sum one, for ``unknown="exact"``; default uniform.
    :raises ValueError: for invalid values of any of these.

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
            raise ValueError(f"Classes({self.count!r}): the number of classes must be an integer, at least 2")
        object.__setattr__(self, "count", count)
        if self.names is not None:
            names = tuple(self.names) if np.iterable(self.names) else ()
            if len(names) != count or not all(isinstance(n, str) for n in names) or len(set(names)) < count:
                raise ValueError(f"Classes: names={self.names!r} must be {count} different strings, one for each class")
            object.__setattr__(self, "names", names)
        if self.unknown not in (None, "exact", "relaxed"):
            raise ValueError(f"Classes: unknown={self.unknown!r}; it must be 'exact', 'relaxed' or None")
        if self.prior is not None:
            if self.unknown != "exact":
                why = "the logits of a relaxed class have the prior N(0, I)" if self.unknown else "a known class has no prior"
                raise ValueError(f"Classes: prior= is for unknown='exact'; {why}")
            prior = _floats(self.prior)
            if prior.shape != (self.count,) or not (prior > 0).all() or not math.isclose(prior.sum(), 1.0, abs_tol=1e-6):
                raise ValueError(f"Classes: prior={self.prior!r} must be {self.count} positive probabilities that sum to 1")
            object.__setattr__(self, "prior", tuple(prior.tolist()))

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights of one item."""
        return (self.count,)

    @property
    def log_prior(self) -> np.ndarray:
        """The log prior probabilities of the classes, (count,)."""
        return np.log(np.full(self.count, 1.0 / self.count) if self.prior is None else np.asarray(self.prior))

    def observe(self, name: str, value: ArrayLike) -> np.ndarray:
        """Convert classes (item,) to one-hot weights (item, count).

        :raises ValueError: for invalid classes.
        """
        classes = _array(value)
        if classes.dtype.kind in "UO" and self.names is not None and classes.ndim == 1:
            classes = np.array([self._index(name, item, label) for item, label in enumerate(classes.tolist())], dtype=int)
        if classes.ndim != 1 or classes.dtype.kind not in "iu":
            a_class = f"0 to {self.count - 1}" + (f" ({', '.join(self.names)})" if self.names else "")
            hint = ""
            if classes.ndim == 0:
                hint = "; the item axis comes first: [3] for one item, np.full(16, 3) for sixteen items of one class"
            elif classes.ndim == 2 and classes.shape[1] == self.count:
                hint = "; for one-hot rows give rows.argmax(1)"
            elif classes.dtype.kind == "f":
                hint = "; convert them, as in labels.astype(int)"
            raise ValueError(
                f"context {name!r}: the classes are {classes.dtype} of shape {classes.shape}; they must be integers (item,)"
                f" from {a_class}{hint}"
            )
        _check_count(name, classes)
        wrong = (classes < 0) | (classes >= self.count)
        if wrong.any():
            item = int(np.argmax(wrong))
            raise ValueError(
                f"context {name!r}: item {item} has the class {classes[item]}, but the classes are 0 to {self.count - 1}"
                f" ({int(wrong.sum())} such items)"
            )
        return np.eye(self.count, dtype=np.float32)[classes]

    def _index(self, name: str, item: int, label: Any) -> int:
        assert self.names is not None
        if label not in self.names:
            raise ValueError(f"context {name!r}: item {item} has the class {label!r}; the classes are {', '.join(self.names)}")
        return self.names.index(label)

    def recorded(self, weights: np.ndarray) -> np.ndarray:
        """The class (item,) of given weights (item, count), as stored in the results."""
        return weights.argmax(axis=1)

    def points(self, count: int) -> Tensor:
        """A few values of the context to try a network with, (count, *shape)."""
        return torch.eye(self.count)[torch.arange(count) % self.count]

    def __str__(self) -> str:
        return f"{self.count} classes" + (f", unknown, {self.unknown}" if self.unknown else "")


@dataclass(frozen=True)
class Array:
    """An array of floats for each item: an image (channel, height, width), a vector of attributes.

    :param shape: shape of one item.
    :param value_range: least and greatest value, such as (-1, 1) for images; values outside are rejected. None: any values.
    :raises ValueError: for an invalid shape, and a range that is not two finite numbers, the lower first.

    >>> Array((3, 64, 64), value_range=(-1, 1)).shape
    (3, 64, 64)
    """

    shape: tuple[int, ...]
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        shape = tuple(map(_integer, self.shape)) if np.iterable(self.shape) else (None,)
        if not all(size is not None and size > 0 for size in shape):
            raise ValueError(
                f"Array(shape={self.shape!r}): a shape is a tuple of positive integers, as in Array((3, 64, 64)) or Array((5,))"
            )
        object.__setattr__(self, "shape", shape)
        if self.value_range is not None:
            limits = _floats(self.value_range)
            if limits.shape != (2,) or not -math.inf < limits[0] < limits[1] < math.inf:
                raise ValueError(f"Array: value_range={self.value_range!r} must be two finite numbers, the lower first")
            object.__setattr__(self, "value_range", tuple(limits.tolist()))

    @property
    def unknown(self) -> None:
        """None: only classes can be inferred."""

    def observe(self, name: str, value: ArrayLike) -> np.ndarray:
        """Convert values (item, *shape) to float32.

        :raises ValueError: for another shape, and values that are non-finite or out of range.
        """
        values = _array(value)
        if values.dtype.kind not in "iufb":
            raise ValueError(f"context {name!r}: the values are {values.dtype}; they must be numbers (item, *{self.shape})")
        if values.ndim == 0 or values.shape[1:] != self.shape:
            hint = " (the item axis comes first: use values[None] for one item)" if values.shape == self.shape else ""
            listed = ", ".join(map(str, self.shape))
            raise ValueError(f"context {name!r}: the values have shape {values.shape}, expected (item, {listed}){hint}")
        _check_count(name, values)
        values = values.astype(np.float32)
        wrong = ~np.isfinite(values)
        if wrong.any():
            item, *index = np.argwhere(wrong)[0].tolist()
            raise ValueError(
                f"context {name!r}: item {item} is {values[(item, *index)]} at {tuple(index)} ({int(wrong.sum())} such"
                " values): fill missing values; a mask can be a further context"
            )
        if self.value_range is not None:
            low, high = self.value_range
            slack = 1e-4 * (high - low)  # for rounding
            beyond = np.maximum(low - values, values - high)
            if beyond.max() > slack:
                item, *index = np.unravel_index(int(beyond.argmax()), beyond.shape)
                raise ValueError(
                    f"context {name!r}: item {int(item)} is {values[(item, *index)]:g} at {tuple(map(int, index))}, outside the"
                    f" range [{low:g}, {high:g}]: rescale the values, bytes by {low:g} + {high - low:g} * bytes / 255"
                )
        return values

    def recorded(self, values: np.ndarray) -> np.ndarray:
        """The given values (item, *shape), as stored in the results."""
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
    """Contexts by name.

    :param stored: a mapping of names to contexts, or to mappings of their arguments as configurations store them.
    :raises ValueError: for an invalid context, and a name that is not a Python identifier or is a keyword.
    """
    if not isinstance(stored, Mapping):
        raise ValueError(f"contexts is {stored!r}; it must be a mapping of names, as in {{'label': Classes(10)}}")
    found: dict[str, Context] = {}
    for name, context in stored.items():
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise ValueError(
                f"context {name!r}: the generator takes it as a keyword argument, so its name must be a Python identifier and"
                " not a keyword"
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


def check_stored(declared: Mapping[str, Context], stored: Mapping[str, Context]) -> None:
    """Check declared contexts against those in the configuration of a stored generator.

    :raises ValueError: for a context of another shape.
    """
    for name, context in declared.items():
        known = stored.get(name)
        if known is not None and tuple(context.shape) != tuple(known.shape):
            kind = f"Classes({known.count})" if isinstance(known, Classes) else f"Array({known.shape})"
            raise ValueError(
                f"context {name!r}: it is declared as {context}, but the generator's config has {known}: declare"
                f" {kind}, with further arguments such as unknown='exact' as needed"
            )


def taken_by(module: nn.Module, names: Iterable[str]) -> list[str]:
    """The contexts among ``names`` that a view or an encoder takes: the parameters of its ``forward``, or what its own `takes`
    returns."""
    takes = getattr(module, "takes", None)
    if takes is not None:
        return takes(names)
    parameters = inspect.signature(module.forward).parameters
    return [name for name in names if name in parameters]


def _integer(value: Any) -> int | None:
    """A Python or NumPy integer as an int; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def _floats(values: Any) -> np.ndarray:
    """The values as an array of floats; a single NaN if they are not numbers."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        return np.asarray(math.nan)


def _array(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)


def _check_count(name: str, values: np.ndarray) -> None:
    if len(values) == 0:
        raise ValueError(f"context {name!r}: the data hold no items")

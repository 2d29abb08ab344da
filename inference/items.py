"""The items of a conditioned model.

A model of independent items (sixteen images, a thousand rows) is not one posterior: in HMC a plate over items would share one
accept decision among them. A model declares its items by the `ItemModel` protocol, and `infer` runs it item by item,
vectorised. Handlers that condition such a model (``pyro.condition``, ``numpyro.handlers.condition``) and a
``functools.partial`` without arguments are unwrapped. Any other model is one item; it raises an error if it runs an `ItemModel`
of several items inside another handler or function.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cogen.inference.results import variable_name
from cogen.inference.signatures import ArrayLike, Attribute, Model

CONTEXT = "context"
"""The key of an item's contexts in its data, next to its views."""

_separate: ContextVar[bool] = ContextVar("cogen_items_apart", default=False)


@contextmanager
def items_apart() -> Iterator[None]:
    """Allow conditioned models of several items to run inside this context.

    The caller keeps the items separate, or sums over them on purpose, as in training one guide for all.
    """
    token = _separate.set(True)
    try:
        yield
    finally:
        _separate.reset(token)


def meet_items(count: int) -> None:
    """Check the number of items of a conditioned `ItemModel`, which calls this function whenever it runs.

    :raises ValueError: for more than one item outside of `items_apart`, since they would share one posterior.
    """
    if count > 1 and not _separate.get():
        raise ValueError(
            f"{count} items would share one posterior and one accept decision here: pass the conditioned model itself to"
            " cogen.inference.infer, not inside a handler or a function (temper, scale, a lambda), and not to another sampler."
            " If the items are kept separate, or summed on purpose, use `with cogen.inference.items_apart():`"
        )


class Items(NamedTuple):
    """Items as one value for target, kernel and results. Every array has a leading item axis; a single item lacks it."""

    id: Any
    """The upper and lower 32 bits of the ids, (item, 2). With the seed and the chain they determine the random numbers."""
    data: Any = None
    """The observed views and given contexts, the argument of an `ItemModel`; None for a model that is one item."""
    own: Any = None
    """The item's own values in the kernel's settings (see `Own`)."""
    start: Any = None
    """The given starting positions, if any: unconstrained coordinates (item, chain, dim); for Pyro models the values of the
    latent sites by name, (item, chain, *shape)."""

    def take(self, index: np.ndarray | slice) -> Items:
        """The items with these indices, as NumPy arrays."""
        return Items(*(take_items(part, index) for part in self))


@runtime_checkable
class ItemModel(Protocol):
    """A conditioned model of independent items.

    The arrays of ``data`` arguments have a leading item axis. Its Pyro and NumPyro models call `meet_items`. A model that is
    also `Judged` reports how well its items are fitted.
    """

    @property
    def item_data(self) -> Mapping[str, Any]:
        """The known data: a mapping of arrays with a leading item axis, hidden entries filled in. Contexts by name under
        `CONTEXT`."""
        ...

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """The names of the dimensions of each site's value for one item, as in {"z": ("latent",)}."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one item's x."""
        ...

    @property
    def attributes(self) -> Mapping[str, Attribute]:
        """Attributes of the model stored in the results (numbers, strings, lists of numbers)."""
        ...

    def condition(self, **data: ArrayLike) -> ItemModel: ...

    def __call__(self, data: Mapping[str, Any] | None = None) -> object:
        """The Pyro model of the items in ``data``."""
        ...

    def numpyro(self, data: Mapping[str, Any] | None = None) -> object:
        """The NumPyro model of the items in ``data``."""
        ...

    def decode(self, z: np.ndarray, **context: np.ndarray) -> np.ndarray:
        """Decode latents (batch, latent) to x (batch, *event).

        :param context: each row's contexts (batch, ...) by name, if the model has any, in the form of ``item_data`` and
            `Contextual.latent_contexts`.
        """
        ...

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """Draw every view once for each x: (batch, *event) -> {view: (batch, ...)}.

        :param sites: the rows' latents and contexts.
        """
        ...

    def result_groups(self) -> Mapping[str, Mapping[str, tuple[tuple[str, ...], np.ndarray]]]:
        """Result groups that the model supplies: observed_data and constant_data, as (dims, values)."""
        ...


@runtime_checkable
class Judged(Protocol):
    """A model that measures the misfit of an x to its data."""

    def misfit(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The root mean square over the seen part of the residual of each x (..., item, *event), in units of the noise scale:
        {view: (..., item)}, for the views with a noise scale."""
        ...


@runtime_checkable
class Contextual(Protocol):
    """A model with contexts that are functions of its latents."""

    def latent_contexts(self, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """These contexts by name, (..., *shape), from the values of the latent sites (..., *shape). They are stored with the
        draws."""
        ...


def latent_contexts(items: ItemModel, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The contexts that are functions of the latents, for any `ItemModel`."""
    return items.latent_contexts(sites) if isinstance(items, Contextual) else {}


def context_rows(items: ItemModel, sites: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The contexts of rows, as arguments of `decode`.

    :param sites: the rows' latents.
    :param rows: the index of each row's item.
    """
    return {**take_items(items.item_data.get(CONTEXT, {}), rows), **latent_contexts(items, sites)}


@runtime_checkable
class Divisible(Protocol):
    """A model whose items can be divided among several runs."""

    def of_items(self, data: Mapping[str, Any]) -> ItemModel:
        """This model with other items; ``data`` has the form of `ItemModel.item_data`."""
        ...


def find_items(model: Model) -> ItemModel | None:
    """The conditioned `ItemModel` inside handlers that condition it, or None for any other model."""
    data: dict[str, Any] = {}
    inner: Any = model
    while not isinstance(inner, ItemModel):
        if isinstance(inner, functools.partial) and not inner.args and not inner.keywords:
            conditions, inner_model = {}, inner.func
        elif isinstance(inner, functools.partial) and type((*inner.args, None)[0]).__name__ == "ConditionMessenger":
            messenger, inner_model = inner.args  # Pyro keeps (ConditionMessenger, fn)
            conditions = messenger.data
        elif type(inner).__name__ == "condition" and getattr(inner, "data", None) is not None:
            conditions, inner_model = inner.data, inner.fn  # a NumPyro handler
        elif isinstance(getattr(inner, "__self__", None), ItemModel):
            conditions, inner_model = {}, inner.__self__  # the method model.numpyro
        else:
            return None
        if not isinstance(conditions, Mapping):
            return None
        data = {**conditions, **data}
        inner = inner_model
    return inner.condition(**data) if data else inner


def count_items(data: Any) -> int:
    """The number of items of ``item_data``."""
    return count_items(next(iter(data.values()))) if isinstance(data, Mapping) else len(data)


def take_items(data: Any, index: np.ndarray | slice) -> Any:
    """The items with these indices, as NumPy arrays."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {name: take_items(value, index) for name, value in data.items()}
    if isinstance(data, tuple):
        parts = [take_items(value, index) for value in data]
        return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)
    return np.asarray(data)[index]


def item_ids(items: ItemModel | None) -> np.ndarray:
    """The ids of a model's items, (item,): its own ids, or their positions."""
    if items is None:
        return np.zeros(1, np.int64)
    own = getattr(items, "ids", None)
    return np.arange(count_items(items.item_data)) if own is None else np.asarray(own)


def site_dims(items: ItemModel | None, site: str, count: int) -> tuple[str, ...]:
    """Names for the ``count`` dimensions of a site's value for one item."""
    named = tuple(items.dims.get(site, ())) if items is not None else ()
    return named if len(named) == count else tuple(f"{variable_name(site)}_dim_{k}" for k in range(count))

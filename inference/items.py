"""Finding the items of a conditioned model.

A model of independent items (sixteen images, a thousand rows) is not one posterior: a plate over items inside HMC would
share one accept decision among them. A model that knows its items says so by the `ItemModel` protocol, and `infer` runs it
item by item, vectorised. Handlers that condition such a model (``pyro.condition``, ``numpyro.handlers.condition``) and a
``functools.partial`` without arguments are opened to find it. Any other model is one item; one that runs an `ItemModel` of
several items inside a handler or a function that cannot be opened is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from cogen.inference.results import variable_name

CONTEXT = "context"
"""Where an item's contexts stand in its data, beside its views."""

_apart: ContextVar[bool] = ContextVar("cogen_items_apart", default=False)


@contextmanager
def items_apart() -> Iterator[None]:
    """Conditioned models of several items may run inside: whoever runs them keeps the items apart, or adds them on purpose, as
    the training of one guide for all does."""
    token = _apart.set(True)
    try:
        yield
    finally:
        _apart.reset(token)


def meet_items(count: int) -> None:
    """To be called by a conditioned `ItemModel` whenever it runs, with the number of its items.

    Raises ValueError for more than one outside of `items_apart`: they would be one posterior.
    """
    if count > 1 and not _apart.get():
        raise ValueError(
            f"{count} items would share one posterior and one accept decision here: give the conditioned model itself to"
            " cogen.inference.infer, which runs its items side by side, and not inside a handler or a function (temper, scale,"
            " a lambda), nor to another sampler. Where the items are kept apart, or added on purpose:"
            " `with cogen.inference.items_apart():`"
        )


class Items(NamedTuple):
    """Items as one value, which goes whole through target, kernel and results: every array has a leading item axis; one item
    is the same without it."""

    id: Any
    """(item, 2): the upper and lower 32 bits of the ids, on which random numbers depend (with the seed and the chain)."""
    data: Any = None
    """What is observed and given of it, the argument of an `ItemModel`; None for a model that is one item."""
    own: Any = None
    """What a kernel's settings hold of it alone."""
    start: Any = None
    """Where its chains start, if that is given: unconstrained coordinates (item, chain, dim), with Pyro's library the values of
    the latent sites by name, (item, chain, *shape)."""

    def take(self, index: np.ndarray | slice) -> Items:
        """The items of these indices, as NumPy arrays."""
        return Items(*(take_items(part, index) for part in self))


@runtime_checkable
class ItemModel(Protocol):
    """A conditioned model whose items are independent. ``data`` arguments carry the item axis first. Its programs call
    `meet_items`. A model that is also `Judged` says how well its items are fitted."""

    @property
    def item_data(self) -> Mapping[str, Any]:
        """What is known: a mapping of arrays with a leading item axis, filled where hidden. Contexts by name under
        `CONTEXT`."""
        ...

    @property
    def dims(self) -> Mapping[str, tuple[str, ...]]:
        """Names of the dimensions of a site's value for one item, as {"z": ("latent",)}."""
        ...

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one item's x."""
        ...

    @property
    def attributes(self) -> Mapping[str, Any]:
        """What the results should remember about the model (numbers, strings, lists of numbers)."""
        ...

    def condition(self, **data: Any) -> ItemModel: ...

    def __call__(self, data: Mapping[str, Any] | None = None) -> Any:
        """The Pyro model of the items in ``data``."""
        ...

    def numpyro(self, data: Mapping[str, Any] | None = None) -> Any:
        """The NumPyro model of the items in ``data``."""
        ...

    def decode(self, z: np.ndarray, **context: np.ndarray) -> np.ndarray:
        """The whole x of latents (batch, latent), with each row's contexts (batch, ...) by name where the model has any, in
        what form its ``item_data`` and `Contextual.latent_contexts` hold them: (batch, *event)."""
        ...

    def simulate(self, x: np.ndarray, sites: Mapping[str, np.ndarray], *, seed: int) -> dict[str, np.ndarray]:
        """One draw of every view for each x: (batch, *event) -> {view: (batch, ...)}; ``sites`` are the rows' latents and
        contexts."""
        ...

    def result_groups(self) -> Mapping[str, Mapping[str, tuple[tuple[str, ...], np.ndarray]]]:
        """Groups of the results that only the model knows: observed_data and constant_data, as (dims, values)."""
        ...


@runtime_checkable
class Judged(Protocol):
    """A model that knows how far its data lie from an x."""

    def misfit(self, x: np.ndarray, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The root mean square, over what is seen, of the residual of each x (..., item, *event) in units of the noise scale:
        {view: (..., item)}, for the views that have such a scale."""
        ...


@runtime_checkable
class Contextual(Protocol):
    """A model some of whose contexts follow from its latents."""

    def latent_contexts(self, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """These contexts by name, (..., *shape), of the values of the latent sites (..., *shape): draws keep them."""
        ...


def latent_contexts(items: ItemModel, sites: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The contexts that follow from the latents, for any `ItemModel`."""
    return items.latent_contexts(sites) if isinstance(items, Contextual) else {}


def context_rows(items: ItemModel, sites: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The contexts of rows that belong to the items of these indices, ``sites`` being the rows' latents: what `decode`
    takes."""
    return {**take_items(items.item_data.get(CONTEXT, {}), rows), **latent_contexts(items, sites)}


@runtime_checkable
class Divisible(Protocol):
    """A model whose items can run in parts, elsewhere."""

    def of_items(self, data: Mapping[str, Any]) -> ItemModel:
        """This model of other items: ``data`` has the form of `ItemModel.item_data`."""
        ...


def find_items(model: Callable) -> ItemModel | None:
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
    """The items of these indices, as NumPy arrays."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {name: take_items(value, index) for name, value in data.items()}
    if isinstance(data, tuple):
        parts = [take_items(value, index) for value in data]
        return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)
    return np.asarray(data)[index]


def item_ids(items: ItemModel | None) -> np.ndarray:
    """The ids of a model's items, (item,): its own, or their positions."""
    if items is None:
        return np.zeros(1, np.int64)
    own = getattr(items, "ids", None)
    return np.arange(count_items(items.item_data)) if own is None else np.asarray(own)


def site_dims(items: ItemModel | None, site: str, count: int) -> tuple[str, ...]:
    """Names for the ``count`` dimensions of a site's value for one item."""
    named = tuple(items.dims.get(site, ())) if items is not None else ()
    return named if len(named) == count else tuple(f"{variable_name(site)}_dim_{k}" for k in range(count))

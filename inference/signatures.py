"""Shared types for the signatures of several packages. Each describes the values actually accepted or returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt
    import xarray as xr


class InferenceGroups(Protocol):
    """The used interface of ``arviz.InferenceData``, the results of ArviZ 0.x: a mapping from group to Dataset."""

    def __contains__(self, key: object, /) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, key: str, /) -> xr.Dataset: ...

    def to_netcdf(self, filename: str, /, *, engine: str) -> object: ...


ArrayLike: TypeAlias = "npt.ArrayLike"
"""What NumPy converts to an array: arrays of NumPy, JAX and torch, numbers, and nested sequences of numbers or texts."""

ArvizObject: TypeAlias = "InferenceGroups | xr.DataTree"
"""The results of a run by group: ``arviz.InferenceData`` of ArviZ 0.x or the ``xarray.DataTree`` of 1.x."""

Model: TypeAlias = Callable[..., object]
"""A Pyro or NumPyro model, or a guide: a function that runs sample statements; its return value is not used."""

Attribute: TypeAlias = "str | float | Sequence[str] | Sequence[float]"
"""A value that is stored with the results: a text, a number or a list of these."""

JSON: TypeAlias = "str | float | bool | Mapping[str, JSON] | Sequence[JSON] | None"
"""The content of a JSON file."""

"""Recipes: the public kernel classes of cogen, with settings, which `infer` binds to a model and counts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np

from cogen.inference.kernels.kernel import Kernel, Own
from cogen.inference.signatures import ArvizObject

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from cogen.inference.annealing.tuning import Tuning


class Recipe:
    """The base class of recipes for all libraries. A subclass names its settings, a frozen dataclass, and its `Kernel`."""

    library = "cogen"
    settings_type: ClassVar[Callable[..., DataclassInstance]]
    kernel_type: ClassVar[Callable[..., Kernel]]
    parameters_doc: ClassVar[str]
    """The documentation of the class's parameters other than its settings."""
    settings: DataclassInstance

    def __init_subclass__(
        cls, settings: type[DataclassInstance] | None = None, kernel: Callable[..., Kernel] | None = None
    ) -> None:
        super().__init_subclass__()
        if settings is None or kernel is None:  # a subclass of a kernel
            return
        cls.settings_type, cls.kernel_type = settings, kernel
        own = inspect.signature(settings).parameters
        _, *given = inspect.signature(cls.__init__).parameters.values()
        beside = [p for p in given if p.kind is not p.VAR_KEYWORD and p.name not in own]
        keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in own.values()]
        cls.__signature__ = inspect.Signature([*beside, *keywords])  # type: ignore[attr-defined]
        parts = [inspect.getdoc(each) for each in reversed(settings.__mro__) if dataclasses.is_dataclass(each)]
        opening = [inspect.cleandoc(cls.__doc__ or ""), inspect.cleandoc(cls.parameters_doc)]
        cls.__doc__ = "\n\n".join([*opening, *filter(None, parts)])

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def tunable(self) -> bool:
        """Whether a pilot can adapt the settings."""
        return getattr(self.settings, "tunable", False)

    @property
    def adapts(self) -> bool:
        """Whether the warm-up adapts to the particles that it weights, so that its evidence is not unbiased."""
        return getattr(self.settings, "adapts", False)

    def replace(self, **settings: object) -> Self:
        """This recipe with other settings."""
        copied = copy.copy(self)
        copied.settings = dataclasses.replace(self.settings, **settings)
        return copied

    def frozen(self, pilot: Tuning | ArvizObject) -> Self:
        """A recipe with the values adapted by a pilot.

        :param pilot: a `Tuning`, or the results of a run.
        :raises ValueError: for a kernel that records no adapted values.
        """
        if not hasattr(self.settings, "frozen"):
            raise ValueError(f"{self.name} records no adapted values to freeze: run it without a pilot")
        frozen = self.replace()
        frozen.settings = self.settings.frozen(pilot)
        return frozen

    def kernel(self, num_warmup: int, num_chains: int) -> Kernel:
        """The pure functions for a run with these numbers of warm-up transitions and chains.

        :raises ValueError: for settings that cannot run.
        """
        return type(self).kernel_type(self.settings, num_warmup, num_chains)

    def own(self, num_warmup: int, ids: np.ndarray) -> Own:
        """The per-item values of the settings for these items.

        :raises ValueError: if they are of other items.
        """
        if not hasattr(self.settings, "own"):
            return Own()
        return self.settings.own(num_warmup).for_items(ids, getattr(self.settings, "recorded", None))

"""A recipe: a kernel of ours under the name that people use, its settings given, for `infer` to bind to a model and counts."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from typing import Any, ClassVar, Self

import numpy as np

from cogen.inference.kernels.kernel import Kernel, Own


class Recipe:
    """What the recipes for all libraries share. A subclass names its settings, a frozen dataclass, and its `Kernel`."""

    library = "cogen"
    settings_type: ClassVar[type]
    kernel_type: ClassVar[type]
    parameters_doc: ClassVar[str]
    """What the class takes beside its settings, for its documentation."""
    settings: Any

    def __init_subclass__(cls, settings: type | None = None, kernel: type | None = None) -> None:
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
        """Whether a pilot finds something to freeze."""
        return getattr(self.settings, "tunable", False)

    @property
    def adapts(self) -> bool:
        """Whether the warm-up looks at what it weighs, so that its evidence is not unbiased."""
        return getattr(self.settings, "adapts", False)

    def replace(self, **settings: Any) -> Self:
        """This recipe with other settings."""
        copied = copy.copy(self)
        copied.settings = dataclasses.replace(self.settings, **settings)
        return copied

    def frozen(self, pilot: Any) -> Self:
        """A recipe that repeats what a pilot has adapted: a `Tuning`, or the results of a run."""
        if not hasattr(self.settings, "frozen"):
            raise ValueError(f"{self.name} records nothing that a second run could freeze: run it without a pilot")
        frozen = self.replace()
        frozen.settings = self.settings.frozen(pilot)
        return frozen

    def kernel(self, num_warmup: int, num_chains: int) -> Kernel:
        """The pure functions of a run of so many warm-up transitions and chains. Raises ValueError for settings that cannot
        run."""
        return self.kernel_type(self.settings, num_warmup, num_chains)

    def own(self, num_warmup: int, ids: np.ndarray) -> Own:
        """What the settings hold of these items. Raises ValueError where it is of others."""
        if not hasattr(self.settings, "own"):
            return Own()
        return self.settings.own(num_warmup).for_items(ids, getattr(self.settings, "recorded", None))

"""Settings found by `cogen tune`, stored by view in NAME-tuning.json beside the generator.

A run with `Settings` adapts nothing, so its cost is known, and its evidence estimate, if it has one, is unbiased.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cogen.inference.whole_files import write_whole
from cogen.models.storage.generators import find_generator

SUFFIX = "-tuning.json"
"""Suffix of the file of tunings, after the generator's name."""


@dataclass(frozen=True)
class Settings:
    """Settings of annealed HMC for all items under a view.

    :param guided: whether annealing starts from the guide stored with the generator; otherwise from the prior.
    :param temperatures: number of temperatures that a chain needs to converge.
    :param num_leapfrog: leapfrog steps at each temperature.
    :param beta: knots of the inverse temperatures (`cogen.inference.Through`).
    :param steps: step sizes at all knots but the first (`cogen.inference.SharedSteps`).
    :param figures: measurements, for display.
    :param noise: standard deviation of a pixel's noise; None for the generator's own noise.
    :param generator: name of the generator's file of weights, without its suffix; empty if unknown.
    :raises ValueError: for counts and step sizes that are not positive.
    """

    guided: bool
    temperatures: int
    num_leapfrog: int
    beta: tuple[float, ...]
    steps: tuple[float, ...]
    figures: Mapping[str, Any] = field(default_factory=dict)
    noise: float | None = None
    generator: str = ""

    def __post_init__(self) -> None:
        if self.temperatures < 1 or self.num_leapfrog < 1 or not all(0 < step < math.inf for step in self.steps):
            raise ValueError("the temperatures, leapfrog steps and step sizes of a tuning must be positive")
        for name in ("beta", "steps"):  # a frozen dataclass is set through object.__setattr__
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))

    def annealing(self, at_rest: float = 1.0) -> dict[str, Any]:
        """Keyword arguments of `AnnealedHMC` and `PyroAnnealedHMC`.

        :param at_rest: a factor of the step size at beta = 1.
        :raises ValueError: for knots that do not increase.
        """
        from cogen.inference import SharedSteps, Through

        steps = SharedSteps(self.beta[1:], (*self.steps[:-1], at_rest * self.steps[-1]))
        return {"schedule": Through(self.beta), "step_size": steps, "num_leapfrog": self.num_leapfrog}


def load_tunings(generator: str | Path, path: Path | None = None) -> dict[str, Settings]:
    """Read all stored settings.

    The keys are names of views (`cogen.conditions.tuning_name`), followed by the start and the noise scale if the file has
    several for a view. The result is empty if the generator has no such file.

    :param path: the file of the settings; None for the one beside the generator.
    :raises FileNotFoundError: if there is no such generator, or no file at ``path``.
    :raises ValueError: for an invalid file.
    """
    beside = _path(generator)
    if path is None and not beside.is_file():
        return {}
    path = beside if path is None else path
    found = {}
    for view, stored in _read(path).items():
        try:
            found[view] = Settings(**stored)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {view}: {error}") from None
    return found


def load_tuning(generator: str | Path, view: str) -> Settings | None:
    """Read the settings that are stored beside a generator under a key; None without such an entry.

    Raises what `load_tunings` raises.
    """
    return load_tunings(generator).get(view)


def save_tuning(generator: str | Path, view: str, settings: Settings, output: Path | None = None) -> Path:
    """Write the settings of a view beside a generator, or to ``output``, keeping those of other views. Returns the path."""
    path = _path(generator) if output is None else output
    views = _read(path) if path.is_file() else {}
    write_whole(path, (json.dumps({**views, view: asdict(settings)}, indent=1) + "\n").encode())
    return path


def _path(generator: str | Path) -> Path:
    path = find_generator(generator)
    return path.with_name(path.stem + SUFFIX)


def _read(path: Path) -> dict[str, Any]:
    try:
        views = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error})") from None
    if not isinstance(views, dict):
        raise ValueError(f"{path} does not contain tunings by view")
    return views

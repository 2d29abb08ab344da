"""What a pilot has adapted, as a value, item by item: step sizes as a function of beta, inverse temperatures, a metric.

A run with frozen values estimates the evidence without bias, since nothing in it looks at what it weighs.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cogen.inference.annealing.schedules import Ladder
from cogen.inference.annealing.step_size import RecordedSteps
from cogen.inference.whole_files import write_whole


@dataclass(frozen=True, eq=False)
class RecordedMetric:
    """Variances of the unconstrained coordinates that a pilot found, (item, dim), positive."""

    variance: np.ndarray
    ids: np.ndarray | None = None
    """(item,): of which items; None for those of the run, in their order."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """What the warm-up of a pilot ended with; of an annealing every transition, since its values follow beta.

    :param ids: (item,), the items it is of; a run of some of them finds its rows by their ids.
    :param beta: (item, transition), inverse temperatures in (0, 1]; ones where an item had arrived before others.
    :param step_size: (item, transition), positive.
    :param moves_per_temperature: transitions at each inverse temperature.
    :param variance: (item, dim), of the unconstrained coordinates, where the kernel adapts its metric to them.
    """

    ids: np.ndarray
    beta: np.ndarray
    step_size: np.ndarray
    moves_per_temperature: int = 1
    variance: np.ndarray | None = None

    @property
    def steps(self) -> RecordedSteps:
        """The step sizes as a rule."""
        return RecordedSteps(self.beta, self.step_size, self.ids)

    @property
    def ladder(self) -> Ladder:
        """The inverse temperatures as a schedule."""
        moves = self.moves_per_temperature
        return Ladder.through(self.beta[:, moves - 1 :: moves], self.ids)

    @property
    def metric(self) -> RecordedMetric | None:
        """The variances as a setting, where there are any."""
        return None if self.variance is None else RecordedMetric(self.variance, self.ids)

    def save(self, path: str | os.PathLike) -> Path:
        """Write PATH.npz, which `load` reads. Returns its path."""
        stream, file = io.BytesIO(), Path(path)
        file = file if file.suffix == ".npz" else file.with_name(file.name + ".npz")
        np.savez(stream, **{name: np.asarray(value) for name, value in vars(self).items() if value is not None})  # type: ignore[arg-type]
        write_whole(file, stream.getvalue())
        return file

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tuning:
        """Raises FileNotFoundError, and ValueError for a file that holds no tuning."""
        file = Path(path)
        try:
            with np.load(file, allow_pickle=False) as stored:
                variance = stored.get("variance")
                moves = int(stored["moves_per_temperature"])
                return cls(stored["ids"], stored["beta"], stored["step_size"], moves, variance)
        except (ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{file} holds no tuning ({error})") from None

"""The values adapted by a pilot, per item: step sizes as a function of beta, inverse temperatures, a metric.

A run with frozen values gives an unbiased estimate of the evidence, since it does not adapt to the particles that it weights.
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
    """The variances of the unconstrained coordinates estimated by a pilot, (item, dim), positive."""

    variance: np.ndarray
    ids: np.ndarray | None = None
    """The ids of the items, (item,); None for those of the run, in their order."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """The final values of a pilot's warm-up; for an annealing those of every transition, since they depend on beta.

    :param ids: the ids of the items, (item,), by which a run of some of the items finds its rows.
    :param beta: inverse temperatures in (0, 1], (item, transition), padded with ones.
    :param step_size: positive, (item, transition).
    :param moves_per_temperature: transitions at each inverse temperature.
    :param variance: variances of the unconstrained coordinates, (item, dim), if the kernel adapts its metric.
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
        """The variances as a setting, if any."""
        return None if self.variance is None else RecordedMetric(self.variance, self.ids)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the tuning to PATH.npz.

        :returns: the path of the file.
        """
        stream, file = io.BytesIO(), Path(path)
        file = file if file.suffix == ".npz" else file.with_name(file.name + ".npz")
        np.savez(stream, **{name: np.asarray(value) for name, value in vars(self).items() if value is not None})  # type: ignore[arg-type]
        write_whole(file, stream.getvalue())
        return file

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tuning:
        """Read a file written by `save`.

        :raises FileNotFoundError: if there is no such file.
        :raises ValueError: for a file without a tuning.
        """
        file = Path(path)
        try:
            with np.load(file, allow_pickle=False) as stored:
                variance = stored.get("variance")
                moves = int(stored["moves_per_temperature"])
                return cls(stored["ids"], stored["beta"], stored["step_size"], moves, variance)
        except (ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{file} is not a tuning file ({error})") from None

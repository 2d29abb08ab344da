"""What a pilot has adapted, as a value: step sizes as a function of beta, and the inverse temperatures, item by item.

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
class Tuning:
    """Every transition of the warm-up of a pilot.

    :param ids: (item,), the items it is of; a run of some of them finds its rows by their ids.
    :param beta: (item, transition), inverse temperatures in (0, 1]; ones where an item had arrived before others.
    :param step_size: (item, transition), positive.
    :param moves_per_temperature: transitions at each inverse temperature.
    """

    ids: np.ndarray
    beta: np.ndarray
    step_size: np.ndarray
    moves_per_temperature: int = 1

    @property
    def steps(self) -> RecordedSteps:
        """The step sizes as a rule."""
        return RecordedSteps(self.beta, self.step_size, self.ids)

    @property
    def ladder(self) -> Ladder:
        """The inverse temperatures as a schedule."""
        moves = self.moves_per_temperature
        return Ladder.through(self.beta[:, moves - 1 :: moves], self.ids)

    def save(self, path: str | os.PathLike) -> Path:
        """Write PATH.npz, which `load` reads. Returns its path."""
        stream, file = io.BytesIO(), Path(path)
        file = file if file.suffix == ".npz" else file.with_name(file.name + ".npz")
        np.savez(stream, **{name: np.asarray(value) for name, value in vars(self).items()})  # type: ignore[arg-type]
        write_whole(file, stream.getvalue())
        return file

    @classmethod
    def load(cls, path: str | os.PathLike) -> Tuning:
        """Raises FileNotFoundError, and ValueError for a file that holds no tuning."""
        file = Path(path)
        try:
            with np.load(file, allow_pickle=False) as stored:
                return cls(stored["ids"], stored["beta"], stored["step_size"], int(stored["moves_per_temperature"]))
        except (ValueError, KeyError, EOFError) as error:
            raise ValueError(f"{file} holds no tuning ({error})") from None

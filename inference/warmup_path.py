"""The path of a warm-up: scalars of every item after a transition, thinned to at most 200 points.

Statistics that a pilot chooses and a second run repeats are recorded at every transition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

POINTS = 200


@dataclass
class WarmupPath:
    """Every n-th point and the last; n doubles when there are too many points."""

    whole: Sequence[str] = ()
    """The names of the statistics recorded at every transition, if present."""
    asked: int = 0
    """Transitions of the warm-up so far."""
    every: int = 1
    points: list[dict[str, np.ndarray]] = field(default_factory=list)
    """The recorded points, each with its ``transition``."""
    chunks: list[dict[str, np.ndarray]] = field(default_factory=list)
    """The statistics in ``whole``, arrays (transition, item)."""

    def extend(self, records: Mapping[str, np.ndarray], made: int) -> None:
        """Add ``made`` transitions from ``records``, whose leading axis is the transition."""
        if self.whole and made:
            self.chunks.append({name: records[name][:made].copy() for name in self.whole if name in records})
        if self.points and (self.asked % self.every):
            self.points.pop()  # it was the last point before, and not an n-th one
        for k in range(made):
            self.asked += 1
            if self.asked % self.every == 0 or k == made - 1:
                self.points.append(
                    {"transition": np.asarray(self.asked - 1), **{name: values[k].copy() for name, values in records.items()}}
                )
        while len(self.points) > POINTS:
            self.every *= 2
            kept = [point for point in self.points[:-1] if (point["transition"] + 1) % self.every == 0]
            self.points = kept + self.points[-1:]

    def to_arrays(self) -> dict[str, Any]:
        """The path as a nested mapping of arrays, for a checkpoint."""
        names = self.points[0] if self.points else ()
        points = {name: np.stack([point[name] for point in self.points]) for name in names}
        return {"points": points, "whole": self.ladder(), "progress": np.array([self.asked, self.every, len(self.points)])}

    def restore(self, stored: Mapping[str, Any]) -> None:
        """Restore the path from the output of `to_arrays`."""
        self.asked, self.every, count = stored["progress"].tolist()
        self.points = [{name: value[k] for name, value in stored["points"].items()} for k in range(count)]
        self.chunks = [stored["whole"]] if stored.get("whole") else []

    def ladder(self) -> dict[str, np.ndarray]:
        """The statistics recorded at every transition, arrays (transition, item)."""
        if not self.chunks:
            return {}
        return {name: np.concatenate([chunk[name] for chunk in self.chunks]) for name in self.chunks[0]}


def side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate arrays (transition, item) over items, padding shorter ones with their last values."""
    longest = max(map(len, parts))
    return np.concatenate([np.pad(part, ((0, longest - len(part)), (0, 0)), mode="edge") for part in parts], axis=1)


def common_points(paths: list[WarmupPath]) -> tuple[np.ndarray, list[list[dict[str, np.ndarray]]]]:
    """The points of several paths at the same transitions; a path that ended earlier repeats its last point."""
    numbers = [np.array([point["transition"] for point in path.points], dtype=np.int64) for path in paths]
    common = max(numbers, key=lambda n: n[-1] if n.size else -1)  # the longest is thinned the most
    indices = [np.maximum(np.searchsorted(n, common, side="right") - 1, 0) for n in numbers]
    return common, [[path.points[k] for k in index] for path, index in zip(paths, indices, strict=True)]

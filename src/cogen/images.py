"""Completed images in the size and format of the originals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cogen.answer import Answer
from cogen.job import Job
from cogen.models.data.originals import Form, Original, write_completed, write_spreads
from cogen.models.data.windows import Window, in_place, resampled
from cogen.options import Complete


@dataclass(frozen=True)
class Completed:
    """Images with a part replaced by completions.

    :param mean: for each original, (channel, height, width), black 0 and white 1; ``spread`` is the standard deviation.
    :param draws: for each, (draw, channel, height, width).
    :param replaced: where the original is replaced, (height, width).
    :param seen: where the original is seen, (height, width); None if the original is the data of a view.
    :param path: for each, x along the warm-up, (point, channel, height, width); None if it was not stored.
    """

    originals: list[Original]
    mean: list[np.ndarray]
    spread: list[np.ndarray]
    draws: list[np.ndarray]
    replaced: list[np.ndarray]
    seen: list[np.ndarray] | None
    path: list[np.ndarray] | None = None

    def write(self, folder: Path, keep: int) -> None:
        """Write FOLDER/IMAGE/mean, sd, draw-1 and so on, as PNG or .npy."""
        made = {"mean": self.mean}
        made |= {f"draw-{k + 1}": [each[k] for each in self.draws] for k in range(min(keep, len(self.draws[0])))}
        write_completed(folder, self.originals, made, self.replaced)
        write_spreads(folder, self.originals, self.spread)

    def whole(self, k: int, made: np.ndarray) -> np.ndarray:
        """A completion of the k-th image, (channel, height, width), with the original where it was not replaced."""
        return np.where(self.replaced[k], made, self.originals[k].shown)


def completed_images(options: Complete, job: Job, answer: Answer, draws: np.ndarray) -> Completed:
    """Completions of the items, put back into the originals.

    :param draws: (draw, item, channel, height, width).
    """
    seen = None if job.observed else job.seen or _seen_pixels(job, answer.hidden)
    kept = seen if options.paste == "yes" or (options.paste == "auto" and job.seen is not None) else None
    originals, windows = _enlarged(job, answer.shape) if job.observed else (job.originals, job.windows)
    predictions, (low, _) = answer.posterior["predictions"], answer.value_range
    found = []
    spread_of_x = (low + predictions["x_sd"].values[None], answer.value_range)  # a spread has no sign
    made_of = [(predictions["x_mean"].values[None], job.value_range), spread_of_x, (draws, job.value_range)]
    for made, value_range in made_of if answer.path is None else [*made_of, (answer.path, job.value_range)]:
        images, replaced = in_place(originals, windows, made, value_range, kept)
        found.append(images)
    spread = [each[0] * where for each, where in zip(found[1], replaced, strict=True)]
    return Completed(originals, [each[0] for each in found[0]], spread, found[2], replaced, seen, *found[3:])


def _seen_pixels(job: Job, hidden: np.ndarray) -> list[np.ndarray]:
    """Where the originals are seen, (height, width) each, from the hidden pixels of their items."""
    found = [np.ones(each.size, bool) for each in job.originals]
    for window, item in zip(job.windows, hidden, strict=True):
        share = resampled(item[:1].astype(np.float32), (window.height, window.width), sharp=False)[0]
        found[window.original][window.slices] &= share < 0.5
    return found


def _enlarged(job: Job, shape: tuple[int, ...]) -> tuple[list[Original], list[Window]]:
    """Blank originals of the size of an item, for images that are the data of a view."""
    channels, height, width = shape
    originals = []
    for each in job.originals:
        form = each.form if each.form.dtype.kind != "b" else Form(np.dtype(np.uint8), (0, 255))
        form = replace(form, layout="item, channel, height, width" if form.layout else None)
        originals.append(Original(each.name, np.zeros((channels, height, width), form.dtype), form, None, each.index))
    return originals, [Window(k, 0, 0, height, width) for k in range(len(originals))]

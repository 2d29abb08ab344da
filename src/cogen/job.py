"""The items that `cogen complete` completes, from files and options, with their masks and truths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cogen.conditions import FACTOR, mask_named
from cogen.models.data.originals import Form, Original, matched, read_originals, read_seen
from cogen.models.data.windows import Window, items_of, windows_of
from cogen.options import Complete

IMAGES_OF = {"fashion": "fashion", "colour": "cifar10"}
"""Shipped test images by shipped generator; the others complete digits."""


@dataclass(frozen=True)
class Job:
    """Items to complete.

    :param items: (item, channel, height, width), gray where a mask hides them; the data of a view if ``observed``.
    :param names: names of the items.
    :param originals: the images as read; ``windows`` are the parts of them that are the items.
    :param seen: where the originals are seen, (height, width) each; None without a mask.
    :param shown: where the items are seen, (item, height, width).
    :param truth: the whole items; None if unknown.
    :param observed: whether the images are the data of a view, not x.
    :param total: number of images found, of which these are the first.
    """

    items: np.ndarray
    names: list[str]
    originals: list[Original]
    windows: list[Window]
    seen: list[np.ndarray] | None = None
    shown: np.ndarray | None = None
    truth: np.ndarray | None = None
    observed: bool = False
    total: int = 0
    notes: list[str] = field(default_factory=list)


def views_asked(options: Complete) -> tuple[str, ...]:
    """The names of the views beside a mask."""
    if not options.view and options.mask is None:
        return ("box",) if options.box is not None else ("half",)
    return tuple(dict.fromkeys(options.view))


def check_views(options: Complete) -> None:
    """Check the options of the views.

    :raises ValueError: for options of a view that is not used, or out of range.
    """
    asked = views_asked(options)
    plain = Complete()
    for name, view in (("side", "half"), ("box", "box"), ("share", "random")):
        if getattr(options, name) != getattr(plain, name) and view not in asked:
            raise ValueError(f"--{name}: it needs --view {view}")
    if not 0 < options.share < 1:
        raise ValueError(f"--share {options.share:g}: it must lie between 0 and 1")
    if options.mask is None:
        for name in ("truth", "invert_mask"):
            if getattr(options, name) != getattr(plain, name):
                raise ValueError(f"--{name.replace('_', '-')}: it needs --mask; with --view the images are the truth")
    elif options.images is None:
        raise ValueError(f"--mask {options.mask}: it needs --images, the images with this mask")
    if options.keep_draws < 0:
        raise ValueError(f"--keep-draws {options.keep_draws}: it must not be negative")


def job_of(options: Complete, config: Any) -> Job:
    """The items for a generator or an energy with this configuration.

    :raises ValueError: for images, masks or truths that do not fit.
    :raises OSError: for files that cannot be read.
    """
    shape, asked = tuple(config.event_shape), views_asked(options)
    if len(shape) != 3:
        raise ValueError(f"the generator makes events of shape {shape}, which are not images; use `cogen fill` for tables")
    found = _originals(options, config)
    originals, notes = found[: options.count], []
    if options.images is not None and len(found) > len(originals):
        notes.append(f"completed {len(originals)} of {len(found)} images; use --count {len(found)} for all")
    if options.mask is None and (seen_items := _as_observed(asked, originals, config)) is not None:
        windows = windows_of(originals, shape, "resize")
        return Job(
            seen_items, [_name(each) for each in originals], originals, windows, observed=True, total=len(found), notes=notes
        )
    seen = None if options.mask is None else read_seen(options.mask, originals, invert=options.invert_mask, total=len(found))
    windows = windows_of(originals, shape, options.fit, seen)
    names = [_name(originals[w.original]) + (f" ({w.left}, {w.top})" if options.fit == "patch" else "") for w in windows]
    items, shown = items_of(originals, windows, shape, config.value_range, seen)
    if seen is None:
        if np.isnan(items).any():
            raise ValueError(f"{options.images} contains NaN: use --mask nan if these are the pixels to complete")
        return Job(items, names, originals, windows, truth=items, total=len(found), notes=notes)
    truth = None
    if options.truth is not None:
        whole = matched(read_originals(options.truth, shape, options.range), originals, "--truth", len(found))
        _check_sizes(whole, originals, options.truth)
        truth, _ = items_of(whole, windows, shape, config.value_range)
    return Job(items, names, originals, windows, seen, shown, truth, total=len(found), notes=notes)


def context_items(job: Job, options: Complete, path: Path, option: str, shape: Sequence[int], value_range: Any) -> np.ndarray:
    """Condition images of the items, (item, *shape), cropped or resized as these.

    :raises ValueError: for missing images and sizes that differ from the originals.
    """
    of_array = options.range if path.suffix.lower() in (".npy", ".npz") else None
    found = matched(read_originals(path, shape, of_array), job.originals, option, job.total)
    windows = job.windows
    if any(each.size != original.size for each, original in zip(found, job.originals, strict=True)):
        windows = windows_of(found, shape, options.fit if options.fit != "patch" else None)
        if len(windows) != len(job.items):
            raise ValueError(f"{option}: with --fit patch condition images must have the sizes of the images")
    return items_of(found, windows, shape, value_range)[0]


def _originals(options: Complete, config: Any) -> list[Original]:
    from cogen.models.storage.generators import shipped_images

    if options.images is not None:
        return read_originals(options.images, config.event_shape, options.range)
    if options.range is not None:
        low, high = options.range
        raise ValueError(f"--range {low:g} {high:g}: it needs an array, given by --images")
    images, _ = shipped_images(IMAGES_OF.get(options.generator, "mnist"))
    if images.shape[1:] != tuple(config.event_shape):
        raise ValueError(
            f"{options.generator} makes images of shape {config.event_shape}, for which none are shipped: give --images"
        )
    numbers = np.rint((images[: options.count] + 1) * 127.5).astype(np.uint8)
    return [Original(f"image-{k}", each, Form(each.dtype, (0, 255))) for k, each in enumerate(numbers)]


def _name(original: Original) -> str:
    return original.name if original.form.layout is None else f"{original.name} {original.index}"


def _as_observed(asked: tuple[str, ...], originals: list[Original], config: Any) -> np.ndarray | None:
    """The images as data of a thumbnail or gray view, if they have its size and channels; None otherwise."""
    channels, height, width = config.event_shape
    shape = {"thumbnail": (channels, height // FACTOR, width // FACTOR), "gray": (1, height, width)}.get(asked[0])
    if len(asked) > 1 or shape is None or any(each.size != shape[1:] for each in originals):
        return None
    if asked[0] == "gray" and any(len(each.numbers) > 1 for each in originals):
        return None
    return items_of(originals, windows_of(originals, shape), shape, config.value_range)[0]


def _check_sizes(whole: list[Original], originals: list[Original], path: Path) -> None:
    for one, original in zip(whole, originals, strict=True):
        if one.size != original.size:
            (height, width), (tall, wide) = one.size, original.size
            raise ValueError(f"--truth {path}: {one.name} has {width} x {height} pixels, and its image {wide} x {tall}")


def hidden_by(options: Complete, job: Job, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels of the items that are hidden, (item, *shape); all of them for views that are not masks."""
    seen = np.zeros((len(job.items), *shape), bool)
    if job.shown is not None:
        seen |= job.shown[:, None]
    for name in views_asked(options):
        if name not in ("thumbnail", "gray"):
            seen |= mask_named(name, shape, seed=options.seed, **placed(options, name))
    return ~seen


def placed(options: Complete, name: str) -> dict[str, Any]:
    """The arguments of `cogen.conditions.mask_named` for a view."""
    by_name: dict[str, dict[str, Any]] = {
        "half": {"side": options.side},
        "box": {"place": options.box},
        "random": {"share": options.share},
    }
    return by_name.get(name, {})

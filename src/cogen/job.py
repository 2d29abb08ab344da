"""The items that `cogen complete` completes, from files and options, with their masks and truths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cogen.conditions import FACTOR, mask_named
from cogen.models.data.originals import Form, Original, matched, read_originals, read_seen
from cogen.models.data.windows import Window, items_of, windows_of
from cogen.options import Complete

IMAGES_OF = {"fashion": "fashion", "colour": "cifar10"}
"""Shipped test images by shipped generator; the others complete digits."""

FLAT = 1e-3
"""A spread of seen pixels below which they are a single value."""


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
    :param value_range: the values of black and white pixels of the images in the generator's units.
    :param factor: side of the squares of pixels that a thumbnail averages.
    :param notes: remarks about the images; ``warnings`` are likely faults.
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
    value_range: tuple[float, float] = (0.0, 1.0)
    factor: int = FACTOR
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
    if options.mask is None and options.invert_mask:
        raise ValueError("--invert-mask: it needs --mask")
    if options.mask is not None and options.images is None:
        raise ValueError(f"--mask {options.mask}: it needs --images, the images with this mask")
    if options.keep_draws < 0:
        raise ValueError(f"--keep-draws {options.keep_draws}: it must not be negative")


def check_output(options: Complete) -> None:
    """Check that the output is not among the inputs.

    :raises ValueError: for an output inside of a folder of pictures, which are read with its subfolders.
    """
    output = options.output.resolve()
    inputs = {
        "--images": options.images,
        "--mask": None if options.mask is None else Path(options.mask),
        "--truth": options.truth,
    }
    for option, path in inputs.items():
        if path is not None and path.is_dir() and path.resolve() in (output, *output.parents):
            raise ValueError(f"--output {options.output}: it is inside of {option} {path}; give another folder")


def job_of(options: Complete, config: Any) -> Job:
    """The items for a generator or an energy with this configuration.

    :raises ValueError: for images, masks or truths that do not fit.
    :raises OSError: for files that cannot be read.
    """
    shape, asked = tuple(config.event_shape), views_asked(options)
    if len(shape) != 3:
        raise ValueError(f"the generator makes events of shape {shape}, which are not images; use `cogen fill` for tables")
    found = _originals(options, config)
    originals = found[: options.count]
    low, high = config.value_range
    job = Job(np.zeros(0), [], originals, [], total=len(found), value_range=(high, low) if options.negative else (low, high))
    if options.images is not None and len(found) > len(originals):
        job.notes.append(f"completed {len(originals)} of {len(found)} images; use --count {len(found)} for all")
    if options.mask is not None:
        return _masked(options, job, shape)
    factor = _factor(asked, originals, shape)
    if factor is not None:
        return _observed(options, job, shape, factor)
    if options.truth is not None:
        raise ValueError(f"--truth {options.truth}: it needs --mask, thumbnails or gray images; whole images are the truth")
    if options.fit is None:
        _check_thumbnails(asked, originals, shape)
    windows = windows_of(originals, shape, options.fit)
    items, _ = items_of(originals, windows, shape, job.value_range)
    if np.isnan(items).any():
        raise ValueError(f"{options.images} contains NaN: use --mask nan if these are the pixels to complete")
    if clear := [each.name for each in originals if each.opaque is not None and (each.opaque < 0.5).any()]:
        named = ", ".join(clear[:4]) + (", ..." if len(clear) > 4 else "")
        job.notes.append(f"note: {named}: transparent pixels were taken as white; use --mask alpha to complete them")
    return replace(job, items=items, names=_names(options, originals, windows), windows=windows, truth=items)


def _masked(options: Complete, job: Job, shape: tuple[int, ...]) -> Job:
    """The job with a mask."""
    assert options.mask is not None
    originals = job.originals
    with _option_named(f"--mask {options.mask}"):
        seen = read_seen(options.mask, originals, invert=options.invert_mask, total=job.total)
    windows = windows_of(originals, shape, options.fit, seen)
    items, shown = items_of(originals, windows, shape, job.value_range, seen)
    names = _names(options, originals, windows)
    if all(np.ptp(item[:, where], axis=1).max() < FLAT for item, where in zip(items, shown, strict=True) if where.any()):
        inverted = "without --invert-mask" if options.invert_mask else "with --invert-mask"
        job.warnings.append(
            "the seen part of every image has a single value, which says little about the rest. If the mask is the wrong way"
            f" round, run {inverted}."
        )
    truth = None
    if options.truth is not None:
        with _option_named(f"--truth {options.truth}"):
            whole = matched(
                read_originals(options.truth, shape, options.range), originals, f"--truth {options.truth}", job.total
            )
        _check_sizes(whole, originals, options.truth)
        truth, _ = items_of(whole, windows, shape, job.value_range)
    return replace(job, items=items, names=names, windows=windows, seen=seen, shown=shown, truth=truth)


def _observed(options: Complete, job: Job, shape: tuple[int, ...], factor: int) -> Job:
    """The job of images that are the data of a view: thumbnails, or gray images."""
    originals = job.originals
    channels, height, width = shape
    of_view = (channels, height // factor, width // factor) if factor > 1 else (1, height, width)
    windows = windows_of(originals, of_view)
    items = items_of(originals, windows, of_view, job.value_range)[0]
    truth = None
    if options.truth is not None:
        with _option_named(f"--truth {options.truth}"):
            files = read_originals(options.truth, shape, options.range)
            whole = matched(files, originals, f"--truth {options.truth}", job.total)
            truth = items_of(whole, windows_of(whole, shape, options.fit), shape, job.value_range)[0]
    whole_image = windows_of(originals, shape, "resize")
    factor = factor if factor > 1 else FACTOR
    names = [_name(each) for each in originals]
    return replace(job, items=items, names=names, windows=whole_image, truth=truth, observed=True, factor=factor)


def _names(options: Complete, originals: list[Original], windows: list[Window]) -> list[str]:
    """Of the items: those of the images, and with ``--fit patch`` left and top of the part."""
    patch = options.fit == "patch"
    return [_name(originals[w.original]) + (f" ({w.left}, {w.top})" if patch else "") for w in windows]


@contextmanager
def _option_named(option: str) -> Iterator[None]:
    """Errors of files name the option that they come from."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        kind, message = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError, str(error)
        raise kind(message if message.startswith("--") else f"{option}: {message}") from None


def context_items(job: Job, options: Complete, path: Path, option: str, shape: Sequence[int], value_range: Any) -> np.ndarray:
    """Condition images of the items, (item, *shape), cropped or resized as these.

    :raises ValueError: for missing images and sizes that differ from the originals.
    """
    of_array = options.range if path.suffix.lower() in (".npy", ".npz") else None
    with _option_named(option):
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
        with _option_named(f"--images {options.images}"):
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


def _factor(asked: tuple[str, ...], originals: list[Original], shape: tuple[int, ...]) -> int | None:
    """The size of the generator's images over that of the thumbnails that the originals are, 1 for gray images; None for whole
    images."""
    if len(asked) > 1 or asked[0] not in ("thumbnail", "gray"):
        return None
    if asked[0] == "gray":
        return 1 if all(each.size == shape[1:] and len(each.numbers) == 1 for each in originals) else None
    found = {_times(each.size, shape) for each in originals}
    return found.pop() if len(found) == 1 else None


def _times(size: tuple[int, int], shape: tuple[int, ...]) -> int | None:
    """How many times smaller than the generator's images a picture is, a whole number above one; None otherwise."""
    factor = shape[1] // size[0]
    return factor if factor > 1 and (size[0] * factor, size[1] * factor) == tuple(shape[1:]) else None


def _check_thumbnails(asked: tuple[str, ...], originals: list[Original], shape: tuple[int, ...]) -> None:
    """Check pictures that could be thumbnails.

    :raises ValueError: for thumbnails without their view, or of a size that does not divide the generator's.
    """
    for each in originals:
        height, width = each.size
        if factor := _times(each.size, shape):
            raise ValueError(
                f"{each.name} is {width} x {height} pixels, 1/{factor} of the generator's {shape[2]} x {shape[1]}: use --view"
                " thumbnail alone to enlarge thumbnails of one size, or --fit resize to take them as whole images"
            )
        if asked == ("thumbnail",) and height < shape[1] and width < shape[2]:
            raise ValueError(
                f"--view thumbnail: {each.name} is {width} x {height} pixels, which does not divide the generator's"
                f" {shape[2]} x {shape[1]}: resize the thumbnails to a half, a quarter or another whole part of it"
            )


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

"""Contexts of a generator or an energy from the options of `cogen complete`: classes and condition images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cogen.job import Job, context_items, hidden_by
from cogen.options import Complete
from cogen.unknown_class import infers_class, label_words


def contexts_given(options: Complete, network: Any, job: Job) -> dict[str, Any]:
    """Contexts by name: a class or a condition image for each item. Classes that are to be inferred are left out.

    A network that fills in hidden pixels takes as its condition the images with gray at the hidden pixels, if none is given.

    :raises ValueError: for missing, unknown or invalid contexts.
    """
    from cogen.models.contexts import Classes

    contexts, images = network.config.contexts, job.items
    files = _files(options, {name for name, each in contexts.items() if not isinstance(each, Classes)})
    given: dict[str, Any] = {}
    for name, each in contexts.items():
        if isinstance(each, Classes):
            if not infers_class(options):
                given[name] = _label(options, each, len(images))
        elif name not in files and network.config.arguments.get("fills"):
            given[name] = _hidden(options, job, images, each.value_range or (-1.0, 1.0))
        else:
            given[name] = _condition_images(options, job, name, each, files.get(name))
    if options.label and not any(isinstance(each, Classes) for each in contexts.values()):
        raise ValueError(f"--label {' '.join(options.label)}: {options.generator} is not conditional on a class; omit it")
    return given


def _files(options: Complete, names: set[str]) -> dict[str, Path]:
    """Paths of condition images by the names of their contexts."""
    files: dict[str, Path] = {}
    for text in options.context:
        name, equals, path = text.partition("=")
        if not (equals and path) or name not in names:
            have = " or ".join(f"--context {other}=PICTURES" for other in sorted(names))
            raise ValueError(
                f"--context {text}: {options.generator} takes "
                + (f"{have}" if have else "no images but those that are completed")
            )
        if name in files:
            raise ValueError(f"--context {text}: {name} is given twice")
        files[name] = Path(path)
    return files


def _hidden(options: Complete, job: Job, images: np.ndarray, value_range: tuple[float, float]) -> np.ndarray:
    """The images with gray at the hidden pixels, and a mask (`cogen.models.data.pairs.centre_hidden`)."""
    from cogen.models.data.pairs import GRAY, hidden_where

    low, high = value_range
    seen = ~hidden_by(options, job, images.shape[1:])[:, 0]
    return hidden_where(images, seen, low + GRAY / 255 * (high - low), value_range)


def _condition_images(options: Complete, job: Job, name: str, context: Any, path: Path | None) -> np.ndarray:
    """Condition images of a context, one for each item."""
    if path is None:
        raise ValueError(
            f"{options.generator} needs condition images: give --context {name}=PICTURES, one picture for all images or a"
            f" folder with one of the same name for each, of shape {tuple(context.shape)}"
        )
    value_range = context.value_range or (-1.0, 1.0)
    return context_items(job, options, path, f"--context {name}={path}", context.shape, value_range)


def _label(options: Complete, classes: Any, count: int) -> np.ndarray:
    """The classes of the items."""
    label = label_words(options)
    shown = " ".join(label)
    if not label:
        raise ValueError(
            f"generator {options.generator} is conditional on {classes.count} classes: give --label, one class for all images"
            " or one for each, or --label unknown to infer the class of each image"
        )
    if len(label) not in (1, count):
        raise ValueError(f"--label {shown}: {len(label)} classes for {count} images: give one for all or one for each")
    label = label * count if len(label) == 1 else label
    named = classes.names is not None and set(label) <= set(classes.names)
    if not named and not all(word.isdecimal() for word in label):
        names = f", or one of {', '.join(classes.names)}" if classes.names else ""
        raise ValueError(f"--label {shown}: a class is an integer from 0 on{names}")
    try:
        return classes.observe("label", label if named else [int(word) for word in label]).argmax(axis=1)
    except ValueError as error:
        reason = str(error).removeprefix("context 'label': ")
        raise ValueError(f"--label {shown}: {reason}") from None

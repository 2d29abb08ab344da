"""`report.html`: a run of `cogen complete` as one self-contained page."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cogen.answer import Answer
from cogen.images import Completed
from cogen.job import Job, views_asked
from cogen.models.data.windows import in_channels, resampled
from cogen.options import Complete
from cogen.output import in_options
from cogen.unknown_class import of_item

SHOWN, BYTES = 48, 2_200_000
"""Images on the page: at most so many, and fewer where their pictures would take more bytes (in base64)."""

LARGEST, LARGEST_OF_PATH = 192, 96
"""Pixels of the longer side of a picture on the page."""

LOSSLESS = 64
"""Pictures of at most so many pixels a side are PNGs, others WebP."""

HIDDEN = np.array([0.72, 0.77, 0.86], np.float32)[:, None, None]
"""Colour of hidden pixels."""

PATH = {"beta": "inverse temperature", "acceptance_rate": "acceptance rate", "step_size": "step size"}
"""Statistics of the warm-up that the page shows."""


def write_report(
    folder: Path,
    options: Complete,
    job: Job,
    images: Completed,
    answer: Answer,
    metrics: dict[str, Any],
    findings: list[str] | None,
    rows: list[tuple[str, str, str]],
    notes: list[str],
) -> None:
    """Write FOLDER/report.html, from the files in the folder and the completions.

    :param rows: part, label and value of the metrics.
    :param notes: remarks that are not faults.
    """
    from jinja2 import Environment

    cards = _cards(job, images, answer)
    template = files("cogen").joinpath("report.html.jinja").read_text(encoding="utf-8")
    asked = [f"--mask {options.mask}"] if options.mask is not None else []
    page = (
        Environment(autoescape=True)
        .from_string(template)
        .render(
            generator=options.generator,
            sampler=metrics["sampler"],
            seen=" ".join([*asked, *(f"--view {name}" for name in views_asked(options))]),
            count=len(images.originals),
            parts=len(job.items) if options.fit == "patch" else 0,
            chains=options.num_chains,
            samples=options.samples,
            findings=None if findings is None else [in_options(each) for each in findings],
            notes=notes,
            cards=cards,
            left_out=len(images.originals) - len(cards),
            rows=rows,
            items=_item_rows(job, metrics, answer),
            annealing=_uri("png", plot.read_bytes()) if (plot := folder / "annealing.png").is_file() else None,
            path=_path(answer),
            scored=job.truth is not None,
            settings=(folder / "run.toml").read_text(encoding="utf-8"),
            fit=options.fit,
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _cards(job: Job, images: Completed, answer: Answer) -> list[dict[str, Any]]:
    """The cards of the first images, at least one, as many as `SHOWN` and `BYTES` allow."""
    found: list[dict[str, Any]] = []
    total, largest = 0, max(float(spread.max()) for spread in images.spread)
    for k in range(min(SHOWN, len(images.originals))):
        card = _card(job, images, k, largest)
        of_image = [item for item, window in enumerate(job.windows) if window.original == k] if answer.classes else []
        card["classes"] = of_item(answer.classes, of_image[0]) if len(of_image) == 1 else ""
        total += sum(map(len, [*card["draws"], *card["path"], *(each for each in card.values() if isinstance(each, str))]))
        if found and total > BYTES:
            break
        found.append(card)
    return found


def _card(job: Job, images: Completed, k: int, largest: float) -> dict[str, Any]:
    """The pictures of an image on the page; ``largest`` is the standard deviation of the brightest colour."""
    original = images.originals[k]
    name = original.name if original.form.layout is None else f"{original.name} {original.index}"
    truth = original.shown if job.seen is None and not job.observed else None
    return {
        "name": name,
        "size": f"{original.size[1]} x {original.size[0]}",
        "seen": _encoded(_seen(job, images, k)),
        "mean": _encoded(images.whole(k, images.mean[k])),
        "sd": _encoded(_heat(images.spread[k], largest)),
        "truth": None if truth is None else _encoded(truth),
        "draws": [_encoded(images.whole(k, draw)) for draw in images.draws[k]],
        "path": [] if images.path is None else [_encoded(images.whole(k, made), LARGEST_OF_PATH) for made in images.path[k]],
    }


def _seen(job: Job, images: Completed, k: int) -> np.ndarray:
    """The image with hidden pixels coloured; unchanged if it is the data of a view."""
    shown = np.nan_to_num(job.originals[k].shown)
    if images.seen is None or not images.seen[k].any():
        return shown
    return np.where(images.seen[k], in_channels(shown, 3), HIDDEN)


def _heat(spread: np.ndarray, largest: float) -> np.ndarray:
    from matplotlib import colormaps

    share = np.sqrt(np.square(spread).mean(axis=0)) / max(largest, 1e-12)
    return np.asarray(colormaps["magma"](np.clip(share, 0, 1)))[..., :3].transpose(2, 0, 1).astype(np.float32)


def _encoded(pixels: np.ndarray, largest: int = LARGEST) -> str:
    """A picture of (channel, height, width) as a data URI, its longer side at most ``largest`` pixels."""
    from PIL import Image

    height, width = pixels.shape[1:]
    scale = min(1.0, largest / max(height, width))
    if scale < 1:
        pixels = resampled(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
    numbers = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    stream = io.BytesIO()
    picture = Image.fromarray(numbers[0] if len(numbers) == 1 else numbers.transpose(1, 2, 0))
    if max(picture.size) <= LOSSLESS:
        picture.save(stream, "PNG", optimize=True)
        return _uri("png", stream.getvalue())
    picture.save(stream, "WEBP", quality=85)
    return _uri("webp", stream.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _item_rows(job: Job, metrics: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """A table of the items: headings and rows."""
    texts = {"class (probability +- standard error)": [of_item(answer.classes, k) for k in range(len(job.names))]}
    texts = texts if answer.classes else {}
    columns = {
        "residual of the seen part": np.sqrt(np.asarray(metrics["per_item"]["observed_mse"], float)),
        "log evidence": np.asarray(metrics["log_evidence"], float),
        "CRPS": np.asarray(metrics["per_item"].get("hidden_crps", [np.nan]), float),
        "PSNR of the mean (dB)": np.asarray(metrics["per_item"].get("psnr", [np.nan]), float),
    }
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    rows = [
        [name, *(text[k] for text in texts.values()), *(f"{values[k]:.4g}" for values in known.values())]
        for k, name in enumerate(job.names)
    ]
    return {"heads": ["image", *texts, *known], "rows": rows[:SHOWN]}


def _path(answer: Answer) -> str | None:
    """Statistics of the annealing by point, means over items and chains, as JSON; None without an annealing.

    The points are those of ``answer.path``, or all that were recorded.
    """
    from cogen.diagnostics.groups import group, has_group

    if not has_group(answer.posterior, "warmup_sample_stats"):
        return None
    recorded = group(answer.posterior, "warmup_sample_stats")
    if "beta" not in recorded:
        return None
    points = np.arange(recorded.sizes["draw"]) if answer.path_draws is None else answer.path_draws
    found: dict[str, list[float]] = {"transition": [int(number) + 1 for number in recorded["transition"].values[points]]}
    for name, label in PATH.items():
        if name in recorded:
            values = recorded[name]
            means = values.mean([dim for dim in values.dims if dim != "draw"], skipna=True).values[points]
            found[label] = [float(f"{value:.4g}") for value in means]
    return json.dumps(found)

"""`report.html`: a run of `cogen complete` on one page that needs no network."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from cogen.images import Completed
from cogen.job import Job, views_asked
from cogen.models.data.windows import in_channels, resampled
from cogen.options import Complete
from cogen.output import in_options

SHOWN = 48
"""Images on the page."""

LARGEST = 192
"""Pixels of their longer side there."""

HIDDEN = np.array([0.72, 0.77, 0.86], np.float32)[:, None, None]
"""The colour of what is not seen."""


PATH = {"beta": "inverse temperature", "acceptance_rate": "acceptance rate", "step_size": "step size"}
"""What is told of every transition of an annealing."""


def write_report(
    folder: Path,
    options: Complete,
    job: Job,
    images: Completed,
    posterior: Any,
    metrics: dict[str, Any],
    findings: list[str] | None,
    rows: list[tuple[str, str, str]],
    notes: list[str],
) -> None:
    """Write FOLDER/report.html, of what stands in the folder and what was made.

    :param rows: part, label and value of what was measured.
    :param notes: what is worth knowing and no fault.
    """
    from jinja2 import Environment

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
            chains=options.chains,
            samples=options.samples,
            findings=None if findings is None else [in_options(each) for each in findings],
            notes=notes,
            cards=[_card(job, images, k) for k in range(min(SHOWN, len(images.originals)))],
            left_out=max(0, len(images.originals) - SHOWN),
            rows=rows,
            items=_item_rows(job, metrics),
            annealing=_encoded_file(folder / "annealing.png"),
            path=_path(posterior),
            scored=job.truth is not None,
            settings=(folder / "run.toml").read_text(encoding="utf-8"),
            fit=options.fit,
        )
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _card(job: Job, images: Completed, k: int) -> dict[str, Any]:
    """What the page shows of an image."""
    original = images.originals[k]
    name = original.name if original.form.layout is None else f"{original.name} {original.index}"
    largest = max(float(spread.max()) for spread in images.spread)
    truth = original.shown if job.seen is None and not job.observed else None
    return {
        "name": name,
        "size": f"{original.size[1]} x {original.size[0]}",
        "seen": _encoded(_seen(job, images, k)),
        "mean": _encoded(images.whole(k, images.mean[k])),
        "sd": _encoded(_heat(images.spread[k], largest)),
        "truth": None if truth is None else _encoded(truth),
        "draws": [_encoded(images.whole(k, draw)) for draw in images.draws[k]],
    }


def _seen(job: Job, images: Completed, k: int) -> np.ndarray:
    """The image with what is hidden in a colour of its own, or as it came in where it is what a view shows."""
    shown = np.nan_to_num(job.originals[k].shown)
    if images.seen is None or not images.seen[k].any():
        return shown
    return np.where(images.seen[k], in_channels(shown, 3), HIDDEN)


def _heat(spread: np.ndarray, largest: float) -> np.ndarray:
    from matplotlib import colormaps

    share = np.sqrt(np.square(spread).mean(axis=0)) / max(largest, 1e-12)
    return np.asarray(colormaps["magma"](np.clip(share, 0, 1)))[..., :3].transpose(2, 0, 1).astype(np.float32)


def _encoded(pixels: np.ndarray) -> str:
    """A PNG of (channel, height, width), not larger than the page shows it."""
    from PIL import Image

    height, width = pixels.shape[1:]
    scale = min(1.0, LARGEST / max(height, width))
    if scale < 1:
        pixels = resampled(pixels, (max(1, round(scale * height)), max(1, round(scale * width))))
    numbers = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(numbers[0] if len(numbers) == 1 else numbers.transpose(1, 2, 0)).save(stream, "PNG", optimize=True)
    return base64.b64encode(stream.getvalue()).decode()


def _encoded_file(path: Path) -> str | None:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def _item_rows(job: Job, metrics: dict[str, Any]) -> dict[str, Any]:
    """A table of the items: heads, and a row for each."""
    columns = {
        "residual of the seen part": np.sqrt(np.asarray(metrics["per_item"]["observed_mse"], float)),
        "log evidence": np.asarray(metrics["log_evidence"], float),
        "CRPS": np.asarray(metrics["per_item"].get("hidden_crps", [np.nan]), float),
        "PSNR of the mean (dB)": np.asarray(metrics["per_item"].get("psnr", [np.nan]), float),
    }
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    rows = [[name, *(f"{values[k]:.4g}" for values in known.values())] for k, name in enumerate(job.names)]
    return {"heads": ["image", *known], "rows": rows[:SHOWN]}


def _path(posterior: Any) -> str | None:
    """The means over items and chains of what is told of the annealing, by transition, as JSON; None without one."""
    from cogen.diagnostics.groups import group, has_group

    if not has_group(posterior, "warmup_sample_stats"):
        return None
    told = group(posterior, "warmup_sample_stats")
    if "beta" not in told:
        return None
    found = {}
    for name, label in PATH.items():
        if name in told:
            values = told[name]
            means = values.mean([dim for dim in values.dims if dim != "draw"], skipna=True).values
            found[label] = [float(f"{value:.4g}") for value in means]
    return json.dumps(found)

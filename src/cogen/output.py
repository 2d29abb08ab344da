"""Output of the commands: atomic output folders, JSON, posteriors, diagnostics."""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cogen.inference.whole_files import move_whole


def is_written(name: str, patterns: Sequence[str]) -> bool:
    """Whether a command writes files of this name, given regular expressions of its files."""
    return any(re.fullmatch(pattern, name) for pattern in patterns)


class Workplace:
    """A temporary folder beside the output: its files are moved there at the end, or removed after an error.

    :param patterns: names that the command writes, relative to the output (`is_written`). Files of an earlier run with such
        names are removed.
    :raises ValueError: on entry, for an output that is not a folder.
    :raises PermissionError: on entry, for a folder that cannot be written.
    """

    def __init__(self, output: Path, patterns: Sequence[str]) -> None:
        self.output, self.patterns = output, patterns

    def __enter__(self) -> str:
        if self.output.exists() and not self.output.is_dir():
            raise ValueError(f"--output {self.output}: a file of this name exists")
        parent = next(p for p in (self.output, *self.output.absolute().parents) if p.exists())
        if not parent.is_dir():
            raise ValueError(f"--output {self.output}: {parent} is a file, not a folder")
        if not os.access(parent, os.W_OK):
            raise PermissionError(13, "cannot be written", str(parent))
        self._folder = tempfile.TemporaryDirectory(prefix=".cogen-", dir=parent)
        return self._folder.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            made = Path(self._folder.name)
            self.output.mkdir(parents=True, exist_ok=True)
            for top in list(self.output.iterdir()):
                if top.is_dir() and not (made / top.name).is_dir():
                    continue  # nothing is written there
                for old in sorted(top.rglob("*") if top.is_dir() else [top]):
                    if old.is_file() and is_written(old.relative_to(self.output).as_posix(), self.patterns):
                        old.unlink()
                        _remove_empty(old.parent, self.output)
            for path in sorted(made.rglob("*")):
                if path.is_file():
                    target = self.output / path.relative_to(made)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    move_whole(path, target)
        self._folder.__exit__(kind, error, trace)


def _remove_empty(folder: Path, below: Path) -> None:
    """Remove a folder and its parents up to ``below`` if they are empty."""
    while folder != below and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


@contextmanager
def checkpoint_beside(output: Path) -> Iterator[None]:
    """Rephrase errors of the checkpoint beside ``--output`` in terms of this option."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("checkpoint "):
            raise
        message = str(error).replace("give another folder", "give another --output")
        raise ValueError(f"--output {output}: {message}") from None


@contextmanager
def checkpoint_named(folder: Path | None) -> Iterator[None]:
    """Rephrase errors of the checkpoint that ``--checkpoint`` names in terms of this option."""
    try:
        yield
    except ValueError as error:
        if folder is None or not str(error).startswith("checkpoint "):
            raise
        raise ValueError(f"--{error}") from None


def strict_json(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: strict_json(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [strict_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_posterior(path: Path) -> Any:
    """The ArviZ object in a NetCDF file.

    :raises ValueError: for any other file.
    """
    try:
        import arviz

        if arviz.__version__.startswith("0."):
            return arviz.from_netcdf(str(path), engine="h5netcdf")
        import xarray

        return xarray.open_datatree(path, engine="h5netcdf")
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a posterior of infer ({error})") from None


UNTUNED = "Use more temperatures, or weights"
"""What `cogen.diagnostics.diagnose` advises if chains disagree."""

IN_OPTIONS = {
    "Check the range of the data and the generator. If both are right, use": "Check that the generator makes such images, in"
    " their colours (--negative), and that the mask is the right way round (--invert-mask). Otherwise use",
    "If that does not help, use a more flexible guide, or anneal from this one (GuideStart)": "If that does not help, use"
    " --algorithm annealed-hmc",
    "a lower resampling threshold": "a lower --threshold",
    "more draws at beta = 1": "more --samples",
    " (adapted = 1), so": ", so",
    UNTUNED: "Find a schedule with `cogen tune`, or use more temperatures (--warmup) or weights",
    "(weighted=True)": "(--weighted)",
    "(num_warmup)": "(--warmup)",
    "(pilot=16)": "(--pilot 16)",
    "(initial=)": "(--guide)",
    "a smaller step size": "a smaller step size (--set step_size=0.05)",
    "a larger noise scale": "a larger noise scale (--noise)",
    "Use more chains": "Use more --chains",
    "Draw more samples": "Draw more --samples",
    "Run longer": "Run longer (--warmup, --samples)",
    "more temperatures,": "more temperatures (--warmup),",
}
"""Remedies of `cogen.diagnostics.diagnose` as options of `cogen complete`."""


def in_options(sentence: str, options: Mapping[str, str] = IN_OPTIONS) -> str:
    """A finding of `cogen.diagnostics.diagnose`, with its remedies as options of a command.

    :param options: phrases about parameters of `infer`, and their replacements.
    """
    for parameter, option in options.items():
        sentence = sentence.replace(parameter, option)
    return sentence


def print_findings(sentences: list[str], options: Mapping[str, str] = IN_OPTIONS) -> None:
    """Print the findings of a posterior, one a line, in terms of a command's options."""
    if not sentences:
        print("nothing looks wrong")
    for sentence in sentences:
        print(f"! {in_options(sentence, options)}")

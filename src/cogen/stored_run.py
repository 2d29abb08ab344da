"""Finished runs of `cogen complete` in Python: the posterior and its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cogen.configuration import read_configuration
from cogen.inference.signatures import ArvizObject
from cogen.output import read_posterior

if TYPE_CHECKING:
    from cogen.models.cogenerator import CoGenerator


def load_run(folder: str | Path) -> tuple[ArvizObject, CoGenerator]:
    """The ArviZ object in an output folder of `cogen complete`, and the conditioned model rebuilt from its run.toml.

    >>> posterior, seen = load_run("cogen-output")  # doctest: +SKIP
    >>> x = cogen.diagnostics.decoded(posterior, seen)  # doctest: +SKIP

    Files that the run used (images, masks, generators) are read again.

    :raises FileNotFoundError: for a missing file.
    :raises ValueError: for files that are not those of a run.
    """
    from cogen.completion import conditioned_model

    folder = Path(folder)
    for name in ("posterior.nc", "run.toml"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} contains no {name}: give an output folder of `cogen complete`")
    return read_posterior(folder / "posterior.nc"), conditioned_model(read_configuration(folder / "run.toml"))

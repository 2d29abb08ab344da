"""A finished run of `cogen complete` in Python again: its posterior, and the model that it is of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cogen.configuration import read_configuration
from cogen.output import read_posterior


def load_run(folder: str | Path) -> tuple[Any, Any]:
    """The ArviZ object in the output folder of `cogen complete`, and the conditioned model, made anew of its run.toml.

    >>> posterior, seen = load_run("cogen-output")  # doctest: +SKIP
    >>> x = cogen.diagnostics.decoded(posterior, seen)  # doctest: +SKIP

    Files that the run named (images, masks, generators) are read again. Raises FileNotFoundError where one is missing, and
    ValueError for a folder that holds no run.
    """
    from cogen.completion import conditioned_model

    folder = Path(folder)
    for name in ("posterior.nc", "run.toml"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} holds no {name}: give the output folder of `cogen complete`")
    return read_posterior(folder / "posterior.nc"), conditioned_model(read_configuration(folder / "run.toml"))

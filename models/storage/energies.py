"""Storage of energies: NAME.safetensors and NAME.json (`EnergyConfig`), with the Langevin steps of their training, if any.

Neither file can run code (`cogen.models.storage.stored`). In a cooperative pair the initializer is NAME, an ordinary generator,
and the energy is stored beside it as NAME-solver.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from cogen.inference.signatures import JSON
from cogen.inference.torch.short_run import ShortRun
from cogen.models.contexts import Context, contexts_of
from cogen.models.networks.energies import ENERGIES
from cogen.models.storage import stored
from cogen.models.storage.generators import find_generator, load_generator

SOLVER = "-solver"
"""Suffix of an energy, after the name of its initializer."""


@dataclass(frozen=True)
class EnergyConfig:
    """The configuration of an energy, the content of its JSON file.

    :param architecture: a key of `ENERGIES`.
    :param arguments: keyword arguments of the architecture.
    :param event_shape: shape of one y.
    :param value_range: least and greatest value of y.
    :param run: the `ShortRun` of its training, or the arguments of one. With a reference and temperature one the energy defines
        the density that `EnergyModel` samples. None for other training methods, such as that of a Boltzmann machine.
    :param name: for display, as are the next three.
    :param training_data: the training set.
    :param licence: licence of the weights.
    :param description: one line.
    :param figures: measurements from training.
    :param contexts: inputs besides y, by name, `Classes` or `Array`.
    """

    architecture: str
    arguments: Mapping[str, JSON]
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    run: ShortRun | None = None
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, JSON] = field(default_factory=dict)
    contexts: Mapping[str, Context] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stored.check_config(self)
        stored.check(self, isinstance(self.figures, Mapping), "figures", "a mapping")
        if self.run is not None and not isinstance(self.run, ShortRun):
            stored.check(self, isinstance(self.run, Mapping), "run", "the arguments of a ShortRun")
            try:
                object.__setattr__(self, "run", ShortRun(**self.run))
            except TypeError as error:
                raise ValueError(f"run: {str(error).removeprefix('ShortRun.__init__() ')}") from None
        object.__setattr__(self, "contexts", contexts_of(self.contexts))


def save_energy(path: str | Path, energy: nn.Module, config: EnergyConfig) -> Path:
    """Write PATH.safetensors and PATH.json, each atomically. Returns the path of the weights."""
    return stored.write_pair(path, asdict(config), stored.packed(energy))


def is_energy(path: str | Path) -> bool:
    """Whether the path found by `find_generator` is an energy."""
    try:
        beside = find_generator(path).with_suffix(".json")
        return json.loads(beside.read_text(encoding="utf-8"))["architecture"] in ENERGIES
    except (OSError, ValueError, TypeError, KeyError):
        return False


def load_energy(path: str | Path) -> nn.Module:
    """Load a frozen energy in evaluation mode, with its configuration as `.config`.

    It maps y (batch, *event_shape), and its contexts if it has any, to (batch,).

    :raises FileNotFoundError: if one of the two files is missing.
    :raises ValueError: for an invalid file.
    """
    path, beside = stored.both_files(path, "an energy")
    config = stored.read_json(beside, EnergyConfig)

    def made(energy: nn.Module) -> tuple[int, ...]:
        context = {name: each.points(2) for name, each in config.contexts.items()}
        return tuple(energy(torch.zeros(2, *config.event_shape), **context).shape)

    energy, shape = stored.build(config, ENERGIES, made, beside)
    if shape != (2,):
        raise ValueError(f"{beside}: an energy returns one number per y, but the architecture returns shape {shape} for two")
    return stored.frozen(energy, config, path)


def load_initializer(solver: str | Path) -> nn.Module | None:
    """Load the generator beside the energy of a cooperative pair; None if there is none."""
    path = stored.with_suffix(Path(solver), ".safetensors")
    beside = path.with_name(f"{path.stem.removesuffix(SOLVER)}.safetensors")
    return load_generator(beside) if path.stem.endswith(SOLVER) and beside.is_file() else None


def load_solver(generator: str | Path) -> nn.Module | None:
    """Load the energy beside an initializer; None if there is none.

    :raises FileNotFoundError: if there is no such generator, and as `load_energy`.
    :raises ValueError: as `load_energy`.
    """
    path = find_generator(generator)
    path = path.with_name(f"{path.stem}{SOLVER}.safetensors")
    return load_energy(path) if path.is_file() else None

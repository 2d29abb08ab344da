"""Energies on disk: NAME.safetensors and NAME.json (`EnergyConfig`), with the Langevin steps that they were learned by, if any.

Neither file can run code (`cogen.models.storage.stored`). Of a cooperative pair the initializer is NAME, a generator like any
other, and the energy lies beside it as NAME-solver.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cogen.inference.torch.short_run import ShortRun
from cogen.models.contexts import Context, contexts_of
from cogen.models.networks.energies import ENERGIES
from cogen.models.storage import stored
from cogen.models.storage.generators import find_generator, load_generator

SOLVER = "-solver"
"""What follows an initializer's name in that of its energy."""


@dataclass(frozen=True)
class EnergyConfig:
    """What an energy is and takes; the content of its JSON file.

    :param architecture: a key of `ENERGIES`.
    :param arguments: keyword arguments of the architecture.
    :param event_shape: shape of one y.
    :param value_range: least and greatest value of y.
    :param run: the `ShortRun` that it was learned by, or its arguments. With a reference and the temperature one the energy is
        the density that `EnergyModel` samples. None where it was learned otherwise, as a Boltzmann machine is.
    :param name: for people, as are the next three.
    :param training_data: what it was trained on.
    :param licence: of the weights.
    :param description: in a line.
    :param figures: what was measured when it was trained.
    :param contexts: what the energy takes besides y, by name: `Classes` or `Array`; none for most.
    """

    architecture: str
    arguments: Mapping[str, Any]
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    run: ShortRun | None = None
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
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
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    return stored.write_pair(path, asdict(config), stored.packed(energy))


def is_energy(path: str | Path) -> bool:
    """Whether what `find_generator` finds is an energy."""
    try:
        beside = find_generator(path).with_suffix(".json")
        return json.loads(beside.read_text(encoding="utf-8"))["architecture"] in ENERGIES
    except (OSError, ValueError, TypeError, KeyError):
        return False


def load_energy(path: str | Path) -> nn.Module:
    """A frozen energy in evaluation mode, with its configuration as `.config`.

    It maps y (batch, *event_shape), and a label where it has classes, to (batch,).

    Raises FileNotFoundError where one of the two files is missing, and ValueError, naming the file, for whatever is wrong
    with it.
    """
    path, beside = stored.both_files(path, "an energy")
    config = stored.read_json(beside, EnergyConfig)

    def made(energy: nn.Module) -> tuple[int, ...]:
        context = {name: each.points(2) for name, each in config.contexts.items()}
        return tuple(energy(torch.zeros(2, *config.event_shape), **context).shape)

    energy, shape = stored.build(config, ENERGIES, made, beside)
    if shape != (2,):
        raise ValueError(f"{beside}: an energy makes one number of each y, and the architecture makes {shape} of two")
    return stored.frozen(energy, config, path)


def load_initializer(solver: str | Path) -> nn.Module | None:
    """The generator that lies beside the energy of a cooperative pair; None where there is none."""
    path = stored.with_suffix(Path(solver), ".safetensors")
    beside = path.with_name(f"{path.stem.removesuffix(SOLVER)}.safetensors")
    return load_generator(beside) if path.stem.endswith(SOLVER) and beside.is_file() else None


def load_solver(generator: str | Path) -> nn.Module | None:
    """The energy that lies beside an initializer; None where there is none.

    Raises FileNotFoundError where there is no such generator, and what `load_energy` raises.
    """
    path = find_generator(generator)
    path = path.with_name(f"{path.stem}{SOLVER}.safetensors")
    return load_energy(path) if path.is_file() else None

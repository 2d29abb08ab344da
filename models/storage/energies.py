"""Energies on disk: networks from x to one number, an unnormalised log density, such as restricted Boltzmann machines.

An energy is NAME.safetensors and NAME.json (`EnergyConfig`), and neither can run code (`cogen.models.storage.stored`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cogen.models.networks.restricted_boltzmann import BernoulliRBM, GaussianRBM
from cogen.models.storage import stored

ENERGIES: dict[str, Callable[..., nn.Module]] = {"BernoulliRBM": BernoulliRBM, "GaussianRBM": GaussianRBM}
"""The architectures that a configuration may name."""


@dataclass(frozen=True)
class EnergyConfig:
    """What an energy is and takes; the content of its JSON file.

    :param architecture: a key of `ENERGIES`.
    :param arguments: keyword arguments of the architecture.
    :param event_shape: shape of one x, images as (channel, height, width).
    :param value_range: least and greatest value of x, as it was trained.
    :param name: for people, as are the next three.
    :param training_data: what it was trained on.
    :param licence: of the weights.
    :param description: in a line.
    :param figures: what was measured of it.
    """

    architecture: str
    arguments: Mapping[str, Any]
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stored.check_config(self)
        stored.check(self, isinstance(self.figures, Mapping), "figures", "a mapping")


def load_energy(path: str | Path) -> nn.Module:
    """A frozen energy in evaluation mode, with its configuration as `.config`.

    :param path: of a .safetensors file, with or without the suffix, that has its JSON file beside it.

    Raises FileNotFoundError where either is missing, and ValueError, naming the file, for whatever is wrong with them.
    """
    weights = stored.with_suffix(Path(path), ".safetensors")
    if not weights.is_file():
        raise FileNotFoundError(f"no file of weights at {weights}")
    beside = weights.with_suffix(".json")
    config = stored.read_json(beside, EnergyConfig)

    def made(network: nn.Module) -> tuple[int, ...]:
        return tuple(network(torch.zeros(2, *config.event_shape)).shape)

    network, shape = stored.build(config, ENERGIES, made, beside)
    if shape != (2,):
        raise ValueError(f"{beside}: {config.architecture} makes {shape[1:]} of each x, and an energy is one number")
    stored.fill(network, stored.read_weights(weights), weights)
    network.requires_grad_(False)
    network.config = config  # type: ignore[assignment]
    return network


def save_energy(path: str | Path, network: nn.Module, config: EnergyConfig) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    return stored.write_pair(path, asdict(config), stored.packed(network))

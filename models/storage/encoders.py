"""Encoders on disk, beside the generators they belong to: NAME-encoder.safetensors (weights) and NAME-encoder.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cogen.models.families.veegan import Reconstructor
from cogen.models.networks.architectures import ConvolutionalCritic, DenseCritic, DenseEncoder
from cogen.models.networks.encoders import FeatureEncoder, MaskedEncoder, head
from cogen.models.storage import stored


def _on_critic(critic: Callable[..., Any]) -> Callable[..., nn.Module]:
    def build(latent_dim: int, width: int, head_hidden: list[int], unit_variance: bool = False, **arguments: Any) -> nn.Module:
        return FeatureEncoder(critic(**arguments).features, head(width, latent_dim, head_hidden), unit_variance)

    return build


def _reconstructor(latent_dim: int, width: int, **arguments: Any) -> nn.Module:
    critic = ConvolutionalCritic if "channels" in arguments else DenseCritic
    return Reconstructor(nn.Sequential(critic(**arguments).features, nn.Linear(width, latent_dim)), latent_dim)


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "DenseEncoder": DenseEncoder,
    "MaskedDenseEncoder": lambda **arguments: MaskedEncoder(DenseEncoder(**arguments)),
    "OnConvolutionalCritic": _on_critic(ConvolutionalCritic),
    "OnDenseCritic": _on_critic(DenseCritic),
    "Reconstructor": _reconstructor,
}
"""The architectures that a configuration may name; "On...Critic" are a critic's features with a head."""


@dataclass(frozen=True)
class EncoderConfig:
    """What an encoder is and takes; the content of its JSON file.

    :param architecture: a key of `ENCODERS`.
    :param arguments: keyword arguments of the architecture.
    :param latent_dim: size of z.
    :param event_shape: shape of one x, images as (channel, height, width).
    :param value_range: least and greatest value of x.
    :param name: for people, as are the next three.
    :param training_data: what it was trained on.
    :param licence: of the weights.
    :param description: in a line.
    """

    architecture: str
    arguments: Mapping[str, Any]
    latent_dim: int
    event_shape: tuple[int, ...]
    value_range: tuple[float, float]
    name: str = ""
    training_data: str = ""
    licence: str = ""
    description: str = ""

    def __post_init__(self) -> None:
        stored.check_config(self)
        stored.check(self, stored.is_count(self.latent_dim), "latent_dim", "a positive integer")


def save_encoder(path: str | Path, encoder: nn.Module, config: EncoderConfig) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    return stored.write_pair(path, asdict(config), stored.packed(encoder))


def load_encoder(path: str | Path) -> nn.Module:
    """A frozen encoder in evaluation mode, with its configuration as `.config`: x -> mean and log sd, (batch, latent_dim) each.

    Raises FileNotFoundError where one of the two files is missing, and ValueError, naming the file, for whatever is wrong
    with it.
    """
    path = stored.with_suffix(Path(path), ".safetensors")
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}: an encoder is weights (.safetensors) with a .json beside them")
    config = stored.read_json(beside, EncoderConfig)

    def made(encoder: nn.Module) -> tuple[int, ...]:
        x = torch.zeros(2, *config.event_shape)
        mean, log_sd = encoder(x, x > 0) if isinstance(encoder, MaskedEncoder) else encoder(x)
        return tuple(torch.broadcast_shapes(mean.shape, log_sd.shape))

    return stored.load(path, config, ENCODERS, made, "latent_dim")

"""Storage of encoders, guides and predictors beside their generators: NAME-encoder, NAME-guide or NAME-predictor, each
.safetensors and .json.

An encoder encodes complete x, or is a `MaskedEncoder`, or a `RowEncoder` of the rows of a table; a guide is a `MaskedFlow`; a
predictor is a `LatentDescent`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cogen.models.data.tables import Schema
from cogen.models.families.veegan import Reconstructor
from cogen.models.mixed.row_encoder import RowEncoder
from cogen.models.networks.architectures import ConvolutionalCritic, DenseCritic, DenseEncoder, MixerFeatures
from cogen.models.networks.encoders import FeatureEncoder, MaskedEncoder, head
from cogen.models.networks.latent_descent import LatentDescent, latent_descent
from cogen.models.networks.masked_flow import MaskedFlow
from cogen.models.networks.translation import ConvolutionalEncoder
from cogen.models.storage import stored
from cogen.models.storage.generators import find_generator


def _on_critic(critic: Callable[..., Any]) -> Callable[..., nn.Module]:
    def build(latent_dim: int, width: int, head_hidden: list[int], unit_variance: bool = False, **arguments: Any) -> nn.Module:
        return FeatureEncoder(critic(**arguments).features, head(width, latent_dim, head_hidden), unit_variance)

    return build


def _reconstructor(latent_dim: int, width: int, **arguments: Any) -> nn.Module:
    critic = ConvolutionalCritic if "channels" in arguments else DenseCritic
    return Reconstructor(nn.Sequential(critic(**arguments).features, nn.Linear(width, latent_dim)), latent_dim)


def _masked_mixer_flow(
    latent_dim: int, event_shape: Sequence[int], width: int = 256, channels: int = 96, blocks: int = 4, **flow: Any
) -> MaskedFlow:
    doubled = (2 * event_shape[0], *event_shape[1:])
    return MaskedFlow(MixerFeatures(doubled, width, channels, blocks), width, latent_dim, **flow)


def _masked_dense_flow(
    latent_dim: int, event_shape: Sequence[int], hidden: Sequence[int] = (256, 256), **flow: Any
) -> MaskedFlow:
    doubled = (2 * event_shape[0], *event_shape[1:])
    return MaskedFlow(DenseCritic(doubled, hidden).features, hidden[-1], latent_dim, **flow)


def _row_encoder(schema: Mapping[str, Any], latent_dim: int, hidden: Sequence[int]) -> RowEncoder:
    return RowEncoder(Schema.from_json(schema), latent_dim, hidden)


ENCODERS: dict[str, Callable[..., nn.Module]] = {
    "ConvolutionalEncoder": ConvolutionalEncoder,
    "DenseEncoder": DenseEncoder,
    "LatentDescent": latent_descent,
    "MaskedDenseEncoder": lambda **arguments: MaskedEncoder(DenseEncoder(**arguments)),
    "MaskedMixerFlow": _masked_mixer_flow,
    "MaskedDenseFlow": _masked_dense_flow,
    "OnConvolutionalCritic": _on_critic(ConvolutionalCritic),
    "OnDenseCritic": _on_critic(DenseCritic),
    "Reconstructor": _reconstructor,
    "RowEncoder": _row_encoder,
}
"""The architectures of a configuration; "On...Critic" are the features of a critic with a head."""


@dataclass(frozen=True)
class EncoderConfig:
    """The configuration of an encoder, the content of its JSON file.

    :param architecture: a key of `ENCODERS`.
    :param arguments: keyword arguments of the architecture.
    :param latent_dim: size of z.
    :param event_shape: shape of one x, (channel, height, width) for images, (column,) for a `RowEncoder`.
    :param value_range: least and greatest value of x.
    :param name: for display, as are the next three.
    :param training_data: the training set.
    :param licence: licence of the weights.
    :param description: one line.
    :param figures: measurements from training.
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
    figures: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stored.check_config(self)
        stored.check(self, stored.is_count(self.latent_dim), "latent_dim", "a positive integer")


def save_encoder(path: str | Path, encoder: nn.Module, config: EncoderConfig, *, half: bool = False) -> Path:
    """Write PATH.safetensors and PATH.json, each atomically. Returns the path of the weights.

    :param half: store the weights in half precision; they are loaded in single precision.
    """
    encoder = copy.deepcopy(encoder).half() if half else encoder
    return stored.write_pair(path, asdict(config), stored.packed(encoder))


def load_encoder(path: str | Path) -> nn.Module:
    """Load a frozen encoder in evaluation mode, with its configuration as `.config`.

    :returns: a module x -> mean and log sd, (batch, latent_dim) each, or a `MaskedFlow`, or a `LatentDescent`.
    :raises FileNotFoundError: if one of the two files is missing.
    :raises ValueError: for an invalid file.
    """
    path, beside = stored.both_files(path, "an encoder")
    config = stored.read_json(beside, EncoderConfig)

    def made(encoder: nn.Module) -> tuple[int, ...]:
        x = torch.zeros(2, *config.event_shape)
        if isinstance(encoder, MaskedFlow):
            return tuple(encoder(torch.zeros(2, encoder.latent_dim), encoder.context(x, x)).shape)
        if isinstance(encoder, LatentDescent):
            condition = torch.zeros(2, *config.arguments["condition_shape"])
            return tuple(encoder(torch.zeros(2, encoder.predictor.latent_dim), condition).shape)
        mean, log_sd = encoder(x, x > 0) if isinstance(encoder, MaskedEncoder) else encoder(x)
        return tuple(torch.broadcast_shapes(mean.shape, log_sd.shape))

    return stored.load(path, config, ENCODERS, made, "latent_dim")


ENCODER, GUIDE, PREDICTOR = "-encoder", "-guide", "-predictor"
"""Suffixes of an encoder, a guide and a predictor, after the generator's name."""


def load_row_encoder(generator: str | Path) -> RowEncoder | None:
    """Load the encoder beside a generator of a table, as stored by `cogen train vae`; None if there is none.

    :raises FileNotFoundError: if there is no such generator.
    :raises ValueError: for an invalid file, and an encoder that is not a `RowEncoder`.
    """
    encoder = _beside(generator, ENCODER)
    if encoder is not None and not isinstance(encoder, RowEncoder):
        raise ValueError(f"{generator}{ENCODER} is a {type(encoder).__name__}, not an encoder of rows: remove it")
    return encoder


def load_guide(generator: str | Path) -> MaskedFlow | None:
    """Load the guide beside a generator, a shipped name or a path; None if there is none.

    :raises FileNotFoundError: if there is no such generator, and as `load_encoder`.
    :raises ValueError: as `load_encoder`.
    """
    return _beside(generator, GUIDE)


def load_predictor(generator: str | Path) -> LatentDescent | None:
    """Load the predictor beside a generator, as stored by `cogen train cgml`; None if there is none.

    :raises FileNotFoundError: as `load_guide`.
    :raises ValueError: as `load_guide`.
    """
    return _beside(generator, PREDICTOR)


def _beside(generator: str | Path, suffix: str) -> Any:
    path = find_generator(generator)
    path = path.with_name(f"{path.stem}{suffix}.safetensors")
    return load_encoder(path) if path.is_file() else None

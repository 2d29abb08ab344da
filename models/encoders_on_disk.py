"""Encoders on disk, beside the generators they belong to: NAME-encoder.safetensors (weights) and NAME-encoder.json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cogen.models.encoders import FeatureEncoder, MaskedEncoder, head
from cogen.models.generators import _fill, _packed, _read_safetensors, _with_suffix, _write_pair
from cogen.models.networks import ConvolutionalCritic, DenseCritic, DenseEncoder
from cogen.models.veegan import Reconstructor


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

    Attributes:
        architecture: a key of `ENCODERS`.
        arguments: keyword arguments of the architecture.
        latent_dim: size of z.
        event_shape: shape of one x, images as (channel, height, width).
        value_range: least and greatest value of x.
        name, training_data, licence, description: for people.
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


def save_encoder(path: str | Path, encoder: nn.Module, config: EncoderConfig) -> Path:
    """Write PATH.safetensors and PATH.json; each appears whole or not at all. Returns the path of the weights."""
    return _write_pair(path, asdict(config), _packed(encoder))


def load_encoder(path: str | Path) -> nn.Module:
    """A frozen encoder in evaluation mode, with its configuration as `.config`: x -> mean and log sd, (batch, latent_dim) each.

    Raises FileNotFoundError where one of the two files is missing, and ValueError, naming the file, for whatever is wrong
    with it.
    """
    path = _with_suffix(Path(path), ".safetensors")
    beside = path.with_suffix(".json")
    for file in (path, beside):
        if not file.is_file():
            raise FileNotFoundError(f"there is no file {file}: an encoder is weights (.safetensors) with a .json beside them")
    try:
        stored = json.loads(beside.read_text(encoding="utf-8"))
        config = EncoderConfig(
            **stored | {"event_shape": tuple(stored["event_shape"]), "value_range": tuple(stored["value_range"])}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{beside} is no encoder's configuration ({error})") from None
    if config.architecture not in ENCODERS:
        raise ValueError(f"{beside}: unknown architecture {config.architecture!r}; known are {', '.join(ENCODERS)}")
    try:
        encoder = ENCODERS[config.architecture](**config.arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{beside}: {config.architecture} cannot be built from its arguments ({reason})") from None
    _fill(encoder, _read_safetensors(path), path)
    encoder.eval().requires_grad_(False)
    encoder.config = config  # type: ignore[assignment]
    return encoder

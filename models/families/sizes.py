"""Sizes of networks for one kind of event, from which families trained by name are built.

A family uses the networks that it needs (`Sizes.generator`, `Sizes.critic`, ...). They are stored as an `Architecture`: a name
registered in `cogen.models.storage`, and the arguments that rebuild the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from cogen.models.data.tables import Schema
from cogen.models.networks.architectures import (
    Conditioned,
    ConvolutionalCritic,
    DcganGenerator,
    DenseCritic,
    DenseEncoder,
    DenseGenerator,
    FourierFeatures,
)
from cogen.models.networks.encoders import FeatureEncoder, head
from cogen.models.networks.energies import ENERGIES, PairEnergy
from cogen.models.networks.latent_descent import Predictor, SphericalGenerator, latent_descent, spherical_generator
from cogen.models.networks.translation import ConvolutionalEncoder, EncoderDecoder, PatchCritic, UNet


class Architecture(NamedTuple):
    """The stored form of a network."""

    name: str
    """A key of `storage.generators.ARCHITECTURES`, of `storage.encoders.ENCODERS` or of `networks.energies.ENERGIES`."""
    arguments: dict[str, Any]


@dataclass(frozen=True)
class TableSizes:
    """The schema of a table and the sizes of its networks."""

    schema: Schema
    latent_dim: int
    widths: tuple[int, ...] | None = None
    """Widths of the generator's hidden layers; None uses the family's default."""


@dataclass(frozen=True)
class PairSizes:
    """Sizes of networks for pairs of an image x and a condition image; each network method makes a new network.

    :param event_shape: shape of x, (channel, height, width).
    :param condition_shape: shape of the condition, (channel, height, width).
    :param latent_dim: size of z; 0 for generators without z.
    :param width: feature maps of the first layer of every network.
    :param fills: the condition is x with a hidden part, and a mask (`cogen.models.data.pairs.centre_hidden`): generators make
        the hidden part and keep the rest.
    :raises ValueError: for ``latent_dim`` below 0, or ``width`` below 1.
    """

    event_shape: tuple[int, ...]
    condition_shape: tuple[int, ...]
    latent_dim: int = 0
    width: int = 64
    fills: bool = False

    def __post_init__(self) -> None:
        if self.latent_dim < 0 or self.width < 1:
            raise ValueError(
                f"latent_dim={self.latent_dim}, width={self.width}: latent_dim must be at least 0 (no z), and width at least 1"
            )

    def unet(self, dropout: float, dropout_layers: int | None = 3) -> nn.Module:
        """(z, condition) -> x."""
        return UNet(**self.unet_architecture(dropout, dropout_layers).arguments)

    def encoder_decoder(self) -> nn.Module:
        """(z, condition) -> x."""
        return EncoderDecoder(**self.encoder_decoder_architecture().arguments)

    def spherical(self) -> SphericalGenerator:
        """(z, condition) -> x, a function of the direction of z."""
        return spherical_generator(**self.spherical_architecture().arguments)

    def predictor(self) -> Predictor:
        """The predictor of the latents of `spherical`."""
        return latent_descent(**self.predictor_architecture().arguments).predictor

    def encoder(self) -> nn.Module:
        """x -> mean, log sd (batch, latent_dim)."""
        return ConvolutionalEncoder(**self.encoder_architecture().arguments)

    def critic(self, of_pairs: bool = True) -> nn.Module:
        """(x, condition), or x -> logits (batch, row, column), each for a patch of 70 pixels, or about half a smaller image."""
        channels, *sides = self.event_shape
        layers = min(3, max(1, min(sides).bit_length() - 5))
        return PatchCritic((channels + (self.condition_shape[0] if of_pairs else 0), *sides), self.width, layers)

    def energy(self) -> nn.Module:
        """(x, condition) -> (batch,), smooth in x."""
        return PairEnergy(**self.energy_architecture().arguments)

    def unet_architecture(self, dropout: float, dropout_layers: int | None = 3) -> Architecture:
        """The stored form of `unet`."""
        return Architecture("UNet", {**self._arguments, "dropout": dropout, "dropout_layers": dropout_layers})

    def encoder_decoder_architecture(self) -> Architecture:
        """The stored form of `encoder_decoder`."""
        return Architecture("EncoderDecoder", self._arguments)

    def spherical_architecture(self) -> Architecture:
        """The stored form of `spherical`."""
        return Architecture("SphericalGenerator", {**self._arguments, "skips": True})

    def predictor_architecture(self) -> Architecture:
        """The stored form of the descent with `predictor`."""
        return Architecture("LatentDescent", {**self._arguments, "skips": True})

    def encoder_architecture(self) -> Architecture:
        """The stored form of `encoder`."""
        arguments = {"latent_dim": self.latent_dim, "event_shape": self.event_shape, "width": self.width}
        return Architecture("ConvolutionalEncoder", arguments)

    def energy_architecture(self) -> Architecture:
        """The stored form of `energy`."""
        return Architecture("PairEnergy", {**self._shapes, "channels": tuple(self.width * 2**k for k in range(3))})

    @property
    def _shapes(self) -> dict[str, Any]:
        return {"event_shape": self.event_shape, "condition_shape": self.condition_shape}

    @property
    def _arguments(self) -> dict[str, Any]:
        return {**self._shapes, "latent_dim": self.latent_dim, "width": self.width, "fills": self.fills}


@dataclass(frozen=True)
class Sizes:
    """Sizes of networks for one kind of event; each network method makes a new network.

    Methods that make convolutional networks raise ValueError unless there are two widths.

    :param event_shape: shape of one x, images as (channel, height, width), points as (column,).
    :param latent_dim: size of z.
    :param num_classes: number of classes of networks that take a class as input; else 0.
    :param convolutional: convolutional or dense networks; None: convolutional if height and width are divisible by four.
    :param widths: hidden widths of a dense generator, default (256, 256), or two channel counts, default (64, 32).
    :param critic_widths: widths of critics and of encoders on their features; default the generator's in reverse.
    :param encoder_widths: hidden widths of a dense encoder; default the critic's, or (512, 256) with convolutions.
    :param head_widths: hidden widths of an encoder's head on features.
    :param pair_widths: hidden widths of a critic of pairs (x, z) after the features of x.
    :param bounded: the generator's values lie in (-1, 1).
    :param bandwidth: bandwidth of the Fourier features of x (points only) in critics and in encoders on their features, and
        the only features of x in a critic of pairs; None uses x itself.
    :param num_items: number of training items, for families with a latent for each item.
    :raises ValueError: for ``latent_dim`` or a width below 1, or Fourier features of images.
    """

    event_shape: tuple[int, ...]
    latent_dim: int
    num_classes: int = 0
    convolutional: bool | None = None
    widths: tuple[int, ...] | None = None
    critic_widths: tuple[int, ...] | None = None
    encoder_widths: tuple[int, ...] | None = None
    head_widths: tuple[int, ...] = (128,)
    pair_widths: tuple[int, ...] = (256, 256)
    bounded: bool = True
    bandwidth: float | None = None
    num_items: int = 0

    def __post_init__(self) -> None:
        shape = self.event_shape
        if self.convolutional is None:
            divisible = len(shape) == 3 and shape[1] % 4 == 0 and shape[2] % 4 == 0
            object.__setattr__(self, "convolutional", divisible)
        if self.bandwidth is not None and len(shape) != 1:
            raise ValueError(
                f"bandwidth={self.bandwidth}: Fourier features require points of shape (column,), but event_shape is {shape}:"
                " omit bandwidth"
            )
        if self.latent_dim < 1:
            raise ValueError(f"latent_dim={self.latent_dim}: it must be at least 1")
        for name in ("widths", "critic_widths", "encoder_widths", "head_widths", "pair_widths"):
            widths = getattr(self, name)
            if any(width < 1 for width in widths or ()):
                raise ValueError(f"{name}={widths}: the widths of layers must be at least 1")

    @property
    def of_generator(self) -> tuple[int, ...]:
        """The generator's widths."""
        return self._checked("widths", self.widths or ((64, 32) if self.convolutional else (256, 256)))

    @property
    def of_critic(self) -> tuple[int, ...]:
        """The critic's widths."""
        return self._checked("critic_widths", self.critic_widths or self.of_generator[::-1])

    @property
    def of_encoder(self) -> tuple[int, ...]:
        """The hidden widths of a dense encoder."""
        return self.encoder_widths or ((512, 256) if self.convolutional else self.of_critic)

    @property
    def features(self) -> int:
        """The number of features of a critic."""
        return 128 if self.convolutional else self.of_critic[-1]

    # --- networks --------------------------------------------------------------------------------------------------

    def generator(self) -> nn.Module:
        """z (batch, latent_dim) -> x (batch, *event_shape); with classes from (z, label)."""
        make = DcganGenerator if self.convolutional else DenseGenerator
        return self._conditioned(make(**self._generator_arguments()))

    def critic(self) -> Any:
        """x -> (batch,), with submodules ``features`` and ``last``; with classes (x, label) -> (batch,), without submodules."""
        if not self.convolutional:
            fourier = None if self.bandwidth is None else self._fourier(self.bandwidth)
            return self._conditioned(DenseCritic(self._seen_shape, self.of_critic, fourier))
        network = ConvolutionalCritic(self._seen_shape, self.of_critic, self.features)
        # channels_last is a third faster on CPUs.
        return self._conditioned(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def encoder(self) -> nn.Module:
        """The features of a critic with a head: x -> mean, log sd (batch, latent_dim)."""
        return FeatureEncoder(self.critic().features, self.head())

    def head(self) -> nn.Module:
        """Features (batch, features) -> (batch, 2 latent_dim)."""
        return head(self.features, self.latent_dim, self.head_widths)

    def dense_encoder(self) -> nn.Module:
        """A multilayer perceptron, x -> mean, log sd (batch, latent_dim); with classes from (x, label)."""
        return self._conditioned(DenseEncoder(self.latent_dim, self._seen_shape, self.of_encoder))

    def reconstructor(self) -> nn.Module:
        """The features of a critic and a linear layer, x -> (batch, latent_dim)."""
        return nn.Sequential(self.critic().features, nn.Linear(self.features, self.latent_dim))

    def energy(self) -> nn.Module:
        """x -> (batch,), smooth; with classes from (x, label)."""
        name, arguments = self.energy_architecture()
        network = ENERGIES[name](**arguments)
        return network.to(memory_format=torch.channels_last) if self.convolutional else network  # type: ignore[call-overload]

    def pair_features(self) -> nn.Module:
        """The features of x in a critic of pairs."""
        return self.critic().features if self.bandwidth is None else self._fourier(self.bandwidth)

    # --- stored forms ----------------------------------------------------------------------------------------------

    def generator_architecture(self) -> Architecture:
        """The stored form of `generator`."""
        name = "DcganGenerator" if self.convolutional else "DenseGenerator"
        arguments = self._generator_arguments()
        if self.num_classes:
            inner = {"architecture": name, "num_classes": self.num_classes, "arguments": arguments}
            return Architecture("ConditionalGenerator", inner)
        return Architecture(name, arguments)

    def encoder_architecture(self, unit_variance: bool = False) -> Architecture:
        """The stored form of `encoder`: a critic's features with a head."""
        name = "OnConvolutionalCritic" if self.convolutional else "OnDenseCritic"
        unit = {"unit_variance": True} if unit_variance else {}
        size = {"latent_dim": self.latent_dim, "width": self.features, "head_hidden": self.head_widths}
        return Architecture(name, {**size, **unit, **self._critic_arguments()})

    def dense_encoder_architecture(self) -> Architecture:
        """The stored form of `dense_encoder`."""
        shape = {"latent_dim": self.latent_dim, "event_shape": self.event_shape}
        return Architecture("DenseEncoder", {**shape, "hidden": self.of_encoder})

    def reconstructor_architecture(self) -> Architecture:
        """The stored form of an encoder made from `reconstructor`."""
        size = {"latent_dim": self.latent_dim, "width": self.features}
        return Architecture("Reconstructor", {**size, **self._critic_arguments()})

    def energy_architecture(self) -> Architecture:
        """The stored form of `energy`; ``critic_widths`` are two or more channel counts, or hidden widths."""
        shape = {"event_shape": self.event_shape, "num_classes": self.num_classes}
        if self.convolutional:
            return Architecture("ConvolutionalEnergy", {**shape, "channels": self.critic_widths or (16, 32, 64)})
        return Architecture("DenseEnergy", {**shape, "hidden": self.critic_widths or (128, 128)})

    # ---------------------------------------------------------------------------------------------------------------

    def _checked(self, name: str, widths: tuple[int, ...]) -> tuple[int, ...]:
        if self.convolutional and len(widths) != 2:
            raise ValueError(
                f"{name} {widths}: a convolutional network needs two channel counts; give two, or use a dense network"
            )
        return widths

    @property
    def _seen_shape(self) -> tuple[int, ...]:
        """Shape of the input of critics and encoders: x, with the class in additional channels (or columns)."""
        channels, *size = self.event_shape
        return (channels + self.num_classes, *size)

    def _generator_arguments(self) -> dict[str, Any]:
        shape = {"latent_dim": self.latent_dim + self.num_classes, "event_shape": self.event_shape}
        if self.convolutional:
            return {**shape, "channels": self.of_generator}
        unbounded = {} if self.bounded else {"bounded": False}
        return {**shape, "hidden": self.of_generator, "normalize": False, **unbounded}

    def _critic_arguments(self) -> dict[str, Any]:
        if self.bandwidth is not None:
            raise ValueError("an encoder on Fourier features cannot be stored: their frequencies are random, not arguments")
        return {"event_shape": self.event_shape, "channels" if self.convolutional else "hidden": self.of_critic}

    def _fourier(self, bandwidth: float) -> FourierFeatures:
        return FourierFeatures(self._seen_shape[0], self.of_critic[0], bandwidth)

    def _conditioned(self, network: nn.Module) -> nn.Module:
        return Conditioned(network, self.num_classes) if self.num_classes else network

"""Networks and constants of the CCoopNets paper: digits and clothes (4.1.2), CIFAR-10 (4.1.3), images of label maps (4.2.2).

28 x 28, 128 latents, the class concatenated to z:

    initializer  transposed convolutions 256 (to 4 x 4), 128 (to 7 x 7), 64, 1*; batch norm, ReLU; tanh
    solver       convolutions 5 x 5 64, 3 x 3 128, each halving; the class in 10 more maps; convolution 3 x 3 256; dense 100
    l = 16, delta = .0008, s = .016, sigma = .3; Langevin noise for 100 of 1,600 epochs; Adam .0008 and .0001

32 x 32 in colour, 100 latents, the class in 10 more maps of the initializer's second layer:

    initializer  transposed convolutions 256 (4 x 4), 128 (8 x 8, kernel 5); 64 (16 x 16, kernel 5), 3* (kernel 5); as above
    solver       as above
    l = 8, delta = .0008; Langevin noise for 500 of 2,000 epochs; Adam .002 and .0064

Both: the solver's value is the sum of its 100 units, y is not bounded, batches of 300, betas (.5, .999), and learning rates
that are multiplied by .96 every hundred epochs (as in the published code).

256 x 256 in colour, given a condition image of this size; the noise of the U-Net is its dropout:

    initializer  U-Net, 64 maps in the first layer; dropout .5 in all decoder layers but the last
    solver       convolutions 5 x 5 64, 3 x 3 128, each halving, of both images; 3 x 3 256; leaky ReLU; dense 100, their sum
    l = 15, delta = .002, s = .016, sigma = .3; Adam .007 and .0001; pairs one by one, 3,000 epochs

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (sections 4.1.2, 4.1.3, 4.2.1 and 4.2.2).
Choices where the text is incomplete: the initial y has no noise; the loss of the initializer is the mean over pixels; s and
sigma of CIFAR-10 are those of digits; a 7 x 7 layer on 4 x 4 is an 8 x 8 layer without its last row and column; the weight of
the distance from the data in 4.2.2 is pix2pix's, 100, and the learning rates of 4.2.2 are constant. After training, the
initializer uses batch statistics of its final weights (the paper's stays in training mode, where an image depends on the rest
of its batch).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, nn

from cogen.inference.torch.short_run import ShortRun
from cogen.models.families.coopnets import CoopNets
from cogen.models.families.pix2pix import DROPOUT
from cogen.models.families.pix2pix import RECIPE as TRANSLATION
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.sizes import Architecture, PairSizes, Sizes
from cogen.models.networks.architectures import Conditioned, beside_classes
from cogen.models.networks.energies import ConvolutionalEnergy, PairEnergy
from cogen.models.training.learning_rates import Constant, Schedule

BATCH, UNITS, CHANNELS = 300, 100, (64, 128, 256)
REFERENCE = 0.016


class LateInitializer(nn.Module):
    """Layers of z, then layers on their output with the class in additional maps ("late concatenation", Figure 3(2))."""

    def __init__(self, first: nn.Module, second: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.first, self.second, self.num_classes = first, second, num_classes

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """z (batch, latent_dim), label (batch,) or weights (batch, num_classes) -> (batch, channel, height, width)."""
        return self.second(beside_classes(self.first(z), label, self.num_classes))


def digits_initializer(latent_dim: int, num_classes: int) -> nn.Module:
    """A network from (z, label), or from z without classes, to (batch, 1, 28, 28)."""
    inputs = latent_dim + num_classes
    layers = nn.Sequential(
        nn.Unflatten(1, (inputs, 1, 1)),
        *_up(inputs, 256, 4, 1, 0),
        *_up(256, 128, 4, 2, 1, crop=True),
        *_up(128, 64, 4, 2, 1),
        nn.ConvTranspose2d(64, 1, 4, 2, 1),
        nn.Tanh(),
    )
    return Conditioned(layers, num_classes) if num_classes else layers


def cifar_initializer(latent_dim: int, num_classes: int) -> nn.Module:
    """A network from (z, label) to (batch, 3, 32, 32)."""
    first = nn.Sequential(nn.Unflatten(1, (latent_dim, 1, 1)), *_up(latent_dim, 256, 4, 1, 0), *_up(256, 128, 5, 2, 2, extra=1))
    second = nn.Sequential(*_up(128 + num_classes, 64, 5, 2, 2, extra=1), nn.ConvTranspose2d(64, 3, 5, 2, 2, 1), nn.Tanh())
    return LateInitializer(first, second, num_classes)


def _up(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, *, extra: int = 0, crop: bool = False
) -> list[nn.Module]:
    cropped = [nn.ZeroPad2d((0, -1, 0, -1))] if crop else []
    convolution = nn.ConvTranspose2d(inputs, outputs, kernel, stride, padding, extra)
    return [convolution, *cropped, nn.BatchNorm2d(outputs), nn.ReLU()]


# --- recipes -------------------------------------------------------------------------------------------------------


def _pairs_architecture(sizes: PairSizes) -> Architecture:
    stored = sizes.energy_architecture()
    return stored._replace(arguments={**stored.arguments, "units": UNITS, "value": "sum", "activation": "leaky_relu"})


def _pairs(sizes: PairSizes, rates: Mapping[str, Any], *, weight: float = 100.0, steps: int = 15) -> CoopNets:
    solver = PairEnergy(**_pairs_architecture(sizes).arguments)
    run = ShortRun.langevin(steps, 0.002, reference_scale=REFERENCE)
    settings: dict[str, Any] = {"solver_rate": 0.007, "weight": weight, "fills": sizes.fills, **rates}
    return CoopNets(sizes.unet(DROPOUT, dropout_layers=None), solver, sizes.latent_dim, run, **settings)


@dataclass(frozen=True)
class EveryHundredEpochs:
    """.96 to the power of the number of completed hundreds of epochs."""

    def __call__(self, step: int, epoch: float) -> float:
        return 0.96 ** (epoch // 100)


def _schedule(num_steps: int) -> Schedule:
    return EveryHundredEpochs()


def _constant(num_steps: int) -> Schedule:
    return Constant()


def _pair(
    sizes: Sizes, rates: Mapping[str, Any], generator: nn.Module, solver_rate: float, noisy_steps: int, steps: int
) -> CoopNets:
    solver = ConvolutionalEnergy(sizes.event_shape, CHANNELS, UNITS, sizes.num_classes, value="sum", activation="relu")
    run = ShortRun.langevin(steps, 0.0008, reference_scale=REFERENCE)
    settings: dict[str, Any] = {"solver_rate": solver_rate, "noisy_steps": noisy_steps, **rates}
    return CoopNets(generator, solver, sizes.latent_dim, run, **settings)


def _digits(sizes: Sizes, rates: Mapping[str, Any], *, noisy_steps: int = 20_000, steps: int = 16) -> CoopNets:
    if sizes.event_shape != (1, 28, 28):
        raise ValueError(f"event_shape={sizes.event_shape}: the networks of section 4.1.2 are for (1, 28, 28)")
    return _pair(sizes, rates, digits_initializer(sizes.latent_dim, sizes.num_classes), 0.0008, noisy_steps, steps)


def _cifar(sizes: Sizes, rates: Mapping[str, Any], *, noisy_steps: int = 83_000, steps: int = 8) -> CoopNets:
    if sizes.event_shape != (3, 32, 32) or not sizes.num_classes:
        raise ValueError(f"event_shape={sizes.event_shape}: the networks of section 4.1.3 are for (3, 32, 32), with classes")
    return _pair(sizes, rates, cifar_initializer(sizes.latent_dim, sizes.num_classes), 0.002, noisy_steps, steps)


DIGITS = Recipe(
    _digits,
    takes=frozenset({Kind.IMAGES}),
    labelled=True,
    learning_rate=1e-4,
    batch_size=BATCH,
    epochs=1_600,
    schedule=_schedule,
    average=0.0,
    latent_dim=128,
    reads=frozenset({"latent_dim"}),
)
"""Section 4.1.2; 100 epochs are 20,000 steps of 60,000 images."""
CIFAR = replace(DIGITS, build=_cifar, learning_rate=0.0064, epochs=2_000, latent_dim=100)
"""Section 4.1.3; 500 epochs are 83,000 steps of 50,000 images."""
PAIRS = replace(
    TRANSLATION,
    build=_pairs,
    learning_rate=1e-4,
    epochs=3_000,
    schedule=_constant,
    generator=partial(PairSizes.unet_architecture, dropout=DROPOUT, dropout_layers=None),
    energy=_pairs_architecture,
)
"""Section 4.2.2, with `PairSizes` of width 64."""

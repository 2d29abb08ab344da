"""Networks of an energy: f from an event, and a class if any, to one value that is larger for likelier events.

Langevin steps differentiate them, so activations are smooth (SiLU) unless the published ones are selected.

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.1.1 and Figure 4: where the class enters; section 4.2.1 and Figure 12).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from cogen.models.networks.architectures import beside_classes
from cogen.models.networks.restricted_boltzmann import BernoulliRBM, GaussianRBM


class DenseEnergy(nn.Module):
    """A multilayer perceptron with SiLU; a class is concatenated to the event.

    :param event_shape: shape of one event.
    :param hidden: widths of the hidden layers.
    :param num_classes: number of classes; 0 for none.
    """

    def __init__(self, event_shape: Sequence[int], hidden: Sequence[int] = (128, 128), num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [math.prod(event_shape) + num_classes, *hidden]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (batch, *event_shape), label integers (batch,) or weights (batch, num_classes) -> (batch,)."""
        flat = x.flatten(1)
        return self.layers(flat if label is None else beside_classes(flat, label, self.num_classes))[:, 0]


class ConvolutionalEnergy(nn.Module):
    """Strided convolutions and a dense layer of units, whose mean or sum is the value.

    A class is concatenated as constant maps to the second convolution ("late concatenation", Figure 4(2) of the paper).

    :param event_shape: (channel, height, width).
    :param channels: maps of the convolutions: 5 x 5 and 3 x 3 with stride 2, then 3 x 3 with stride 1.
    :param units: number of units of the dense layer.
    :param num_classes: number of classes; 0 for none.
    :param value: "mean" of the units, or their "sum", as in the paper.
    :param activation: "silu", or as in the paper "relu" for classes and "leaky_relu" for condition images.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        units: int = 100,
        num_classes: int = 0,
        value: Literal["mean", "sum"] = "mean",
        activation: Literal["silu", "relu", "leaky_relu"] = "silu",
    ) -> None:
        super().__init__()
        colours, height, width = event_shape
        first, second, *others = channels
        acts: dict[str, Callable[[], nn.Module]] = {
            "silu": nn.SiLU,
            "relu": nn.ReLU,
            "leaky_relu": partial(nn.LeakyReLU, 0.2),
        }
        act = acts[activation]
        self.num_classes, self.value = num_classes, value
        self.before = nn.Sequential(nn.Conv2d(colours, first, 5, 2, 2), act(), nn.Conv2d(first, second, 3, 2, 1), act())
        after: list[nn.Module] = []
        for inputs, outputs in pairwise([second + num_classes, *others]):
            after += [nn.Conv2d(inputs, outputs, 3, 1, 1), act()]
        flat = (others or [second + num_classes])[-1] * -(-height // 4) * -(-width // 4)
        self.after = nn.Sequential(*after, nn.Flatten(), nn.Linear(flat, units))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        """x (batch, channel, height, width), label integers (batch,) or weights (batch, num_classes) -> (batch,)."""
        maps = self.before(x)
        units = self.after(maps if label is None else beside_classes(maps, label, self.num_classes))
        return units.mean(1) if self.value == "mean" else units.sum(1)


class PairEnergy(nn.Module):
    """A `ConvolutionalEnergy` of an image and its condition image with concatenated channels (Figure 12).

    :param event_shape: shape of the image, (channel, height, width).
    :param condition_shape: shape of the condition, with the same height and width.
    :param channels: as in `ConvolutionalEnergy`, like the following parameters.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        condition_shape: Sequence[int],
        channels: Sequence[int] = (16, 32, 64),
        units: int = 100,
        value: Literal["mean", "sum"] = "mean",
        activation: Literal["silu", "relu", "leaky_relu"] = "silu",
    ) -> None:
        super().__init__()
        both = (event_shape[0] + condition_shape[0], *event_shape[1:])
        self.of_both = ConvolutionalEnergy(both, channels, units, value=value, activation=activation)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x (batch, *event_shape), condition (batch, *condition_shape) -> (batch,)."""
        return self.of_both(torch.cat([x, condition], dim=1))


ENERGIES: dict[str, Callable[..., nn.Module]] = {
    "DenseEnergy": DenseEnergy,
    "ConvolutionalEnergy": ConvolutionalEnergy,
    "PairEnergy": PairEnergy,
    "BernoulliRBM": BernoulliRBM,
    "GaussianRBM": GaussianRBM,
}
"""Energies by their stored names."""

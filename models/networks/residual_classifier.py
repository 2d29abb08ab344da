"""A small residual network of images: convolutions with batch norm, a mean over all positions, one linear layer.

    h = SiLU(N(C x)),    h += SiLU(N(C h)),    h = SiLU(N(C_2 h)),    h += SiLU(N(C h)),    h = SiLU(N(C_2 h)),

with C a 3 x 3 convolution, C_2 one of stride 2, and N batch norm. The features are the means of the last h over its positions,
and hardly depend on the position of objects in an image. Nearly all weights of `ConvolutionalCritic` are in its dense layer;
this network has a similar number of weights, in convolutions.

References:
    He, Zhang, Ren, Sun. Deep residual learning for image recognition. CVPR 2016 (section 3).
    Lin, Chen, Yan. Network in network. ICLR 2014 (section 3.2: the mean over positions).
Departures: one convolution in a block, no residual around the strided ones, SiLU.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class ResidualClassifier(nn.Module):
    """Logits of images; `features` (batch, width) is the input of the linear layer `last`.

    :param event_shape: (channel, height, width) of an image; height and width at least 3.
    :param channels: feature maps at full size, and after the first strided convolution.
    :param width: number of features, and of feature maps after the second strided convolution.
    :param outputs: number of classes.
    :raises ValueError: for an event that is not an image.
    """

    def __init__(
        self, event_shape: Sequence[int], channels: Sequence[int] = (32, 64), width: int = 64, outputs: int = 10
    ) -> None:
        super().__init__()
        if len(event_shape) != 3 or min(event_shape[1:]) < 3:
            raise ValueError(f"event_shape {tuple(event_shape)}: images are (channel, height, width), with sides of at least 3")
        first, second = channels
        self.features = nn.Sequential(
            _convolution(event_shape[0], first),
            Residual(_convolution(first, first)),
            _convolution(first, second, stride=2),
            Residual(_convolution(second, second)),
            _convolution(second, width, stride=2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x (batch, channel, height, width) -> logits (batch, outputs)."""
        return self.last(self.features(x))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.SiLU())

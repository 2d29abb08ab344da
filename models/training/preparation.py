"""What a batch of bytes becomes before the networks see it, for `train(prepare=...)`."""

from collections.abc import Callable

import torch
from torch import Tensor


def as_floats(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return images.float() / 127.5 - 1


def dequantised(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], with noise of the width of one: a density of bytes has no upper bound."""
    return ((images.float() + torch.rand(images.shape, device=images.device)) / 128 - 1).clamp(-1.0, 1.0)


def binarised(images: Tensor) -> Tensor:
    """Bytes as 0 and 1, at random: a pixel is one with the probability that its gray says."""
    return (255 * torch.rand(images.shape, device=images.device) < images).float()


class Mirrored:
    """What ``prepare`` makes of a batch, every image mirrored left to right with probability one half."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        self.prepare = prepare

    def __call__(self, images: Tensor) -> Tensor:
        """Images (item, channel, height, width)."""
        seen = self.prepare(images)
        turned = torch.rand(len(seen), 1, 1, 1, device=seen.device) < 0.5
        return torch.where(turned, seen.flip(-1), seen)

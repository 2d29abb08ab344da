"""What a batch of bytes becomes before the networks see it, for `train(prepare=...)`."""

import torch
from torch import Tensor


def as_floats(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return images.float() / 127.5 - 1


def dequantised(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], with noise of the width of one: a density of bytes has no upper bound."""
    return ((images.float() + torch.rand(images.shape, device=images.device)) / 128 - 1).clamp(-1.0, 1.0)

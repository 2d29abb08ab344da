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


class Joint:
    """A preparation of all tensors of a batch at once: called with them, it gives what the networks see of each."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Alike(Joint):
    """Images of one size, such as pairs, as values in [-1, 1]: those of an item are cropped and mirrored alike.

    :param size: height and width of a crop, at a place that is drawn for every item; None takes images as they are.
    :param mirror: mirror items left to right, with probability one half.

    Raises ValueError where the images of an item differ in size, and for a crop that is larger than they are.
    """

    def __init__(self, size: int | None = None, mirror: bool = False) -> None:
        self.size, self.mirror = size, mirror

    def __call__(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Bytes, each (item, channel, height, width)."""
        height, width = images[0].shape[2:]
        if any(each.shape[2:] != (height, width) for each in images):
            sizes = " and ".join(f"{each.shape[3]} x {each.shape[2]}" for each in images)
            raise ValueError(f"the images of an item are {sizes} pixels: they are cropped and mirrored alike, so give one size")
        count, device = len(images[0]), images[0].device
        if self.size is not None:
            if self.size > min(height, width):
                raise ValueError(
                    f"crops of {self.size} x {self.size} of images of {width} x {height} pixels: give larger images"
                )
            top, left = (torch.randint(side - self.size + 1, (count,), device=device) for side in (height, width))
            items = torch.arange(count, device=device)
            windows = (each.unfold(2, self.size, 1).unfold(3, self.size, 1) for each in images)
            images = tuple(each[items, :, top, left] for each in windows)
        seen = tuple(as_floats(each) for each in images)
        if not self.mirror:
            return seen
        turned = torch.rand(count, 1, 1, 1, device=device) < 0.5
        return tuple(torch.where(turned, each.flip(-1), each) for each in seen)

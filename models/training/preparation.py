"""Preparations of batches of bytes for the networks, for `train(prepare=...)`."""

from collections.abc import Callable

import torch
from torch import Tensor


def as_floats(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return images.float() / 127.5 - 1


def dequantised(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], with uniform noise of one level: a density of discrete values is unbounded."""
    return ((images.float() + torch.rand(images.shape, device=images.device)) / 128 - 1).clamp(-1.0, 1.0)


def binarised(images: Tensor) -> Tensor:
    """Bytes as random 0 and 1: a pixel is 1 with probability proportional to its gray level."""
    return (255 * torch.rand(images.shape, device=images.device) < images).float()


class Mirrored:
    """The output of ``prepare``, with every image mirrored left to right with probability 1/2."""

    def __init__(self, prepare: Callable[[Tensor], Tensor]) -> None:
        self.prepare = prepare

    def __call__(self, images: Tensor) -> Tensor:
        """Images (item, channel, height, width)."""
        prepared = self.prepare(images)
        mirrored = torch.rand(len(prepared), 1, 1, 1, device=prepared.device) < 0.5
        return torch.where(mirrored, prepared.flip(-1), prepared)


class Joint:
    """A joint preparation of all tensors of a batch: from these to the inputs of the networks."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class Alike(Joint):
    """Images of one size, such as pairs, as values in [-1, 1]; all images of an item are cropped and mirrored alike.

    Calls raise ValueError if the images of an item differ in size or are smaller than the crop.

    :param size: height and width of a crop, at a random position for every item; None for no crops.
    :param mirror: mirror items left to right, with probability 1/2.
    """

    def __init__(self, size: int | None = None, mirror: bool = False) -> None:
        self.size, self.mirror = size, mirror

    def __call__(self, *images: Tensor) -> tuple[Tensor, ...]:
        """Bytes, each (item, channel, height, width)."""
        height, width = images[0].shape[2:]
        if any(each.shape[2:] != (height, width) for each in images):
            sizes = " and ".join(f"{each.shape[3]} x {each.shape[2]}" for each in images)
            raise ValueError(f"the images of an item are {sizes} pixels: give images of one size, since they are cropped alike")
        count, device = len(images[0]), images[0].device
        if self.size is not None:
            if self.size > min(height, width):
                raise ValueError(
                    f"crops of {self.size} x {self.size} pixels of images of {width} x {height} pixels: give larger images"
                )
            top, left = (torch.randint(side - self.size + 1, (count,), device=device) for side in (height, width))
            items = torch.arange(count, device=device)
            windows = (each.unfold(2, self.size, 1).unfold(3, self.size, 1) for each in images)
            images = tuple(each[items, :, top, left] for each in windows)
        prepared = tuple(as_floats(each) for each in images)
        if not self.mirror:
            return prepared
        mirrored = torch.rand(count, 1, 1, 1, device=device) < 0.5
        return tuple(torch.where(mirrored, each.flip(-1), each) for each in prepared)

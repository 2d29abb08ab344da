"""Image completion with cGML: squares of random size are hidden in training, and 10, 15 and 25 % of test images (section 5.3).

    python examples/cgml_completion.py --data cifar10 --folder data/cifar10 --output cgml_completion_cifar
    python examples/cgml_completion.py --data data/facades --pairs --size 64 --latent-dim 16 --output cgml_completion_facades

    python examples/cgml_completion.py --data data/facades --pairs --size 32 --features cifar10 --output cgml_features

Every test image is completed with three sizes of the square and scored at the hidden pixels. `cgml_runs` describes the table
and its rows. The paper's PSNR and SSIM are of images with 128 pixels a side.

With ``--features`` a linear classifier predicts the classes of another data set from the smallest features of every trained
encoder, of an untrained one, and from the pixels (Table 5: trained on facades, classes of CIFAR-10).

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.3, Tables 3
        and 5, Figures 9, 18, 19, 40 and 41).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from cgml_report import add
from cgml_runs import Common, Task, classes_read, experiment
from torch import Tensor

from cogen.models import views
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.data.pairs import load_pairs
from cogen.models.training.preparation import Alike, Joint

PAPER = {"10 %": (27.83, 0.89), "15 %": (26.43, 0.80), "25 %": (24.16, 0.77), "accuracy": 0.625}
"""The paper's PSNR and SSIM of cGML (Table 3), and the accuracy of classes of CIFAR-10 from its features (Table 5)."""


@dataclass
class Options(Common):
    data: str = "cifar10"
    folder: Path | None = None
    """Folder of a known data set; default data/NAME."""
    pairs: bool = False
    """The data are images of two halves side by side, of which the left one is completed."""
    size: int | None = None
    shares: tuple[int, ...] = (10, 15, 25)
    """Hidden shares of the test images, in per cent."""
    first: int = 100
    """First test image that is scored; settings are chosen on the earlier ones."""
    count: int = 100
    features: str | None = None
    """Labelled data set whose classes are predicted from the features."""
    features_folder: Path | None = None
    """Folder of this data set; default data/NAME."""


class Squares(Joint):
    """Bytes as pairs: x in [-1, 1], and as its condition x with a hidden square of 5 to 30 % of its area, and the mask."""

    def __init__(self) -> None:
        self.alike = Alike(mirror=True)

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        (x,) = self.alike(*tensors)
        return x, seen_of(x, squares(x, 0.05 + 0.25 * torch.rand(len(x))))


def squares(x: Tensor, share: Tensor) -> Tensor:
    """True in a randomly placed square with this share (item,) of the area of x, (item, 1, height, width)."""
    height, width = x.shape[2:]
    side = (share * height * width).sqrt().round().clamp(1, min(height, width)).long()
    top, left = ((torch.rand(len(x)) * (whole - side + 1)).long() for whole in (height, width))

    def inside(start: Tensor, whole: int) -> Tensor:
        index = torch.arange(whole)
        return (index >= start[:, None]) & (index < (start + side)[:, None])

    return (inside(top, height)[:, :, None] & inside(left, width)[:, None, :])[:, None]


def seen_of(x: Tensor, hidden: Tensor) -> Tensor:
    """x with gray hidden pixels, and the mask: 1 where x is seen and -1 where it is hidden."""
    return torch.cat([torch.where(hidden, 0.0, x), 1.0 - 2.0 * hidden.float()], dim=1)


def pasted(x: Tensor, condition: Tensor) -> Tensor:
    """x at the hidden pixels of the condition, the condition elsewhere."""
    return torch.where(condition[:, -1:] > 0, condition[:, :-1], x)


def task_of(options: Options) -> Task:
    """The training and test data.

    :raises OSError: for data that cannot be read.
    :raises ValueError: for invalid options.
    """
    if options.pairs:
        data: Any = load_pairs(options.data, size=options.size)
    else:
        data = load_image_data(options.data, folder=options.folder, size=options.size)
    test = torch.from_numpy(data.test)[options.first : options.first + options.count]
    if not len(test):
        raise ValueError(f"--first {options.first}: there are {len(data.test)} test images")
    (once,) = Alike()(test)
    x = once.repeat(len(options.shares), 1, 1, 1)
    torch.manual_seed(0)
    share = torch.tensor(options.shares).repeat_interleave(len(once)) / 100
    hidden = squares(x, share)
    groups = {f"{each} %": slice(k * len(once), (k + 1) * len(once)) for k, each in enumerate(options.shares)}

    def view(noise: float) -> views.View:
        return views.Mask(~hidden[: options.posterior].expand(-1, x.shape[1], -1, -1), scale=noise)

    train = (torch.from_numpy(data.train),)
    condition = seen_of(x, hidden)
    return Task(train, Squares(), x, condition, hidden.expand_as(x), view=view, show=pasted, groups=groups)


def of_images(data: ImageData, options: Options, task: Task, families: dict[str, Any]) -> dict[str, float]:
    """Accuracies of classifiers on pixels and on the features of every encoder (`cgml_runs.classes_read`)."""
    parts = [Alike()(torch.from_numpy(part))[0] for part in (data.train, data.test)]
    whole = [torch.cat([part, torch.ones_like(part[:, :1])], dim=1) for part in parts]
    raw = {"pixels": [part.flatten(1).numpy() for part in parts]}
    return classes_read(raw, whole, (data.train_labels, data.test_labels), families, options, task)  # type: ignore[arg-type]


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        task = task_of(options)
        other = None
        if options.features is not None:
            other = load_image_data(options.features, folder=options.features_folder)
            if other.train_labels is None or other.train.shape[1:] != task.x.shape[1:]:
                raise ValueError(
                    f"--features {options.features}: give labelled images of shape {tuple(task.x.shape[1:])}, as those that are"
                    " completed"
                )
        few = slice(options.pictures)
        record = {"data": Path(options.data).name, "paper": PAPER}
        found = experiment(options, task, record, {"seen": task.condition[few, :-1]}, keep=other is not None)
        if other is not None:
            found["classified"] = of_images(other, options, task, found.pop("families"))
            add(options.output, classified=found["classified"])
            for name, share in found["classified"].items():
                print(f"classified by the features of {name}: {share:.3f}")
        return found
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_completion: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Colourization with cGML: from the lightness of an image to its colours, in CIE Lab (section 5.2).

    python examples/cgml_colour.py --data cifar10 --folder data/cifar10 --output cgml_colour

The condition is L, x is (a, b). Since most pixels of natural images are nearly gray, the median colour is gray. The cost of
cGML therefore includes the divergence of the colours of an image from a uniform distribution:

    E = |a - a'| + |b - b'| + weight (KL(a' || uniform) + KL(b' || uniform))

where the distributions over the values of one image are histograms with overlapping bins. `cgml_runs` describes the table and
its rows; units are a / 110 and b / 110. Further columns, of the image with L:

    rgb           PSNR of the mean of the draws, in RGB
    rgb_ssim      its SSIM
    overlap       intersection over union of the histograms of a and b, over all items, with the true ones (Table 8)

With ``--without CLASS`` no image of this class is in the training set. Test images of this class and the others have separate
rows, and their uncertainty by equation 24 is compared: the standard deviation of a pixel's colours under noise on the predicted
z (Figure 23). ``--and-with-it`` keeps the class in the training set.

The paper uses STL and ImageNet, which have larger images. Its human studies (Tables 1 and 10) are not repeated.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.2, Tables 2, 8
        and 9, Figure 23).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from cgml_report import add, picture
from cgml_runs import Common, Task, experiment, made, starts, ways_of
from torch import Tensor

from cogen.diagnostics import psnr, ssim
from cogen.models.data.datasets import load_image_data
from cogen.models.training.preparation import Joint, as_floats

LARGEST = 110.0
"""Unit of a and b, whose absolute values in sRGB are at most 108."""
BINS = 16
SHAKEN, SHAKEN_DRAWS = 0.05, 16
"""Standard deviation of the noise on z, and its number of draws."""
PAPER = {"psnr": 27.03, "ssim": 0.95, "overlap of a": 0.82, "overlap of b": 0.80}
"""The paper's scores on STL (Tables 2 and 8)."""


@dataclass
class Options(Common):
    families: tuple[str, ...] = ("cgml", "l1", "pix2pix")
    """Methods: cgml, l1, pix2pix; NAME@RATE sets the learning rate."""
    weight: float = 0.01
    """Weight of the divergence from uniform colours."""
    data: str = "cifar10"
    folder: Path | None = None
    """Folder of a known data set; default data/NAME."""
    size: int | None = None
    first: int = 200
    """First test image that is scored; settings are chosen on the earlier ones."""
    count: int = 200
    without: int | None = None
    """Class that is left out of the training set."""
    and_with_it: bool = False
    """Train on the class given by --without, which still has separate rows."""


@dataclass(frozen=True)
class Colourful:
    """The mean absolute error, plus the divergence of an item's colours from a uniform distribution."""

    weight: float

    def __call__(self, made: Tensor, x: Tensor) -> Tensor:
        error = (made - x).abs().flatten(2).mean(2).sum(1)
        return error + self.weight * from_uniform(made).sum(1) if self.weight else error


def from_uniform(colours: Tensor) -> Tensor:
    """KL(. || uniform) of the values of each channel, (batch, channel), from histograms with triangular, overlapping bins."""
    centre = torch.linspace(-1, 1, BINS)
    share = (1 - (colours.flatten(2)[..., None] - centre).abs() * (BINS - 1) / 2).clamp(min=0).mean(2)
    return (share * (share.clamp(min=1e-6) * BINS).log()).sum(-1)


class Lab(Joint):
    """Bytes of colour images as pairs of (a, b) and L, each in [-1, 1]; half of the items are mirrored."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        lightness, colours = lab(as_floats(tensors[0]))
        turned = torch.rand(len(colours), 1, 1, 1) < 0.5
        return tuple(torch.where(turned, each.flip(-1), each) for each in (colours, lightness))


def lab(images: Tensor) -> tuple[Tensor, Tensor]:
    """L (item, 1, ...) and (a, b) of images in [-1, 1], each in [-1, 1]."""
    from skimage.color import rgb2lab

    found = torch.from_numpy(rgb2lab(((images + 1) / 2).numpy(), channel_axis=1).astype(np.float32))
    return found[:, :1] / 50 - 1, found[:, 1:] / LARGEST


def rgb(colours: Tensor, lightness: Tensor) -> Tensor:
    """RGB images in [-1, 1], clipped to sRGB, from (a, b) and L."""
    import warnings

    from skimage.color import lab2rgb

    whole = torch.cat([(lightness + 1) * 50, colours * LARGEST], dim=1).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # colours beyond sRGB are clipped
        return torch.from_numpy(lab2rgb(whole, channel_axis=1).astype(np.float32)) * 2 - 1


def overlap(made: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union of two histograms of values."""
    one, two = (np.histogram(values, bins=64, range=(-1, 1))[0] / values.size for values in (made, true))
    return float(np.minimum(one, two).sum() / np.maximum(one, two).sum())


def task_of(options: Options) -> Task:
    """The training and test data.

    :raises OSError: for data that cannot be read.
    :raises ValueError: for invalid options.
    """
    data = load_image_data(options.data, folder=options.folder, size=options.size)
    if data.train.shape[1] != 3:
        raise ValueError(f"{options.data} has {data.train.shape[1]} channels: colours need images with three channels")
    which = np.arange(len(data.test))[options.first : options.first + options.count]
    if not len(which):
        raise ValueError(f"--first {options.first}: there are {len(data.test)} test images")
    train, groups = data.train, {"": slice(None)}
    if options.without is not None:
        if data.train_labels is None or not (data.test_labels[which] == options.without).any():
            raise ValueError(f"--without {options.without}: no test image has this class")
        left_out = data.test_labels[which] == options.without
        which = np.concatenate([which[left_out], which[~left_out]])
        groups = {"left out": slice(int(left_out.sum())), "others": slice(int(left_out.sum()), None)}
        if not options.and_with_it:
            train = train[data.train_labels != options.without]
    test = torch.from_numpy(data.test[which])
    lightness, colours = lab(as_floats(test))
    true = rgb(colours, lightness).numpy()

    def extra(draws: Tensor) -> dict[str, np.ndarray]:
        items = draws.shape[1]
        mean = rgb(draws.mean(0), lightness[:items]).numpy()
        found = {"rgb": psnr(mean, true[:items], (-1, 1)), "rgb_ssim": ssim(mean, true[:items], (-1, 1))}
        for k, channel in enumerate("ab"):
            share = overlap(draws[:, :, k].numpy(), colours[:items, k].numpy())
            found[f"overlap_{channel}"] = np.full(items, share)
        return found

    parts: dict[str, Any] = {"show": rgb, "extra": extra, "groups": groups}
    return Task((torch.from_numpy(train),), Lab(), colours, lightness, cost=Colourful(options.weight), **parts)


@torch.no_grad()
def uncertainties(family: Any, task: Task, path: Path) -> list[dict[str, Any]]:
    """For each group of items: the mean standard deviation of colours and the mean error, with standard errors, and their rank
    correlation over items. Writes an image of some maps."""
    from scipy.stats import spearmanr

    ends = ways_of(family, task, starts(family, task, 1))["predicted"][0, -1]
    torch.manual_seed(3)
    shaken = ends + SHAKEN * torch.randn(SHAKEN_DRAWS, *ends.shape)
    images = made(family.generator, shaken, task)
    deviation, error = images.std(0).mean(1), (images.mean(0) - task.x).abs().mean(1)
    rows = []
    for name, items in task.groups.items():
        values = [each[items].flatten(1).mean(1).numpy() for each in (deviation, error)]
        row = {"group": name, "items": len(values[0]), "rank_correlation": float(spearmanr(*values).statistic)}
        for key, each in zip(("sd", "error"), values, strict=True):
            row |= {key: float(each.mean()), f"{key}_se": float(each.std() / len(each) ** 0.5)}
        rows.append(row)
        print(f"{name}: sd {row['sd']:.4f} ({row['sd_se']:.4f}), error {row['error']:.4f} ({row['error_se']:.4f})")
    few = [k for items in task.groups.values() for k in range(len(task.x))[items][:4]]
    largest = float(deviation[few].max())
    maps = (2 * deviation[few] / largest - 1)[:, None]
    shown = {"truth": rgb(task.x[few], task.condition[few]), "made": rgb(images.mean(0)[few], task.condition[few])}
    picture({**shown, f"sd, white {largest:.2f}": maps}, path)
    return rows


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        task = task_of(options)
        few = slice(options.pictures)
        record = {
            "data": Path(options.data).name,
            "paper": PAPER,
            "without": options.without,
            "trained on": options.and_with_it,
        }
        found = experiment(options, task, record, {"lightness": task.condition[few]}, keep=True)
        family = found.pop("families").get("cgml")
        if options.without is not None and family is not None:
            path = options.output.with_name(f"{options.output.name}-uncertainty.png")
            found["uncertainty"] = uncertainties(family, task, path)
            add(options.output, uncertainty=found["uncertainty"])
        return found
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_colour: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""cGML on digits: half an image completed where training data are corrupted, or have a second mode (section 5.1).

    python examples/cgml_digits.py --folder data/mnist --output cgml_digits
    python examples/cgml_digits.py --task alternate --rate 0.3 --folder data/mnist --output cgml_alternate

* corrupted: of 20 % of the training images the top half is overlaid with that of another one, others in every epoch. A band of
  random height is hidden in the top half. Test images are whole: what is made should be the digit alone.
* alternate: of a share of the images (0.1, 0.2 and 0.3 in the paper) a white box stands in the top half, which is hidden. Both
  modes are right, and a box should come up as often as in training.

Images are framed to 32 pixels. What the table and its rows are stands in `cgml_runs`; beside these

    read          share of draws that the shipped classifier reads as the digit
    apart         corrupted: share of draws nearer to the digit than to it overlaid with another one
    box           alternate: share of draws nearer to the image with a box than to that without

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.1, Figures 4
        and 5).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from cgml_runs import Common, Task, experiment
from torch import Tensor
from torch.nn.functional import pad

from cogen.diagnostics.sample_quality import outputs
from cogen.models import views
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.storage.classifiers import load_classifier
from cogen.models.training.preparation import Joint, as_floats

FRAME = 2
BOX = (slice(None), slice(None), slice(5, 11), slice(13, 19))


@dataclass
class Options(Common):
    task: Literal["corrupted", "alternate"] = "corrupted"
    rate: float = 0.2
    """Share of the training images that are corrupted, or have a box."""
    data: str = "mnist"
    folder: Path | None = None
    """Where its files lie; default data/NAME."""
    classifier: str = "mnist_classifier"
    """Reads the draws."""
    first: int = 1_000
    """Of the test images that are judged; settings were chosen on those before."""
    count: int = 500


class Digits(Joint):
    """Bytes as pairs: x in [-1, 1], and as its condition what is seen of x and a mask."""

    def __init__(self, task: str, rate: float) -> None:
        self.task, self.rate = task, rate

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        x = framed(as_floats(tensors[0]))
        changed = torch.rand(len(x)) < self.rate
        other = overlaid(x) if self.task == "corrupted" else boxed(x)
        x = torch.where(changed[:, None, None, None], other, x)
        return x, seen_of(x, hidden_rows(self.task, len(x)))


def framed(images: Tensor) -> Tensor:
    """Images with a black frame."""
    return pad(images, (FRAME,) * 4, value=-1.0)


def overlaid(x: Tensor) -> Tensor:
    """Their top halves with those of others of the batch."""
    half = x.shape[2] // 2
    return torch.cat([torch.maximum(x, x.roll(1, 0))[:, :, :half], x[:, :, half:]], dim=2)


def boxed(x: Tensor) -> Tensor:
    """With a white box."""
    changed = x.clone()
    changed[BOX] = 1.0
    return changed


def hidden_rows(task: str, count: int) -> Tensor:
    """The first row that is hidden and the one behind the last, (item, 2): half of the image, or a band in its top half."""
    if task == "alternate":
        return torch.tensor([[0, 16]]).expand(count, 2)
    height = torch.randint(6, 17, (count,))
    top = (torch.rand(count) * (17 - height)).long()
    return torch.stack([top, top + height], dim=1)


def where_hidden(x: Tensor, rows: Tensor) -> Tensor:
    """True in the hidden rows, of the shape of x."""
    place = torch.arange(x.shape[2])[None, None, :, None]
    top, end = (rows[:, k, None, None, None] for k in (0, 1))
    return ((place >= top) & (place < end)).expand_as(x)


def seen_of(x: Tensor, rows: Tensor) -> Tensor:
    """What is seen of x, gray elsewhere, and a mask: 1 where it is seen and -1 where it is hidden."""
    hidden = where_hidden(x, rows)
    return torch.cat([torch.where(hidden, 0.0, x), 1.0 - 2.0 * hidden[:, :1].float()], dim=1)


def task_of(options: Options, data: ImageData) -> tuple[Task, Tensor]:
    """What is trained on and judged by, and what the picture shows of the conditions."""
    which = slice(options.first, options.first + options.count)
    images, labels = data.test[which], data.test_labels[which]
    if not len(images):
        raise ValueError(f"--first {options.first}: there are {len(data.test)} test images")
    x = framed(as_floats(torch.from_numpy(images)))
    torch.manual_seed(0)
    rows = hidden_rows(options.task, len(x))
    hidden, condition = where_hidden(x, rows), seen_of(x, rows)
    other = overlaid(x) if options.task == "corrupted" else boxed(x)
    classifier: Any = load_classifier(options.classifier)

    def extra(draws: Tensor) -> dict[str, np.ndarray]:
        items = draws.shape[1]
        whole = torch.where(hidden[:items], draws, x[:items])
        inside = whole[..., FRAME:-FRAME, FRAME:-FRAME].flatten(0, 1)
        read = outputs(classifier, inside).argmax(1).reshape(len(draws), items)
        to_x, to_other = ((draws - each[:items]).square().flatten(2).sum(2) for each in (x, other))
        nearer = (to_x < to_other) if options.task == "corrupted" else (to_other < to_x)
        name = "apart" if options.task == "corrupted" else "box"
        return {"read": (read == labels[:items]).mean(0), name: nearer.float().mean(0).numpy()}

    def view(noise: float) -> views.View:
        return views.Mask(~hidden[: options.posterior], scale=noise)

    prepared = Digits(options.task, options.rate)
    train = (torch.from_numpy(data.train),)
    return Task(train, prepared, x, condition, hidden, view=view, show=pasted, extra=extra), condition[:, :1]


def pasted(x: Tensor, condition: Tensor) -> Tensor:
    """x where the condition hides it."""
    return torch.where(condition[:, 1:] > 0, condition[:, :1], x)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        data = load_image_data(options.data, folder=options.folder)
        if data.test_labels is None:
            raise ValueError(f"{options.data} has no labels")
        task, shown = task_of(options, data)
        return experiment(
            options, task, {"task": options.task, "rate": options.rate, "data": data.name}, {"seen": shown[: options.pictures]}
        )
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_digits: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

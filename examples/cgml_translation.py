"""Image translation with cGML: label maps to facades, edges and sketches to faces (section 5.3.1, Figures 12 to 17).

    python examples/cgml_translation.py --task labels --data data/facades --output cgml_labels
    python examples/cgml_translation.py --task sketch --data data/olivetti/olivetti_faces.npz --output cgml_sketch

Edges and sketches are computed from the images. Given the condition alone, the posterior of z is its prior: the row "random".
`cgml_runs` describes the table and the other rows; diversity is the paper's measure (Figure 15).

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.3.1, appendix
        3.4 and 5).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from cgml_runs import Common, Task, experiment
from torch import Tensor

from cogen.models.data.datasets import load_image_data
from cogen.models.data.pairs import edges, load_pairs, paired, sketch
from cogen.models.training.preparation import Alike, as_floats


@dataclass
class Options(Common):
    families: tuple[str, ...] = ("cgml", "l1", "pix2pix")
    """Methods: cgml, l1, pix2pix; NAME@RATE sets the learning rate."""
    latent_dim: int = 16
    task: Literal["labels", "sketch", "edges"] = "labels"
    """Conditions: the label maps in the right halves of the images, or sketches or edges of the images."""
    data: str = "data/facades"
    folder: Path | None = None
    """Folder of a known data set; default data/NAME."""
    size: int | None = 64
    first: int = 0
    """First test image that is scored."""
    count: int = 100


def task_of(options: Options) -> Task:
    """The training and test data.

    :raises OSError: for data that cannot be read.
    :raises ValueError: for invalid options.
    """
    if options.task == "labels":
        data = load_pairs(options.data, size=options.size)
    else:
        make = {"sketch": sketch, "edges": edges}[options.task]
        data = paired(load_image_data(options.data, folder=options.folder, size=options.size), make)
    which = slice(options.first, options.first + options.count)
    x, condition = (as_floats(torch.from_numpy(each[which])) for each in (data.test, data.test_conditions))
    if not len(x):
        raise ValueError(f"--first {options.first}: there are {len(data.test)} test images")
    train: tuple[Tensor, ...] = torch.from_numpy(data.train), torch.from_numpy(data.train_conditions)
    return Task(train, Alike(mirror=True), x, condition)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        task = task_of(options)
        few = slice(options.pictures)
        record = {"task": options.task, "data": Path(options.data).name}
        return experiment(options, task, record, {"condition": task.condition[few]})
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_translation: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

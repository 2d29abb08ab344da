"""cGML on digits: half of an image is completed, with corrupted training data or a second mode (section 5.1).

    python examples/cgml_digits.py --folder data/mnist --output cgml_digits
    python examples/cgml_digits.py --task alternate --rate 0.3 --folder data/mnist --output cgml_alternate

* corrupted: the top half of 20 % of the training images is overlaid with that of another image, which changes in every epoch. A
  band of random height is hidden in the top half. Test images are not corrupted, and completions should show the digit only.
* alternate: a share of the images (0.1, 0.2 and 0.3 in the paper) has a white box in the top half, which is hidden. Completions
  with and without a box are valid, and a box should be as frequent as in training.

Images are padded to 32 pixels. `cgml_runs` describes the table and its rows. Further columns:

    read          share of draws that the shipped classifier assigns to the true class
    apart         corrupted: share of draws nearer to the digit than to the overlaid one
    box           alternate: share of draws nearer to the image with a box than to that without

With ``--modes COUNT`` the share of draws nearer to the image with a box is compared for COUNT images of the alternate task: for
random and predicted z, for z weighted by the mixture over both targets, sum_j exp(-beta E_j(z)) with 1 / beta the mean cost of
the oracle, and for the posterior. (The paper's measure has the sum in the exponent, which is a product of both.) With
``--evidence COUNT`` a tenth of the hidden pixels of COUNT images are observed with noise, and the log evidence of annealed HMC
from end points and from the prior is compared at equal numbers of gradients, with that of a run four times as long as the
longest as the reference.

References:
    Conditional generative modeling via learning the latent space (cGML). Anonymous, under review 2020 (section 5.1, Figures 4
        and 5).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from cgml_report import add
from cgml_runs import Common, Task, experiment, made, posterior, starts, ways_of
from torch import Tensor
from torch.nn.functional import pad

from cogen.diagnostics.sample_quality import outputs
from cogen.models import Array, CoGenerator, views
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.storage.classifiers import load_classifier
from cogen.models.training.preparation import Joint, as_floats

FRAME = 2
BOX = (slice(None), slice(None), slice(5, 11), slice(13, 19))
MODES_DRAWS = 64
EVIDENCE_NOISE = 0.3
EVIDENCE_WARMUPS, EVIDENCE_RUNS, LEAPFROG = (5, 20, 80), 3, 5


@dataclass
class Options(Common):
    task: Literal["corrupted", "alternate"] = "corrupted"
    rate: float = 0.2
    """Share of the training images that are corrupted, or have a box."""
    data: str = "mnist"
    folder: Path | None = None
    """Folder of the data set; default data/NAME."""
    classifier: str = "mnist_classifier"
    """Classifier of the draws."""
    first: int = 1_000
    """First test image that is scored; settings were chosen on the earlier ones."""
    count: int = 500
    modes: int = 0
    """Number of images for the comparison of the modes' shares."""
    evidence: int = 0
    """Number of images for the comparison of log evidences."""


class Digits(Joint):
    """Bytes as pairs: x in [-1, 1], and as its condition the seen part of x and the mask."""

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
    """Images whose top halves are overlaid with those of others of the batch."""
    half = x.shape[2] // 2
    return torch.cat([torch.maximum(x, x.roll(1, 0))[:, :, :half], x[:, :, half:]], dim=2)


def boxed(x: Tensor) -> Tensor:
    """Images with a white box."""
    changed = x.clone()
    changed[BOX] = 1.0
    return changed


def hidden_rows(task: str, count: int) -> Tensor:
    """The first hidden row and the one after the last, (item, 2): half of the image, or a band in its top half."""
    if task == "alternate":
        return torch.tensor([[0, 16]]).expand(count, 2)
    height = torch.randint(6, 17, (count,))
    top = (torch.rand(count) * (17 - height)).long()
    return torch.stack([top, top + height], dim=1)


def where_hidden(x: Tensor, rows: Tensor) -> Tensor:
    """True in the hidden rows, with the shape of x."""
    index = torch.arange(x.shape[2])[None, None, :, None]
    top, end = (rows[:, k, None, None, None] for k in (0, 1))
    return ((index >= top) & (index < end)).expand_as(x)


def seen_of(x: Tensor, rows: Tensor) -> Tensor:
    """x with gray hidden pixels, and the mask: 1 where x is seen and -1 where it is hidden."""
    hidden = where_hidden(x, rows)
    return torch.cat([torch.where(hidden, 0.0, x), 1.0 - 2.0 * hidden[:, :1].float()], dim=1)


def task_of(options: Options, data: ImageData) -> tuple[Task, Tensor]:
    """The training and test data, and the images that show the conditions."""
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
    """x at the hidden pixels of the condition, the condition elsewhere."""
    return torch.where(condition[:, 1:] > 0, condition[:, :1], x)


@torch.no_grad()
def shares_of_boxes(family: Any, task: Task, options: Options) -> dict[str, Any]:
    """Shares of draws with a box, of the first items, for each way of finding z."""
    assert task.hidden is not None
    which = slice(options.modes)
    where = task.hidden[which]
    few = replace(task, x=task.x[which], condition=task.condition[which], view=lambda noise: views.Mask(~where, scale=noise))
    hidden = where.float()
    u = starts(family, few, MODES_DRAWS)
    ways = ways_of(family, few, u)

    def errors(latents: Tensor) -> Tensor:
        """Mean absolute differences from the image with a box and from that without, (draw, item, 2)."""
        images = made(family.generator, latents, few)
        distances = [
            ((images - each).abs() * hidden).flatten(2).sum(2) / hidden.flatten(1).sum(1) for each in (boxed(few.x), few.x)
        ]
        return torch.stack(distances, dim=2)

    found = {name: errors(way[:, -1]) for name, way in ways.items() if name != "oracle"}
    random = found["random"] = errors(u)
    scale = float(errors(ways["oracle"][:, -1]).min(2).values.mean())
    log_weights = torch.logsumexp(-random / scale, dim=2)
    weights = torch.softmax(log_weights, dim=0)
    record: dict[str, Any] = {"one over beta": scale, "items": options.modes, "rows": []}
    seen = posterior(family.generator, family.latent_dim, few, replace(options, posterior=options.modes), scale)
    near = [((seen - each).abs() * hidden).flatten(2).sum(2) / hidden.flatten(1).sum(1) for each in (boxed(few.x), few.x)]
    every = {**found, "posterior": torch.stack(near, dim=2)}
    for name, distances in every.items():
        share = (distances[..., 0] < distances[..., 1]).float().mean(0)
        record["rows"].append(_share(name, share, distances))
    boxes = (random[..., 0] < random[..., 1]).float()
    record["rows"].append(_share("mixture over both", (weights * boxes).sum(0), random, weights))
    record["effective"] = float((1 / weights.square().sum(0)).mean())
    return record


def _share(name: str, share: Tensor, distances: Tensor, weights: Tensor | None = None) -> dict[str, Any]:
    nearest = distances.min(2).values
    cost = nearest.mean() if weights is None else (weights * nearest).sum(0).mean()
    return {"z": name, "box": float(share.mean()), "se": float(share.std() / len(share) ** 0.5), "cost": float(cost)}


def errors_of_evidence(family: Any, task: Task, options: Options) -> list[dict[str, Any]]:
    """Root mean squared errors of log p(seen | condition) of the first items, by start and number of gradients per chain."""
    from cogen.inference import AnnealedHMC, infer
    from cogen.models import EndpointGuide

    assert task.hidden is not None
    few = slice(options.evidence)
    x, condition = task.x[few].numpy(), task.condition[few].numpy()
    torch.manual_seed(2)
    view = views.Mask(task.hidden[few] & (torch.rand(x.shape) < 0.1), scale=EVIDENCE_NOISE)
    contexts = {"condition": Array(condition.shape[1:])}
    model = CoGenerator(family.generator, latent_dim=family.latent_dim, views={"seen": view}, contexts=contexts)
    seen = model.given(condition=condition).condition(seen=x)

    def evidence(start: Any, warmup: int, seed: int) -> np.ndarray:
        kernel = AnnealedHMC(initial=start, num_leapfrog=LEAPFROG)
        counts: dict[str, Any] = {"num_warmup": warmup, "num_samples": 1, "num_chains": 16, "seed": seed, "progress": False}
        found = infer(seen, kernel, **counts)["sample_stats"]["population_log_evidence"].values[:, -1]
        return np.logaddexp.reduce(found, axis=0) - np.log(len(found))

    longest = max(EVIDENCE_WARMUPS)
    truth = evidence(None, 4 * longest, 1_000)
    rows = []
    starts = {f"end points, kernels x {widen}": EndpointGuide(family.descent, seen, widen=widen).start() for widen in (3, 10)}
    for name, start in {"prior": None, **starts}.items():
        for warmup in EVIDENCE_WARMUPS:
            found = np.stack([evidence(start, warmup, seed) for seed in range(EVIDENCE_RUNS)])
            error = np.sqrt(np.square(found - truth).mean())
            rows.append(
                {"start": name, "gradients": warmup * LEAPFROG, "rmse": float(error), "bias": float((found - truth).mean())}
            )
            print(f"evidence from {name}, {warmup * LEAPFROG} gradients: error {error:.3f}", flush=True)
    return rows


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    try:
        data = load_image_data(options.data, folder=options.folder)
        if data.test_labels is None:
            raise ValueError(f"{options.data} has no labels")
        if options.modes and options.task != "alternate":
            raise ValueError(f"--modes {options.modes}: two modes exist only with --task alternate")
        task, shown = task_of(options, data)
        record = {"task": options.task, "rate": options.rate, "data": data.name}
        found = experiment(options, task, record, {"seen": shown[: options.pictures]}, keep=True)
        family = found.pop("families").get("cgml")
        further = {}
        if options.modes and family is not None:
            further["modes"] = shares_of_boxes(family, task, options)
            add(options.output, **further)
            for row in further["modes"]["rows"]:
                print(f"{row['z']:>20}: box {row['box']:.3f} ({row['se']:.3f}), nearest {row['cost']:.3f}")
        if options.evidence and family is not None:
            further["evidence"] = errors_of_evidence(family, task, options)
        if further:
            add(options.output, **further)
        return {**found, **further}
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"cgml_digits: {error}")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

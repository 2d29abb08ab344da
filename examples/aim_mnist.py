"""Adversarial inference on MNIST: a GAN, ALI, ALICE, AIM- and AIM side by side (AIM's Table 1; Figures 2, 4, 5 and 8).

    python examples/aim_mnist.py --data mnist --output aim_mnist

Every family trains the same generator, critic features and encoder widths for the same epochs, with the same optimiser.
Measured on the test set, pixels in [0, 1] as the paper's:

    MSE    mean squared error of G(mean of q(z | x)); a plain GAN has no encoder
    IS     inception score of 50,000 samples by the shipped digit classifier, ten splits; the test set's own stands beside it

Along the way the validation set (the last 5,000 training images) gives the curve of MSE against epochs; settings were chosen
by it. Each family is a row of OUTPUT.json, written when it is done: a later run with other `--families` adds to it.
OUTPUT-FAMILY.png holds samples, and reconstructions and neighbours of test images.

What differs from the paper: its networks (Tables 3 and 4) were not at hand, ours have two convolutions each way, no batch norm
in the critic, and R1 on it; the value range is [-1, 1]; the budget is a few epochs, not hundreds, so the learning rate falls to
zero over the second half of it instead of with the root of the epoch. The paper's classifier is
not known, so its IS compares only by its distance to the test set's own.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cogen.diagnostics.sample_quality import inception_score, outputs
from cogen.models.aim import AIM
from cogen.models.ali import ALI, JointCritic
from cogen.models.alice import ALICE
from cogen.models.classifiers import load_classifier
from cogen.models.datasets import load_image_data
from cogen.models.encoders import FeatureEncoder, head, neighbours, reconstruct
from cogen.models.family import Family
from cogen.models.gan import GAN, NonSaturating
from cogen.models.networks import ConvolutionalCritic, DcganGenerator
from cogen.models.trainer import Falling, train

PAPER = {"aim": {"mse": 0.026, "inception_score": 9.4}}
"""Of Table 1: what the text of the paper gives for MNIST (other rows were not at hand)."""


@dataclass
class Options:
    """Train the families on MNIST at one budget, and measure reconstructions and samples."""

    data: str = "mnist"
    """A known data set's name or a path, 28 x 28 gray, with labels 0 to 9 if the classifier is to mean anything."""
    folder: Path | None = None
    """Where the known data set lies; default data/NAME."""
    families: tuple[str, ...] = ("gan", "ali", "alice", "aim-minus", "aim")
    """Which to train, of: gan, ali, alice, aim-minus, aim; alice:W has the weight W of its cycle term (appendix A.1)."""
    epochs: float = 12.0
    """Passes over the training images."""
    batch: int = 64
    """Images in a step."""
    latent_dim: int = 32
    """Size of z."""
    learning_rate: float = 5e-4
    """Adam's, falling to zero over the second half."""
    gamma: float = 0.1
    """Weight of R1 on every critic, chosen on the validation set with AIM (of 1 and 0.1)."""
    average: float = 0.999
    """Decay of the generator's moving average, which is what is measured."""
    validation: int = 5_000
    """How many of the last training images are held out."""
    points: int = 12
    """Points of the curve."""
    samples: int = 50_000
    """For the inception score."""
    bf16: bool = False
    """Train in mixed precision: faster on CPUs with AMX and on GPUs."""
    accelerator: str = "cpu"
    """Or cuda."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    seed: int = 0
    """Of weights, batches and latents."""
    checkpoints: Path | None = None
    """A folder: a killed run goes on from there."""
    output: Path = Path("aim_mnist")
    """Where to write: OUTPUT.json, and OUTPUT-FAMILY.png for each."""


# ------------------------------------------------------------------------------------------------------- families


def build(name: str, options: Options, shape: tuple[int, ...]) -> Family:
    """A family with the networks that all share."""
    latent, width = options.latent_dim, 128
    generator = DcganGenerator(latent, shape, (64, 32))

    def critic() -> ConvolutionalCritic:
        network = ConvolutionalCritic(shape, (32, 64), width)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs

    def encoder() -> FeatureEncoder:
        return FeatureEncoder(critic().features, head(width, latent, (256,)))

    rate: dict[str, Any] = {"learning_rate": options.learning_rate}
    kind, _, weight = name.partition(":")
    objective = NonSaturating(options.gamma)
    if kind == "gan":
        return GAN(generator, critic(), latent, objective, **rate)
    if kind in ("aim", "aim-minus"):
        heads = head(width, latent, (256,))
        return AIM(generator, critic(), heads, latent, objective, unit_variance=kind == "aim-minus", **rate)
    joint = JointCritic(shape, latent, critic().features, (256, 256))
    if kind == "ali":
        return ALI(generator, encoder(), joint, latent, gamma=options.gamma, **rate)
    if kind == "alice":
        return ALICE(generator, encoder(), joint, latent, weight=float(weight or 1.0), gamma=options.gamma, **rate)
    raise ValueError(f"family {name!r}: known are gan, ali, alice, alice:WEIGHT, aim-minus and aim")


# ------------------------------------------------------------------------------------------------------- measures


def squared_error(generator: nn.Module, encoder: nn.Module, images: Tensor) -> float:
    """Mean over images and pixels, in units of a range of one; images in [-1, 1]."""
    total = sum((reconstruct(generator, encoder, x) - x).square().sum().item() for x in images.split(1000))
    return total / images.numel() / 4


def score(generator: nn.Module, options: Options, probabilities: Callable[[Tensor], Tensor], name: str) -> Any:
    """The inception score of the generator's samples."""
    torch.manual_seed(options.seed + 1)

    def of_latents(z: Tensor) -> Tensor:
        return probabilities(generator(z))

    return inception_score(outputs(of_latents, torch.randn(options.samples, options.latent_dim)), network=name)


def measure(name: str, options: Options, train_x: Tensor, held_out: Tensor, test: Tensor, judge: Any) -> dict[str, Any]:
    """Train one family and measure it: its row, and its pictures (rows of images in [0, 1])."""
    torch.manual_seed(options.seed)
    family = build(name, options, tuple(test.shape[1:]))
    steps = max(1, round(options.epochs * (len(train_x) // options.batch)))
    curve: list[dict[str, float]] = []
    started = time.perf_counter()

    def watch(step: int, family: Family, averaged: Callable[[], nn.Module | None]) -> None:
        family.eval()
        generator, encoder = averaged() or family.generator, getattr(family, "encoder", None)
        if encoder is not None:
            point = {"epoch": step * options.batch / len(train_x), "mse": squared_error(generator, encoder, held_out)}
            curve.append(point | {"seconds": time.perf_counter() - started})
            print(f"{name}: epoch {point['epoch']:.1f}, validation MSE {point['mse']:.4f}", flush=True)

    trained = train(
        family,
        train_x,
        num_steps=steps,
        batch_size=options.batch,
        seed=options.seed,
        schedule=Falling(steps),
        average=options.average,
        prepare=as_floats,
        checkpoint=None if options.checkpoints is None else options.checkpoints / name.replace(":", "-"),
        watch=watch,
        watch_every=max(1, steps // options.points),
        precision="bf16-mixed" if options.bf16 else "32-true",
        accelerator=options.accelerator,
    )
    family.cpu().eval()
    generator = (trained.average or family.generator).cpu()

    def probabilities(x: Tensor) -> Tensor:
        return judge(x).softmax(-1)

    found = score(generator, options, probabilities, judge.name)
    row: dict[str, Any] = {"family": name, "inception_score": found.mean, "inception_score_sd": found.sd}
    encoder = getattr(family, "encoder", None)
    if encoder is not None:
        row["mse"] = squared_error(generator, encoder, test)
    row |= {"epochs": options.epochs, "steps": steps, "seconds": trained.seconds, "curve": curve}
    with torch.no_grad():
        torch.manual_seed(options.seed + 2)
        pictures = [generator(torch.randn(20, options.latent_dim))]
        if encoder is not None:
            first = test[:10]
            pictures += [first, reconstruct(generator, encoder, first)]
            pictures += list(neighbours(generator, encoder, first, 3).transpose(0, 1))
    row["pictures"] = [((p.clamp(-1, 1) + 1) / 2).numpy() for p in pictures]
    return row


def as_floats(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return images.float() / 127.5 - 1


# ------------------------------------------------------------------------------------------------------- output


def table(rows: list[dict[str, Any]], own: Any) -> str:
    lines = [f"{'':12} {'MSE':>8} {'paper':>8} {'IS':>8} {'paper':>8} {'epochs':>8} {'seconds':>8}"]
    for row in rows:
        paper = PAPER.get(row["family"], {})
        cells = [row.get("mse"), paper.get("mse"), row["inception_score"], paper.get("inception_score")]
        shown = " ".join(f"{'' if cell is None else f'{cell:.4g}':>8}" for cell in cells)
        lines.append(f"{row['family']:12} {shown} {row['epochs']:8.3g} {row['seconds']:8.0f}")
    return "\n".join([*lines, f"{'test set':12} {'':8} {'':8} {own:8.4g}"])


def draw(row: dict[str, Any], path: Path) -> None:
    """Samples; then test images, reconstructions and three neighbours of each."""
    from matplotlib.figure import Figure

    samples, *others = row["pictures"]
    lines = [samples[:10], samples[10:], *others]
    labels = ["samples", "", "test", "reconstructed", "neighbours", "", ""][: len(lines)]
    figure = Figure(figsize=(3.4, 0.33 * len(lines) + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(np.concatenate([np.concatenate(line[:, 0], axis=1) for line in lines]), cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], title=row["family"])
    axes.set_yticks([14 + 28 * k for k in range(len(lines))], labels, fontsize=7)
    figure.savefig(path, dpi=110)


def main(options: Options) -> list[dict[str, Any]]:
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        data = load_image_data(options.data, folder=options.folder)
        for name in options.families:
            build(name, options, data.test.shape[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"aim_mnist: {error}")
    everything = torch.from_numpy(data.train)
    train_x, held_out = everything[: -options.validation], as_floats(everything[-options.validation :])
    test = as_floats(torch.from_numpy(data.test))
    judge = load_classifier("mnist_classifier")
    own = inception_score(outputs(lambda x: judge(x).softmax(-1), test), network=judge.name)
    print(f"the test set's own inception score: {own}")

    path = options.output.with_name(f"{options.output.name}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh: list[dict[str, Any]] = []
    for name in options.families:
        row = measure(name, options, train_x, held_out, test, judge)
        fresh.append(row)
        stored = {k: v for k, v in row.items() if k != "pictures"}
        stored["command"] = shlex.join(["python", "examples/aim_mnist.py", *sys.argv[1:]])
        stored["options"] = {k: str(v) for k, v in vars(options).items()}
        kept = json.loads(path.read_text())["rows"] if path.exists() else []  # another run may have added to it
        kept = [r for r in kept if r["family"] != name] + [stored]
        record = {"test_set_inception_score": own.mean, "classifier": judge.name, "paper": PAPER, "rows": kept}
        path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        draw(row, options.output.with_name(f"{options.output.name}-{name.replace(':', '-')}.png"))
    print("\n" + table(kept, own.mean))
    return fresh


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Train a small classifier of images, for scores of samples that need class probabilities or features.

    python examples/train_classifier.py --data mnist --output mnist_classifier --bf16

It turns, zooms and shifts the training images a little, steps with AdamW along one cycle of the learning rate
(`cogen.models.training.learning_rates.OneCycle`), and writes OUTPUT.safetensors and OUTPUT.json (configuration, command,
accuracy, SHA-256 of the weights). Options are chosen by the last training images; the test set is looked at once, at the end.
"""

import functools
import math
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from cogen.models.data.datasets import load_image_data
from cogen.models.families.family import Family
from cogen.models.networks.architectures import ConvolutionalCritic, count_parameters
from cogen.models.storage.classifiers import ClassifierConfig, save_classifier
from cogen.models.training.classification import Classification
from cogen.models.training.learning_rates import OneCycle
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train

VALUE_RANGE = (-1.0, 1.0)


@dataclass
class Options:
    """Train a small classifier of images and save it with its accuracy."""

    data: str = "mnist"
    """A known data set's name, or the path of images with labels, whose sides divide by four."""
    folder: Path | None = None
    """Where the known data set lies; default data/NAME."""
    download: bool = False
    """Fetch missing files of the known data set first."""
    output: Path = Path("mnist_classifier")
    """Where to write: OUTPUT.safetensors and OUTPUT.json."""
    channels: tuple[int, int] = (16, 32)
    """Feature maps of the two convolutions."""
    width: int = 64
    """Number of features."""
    epochs: int = 50
    """Passes over the training images."""
    batch: int = 128
    """Images in a step."""
    learning_rate: float = 3e-3
    """AdamW's largest step."""
    weight_decay: float = 0.01
    """AdamW's decoupled decay."""
    turn: float = 12.0
    """Training images are turned by up to so many degrees,"""
    zoom: float = 0.1
    """zoomed by up to this share,"""
    shift: float = 2.0
    """and shifted by up to so many pixels along either axis."""
    bf16: bool = False
    """Train under bfloat16 autocast: faster on CPUs with AMX."""
    validation: int = 5_000
    """How many of the last training images are held out."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    seed: int = 0
    """Seed of weights, order and augmentation."""


def moved(images: Tensor, options: Options) -> Tensor:
    """Every image (item, channel, height, width) turned, zoomed and shifted by amounts of its own, uniformly."""
    amount = 2 * torch.rand(4, len(images)) - 1
    angle, zoom = math.radians(options.turn) * amount[0], 1 + options.zoom * amount[1]
    across, along = zoom * angle.cos(), zoom * angle.sin()
    down, right = amount[2:] * options.shift * 2 / images.shape[-1]  # grid coordinates run from -1 to 1
    affine = torch.stack([across, -along, right, along, across, down], dim=-1).reshape(-1, 2, 3)
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        right = [network(x).argmax(-1) == y for x, y in zip(images.split(1000), labels.split(1000), strict=True)]
    return torch.cat(right).float().mean().item()


def main(options: Options) -> ClassifierConfig:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        data = load_image_data(options.data, folder=options.folder, download=options.download)
        if data.train_labels is None or data.test_labels is None:
            raise ValueError(f"{options.data} has no labels: a classifier learns from them")
        if not 0 < options.validation <= len(data.train) - options.batch:
            raise ValueError(
                f"{options.data} holds {len(data.train)} training images; needed are a batch of {options.batch} more than the "
                f"{options.validation} held out"
            )
        arguments = {
            "event_shape": data.train.shape[1:],
            "channels": options.channels,
            "width": options.width,
            "outputs": data.num_classes,
        }
        network = ConvolutionalCritic(**arguments)
    except (OSError, ValueError) as error:
        sys.exit(f"train_classifier: {error}")
    images, test_images = (torch.from_numpy(part) for part in (data.train, data.test))
    labels, test_labels = (torch.from_numpy(part) for part in (data.train_labels, data.test_labels))
    held_out, held_out_labels = as_floats(images[-options.validation :]), labels[-options.validation :]
    images, labels = images[: -options.validation], labels[: -options.validation]
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
    per_epoch = len(images) // options.batch

    def watch(step: int, family: Family, averaged: object) -> None:
        print(f"epoch {step // per_epoch}: validation accuracy {accuracy(network.eval(), held_out, held_out_labels):.4f}")

    family = Classification(
        network,
        augment=functools.partial(moved, options=options),
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    trained = train(
        family,
        (images, labels),
        num_steps=options.epochs * per_epoch,
        batch_size=options.batch,
        seed=options.seed,
        schedule=OneCycle(options.epochs * per_epoch),
        prepare=as_floats,
        watch=watch,
        watch_every=per_epoch,
        precision="bf16-mixed" if options.bf16 else "32-true",
    )

    network.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]  # as it will be loaded
    figures = {
        "validation_accuracy": round(accuracy(network, held_out, held_out_labels), 5),
        "test_accuracy": round(accuracy(network, as_floats(test_images), test_labels), 5),
        "seconds": round(trained.seconds, 1),
        "weights": count_parameters(network),
    }
    print("  ".join(f"{key} {value}" for key, value in figures.items()))
    config = ClassifierConfig(
        architecture=type(network).__name__,
        arguments=arguments,
        event_shape=arguments["event_shape"],
        value_range=VALUE_RANGE,
        classes=arguments["outputs"],
        name=options.output.name,
        training_data=f"{data.name}, its first {len(images)} training images",
        licence="Apache-2.0 (the weights); the training data carry their own",
        description=f"two convolutions, {options.width} features, {options.epochs} epochs of moved images",
        figures=figures
        | {"command": shlex.join(["python", *sys.argv]), "options": {k: str(v) for k, v in asdict(options).items()}},
    )
    save_classifier(options.output, network, config)
    return config


if __name__ == "__main__":
    main(tyro.cli(Options))

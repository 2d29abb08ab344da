"""Train a small image classifier, for scores of samples that need class probabilities or features.

    python examples/train_classifier.py --data mnist --output mnist_classifier --bf16
    python examples/train_classifier.py --data fashion-mnist --network residual --mirror --output fashion_classifier
    python examples/train_classifier.py --data cifar10 --network residual --mirror --output cifar10_classifier

Training images are rotated, zoomed and shifted slightly, and AdamW has a one-cycle learning-rate schedule
(`cogen.models.training.learning_rates.OneCycle`). The script writes OUTPUT.safetensors and OUTPUT.json (configuration, command,
accuracy, SHA-256 of the weights). Options were chosen on the last training images; the test set is used once, at the end.

With `--score` it does not train, but scores samples of generators by the classifier OUTPUT, a shipped one or a file:

    python examples/train_classifier.py --data mnist --output mnist_classifier --score digits mnist mnist_dcgan mnist_vae \
        --record examples/results/samples_mnist.json

The scores are the squared Frechet distance to the test images in the classifier's features, and the inception score, of as many
samples as there are validation images, and of the validation images, which is the score of a perfect generator. The classifier
was trained on neither validation nor test images.
"""

import functools
import json
import math
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from cogen.diagnostics import frechet_distance, inception_score
from cogen.diagnostics.sample_quality import outputs
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.families.family import Family
from cogen.models.networks.architectures import ConvolutionalCritic, count_parameters
from cogen.models.networks.residual_classifier import ResidualClassifier
from cogen.models.storage.classifiers import Classifier, ClassifierConfig, load_classifier, save_classifier
from cogen.models.storage.generators import load_generator
from cogen.models.training.classification import Classification
from cogen.models.training.learning_rates import OneCycle
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train

VALUE_RANGE = (-1.0, 1.0)

NETWORKS: dict[str, type[Classifier]] = {"convolutional": ConvolutionalCritic, "residual": ResidualClassifier}
CHANNELS = {"convolutional": (16, 32), "residual": (32, 64)}


@dataclass
class Options:
    """Train a small image classifier and save it with its accuracy."""

    data: str = "mnist"
    """Name of a known data set, or path of labelled images whose sides are divisible by four."""
    folder: Path | None = None
    """Folder of the known data set; default data/NAME."""
    download: bool = False
    """Download missing files of the known data set first."""
    output: Path = Path("mnist_classifier")
    """Output path: writes OUTPUT.safetensors and OUTPUT.json."""
    network: Literal["convolutional", "residual"] = "convolutional"
    """Two strided convolutions and a dense layer (`ConvolutionalCritic`), or a residual network (`ResidualClassifier`)."""
    channels: tuple[int, int] | None = None
    """Feature maps of the two convolutions; default 16 32, for a residual network 32 64."""
    width: int = 64
    """Number of features."""
    epochs: int = 50
    """Passes over the training images."""
    batch: int = 128
    """Images per step."""
    learning_rate: float = 3e-3
    """Largest learning rate of AdamW."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW."""
    turn: float = 12.0
    """Largest rotation of training images, in degrees."""
    zoom: float = 0.1
    """Largest relative zoom of training images."""
    shift: float = 2.0
    """Largest shift of training images along either axis, in pixels."""
    mirror: bool = False
    """Mirror half of the training images horizontally."""
    bf16: bool = False
    """Train with bfloat16 autocast: faster on CPUs with AMX."""
    validation: int = 5_000
    """Number of training images, the last ones, that are held out."""
    half: bool = False
    """Write the weights in half precision. Accuracies are those of the written weights."""
    accelerator: Literal["cpu", "cuda", "auto"] = "cpu"
    """Device."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    seed: int = 0
    """Seed of weights, order and augmentation, or of samples."""
    score: tuple[str, ...] = ()
    """Generators, shipped or files, whose samples are scored by the classifier OUTPUT, without training."""
    record: Path | None = None
    """JSON file for the scores of --score."""


def moved(images: Tensor, options: Options) -> Tensor:
    """Images (item, channel, height, width), each rotated, zoomed and shifted by uniform random amounts."""
    amount = 2 * torch.rand(4, len(images), device=images.device) - 1
    angle, zoom = math.radians(options.turn) * amount[0], 1 + options.zoom * amount[1]
    across, along = zoom * angle.cos(), zoom * angle.sin()
    down, right = amount[2:] * options.shift * 2 / images.shape[-1]  # grid coordinates run from -1 to 1
    affine = torch.stack([across, -along, right, along, across, down], dim=-1).reshape(-1, 2, 3)
    if options.mirror:
        affine[..., 0] *= torch.where(torch.rand(len(images), 1, device=images.device) < 0.5, -1.0, 1.0)
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> float:
    device = next(network.parameters()).device
    with torch.no_grad():
        right = [
            network(x.to(device)).argmax(-1).cpu() == y for x, y in zip(images.split(1000), labels.split(1000), strict=True)
        ]
    return torch.cat(right).float().mean().item()


def score(options: Options, data: ImageData) -> list[dict[str, Any]]:
    """The scores of validation images, and of samples of each generator."""
    name = str(options.output)
    classifier = load_classifier(name if options.output.name == name else options.output)
    real = as_floats(torch.from_numpy(data.train[-options.validation :]))
    test = outputs(classifier.features, as_floats(torch.from_numpy(data.test)))
    rows: list[dict[str, Any]] = []
    for of in ("real", *options.score):
        images = real
        if of != "real":
            generator = load_generator(of)
            torch.manual_seed(options.seed)
            z = torch.randn(len(real), generator.config.latent_dim)  # type: ignore[union-attr, arg-type]
            images = torch.from_numpy(outputs(generator, z)).float().clamp(*VALUE_RANGE)
        distance = frechet_distance(outputs(classifier.features, images), test, network=classifier.name)  # type: ignore[arg-type]
        probabilities = outputs(lambda x: classifier(x).softmax(-1), images)
        inception = inception_score(probabilities, network=classifier.name)  # type: ignore[arg-type]
        print(f"{of:12} Frechet distance {distance}, inception score {inception}")
        rows.append(
            {
                "samples": of,
                "network": classifier.name,
                "items": len(images),
                "frechet_distance": round(distance.mean, 4),
                "inception_score": round(inception.mean, 4),
                "inception_score_sd": round(inception.sd or 0.0, 4),
            }
        )
    if options.record is not None:
        options.record.parent.mkdir(parents=True, exist_ok=True)
        record = {"command": shlex.join(["python", *sys.argv]), "rows": rows}
        options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return rows


def main(options: Options) -> ClassifierConfig | list[dict[str, Any]]:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        data = load_image_data(options.data, folder=options.folder, download=options.download)
        if data.train_labels is None or data.test_labels is None:
            raise ValueError(f"{options.data} has no labels: a classifier needs labelled images")
        if not 0 < options.validation <= len(data.train) - options.batch:
            raise ValueError(
                f"{options.data} has {len(data.train)} training images; at least a batch of {options.batch} more than the "
                f"{options.validation} held-out ones is needed"
            )
        if options.score:
            return score(options, data)
        arguments = {
            "event_shape": data.train.shape[1:],
            "channels": options.channels or CHANNELS[options.network],
            "width": options.width,
            "outputs": data.num_classes,
        }
        network = NETWORKS[options.network](**arguments)
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
        accelerator=options.accelerator,
    )

    network.cpu().to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]  # as it will be loaded
    if options.half:
        network.half().float()
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
        description=f"{options.network} network, {options.width} features, {options.epochs} epochs of moved images",
        figures=figures
        | {"command": shlex.join(["python", *sys.argv]), "options": {k: str(v) for k, v in asdict(options).items()}},
    )
    save_classifier(options.output, network, config, half=options.half)
    return config


if __name__ == "__main__":
    main(tyro.cli(Options))

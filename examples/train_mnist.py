"""Train a generator of 28 x 28 images: a GAN, a VAE or another family, dense or convolutional, from a folder of idx files.

    python examples/train_mnist.py --data data/mnist --output mnist

An exponential moving average of the generator (Karras et al. 2018, section A.1) is evaluated on the last 5,000 training images
(never on the test set). The script writes OUTPUT.safetensors, OUTPUT.json (configuration, command, curve, figures) and
OUTPUT.png (samples). `cogen complete --generator OUTPUT.safetensors` then completes images with the generator.

The measures, on held-out validation images:
    rms_whole       root mean square residual per pixel after latent descent (Adam on the log joint) with the whole image
                    observed, the best of several starts: the distance of real images from the generator; the noise scale.
    rms_seen_half   the same residual on the top half, with only the top half observed.
    frechet         squared Frechet distance between samples and validation images, Gaussian in the features of a small
                    classifier (Heusel et al. 2017, equation 6; with our features, so not comparable with published values).
    smallest_class  share of the samples in the least frequent class, by the same classifier (0.1 at best).
    confident       share of the samples with a class probability above 0.9.
The row "real" has the last three for training images, which are the values of a perfect generator.
"""

import math
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn
from tqdm import tqdm

from cogen.diagnostics import frechet_distance
from cogen.models.data.datasets import load_idx_folder
from cogen.models.families import gan
from cogen.models.families.family import Family
from cogen.models.families.recipe import Kind
from cogen.models.families.registry import recipe
from cogen.models.families.sizes import Sizes
from cogen.models.networks.architectures import ConvolutionalCritic, DenseGenerator, count_parameters
from cogen.models.noise import NOISE_PER_RESIDUAL, residuals
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.models.training.classification import Classification
from cogen.models.training.learning_rates import Falling, OneCycle
from cogen.models.training.preparation import as_floats
from cogen.models.training.trainer import train

Precision = Literal["32-true", "bf16-mixed"]

VALUE_RANGE = (-1.0, 1.0)
EVENT_SHAPE = (1, 28, 28)
TOP = torch.arange(28).reshape(1, 28, 1) < 14  # broadcasts over an event
WHOLE = torch.ones(EVENT_SHAPE, dtype=torch.bool)


@dataclass
class Options:
    """Train a generator of 28 x 28 images and save it with its figures."""

    data: Path = Path("data/mnist")
    """Folder of the four idx files, plain or gzipped: MNIST, Fashion-MNIST, or your own."""
    download: Literal["mnist", "fashion_mnist"] | None = None
    """Download missing files of this data set into the folder first."""
    output: Path = Path("mnist")
    """Output path: writes OUTPUT.safetensors, OUTPUT.json and OUTPUT.png."""
    family: str = "gan"
    """A family for images without labels, such as gan (with R1) or vae: see docs/families.md."""
    network: Literal["dense", "dcgan"] = "dense"
    """Generator network: a multilayer perceptron (dense), or transposed convolutions (dcgan)."""
    latent_dim: int = 64
    """Size of the latent z."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of the dense generator (default 256 160), or channel counts of the convolutional one (default 64 32)."""
    iterations: int = 20_000
    """Generator steps."""
    batch: int = 64
    """Images per step."""
    learning_rate: float = 5e-4
    """Learning rate of Adam; it falls linearly to zero over the second half."""
    gamma: float = 1.0
    """Weight of the R1 penalty, if the family has one."""
    ema: float = 0.999
    """Decay of the generator's moving average, per step."""
    bf16: bool = False
    """Train with bfloat16 autocast: faster on CPUs with AMX."""
    snapshots: tuple[int, ...] = ()
    """Iterations at which the generator is also saved, as OUTPUT-ITERATION.safetensors."""
    measure_every: int = 2_000
    """Iterations between two points of the recorded curve."""
    validation: int = 5_000
    """Number of training images, the last ones, that are held out."""
    reconstructions: int = 256
    """Validation images for the final reconstruction figures (a quarter of them for the curve)."""
    descent_steps: int = 500
    """Adam steps of a latent descent for the final figures (for the curve 200, and half the starts)."""
    classifier_steps: int = 1_000
    """Training steps of the classifier for the measures."""
    threads: int = 0
    """Threads of torch; 0 for its default."""
    seed: int = 0
    """Seed of weights, batches and latents."""


# ------------------------------------------------------------------------------------------------------- measures


def train_classifier(images: Tensor, labels: Tensor, steps: int, precision: Precision) -> ConvolutionalCritic:
    """A small classifier for the measures; the same one for every generator trained on the same data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = ConvolutionalCritic(EVENT_SHAPE, channels=(16, 32), width=64, outputs=int(labels.max()) + 1)
    train(
        Classification(classifier, learning_rate=5e-3),
        (images, labels),
        num_steps=steps,
        batch_size=min(128, len(images)),
        seed=0,
        schedule=OneCycle(steps),
        prepare=as_floats,
        precision=precision,
        progress=False,
    )
    return classifier.requires_grad_(False)


class Measures:
    """Measures of a generator on held-out validation images, always with the same latents."""

    def __init__(self, images: Tensor, classifier: ConvolutionalCritic, latent_dim: int) -> None:
        self.images, self.classifier, self.latent_dim = images, classifier, latent_dim
        self.features = classifier.features(images).numpy()

    def samples(self, x: Tensor) -> dict[str, float]:
        features = self.classifier.features(x)
        probability = self.classifier.last(features).softmax(-1)
        classes = probability.argmax(-1).bincount(minlength=probability.shape[1]) / len(x)
        return {
            "frechet": frechet_distance(features.numpy(), self.features).mean,
            "smallest_class": classes.min().item(),
            "confident": (probability.amax(-1) > 0.9).float().mean().item(),
        }

    def __call__(self, generator: nn.Module, count: int, starts: int, steps: int) -> dict[str, float]:
        """All measures; `count` images are reconstructed. Latents and starts are the same at every call."""
        with torch.random.fork_rng():
            torch.manual_seed(1)
            with torch.no_grad():
                x = generator(torch.randn(len(self.images), self.latent_dim))
            whole, half = (
                residuals(generator, self.images[:count], seen, self.latent_dim, starts=starts, num_steps=steps)
                for seen in (WHOLE, TOP)
            )
        rms = {"rms_whole": whole.square().mean(), "rms_seen_half": half[:, :, TOP[0, :, 0]].square().mean()}
        return self.samples(x) | {key: value.sqrt().item() for key, value in rms.items()}


def write_samples(path: Path, generator: nn.Module, latent_dim: int, rows: int = 8, columns: int = 16) -> None:
    """A PNG of rows x columns samples."""
    from PIL import Image

    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        x = generator(torch.randn(rows * columns, latent_dim))[:, 0]
    grid = x.unflatten(0, (rows, columns)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    Image.fromarray(((grid + 1) * 127.5).round().clamp(0, 255).byte().numpy()).save(path)


def table(rows: list[dict[str, Any]]) -> str:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [keys] + [[f"{v:.4g}" if isinstance(v := row.get(k, ""), float) else str(v) for k in keys] for row in rows]
    return "\n".join("  ".join(cell.rjust(max(9, len(key))) for cell, key in zip(line, keys, strict=True)) for line in cells)


# ------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class MnistSizes(Sizes):
    """A convolutional critic for both generators, and batch norm in the dense one, which is folded into its layers."""

    def generator(self) -> nn.Module:
        if self.convolutional:
            return super().generator()
        return DenseGenerator(self.latent_dim, self.event_shape, self.of_generator, normalize=True)

    def critic(self) -> ConvolutionalCritic:
        network = ConvolutionalCritic(self.event_shape, self.of_critic)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs

    @property
    def features(self) -> int:
        return 128


def main(options: Options) -> GeneratorConfig:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        made = recipe(options.family, Kind.IMAGES)
        if made.labelled:
            raise ValueError(f"{options.family} needs labels: give a family for images without labels")
        files = load_idx_folder(options.data, options.download)
    except (OSError, ValueError) as error:
        sys.exit(f"train_mnist: {error}")
    images, labels = torch.tensor(files[0]).unsqueeze(1), torch.tensor(files[1]).long()
    if images.shape[1:] != EVENT_SHAPE or not 0 < options.validation < len(images):
        sys.exit(
            f"train_mnist: {options.data} has {len(images)} images of shape {tuple(images.shape[1:])}; needed are images of "
            f"shape {EVENT_SHAPE}, and more than the {options.validation} held-out ones"
        )
    images, held_out = images[: -options.validation], as_floats(images[-options.validation :])

    # All choices by name are made here.
    sizes = MnistSizes(
        EVENT_SHAPE,
        options.latent_dim,
        convolutional=options.network == "dcgan",
        widths=options.widths or ((64, 32) if options.network == "dcgan" else (256, 160)),
        critic_widths=(32, 64),
        encoder_widths=(512, 256),
    )
    family = made.family(sizes, learning_rate=options.learning_rate, betas=(0.5, 0.99), **gan.with_penalty(made, options.gamma))
    architecture = made.generator(sizes)

    def usable(module: nn.Module) -> nn.Module:
        """The averaged generator as it is used after training."""
        return module.folded() if isinstance(module, DenseGenerator) else module

    def save(path: Path, module: nn.Module, figures: dict) -> GeneratorConfig:
        config = GeneratorConfig(
            architecture=architecture.name,
            arguments=architecture.arguments,
            latent_dim=family.latent_dim,
            event_shape=EVENT_SHAPE,
            value_range=VALUE_RANGE,
            noise_scale=round(NOISE_PER_RESIDUAL * figures["rms_whole"], 3),
            name=path.name,
            training_data=f"{options.data.name}, its first {len(images)} training images",
            licence="Apache-2.0 (the weights); the training data carry their own",
            description=f"{options.network} {options.family}, {figures['iteration']} iterations",
            figures={key: round(value, 5) if isinstance(value, float) else value for key, value in figures.items()}
            | {
                "command": shlex.join(["python", *sys.argv]),
                "options": {k: str(v) for k, v in asdict(options).items()},
            },
        )
        save_generator(path, module, config)
        return config

    precision: Precision = "bf16-mixed" if options.bf16 else "32-true"
    classifier = train_classifier(images, labels[: len(images)], options.classifier_steps, precision)
    measures = Measures(held_out, classifier, family.latent_dim)
    few, short = max(1, options.reconstructions // 4), min(200, options.descent_steps)  # for the curve
    curve: list[dict] = [{"iteration": "real", **measures.samples(as_floats(images[: options.validation]))}]
    started = time.perf_counter()

    def watch(iteration: int, family: Family, averaged: Callable[[], nn.Module | None]) -> None:
        if iteration % options.measure_every and iteration not in options.snapshots:
            return
        module = usable(averaged() or family.generator.eval())
        row: dict[str, Any] = {"iteration": iteration, **measures(module, few, starts=4, steps=short)}
        row["seconds"] = time.perf_counter() - started
        curve.append(row)
        tqdm.write(table([row]))
        if iteration in options.snapshots:
            save(options.output.with_name(f"{options.output.name}-{iteration}"), module, row)

    trained = train(
        family,
        images,
        num_steps=options.iterations,
        batch_size=options.batch,
        seed=options.seed,
        schedule=Falling(options.iterations),
        average=options.ema,
        prepare=as_floats,
        watch=watch,
        watch_every=math.gcd(options.measure_every, *options.snapshots),
        precision=precision,
    )
    module = usable(trained.average or family.generator)
    figures = {"iteration": options.iterations, **measures(module, options.reconstructions, 8, options.descent_steps)}
    figures |= {"seconds": time.perf_counter() - started, "weights": count_parameters(module)}
    print(table([*curve, figures]))
    rounded = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in curve]
    config = save(options.output, module, figures | {"curve": rounded})
    write_samples(options.output.with_name(f"{options.output.name}.png"), module, family.latent_dim)
    return config


if __name__ == "__main__":
    main(tyro.cli(Options))

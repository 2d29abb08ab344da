"""Train a generator of 28 x 28 images: a GAN or a VAE, dense or convolutional, from a folder of idx files.

    python examples/train_mnist.py --data data/mnist --output mnist

It keeps an exponential moving average of the generator (Karras et al. 2018, section A.1), measures that average on the
last 5,000 training images (never on the test set), and writes OUTPUT.safetensors, OUTPUT.json (configuration, command,
curve, figures) and OUTPUT.png (samples). `cogen complete --generator OUTPUT.safetensors` then completes images with it.

The measures, on held-out validation images:
    rms_whole       root mean square residual per pixel after latent descent (Adam on the log joint) that saw the whole
                    image, the best of several starts: how far real images lie off the generator; the noise scale.
    rms_seen_half   the same residual on the top half, when only the top half was seen.
    frechet         squared Frechet distance between samples and validation images, Gaussian in the features of a small
                    classifier (Heusel et al. 2017, equation 6; our features, so compare with rows here, not papers).
    smallest_class  share of the samples in the class that gets fewest, by the same classifier (0.1 at best).
    confident       share of the samples with a class probability above 0.9.
The row "real" holds the last three for training images: what a perfect generator would get.
"""

import shlex
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn
from tqdm import trange

from cogen.diagnostics import frechet_distance
from cogen.models.data.datasets import from_bytes, load_idx_folder
from cogen.models.families import gan, vae
from cogen.models.families.family import Family, Updates
from cogen.models.networks.architectures import (
    ConvolutionalCritic,
    DcganGenerator,
    DenseEncoder,
    DenseGenerator,
    count_parameters,
)
from cogen.models.noise import NOISE_PER_RESIDUAL, residuals
from cogen.models.storage.generators import GeneratorConfig, save_generator

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
    """Fetch missing files of this data set into the folder first."""
    output: Path = Path("mnist")
    """Where to write: OUTPUT.safetensors, OUTPUT.json and OUTPUT.png."""
    family: Literal["gan", "vae"] = "gan"
    """Adversarial (non-saturating with R1), or a variational autoencoder."""
    network: Literal["dense", "dcgan"] = "dense"
    """The generator: a multilayer perceptron, or transposed convolutions."""
    latent_dim: int = 64
    """Size of the latent z."""
    widths: tuple[int, ...] | None = None
    """Hidden widths of the dense generator (256 160), or the two channel counts of the convolutional one (64 32)."""
    iterations: int = 20_000
    """Generator steps."""
    batch: int = 64
    """Images in a step."""
    learning_rate: float = 5e-4
    """Adam's step; it falls linearly to zero over the second half."""
    gamma: float = 1.0
    """Weight of the R1 penalty (GAN only)."""
    ema: float = 0.999
    """Decay of the generator's moving average, per step."""
    bf16: bool = False
    """Train under bfloat16 autocast: faster on CPUs with AMX."""
    snapshots: tuple[int, ...] = ()
    """Iterations at which the generator is saved as well, as OUTPUT-ITERATION.safetensors."""
    measure_every: int = 2_000
    """Iterations between two points of the recorded curve."""
    validation: int = 5_000
    """How many of the last training images are held out."""
    reconstructions: int = 256
    """Validation images in the final reconstruction figures (a quarter of them along the curve)."""
    descent_steps: int = 500
    """Adam steps of a latent descent in the final figures (200, and half the starts, along the curve)."""
    classifier_steps: int = 1_000
    """Training steps of the classifier behind the measures."""
    threads: int = 0
    """Threads for torch; 0 leaves its choice."""
    seed: int = 0
    """Seed of weights, batches and latents."""


# ------------------------------------------------------------------------------------------------------- measures


def train_classifier(images: Tensor, labels: Tensor, steps: int, bf16: bool) -> ConvolutionalCritic:
    """A small classifier for the measures; the same one for every generator trained on the same data."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        classifier = ConvolutionalCritic(EVENT_SHAPE, channels=(16, 32), width=64, outputs=int(labels.max()) + 1)
        optimizer = torch.optim.Adam(classifier.parameters(), fused=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
        for _ in range(steps):
            chosen = torch.randint(len(images), (128,))
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = nn.functional.cross_entropy(classifier(images[chosen]), labels[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return classifier.eval().requires_grad_(False)


class Measures:
    """What is measured of a generator, all against held-out validation images and with latents of its own."""

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
        """All of them; `count` images are reconstructed. The same latents and starts at every call."""
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


def main(options: Options) -> GeneratorConfig:
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    try:
        files = load_idx_folder(options.data, options.download)
    except (OSError, ValueError) as error:
        sys.exit(f"train_mnist: {error}")
    images, labels = torch.tensor(from_bytes(files[0], VALUE_RANGE)).unsqueeze(1), torch.tensor(files[1]).long()
    if images.shape[1:] != EVENT_SHAPE or not 0 < options.validation < len(images):
        sys.exit(
            f"train_mnist: {options.data} holds {len(images)} images of shape {tuple(images.shape[1:])}; needed are "
            f"{EVENT_SHAPE}, and more than the {options.validation} held out"
        )
    train, held_out = images[: -options.validation], images[-options.validation :]

    # Every choice by name is made here, once.
    shapes: dict[str, Any] = {"latent_dim": options.latent_dim, "event_shape": EVENT_SHAPE}
    if options.network == "dense":
        arguments = shapes | {"hidden": options.widths or (256, 160)}
        generator: nn.Module = DenseGenerator(**arguments, normalize=True)
    else:
        arguments = shapes | {"channels": options.widths or (64, 32)}
        generator = DcganGenerator(**arguments)
    rates: dict[str, Any] = {"learning_rate": options.learning_rate, "betas": (0.5, 0.99)}
    if options.family == "gan":
        critic = ConvolutionalCritic(EVENT_SHAPE)
        critic.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a third faster on CPUs
        objective = gan.NonSaturating(gamma=options.gamma)
        family: Family = gan.GAN(generator, critic, options.latent_dim, objective, **rates)
    else:
        family = vae.VAE(DenseEncoder(options.latent_dim, EVENT_SHAPE), generator, options.latent_dim, **rates)
    update = Updates(family, family.optimizers())
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, 2 * (1 - i / options.iterations)))
        for optimizer in update.optimizers.values()
    ]
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(options.ema))

    def averaged() -> nn.Module:
        """The moving average, with the batch norm statistics that belong to its weights, as it is used afterwards."""
        update_bn((torch.randn(256, options.latent_dim) for _ in range(40)), average)
        module = average.module.eval()
        return module.folded() if isinstance(module, DenseGenerator) else module

    def save(path: Path, module: nn.Module, figures: dict) -> GeneratorConfig:
        config = GeneratorConfig(
            architecture=type(generator).__name__,
            arguments=arguments,
            latent_dim=options.latent_dim,
            event_shape=EVENT_SHAPE,
            value_range=VALUE_RANGE,
            noise_scale=round(NOISE_PER_RESIDUAL * figures["rms_whole"], 3),
            name=path.name,
            training_data=f"{options.data.name}, its first {len(train)} training images",
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

    classifier = train_classifier(train, labels[: len(train)], options.classifier_steps, options.bf16)
    measures = Measures(held_out, classifier, options.latent_dim)
    few, short = max(1, options.reconstructions // 4), min(200, options.descent_steps)  # along the curve
    curve: list[dict] = [{"iteration": "real", **measures.samples(train[: options.validation])}]
    started = time.perf_counter()
    progress = trange(options.iterations, desc=f"{options.network} {options.family}", mininterval=1)
    for done in progress:
        real = train[torch.randint(len(train), (options.batch,))]
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            family.step((real,), update, done)
        for schedule in schedules:
            schedule.step()
        average.update_parameters(generator)

        iteration = done + 1
        if iteration % options.measure_every == 0 or iteration in options.snapshots:
            module = averaged()
            row: dict[str, Any] = {"iteration": iteration, **measures(module, few, starts=4, steps=short)}
            row["seconds"] = time.perf_counter() - started
            curve.append(row)
            progress.write(table([row]))
            if iteration in options.snapshots:
                save(options.output.with_name(f"{options.output.name}-{iteration}"), module, row)

    module = averaged()
    figures = {"iteration": options.iterations, **measures(module, options.reconstructions, 8, options.descent_steps)}
    figures |= {"seconds": time.perf_counter() - started, "weights": count_parameters(module)}
    print(table([*curve, figures]))
    rounded = [{k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in curve]
    config = save(options.output, module, figures | {"curve": rounded})
    write_samples(options.output.with_name(f"{options.output.name}.png"), module, options.latent_dim)
    return config


if __name__ == "__main__":
    main(tyro.cli(Options))

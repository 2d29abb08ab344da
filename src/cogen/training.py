"""`cogen train`: from options to a family, trained, and its generator on disk."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.models.contexts import Classes
from cogen.models.data.datasets import ImageData, load_image_data
from cogen.models.families.family import Family
from cogen.models.networks.architectures import (
    Conditioned,
    ConvolutionalCritic,
    DcganGenerator,
    DenseCritic,
    DenseEncoder,
    DenseGenerator,
)
from cogen.models.networks.encoders import FeatureEncoder, head
from cogen.models.noise import NOISE_PER_RESIDUAL, residuals
from cogen.models.storage.encoders import EncoderConfig, save_encoder
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.models.training.trainer import Falling, InverseRoot, train

if TYPE_CHECKING:
    from cogen.command_line import Train

RANGE = (-1.0, 1.0)
LEAST_NOISE, MOST_NOISE = 0.02 * (RANGE[1] - RANGE[0]), 0.5 * (RANGE[1] - RANGE[0])
"""A generator that reproduces everything would ask for no noise at all, and a posterior that no sampler can follow; one that
reproduces nothing for more noise than there are values."""

HELD_OUT = 0.1
"""Share of the training images (at most 5,000) on which the noise scale is chosen."""

LATENT_OF_IMAGES = 64

CONDITIONAL = ("cgan", "cvae")
HALF_RATE = ("saturating-gan", "wgan", "wgan-gp", "fgan", "unrolled-gan")
"""Families that train at half the learning rate of the others: no R1 holds their critic's gradient."""


def train_family(options: Train) -> None:
    """Run `cogen train`.

    Raises ValueError or OSError for what the user can get wrong, FloatingPointError for a loss that diverged.
    """
    for name in ("batch", "latent_dim", "save_every", "noise_images", "devices"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    if options.learning_rate is not None and not options.learning_rate > 0:
        raise ValueError(f"--learning-rate {options.learning_rate:g}: it must be positive")
    if options.threads < 0:
        raise ValueError(f"--threads {options.threads}: it must not be negative")
    if not options.epochs > 0:
        raise ValueError(f"--epochs {options.epochs:g}: it must be positive")
    if options.output.is_dir():
        raise ValueError(
            f"--output {options.output}: this is a folder; give the name of the generator's files, as in {options.output}/faces"
        )
    if options.threads:
        torch.set_num_threads(options.threads)
    if Path(options.data).suffix.lower() == ".csv":
        from cogen.tables import train_on_table

        train_on_table(options)
        return
    for name in ("missing", "categorical"):
        if value := getattr(options, name):
            raise ValueError(f"--{name} {value[0]}: it is for a table, a file that ends in .csv, and not for images")
    data = load_image_data(
        options.data, folder=options.folder, download=options.download, size=options.size, data_range=options.range
    )
    torch.manual_seed(options.seed)
    family = build(options, data)
    held_out = min(5_000, max(1, round(HELD_OUT * len(data.train))))
    tensors = [torch.from_numpy(data.train)]
    if options.family in CONDITIONAL:
        assert data.train_labels is not None
        tensors.append(torch.from_numpy(data.train_labels))
    order = torch.randperm(len(tensors[0]), generator=torch.Generator().manual_seed(0))  # files are often sorted by class
    kept = [tensor[order[:held_out]] for tensor in tensors]
    tensors = [tensor[order[held_out:]] for tensor in tensors]
    steps = steps_of(options, len(tensors[0]), family)
    trained = train(
        family,
        tensors,
        num_steps=steps,
        batch_size=options.batch,
        seed=options.seed,
        schedule=InverseRoot() if options.family.startswith("aim") else Falling(steps),
        average=options.average,
        prepare=dequantised if options.family == "realnvp" else as_floats,
        checkpoint=checkpoint_of(options.output),
        save_every=options.save_every,
        precision=options.precision,
        accelerator=options.accelerator,
        devices=options.devices,
    )
    if is_first():
        write(options, data, family.cpu(), trained, [as_floats(kept[0]), *kept[1:]])


def is_first() -> bool:
    """Whether this is the one process that writes, of several devices."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def steps_of(options: Train, count: int, family: Family) -> int:
    per_step = options.batch * family.batches_per_step
    if per_step > count:
        raise ValueError(f"--batch {options.batch}: a step takes {per_step} items, and there are {count} to train on")
    return max(1, round(options.epochs * (count // per_step)))


def checkpoint_of(output: Path) -> Path:
    return output.with_name(f"{output.name}-checkpoint")


def as_floats(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1]."""
    return images.float() / 127.5 - 1


def dequantised(images: Tensor) -> Tensor:
    """Bytes as values in [-1, 1], with noise of the width of one: a density of bytes has no upper bound."""
    return ((images.float() + torch.rand(images.shape, device=images.device)) / 128 - 1).clamp(*RANGE)


# --- from options to objects ---------------------------------------------------------------------------------------


def build(options: Train, data: ImageData) -> Family:
    """The family of this name with networks for these images. Raises ValueError where it cannot be."""
    from cogen.models.families import aim, ali, alice, fgan, gan, realnvp, unrolled, vae, veegan, wgan

    shape = tuple(data.train.shape[1:])
    if options.family in CONDITIONAL and not data.num_classes:
        raise ValueError(
            f"{options.family} needs labels, and {data.name} has none: give folders of classes, or labels in the .npz"
        )
    classes = data.num_classes if options.family in CONDITIONAL else 0
    latent = options.latent_dim or LATENT_OF_IMAGES
    rate: dict[str, Any] = {"learning_rate": options.learning_rate or (5e-4 if options.family in HALF_RATE else 1e-3)}
    if options.family == "realnvp":
        flow = realnvp.RealNVPGenerator(**_flow_arguments(options, shape))
        flow.standardise(dequantised(torch.from_numpy(data.train[:1_000])))
        return realnvp.RealNVP(flow, **rate)
    if options.weight is not None and options.family not in ("aim", "aim-minus", "alice", "veegan"):
        raise ValueError(f"--weight {options.weight:g}: {options.family} has no such weight; alice, veegan and aim have")
    if options.real_target != 1.0 and options.family not in ("gan", "cgan", "saturating-gan"):
        raise ValueError(f"--real-target {options.real_target:g}: {options.family} has none; gan, cgan and saturating-gan have")
    weight: dict[str, Any] = {} if options.weight is None else {"weight": options.weight}
    networks = Networks(options, shape, classes)
    generator = networks.generator()
    objectives: dict[str, Callable[[], Any]] = {
        "gan": lambda: gan.NonSaturating(real_target=options.real_target),
        "cgan": lambda: gan.NonSaturating(real_target=options.real_target),
        "saturating-gan": lambda: gan.Saturating(gamma=0.0, real_target=options.real_target),
        "wgan": wgan.Clipping,
        "wgan-gp": wgan.GradientPenalty,
        "fgan": fgan.KL,
    }
    match options.family:
        case name if name in objectives:
            return gan.GAN(generator, networks.critic(), latent, objectives[name](), **rate)
        case "unrolled-gan":
            return unrolled.UnrolledGAN(generator, networks.critic(), latent, **rate)
        case "vae" | "cvae":
            return vae.VAE(networks.dense_encoder(), generator, latent, **rate)
        case "ali" | "bigan":
            stochastic = options.family == "ali"
            return ali.ALI(generator, networks.encoder(), networks.joint_critic(), latent, stochastic=stochastic, **rate)
        case "alice":
            return alice.ALICE(generator, networks.encoder(), networks.joint_critic(), latent, **weight, **rate)
        case "veegan":
            return veegan.VEEGAN(generator, networks.reconstructor(), networks.joint_critic(), latent, **weight, **rate)
        case "aim" | "aim-minus":
            heads, unit = head(networks.width, latent), options.family == "aim-minus"
            objective = gan.NonSaturating(gamma=0.5)
            return aim.AIM(generator, networks.critic(), heads, latent, objective, unit_variance=unit, **weight, **rate)
    raise ValueError(f"there is no family {options.family!r}")


class Networks:
    """Generators, critics and encoders of one size for one kind of event."""

    def __init__(self, options: Train, shape: tuple[int, ...], classes: int) -> None:
        divisible = len(shape) == 3 and shape[1] % 4 == 0 and shape[2] % 4 == 0
        self.convolutional = divisible if options.network == "auto" else options.network == "convolutional"
        self.options, self.shape, self.classes = options, shape, classes
        self.widths = options.widths or ((64, 32) if self.convolutional else (256, 256))
        if self.convolutional and len(self.widths) != 2:
            raise ValueError(
                f"--widths {self.widths}: a convolutional network has two channel counts, from the smallest map on"
            )
        self.width = 128 if self.convolutional else self.widths[0]  # of the critic's features
        self.latent = options.latent_dim or LATENT_OF_IMAGES

    def arguments(self) -> dict[str, Any]:
        """Of the generator's architecture."""
        widths = {"channels": self.widths} if self.convolutional else {"hidden": self.widths, "normalize": False}
        return {"latent_dim": self.latent + self.classes, "event_shape": self.shape, **widths}

    def generator(self) -> nn.Module:
        made: nn.Module = DcganGenerator(**self.arguments()) if self.convolutional else DenseGenerator(**self.arguments())
        return self._conditioned(made)

    def critic(self) -> Any:
        channels, *size = self.shape
        shape = (channels + self.classes, *size)
        if not self.convolutional:
            return self._conditioned(DenseCritic(shape, self.widths[::-1]))
        network = ConvolutionalCritic(shape, self.widths[::-1], self.width)
        return self._conditioned(network.to(memory_format=torch.channels_last))  # type: ignore[call-overload]

    def encoder(self) -> nn.Module:
        return FeatureEncoder(self.critic().features, head(self.width, self.latent))

    def dense_encoder(self) -> nn.Module:
        channels, *size = self.shape
        return self._conditioned(DenseEncoder(self.latent, (channels + self.classes, *size), self.encoder_widths()))

    def encoder_widths(self) -> tuple[int, ...]:
        return (512, 256) if self.convolutional else tuple(self.widths[::-1])

    def reconstructor(self) -> nn.Module:
        return nn.Sequential(self.critic().features, nn.Linear(self.width, self.latent))

    def joint_critic(self) -> nn.Module:
        from cogen.models.families.ali import JointCritic

        return JointCritic(self.shape, self.latent, self.critic().features)

    def _conditioned(self, network: nn.Module) -> nn.Module:
        return Conditioned(network, self.classes) if self.classes else network


def _flow_arguments(options: Train, shape: tuple[int, ...]) -> dict[str, Any]:
    hidden = {} if options.widths is None else {"hidden": options.widths}
    return {"event_shape": shape, "bounded": True, "value_range": RANGE, **hidden}


# --- files ---------------------------------------------------------------------------------------------------------


def write(options: Train, data: ImageData, family: Family, trained: Any, held_out: list[Tensor]) -> None:
    """The generator with its configuration, its samples as a picture, and its encoder where it has one."""
    generator, classes = (trained.average or family.generator).cpu().eval(), _classes(options, data)
    networks = None if options.family == "realnvp" else Networks(options, family_shape(data), classes)
    noise, seconds = noise_scale(generator, options, held_out), trained.seconds
    about: dict[str, Any] = {
        "name": options.output.name,
        "training_data": f"{data.name}, {len(data.train) - len(held_out[0])} training images",
        "licence": "the weights are yours; the training data carry their own licence",
        "description": f"{options.family}, {options.epochs:g} epochs",
    }
    command = shlex.join(["cogen", *sys.argv[1:]])
    architecture, arguments = "RealNVPGenerator", _flow_arguments(options, family_shape(data))
    if networks is not None:
        architecture, arguments = _architecture(networks)
    config = GeneratorConfig(
        architecture=architecture,
        arguments=arguments,
        contexts={"label": Classes(classes)} if classes else {},
        latent_dim=family.latent_dim,
        event_shape=family_shape(data),
        value_range=RANGE,
        noise_scale=noise,
        figures={
            "command": command,
            "steps": len(next(iter(trained.losses.values()))),
            "seconds": round(seconds, 1),
            "losses": {name: round(float(np.mean(values[-100:])), 5) for name, values in trained.losses.items()},
        },
        **about,
    )
    written = [save_generator(options.output, generator, config)]
    if (stored := _encoder(options, family, networks)) is not None:
        encoder, name, its = stored
        beside = options.output.with_name(f"{options.output.name}-encoder")
        about = about | {"name": beside.name}
        shape, latent = family_shape(data), family.latent_dim
        written.append(save_encoder(beside, encoder, EncoderConfig(name, its, latent, shape, RANGE, **about)))
    picture = options.output.with_name(f"{options.output.name}.png")
    draw_samples(generator, family.latent_dim, classes, picture, options.seed)
    print(f"\n{options.family} on {data.name}: {config.figures['steps']} steps in {seconds:.0f} s")
    for name, value in config.figures["losses"].items():
        print(f"  {name + ' loss, mean of the last hundred':44} {value:.4g}")
    print(f"  {'noise scale to condition with':44} {noise:.3g}")
    print(f"written: {', '.join(str(path) for path in [*written, picture])}")
    print(f"next: cogen complete --generator {options.output} --images PICTURES" + (" --label CLASS" if classes else ""))


def family_shape(data: ImageData) -> tuple[int, ...]:
    return tuple(data.train.shape[1:])


def _classes(options: Train, data: ImageData) -> int:
    return data.num_classes if options.family in CONDITIONAL else 0


def _architecture(networks: Networks) -> tuple[str, dict[str, Any]]:
    name = "DcganGenerator" if networks.convolutional else "DenseGenerator"
    if networks.classes:
        inner = {"architecture": name, "num_classes": networks.classes, "arguments": networks.arguments()}
        return "ConditionalGenerator", inner
    return name, networks.arguments()


def _encoder(options: Train, family: Family, networks: Networks | None) -> tuple[nn.Module, str, dict[str, Any]] | None:
    """The family's encoder, the name of its architecture and its arguments; None where there is none to store."""
    encoder = getattr(family, "encoder", None)
    if encoder is None or networks is None or networks.classes:
        return None
    latent, shape = networks.latent, networks.shape
    if options.family == "vae":
        return encoder, "DenseEncoder", {"latent_dim": latent, "event_shape": shape, "hidden": networks.encoder_widths()}
    widths = {"channels": networks.widths[::-1]} if networks.convolutional else {"hidden": networks.widths[::-1]}
    critic: dict[str, Any] = {"event_shape": shape, **widths}
    if options.family == "veegan":
        extra = {"width": networks.width}
        return encoder, "Reconstructor", {"latent_dim": latent, **critic, **extra}
    name = "OnConvolutionalCritic" if networks.convolutional else "OnDenseCritic"
    unit = {"unit_variance": True} if options.family == "aim-minus" else {}
    return encoder, name, {"latent_dim": latent, "width": networks.width, "head_hidden": (128,), **unit, **critic}


def noise_scale(generator: nn.Module, options: Train, held_out: list[Tensor]) -> float:
    """Five times the residual of held-out reconstructions, each given its class if any; see `cogen.models.noise`."""
    if hasattr(generator, "inverse"):  # what a flow cannot make does not exist
        return LEAST_NOISE
    generator.requires_grad_(False)
    x, *label = (tensor[: options.noise_images] for tensor in held_out)
    starts = 8
    given = [each.repeat_interleave(starts) for each in label]
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        latent = options.latent_dim or LATENT_OF_IMAGES
        left = residuals(lambda z: generator(z, *given), x, torch.tensor(True), latent, starts=starts)
    residual = left.square().mean().sqrt().item()
    return round(min(MOST_NOISE, max(LEAST_NOISE, NOISE_PER_RESIDUAL * residual)), 4)


def draw_samples(generator: nn.Module, latent_dim: int, classes: int, path: Path, seed: int) -> None:
    """A PNG of 8 x 16 samples; of a conditional generator a class a row."""
    from PIL import Image

    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        rows = max(8, min(classes, 16))
        z = torch.randn(rows * 16, latent_dim)
        label = [torch.arange(rows).repeat_interleave(16) % classes] if classes else []
        x = generator(z, *label).clamp(*RANGE)
    grid = x.unflatten(0, (rows, 16)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    pixels = ((grid + 1) * 127.5).round().byte().numpy()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)

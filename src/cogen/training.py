"""`cogen train`: from options and a family's recipe to a trained and stored generator; here for images."""

from __future__ import annotations

import functools
import io
import math
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogen.inference.whole_files import write_whole
from cogen.models.contexts import Classes, Context
from cogen.models.data.datasets import ImageData, held_out_split, load_image_data
from cogen.models.data.pairs import PairData
from cogen.models.families.family import Family
from cogen.models.families.recipe import Kind, Recipe
from cogen.models.families.registry import FAMILIES, recipe, recipes
from cogen.models.families.sizes import PairSizes, Sizes
from cogen.models.noise import LEAST_NOISE, noise_of_residual, residuals
from cogen.models.storage.encoders import ENCODER, PREDICTOR, EncoderConfig, save_encoder
from cogen.models.storage.energies import SOLVER, EnergyConfig, save_energy
from cogen.models.storage.generators import GeneratorConfig, save_generator
from cogen.models.training.preparation import Alike, Joint, Mirrored
from cogen.models.training.trainer import Prepare, Training, train
from cogen.options import Train, joined
from cogen.output import checkpoint_beside

OF_SOME_FAMILIES = {
    "weight": "weight",
    "real_target": "real_target",
    "langevin": "steps",
    "latent_dim": "latent_dim",
    "network": "convolutional",
    "widths": "widths",
}
"""Options that only some families have, and their names in a recipe (settings or sizes)."""

ACROSS = 16
"""Samples per row of a picture."""

LICENCE = "the weights are yours; the training data carry their own licence"


def kind_of(options: Train) -> Kind:
    """The kind of the data: a table by its file name, pairs by the family, images otherwise."""
    if Path(options.data).suffix.lower() == ".csv":
        return Kind.TABLE
    return Kind.PAIRS if any(Kind.PAIRS in found.takes for found in recipes(options.family)) else Kind.IMAGES


def check(options: Train) -> None:
    """Check options before any data are read.

    :raises ValueError: for numbers out of range and an output that cannot be written.
    """
    for name in ("batch", "latent_dim", "langevin", "save_every", "noise_images", "devices", "crop_from"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    for name in ("learning_rate", "epochs"):
        if (value := getattr(options, name)) is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value:g}: it must be positive and finite")
    if options.threads < 0:
        raise ValueError(f"--threads {options.threads}: it must not be negative")
    if options.output.is_dir():
        raise ValueError(
            f"--output {options.output}: it is a folder; give the name of the generator's files, as in {options.output}/faces"
        )


def train_on_images(options: Train) -> None:
    """Run `cogen train` on images.

    :raises ValueError: for invalid options or data.
    :raises OSError: for files that cannot be read or written.
    :raises FloatingPointError: for a loss that diverged.
    """
    for name in ("condition", "crop_from"):
        if (value := getattr(options, name)) != getattr(Train, name):
            raise ValueError(f"--{name.replace('_', '-')} {value}: it applies to families of pairs, not to {options.family}")
    refuse_table_options(options)
    made = recipe(options.family, Kind.IMAGES)
    settings = settings_of(options, made)
    data = load_image_data(
        options.data, folder=options.folder, download=options.download, size=options.size, data_range=options.range
    )
    if made.labelled and data.num_classes < 2:
        raise ValueError(
            f"{options.family} needs labels of at least two classes, and {data.name} has"
            f" {'one class' if data.num_classes else 'none'}: give folders of classes, or labels in the .npz"
        )
    sizes = sizes_of(options, made, data)
    torch.manual_seed(options.seed)
    family = made.family(sizes, learning_rate=options.learning_rate, **settings)
    tensors = [torch.from_numpy(data.train)]
    if made.labelled:
        assert data.train_labels is not None
        tensors.append(torch.from_numpy(data.train_labels))
    trained_on, held_out = held_out_split(len(tensors[0]))
    kept = [tensor[held_out] for tensor in tensors]
    tensors = [tensor[trained_on] for tensor in tensors]
    family.initialise(made.prepare(tensors[0][:1_000]))
    trained = run(options, made, family, tensors)
    if is_first():
        with torch.random.fork_rng():
            kept[0] = made.prepare(kept[0])
        family, classes = family.cpu(), sizes.num_classes
        contexts = {"label": Classes(classes)} if classes else {}
        if made.energy is not None:
            picture = functools.partial(draw_refined, options, made, classes, family, trained)
            write_energy(options, made, sizes, data, family, trained, len(kept[0]), contexts, picture)
        if made.generator is None:
            print(f"next: cogen complete --generator {options.output} --images PICTURES")
            return
        draw = functools.partial(draw_samples, family.latent_dim, classes, made.value_range, options.seed)
        write(options, made, sizes, data, family, trained, kept, contexts, draw)
        print(
            f"next: cogen complete --generator {options.output} --images PICTURES"
            + (" --label CLASS, or --label unknown" if classes else "")
        )


def refuse_table_options(options: Train) -> None:
    """Check that no option of tables is given.

    :raises ValueError: for an option that applies only to tables.
    """
    for name in ("missing", "categorical", "integer", "drop"):
        if value := joined(getattr(options, name), name):
            raise ValueError(f"--{name} {value[0]}: it applies to tables (.csv), not to images")


def run(options: Train, made: Recipe, family: Family, tensors: list[Tensor]) -> Training:
    """Train with the given options, and the recipe's defaults for the others."""
    batch = made.batch_size if options.batch is None else options.batch
    per_step, count = batch * family.batches_per_step, len(tensors[0])
    if per_step > count:
        raise ValueError(f"--batch {batch}: a training step needs {per_step} items, and there are only {count}")
    if options.threads:
        torch.set_num_threads(options.threads)
    steps = max(1, round(epochs_of(options, made, family, count) * (count // per_step)))
    with checkpoint_beside(options.output):
        return train(
            family,
            tensors,
            num_steps=steps,
            batch_size=batch,
            seed=options.seed,
            schedule=made.schedule(steps),
            average=made.average if options.average is None else options.average,
            prepare=_prepared(options, made),
            checkpoint=options.output.with_name(f"{options.output.name}-checkpoint"),
            prolong=True,
            save_every=options.save_every,
            precision=options.precision,
            accelerator=options.accelerator,
            devices=options.devices,
        )


def epochs_of(options: Train, made: Recipe, family: Family, count: int) -> float:
    """Passes over the data, of ``count`` items: those given, or the default of the recipe."""
    batch = made.batch_size if options.batch is None else options.batch
    steps_per_epoch = max(1, count // (batch * family.batches_per_step))
    return made.default_epochs(steps_per_epoch) if options.epochs is None else options.epochs


def _prepared(options: Train, made: Recipe) -> Prepare | Joint | None:
    if Kind.TABLE in made.takes:
        return None
    if Kind.PAIRS in made.takes:
        return Alike(None if options.crop_from is None else options.size, options.mirror)
    return Mirrored(made.prepare) if options.mirror else made.prepare


def is_first() -> bool:
    """Whether this process writes the files; of several devices only the first does."""
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


# --- from options to objects ---------------------------------------------------------------------------------------


def settings_of(options: Train, made: Recipe) -> dict[str, Any]:
    """The settings of a family among the options.

    :raises ValueError: for an option that this family does not have.
    """
    for option, name in OF_SOME_FAMILIES.items():
        value = getattr(options, option)
        if value != getattr(Train, option) and name not in {*made.settings, *made.reads}:
            have = [other for other in FAMILIES if any(name in {*each.settings, *each.reads} for each in recipes(other))]
            shown = f"{value:g}" if isinstance(value, float) else value
            raise ValueError(
                f"--{option.replace('_', '-')} {shown}: {options.family} has no such setting; families with it:"
                f" {', '.join(have)}"
            )
    found = {OF_SOME_FAMILIES[option]: getattr(options, option) for option in ("weight", "real_target", "langevin")}
    return {name: value for name, value in found.items() if value is not None}


def sizes_of(options: Train, made: Recipe, data: ImageData) -> Sizes:
    """The sizes of the networks for these images."""
    return Sizes(
        event_shape=tuple(data.train.shape[1:]),
        latent_dim=made.latent_dim if options.latent_dim is None else options.latent_dim,
        num_classes=data.num_classes if made.labelled else 0,
        convolutional=None if options.network == "auto" else options.network == "convolutional",
        widths=options.widths,
        num_items=len(held_out_split(len(data.train))[0]),
    )


# --- files ---------------------------------------------------------------------------------------------------------


def write(
    options: Train,
    made: Recipe,
    sizes: Sizes | PairSizes,
    data: ImageData | PairData,
    family: Family,
    trained: Training,
    held_out: list[Tensor],
    contexts: Mapping[str, Context],
    draw: Callable[[nn.Module, Path], None],
    **descent: int,
) -> None:
    """Write the generator with its configuration, a picture of samples, and its encoder or predictor.

    :param held_out: x and contexts of held-out items, as the networks see them.
    :param draw: writes the picture of a generator's samples.
    :param descent: arguments of `residuals`, from which the noise scale is computed.
    """
    assert made.generator is not None
    generator = (trained.average or family.generator).cpu().eval()
    noise = noise_scale(generator, options, made, family.latent_dim, held_out, **descent)
    about, figures = about_of(options, made, sizes, data, len(held_out[0])), figures_of(trained)
    architecture = made.generator(sizes)
    config = GeneratorConfig(
        architecture=architecture.name,
        arguments=architecture.arguments,
        contexts=contexts,
        latent_dim=family.latent_dim,
        noise_scale=noise,
        name=options.output.name,
        figures=figures,
        **about,
    )
    written = [save_generator(options.output, generator, config, half=options.half)]
    if made.encoder is not None:
        beside = options.output.with_name(f"{options.output.name}{ENCODER}")
        name, arguments = made.encoder(sizes)
        encoder = EncoderConfig(name, arguments, latent_dim=family.latent_dim, name=beside.name, **about)
        written.append(save_encoder(beside, family.encoder, encoder))  # type: ignore[arg-type]
    if made.predictor is not None:
        beside = options.output.with_name(f"{options.output.name}{PREDICTOR}")
        name, arguments = made.predictor(sizes)
        descent_of: Any = family.descent
        predictor = EncoderConfig(name, arguments, latent_dim=family.latent_dim, name=beside.name, **about)
        written.append(save_encoder(beside, descent_of, predictor))
    picture = options.output.with_name(f"{options.output.name}.png")
    draw(generator, picture)
    report(options, data, figures)
    print(f"  {'noise scale to condition with':44} {noise:.3g}")
    print(f"written: {', '.join(str(path) for path in [*written, picture])}")


def write_energy(
    options: Train,
    made: Recipe,
    sizes: Sizes | PairSizes,
    data: ImageData | PairData,
    family: Any,
    trained: Training,
    held_out: int,
    contexts: Mapping[str, Context],
    draw: Callable[[Path], None],
) -> None:
    """Write the energy, alone or beside its initializer, and a picture of the end points of its steps.

    :param held_out: number of held-out items.
    :param draw: writes the picture.
    """
    assert made.energy is not None
    alone, figures = made.generator is None, figures_of(trained)
    path = options.output if alone else options.output.with_name(f"{options.output.name}{SOLVER}")
    energy = ((alone and trained.average) or family.energy).cpu().eval()
    name, arguments = made.energy(sizes)
    config = EnergyConfig(
        name,
        arguments,
        run=family.run,
        name=path.name,
        contexts=contexts,
        figures=figures,
        **about_of(options, made, sizes, data, held_out),
    )
    picture = path.with_name(f"{path.name}.png")
    draw(picture)
    written = save_energy(path, energy, config)
    if alone:
        report(options, data, figures)
    print(f"written: {written}, {picture}")


def about_of(
    options: Train, made: Recipe, sizes: Sizes | PairSizes, data: ImageData | PairData, held_out: int
) -> dict[str, Any]:
    """The common fields of the configurations of a training."""
    return {
        "event_shape": sizes.event_shape,
        "value_range": made.value_range,
        "training_data": f"{data.name}, {len(data.train) - held_out} training images",
        "licence": LICENCE,
        "description": f"{options.family}, {made.epochs if options.epochs is None else options.epochs:g} epochs",
    }


def figures_of(trained: Training) -> dict[str, Any]:
    """Figures of a training."""
    return {
        "command": shlex.join(["cogen", *sys.argv[1:]]),
        "steps": len(next(iter(trained.losses.values()))),
        "seconds": round(trained.seconds, 1),
        "losses": {name: round(float(np.mean(values[-100:])), 5) for name, values in trained.losses.items()},
        "curve": {name: means(values) for name, values in trained.losses.items()},
    }


def report(options: Train, data: ImageData | PairData, figures: Mapping[str, Any]) -> None:
    """Print the losses among `figures_of` a training."""
    print(f"\n{options.family} on {data.name}: {figures['steps']} steps in {figures['seconds']:.0f} s")
    for name, value in figures["losses"].items():
        print(f"  {name + ' loss, mean of the last hundred':44} {value:.4g}")


def means(values: np.ndarray) -> list[float]:
    """Means over twenty consecutive parts of a training."""
    return [round(float(np.mean(part)), 5) for part in np.array_split(values, min(20, len(values)))]


def noise_scale(
    generator: nn.Module,
    options: Train,
    made: Recipe,
    latent_dim: int,
    held_out: list[Tensor],
    starts: int = 8,
    num_steps: int = 500,
) -> float:
    """Five times the root mean squared residual of held-out reconstructions; see `cogen.models.noise`."""
    width = made.value_range[1] - made.value_range[0]
    if hasattr(generator, "inverse"):  # a flow reproduces every x
        return LEAST_NOISE * width
    generator.requires_grad_(False)
    x, *contexts = (tensor[: options.noise_images] for tensor in held_out)
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        seen, descent = torch.tensor(True), {"starts": starts, "num_steps": num_steps}
        left = residuals(generator, x, seen, latent_dim, contexts=contexts, **descent, progress=True)
    residual = left.square().mean().sqrt().item()
    return round(noise_of_residual(residual, made.value_range), 4)


def draw_samples(
    latent_dim: int, classes: int, value_range: tuple[float, float], seed: int, generator: nn.Module, path: Path
) -> None:
    """Write a PNG of 8 x 16 samples, with one class per row for a conditional generator."""
    x, _ = samples(generator, latent_dim, classes, seed)
    write_grid(x.unflatten(0, (-1, ACROSS)), value_range, path)


def samples(generator: nn.Module, latent_dim: int, classes: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """x and labels, if any, of at least eight rows of samples, with one class per row for a conditional generator."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        rows = max(8, min(classes, 16))
        z = torch.randn(rows * ACROSS, latent_dim)
        label = [torch.arange(rows).repeat_interleave(ACROSS) % classes] if classes else []
        return generator(z, *label), label


def draw_refined(options: Train, made: Recipe, classes: int, family: Any, trained: Training, path: Path) -> None:
    """Write a PNG of the end points of an energy's steps, from its initializer's samples or its own chains."""
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        if made.generator is None:
            refined = family.samples(trained.average or family.averaged, 8 * ACROSS)
        else:
            x, label = samples((trained.average or family.generator).eval(), family.latent_dim, classes, options.seed)
            refined = family.refined(x, *label)
    write_grid(refined.unflatten(0, (-1, ACROSS)), made.value_range, path)


def write_grid(images: Tensor, value_range: tuple[float, float], path: Path) -> None:
    """Write a PNG of images (row, column, channel, height, width)."""
    from PIL import Image

    low, high = value_range
    grid = images.clamp(low, high).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    pixels = (255 * (grid - low) / (high - low)).round().byte().numpy()
    content = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(content, format="PNG")
    write_whole(path, content.getvalue())

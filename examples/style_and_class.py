"""Separation of style and class (section 4.1.4 of the CCoopNets paper), with several ways to infer an unknown class.

    cogen train ccoopnets --data mnist --output digits10
    python examples/style_and_class.py --generator digits10 --output style_and_class

    python examples/style_and_class.py --colour coloured.npz        write coloured MNIST, for cogen train ccoopnets --data

The generator is conditional, x = G(z, c). For a test image z is inferred, and c if it is unknown; then the class is changed
with the same z. The ways to infer:

    known         c is given; z by annealed HMC
    exact         one annealed run per class, and its evidence (`Classes(unknown="exact")`)
    relaxed       c = softmax(a), a ~ Normal(0, I), as a further latent; annealed HMC on both
    published     the same relaxation, with alternating Langevin steps on z (Eq. 20) and on a (Eq. 21), from random starts
    by turns      alternating Langevin steps on z, and draws of c from its ten exact probabilities given z

The inferred class is the one with the largest mean weight. Measures, for completely observed test images:

    named         share of the images whose class is inferred correctly
    changed       share of the transfers to the nine other classes that the classifier assigns to the target class
    weight, slant correlation over images, within a target class, of the stroke's weight (mean ink) and slant in the image
                  and in its transfers; the same with z of the next image ("shuffled"), which keeps the class but not the
                  style; and their difference in standard errors (of paired differences of products, over images)

References:
    Xie, Zheng, Fang, Zhu, Wu. Cooperative training of fast thinking initializer and slow thinking solver for conditional
        learning. IEEE TPAMI 2022 (section 4.1.4; its SVHN is replaced).
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from latent_arithmetic import slant, weight
from torch import Tensor

from cogen.diagnostics import context_probabilities
from cogen.diagnostics.sample_quality import outputs
from cogen.inference import AnnealedHMC, ShortRun, infer
from cogen.models import Classes, CoGenerator, load_classifier, load_generator, load_image_data, views
from cogen.models.training.preparation import as_floats

WAYS = ("known", "exact", "relaxed", "published", "by turns")
FEATURES = {"weight": weight, "slant": slant}


@dataclass
class Options:
    generator: str = "digits10"
    """A conditional generator of `cogen train`."""
    data: str = "mnist"
    folder: Path | None = None
    """Folder of the data set; default data/NAME."""
    classifier: str = "mnist_classifier"
    """Classifier of the transfers."""
    ways: tuple[str, ...] = WAYS
    count: int = 100
    """Test images."""
    chains: int = 8
    temperatures: int = 40
    leapfrog: int = 5
    """Leapfrog steps of annealed HMC, which has temperatures x leapfrog gradients per chain, as do the Langevin methods."""
    inner: int = 10
    """Langevin steps per alternation."""
    noise: float | None = None
    """Standard deviation of the pixel noise (sigma); default the generator's own."""
    step: float = 0.1
    """s of Eqs. 20 and 21, in units of the noise."""
    shown: int = 8
    """Images in the figure."""
    seed: int = 0
    colour: Path | None = None
    """Write coloured training images to this file, and exit."""
    output: Path = Path("style_and_class")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def coloured(images: np.ndarray, seed: int) -> np.ndarray:
    """Colour bytes (item, 1, height, width): bytes (item, 3, height, width), with random ink and ground colours per image."""
    rng = np.random.default_rng(seed)
    ink, ground = rng.uniform(0.5, 1.0, (len(images), 3, 1, 1)), rng.uniform(0.0, 0.4, (len(images), 3, 1, 1))
    share = images / 255.0
    return np.round(255 * (share * ink + (1 - share) * ground)).astype(np.uint8)


# ------------------------------------------------------------------------------------------------------- inference


class Seen:
    """Completely observed test images and their models."""

    def __init__(self, options: Options, generator: Any, images: np.ndarray, labels: np.ndarray) -> None:
        self.options, self.generator, self.images, self.labels = options, generator, images, labels
        self.classes: int = generator.config.contexts["label"].count
        self.noise = options.noise or generator.config.noise_scale

    def model(self, unknown: Any) -> CoGenerator:
        model = CoGenerator(
            self.generator,
            contexts={"label": Classes(self.classes, unknown=unknown)},
            views={"whole": views.Identity(scale=self.noise)},
        )
        return model.condition(whole=self.images)

    def annealed(self, model: CoGenerator) -> Any:
        options = self.options
        kernel = AnnealedHMC(num_leapfrog=options.leapfrog)
        counts = {"num_warmup": options.temperatures, "num_samples": 1, "num_chains": options.chains}
        return infer(model, kernel, seed=options.seed, progress=False, **counts)

    def infer(self, way: str) -> tuple[Tensor, np.ndarray]:
        """Latents (chain, item, latent) and the probabilities, or mean weights, of the classes (item, class)."""
        if way == "known":
            posterior = self.annealed(self.model(None).given(label=self.labels))
            return _latents(posterior), np.eye(self.classes)[self.labels]
        if way == "exact":
            posterior = self.annealed(self.model("exact"))
            return _latents(posterior), context_probabilities(posterior)["label"].values
        if way == "relaxed":
            posterior = self.annealed(self.model("relaxed"))
            return _latents(posterior), posterior["posterior"]["label"].mean(("chain", "draw")).values
        return self.by_turns(relaxed=way == "published")

    def by_turns(self, relaxed: bool) -> tuple[Tensor, np.ndarray]:
        """Alternate Langevin steps on z with steps on the class: Langevin steps of its relaxation, or exact draws."""
        options, chains, items = self.options, self.options.chains, len(self.images)
        torch.manual_seed(options.seed)
        x = torch.from_numpy(self.images).repeat(chains, 1, 1, 1)
        z = torch.randn(len(x), self.generator.config.latent_dim)
        logits = torch.randn(len(x), self.classes)
        drawn = torch.eye(self.classes)[torch.randint(self.classes, (len(x),))]
        step, turns = options.step * self.noise, options.temperatures * options.leapfrog // options.inner
        kept = []

        def fit(z: Tensor, label: Tensor) -> Tensor:
            return -(self.generator(z, label=label) - x).square().flatten(1).sum(1) / (2 * self.noise**2)

        def langevin(start: Tensor, log_likelihood: Any, steps: int) -> Tensor:
            return ShortRun.langevin(steps, step, reference_scale=1.0)(log_likelihood, start)

        steps = options.inner // 2 if relaxed else options.inner - 1
        for turn in range(turns):
            label = logits.softmax(1) if relaxed else drawn
            z = langevin(z, lambda z, label=label: fit(z, label), steps)
            if relaxed:
                logits = langevin(logits, lambda a, z=z: fit(z, a.softmax(1)), options.inner - steps)
            else:
                with torch.no_grad():
                    of_classes = torch.stack([fit(z, one.expand(len(z), -1)) for one in torch.eye(self.classes)], 1)
                drawn = torch.eye(self.classes)[torch.distributions.Categorical(logits=of_classes).sample()]
            if turn >= turns // 2:
                kept.append((logits.softmax(1) if relaxed else drawn).unflatten(0, (chains, items)).mean(0))
        return z.unflatten(0, (chains, items)), torch.stack(kept).mean(0).numpy()


def _latents(posterior: Any) -> Tensor:
    """Latents of the last draw, (chain, item, latent); weighted chains are resampled."""
    from cogen.diagnostics import resample

    return torch.from_numpy(resample(posterior, seed=0)["posterior"]["z"].values[:, -1].astype(np.float32))


# ------------------------------------------------------------------------------------------------------- transfers


def transferred(generator: Any, z: Tensor, classes: int) -> Tensor:
    """x of latents (item, latent) in every class, (class, item, *event)."""
    labels = torch.eye(classes)
    with torch.no_grad():
        return torch.stack([generator(z, label=one.expand(len(z), -1)) for one in labels])


def of_style(x: Tensor, images: Tensor, shuffled: Tensor, others: Tensor) -> dict[str, float]:
    """Correlations of the features of transfers x (class, item, ...) with those of their images, and for shuffled transfers.

    :param others: True for transfers to another class, (class, item).
    """
    found: dict[str, float] = {}
    for name, feature in FEATURES.items():
        source = _standard(feature(images))
        products = []
        for made in (x, shuffled):
            of_class = torch.stack([_standard(feature(each)) for each in made])
            products.append((of_class * source * others).sum(0) / others.sum(0))  # (item,)
        difference = products[0] - products[1]
        found |= {name: float(products[0].mean()), f"{name}_shuffled": float(products[1].mean())}
        found[f"{name}_z"] = float(difference.mean() / (difference.std() / len(difference) ** 0.5))
    return found


def _standard(values: Tensor) -> Tensor:
    return (values - values.mean()) / values.std().clamp(min=1e-9)


def judged(seen: Seen, judge: Any, z: Tensor, probability: np.ndarray) -> tuple[dict[str, float], Tensor]:
    """The measures of one way, and its transfers of the first chain."""
    images = torch.from_numpy(seen.images)
    x = transferred(seen.generator, z[0], seen.classes)
    others = torch.from_numpy(np.arange(seen.classes)[:, None] != seen.labels[None])
    read = torch.from_numpy(outputs(judge, x.flatten(0, 1)).argmax(1)).unflatten(0, x.shape[:2])
    changed = (read == torch.arange(seen.classes)[:, None])[others]
    row = {
        "named": float((probability.argmax(1) == seen.labels).mean()),
        "changed": float(changed.double().mean()),
        **of_style(x, images, x.roll(1, dims=1), others.double()),
    }
    return row, x


def draw(seen: Seen, x: Tensor, path: Path, shown: int) -> None:
    """Draw test images, each with its transfers to every class."""
    from matplotlib.figure import Figure

    rows = torch.cat([torch.from_numpy(seen.images)[:shown, None], x[:, :shown].transpose(0, 1)], 1)  # (item, 1 + class, ...)
    pixels = ((rows.clamp(-1, 1) + 1) / 2).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    figure = Figure(figsize=(0.6 * rows.shape[1], 0.6 * shown + 0.3), layout="constrained")
    axes = figure.subplots()
    axes.imshow(pixels.squeeze(-1).numpy(), cmap="gray_r")
    side = rows.shape[-1]
    axes.set_xticks([side * (k + 0.5) for k in range(rows.shape[1])], ["seen", *map(str, range(seen.classes))], fontsize=8)
    axes.set_yticks([])
    figure.savefig(path, dpi=90)


def main(options: Options) -> dict[str, Any]:
    try:
        data = load_image_data(options.data, folder=options.folder)
        if options.colour is not None:
            images = {"train": data.train, "test": data.test}
            arrays = {name: coloured(each, seed) for seed, (name, each) in enumerate(images.items())}
            np.savez_compressed(options.colour, **arrays, train_labels=data.train_labels, test_labels=data.test_labels)
            print(f"written: {options.colour}")
            return {}
        if strange := [way for way in options.ways if way not in WAYS]:
            raise ValueError(f"--ways {strange[0]}: choose from {', '.join(WAYS)}")
        generator: Any = load_generator(options.generator)
        if "label" not in generator.config.contexts:
            raise ValueError(f"--generator {options.generator}: it is not conditional on a class")
        judge = load_classifier(options.classifier)
    except (OSError, ValueError) as error:
        sys.exit(f"style_and_class: {error}")
    images = as_floats(torch.from_numpy(data.test[: options.count])).numpy()
    seen = Seen(options, generator, images, data.test_labels[: options.count].astype(int))
    rows: list[dict[str, Any]] = []
    print(f"{'':10} {'named':>6} {'changed':>8} {'weight (shuffled; z)':>24} {'slant (shuffled; z)':>24}")
    for way in options.ways:
        z, probability = seen.infer(way)
        row, x = judged(seen, judge, z, probability)
        rows.append({"way": way, **row})
        cells = [f"{row[n]:.3f} ({row[n + '_shuffled']:.3f}; {row[n + '_z']:.1f})" for n in FEATURES]
        print(f"{way:10} {row['named']:6.3f} {row['changed']:8.3f} {cells[0]:>24} {cells[1]:>24}")
        if way == options.ways[0]:
            draw(seen, x, options.output.with_name(f"{options.output.name}.png"), options.shown)
    record = {
        "command": shlex.join(["python", "examples/style_and_class.py", *sys.argv[1:]]),
        "generator": generator.config.description,
        "classifier": judge.name,
        "noise": seen.noise,
        "count": options.count,
        "rows": rows,
    }
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

"""Remedies for model misspecification, chosen on held-out images and evaluated on test images.

A posterior is the correct distribution for images that the generator produces. It produces real images only approximately, and
then a posterior can be overconfident. Three remedies are compared by the fair CRPS of the hidden pixels (`image_completion.py`
has a fourth, a power likelihood, ``--exponents``):

* noise: the scale of Gaussian noise as a latent with a prior, for each item, instead of the tuned scale;
* hidden: latents of a hidden layer, x = tail(head(z) + s e), e ~ Normal(0, I): the generator may leave its range slightly,
  which intermediate-layer optimisation does without a penalty; s is chosen on held-out images, in units of the layer's sd;
* stack: draws of several generators, and of the nearest training images, by weights chosen on held-out images
  (`cogen.diagnostics.Stacking`).

    python examples/wrong_model.py --images data/mnist --output examples/results/wrong_model_digits
    python examples/wrong_model.py --images data/fashion_mnist --parts hidden stack --hidden fashion:decoder.project \
        --stack fashion --output examples/results/wrong_model_fashion

Runs have 8 independent chains and 80 temperatures of 10 gradients from the prior, or the tuned settings from a guide.

Reference:
    Daras, Dean, Jalal, Dimakis. Intermediate layer optimization for inverse problems using deep generative models. ICML 2021
        (section 2). Departure: a posterior with a Gaussian prior of e, instead of descents in a ball.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
import tyro
from completion_methods import METHODS, Task
from image_completion import Images, images_of, task_of, view_of
from image_completion import Options as Completion
from torch import Tensor, nn

from cogen.diagnostics import Stacking, fair_crps
from cogen.diagnostics.completion_scores import paired_difference
from cogen.models import CoGenerator, load_generator, pixel_noise_of, views


@dataclass
class Options:
    images: Path
    """Folder of idx files (MNIST, Fashion-MNIST)."""
    parts: tuple[str, ...] = ("noise", "hidden", "stack")
    views: tuple[str, ...] = ("half", "block")
    """Views for noise and hidden layers."""
    stack_views: tuple[str, ...] = ("half", "left", "block", "thumbnail")
    noise: tuple[str, ...] = ("mnist",)
    """Generators with Gaussian noise."""
    noise_widths: tuple[float, ...] = (0.25, 0.5)
    """Prior standard deviations of the log scale around the log of the tuned scale."""
    hidden: tuple[str, ...] = ("mnist:layers.0", "digits:decoder.project")
    """Generators with their layer, GENERATOR:LAYER."""
    hidden_scales: tuple[float, ...] = (0.1, 0.3)
    """s, in units of the layer's standard deviation."""
    stack: tuple[str, ...] = ("digits", "mnist", "mnist_vae")
    neighbours: bool = True
    """Include draws of the nearest training images, by a tuned kernel, in the stack."""
    held_out: int = 64
    test: int = 64
    chains: int = 8
    warmup: int = 80
    leapfrog: int = 10
    seed: int = 0
    output: Path = Path("wrong-model")
    """Output path: writes a JSON file."""


class HiddenLatents(nn.Module):
    """x = tail(head(z) + s e) of a latent (z, e); head(z) is the output of the submodule ``layer``, and s is in units of its
    mean sd."""

    def __init__(self, generator: nn.Module, layer: str, scale: float, latent_dim: int, seed: int) -> None:
        super().__init__()
        self.generator, self.layer, self.latent_dim = generator, layer, latent_dim
        made: list[Tensor] = []
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self._with(lambda out: made.append(out), torch.randn(256, latent_dim))
        self.shape, self.width = made[0].shape[1:], made[0][0].numel()
        self.scale = scale * float(made[0].std(0).mean())

    def _with(self, change: Callable[[Tensor], Tensor | None], z: Tensor) -> Tensor:
        hook = self.generator.get_submodule(self.layer).register_forward_hook(lambda module, inputs, out: change(out))
        try:
            return self.generator(z)
        finally:
            hook.remove()

    def forward(self, latent: Tensor) -> Tensor:
        """(batch, latent_dim + width) -> (batch, *event)."""
        e = latent[:, self.latent_dim :].unflatten(1, self.shape)
        return self._with(lambda out: out + self.scale * e, latent[:, : self.latent_dim])


def settings_of(options: Options) -> Completion:
    """Settings of the methods of `completion_methods.py`."""
    counts = {"chains": options.chains, "warmup": options.warmup, "samples": 1, "leapfrog": options.leapfrog}
    return Completion(**counts, independent=True, seed=options.seed, images=options.images)


def crps_of(options: Options, model: CoGenerator, images: np.ndarray) -> np.ndarray:
    """Fair CRPS (item,) of the hidden pixels, by annealed HMC from the prior given the model's single view."""
    view = model.views["seen"]
    seen = model.condition(seen=view(torch.from_numpy(images)).numpy())
    _, answer = next(METHODS["annealed"](Task(seen, settings_of(options))))
    return fair_crps(answer.x, images, None if view.mask is None else ~view.mask.numpy())


def models_of(options: Options, part: str, spec: str, name: str) -> dict[str, CoGenerator]:
    """The unchanged model, with the key "", and the model with each setting of a remedy."""
    generator_name, _, layer = spec.partition(":")
    generator = load_generator(generator_name)
    shape, scale = tuple(generator.config.event_shape), generator.config.noise_scale
    view = view_of(name, shape, scale, pixel_noise_of(generator))
    found = {"": CoGenerator(generator, views={"seen": view})}
    if part == "noise":
        mask = view.mask.numpy()
        for width in options.noise_widths:
            prior = dist.LogNormal(float(np.log(scale)), width)
            found[f"{width:g}"] = CoGenerator(generator, views={"seen": views.Mask(mask, scale=prior)})
    else:
        for s in options.hidden_scales:
            wider = HiddenLatents(generator, layer, s, generator.config.latent_dim, options.seed)
            size = generator.config.latent_dim + wider.width
            found[f"{s:g}"] = CoGenerator(wider, latent_dim=size, views={"seen": view})
    return found


def remedy(options: Options, part: str, spec: str, name: str, held_out: np.ndarray, test: np.ndarray) -> list[dict[str, Any]]:
    """Rows of every setting on held-out images, and of the best setting and the unchanged model on test images."""
    models = models_of(options, part, spec, name)
    scores = {setting: crps_of(options, model, held_out) for setting, model in models.items()}
    rows = [row(part, spec, name, "held-out", setting, found, scores[""]) for setting, found in scores.items()]
    best = min((setting for setting in scores if setting), key=lambda setting: scores[setting].mean())
    scores = {setting: crps_of(options, models[setting], test) for setting in ("", best)}
    return rows + [row(part, spec, name, "test", setting, found, scores[""]) for setting, found in scores.items()]


def row(
    part: str, model: str, view: str, images: str, setting: str, crps: np.ndarray, reference: np.ndarray, **more: Any
) -> dict[str, Any]:
    difference, error = paired_difference(crps, reference)
    return {
        "part": part,
        "model": model,
        "view": view,
        "images": images,
        "setting": setting or "as it is",
        "crps": float(crps.mean()),
        "difference": float(difference),
        "standard_error": float(error),
        "items": len(crps),
        **more,
    }


def draws_of(options: Options, name: str, images: Images) -> dict[str, np.ndarray]:
    """Draws (chain, 1, item, *event) of each member of the stack, from its guide if it was tuned with one."""
    found: dict[str, np.ndarray] = {}
    for member in options.stack:
        task, _ = task_of(settings_of(options), member, load_generator(member), name, images)
        started = task.guide is not None and task.tuned is not None and task.tuned.guided
        _, answer = next(METHODS["guided" if started else "annealed"](task))
        found[member] = answer.x
    if options.neighbours:
        *_, (_, answer) = METHODS["kernel"](task)
        found["neighbours"] = answer.x
    return found


def stack(options: Options, name: str, held_out: Images, test: Images) -> list[dict[str, Any]]:
    """Rows of every member and of the stacks of the generators without and with neighbours, on held-out and test images."""
    hidden = view_of(name, held_out.judged.shape[1:], 1.0).mask
    mask = None if hidden is None else ~hidden.numpy()
    groups = {"all": [*options.stack, *(["neighbours"] if options.neighbours else [])]}
    if options.neighbours and len(options.stack) > 1:
        groups = {"generators": list(options.stack), **groups}
    chosen: dict[str, dict[str, float]] = {}
    rows = []
    for part, images in (("held-out", held_out), ("test", test)):
        draws = draws_of(options, name, images)
        every = Stacking.of(draws, images.judged, mask)
        alone = {member: every.crps({other: float(other == member) for other in draws}) for member in draws}
        reference = alone[options.stack[0]]
        rows += [row("stack", member, name, part, "alone", found, reference) for member, found in alone.items()]
        for group, members in groups.items():
            if part == "held-out":
                chosen[group] = Stacking.of({member: draws[member] for member in members}, images.judged, mask).weights()
            weights = dict.fromkeys(draws, 0.0) | chosen[group]
            rows.append(
                row("stack", f"stack of {group}", name, part, "stacked", every.crps(weights), reference, weights=weights)
            )
    return rows


def main(options: Options) -> list[dict[str, Any]]:
    if unknown := [part for part in options.parts if part not in ("noise", "hidden", "stack")]:
        raise SystemExit(f"--parts {unknown[0]}: choose from noise, hidden, stack")
    held_out, test = (
        images_of(Completion(images=options.images, part=part, count=count))
        for part, count in (("held-out", options.held_out), ("test", options.test))
    )
    rows: list[dict[str, Any]] = []

    def add(found: list[dict[str, Any]]) -> None:
        for each in found:
            weights = " ".join(f"{member} {weight:.2f}" for member, weight in each.get("weights", {}).items())
            print(
                f"{each['part']:7} {each['model']:24} {each['view']:10} {each['images']:9} {each['setting']:9} "
                f"{each['crps']:.4f} {each['difference']:+.4f} ({each['standard_error']:.4f}) {weights}",
                flush=True,
            )
        rows.extend(found)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        record = {"command": " ".join(["python", "examples/wrong_model.py", *sys.argv[1:]]), "rows": rows}
        options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    for part in ("noise", "hidden"):
        for spec in getattr(options, part) if part in options.parts else ():
            for name in options.views:
                add(remedy(options, part, spec, name, held_out.judged, test.judged))
    if "stack" in options.parts:
        for name in options.stack_views:
            add(stack(options, name, held_out, test))
    return rows


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

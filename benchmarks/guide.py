"""Benefits and cost of a guide q(z | seen part) that is shipped with a generator.

    python benchmarks/guide.py --output docs/guide.json

* modes: a small guide is trained by the code of `cogen guide` for a generator that folds its latent, so that two values of z
  give the same x: the posterior of u, the folded direction of z, has two modes. Their weights and the evidence are known by
  quadrature in u. Annealed HMC from the guide has a fifth of the temperatures of annealed HMC from the prior.
* masks: -log q(z* | seen) on simulated images with kinds of masks from the guide's training and with other kinds, compared with
  -log p(z*), the value of the prior.
* completions with these masks: the fair CRPS of annealed HMC from the guide, with few temperatures, and from the prior; and on
  simulated images the gap log p(y, z*) - log p(y, z), which is zero on average for chains that have converged.
* evidence: bounds for images simulated from the generator, from the prior, and from the guide with a fifth of the temperatures.
* cost: processor seconds per step of the guide's training, and the seconds per image that the guide saves in "completions"
  (including compilation), which give the number of images from which the guide is worth its training.

Running a part again replaces its entry of the record. With the shipped guide the settings are those of `cogen tune` for the top
half; otherwise they are the defaults, with step sizes of a pilot run (which is not counted) for evidence.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor, nn

from cogen.conditions import noise_model, view_named
from cogen.diagnostics import evidence_bounds, log_evidence, score_completions, simulate
from cogen.diagnostics.completion_scores import paired_difference
from cogen.guides import views_of
from cogen.inference import AnnealedHMC, infer
from cogen.models import Amortized, CoGenerator, FlowGuide, load_generator, load_guide, shipped_images, views
from cogen.models.storage.encoders import ENCODERS
from cogen.models.storage.tunings import load_tuning
from cogen.tuning import log_joint_of

LEAPFROG = 10
STEP = 0.15
"""Settings for the folded generators, at all temperatures and from both starts."""
ALONE: dict[str, Any] = {"weighted": False, "resample_threshold": 0.0}


@dataclass
class Options:
    generator: str = "digits"
    """Generator of 28 x 28 pixels, with a guide and a tuning of the top half."""
    parts: tuple[str, ...] = ("masks", "modes", "evidence", "completions", "cost")
    """Parts to run; cost uses the seconds of completions."""
    temperatures: int = 80
    """Temperatures from the prior."""
    saved: int = 5
    """Factor by which there are fewer temperatures from the guide, for evidence and modes."""
    items: int = 4
    """Simulated images for the bounds of the evidence."""
    chains: int = 16
    """Chains for these images."""
    as_long: bool = False
    """Also bound the evidence from the guide with all temperatures."""
    pilot: int = 8
    """Chains of a pilot run from the prior."""
    mask_items: int = 128
    """Simulated images of each kind of mask for the guide's density of z*."""
    completed_simulated: int = 4
    """Simulated images of each kind that are completed."""
    completed_real: int = 8
    """Shipped test images of each kind that are completed."""
    completed_chains: int = 2
    few: int = 8
    """Temperatures from the guide, for completions."""
    dims: tuple[int, ...] = (8,)
    """Latents of the folded generators."""
    shares: tuple[float, ...] = (0.1, 0.0)
    """Shares of the prior in the start from the small guide."""
    mode_items: int = 32
    mode_chains: int = 128
    mode_temperatures: int = 40
    steps: int = 3_000
    """Training steps of the small guide."""
    batch: int = 128
    timed_batch: int = 2_048
    """Pairs per step of the timed training, as for the shipped guide."""
    timed_steps: int = 2
    seed: int = 0
    quick: bool = False
    """A short run to check that everything works."""
    output: Path | None = None


QUICK: dict[str, Any] = {
    **{"temperatures": 10, "items": 2, "chains": 8, "pilot": 8, "mask_items": 4, "completed_simulated": 2, "completed_real": 2},
    **{"few": 1, "dims": (2,), "mode_items": 3, "mode_chains": 8, "mode_temperatures": 5, "steps": 20},
    **{"timed_batch": 12, "timed_steps": 2},
}

Rows = list[dict[str, Any]]


def mean_and_error(name: str, values: Any) -> dict[str, float]:
    values = np.asarray(values, float)
    return {name: float(values.mean()), f"{name}_se": float(values.std(ddof=1) / math.sqrt(len(values)))}


# --- modes ---------------------------------------------------------------------------------------------------------


class Folded(nn.Module):
    """x = Q z, except x_1 = |u - 0.55| with u = (Q z)_1, where Q is orthogonal with a constant first row."""

    fold, noise_scale, first = 0.55, 0.2, 2.0
    """``first`` is the observed x_1: about a tenth of the posterior lies above the fold."""
    matrix: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        q, _ = np.linalg.qr(np.column_stack([np.ones(dim), np.eye(dim)[:, 1:]]))
        self.register_buffer("matrix", torch.tensor(q * np.sign(q[0, 0]), dtype=torch.float32))
        self.config = SimpleNamespace(latent_dim=dim, event_shape=(dim,), noise_scale=self.noise_scale)

    def forward(self, z: Tensor) -> Tensor:
        x = z @ self.matrix
        return torch.cat([(x[:, :1] - self.fold).abs(), x[:, 1:]], dim=1)

    def in_small_mode(self, z: np.ndarray) -> np.ndarray:
        """Whether z (..., dim) is above the fold."""
        return z @ self.matrix[:, 0].numpy() > self.fold

    def known(self) -> tuple[float, float]:
        """The weight of the small mode, and the log evidence of the observed x_1."""
        u = np.linspace(-8.0, 8.0, 400_001)
        squares = u**2 + ((self.first - abs(u - self.fold)) / self.noise_scale) ** 2
        density = np.exp(-0.5 * squares) / (2 * np.pi * self.noise_scale)
        return float(density[u > self.fold].sum() / density.sum()), float(np.log(density.sum() * (u[1] - u[0])))


def modes(options: Options) -> Rows:
    rows: Rows = []
    for dim in options.dims:
        generator = Folded(dim)
        torch.manual_seed(options.seed)
        flow: Any = ENCODERS["MaskedDenseFlow"](latent_dim=dim, event_shape=(dim,))
        family = Amortized(generator, flow, dim, views=views_of(generator, 1_000, options.seed), learning_rate=2e-3)
        trained = family.fit(options.steps, options.batch, seed=options.seed, progress=False)
        mask = np.arange(dim) < max(1, dim // 2)
        model = CoGenerator(generator, views={"seen": views.Mask(mask, scale=generator.noise_scale)})
        seen, _ = simulate(model, options.mode_items, seed=options.seed + 1)
        y = np.array(seen.item_data["seen"]["value"])
        y[:, 0] = generator.first
        seen = model.condition(seen=y)
        weight, evidence = generator.known()
        rest, variance = y[:, 1 : mask.sum()], 1.0 + generator.noise_scale**2
        exact = evidence - 0.5 * (rest**2 / variance + math.log(2 * np.pi * variance)).sum(axis=1)
        guide = FlowGuide(flow, seen)
        with torch.no_grad():
            alone = guide.posterior().sample(torch.Size([1_000])).numpy()
        case = {"latents": dim, "known": weight, "training_seconds": trained.seconds}
        rows.append(
            {**case, "start": "guide alone", **mean_and_error("small_mode", generator.in_small_mode(alone).mean(axis=0))}
        )
        starts: list[tuple[str, float | None]] = [("prior", None), *(("guide", share) for share in options.shares)]
        for start, share in starts:
            temperatures = options.mode_temperatures // (1 if share is None else options.saved)
            kernel = AnnealedHMC(num_leapfrog=LEAPFROG, step_size=STEP, initial=None if share is None else guide.start(share))
            counts: dict[str, Any] = {"num_warmup": temperatures, "num_samples": 1, "num_chains": options.mode_chains}
            posterior = infer(seen, kernel, seed=options.seed + 2, progress=False, **counts)
            small = generator.in_small_mode(posterior["posterior"]["z"].values[:, 0]).mean(axis=0)  # (item,)
            error = log_evidence(posterior)["estimate"].values - exact
            row = {**case, "start": start, "share": share, "gradients": temperatures * LEAPFROG}
            row |= mean_and_error("small_mode", small) | mean_and_error("evidence_error", error)
            rows.append(row | {"small_mode_rmse": float(np.sqrt(np.mean((small - weight) ** 2)))})
    return rows


# --- masks ---------------------------------------------------------------------------------------------------------


def kinds(shape: tuple[int, ...], seed: int) -> dict[str, np.ndarray]:
    """Masks by kind, True = seen; the first two kinds are in `cogen.models.views.assorted`, the others are not."""
    row, column = np.indices(shape[-2:])
    radius = np.hypot(row - (shape[-2] - 1) / 2, column - (shape[-1] - 1) / 2)
    unseen = {
        "stripes": row // 2 % 2 == 0,
        "checkerboard": (row // 2 + column // 2) % 2 == 0,
        "diagonal bands": ((row + column) % 14 < 4) | ((row - column) % 14 < 4),
        "ring": (radius > 5) & (radius < 9),
    }
    trained = {"top half": views.half(shape, "top"), "random pixels": views.random(shape, 0.5, seed=seed)}
    return trained | {name: np.broadcast_to(mask, shape) for name, mask in unseen.items()}


def shipped(options: Options) -> tuple[Any, Any, Any]:
    """The generator, its guide and its settings for the top half."""
    guide, tuned = load_guide(options.generator), load_tuning(options.generator, "half")
    if guide is None or tuned is None:
        raise SystemExit(f"--generator {options.generator}: it has no guide, or no tuning of the top half")
    return load_generator(options.generator), guide, tuned


def under(generator: Any, mask: np.ndarray, images: int, seed: int) -> tuple[Any, np.ndarray, CoGenerator]:
    """Simulate ``images`` images for each mask (kind, ...): the model conditioned on them, their z, and the model."""
    model = CoGenerator(
        generator, views={"seen": views.Mask(np.repeat(mask, images, axis=0), **noise_model("random", generator))}
    )
    seen, truth = simulate(model, images * len(mask), seed=seed)
    return seen, truth["z"], model


def masks(options: Options) -> Rows:
    generator, guide, _ = shipped(options)
    each = kinds(tuple(generator.config.event_shape), options.seed)
    seen, z, _ = under(generator, np.stack(list(each.values())), options.mask_items, options.seed + 1)
    with torch.no_grad():
        surprise = -FlowGuide(guide, seen).posterior().log_prob(torch.tensor(z)).numpy()
    prior = 0.5 * ((z**2).sum(axis=1) + z.shape[1] * math.log(2 * math.pi))
    rows = []
    for (name, mask), of_guide, of_prior in zip(
        each.items(), *(a.reshape(len(each), -1) for a in (surprise, prior)), strict=True
    ):
        row = {"seen": name, "share_seen": float(mask.mean()), "images": options.mask_items}
        row |= mean_and_error("guide_nats", of_guide) | mean_and_error("prior_nats", of_prior)
        rows.append(row | mean_and_error("gained", of_prior - of_guide))
    return rows


def completions(options: Options) -> dict[str, Any]:
    generator, guide, tuned = shipped(options)
    shape = tuple(generator.config.event_shape)
    each = kinds(shape, options.seed)
    mask = np.stack(list(each.values()))
    simulated, z, model = under(generator, mask, options.completed_simulated, options.seed + 1)
    images = shipped_images("mnist")[0][: options.completed_real]
    real = np.tile(images, (len(each), 1, 1, 1))
    y = np.concatenate([simulated.item_data["seen"]["value"], real])
    shown = np.concatenate([np.repeat(mask, count, axis=0) for count in (options.completed_simulated, len(images))])
    seen = CoGenerator(generator, views={"seen": views.Mask(shown, **noise_model("random", generator))}).condition(seen=y)
    x, log_joint = np.concatenate([model.decode(z), real]), log_joint_of(simulated)
    kind = np.concatenate([np.repeat(np.arange(len(each)), count) for count in (options.completed_simulated, len(images))])
    made = np.arange(len(x)) < len(z)

    starts: dict[str, tuple[int, dict[str, Any]]] = {
        "prior": (options.temperatures, {"num_leapfrog": LEAPFROG}),
        "guide": (options.few, {**tuned.annealing(), "initial": FlowGuide(guide, seen).start()}),
    }
    crps, gaps, seconds = {}, {}, {}
    for start, (temperatures, kernel) in starts.items():
        before = time.process_time()
        counts: dict[str, Any] = {"num_warmup": temperatures, "num_samples": 1, "num_chains": options.completed_chains}
        posterior = infer(seen, AnnealedHMC(**ALONE, **kernel), seed=options.seed + 2, progress=False, **counts)
        seconds[start] = (time.process_time() - before) / len(x)
        draws = posterior["posterior"]["z"].values  # (chain, 1, item, latent)
        decoded = model.decode(draws.reshape(-1, draws.shape[-1])).reshape(*draws.shape[:3], *shape)
        scores = score_completions(decoded, x, ~shown, value_range=generator.config.value_range)
        crps[start] = scores["crps"].values
        gaps[start] = log_joint(z) - np.mean([log_joint(one) for one in draws[:, 0, made]], axis=0)
    rows = []
    for k, name in [*enumerate(each), (None, "all")]:
        of_kind = np.ones(len(x), bool) if k is None else kind == k
        for source, judged in (("simulated", made & of_kind), ("real", ~made & of_kind)):
            row: dict[str, Any] = {"seen": name, "images": source, "count": int(judged.sum())}
            row |= {f"crps_{start}": float(values[judged].mean()) for start, values in crps.items()}
            row["difference"], row["difference_se"] = paired_difference(crps["guide"][judged], crps["prior"][judged])
            if source == "simulated":
                for start, values in gaps.items():
                    row |= mean_and_error(f"gap_{start}", values[of_kind[made]])
            rows.append(row)
    gradients = {start: temperatures * LEAPFROG for start, (temperatures, _) in starts.items()}
    return {"rows": rows, "gradients": gradients, "seconds_an_image": seconds}


# --- evidence ------------------------------------------------------------------------------------------------------


def evidence(options: Options) -> Rows:
    generator, guide, tuned = shipped(options)
    seen, truth = simulate(CoGenerator(generator, views={"seen": view_named("half", generator)}), options.items, seed=4)
    from_guide = AnnealedHMC(initial=FlowGuide(guide, seen).start(), **tuned.annealing())
    arms = [
        ("prior", AnnealedHMC(num_leapfrog=LEAPFROG), options.temperatures, options.pilot),
        ("guide", from_guide, options.temperatures // options.saved, 0),
        *([("guide", from_guide, options.temperatures, 0)] if options.as_long else []),
    ]
    rows: Rows = []
    for start, kernel, temperatures, pilot in arms:
        counts: dict[str, Any] = {"num_warmup": temperatures, "num_chains": options.chains, "pilot": pilot}
        found = evidence_bounds(seen, kernel, truth, seed=options.seed + 3, progress=False, **counts)
        row: dict[str, Any] = {"start": start, "temperatures": temperatures, "gradients": temperatures * LEAPFROG}
        for name in ("lower", "upper", "gap", "spread", "lower_se", "ancestors"):
            row |= mean_and_error(name, found[name].values)
        row["items"] = {name: found[name].values.round(3).tolist() for name in ("lower", "lower_se", "upper", "upper_se")}
        if rows:
            lower = rows[0]["items"]["lower"]
            row["difference"], row["difference_se"] = paired_difference(found["lower"].values, lower)
        rows.append(row)
    return rows


# --- cost ----------------------------------------------------------------------------------------------------------


def cost(options: Options, seconds: dict[str, float]) -> dict[str, Any]:
    """The cost of the guide's training, and the number of images from which it is worth it.

    :param seconds: per image, by start.
    """
    generator, guide, _ = shipped(options)
    made = guide.config.figures
    flow: Any = ENCODERS[guide.config.architecture](**guide.config.arguments)
    family = Amortized(generator, flow, guide.latent_dim, views=views_of(generator, 1_000, options.seed))
    clock: list[float] = []
    family.fit(
        options.timed_steps + 1,
        options.timed_batch,
        seed=options.seed,
        watch=lambda *_: clock.append(time.process_time()),
        watch_every=1,
        progress=False,
    )
    step, saved = float(np.median(np.diff(clock))), seconds["prior"] - seconds["guide"]
    return {
        "seconds_a_step": step,
        "steps": made["steps"],
        "hours": step * made["steps"] / 3600,
        "chains": options.completed_chains,
        "seconds_saved_an_image": saved,
        "images_until_it_pays": step * made["steps"] / saved,
        "recorded_seconds": made["seconds"],
        "images_until_it_pays_by_the_record": made["seconds"] / saved,
    }


def main(options: Options) -> None:
    if options.quick:
        options = replace(options, **QUICK)
    path = options.output
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else {}
    for part in options.parts:
        started = time.process_time()
        if part == "cost":
            if "completions" not in record:
                raise SystemExit("--parts cost: it uses the seconds of completions, so run that part first")
            found: Any = cost(options, record["completions"]["seconds_an_image"])
        else:
            found = {"masks": masks, "modes": modes, "evidence": evidence, "completions": completions}[part](options)
        found = {"rows": found} if isinstance(found, list) else found
        command = shlex.join(["python", *sys.argv])
        record[part] = {"command": command, "processor_seconds": time.process_time() - started, **found}
        print(part, json.dumps(record[part], indent=1), flush=True)
        if path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

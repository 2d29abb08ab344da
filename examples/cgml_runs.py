"""Shared code of the cGML examples: runs with equal training time, their draws for several ways to find z, scores and a table.

The same encoder and decoder, with skip connections and z concatenated to the smallest features, is trained as

    cgml               with a predictor of z
    l1                 with the mean absolute error only and random z
    context-encoder    with the squared error of the hidden part and a critic of it (if the condition has a mask)
    pix2pix            with a critic of pairs and the mean absolute error
    dsgan              the same, with a term for the diversity of draws
    published          cgml with the published settings (`cogen.models.families.cgml.PUBLISHED`) and batch norm

for the same processor time; the cost of a step of each is measured first. cgml has a row for every way to find z:

    predicted          moved by Z from a random start
    without rho        the same, with the step length given by r
    random             random z: given the condition alone, the posterior of z is its prior
    oracle             moved to reduce the cost for the true x, as in training; not available to any method
    posterior          p(z | condition, seen) by annealed HMC, if the condition shows a part of x, which is then observed

Scores are of K draws: PSNR and SSIM of their mean, the squared error of the best, fair energy score and CRPS, and the paper's
diversity (appendix 3.4). The scores differ in how much they favour blurred images: if all draws are the same image, the energy
score is the distance of this image, which blurring reduces.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from cgml_report import RANGE, SCORES, convergence, picture, printed, table, write
from step_costs import step_costs
from torch import Tensor

from cogen.diagnostics import lpips, pieapp, score_completions
from cogen.models import Array, CoGenerator
from cogen.models.families.cgml import ABSOLUTE, CGML, Cost, published
from cogen.models.families.context_encoder import ContextEncoder
from cogen.models.families.family import Family
from cogen.models.families.pix2pix import Pix2Pix, Regression
from cogen.models.families.sizes import PairSizes
from cogen.models.networks.architectures import count_parameters
from cogen.models.networks.latent_descent import LatentDescent
from cogen.models.training.learning_rates import Falling
from cogen.models.training.preparation import Joint
from cogen.models.training.trainer import train
from cogen.models.views import View

PERCEPTUAL = {"lpips": lpips, "pieapp": pieapp}
DIVERSITY = 8.0
"""The weight of DSGAN's diversity term, as published."""
WATCHED, WATCHED_DRAWS = 64, 8
"""Items, and draws of each, that are scored during training."""


@dataclass
class Common:
    """Options of every example."""

    families: tuple[str, ...] = ("cgml", "l1", "context-encoder")
    """Methods: cgml, l1, context-encoder, pix2pix, dsgan, published; NAME@RATE sets the learning rate, NAME/COUNT the number of
    latents."""
    seeds: tuple[int, ...] = (0,)
    minutes: float = 5.0
    """Processor time of each training."""
    width: int = 16
    """Feature maps of the first layer."""
    latent_dim: int = 10
    batch: int = 32
    num_steps: int = 2
    """Steps of z, in training and in the descent; 20 in the paper."""
    step_size: float = 0.5
    """Angle of the first step of z."""
    penalty: float = 0.0
    """Penalty on steep changes of G and Z."""
    average: float = 0.999
    """Decay of the moving average of the generators' weights, which is scored; 0 for none."""
    draws: int = 16
    posterior: int = 0
    """Number of items with posterior draws."""
    perceptual: tuple[Literal["lpips", "pieapp"], ...] = ()
    """Perceptual distances of the mean of the draws, by other packages that must be installed."""
    watched: int = 0
    """How many times the draws are scored during each training; writes OUTPUT-convergence.png."""
    pictures: int = 6
    threads: int = 1
    output: Path = Path("cgml")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


@dataclass(frozen=True)
class Task:
    """Training and test data, cost and scores.

    :param train: bytes or floats, from which ``prepare`` makes batches (x, condition).
    :param x: test items, (item, *event) in [-1, 1]; ``condition`` holds their conditions.
    :param hidden: True where an item is scored, (item, *event); None for all.
    :param cost: of generated x.
    :param view: of the part of x that the condition shows, given the noise; None if it shows no part.
    :param show: images (item, 1 or 3, height, width) in [-1, 1] of x or of draws, given the condition.
    :param extra: further scores of draws (draw, item, *event), by name, each (item,).
    :param groups: groups of items with separate rows, by name.
    """

    train: tuple[Tensor, ...]
    prepare: Joint
    x: Tensor
    condition: Tensor
    hidden: Tensor | None = None
    cost: Cost = ABSOLUTE
    view: Callable[[float], View] | None = None
    show: Callable[[Tensor, Tensor], Tensor] = field(default=lambda x, condition: x)
    extra: Callable[[Tensor], dict[str, np.ndarray]] = field(default=lambda draws: {})
    groups: dict[str, slice] = field(default_factory=lambda: {"": slice(None)})

    def some(self, count: int) -> Task:
        """The task with at most ``count`` test items, evenly spread over all."""
        which = torch.linspace(0, len(self.x) - 1, min(count, len(self.x))).round().long()
        hidden = None if self.hidden is None else self.hidden[which]
        return replace(self, x=self.x[which], condition=self.condition[which], hidden=hidden)


def build(name: str, seed: int, options: Common, task: Task) -> Family:
    """A new family of this name.

    :raises ValueError: for an unknown name.
    """
    name, _, rate = name.partition("@")
    name, _, count = name.partition("/")
    dim = int(count or options.latent_dim)
    sizes = PairSizes(tuple(task.x.shape[1:]), tuple(task.condition.shape[1:]), dim, options.width)
    torch.manual_seed(seed)
    generator = sizes.spherical()
    rates = {"learning_rate": float(rate)} if rate else {}
    if name == "cgml":
        settings: dict[str, Any] = {"num_steps": options.num_steps, "step_size": options.step_size, "penalty": options.penalty}
        return CGML(generator, sizes.predictor(), dim, cost=task.cost, **settings, **rates)
    if name == "published":
        return published(sizes, rates, cost=task.cost)
    if name == "l1":
        return Regression(generator, dim, **{"learning_rate": 1e-3, **rates})
    if name == "context-encoder":
        return ContextEncoder(generator, sizes.critic(of_pairs=False), dim, **rates)
    if name in ("pix2pix", "dsgan"):
        return Pix2Pix(generator, sizes.critic(), dim, diversity=DIVERSITY if name == "dsgan" else 0.0, **rates)
    raise ValueError(f"--families {name}: choose from cgml, l1, context-encoder, pix2pix, dsgan and published")


def costs(options: Common, task: Task) -> dict[str, float]:
    """Processor seconds per step of each family."""
    torch.manual_seed(0)
    batch = task.prepare(*(tensor[: options.batch] for tensor in task.train))
    return step_costs({name: (build(name, 0, options, task), batch) for name in options.families}, steps=3)


# ------------------------------------------------------------------------------------------------------- draws


@torch.no_grad()
def drawn(family: Any, task: Task, options: Common) -> dict[str, Tensor]:
    """Draws (draw, item, *event) of every row."""
    u = starts(family, task, options.draws)
    if not isinstance(family, CGML):
        return {"draws": made(family.generator, u, task)}
    ways = ways_of(family, task, u)
    ends = {"predicted": ways["predicted"], "without rho": ways["without rho"], "random": u[:, None], "oracle": ways["oracle"]}
    return {name: made(family.generator, way[:, -1], task) for name, way in ends.items()}


def starts(family: Any, task: Task, count: int) -> Tensor:
    """Random latents, (draw, item, latent_dim), the same for all families with the same latent size."""
    torch.manual_seed(1)
    return torch.randn(count, len(task.x), family.latent_dim)


@torch.no_grad()
def made(generator: Any, latents: Tensor, task: Task) -> Tensor:
    """Generated x (draw, item, *event) of latents (draw, item, latent_dim)."""
    return torch.stack([generator(each, task.condition) for each in latents])


@torch.no_grad()
def ways_of(family: CGML, task: Task, u: Tensor) -> dict[str, Tensor]:
    """The paths of the latents from u for every way to find z: (draw, num_steps + 1, item, latent_dim), on the sphere."""
    network: Any = family.generator.network
    found = {}
    for name, momentum in (("predicted", True), ("without rho", False)):
        descent = LatentDescent(network.down, family.predictor, family.num_steps, momentum)
        found[name] = torch.stack([descent.path(each, task.condition) for each in u])
    features = network.down(task.condition)
    found["oracle"] = torch.stack([family.ways(task.x, task.condition, features, each) for each in u])
    return found


@torch.no_grad()
def costs_on_the_way(family: CGML, task: Task) -> dict[str, list[float]]:
    """The mean cost at every step of every path of z (the paper's Figures 40 and 41)."""
    ways = ways_of(family, task, starts(family, task, WATCHED_DRAWS))
    return {
        name: [
            float(torch.stack([task.cost(x, task.x) for x in made(family.generator, z, task)]).mean()) for z in way.unbind(1)
        ]
        for name, way in ways.items()
    }


def operations(family: Any, task: Task) -> float:
    """Floating-point operations of one draw of one item, counted by torch (Table 7), including the descent, if there is one."""
    from torch.utils.flop_counter import FlopCounterMode

    one = task.some(1)
    u = starts(family, one, 1)[0]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(family, CGML):
            network: Any = family.generator.network
            u = LatentDescent(network.down, family.predictor, family.num_steps, family.momentum)(u, one.condition)
        family.generator(u, one.condition)
    return float(counter.get_total_flops())


def posterior(generator: Any, latent_dim: int, task: Task, options: Common, noise: float) -> Tensor:
    """Draws of p(z | condition, seen) of the first items, (draw, item, *event)."""
    from cogen.inference import AnnealedHMC, infer

    assert task.view is not None
    few = slice(options.posterior)
    x, condition = task.x[few].numpy(), task.condition[few].numpy()
    contexts = {"condition": Array(condition.shape[1:])}
    model = CoGenerator(generator, latent_dim=latent_dim, views={"seen": task.view(noise)}, contexts=contexts)
    seen = model.given(condition=condition).condition(seen=x)
    counts: dict[str, Any] = {"num_warmup": 60, "num_samples": 1, "num_chains": options.draws, "seed": 0, "progress": False}
    found = infer(seen, AnnealedHMC(weighted=False, resample_threshold=0.0), **counts)
    z = found["posterior"]["z"].values[:, 0]
    return torch.from_numpy(seen.decode(z.reshape(-1, z.shape[-1])).reshape(len(z), *x.shape))


def scores(draws: Tensor, task: Task, perceptual: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Scores of draws (draw, item, *event), each (item,); of the first items, if the draws have fewer."""
    items = draws.shape[1]
    hidden = None if task.hidden is None else task.hidden[:items].numpy()
    found = score_completions(
        draws.numpy()[:, None], task.x[:items].numpy(), hidden, value_range=RANGE, best_of=len(draws), seed=0
    )
    return {
        **{name: found[name].values for name in SCORES if name != "diversity"},
        "diversity": diversity(draws),
        **task.extra(draws),
        **{name: PERCEPTUAL[name](*shown(draws, task), RANGE) for name in perceptual},
    }


def shown(draws: Tensor, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the draws and the truth as images."""
    few = slice(draws.shape[1])
    return task.show(draws.mean(0), task.condition[few]).numpy(), task.show(task.x[few], task.condition[few]).numpy()


def diversity(draws: Tensor) -> np.ndarray:
    """The paper's diversity (appendix 3.4) of draws (draw, item, *event), (item,): the mean standard deviation of the ten draws
    whose mean pixel is farthest from that of the central draw (half of the draws, if these are fewer than twenty)."""
    means = draws.flatten(2).mean(2)
    middle = (means - means.mean(0)).abs().argmin(0, keepdim=True)
    far = (means - means.gather(0, middle)).abs().topk(min(10, len(draws) // 2), dim=0).indices
    chosen = torch.stack([draws[far[:, item], item] for item in range(draws.shape[1])], dim=1)
    return chosen.std(0).flatten(1).mean(1).numpy()


# ------------------------------------------------------------------------------------------------------- runs


def run(
    name: str, seed: int, steps: int, cost: float, options: Common, task: Task
) -> tuple[dict[str, Any], dict[str, Tensor], Any]:
    """One training: its record, its draws by row, and the family, with averaged generator weights."""
    family: Any = build(name, seed, options, task)
    record: dict[str, Any] = {"family": name, "seed": seed, "steps": steps, "seconds_a_step": cost}
    record["weights"] = {part: count_parameters(network) for part, network in family.named_children()}
    record["operations"] = operations(family.eval(), task)
    few, course = task.some(WATCHED), []

    def watch(done: int, current: Any, averaged: Callable[[], Any]) -> None:
        generator = averaged() or current.generator.eval()
        found = scores(made(generator, starts(current, few, WATCHED_DRAWS), few), replace(few, extra=nothing))
        course.append({"seconds": done * cost, **{score: float(found[score].mean()) for score in ("psnr", "energy_score")}})

    begun = time.process_time()
    trained = train(
        family,
        task.train,
        num_steps=steps,
        batch_size=options.batch,
        seed=seed,
        schedule=Falling(steps),
        average=options.average,
        prepare=task.prepare,
        watch=watch if options.watched else None,
        watch_every=max(1, steps // max(1, options.watched)),
        progress=False,
    )
    record["seconds"] = time.process_time() - begun
    family.generator = trained.average or family.generator
    rows = drawn(family.eval(), task, options)
    if options.watched:
        record["course"] = course
    if isinstance(family, CGML):
        record["on_the_way"] = costs_on_the_way(family, few)
        if options.posterior and task.view is not None:
            record["noise"] = float((rows["oracle"] - task.x).square().mean().sqrt())
            rows["posterior"] = posterior(family.generator, family.latent_dim, task, options, record["noise"])
    record["rows"] = {}
    for row, draws in rows.items():
        found = scores(draws, task, options.perceptual)
        for group, items in task.groups.items():
            named = f"{row}, {group}" if group else row
            part = {score: values[items] for score, values in found.items()}
            if len(part["psnr"]):  # posterior draws exist for the first items only
                record["rows"][named] = part
    for row, found in record["rows"].items():
        print(f"{name}, seed {seed}, {row}: " + ", ".join(f"{k} {v.mean():.4g}" for k, v in found.items()), flush=True)
    return record, rows, family


def nothing(draws: Tensor) -> dict[str, np.ndarray]:
    """No further scores."""
    return {}


def experiment(
    options: Common,
    task: Task,
    record: dict[str, Any] | None = None,
    columns: dict[str, Tensor] | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Run all trainings of a call, and write their table, record and image.

    :param record: further entries of the record.
    :param columns: further columns of the image, which come first.
    :param keep: also return the families of the first seed, by name, as "families".
    """
    cost = costs(options, task)
    about = {name: str(value) for name, value in vars(options).items() if name in vars(Common())}
    found: dict[str, Any] = {"command": shlex.join(["python", *sys.argv]), "options": about, **(record or {})}
    found["runs"], families = [], {}
    few = slice(options.pictures)
    shown = {**(columns or {}), "truth": task.show(task.x[few], task.condition[few])}
    for seed in options.seeds:
        for name in options.families:
            steps = max(1, round(60 * options.minutes / cost[name]))
            one, rows, family = run(name, seed, steps, cost[name], options, task)
            found["runs"].append(one)
            if seed == options.seeds[0]:
                families[name] = family
                for row, draws in rows.items():
                    for k in range(3 if row == "predicted" else 1):
                        shown[f"{name}, {row}" if k == 0 else f"{name}, {row} {k + 1}"] = task.show(
                            draws[k][few], task.condition[few][: draws.shape[1]]
                        )
            found["table"] = table(found["runs"])
            write(found, options.output)
    print(printed(found["table"]))
    picture(shown, options.output.with_name(f"{options.output.name}.png"))
    if options.watched:
        convergence(found["runs"], options.output.with_name(f"{options.output.name}-convergence.png"))
    return {**found, "families": families} if keep else found


def smallest_features(family: Any, conditions: Tensor) -> np.ndarray:
    """The smallest features of the encoder, (item, feature)."""
    with torch.no_grad():
        network = family.generator.eval().network
        return torch.cat([network.down(part)[-1].flatten(1) for part in conditions.split(256)]).numpy()


def accuracy(train: np.ndarray, test: np.ndarray, train_labels: np.ndarray, test_labels: np.ndarray) -> float:
    """Test accuracy of a linear classifier of features (item, feature)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(train)
    model = LogisticRegression(max_iter=2_000).fit(scaler.transform(train), train_labels)
    return float(model.score(scaler.transform(test), test_labels))


def classes_read(
    raw: dict[str, list[np.ndarray]],
    whole: list[Tensor],
    labels: tuple[np.ndarray, np.ndarray],
    families: dict[str, Any],
    options: Common,
    task: Task,
) -> dict[str, float]:
    """Test accuracies of linear classifiers on the smallest features of every encoder, and on the features ``raw``.

    :param raw: training and test features by name, (item, feature) each.
    :param whole: the conditions of the training and test items, with nothing hidden.
    """
    found = {name: accuracy(*parts, *labels) for name, parts in raw.items()}
    untrained = build("l1", options.seeds[0], options, task)
    for name, family in {"not trained": untrained, **families}.items():
        train, test = (smallest_features(family, part) for part in whole)
        found[name] = accuracy(train, test, *labels)
    return found

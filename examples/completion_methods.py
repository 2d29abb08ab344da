"""The methods that `image_completion.py` compares: each draws completions, given the seen parts of images.

A method is a function of a `Task` that yields rows (name, `Answer`); `METHODS` lists them in the order of the tables.
"Gradients" are counted per image: all gradient-based methods use as many as annealed HMC, ``chains`` times (warmup + samples)
times ``leapfrog``, except ensembles that are stopped early.

References:
    Fang, Schwing. Co-generation with GANs using AIS based HMC. NeurIPS 2019 (section 4: descents, the best of 5,000 starts).
    Oliver, He, Reynolds. Conditioning permeability fields to pressure data. ECMOR 1996 (randomised maximum likelihood, exact
        where G is linear and all noise Gaussian).
    Nadaraya. On estimating regression. Theory of Probability and its Applications 1964 (kernel weights of neighbours).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from arbitrary_conditioning import load_direct, seen_pixels, seen_thumbnail
from numpyro.infer import NUTS, init_to_median, init_to_sample
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam
from torch import Tensor, nn

from cogen.diagnostics import independent_groups
from cogen.diagnostics.fair_scores import crps_of, items_of
from cogen.diagnostics.simulation_based_calibration import log_likelihood_of
from cogen.inference import SVI, AnnealedHMC, GradientDescent, Langevin, infer
from cogen.models import Array, CoGenerator, FlowGuide, pixel_noise_of, views
from cogen.models.pixels.noise import HIGH, LOW, NEAR
from cogen.models.storage.tunings import Settings as Tuned

ANNEALED = "annealed HMC"
GUIDED = "annealed HMC from the guide"

TREE_DEPTH = 4
"""Of NUTS: a transition has at most 2^4 - 1 gradients, which bounds their total number."""

STARTS_AT_ONCE = 50
"""Batch size of descents; larger batches are not faster."""

GUIDE_DRAWS = 1_000
"""Draws of the guide per image, from which draws are picked by importance weights."""

KERNEL_NEIGHBOURS = (2, 4, 8, 16, 32, 64)
KERNEL_WIDTHS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, np.inf)
"""Candidates for k and h; h in units of the mean square over the seen pixels."""

KERNEL_DRAWS = 32
"""Number of draws with replacement."""

TINY = 1e-12
"""Added to a weight before its logarithm."""


@dataclass
class Settings:
    """Settings of the methods."""

    chains: int = 32
    """Chains of annealed HMC, Langevin and NUTS, draws of the other methods, and starts of gradient descent."""
    warmup: int = 300
    samples: int = 20
    leapfrog: int = 10
    temperatures: tuple[int, ...] = ()
    """Temperatures of annealed HMC from the guide; default the tuned number."""
    independent: bool = False
    """Use independent, equally weighted chains without resampling, so that the annealing is a warm-up. The scores are then
    those of independent draws, also where few populations would be left."""
    exponents: tuple[float, ...] = (1.0,)
    """Exponents of a learned likelihood; the others are compared with the first."""
    steps: tuple[int, ...] = ()
    """Steps of the ensembles of descents and of MAP; default the number of gradients per chain of annealed HMC."""
    neighbours: tuple[int, ...] = ()
    """Numbers of nearest training images; requires --images."""
    starts: int | None = None
    """Number of starts, of which the best is used (5,000 in the paper); its cost is not limited."""
    starts_steps: int | None = None
    """Steps of each of these starts; default those of the first ensemble."""
    starts_count: int | None = None
    """Number of images for the best of all starts; default all."""
    direct: Path | None = None
    """Weights written by `arbitrary_conditioning.py`."""
    seed: int = 0

    @property
    def gradients_per_chain(self) -> int:
        return (self.warmup + self.samples) * self.leapfrog

    @property
    def gradients(self) -> int:
        """Gradients per image."""
        return self.chains * self.gradients_per_chain


class Task(NamedTuple):
    """The model of the seen parts of some images, and the inputs of the methods."""

    seen: CoGenerator
    """Conditioned on its single view, "seen"."""
    settings: Settings
    noise: Any = None
    """Predictive noise: a scale, or a learned noise; None if the truth has no noise."""
    with_exponent: Callable[[float], CoGenerator] | None = None
    """The same model with a power likelihood; None if the noise is not learned."""
    training: np.ndarray | None = None
    """Training images (item, *event), among which neighbours are searched."""
    tuning: np.ndarray | None = None
    """Images for choosing the settings of a method."""
    guide: FlowGuide | None = None
    """Guide of the view; None if the generator has none."""
    tuned: Tuned | None = None
    """Settings that `cogen tune` found for the view."""

    @property
    def view(self) -> views.View:
        return self.seen.views["seen"]

    @property
    def value(self) -> np.ndarray:
        """The observed data, (item, *shape)."""
        return self.seen.item_data["seen"]["value"]

    @property
    def mask(self) -> np.ndarray | None:
        """The mask, True = seen, (*event) or (item, *event); None for a thumbnail."""
        return None if self.view.mask is None else self.view.mask.numpy()

    def infer(self, kernel: Any, warmup: int, samples: int = 1, chains: int | None = None, **options: Any) -> Any:
        chains = self.settings.chains if chains is None else chains
        counts = {"num_warmup": warmup, "num_samples": samples, "num_chains": chains}
        return infer(options.pop("model", self.seen), kernel, **counts, seed=self.settings.seed, **options)


class Answer(NamedTuple):
    """The result of a method: draws of x, their weights and their cost."""

    x: np.ndarray  # (chain, draw, item, channel, height, width); the first items, if fewer than the task has
    gradient_evaluations: float = 0.0
    is_sample: bool = False
    """Whether the draws are a sample of a distribution, such as a posterior; otherwise they are the whole distribution."""
    noise: Any = None
    """Predictive noise, as in `Task`; None if the draws are of observations."""
    log_weight: np.ndarray | None = None
    group: np.ndarray | None = None
    seconds: float = 0.0
    """Time without compilation."""
    compile_seconds: float = 0.0
    chosen: dict[str, Any] | None = None
    """Settings that the method chose."""


def decoded(seen: CoGenerator, z: np.ndarray) -> np.ndarray:
    """x (chain, draw, item, *event) of z (chain, draw, item, latent)."""
    return seen.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *seen.event_shape)


def answer_of(task: Task, posterior: Any, gradients: float, z: np.ndarray | None = None, **more: Any) -> Answer:
    """The draws of a run (or of ``z``), by default as a sample, and its time."""
    run = posterior["posterior"].attrs
    x = decoded(task.seen, posterior["posterior"]["z"].values if z is None else z)
    options = {"is_sample": True, "noise": task.noise, "compile_seconds": run["compile_seconds"]} | more
    return Answer(x, gradients, seconds=run["seconds"] - run["compile_seconds"], **options)


Rows = Iterator[tuple[str, Answer]]

# --- by gradients --------------------------------------------------------------------------------------------------


def guided(task: Task) -> Rows:
    """Annealed HMC from the guide with the step sizes and the number of temperatures found by `cogen tune`, or the numbers of
    temperatures in ``--temperatures``."""
    s, tuned = task.settings, task.tuned
    if task.guide is None or tuned is None or not tuned.guided:
        raise SystemExit("--methods guided: the generator has no guide, or this view was not tuned with it (cogen tune)")
    for temperatures in s.temperatures or (tuned.temperatures,):
        kernel = AnnealedHMC(initial=task.guide.start(), resample_threshold=0, weighted=False, **tuned.annealing())
        name = GUIDED if temperatures == (s.temperatures or (tuned.temperatures,))[0] else f"{GUIDED}, {temperatures}"
        posterior = task.infer(kernel, temperatures)
        yield name, answer_of(task, posterior, s.chains * (temperatures + 1) * tuned.num_leapfrog)


def guide_alone(task: Task) -> Rows:
    """Draws of the guide, and as many picked from `GUIDE_DRAWS` by importance weights."""
    if task.guide is None:
        raise SystemExit("--methods guide: the generator has no guide")
    s, started = task.settings, time.perf_counter()
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(s.seed)
        posterior = task.guide.posterior()
        z = posterior.sample(torch.Size([GUIDE_DRAWS]))  # (draw, item, latent)
        log_q = posterior.log_prob(z)
    alone = Answer(decoded(task.seen, z[: s.chains, None].numpy()), is_sample=True, noise=task.noise)
    yield "draws of the guide", alone._replace(seconds=time.perf_counter() - started)
    log_likelihood = log_likelihood_of(task.seen)
    log_p = torch.stack([torch.tensor(log_likelihood({"z": each.numpy()})) for each in z])
    log_weight = log_p - 0.5 * z.square().sum(-1) - log_q
    chosen = torch.distributions.Categorical(logits=log_weight.T).sample(torch.Size([s.chains]))  # (draw, item)
    picked = z[chosen, torch.arange(z.shape[1])]
    answer = Answer(decoded(task.seen, picked[:, None].numpy()), is_sample=True, noise=task.noise)
    yield "draws of the guide, by weights", answer._replace(seconds=time.perf_counter() - started)


def annealed(task: Task) -> Rows:
    """Annealed HMC, for each exponent of the likelihood."""
    s = task.settings
    equal: dict[str, Any] = {"resample_threshold": 0, "weighted": False} if s.independent else {}
    for exponent in s.exponents[: 1 if task.with_exponent is None else None]:
        model = task.seen if task.with_exponent is None else task.with_exponent(exponent)
        kernel = AnnealedHMC(num_leapfrog=s.leapfrog, **equal)
        posterior = task.infer(kernel, s.warmup, s.samples, model=model)
        weight = None if s.independent else posterior["sample_stats"]["log_weight"].values
        group = independent_groups(posterior).values
        name = ANNEALED if exponent == s.exponents[0] else f"{ANNEALED}, exponent {exponent:g}"
        yield name, answer_of(task, posterior, s.gradients, log_weight=weight, group=group)


def ensembles(task: Task, prior: bool) -> Rows:
    """The end points of one descent per chain on -log p(y | z) or, with the prior, on -log p(z, y) (MAP)."""
    s = task.settings
    for steps in s.steps or (s.gradients_per_chain,):
        posterior = task.infer(GradientDescent(prior=prior), steps - 1)
        yield f"{'MAP' if prior else 'descent'}, all {s.chains}, {steps} steps", answer_of(task, posterior, steps * s.chains)


def points(task: Task) -> Rows:
    """Point estimates, whose CRPS is the absolute error: the best of the ensemble by the error of the seen part; one descent
    with as many steps as annealed HMC has transitions, and one with all its gradients."""
    s = task.settings
    ensemble = task.infer(GradientDescent(), s.gradients_per_chain - 1)
    z = ensemble["posterior"]["z"].values
    best = ensemble["sample_stats"]["lp"].values[:, 0].argmax(axis=0)  # (item,)
    chosen = z[best, :, np.arange(z.shape[2])].swapaxes(0, 1)[None]
    yield f"descent, best of {s.chains}", answer_of(task, ensemble, s.gradients, chosen, is_sample=False)
    for steps in (s.warmup + s.samples, s.gradients):
        one = task.infer(GradientDescent(), steps - 1, chains=1)
        yield f"descent, {steps} steps", answer_of(task, one, steps, is_sample=False)


def best_of_starts(task: Task) -> Rows:
    """The best of many starts by the error of the seen part, for a few images."""
    s = task.settings
    steps = s.starts_steps or (s.steps or (s.gradients_per_chain,))[0]
    groups = -(-s.starts // STARTS_AT_ONCE)
    each = -(-s.starts // groups)
    data = {name: value[: s.starts_count] for name, value in task.seen.item_data["seen"].items()}
    repeated = task.seen.of_items({"seen": {name: np.repeat(value, groups, axis=0) for name, value in data.items()}})
    kernel = GradientDescent(best_of=each)
    posterior = task.infer(kernel, steps - 1, chains=1, model=repeated, items_at_once=1)
    best = posterior["sample_stats"]["lp"].values.reshape(-1, groups).argmax(axis=1)  # (item,)
    z = posterior["posterior"]["z"].values.reshape(len(best), groups, -1)[np.arange(len(best)), best]
    gradients = float(steps * each * groups)
    answer = answer_of(task, posterior, gradients, z[None, None], is_sample=False, chosen={"steps": steps})
    yield f"descent, best of {s.starts}", answer


class Shifted(nn.Module):
    """G(centre + z): for standard normal z, the latent centre + z has the prior Normal(centre, I)."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, centre: Tensor) -> Tensor:
        """z and centre (batch, latent_dim) -> (batch, *event)."""
        return self.generator(z + centre)


def randomised_map(task: Task) -> Rows:
    """Each chain minimizes a randomised objective: the data plus noise, and a prior whose mean is drawn from the prior.

        argmin_z  -log p(y_j | z) + |z - c_j|^2 / 2,    y_j = y + noise,    c_j ~ Normal(0, I),  from z = c_j

    For pixels that are censored at black or white, noise is added to the value beyond the end of the range in a MAP estimate,
    which takes half of the gradients if the noise is learned.
    """
    s, items = task.settings, len(task.value)
    random = np.random.default_rng(s.seed)
    learned = hasattr(task.view.likelihood, "noisy")
    steps, pilot = s.gradients_per_chain, None
    y = np.broadcast_to(task.value, (s.chains, *task.value.shape))
    if learned:
        pilot = task.infer(GradientDescent(prior=True), steps // 2 - 1)
        steps -= steps // 2
        x = decoded(task.seen, pilot["posterior"]["z"].values)[:, 0]
        whole = np.where(y < LOW + NEAR, np.minimum(x, y), np.where(y > HIGH - NEAR, np.maximum(x, y), y))
        moved = task.view.likelihood.noisy(whole, random)
    else:
        moved = y + task.view.likelihood.scale * random.standard_normal(y.shape)
    centre = random.standard_normal((s.chains * items, task.seen.latent_dim)).astype(np.float32)
    each = CoGenerator(
        Shifted(task.seen.generator),
        views={"seen": task.view},
        contexts={"centre": Array((task.seen.latent_dim,))},
        latent_dim=task.seen.latent_dim,
    )
    each = each.condition(seen=moved.reshape(-1, *y.shape[2:])).given(centre=centre)
    start = {"z": np.zeros((1, *centre.shape), np.float32)}
    posterior = task.infer(GradientDescent(prior=True), steps - 1, chains=1, model=each, start=start, items_at_once=64)
    z = (posterior["posterior"]["z"].values[0, 0] + centre).reshape(s.chains, 1, items, -1)
    answer = answer_of(task, posterior, s.gradients, z)
    if pilot is not None:
        before = pilot["posterior"].attrs
        compiling = before["compile_seconds"]
        answer = answer._replace(
            seconds=answer.seconds + before["seconds"] - compiling, compile_seconds=answer.compile_seconds + compiling
        )
    yield f"randomised MAP, all {s.chains}", answer


def variational(task: Task) -> Rows:
    """A mean-field Gaussian fitted to each image, with one draw per chain in every step.

    The learning rate and the start were chosen by the bound on eight simulated digits: .03 and the prior's median (rates of .01
    and .1, and a random start, give lower bounds).
    """
    s = task.settings
    guide = partial(AutoNormal, init_loc_fn=init_to_median, init_scale=0.5)
    posterior = task.infer(SVI(guide, num_particles=s.chains, optimizer=Adam(0.03)), s.gradients_per_chain)
    yield "SVI, mean field", answer_of(task, posterior, s.gradients)


def langevin(task: Task) -> Rows:
    """MALA from draws of the prior."""
    s = task.settings
    posterior = task.infer(Langevin(), s.gradients_per_chain - s.samples, s.samples)
    yield "Langevin (MALA)", answer_of(task, posterior, s.gradients)


def nuts(task: Task) -> Rows:
    """NumPyro's NUTS from draws of the prior, with as many transitions as the gradients allow for the largest trees."""
    s = task.settings
    transitions = max(s.samples + 1, s.gradients_per_chain // (2**TREE_DEPTH - 1))
    kernel = partial(NUTS, max_tree_depth=TREE_DEPTH, init_strategy=init_to_sample)
    posterior = task.infer(kernel, transitions - s.samples, s.samples)
    made = float(posterior["sample_stats"]["gradient_evaluations"].mean())
    yield "NUTS", answer_of(task, posterior, made)


# --- by neighbours -------------------------------------------------------------------------------------------------


def nearest(view: views.View, seen: np.ndarray, training: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training images by the seen part, nearest first: indices (item, neighbour), and distances (mean squared
    difference of the seen pixels)."""
    shown = np.concatenate([view(torch.from_numpy(part)).numpy() for part in np.array_split(training, 20)])
    mask = np.broadcast_to(True if view.mask is None else view.mask.numpy(), shown.shape[1:])
    of_training, of_seen = shown[:, mask], seen[:, mask]
    square = (of_training**2).sum(1) - 2 * of_seen @ of_training.T + (of_seen**2).sum(1)[:, None]
    order = np.argsort(square, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(square, order, axis=1).clip(0) / mask.sum()


def neighbours(task: Task) -> Rows:
    """The k nearest training images, scored as a sample of size k."""
    started = time.perf_counter()
    found, _ = nearest(task.view, task.value, task.training, max(task.settings.neighbours))
    seconds = time.perf_counter() - started
    for count in task.settings.neighbours:
        x = task.training[found[:, :count].T][:, None]
        yield f"{count} nearest images", Answer(x, is_sample=True, seconds=seconds)


def kernel_weights(distance: np.ndarray, width: float) -> np.ndarray:
    """Normalised weights exp(-d / h) of distances (item, neighbour), nearest first."""
    weight = np.exp(-(distance - distance[:, :1]) / width)
    return weight / weight.sum(axis=1, keepdims=True)


def drawn_by(weight: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Indices of neighbours, (draw, item), drawn independently with replacement by weights (item, neighbour)."""
    uniform = np.random.default_rng(seed).random((count, len(weight), 1))
    return (uniform > weight.cumsum(axis=1)[:, :-1]).sum(axis=2)


def tuned_kernel(
    view: views.View, images: np.ndarray, training: np.ndarray, hidden: np.ndarray | None
) -> dict[bool, dict[str, Any]]:
    """k and h with the least CRPS of images (item, *event) among `KERNEL_NEIGHBOURS` and `KERNEL_WIDTHS`, with this CRPS.

    The key True is for weighted neighbours scored as a sample, False for neighbours that are the whole distribution. For the
    first, the mean effective number 1 / sum w^2 must be at least 2, since the fair score is unreliable if one image has nearly
    all the weight.
    """
    found, distance = nearest(view, view(torch.from_numpy(images)).numpy(), training, max(KERNEL_NEIGHBOURS))
    best: dict[bool, dict[str, Any]] = {}
    for count in KERNEL_NEIGHBOURS:
        draws = training[found[:, :count].T][:, None]
        for width in KERNEL_WIDTHS:
            weight = kernel_weights(distance[:, :count], width)
            items = list(items_of(draws, images, hidden, np.log(weight.T[:, None] + TINY)))
            effective = float((1 / (weight**2).sum(axis=1)).mean())
            for is_sample in (True, False):
                score = float(np.mean([crps_of(one, is_sample).mean() for one in items if one is not None]))
                known = best.get(is_sample, {"held_out_crps": np.inf})["held_out_crps"]
                if score < known and (effective > 2 - 1e-6 or not is_sample):
                    best[is_sample] = {"k": count, "h": width, "effective_number": effective, "held_out_crps": score}
    return best


def kernel_neighbours(task: Task) -> Rows:
    """The k nearest training images with weights exp(-d / h), in two ways.

    First, scored as a weighted sample, as the rows of k nearest images are: this favours few neighbours, and equals these rows
    if h is infinite. Second, independent draws by these weights with replacement, so that fair scores estimate the score of the
    distribution of weighted neighbours for any number of draws.
    """
    hidden = None if task.mask is None else ~task.mask
    tuned = tuned_kernel(task.view, task.tuning, task.training, hidden)
    started = time.perf_counter()
    found, distance = nearest(task.view, task.value, task.training, max(KERNEL_NEIGHBOURS))
    seconds = time.perf_counter() - started

    def chosen(is_sample: bool) -> tuple[np.ndarray, dict[str, Any]]:
        one = tuned[is_sample]
        weight = kernel_weights(distance[:, : one["k"]], one["h"])
        return weight, one | {"h": one["h"] if np.isfinite(one["h"]) else "infinite"}

    weight, settings = chosen(True)
    x = task.training[found[:, : settings["k"]].T][:, None]
    log_weight = np.log(weight.T[:, None] + TINY)
    answer = Answer(x, is_sample=True, log_weight=log_weight, seconds=seconds, chosen=settings)
    yield "nearest images by a kernel", answer

    weight, settings = chosen(False)
    drawn = drawn_by(weight, KERNEL_DRAWS, task.settings.seed)
    x = task.training[np.take_along_axis(found, drawn.T, axis=1).T][:, None]
    yield "draws of images by a kernel", Answer(x, is_sample=True, seconds=seconds, chosen=settings)


def direct(task: Task) -> Rows:
    """A network trained to complete images with any mask: `arbitrary_conditioning.py`."""
    s = task.settings
    model, record = load_direct(s.direct)
    if model.event_shape != task.seen.event_shape:
        raise SystemExit(f"--direct {s.direct}: trained on images of shape {model.event_shape}, not {task.seen.event_shape}")
    started = time.perf_counter()
    y = torch.from_numpy(task.value)
    mask = None if task.mask is None else torch.from_numpy(task.mask).expand_as(y)
    z = torch.randn(s.chains * s.samples, len(y), model.latent_dim, generator=torch.Generator().manual_seed(s.seed))
    x = model.complete(seen_thumbnail(y) if mask is None else seen_pixels(y, mask), z)
    if mask is not None:
        x = torch.where(mask, y, x)
    noise = None if task.noise is None else pixel_noise_of(model)
    training = {f"training_{key}": record[key] for key in ("steps", "seconds", "processor_seconds") if key in record}
    answer = Answer(x[:, None].numpy(), is_sample=True, noise=noise, chosen=training)
    yield "direct model for any mask", answer._replace(seconds=time.perf_counter() - started)


def prior(task: Task) -> Rows:
    """Draws of the prior, which ignore the data."""
    s, started = task.settings, time.perf_counter()
    z = np.random.default_rng(s.seed).standard_normal((s.chains, 1, len(task.value), task.seen.latent_dim))
    answer = Answer(decoded(task.seen, z), is_sample=True, noise=task.noise)
    yield "draws of the prior", answer._replace(seconds=time.perf_counter() - started)


METHODS: dict[str, Callable[[Task], Rows]] = {
    "guided": guided,
    "annealed": annealed,
    "descent": partial(ensembles, prior=False),
    "map": partial(ensembles, prior=True),
    "randomised-map": randomised_map,
    "points": points,
    "best-of-starts": best_of_starts,
    "svi": variational,
    "langevin": langevin,
    "nuts": nuts,
    "guide": guide_alone,
    "direct": direct,
    "neighbours": neighbours,
    "kernel": kernel_neighbours,
    "prior": prior,
}
"""The methods by their names on the command line, in the order of the rows."""

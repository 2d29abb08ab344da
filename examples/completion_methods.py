"""The methods that `image_completion.py` compares: each takes what is seen of some images, and gives draws of the rest.

A method is a function of a `Task` that yields its rows, (name, `Answer`) each; `METHODS` lists them in the order of the tables.
"Gradients" below are those of one image: all methods that follow gradients have as many as annealed HMC has, ``chains`` times
(warmup + samples) times ``leapfrog``, but for ensembles that are stopped early.

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
"""Of NUTS: a transition has at most 2^4 - 1 gradients, so that the number of transitions bounds their sum."""

STARTS_AT_ONCE = 50
"""A batch of descents: as fast for each as larger ones, or faster."""

GUIDE_DRAWS = 1_000
"""Of each image, which importance weights choose from."""

KERNEL_NEIGHBOURS = (2, 4, 8, 16, 32, 64)
KERNEL_WIDTHS = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, np.inf)
"""What is tried for k and h; h in units of the mean square over the seen pixels."""

KERNEL_DRAWS = 32
"""Drawn with replacement."""

TINY = 1e-12
"""Added to a weight before its logarithm."""


@dataclass
class Settings:
    """Settings of the methods."""

    chains: int = 32
    """Chains of annealed HMC, Langevin and NUTS, draws of the others, and n, the number of starts of gradient descent."""
    warmup: int = 300
    samples: int = 20
    leapfrog: int = 10
    temperatures: tuple[int, ...] = ()
    """Of annealed HMC from the guide; the default is what was tuned."""
    independent: bool = False
    """Every chain counts the same, and none is resampled: the annealing is a warm-up. The scores are then those of independent
    draws, which pairs of a few populations are not when these collapse."""
    exponents: tuple[float, ...] = (1.0,)
    """Exponents of a learned likelihood. The first is what the others are compared with."""
    steps: tuple[int, ...] = ()
    """Steps of the ensembles of descents and of MAP; the default is as many as annealed HMC has gradients for each chain."""
    neighbours: tuple[int, ...] = ()
    """How many nearest training images; they need --images."""
    starts: int | None = None
    """The best of so many starts (the paper: 5,000), whatever that costs."""
    starts_steps: int | None = None
    """Steps of each of these; default those of the first ensemble."""
    starts_count: int | None = None
    """So many images for the best of all starts; default all."""
    direct: Path | None = None
    """Weights of `arbitrary_conditioning.py`."""
    seed: int = 0

    @property
    def gradients_per_chain(self) -> int:
        return (self.warmup + self.samples) * self.leapfrog

    @property
    def gradients(self) -> int:
        """For an image."""
        return self.chains * self.gradients_per_chain


class Task(NamedTuple):
    """What is seen of some images, and what a method may use."""

    seen: CoGenerator
    """Conditioned on its one view, "seen"."""
    settings: Settings
    noise: Any = None
    """Of the predictive: a scale, or a learned noise; None where the truth has none."""
    with_exponent: Callable[[float], CoGenerator] | None = None
    """The same with a power likelihood; None where the noise is not learned."""
    training: np.ndarray | None = None
    """Images (item, *event) to look for neighbours in."""
    tuning: np.ndarray | None = None
    """Images for choices that are made here."""
    guide: FlowGuide | None = None
    """Of what is seen; None where none lies beside the generator."""
    tuned: Tuned | None = None
    """What `cogen tune` found for such a view."""

    @property
    def view(self) -> views.View:
        return self.seen.views["seen"]

    @property
    def value(self) -> np.ndarray:
        """What is seen, (item, *shape)."""
        return self.seen.item_data["seen"]["value"]

    @property
    def mask(self) -> np.ndarray | None:
        """Where, (*event) or (item, *event); None for a thumbnail."""
        return None if self.view.mask is None else self.view.mask.numpy()

    def infer(self, kernel: Any, warmup: int, samples: int = 1, chains: int | None = None, **options: Any) -> Any:
        chains = self.settings.chains if chains is None else chains
        counts = {"num_warmup": warmup, "num_samples": samples, "num_chains": chains}
        return infer(options.pop("model", self.seen), kernel, **counts, seed=self.settings.seed, **options)


class Answer(NamedTuple):
    """What a method gives: draws of x, their weights, and what they cost."""

    x: np.ndarray  # (chain, draw, item, channel, height, width); the first items where they are fewer than the task has
    gradient_evaluations: float = 0.0
    is_sample: bool = False
    """Whether the draws are a sample of the method's answer, as those of a posterior; otherwise they are the whole answer."""
    noise: Any = None
    """Of the predictive, as in `Task`; the draws are of observations where there is none."""
    log_weight: np.ndarray | None = None
    group: np.ndarray | None = None
    seconds: float = 0.0
    """Without compilation."""
    compile_seconds: float = 0.0
    chosen: dict[str, Any] | None = None
    """Settings that the method chose itself."""


def decoded(seen: CoGenerator, z: np.ndarray) -> np.ndarray:
    """x (chain, draw, item, *event) of z (chain, draw, item, latent)."""
    return seen.decode(z.reshape(-1, z.shape[-1])).reshape(*z.shape[:3], *seen.event_shape)


def answer_of(task: Task, posterior: Any, gradients: float, z: np.ndarray | None = None, **more: Any) -> Answer:
    """The draws of a run (or these of z), a sample unless told otherwise, and its seconds."""
    run = posterior["posterior"].attrs
    x = decoded(task.seen, posterior["posterior"]["z"].values if z is None else z)
    options = {"is_sample": True, "noise": task.noise, "compile_seconds": run["compile_seconds"]} | more
    return Answer(x, gradients, seconds=run["seconds"] - run["compile_seconds"], **options)


Rows = Iterator[tuple[str, Answer]]

# --- by gradients --------------------------------------------------------------------------------------------------


def guided(task: Task) -> Rows:
    """Annealed HMC from the guide as `cogen tune` left it: frozen step sizes, as many temperatures as it takes on simulated
    images, or as many as ``--temperatures`` says."""
    s, tuned = task.settings, task.tuned
    if task.guide is None or tuned is None or not tuned.guided:
        raise SystemExit("--methods guided: the generator has no guide, or this view was not tuned with it")
    for temperatures in s.temperatures or (tuned.temperatures,):
        kernel = AnnealedHMC(initial=task.guide.start(), resample_threshold=0, weighted=False, **tuned.annealing())
        name = GUIDED if temperatures == (s.temperatures or (tuned.temperatures,))[0] else f"{GUIDED}, {temperatures}"
        posterior = task.infer(kernel, temperatures)
        yield name, answer_of(task, posterior, s.chains * (temperatures + 1) * tuned.num_leapfrog)


def guide_alone(task: Task) -> Rows:
    """Draws of the guide, and the same many out of `GUIDE_DRAWS` by their importance weights."""
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
    """Annealed HMC, by each exponent of the likelihood."""
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
    """The end points of as many descents as there are chains, on -log p(y | z) or, with the prior, to as many modes."""
    s = task.settings
    for steps in s.steps or (s.gradients_per_chain,):
        posterior = task.infer(GradientDescent(prior=prior), steps - 1)
        yield f"{'MAP' if prior else 'descent'}, all {s.chains}, {steps} steps", answer_of(task, posterior, steps * s.chains)


def points(task: Task) -> Rows:
    """The best of the ensemble by the error of the seen part; one descent of as many steps as annealed HMC makes transitions,
    and one with all its gradients. Points: their CRPS is the absolute error."""
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
    """The best of very many starts by the error of the seen part, of a few images."""
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
    """G(centre + z): where z is standard normal, the latent centre + z has the prior Normal(centre, I)."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, z: Tensor, centre: Tensor) -> Tensor:
        """z and centre (batch, latent_dim) -> (batch, *event)."""
        return self.generator(z + centre)


def randomised_map(task: Task) -> Rows:
    """Each chain descends on a posterior of its own: the data moved by the noise, the prior's mean drawn from the prior.

        argmin_z  -log p(y_j | z) + |z - c_j|^2 / 2,    y_j = y + noise,    c_j ~ Normal(0, I),  from z = c_j

    A pixel that is cut at black or white is moved from where a MAP estimate has it beyond the end: half of the gradients go
    there when the noise is a learned one.
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
    """A mean-field Gaussian fitted to each image, with as many draws of it in every step as there are chains.

    The rate and the start were chosen by the bound on eight simulated digits (.03 from the prior's median; .01 and .1, and a
    start at random, are lower).
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
    """NumPyro's NUTS from draws of the prior, as many transitions as the gradients allow at its largest tree."""
    s = task.settings
    transitions = max(s.samples + 1, s.gradients_per_chain // (2**TREE_DEPTH - 1))
    kernel = partial(NUTS, max_tree_depth=TREE_DEPTH, init_strategy=init_to_sample)
    posterior = task.infer(kernel, transitions - s.samples, s.samples)
    made = float(posterior["sample_stats"]["gradient_evaluations"].mean())
    yield "NUTS", answer_of(task, posterior, made)


# --- by looking ----------------------------------------------------------------------------------------------------


def nearest(view: views.View, seen: np.ndarray, training: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest training images by what the view shows, the nearest first: indices (item, neighbour), and distances, the mean
    square difference of a seen pixel."""
    shown = np.concatenate([view(torch.from_numpy(part)).numpy() for part in np.array_split(training, 20)])
    mask = np.broadcast_to(True if view.mask is None else view.mask.numpy(), shown.shape[1:])
    of_training, of_seen = shown[:, mask], seen[:, mask]
    square = (of_training**2).sum(1) - 2 * of_seen @ of_training.T + (of_seen**2).sum(1)[:, None]
    order = np.argsort(square, axis=1, kind="stable")[:, :count]
    return order, np.take_along_axis(square, order, axis=1).clip(0) / mask.sum()


def neighbours(task: Task) -> Rows:
    """The k nearest training images, scored as a sample of k."""
    started = time.perf_counter()
    found, _ = nearest(task.view, task.value, task.training, max(task.settings.neighbours))
    seconds = time.perf_counter() - started
    for count in task.settings.neighbours:
        x = task.training[found[:, :count].T][:, None]
        yield f"{count} nearest images", Answer(x, is_sample=True, seconds=seconds)


def kernel_weights(distance: np.ndarray, width: float) -> np.ndarray:
    """exp(-d / h), normalised: distances (item, neighbour), the nearest first."""
    weight = np.exp(-(distance - distance[:, :1]) / width)
    return weight / weight.sum(axis=1, keepdims=True)


def drawn_by(weight: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which neighbours, (draw, item), independently and with replacement, by weights (item, neighbour)."""
    uniform = np.random.default_rng(seed).random((count, len(weight), 1))
    return (uniform > weight.cumsum(axis=1)[:, :-1]).sum(axis=2)


def tuned_kernel(
    view: views.View, images: np.ndarray, training: np.ndarray, hidden: np.ndarray | None
) -> dict[bool, dict[str, Any]]:
    """k and h with the least CRPS of images (item, *event) among `KERNEL_NEIGHBOURS` and `KERNEL_WIDTHS`, with this CRPS.

    Under True where the weighted neighbours are scored as a sample, under False where they are the whole distribution. For
    the first, the mean of the effective numbers 1 / sum w^2 is at least that of the two nearest images: a fair score makes
    much of little when one image has all the weight.
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
    """The k nearest training images by weights exp(-d / h), in two ways.

    Scored as a weighted sample, as the rows of k nearest images are scored as a sample: kind to few neighbours, and the same as
    these rows where h is infinite. And independent draws by these weights, with replacement: a sample indeed, of the weighted
    neighbours, so that fair scores estimate the score of that distribution, whatever the number of draws.
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
    """A network that was trained to complete images, whatever is hidden: `arbitrary_conditioning.py`."""
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
    """Draws that have not looked."""
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
"""By their names on the command line, in the order of the rows."""

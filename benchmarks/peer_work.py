"""Work-normalised errors: (squared error of the log evidence) x work, of our sampler, BlackJAX's tempered SMC and pocoMC.

    python benchmarks/peer_work.py --output docs/peers_work.json

The mean squared error of an estimate is proportional to 1 / work, so that their product compares samplers for any budget. Work
is measured in gradients per particle times particles, with an evaluation without gradient counted as a third, and in processor
seconds of this process, which depend little on other processes. The same is done for the squared distance.

Our sampler and BlackJAX's are tuned on the same grid, for the evidence error x seconds, in two rounds: all settings with a few
seeds, and the best of each side with more. Tuning uses another item and other seeds than the report, in which both sides
alternate. The grid includes the metric: for BlackJAX the identity, the variances or the covariance of its particles, for ours
the identity or `ParticleCovariance`; only ours has `start_draws`. The ratios have bootstrap intervals over items and seeds.

The evidence of the toy is known by quadrature, that of the image by long runs of both samplers, which are printed for
comparison.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from peer_cases import Case, draws, five_gaussians
from peer_samplers import (
    LIMIT,
    Numbers,
    Outcome,
    adaptive,
    annealed,
    prior_importance,
    target_of,
    tempered,
)

from cogen.inference import ParticleCovariance
from cogen.inference.targets.numpyro_target import numpyro_target
from cogen.models import CoGenerator, load_generator, shipped_images, views

OURS, BLACKJAX = "annealed HMC", "BlackJAX adaptive tempered SMC"
PLAIN = "annealed HMC, no learned metric, one draw"
PRIOR, POCOMC = "importance sampling from the prior", "pocoMC"
DENSITY = 1 / 3
"""The work of an evaluation without gradient, in gradients."""


@dataclass
class Options:
    cases: tuple[str, ...] = ("five_gaussians", "image")
    also: tuple[str, ...] = ("plain", "prior")
    """Further samplers: plain, ours with its setting but no learned metric and one draw; prior, importance sampling from it."""
    toy_tuned_on: float = 0.1
    """The x2 that is used for tuning."""
    toy_items: tuple[float, ...] = (0.0, -0.1, 0.59, -0.95)
    image: str = "mnist"
    image_tuned_on: int = 4
    """The test digit that is used for tuning."""
    image_items: tuple[int, ...] = (0, 1, 2, 3)
    toy_particles: int = 1_024
    image_particles: int = 512
    moves: tuple[int, ...] = (1, 3)
    toy_leapfrogs: tuple[int, ...] = (2, 5)
    image_leapfrogs: tuple[int, ...] = (5,)
    ess: tuple[float, ...] = (0.3, 0.5, 0.7)
    image_ess: tuple[float, ...] = (0.5, 0.7)
    toy_steps: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Fixed step sizes."""
    image_steps: tuple[float, ...] = (0.1, 0.3)
    """Initial step sizes, which adapt to an acceptance rate of 0.85."""
    start_draws: tuple[int, ...] = (1, 16)
    first_seeds: int = 4
    """Seeds of every setting in the first round."""
    best: int = 5
    """Settings of each side in the second round."""
    second_seeds: int = 12
    seeds: int = 12
    """Reported seeds of each item."""
    toy_factor: int = 4
    """Factor for the numbers of seeds of the toy, whose runs take milliseconds."""
    reference_runs: int = 3
    reference_particles: int = 2_048
    prior_draws: int = 65_536
    """Draws of importance sampling from the prior."""
    pocomc_seeds: int = 0
    """Seeds of pocoMC for each of the first two items; 0 to leave it out."""
    bootstraps: int = 4_000
    quick: bool = False
    """A short run to check that everything works; its numbers are meaningless."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self) -> None:
        if self.quick:
            self.toy_items, self.image_items, self.toy_particles, self.image_particles = (0.0,), (0,), 64, 16
            self.moves, self.ess, self.image_ess, self.toy_steps, self.image_steps = (1,), (0.3,), (0.3,), (0.1,), (0.1,)
            self.toy_leapfrogs = self.image_leapfrogs = (2,)
            self.first_seeds = self.second_seeds = self.seeds = 2
            self.toy_factor, self.reference_runs, self.reference_particles, self.prior_draws = 1, 2, 16, 64
            self.start_draws, self.best, self.bootstraps, self.pocomc_seeds = (2,), 1, 50, 0


@dataclass(frozen=True)
class Candidate:
    """A setting of one side."""

    particles: int
    moves: int
    numbers: Numbers
    metric: str
    """identity, variances, covariance, or of the others (the covariance of the other particles)."""
    start_draws: int = 1
    bridge: bool = True

    @property
    def static(self) -> tuple:
        """Settings that determine the compiled program."""
        return self.particles, self.moves, self.metric.replace("identity", "variances"), self.start_draws, self.bridge

    def __str__(self) -> str:
        n = self.numbers
        step = f"step from {n.step:g} to acceptance {n.acceptance:g}" if n.follows else f"step {n.step:g}"
        more = f", {self.start_draws} draws a chain at the start" if self.start_draws > 1 else ""
        return (
            f"{self.particles} particles, {self.moves} moves of {n.leapfrog} leapfrogs, ESS {n.ess:g}, {step}, metric:"
            f" {self.metric}{more}"
        )


@dataclass
class Runs:
    """Errors and costs of one sampler on one item."""

    error: list[float] = field(default_factory=list)
    """Errors of the log evidence."""
    distance: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    """Gradient evaluations of all particles."""
    densities: list[float] = field(default_factory=list)
    """Evaluations without gradient, of all particles."""

    def add(self, error: float, distance: float, seconds: float, gradients: float, densities: float) -> None:
        for values, value in zip(vars(self).values(), (error, distance, seconds, gradients, densities), strict=True):
            values.append(value)

    @property
    def work(self) -> float:
        return float(np.mean(self.gradients) + DENSITY * np.mean(self.densities))

    def products(self, which: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Squared error of the evidence x work and x seconds, squared distance x work and x seconds."""
        error, distance = (np.mean(np.square(np.asarray(values)[which])) for values in (self.error, self.distance))
        costs = np.array([self.work, np.median(self.seconds)])
        return np.concatenate([error * costs, distance * costs])


PRODUCTS = ("evidence x gradients", "evidence x seconds", "distance x gradients", "distance x seconds")


# --- the samplers --------------------------------------------------------------------------------------------------


def candidates(side: str, case: str, options: Options) -> list[Candidate]:
    toy = case == "five_gaussians"
    particles = options.toy_particles if toy else options.image_particles
    rules = [(step, 0.8, 0.0) for step in options.toy_steps] if toy else [(step, 0.85, 1.0) for step in options.image_steps]
    leapfrogs, ess = (options.toy_leapfrogs, options.ess) if toy else (options.image_leapfrogs, options.image_ess)
    metrics = ("identity", "of the others") if side == OURS else ("identity", "variances", "covariance")
    more = options.start_draws if side == OURS else (1,)
    return [
        Candidate(particles, moves, Numbers(length, e, step, acceptance, follows, float(metric != "identity")), metric, k)
        for moves, length, e, (step, acceptance, follows), metric, k in itertools.product(
            options.moves, leapfrogs, ess, rules, metrics, more
        )
    ]


class Samplers:
    """The compiled programs of a case, whose items differ only in their data."""

    def __init__(self, seen: CoGenerator) -> None:
        self.seen = seen
        self.programs: dict[tuple, Callable] = {}

    def __call__(self, side: str, candidate: Candidate, seed: int, seen: CoGenerator) -> tuple[Outcome, float]:
        """A run for the item, and its processor seconds."""
        key, data = (side, candidate.static), data_of(seen)
        numbers = Numbers(jnp.int32(candidate.numbers.leapfrog), *map(jnp.float32, candidate.numbers[1:]))
        first = key not in self.programs
        if first:
            function = self._function(side, candidate)
            self.programs[key] = jax.jit(function).lower(jax.random.key(0), numbers, data).compile()
        for _ in range(1 + first):  # a program's first call is slower
            start = time.process_time()
            outcome = jax.block_until_ready(self.programs[key](jax.random.key(seed), numbers, data))
            seconds = time.process_time() - start
        return outcome, seconds

    def add(self, case: Case, side: str, candidate: Candidate, seed: int, runs: Runs) -> None:
        outcome, seconds = self(side, candidate, seed, case.seen)
        error = float(outcome.log_evidence) - case.log_evidence
        gradients = float(outcome.gradients) * candidate.particles
        densities = candidate.particles * candidate.start_draws * (candidate.start_draws > 1)
        if side == PRIOR:
            gradients, densities = 0.0, candidate.particles
        runs.add(error, case.distance(*draws(outcome)), seconds, gradients, float(densities))

    def _function(self, side: str, c: Candidate) -> Callable:
        def run(key: jax.Array, numbers: Numbers, data: Any) -> Outcome:
            def model() -> None:
                self.seen.numpyro(data)

            if side == BLACKJAX:
                return tempered(numpyro_target(model), c.particles, c.moves, dense=c.metric == "covariance")(key, numbers)
            if side == PRIOR:
                return prior_importance(numpyro_target(model), c.particles, min(1_024, c.particles))(key, numbers)
            metric = ParticleCovariance() if c.metric == "of the others" else None
            return annealed(model, c.particles, LIMIT * c.moves, adaptive(c.moves, c.bridge, metric, c.start_draws))(
                key, numbers
            )

        return run


def data_of(seen: CoGenerator) -> Any:
    return jax.tree.map(jnp.asarray, dict(seen.item_data))


def tune(case: Case, samplers: Samplers, options: Options) -> dict[str, Candidate]:
    """The best candidate of each side, by evidence error x seconds."""
    name = case.name
    factor = options.toy_factor if name == "five_gaussians" else 1
    chosen = {}
    for side in (OURS, BLACKJAX):
        found = [(each, Runs()) for each in candidates(side, name, options)]
        for number, seeds in ((len(found), options.first_seeds), (options.best, options.second_seeds)):
            found = sorted(found, key=lambda each: each[1].products()[1] if each[1].error else 0.0)
            if number < len(found):
                kinds = {(each.metric, each.start_draws): (runs.products(), each) for each, runs in reversed(found)}
                for (metric, draws_), (products, each) in kinds.items():
                    values = f"{products[0]:.3g} x gradients, {products[1]:.3g} x seconds"
                    say(f"{name}: {side}, first round, the best with metric: {metric}, {draws_} draws: {values} ({each})")
            found = found[:number]
            for (candidate, runs), _ in itertools.product(found, range(factor * seeds)):
                samplers.add(case, side, candidate, 100 + len(runs.error), runs)
        candidate, runs = min(found, key=lambda each: each[1].products()[1])
        chosen[side] = candidate
        error = np.sqrt(np.mean(np.square(runs.error)))
        say(f"{name}: {side}: of {len(candidates(side, name, options))} settings: {candidate} (error {error:.3f})")
    return chosen


# --- the cases -----------------------------------------------------------------------------------------------------


def toy(x2: float, options: Options) -> Case:
    return five_gaussians((0.0, 0.0), 3 if options.quick else 2_500, 4.0 if options.quick else 0.5, x2)


def image(digit: int, options: Options, samplers: Samplers | None = None) -> Case:
    """The top half of a test digit. The reference evidence and posterior mean of the hidden pixels are averages of long runs of
    both samplers, with equal weights of the samplers."""
    generator = load_generator(options.image)
    shape = tuple(generator.config.event_shape)
    mask = views.half(shape, "top")
    model = CoGenerator(generator, views={"seen": views.Mask(mask, scale=generator.config.noise_scale)})
    seen = model.condition(seen=shipped_images(options.image)[0][digit : digit + 1])
    hidden = ~np.broadcast_to(mask, shape)
    particles = options.reference_particles
    long = {
        OURS: Candidate(particles, 3, Numbers(5, 0.8, 0.3, 0.85, 1.0, 1.0), "of the others", bridge=False),
        BLACKJAX: Candidate(particles, 4, Numbers(5, 0.8, 0.1, 0.85, 1.0, 0.0), "identity"),
    }
    samplers = samplers or Samplers(seen)
    means, log_z, estimates = [], [], []
    for side, candidate in long.items():
        outcomes = [samplers(side, candidate, 5_000 + k, seen)[0] for k in range(options.reference_runs)]
        evidence = np.array([float(each.log_evidence) for each in outcomes])
        share = np.exp(evidence - evidence.max())
        log_z.append(float(np.log(share.mean()) + evidence.max()))
        error = share.std(ddof=1) / share.mean() / np.sqrt(len(share))
        estimates.append(f"{log_z[-1]:.3f} (s.e. {error:.3f}) by {side}")
        positions = [draws(each) for each in outcomes]
        means.append(np.mean([weight @ model.decode(z)[:, hidden] for z, weight in positions], axis=0))
    reference = np.mean(means, axis=0)
    known = f"digit {digit}: log evidence {', '.join(estimates)}, {options.reference_runs} runs of {particles} particles each"

    def distance(z: np.ndarray, weight: np.ndarray) -> float:
        return float(np.sqrt(np.mean((weight @ model.decode(z)[:, hidden] - reference) ** 2)))

    return Case("image", seen, (0.0, 0.0), float(np.mean(log_z)), known, distance)


# --- pocoMC --------------------------------------------------------------------------------------------------------


def pocomc_runs(case: Case, seeds: int) -> Runs | None:
    """pocoMC with its defaults, on the log likelihood and the prior; None if it is not installed or fails."""
    try:
        import pocomc
    except ImportError as error:
        say(f"pocoMC is left out: {error}")
        return None
    from scipy import stats

    target, batch, runs = target_of(case.seen), 256, Runs()
    many = jax.jit(jax.vmap(lambda u: target.increment(u).sum()))
    many(jnp.zeros((batch, target.dim)))
    calls = [0]

    def log_likelihood(z: np.ndarray) -> np.ndarray:
        calls[0] += len(z)
        padded = np.pad(z, ((0, -len(z) % batch), (0, 0))).astype(np.float32)
        return np.concatenate([np.asarray(many(part), float) for part in padded.reshape(-1, batch, target.dim)])[: len(z)]

    for seed in range(seeds):
        calls[0], start = 0, time.process_time()
        prior = pocomc.Prior([stats.norm(0.0, 1.0)] * target.dim)
        sampler = pocomc.Sampler(prior, log_likelihood, vectorize=True, random_state=seed)
        sampler.run(progress=False)
        z, weight, *_ = sampler.posterior()
        seconds = time.process_time() - start
        error = float(sampler.evidence()[0]) - case.log_evidence
        runs.add(error, case.distance(z.astype(np.float32), weight / weight.sum()), seconds, 0.0, float(calls[0]))
        say(f"{case.name}: pocoMC: error {error:+.3f}, {calls[0]:,} likelihoods, {seconds:.0f} s")
    return runs


# --- the report ----------------------------------------------------------------------------------------------------


def ratios(ours: list[Runs], theirs: list[Runs], bootstraps: int) -> dict[str, dict[str, float]]:
    """Ratios of theirs to ours, with 95 % bootstrap intervals over items and, within them, seeds."""
    rng = np.random.default_rng(0)

    def ratio(items: np.ndarray, resample: bool) -> np.ndarray:
        def total(runs: list[Runs]) -> np.ndarray:
            each = [runs[i] for i in items]
            which = [rng.integers(len(r.error), size=len(r.error)) if resample else slice(None) for r in each]
            return np.mean([r.products(w) for r, w in zip(each, which, strict=True)], axis=0)

        return total(theirs) / total(ours)

    number = len(ours)
    found = ratio(np.arange(number), False)
    drawn = np.array([ratio(rng.integers(number, size=number), True) for _ in range(bootstraps)])
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    return {
        name: {"ratio": float(r), "low": float(a), "high": float(b)}
        for name, r, a, b in zip(PRODUCTS, found, low, high, strict=True)
    }


def row(case: str, method: str, setting: str, runs: list[Runs]) -> dict[str, Any]:
    squares = {name: np.mean([np.mean(np.square(getattr(r, name))) for r in runs]) for name in ("error", "distance")}
    return {
        "case": case,
        "method": method,
        "setting": setting,
        "runs": sum(len(r.error) for r in runs),
        "evidence_rmse": float(np.sqrt(squares["error"])),
        "evidence_bias": float(np.mean([np.mean(r.error) for r in runs])),
        "distance": float(np.sqrt(squares["distance"])),
        "gradients": float(np.mean([np.mean(r.gradients) for r in runs])),
        "densities": float(np.mean([np.mean(r.densities) for r in runs])),
        "seconds": float(np.mean([np.median(r.seconds) for r in runs])),
        "products": dict(zip(PRODUCTS, np.mean([r.products() for r in runs], axis=0).tolist(), strict=True)),
        "each": [vars(r) for r in runs],
    }


def compare(name: str, options: Options, record: Callable[[list[dict[str, Any]]], None]) -> None:
    """Compare the samplers on a case; ``record`` is called with the rows after every item."""
    is_toy = name == "five_gaussians"
    items = options.toy_items if is_toy else options.image_items
    factor = options.toy_factor if is_toy else 1
    first = toy(options.toy_tuned_on, options) if is_toy else image(options.image_tuned_on, options)
    samplers = Samplers(first.seen)
    shown = tune(first, samplers, options)
    ours = shown[OURS]
    if "plain" in options.also:
        shown[PLAIN] = Candidate(ours.particles, ours.moves, ours.numbers._replace(mass=0.0), "identity")
    if "prior" in options.also:
        shown[PRIOR] = Candidate(options.prior_draws, 0, ours.numbers, "none")
    found: dict[str, list[Runs]] = {side: [] for side in (*shown, POCOMC)}
    for number, item in enumerate(items):
        case = toy(float(item), options) if is_toy else image(int(item), options, samplers)
        say(f"{name}: {case.known}")
        each = {side: Runs() for side in shown}
        for seed in range(factor * options.seeds):
            for side in list(shown)[:: 1 if seed % 2 else -1]:
                if side in (OURS, BLACKJAX) or seed < options.seeds:
                    samplers.add(case, side, shown[side], 10_000 + seed, each[side])
        for side, runs in each.items():
            found[side].append(runs)
        if number < 2 and options.pocomc_seeds and (taken := pocomc_runs(case, options.pocomc_seeds)):
            found[POCOMC].append(taken)
        settings = {side: str(each) for side, each in shown.items()} | {
            PRIOR: f"{options.prior_draws:,} draws",
            POCOMC: "its defaults, the first two items",
        }
        rows = [row(name, side, settings[side], runs) for side, runs in found.items() if runs]
        rows[0]["ratios"] = ratios(found[OURS], found[BLACKJAX], options.bootstraps)
        record(rows)
    for what, r in rows[0]["ratios"].items():
        say(f"{name}: BlackJAX / ours, {what}: {r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})")
    record(rows)


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| case | method | error of the log evidence (bias) | distance | gradients | other evaluations | seconds |"
        " evidence x gradients | x seconds | distance x gradients | x seconds | setting |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        products = " | ".join(f"{r['products'][name]:.3g}" for name in PRODUCTS)
        lines.append(
            f"| {r['case']} | {r['method']} | {r['evidence_rmse']:.3f} ({r['evidence_bias']:+.3f}) | {r['distance']:.4f}"
            f" | {r['gradients']:,.0f} | {r['densities']:,.0f} | {r['seconds']:.3f} | {products} | {r['setting']} |"
        )
    lines += ["", "| case | BlackJAX / ours | ratio | 95 % interval |", "|---|---|---|---|"]
    for r in rows:
        lines += [
            f"| {r['case']} | {what} | {v['ratio']:.2f} | {v['low']:.2f} to {v['high']:.2f} |"
            for what, v in r.get("ratios", {}).items()
        ]
    return "\n".join(lines)


SAID: list[str] = []


def say(line: str) -> None:
    SAID.append(line)
    print(line, flush=True)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(1)
    SAID.clear()
    record: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/peer_work.py", *sys.argv[1:]]),
        "options": {name: str(value) for name, value in vars(options).items()},
        "rows": [],
    }
    done: list[dict[str, Any]] = []

    def keep(rows: list[dict[str, Any]]) -> None:
        record["rows"], record["said"] = done + rows, list(SAID)
        if options.output:  # write the results so far
            options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")

    for name in options.cases:
        compare(name, options, keep)
        done = record["rows"]
    print("\n" + table(record["rows"]))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

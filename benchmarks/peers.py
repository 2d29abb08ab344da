"""Compare our samplers with those of NumPyro, BlackJAX, TensorFlow Probability and Pyro: seconds to the same error.

    python benchmarks/peers.py --output docs/peers.json

All samplers have the same generator and observation, and run on the same machine in one call. There are two cases: the GAN of
five Gaussians with x2 = 0 observed, whose posterior and evidence are known by quadrature, and a shipped generator with the top
half of a test digit observed, for which they are those of a long run (annealed HMC with step sizes and temperatures of a pilot
run, so that its evidence is unbiased).

Compilation is not timed. Samplers are tuned on a grid, ours and BlackJAX's on the same one, from the cheapest setting on, in
alternation, with other seeds than the reported ones, and for the same running time each. The best setting is the fastest one
whose error of the log evidence and distance from the posterior (root mean squares over seeds) are below `margin` times the
target errors. A setting is dropped after its first run if that is slower than the best so far, and after three runs if the
errors are twice the targets. The reported numbers are of new seeds; ours and BlackJAX's run in alternation, and their ratio is
the median over the pairs.

The distances are those of `peer_cases.py`. HMC and NUTS have no evidence; the options determine their length.
"""

from __future__ import annotations

import functools
import itertools
import json
import resource
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.infer
import pyro.infer
import torch
import tyro
from peer_cases import Case, draws, five_gaussians, frozen_by_pilot, image
from peer_samplers import (
    LIMIT,
    Numbers,
    Program,
    Setting,
    adaptive,
    annealed,
    effective,
    model_of,
    target_of,
    tempered,
    tfp_annealed,
)

from cogen.inference import Adaptive, AnnealedHMC, ConstantGain, MovingAverage, Sigmoid, infer

LONGEST = float("inf")
SAID: list[str] = []


@dataclass
class Options:
    cases: tuple[str, ...] = ("five_gaussians", "image")
    also: tuple[str, ...] = ("weights", "frozen", "infer", "fixed schedules", "NumPyro HMC", "NumPyro NUTS", "Pyro HMC")
    """Further rows, in addition to our and BlackJAX's tuned samplers."""
    image: str = "mnist"
    digit: int = 0
    toy_iterations: int = 2_500
    """GAN iterations of the toy."""
    toy_errors: tuple[float, float] = (0.1, 0.05)
    """Targets for the toy: error of the log evidence, distance."""
    image_errors: tuple[float, float] = (0.2, 0.04)
    """Targets for the image."""
    particles: tuple[int, ...] = (256, 1_024, 4_096)
    moves: tuple[int, ...] = (1, 3, 8)
    """Mutation steps per temperature."""
    leapfrogs: tuple[int, ...] = (2, 5, 10)
    ess: tuple[float, ...] = (0.3, 0.5, 0.7, 0.9)
    """Ours: conditional ESS; BlackJAX: target ESS."""
    acceptances: tuple[float, ...] = (0.65, 0.85)
    """Target acceptance rates of adaptive step sizes, which start at 0.1."""
    steps: tuple[float, ...] = (0.03, 0.1, 0.3)
    """Fixed step sizes."""
    image_particles: tuple[int, ...] = (256, 512, 1_024)
    image_leapfrogs: tuple[int, ...] = (5, 10)
    image_ess: tuple[float, ...] = (0.3, 0.5, 0.7)
    image_steps: tuple[float, ...] = (0.1,)
    """Step sizes of the grid of the image, whose runs take fifty times as long."""
    tuning_seconds: float = 150.0
    """Running time for tuning each sampler in each case. A slow setting has fewer seeds: at least two, and no more after half
    of this time."""
    fixed_seconds: float = 45.0
    """The same for samplers with fixed schedules."""
    tuning_seeds: int = 12
    margin: float = 0.85
    seeds: int = 12
    """Reported seeds."""
    reference_chains: int = 1_024
    reference_runs: int = 4
    chains: int = 16
    """Chains of NumPyro's HMC and NUTS."""
    warmup: int = 200
    samples: int = 200
    pyro_draws: int = 40
    """Warm-up transitions and draws of Pyro's HMC, which has two chains and runs them one after another."""
    quick: bool = False
    """A short run to check that everything works; its numbers are meaningless."""
    output: Path | None = None
    """JSON file for the record."""

    def __post_init__(self) -> None:
        if self.quick:
            self.toy_iterations, self.particles, self.moves, self.leapfrogs = 3, (16,), (1,), (2,)
            self.ess, self.acceptances, self.steps, self.tuning_seeds, self.seeds = (0.3,), (0.8,), (), 2, 2
            self.toy_errors = self.image_errors = (50.0, 5.0)
            self.image_particles, self.image_leapfrogs, self.image_ess, self.image_steps = (16,), (2,), (0.3,), ()
            self.reference_chains, self.reference_runs, self.tuning_seconds, self.fixed_seconds = 16, 1, 2.0, 2.0
            self.chains, self.warmup, self.samples, self.pyro_draws = 2, 2, 2, 2


@dataclass
class Candidate:
    setting: Any
    key: tuple
    """Candidates with the same key share a program."""
    build: Callable[[], Callable]
    numbers: Numbers | None = None


@dataclass
class Result:
    """Errors and costs of one candidate."""

    setting: Any
    seconds: float
    evidence_rmse: float
    distance: float
    gradients: float
    temperatures: float
    weight_ess: float
    peak_megabytes: float
    each: list[float] = field(default_factory=list)
    """Seconds of every run."""

    def within(self, errors: tuple[float, float], margin: float = 1.0) -> bool:
        return self.evidence_rmse <= margin * errors[0] and self.distance <= margin * errors[1]


def case_of(name: str, options: Options) -> Case:
    if name == "five_gaussians":
        return five_gaussians(options.toy_errors, options.toy_iterations, 4.0 if options.quick else 0.5)
    chains, ess = options.reference_chains, 0.3 if options.quick else 0.95
    return image(options.image_errors, options.image, options.digit, chains, options.reference_runs, ess)


# --- tuning --------------------------------------------------------------------------------------------------------


def measure(
    case: Case, program: Program, candidate: Candidate, seeds: range, *, slowest: float = LONGEST, enough: float = np.inf
) -> Result:
    """Run a candidate with these seeds, with at least two of them, but no more after ``enough`` seconds.

    :param slowest: given during tuning: stop after the first run if it is slower, and after three if their errors are twice
        the targets.
    """
    errors, distances, seconds, counts = [], [], [], []
    for seed in seeds:
        outcome, took = program(seed, candidate.numbers)
        seconds.append(took)
        counts.append((float(outcome.gradients), float(outcome.temperatures), effective(outcome)))
        if len(seconds) == 1 and took > slowest:
            break
        errors.append(float(outcome.log_evidence) - case.log_evidence)
        distances.append(case.distance(*draws(outcome)))
        hopeless = len(errors) == 3 and (_rms(errors) > 2 * case.errors[0] or _rms(distances) > 2 * case.errors[1])
        if len(seconds) > 1 and (sum(seconds) > enough or (hopeless and slowest < LONGEST)):
            break
    return Result(
        candidate.setting,
        float(np.median(seconds)),
        _rms(errors),
        _rms(distances),
        *np.mean(counts, axis=0).tolist(),
        program.peak_bytes / 2**20,
        seconds,
    )


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else float("inf")


class Best(NamedTuple):
    """The best candidate of a side so far."""

    candidate: Candidate
    result: Result
    program: Program
    reached: bool


def tune(case: Case, sides: Mapping[str, list[Candidate]], options: Options) -> dict[str, Best]:
    """The best candidate of each side: the fastest one within the errors, or, if there is none, the closest one.

    The sides alternate, and each stops after `tuning_seconds` of running time.
    """
    programs: dict[tuple, Program] = {}
    best: dict[str, Best] = {}
    spent, tried = dict.fromkeys(sides, 0.0), dict.fromkeys(sides, 0)

    def off(result: Result) -> float:
        return max(result.evidence_rmse / case.errors[0], result.distance / case.errors[1])

    for turn in itertools.zip_longest(*sides.values()):
        for side, candidate in zip(sides, turn, strict=True):
            if candidate is None or spent[side] > options.tuning_seconds:
                continue
            key = (side, candidate.key)
            if key not in programs:
                programs[key] = Program(candidate.build(), candidate.numbers)
            old = best.get(side)
            slowest = old.result.seconds if old and old.reached else 1e9
            seeds, enough = range(100, 100 + options.tuning_seeds), options.tuning_seconds / 2
            found = measure(case, programs[key], candidate, seeds, slowest=slowest, enough=enough)
            spent[side] += sum(found.each)
            tried[side] += 1
            reached = found.within(case.errors, options.margin)
            if old is None or reached > old.reached:
                better = True
            else:
                better = found.seconds < old.result.seconds if reached else not old.reached and off(found) < off(old.result)
            if better:
                best[side] = Best(candidate, found, programs[key], reached)
    for side, (candidate, found, _, reached) in best.items():
        say(
            f"{case.name}: {side}: {tried[side]} of {len(sides[side])} settings in {spent[side]:.0f} s; {candidate.setting}"
            f" ({found.seconds:.3f} s{'' if reached else ', not reached'})"
        )
    return best


def grid(options: Options) -> list[Setting]:
    """All settings, cheapest first: a step in beta after which the fraction e is effective is about sqrt(1 / e - 1) long."""
    rules = [(0.1, acceptance, 1.0) for acceptance in options.acceptances] + [(step, 0.8, 0.0) for step in options.steps]
    settings = [
        Setting(particles, moves, Numbers(leapfrog, ess, step, acceptance, follows, 0.0))
        for particles, moves, leapfrog, ess, (step, acceptance, follows) in itertools.product(
            options.particles, options.moves, options.leapfrogs, options.ess, rules
        )
    ]

    def cost(s: Setting) -> float:
        return s.particles * s.moves * s.numbers.leapfrog / np.sqrt(1 / s.numbers.ess - 1)

    return sorted(settings, key=cost)


def ours_and_blackjax(case: Case, options: Options) -> dict[str, list[Candidate]]:
    model, target = model_of(case.seen), target_of(case.seen)
    ours, theirs = [], []
    settings = grid(options)
    from_particles = np.random.default_rng(0).random(len(settings)) < 0.5  # of BlackJAX's settings that follow the acceptance
    for s, mass in zip(settings, from_particles, strict=True):
        key = (s.particles, s.moves)
        build = functools.partial(annealed, model, s.particles, LIMIT * s.moves, adaptive(s.moves))
        ours.append(Candidate(s, key, build, s.numbers))
        s = replace(s, numbers=s.numbers._replace(mass=float(mass) * s.numbers.follows))
        theirs.append(Candidate(s, key, functools.partial(tempered, target, s.particles, s.moves), s.numbers))
    return {"annealed HMC, adaptive": ours, "BlackJAX adaptive tempered SMC": theirs}


def fixed_schedules(case: Case, options: Options) -> dict[str, list[Candidate]]:
    """AIS as published, resampling with a fixed schedule, and TFP's AIS, each with its own grid."""
    model, target = model_of(case.seen), target_of(case.seen)
    sides: dict[str, list[Candidate]] = {"AIS as published": [], "annealed HMC, resampled": [], "TFP AIS": []}
    published = AnnealedHMC(
        schedule=Sigmoid(-10, 2), step_size=MovingAverage(), resample_threshold=0, num_leapfrog=20, jitter=0
    )
    temperatures = (2,) if options.quick else (100, 400)
    for particles, count in itertools.product(options.particles[:2], temperatures):
        for name, kernel in (
            ("AIS as published", published),
            *(("annealed HMC, resampled", AnnealedHMC(num_leapfrog=leapfrog)) for leapfrog in options.leapfrogs[1:2]),
        ):
            setting = f"{particles} particles, {count} temperatures, {kernel.settings.num_leapfrog} leapfrogs"
            build = functools.partial(annealed, model, particles, count, lambda _, kernel=kernel: kernel)
            sides[name].append(Candidate(setting, (name, setting), build))
        for leapfrog, step in itertools.product(options.leapfrogs[-1:], (0.02, 0.1)):
            setting = f"{particles} particles, {count} temperatures, {leapfrog} leapfrogs, step {step:g}"
            build = functools.partial(tfp_annealed, target, particles, count, leapfrog, step)
            sides["TFP AIS"].append(Candidate(setting, ("TFP", setting), build))
    try:
        import tensorflow_probability.substrates.jax  # noqa: F401
    except Exception as error:
        say(f"TFP AIS: its JAX substrate does not import here ({type(error).__name__}: {error})")
        del sides["TFP AIS"]
    return {name: side[:1] if options.quick else side for name, side in sides.items() if side}


# --- rows ----------------------------------------------------------------------------------------------------------


def compare(case: Case, options: Options) -> list[dict[str, Any]]:
    seeds = range(10_000, 10_000 + options.seeds)
    say(
        f"{case.name}: the grid of ours and BlackJAX's: particles {options.particles}, moves {options.moves}, leapfrogs"
        f" {options.leapfrogs}, ESS {options.ess}, acceptance targets {options.acceptances} or step sizes {options.steps}"
    )
    best = tune(case, ours_and_blackjax(case, options), options)
    programs = {}
    for side, (candidate, *_) in best.items():  # compiled again, with its numbers as constants
        run, numbers = candidate.build(), candidate.numbers
        constants = None if numbers is None else Numbers(np.int32(numbers.leapfrog), *map(np.float32, numbers[1:]))
        programs[side] = Program(lambda key, _, run=run, c=constants: run(key, jax.tree.map(jax.numpy.asarray, c)), None)
    found: dict[str, list[Result]] = {side: [] for side in best}
    for seed in seeds:
        for side in list(best)[:: 1 if seed % 2 else -1]:
            one = replace(best[side].candidate, numbers=None)
            found[side].append(measure(case, programs[side], one, range(seed, seed + 1)))
    rows = [row(case, side, pooled(results)) for side, results in found.items()]
    pairs = [theirs.seconds / ours.seconds for ours, theirs in zip(*found.values(), strict=True)]
    say(
        f"{case.name}: BlackJAX / ours, seconds to an evidence error of {case.errors[0]} and a distance of {case.errors[1]}:"
        f" {np.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"
    )
    rows[0]["ratio"] = {"median": float(np.median(pairs)), "pairs": pairs}

    setting: Setting = best["annealed HMC, adaptive"].candidate.setting
    n = setting.numbers
    rule = ConstantGain(initial=n.step, target=n.acceptance) if n.follows else n.step
    kernel = AnnealedHMC(
        schedule=Adaptive(n.ess),
        step_size=rule,
        num_leapfrog=n.leapfrog,
        moves_per_temperature=setting.moves,
        resample_threshold=1.0,
        bridge=True,
    )
    if "weights" in options.also:
        build = functools.partial(
            annealed, model_of(case.seen), setting.particles, LIMIT * setting.moves, adaptive(setting.moves, bridge=False)
        )
        candidate = Candidate(setting, (), build, n)
        rows.append(row(case, "annealed HMC, by its weights alone", measure(case, Program(build(), n), candidate, seeds)))
    if "frozen" in options.also:
        frozen, pilot_seconds = frozen_by_pilot(case.seen, kernel, max(16, setting.particles // 8), seed=999)
        build = functools.partial(annealed, model_of(case.seen), setting.particles, LIMIT * setting.moves, lambda _: frozen)
        result = measure(case, Program(build(), None), Candidate(f"{setting}, frozen", (), build), seeds)
        result.seconds += pilot_seconds
        rows.append(row(case, "annealed HMC, frozen after a pilot", result))
    if "infer" in options.also:
        rows.append(through_infer(case, "annealed HMC, adaptive, by infer", kernel, options, setting))

    sides = fixed_schedules(case, options) if "fixed schedules" in options.also else {}
    short = replace(options, tuning_seconds=options.fixed_seconds)
    for side, (candidate, _, program, _) in tune(case, sides, short).items():
        rows.append(row(case, side, measure(case, program, candidate, seeds, enough=options.fixed_seconds)))
    hmc = functools.partial(numpyro.infer.HMC, num_steps=options.leapfrogs[-1], trajectory_length=None)
    slow = functools.partial(pyro.infer.HMC, num_steps=options.leapfrogs[-1])
    for name, each in (("NumPyro HMC", hmc), ("NumPyro NUTS", numpyro.infer.NUTS), ("Pyro HMC", slow)):
        if name in options.also:
            rows.append(through_infer(case, name, each, options))
    return rows


def through_infer(case: Case, name: str, kernel: Any, options: Options, setting: Setting | None = None) -> dict[str, Any]:
    """A row of `infer`; of two runs the second is timed, which excludes the work that is done once per process."""
    counts = {"num_warmup": options.warmup, "num_samples": options.samples, "num_chains": options.chains}
    if name.startswith("Pyro"):
        counts = {"num_warmup": options.pyro_draws, "num_samples": options.pyro_draws, "num_chains": 2}
    if setting is not None:
        counts = {"num_warmup": LIMIT * setting.moves, "num_samples": 1, "num_chains": setting.particles}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    errors, distances, seconds = [], [], []
    for seed in range(1 if options.quick or name.startswith("Pyro") else 2):
        posterior = infer(case.seen, kernel, seed=seed, progress=False, **counts)
        attributes = posterior["posterior"].attrs
        seconds.append(attributes["seconds"] - attributes.get("compile_seconds", 0.0))
        z = posterior["posterior"]["z"].values[:, :, 0].reshape(-1, case.seen.latent_dim)
        distances.append(case.distance(z, np.full(len(z), 1 / len(z))))
        if "population_log_evidence" in posterior["sample_stats"]:
            log_z = posterior["sample_stats"]["population_log_evidence"].values[:, -1, 0].astype(float)
            errors.append(np.log(np.mean(np.exp(log_z - log_z.max()))) + log_z.max() - case.log_evidence)
    gradients = attributes["gradient_evaluations"] / counts["num_chains"]
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    evidence = _rms(errors) if errors else float("nan")
    label = str(setting) if setting else ", ".join(f"{value} {what[4:]}" for what, value in counts.items())
    distance = _rms(distances)
    nan = float("nan")
    return row(case, name, Result(label, seconds[-1], evidence, distance, gradients, nan, nan, grown, seconds))


def pooled(results: list[Result]) -> Result:
    """The results of several single runs as one result."""
    mean = {name: float(np.mean([getattr(r, name) for r in results])) for name in ("gradients", "temperatures", "weight_ess")}
    rmse = {name: float(np.sqrt(np.mean([getattr(r, name) ** 2 for r in results]))) for name in ("evidence_rmse", "distance")}
    each = [r.seconds for r in results]
    return Result(
        results[0].setting, float(np.median(each)), each=each, peak_megabytes=results[0].peak_megabytes, **mean, **rmse
    )


def row(case: Case, method: str, result: Result) -> dict[str, Any]:
    found = {"case": case.name, "method": method, **asdict(result), "setting": str(result.setting)}
    found["reached"] = bool(result.within(case.errors))
    if np.isnan(result.evidence_rmse):
        found["reached"] = bool(result.distance <= case.errors[1])
    return found


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| case | method | seconds | evidence error | distance | within both | gradients | weight ESS | MiB | setting |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        numbers = " | ".join(
            "" if np.isnan(r[name]) else f"{r[name]:{form}}"
            for name, form in (("seconds", ".3f"), ("evidence_rmse", ".3f"), ("distance", ".4f"))
        )
        reached = ("yes" if r["reached"] else "no") if not np.isnan(r["evidence_rmse"]) else "no evidence"
        ess = "" if np.isnan(r["weight_ess"]) else f"{r['weight_ess']:.0%}"
        lines.append(
            f"| {r['case']} | {r['method']} | {numbers} | {reached} | {r['gradients']:,.0f} | {ess} | {r['peak_megabytes']:.1f}"
            f" | {r['setting']} |"
        )
    return "\n".join(lines)


def say(line: str) -> None:
    SAID.append(line)
    print(line, flush=True)


def main(options: Options) -> dict[str, Any]:
    torch.set_num_threads(1)  # two libraries that compute in one process contend for the cores
    SAID.clear()
    command = shlex.join(["python", "benchmarks/peers.py", *sys.argv[1:]])
    record: dict[str, Any] = {
        "command": command,
        "options": {name: str(value) for name, value in vars(options).items()},
        "rows": [],
    }
    for name in options.cases:
        chosen = options
        if name == "image":
            own = {key: getattr(options, f"image_{key}") for key in ("particles", "leapfrogs", "ess", "steps")}
            chosen = replace(options, **own)
        case = case_of(name, chosen)
        say(f"{name}: {case.known}")
        record["rows"] += compare(case, chosen)
        record["said"] = list(SAID)
        if options.output:  # write the results so far
            options.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print("\n" + table(record["rows"]))
    return record


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))

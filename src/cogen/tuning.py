"""`cogen tune`: the annealing schedule that a view of a generator needs, found on simulated items.

A pilot with an adaptive ladder finds the spread of the inverse temperatures, and a slower one along this ladder the step sizes.
Then new items are completed with increasing numbers of temperatures, without adaptation. Each item was simulated from a latent
z*, which is an exact draw from its posterior, so converged chains have on average the same log density,

    gap = E[ log p(y, z*) - log p(y, z) ] = 0,      z the end of a chain,

and others a lower one (Cook, Gelman and Rubin 2006, Validation of software for Bayesian models using posterior quantiles:
truths drawn from the prior are draws from the posterior). A gap of zero is necessary, not sufficient: chains may have the right
log density in the wrong modes. With small noise the gap falls long after completions have stopped improving. So the stored
number of temperatures is the smallest whose completions are as good as those of the largest: their fair CRPS of the hidden part
agrees within two standard errors, paired over items. The gap is printed beside it, and `cogen complete` reports how far chains
disagree.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cogen.compiled_before import remember_compiled
from cogen.conditions import FACTOR, check_noise, guide_suits, tuning_name, view_named
from cogen.foreign import images_generator
from cogen.options import Tune

if TYPE_CHECKING:
    from cogen.models.storage.tunings import Settings

PILOT_ITEMS, PILOT_CHAINS, PILOT_LIMIT = 8, 16, 48
KNOTS = 17
RISE = 0.7
"""Conditional effective sample size of the pilot's increments of beta."""

ERRORS = 2.0
"""Standard errors below which a difference of scores is ignored."""


def tune(options: Tune) -> None:
    """Run `cogen tune`.

    :raises ValueError: for invalid options or data.
    :raises OSError: for files that cannot be read or written.
    """
    for name in ("items", "chains", "leapfrog"):
        if (value := getattr(options, name)) < 2 - (name == "leapfrog"):
            raise ValueError(f"--{name} {value}: it must be at least {2 - (name == 'leapfrog')}")
    if not options.temperatures or min(options.temperatures) < 1:
        raise ValueError("--temperatures: give one or more numbers, each at least 1")
    if options.noise is not None:
        check_noise(options.noise)
    if options.factor != FACTOR and options.view != "thumbnail":
        raise ValueError(f"--factor {options.factor}: it needs --view thumbnail")
    remember_compiled()
    from cogen.models import load_guide
    from cogen.models.contexts import Classes
    from cogen.models.storage.generators import SHIPPED, find_generator
    from cogen.models.storage.tunings import save_tuning

    generator: Any = images_generator(options)
    if not all(isinstance(context, Classes) for context in generator.config.contexts.values()):
        raise ValueError(f"--generator {options.generator}: it takes condition images, which cannot be simulated")
    if options.output is None and find_generator(options.generator).parent == SHIPPED:
        raise ValueError(
            f"--generator {options.generator}: it is a shipped generator; give --output FILE, and read it by `cogen complete"
            " --tuning FILE`"
        )
    guide, (height, width) = load_guide(options.generator), generator.config.event_shape[-2:]
    if options.start == "guide" and guide is None:
        raise ValueError(f"--start guide: there is no guide beside {options.generator}; `cogen guide` trains one")
    if options.view == "thumbnail" and not (options.factor > 1 and height % options.factor == width % options.factor == 0):
        raise ValueError(
            f"--factor {options.factor}: it must be a whole number above one that divides the generator's {width} x {height}"
            " pixels"
        )
    suits = guide_suits(options.view, options.factor, generator.config.event_shape)
    if options.start == "guide" and not suits:
        raise ValueError(
            f"--start guide: `cogen complete` starts thumbnails of factor {options.factor} from the prior; omit it"
        )
    settings = tuned(options, generator, guide if suits and options.start != "prior" else None)
    settings = replace(settings, generator=find_generator(options.generator).stem)
    name = tuning_name(options.view, options.factor)
    name += " from the prior" if options.start == "prior" else ""
    name += "" if options.noise is None else f" with noise {options.noise:g}"
    path = save_tuning(options.generator, name, settings, options.output)
    print(f"written to {path}: {name}, {settings.temperatures} temperatures of {options.leapfrog} gradients")


def tuned(options: Tune, generator: Any, guide: Any) -> Settings:
    """Find the settings of a view, and print a table of the numbers of temperatures.

    :param guide: where the annealing starts if it fits the view; None for the prior.
    """
    from cogen.diagnostics import decoded, score_completions
    from cogen.diagnostics.evidence_bounds import simulate
    from cogen.inference import Adaptive, AnnealedHMC, Through, infer
    from cogen.inference.items import context_rows
    from cogen.models import CoGenerator, FlowGuide
    from cogen.models.storage.tunings import Settings

    contexts, candidates = generator.config.contexts, sorted(set(options.temperatures))
    view = view_named(options.view, generator, noise=options.noise, seed=options.seed, factor=options.factor)
    model = CoGenerator(generator, contexts=contexts, views={"seen": view})

    def simulated(count: int, seed: int) -> tuple[Any, dict[str, np.ndarray]]:
        draws = np.random.default_rng(seed)
        classes = {name: draws.integers(context.count, size=count) for name, context in contexts.items()}
        return simulate(model.given(**classes), count, seed=seed)

    def start(seen: Any) -> Any:
        try:
            return None if guide is None else FlowGuide(guide, seen).start()
        except ValueError as error:
            if options.start == "guide":
                raise ValueError(f"--start guide: {error}") from None
            return None

    def run(seen: Any, chains: int, temperatures: int, seed: int, **kernel: Any) -> Any:
        kernel = {"num_leapfrog": options.leapfrog, **kernel}
        counts: dict[str, Any] = {"num_warmup": temperatures, "num_samples": 1, "num_chains": chains}
        return infer(seen, AnnealedHMC(**kernel), seed=seed, **counts)

    seen, _ = simulated(PILOT_ITEMS, options.seed)
    initial, equal = start(seen), {"weighted": False, "resample_threshold": 0.0}
    pilot = run(seen, PILOT_CHAINS, PILOT_LIMIT, options.seed, initial=initial, schedule=Adaptive(RISE))
    beta = _knots(pilot)
    along = Through(tuple(beta))
    slower = run(seen, PILOT_CHAINS, PILOT_LIMIT, options.seed, initial=initial, schedule=along, **equal)
    found = Settings(initial is not None, candidates[-1], options.leapfrog, tuple(beta), tuple(_steps(slower, beta)))

    seen, truth = simulated(options.items, options.seed + 1)
    initial, x = start(seen), seen.decode(truth["z"], **context_rows(seen, truth, np.arange(options.items)))
    hidden = np.ones(x.shape, dtype=bool) if view.mask is None else np.broadcast_to(~view.mask.numpy(), x.shape)
    log_joint = log_joint_of(seen)
    rows, scores = [], []
    print(f"{'temperatures':>12} {'gradients':>10} {'gap (nats)':>11} {'s.e.':>6} {'CRPS':>8}")
    for temperatures in candidates:
        posterior = run(seen, options.chains, temperatures, options.seed + 2, initial=initial, **equal, **found.annealing())
        z = posterior["posterior"]["z"].values  # (chain, 1, item, latent)
        gap = log_joint(truth["z"]) - np.mean([log_joint(each) for each in z[:, 0]], axis=0)
        crps = score_completions(decoded(posterior, seen), x, hidden, value_range=generator.config.value_range)["crps"]
        scores.append(crps.values)
        error = float(gap.std(ddof=1) / np.sqrt(len(gap)))
        row: dict[str, Any] = {
            "temperatures": temperatures,
            "gradients": temperatures * options.leapfrog,
            "gap": round(float(gap.mean()), 3),
            "gap_se": round(error, 3),
            "crps": round(float(crps.mean()), 5),
        }
        rows.append(row)
        print(f"{temperatures:12d} {row['gradients']:10d} {row['gap']:11.2f} {row['gap_se']:6.2f} {row['crps']:8.4f}")
    worse = [score - scores[-1] for score in scores]
    good = [float(each.mean()) <= ERRORS * float(each.std(ddof=1)) / np.sqrt(len(each)) for each in worse]
    chosen = candidates[good.index(True)]
    if chosen == candidates[-1] and len(candidates) > 1:
        print(f"completions improve up to {chosen} temperatures: try larger --temperatures")
    figures = {"command": shlex.join(["cogen", *sys.argv[1:]]), "rows": rows}
    return replace(found, temperatures=chosen, figures=figures, noise=options.noise)


def log_joint_of(seen: Any) -> Callable[[np.ndarray], np.ndarray]:
    """log p(y, z) (item,) up to a constant, of latents (item, latent) of a conditioned model with a standard normal prior."""
    from cogen.diagnostics.simulation_based_calibration import log_likelihood_of

    log_likelihood = log_likelihood_of(seen)
    return lambda z: np.asarray(log_likelihood({"z": z})) - 0.5 * (z**2).sum(-1)


def _knots(pilot: Any) -> np.ndarray:
    """The mean ladder of a pilot's items, at `KNOTS` inverse temperatures."""
    from cogen.inference import Ladder
    from cogen.inference.annealing.schedules import spread_logits

    ladders = (ladder[: int(np.argmax(ladder >= 1.0)) + 1] for ladder in Ladder.of(pilot).beta)
    logits = [spread_logits(rises, KNOTS) for rises in ladders]
    beta = 1.0 / (1.0 + np.exp(-np.mean(logits, axis=0)))
    beta[0], beta[-1] = 0.0, 1.0
    return beta


def _steps(pilot: Any, beta: np.ndarray) -> np.ndarray:
    """The mean step sizes of a pilot's items at all but the first of the knots."""
    from cogen.inference import RecordedSteps

    recorded = RecordedSteps.of(pilot)
    known = np.broadcast_to(recorded.beta, recorded.steps.shape)
    logs = [np.interp(beta[1:], at, np.log(steps)) for at, steps in zip(known, recorded.steps, strict=True)]
    return np.exp(np.mean(logs, axis=0))

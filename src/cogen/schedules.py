"""The schedule that `cogen tune` stored for a run of `cogen complete`, and the command that finds one."""

from __future__ import annotations

import math
import shlex
from typing import Any

from cogen.conditions import FACTOR, noise_model, noise_of_view, scale_of, tuning_name
from cogen.job import views_asked
from cogen.options import Complete

SEEN = {"random": 0.25, "half": 0.5, "centre": 0.75, "box": 0.89}
"""Shares of the pixels that are seen. A mask uses the tuning of the view with the next larger share."""

MORE = "Use more temperatures (--warmup) or weights"
"""The remedy for chains that disagree if `cogen tune` does not help."""

NOISE = (0.8, 1.2)
"""The noise scale of a run, relative to that of a tuning, for which the tuning is used: with less noise more steps are
rejected, with more the chains move too slowly (benchmarks/schedule_noise.py)."""


def factor_of(seen: Any) -> int:
    """Side of the squares that a thumbnail among the views of a conditioned model averages."""
    return next((view.factor for view in seen.views.values() if hasattr(view, "factor")), FACTOR)


def pixel_noise(options: Complete, model: Any) -> float:
    """The standard deviation of a pixel's noise under the first view of a model; NaN if it is not a single number."""
    return scale_of(next(iter(model.views.values()))) / noise_of_view(_first(options), factor_of(model))


def stored_schedule(options: Complete, seen: Any, guided: bool) -> Any:
    """The stored tuning (`cogen.models.storage.tunings.Settings`) that fits the options and the views; None if there is none.

    :param guided: whether the annealing starts from the guide beside the generator.
    :raises ValueError: if `--tuning` names a file without such a tuning.
    """
    from cogen.models.storage.generators import find_generator
    from cogen.models.storage.tunings import load_tunings

    if _unscheduled(options) or (guided and options.backend == "pyro"):  # coordinates of a guide are those of NumPyro
        return None
    stored, names = load_tunings(options.generator, options.tuning), _names(options, seen)
    if options.tuning is not None:
        stem = find_generator(options.generator).stem
        for each in stored.values():
            if each.generator not in ("", stem):
                raise ValueError(f"--tuning {options.tuning}: it has schedules of {each.generator}, not of {stem}")
    for name in names:
        of_view = [each for key, each in stored.items() if key.split(" ")[0] == name and each.guided == guided]
        distances = [_noise_distance(each.noise, options, seen) for each in of_view]
        if distances and min(distances) < math.inf:
            return of_view[distances.index(min(distances))]
    if options.tuning is None:
        return None
    found = [_described(name.split(" ")[0], each.guided, each.noise) for name, each in stored.items()]
    noise = None if options.noise is None else pixel_noise(options, seen)
    asked = _described(names[0], guided, noise) if names else "several views"
    command, _ = _tune_command(options, seen)
    raise ValueError(
        f"--tuning {options.tuning}: it has schedules for {', '.join(found) or 'no view'}, and none for this run: {asked}"
        + (f"; find one with `{command}`" if command else "")
    )


def check_tuning(options: Complete) -> None:
    """Check `--tuning` before any file is read.

    :raises ValueError: for a run that uses no stored schedule.
    :raises FileNotFoundError: for a missing file.
    """
    if options.tuning is None:
        return
    if other := _unscheduled(options):
        raise ValueError(f"--tuning {options.tuning}: a run with {other} uses no stored schedule; omit one of them")
    if options.backend == "pyro" and options.guide != "none":
        raise ValueError(f"--tuning {options.tuning}: with --backend pyro it needs --guide none")
    if not options.tuning.is_file():
        raise FileNotFoundError(f"--tuning {options.tuning}: there is no such file")


def remedy(options: Complete, seen: Any) -> str:
    """What to do about chains that disagree, with the `cogen tune` command if that finds a schedule for such a run."""
    command, output = _tune_command(options, seen)
    if not command:
        return MORE
    given = f" and give --tuning {output}" if output else ""
    return f"Find a schedule with `{command}`{given}, or {MORE[0].lower()}{MORE[1:]}"


def _tune_command(options: Complete, seen: Any) -> tuple[str, str]:
    """The command, empty if it finds no schedule for such a run, and the file of its schedule, empty for the one beside the
    generator."""
    from cogen.models.contexts import Classes
    from cogen.models.storage.generators import SHIPPED, find_generator
    from cogen.models.storage.tunings import SUFFIX

    names = _names(options, seen)
    contexts = seen.generator.config.contexts.values()
    is_tunable = names and options.backend == "numpyro" and all(isinstance(each, Classes) for each in contexts)
    if _unscheduled(options) or not is_tunable:
        return "", ""
    view, _, factor = names[0].partition("-")
    words = ["cogen", "tune", "--generator", options.generator]
    for name, value in vars(options.foreign).items():
        option = f"--{name.replace('_', '-')}"
        words += [] if value is None or value is False else [option] if value is True else [option, str(value)]
    words += ["--view", view, *(["--factor", factor] if factor else [])]
    words += ["--start", "prior"] if options.guide == "none" else []
    words += [] if options.noise is None else ["--noise", f"{pixel_noise(options, seen):.3g}"]
    path = find_generator(options.generator)
    output = f"{path.stem}{SUFFIX}" if path.parent == SHIPPED else ""
    words += ["--output", output] if output else []
    return shlex.join(words), output


def _described(name: str, guided: bool, noise: float | None) -> str:
    return f"{name} from the {'guide' if guided else 'prior'}" + ("" if noise is None else f" with noise {noise:.3g}")


def _unscheduled(options: Complete) -> str:
    """The option that does not leave the schedule and the start to a tuning; empty if there is none."""
    others = {
        f"--algorithm {options.algorithm}": options.algorithm != "annealed-hmc",
        f"--warmup {options.warmup}": options.warmup is not None,
        f"--pilot {options.pilot}": options.pilot,
        "--weighted": options.weighted,
        f"--guide {options.guide}": options.guide not in ("auto", "none"),
    }
    return next((option for option, is_given in others.items() if is_given), "")


def _names(options: Complete, seen: Any) -> list[str]:
    """The names of tunings that suit the views, the best first."""
    asked, plain = views_asked(options), Complete()
    alone = options.mask is None and len(asked) == 1
    as_tuned = alone and options.share == plain.share and options.box == plain.box
    names = [tuning_name(asked[0], factor_of(seen))] if as_tuned else []
    if {"thumbnail", "gray"} & set(asked):
        return names
    share = max((float(entry["mask"].mean()) for entry in seen.item_data.values() if "mask" in entry), default=1.0)
    more = [name for name, known in SEEN.items() if known >= share - 0.05]
    fewer = [name for name in reversed(SEEN) if name not in more]
    return list(dict.fromkeys([*names, *more, *fewer]))


def _noise_distance(tuned: float | None, options: Complete, seen: Any) -> float:
    """How far a run is from a tuning for this noise of a pixel, None for the generator's own; infinite if it is not used."""
    if tuned is None and options.noise is None:
        return 0.0
    low, high = NOISE
    ratio = pixel_noise(options, seen) / (_own_noise(options, seen) if tuned is None else tuned)
    return abs(math.log(ratio)) if low <= ratio <= high else math.inf


def _own_noise(options: Complete, seen: Any) -> float:
    """The same as `pixel_noise` for the generator's own noise."""
    name, factor = _first(options), factor_of(seen)
    return noise_model(name, seen.generator, factor=factor).get("scale", float("nan")) / noise_of_view(name, factor)


def _first(options: Complete) -> str:
    """The name of the first view."""
    return "mask" if options.mask is not None else views_asked(options)[0]

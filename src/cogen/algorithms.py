"""From the options of `cogen complete` to a kernel, how long it warms up, and what runs it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from cogen.job import views_asked
from cogen.options import Complete

WARMUP = 60
"""Transitions of warm-up where nothing was tuned."""

PILOT = 8
"""Chains of the pilots of a certificate where nothing was tuned."""

AT_REST = 0.6
"""Of the last tuned step size: the posterior of an image that a generator does not quite make is narrower than those that were
tuned on."""

SEEN = {"random": 0.25, "half": 0.5, "centre": 0.75, "box": 0.89}
"""Shares of the pixels that views show. For a mask, what was tuned for the view that shows the next more serves."""

ADAPT = ("annealed-hmc", "langevin", "parallel-tempering")
"""Algorithms whose step sizes a pilot can adapt."""


class Plan(NamedTuple):
    """A kernel, its transitions of warm-up, and whether both were tuned for the view."""

    kernel: Any
    warmup: int
    tuned: bool = False


def kernel_of(options: Complete, seen: Any) -> Plan:
    """How a conditioned model is sampled.

    Annealed HMC starts from the guide beside the generator, where there is one that sees such a view, and runs with what was
    tuned for the view, where that was and nothing else is asked for. Raises ValueError where a guide was named that does not
    serve.
    """
    if options.algorithm == "learned-descent":
        return Plan(_learned(options), 0)
    initial = _start(options, seen)
    settings = None if options.weighted else _tuned(options, seen, guided=initial is not None)
    warmup = _warmup(options, settings)
    given: dict[str, Any] = {}
    if options.algorithm == "annealed-hmc":
        given = {} if settings is None else settings.annealing(AT_REST)
        threshold = 0.5 if options.threshold is None else options.threshold
        given |= {
            "weighted": options.weighted,
            "resample_threshold": threshold if options.weighted else 0.0,
            "initial": initial,
        }
    make, of_library = _kernel_class(options)
    given |= of_library | _settings(options, make)
    kernel = functools.partial(make, **given) if options.algorithm in ("hmc", "nuts") else make(**given)
    return Plan(kernel, warmup, settings is not None)


def _kernel_class(options: Complete) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What makes the kernel, and the settings that are ours for one of a library."""
    if options.backend == "pyro":
        import pyro.infer

        from cogen.inference import PyroAnnealedHMC, PyroLangevin

        of_pyro: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "annealed-hmc": (PyroAnnealedHMC, {}),
            "langevin": (PyroLangevin, {}),
            "hmc": (pyro.infer.HMC, {"step_size": 0.1, "trajectory_length": 1.0}),
            "nuts": (pyro.infer.NUTS, {}),
        }
        return of_pyro[options.algorithm]
    import numpyro.infer

    from cogen import inference

    of_numpyro: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "annealed-hmc": (inference.AnnealedHMC, {}),
        "langevin": (inference.Langevin, {}),
        "parallel-tempering": (inference.ParallelTempering, {}),
        "hmc": (numpyro.infer.HMC, {"num_steps": 10, "trajectory_length": None}),
        "nuts": (numpyro.infer.NUTS, {}),
        "gradient-descent": (inference.GradientDescent, {}),
        "importance": (inference.ImportanceResampling, {}),
    }
    return of_numpyro[options.algorithm]


def _settings(options: Complete, make: Callable[..., Any]) -> dict[str, Any]:
    """What `--set` says. Raises ValueError for a setting that the algorithm does not have, and for one that is no value."""
    parameters = inspect.signature(make).parameters
    known = [
        name
        for name, parameter in parameters.items()
        if isinstance(parameter.default, int | float)
        or "float" in str(parameter.annotation)
        or "int" in str(parameter.annotation)
    ]
    found: dict[str, Any] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals or name not in known:
            raise ValueError(f"--set {text}: write NAME=VALUE; {options.algorithm} has {', '.join(known) or 'no settings'}")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f"--set {text}: {value!r} is no number and no True or False") from None
    return found


def _learned(options: Complete) -> Any:
    """End points of the descents that lie beside the generator. Raises ValueError where there are none."""
    from cogen.inference import LearnedDescent, PyroLearnedDescent

    if options.warmup:
        raise ValueError(f"--warmup {options.warmup}: learned-descent draws its end points at once; leave it out")
    if options.certify:
        raise ValueError("--certify: end points of learned descents are no draws of a posterior; use --algorithm annealed-hmc")
    return (PyroLearnedDescent if options.backend == "pyro" else LearnedDescent)(_predictor(options))


def _predictor(options: Complete) -> Any:
    from cogen.models.storage.encoders import load_predictor

    predictor = load_predictor(options.generator)
    if predictor is None:
        raise ValueError(
            f"no predictor lies beside {options.generator}: `cogen train cgml` trains both; for another generator use"
            " --algorithm annealed-hmc"
        )
    return predictor


def certificate_run(options: Complete, seen: Any) -> dict[str, Any]:
    """The weighted annealing of `cogen.diagnostics.certify`: ``kernel``, by conditioned model, ``num_warmup`` and ``pilot``.

    Where the run itself is annealed HMC they share the start, and what was tuned; step sizes that were not come from a pilot.
    """
    from cogen.inference import AnnealedHMC

    options = replace(options, backend="numpyro")
    settings = _tuned(options, seen, guided=_guide(options, seen) is not None)
    annealing = {} if settings is None else settings.annealing()
    return {
        "kernel": lambda model: AnnealedHMC(initial=_start(options, model), **annealing),
        "num_warmup": _warmup(options, settings),
        "pilot": PILOT if settings is None else 0,
    }


def check_algorithm(options: Complete) -> None:
    """Raises ValueError for an algorithm that its backend does not have, before anything is read."""
    of_pyro = ("annealed-hmc", "langevin", "hmc", "nuts", "learned-descent")
    if options.backend == "pyro" and options.algorithm not in of_pyro:
        raise ValueError(
            f"--algorithm {options.algorithm} does not run on Pyro: use --backend numpyro, or {', '.join(of_pyro[:-1])} or"
            f" {of_pyro[-1]}"
        )
    if options.set and options.algorithm == "learned-descent":
        raise ValueError(f"--set {options.set[0]}: learned-descent has no settings; leave it out")
    if options.pilot and (options.backend == "pyro" or options.algorithm not in ADAPT):
        raise ValueError(f"--pilot {options.pilot}: {options.algorithm} on {options.backend} has no pilot; leave it out")
    if options.pilot < 0:
        raise ValueError(f"--pilot {options.pilot}: it must not be negative")
    if options.threshold is not None and not (options.weighted and 0 <= options.threshold <= 1):
        raise ValueError(f"--threshold {options.threshold:g}: a share of chains, from 0 to 1, that goes with --weighted")
    own_count = any(text.startswith("num_populations=") for text in options.set)
    grouped = options.weighted and options.algorithm == "annealed-hmc" and options.threshold != 0 and not own_count
    if grouped and (options.chains < 8 or options.chains % 4):
        raise ValueError(
            f"--weighted --chains {options.chains}: weighted chains form four populations of two chains or more, all of one"
            " size; use --chains 8, 12, 16, ..."
        )


def executor_of(options: Complete) -> Any:
    """What runs the blocks of images; None for this process. Raises ValueError for what cannot."""
    if options.engine == "in-process":
        return None
    if options.backend == "pyro":
        raise ValueError("--engine ray does not run Pyro kernels: use --backend numpyro, or --engine in-process")
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray needs Ray: pip install 'cogen-ppl[ray]'")
    from cogen.inference import RayExecutor

    return RayExecutor(options.workers)


def _start(options: Complete, seen: Any) -> Any:
    """The start of the annealing from a guide, None for the prior."""
    guide = _guide(options, seen)
    if guide is None:
        return None
    return guide.pyro_start() if options.backend == "pyro" else guide.start()


def _guide(options: Complete, seen: Any) -> Any:
    """What the guide says of a conditioned model; None where there is none, and where nothing is annealed."""
    from cogen.models.networks.endpoint_guide import EndpointGuide
    from cogen.models.networks.flow_guide import FlowGuide
    from cogen.models.networks.masked_flow import MaskedFlow
    from cogen.models.storage.encoders import load_encoder, load_guide

    if options.guide == "none" or options.algorithm != "annealed-hmc":
        return None
    if options.guide == "predictor":
        return EndpointGuide(_predictor(options), seen, seed=options.seed)
    named = options.guide != "auto"
    flow = load_encoder(options.guide) if named else load_guide(options.generator)
    if flow is None:
        return None
    if not isinstance(flow, MaskedFlow):
        raise ValueError(f"--guide {options.guide}: this is a {type(flow).__name__}, and no guide of `cogen guide`")
    try:
        return FlowGuide(flow, seen)
    except ValueError as error:
        if named:
            raise ValueError(f"--guide {options.guide}: {error}") from None
        return None


def _tuned(options: Complete, seen: Any, guided: bool) -> Any:
    """What was tuned for an annealing that is asked for as it was tuned; None otherwise."""
    from cogen.models.storage.tunings import load_tuning

    as_tuned = options.warmup is None and options.noise is None and options.guide in ("auto", "none") and not options.pilot
    if options.algorithm != "annealed-hmc" or not as_tuned:
        return None
    of_views = {name: load_tuning(options.generator, name) for name in (*SEEN, "thumbnail", "gray")}
    known = {name: settings for name, settings in of_views.items() if settings is not None and settings.guided == guided}
    asked = views_asked(options)
    if options.mask is None and len(asked) == 1 and asked[0] in known:
        return known[asked[0]]
    masks = [name for name in SEEN if name in known]
    if not masks or {"thumbnail", "gray"} & set(asked):
        return None
    share = max(float(entry["mask"].mean()) for entry in seen.item_data.values() if "mask" in entry)
    return known[next((name for name in masks if SEEN[name] >= share - 0.05), masks[-1])]


def _warmup(options: Complete, settings: Any) -> int:
    if options.warmup is not None:
        return options.warmup
    return WARMUP if settings is None else settings.temperatures

"""From the options of `cogen complete` to a kernel, its warm-up and its executor."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from cogen.conditions import guide_suits
from cogen.job import views_asked
from cogen.options import Complete
from cogen.schedules import factor_of, stored_schedule

WARMUP = 60
"""Warm-up transitions without a stored tuning."""

FIT_STEPS = 1_000
"""Steps in which `svi` fits its guide."""

PILOT = 8
"""Chains of a certificate's pilots without a stored tuning."""

AT_REST = 0.6
"""Factor of the last tuned step size: posteriors of real images, which a generator does not fit exactly, are narrower than
those of the simulated images of the tuning (benchmarks/step_at_rest.py)."""

ADAPT = ("annealed-hmc", "langevin")
"""Algorithms with step sizes that a pilot can adapt."""


class Plan(NamedTuple):
    """A kernel, its warm-up transitions, and whether a stored tuning is used."""

    kernel: Any
    warmup: int
    tuned: bool = False


def kernel_of(options: Complete, seen: Any) -> Plan:
    """The kernel for a conditioned model.

    Annealed HMC starts from the guide beside the generator if that was trained for such a view, and uses the tuning stored for
    the view unless an option asks for something else.

    :raises ValueError: for a guide, given by path, that does not fit the model.
    """
    if options.algorithm == "learned-descent":
        return Plan(_learned(options), 0)
    initial = _start(options, seen)
    settings = stored_schedule(options, seen, guided=initial is not None)
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
    """The constructor of the kernel, and our default settings for kernels of the libraries."""
    if options.backend == "pyro":
        import pyro.infer.autoguide

        from cogen.inference import PyroAnnealedHMC, PyroLangevin, PyroSVI

        of_pyro: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
            "annealed-hmc": (PyroAnnealedHMC, {}),
            "langevin": (PyroLangevin, {}),
            "hmc": (pyro.infer.HMC, {"step_size": 0.1, "trajectory_length": 1.0}),
            "nuts": (pyro.infer.NUTS, {}),
            "svi": (PyroSVI, {"guide": pyro.infer.autoguide.AutoNormal}),
        }
        return of_pyro[options.algorithm]
    import numpyro.infer.autoguide

    from cogen import inference

    of_numpyro: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
        "annealed-hmc": (inference.AnnealedHMC, {}),
        "langevin": (inference.Langevin, {}),
        "parallel-tempering": (inference.ParallelTempering, {}),
        "hmc": (numpyro.infer.HMC, {"num_steps": 10, "trajectory_length": None}),
        "nuts": (numpyro.infer.NUTS, {}),
        "gradient-descent": (inference.GradientDescent, {}),
        "importance": (inference.ImportanceResampling, {}),
        "svi": (inference.SVI, {"guide": numpyro.infer.autoguide.AutoNormal}),
    }
    return of_numpyro[options.algorithm]


def _settings(options: Complete, make: Callable[..., Any]) -> dict[str, Any]:
    """Settings given by `--set`.

    :raises ValueError: for an unknown setting, and for an invalid value.
    """
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
        if not equals:
            raise ValueError(f"--set {text}: write NAME=VALUE, as in --set num_leapfrog=20")
        if name not in known:
            raise ValueError(
                f"--set {text}: {options.algorithm} has no setting {name}; it has {', '.join(known) or 'no settings'}"
            )
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError(f"--set {text}: {value!r} is not a number, True or False") from None
    return found


def _learned(options: Complete) -> Any:
    """The kernel that draws from the predictor beside the generator.

    :raises ValueError: without a predictor, and for options that do not apply.
    """
    from cogen.inference import LearnedDescent, PyroLearnedDescent

    if options.warmup:
        raise ValueError(f"--warmup {options.warmup}: learned-descent has no warm-up; omit it")
    if options.certify:
        raise ValueError(
            "--certify: end points of learned descents are not draws from the posterior; use --algorithm annealed-hmc"
        )
    return (PyroLearnedDescent if options.backend == "pyro" else LearnedDescent)(_predictor(options))


def _predictor(options: Complete) -> Any:
    from cogen.models.storage.encoders import load_predictor

    predictor = load_predictor(options.generator)
    if predictor is None:
        raise ValueError(
            f"there is no predictor beside {options.generator}: `cogen train cgml` trains a generator with a predictor; for"
            " others use --algorithm annealed-hmc"
        )
    return predictor


def certificate_run(options: Complete, seen: Any) -> dict[str, Any]:
    """Arguments of `cogen.diagnostics.certify`: ``kernel`` (a function of the conditioned model), ``num_warmup`` and ``pilot``.

    They share the reference distribution and the tuning with a run of annealed HMC. Without a tuning a pilot adapts the steps.
    """
    from cogen.inference import AnnealedHMC

    options = replace(options, backend="numpyro")
    settings = stored_schedule(replace(options, weighted=False), seen, guided=_guide(options, seen) is not None)
    annealing = {} if settings is None else settings.annealing()
    return {
        "kernel": lambda model: AnnealedHMC(initial=_start(options, model), **annealing),
        "num_warmup": _warmup(options, settings),
        "pilot": PILOT if settings is None else 0,
    }


def check_algorithm(options: Complete) -> None:
    """Check the options of the algorithm before any file is read.

    :raises ValueError: for options that do not fit the algorithm or the backend.
    """
    of_pyro = ("annealed-hmc", "langevin", "hmc", "nuts", "svi", "learned-descent")
    if options.backend == "pyro" and options.algorithm not in of_pyro:
        raise ValueError(
            f"--algorithm {options.algorithm} does not run on Pyro: use --backend numpyro, or {', '.join(of_pyro[:-1])} or"
            f" {of_pyro[-1]}"
        )
    if options.set and options.algorithm == "learned-descent":
        raise ValueError(f"--set {options.set[0]}: learned-descent has no settings; omit it")
    if options.pilot and (options.backend == "pyro" or options.algorithm not in ADAPT):
        raise ValueError(f"--pilot {options.pilot}: {options.algorithm} on {options.backend} has no pilot run; omit it")
    if options.pilot < 0:
        raise ValueError(f"--pilot {options.pilot}: it must not be negative")
    if options.threshold is not None and not (options.weighted and 0 <= options.threshold <= 1):
        raise ValueError(
            f"--threshold {options.threshold:g}: it is a share of the chains, between 0 and 1, and needs --weighted"
        )
    own_count = any(text.startswith("num_populations=") for text in options.set)
    grouped = options.weighted and options.algorithm == "annealed-hmc" and options.threshold != 0 and not own_count
    if grouped and (options.num_chains < 8 or options.num_chains % 4):
        raise ValueError(
            f"--weighted --chains {options.num_chains}: weighted chains form four populations of equal size, of two chains or"
            " more; use --chains 8, 12, 16, ..."
        )


def executor_of(options: Complete) -> Any:
    """The executor of the blocks of images; None for this process.

    :raises ValueError: for an engine that is not available.
    """
    if options.engine == "in-process":
        return None
    if options.backend == "pyro":
        raise ValueError("--engine ray does not run Pyro kernels: use --backend numpyro, or --engine in-process")
    if importlib.util.find_spec("ray") is None:
        raise ValueError("--engine ray needs Ray: pip install 'cogen-ppl[ray]'")
    from cogen.inference import RayExecutor

    return RayExecutor(options.workers)


def _start(options: Complete, seen: Any) -> Any:
    """The reference distribution given by a guide; None for the prior."""
    guide = _guide(options, seen)
    if guide is None:
        return None
    return guide.pyro_start() if options.backend == "pyro" else guide.start()


def _guide(options: Complete, seen: Any) -> Any:
    """The guide for a conditioned model; None without one, and for algorithms that do not anneal."""
    from cogen.models.networks.endpoint_guide import EndpointGuide
    from cogen.models.networks.flow_guide import FlowGuide
    from cogen.models.networks.masked_flow import MaskedFlow
    from cogen.models.storage.encoders import load_encoder, load_guide

    if options.guide == "none" or options.algorithm != "annealed-hmc":
        return None
    if options.guide == "predictor":
        return EndpointGuide(_predictor(options), seen, seed=options.seed)
    named = options.guide != "auto"
    if not named and not all(guide_suits(name, factor_of(seen), seen.event_shape) for name in views_asked(options)):
        return None
    flow = load_encoder(options.guide) if named else load_guide(options.generator)
    if flow is None:
        return None
    if not isinstance(flow, MaskedFlow):
        raise ValueError(f"--guide {options.guide}: this is a {type(flow).__name__}, not a guide of `cogen guide`")
    try:
        return FlowGuide(flow, seen)
    except ValueError as error:
        if named:
            raise ValueError(f"--guide {options.guide}: {error}") from None
        return None


def _warmup(options: Complete, settings: Any) -> int:
    if options.warmup is not None:
        return options.warmup
    default = FIT_STEPS if options.algorithm == "svi" else WARMUP
    return default if settings is None else settings.temperatures

"""From the options of `cogen complete` to a kernel, how long it warms up, and what runs it."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import replace
from typing import Any

from cogen.options import Complete

WARMUP = 60
"""Transitions of warm-up where nothing was tuned."""

PILOT = 8
"""Chains of the pilots of a certificate where nothing was tuned."""


def kernel_of(options: Complete, seen: Any) -> tuple[Any, int]:
    """The kernel for a conditioned model, and its transitions of warm-up.

    Annealed HMC starts from the guide beside the generator, where there is one that sees such a view, and runs with what was
    tuned for the view, where that was and nothing else is asked for. Raises ValueError where a guide was named that does not
    serve.
    """
    if options.algorithm == "learned-descent":
        return _learned(options), 0
    initial = _start(options, seen)
    settings = None if options.weighted else _tuned(options, guided=initial is not None)
    annealing: dict[str, Any] = {} if settings is None else settings.annealing()
    warmup = _warmup(options, settings)
    annealing |= {"weighted": options.weighted, "resample_threshold": 0.5 if options.weighted else 0.0, "initial": initial}
    if options.backend == "pyro":
        import pyro.infer

        from cogen.inference.torch.annealed_hmc import PyroAnnealedHMC

        return {
            "annealed-hmc": lambda: PyroAnnealedHMC(**annealing),
            "hmc": lambda: functools.partial(pyro.infer.HMC, step_size=0.1, trajectory_length=1.0),
            "nuts": lambda: pyro.infer.NUTS,
        }[options.algorithm](), warmup
    import numpyro.infer

    from cogen.inference import AnnealedHMC, GradientDescent, ImportanceResampling

    return {
        "annealed-hmc": lambda: AnnealedHMC(**annealing),
        "hmc": lambda: functools.partial(numpyro.infer.HMC, num_steps=10, trajectory_length=None),
        "nuts": lambda: numpyro.infer.NUTS,
        "gradient-descent": lambda: GradientDescent(),
        "importance": lambda: ImportanceResampling(),
    }[options.algorithm](), warmup


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
    settings = _tuned(options, guided=_guide(options, seen) is not None)
    annealing = {} if settings is None else settings.annealing()
    return {
        "kernel": lambda model: AnnealedHMC(initial=_start(options, model), **annealing),
        "num_warmup": _warmup(options, settings),
        "pilot": PILOT if settings is None else 0,
    }


def check_algorithm(options: Complete) -> None:
    """Raises ValueError for an algorithm that its backend does not have, before anything is read."""
    of_pyro = ("annealed-hmc", "hmc", "nuts", "learned-descent")
    if options.backend == "pyro" and options.algorithm not in of_pyro:
        raise ValueError(
            f"--algorithm {options.algorithm} does not run on Pyro: use --backend numpyro, or {', '.join(of_pyro[:-1])} or"
            f" {of_pyro[-1]}"
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


def _tuned(options: Complete, guided: bool) -> Any:
    """What was tuned for an annealing that is asked for as it was tuned; None otherwise."""
    from cogen.models.storage.tunings import load_tuning

    as_tuned = options.warmup is None and options.noise is None and options.guide in ("auto", "none")
    if options.algorithm != "annealed-hmc" or not as_tuned:
        return None
    settings = load_tuning(options.generator, options.view)
    return settings if settings is not None and settings.guided == guided else None


def _warmup(options: Complete, settings: Any) -> int:
    if options.warmup is not None:
        return options.warmup
    return WARMUP if settings is None else settings.temperatures

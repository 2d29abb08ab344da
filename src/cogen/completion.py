"""`cogen complete` and `cogen diagnose`: from options to a posterior, pictures and figures on disk."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from cogen.algorithms import certificate_run, check_algorithm, executor_of, kernel_of
from cogen.by_energy import as_units, check_of_energy, clamped_model, is_density, is_machine, short_run
from cogen.compiled_before import remember_compiled
from cogen.conditions import NOISE_OF_VIEW, mask_named, view_named
from cogen.foreign import images_generator
from cogen.given import contexts_given
from cogen.options import Complete
from cogen.output import Workplace, print_findings, read_posterior, strict_json

IMAGES_OF = {"fashion": "fashion", "colour": "cifar10"}
"""The shipped images that a shipped generator completes by default; the others complete digits."""

_FILES = ("posterior.nc", "completions.png", "annealing.png", "metrics.json", "certificate.csv")

_SCORED = 1000
"""Every chain's draws are thinned to at most so many per image, or one a chain, which are decoded to be scored."""

_BEST_OF = 10

_SCORES = {
    "hidden_crps": "crps",
    "hidden_energy_score": "energy_score",
    "hidden_coverage_50": "coverage_50",
    "hidden_coverage_90": "coverage_90",
    "hidden_joint_coverage_50": "joint_coverage_50",
    "hidden_joint_coverage_90": "joint_coverage_90",
    "hidden_descriptive_coverage_50": "descriptive_coverage_50",
    "hidden_descriptive_coverage_90": "descriptive_coverage_90",
    "hidden_pit_mean": "pit_mean",
    "hidden_pit_dispersion": "pit_dispersion",
    "hidden_interval_width_90": "interval_width_90",
    "hidden_pairwise_distance": "pairwise_distance",
    "hidden_mse": "mse_of_draws",
    "hidden_mse_posterior_mean": "mse_of_mean",
    f"hidden_mse_best_of_{_BEST_OF}": "mse_of_best",
    "psnr": "psnr",
    "ssim": "ssim",
}
"""Names in metrics.json, and those of `cogen.diagnostics.score_completions`."""


def complete(options: Complete) -> None:
    """Run `cogen complete`: everything is computed first, then written; on an error nothing is.

    Raises ValueError or OSError for what the user can get wrong.
    """
    for name in ("count", "chains", "samples", "workers", "items_at_once"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    if options.warmup is not None and options.warmup < 0:
        raise ValueError(f"--warmup {options.warmup}: it must not be negative")
    if isinstance(options.noise, float) and not (np.isfinite(options.noise) and options.noise > 0):
        raise ValueError(f"--noise {options.noise:g}: a noise scale is a positive number")
    if options.certify and (options.chains < 8 or options.chains % 4 or options.warmup == 0):
        raise ValueError(
            f"--certify --chains {options.chains} --warmup {options.warmup}: it anneals four populations of two chains or more,"
            " all of one size: use --chains 8, 12, 16, ... and --warmup 1 or more"
        )
    check_algorithm(options)
    executor = executor_of(options)
    with Workplace(options.output, [re.escape(name) for name in _FILES]) as folder:
        remember_compiled()
        from cogen.models.storage.energies import is_energy

        answer = (_by_energy if is_energy(options.generator) else _by_generator)(options, executor)
        metrics = _metrics(options, answer)
        _write(Path(folder), options, answer, metrics)
    _report(options, answer, metrics)


def diagnose(path: Path) -> None:
    """Print the tables of a written posterior, then what looks wrong with it."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    from cogen.diagnostics import diagnose, item_summary, summary
    from cogen.diagnostics.groups import has_group

    posterior = read_posterior(path)
    if not has_group(posterior, "posterior"):
        raise ValueError(f"{path} is not a posterior that infer wrote (it has no group 'posterior')")

    attributes = posterior["posterior"].attrs
    print(f"{path}: {attributes.get('kernel', 'unknown kernel')}, seed {attributes.get('seed', '?')}\n")
    if has_group(posterior, "sample_stats"):
        print(item_summary(posterior).to_string(float_format=lambda v: f"{v:.3g}"), "\n")
    if "item" not in posterior["posterior"].dims:
        print(summary(posterior).to_string(float_format=lambda v: f"{v:.3g}"), "\n")
    _print_certificate(posterior)
    if has_group(posterior, "sample_stats"):
        print_findings(diagnose(posterior))
    else:
        print("these are the ends of short runs: nothing says how far to trust them")


# --- from options to an answer -------------------------------------------------------------------------------------


@dataclass
class Answer:
    """Draws of completed images, and what they are scored by.

    :param sampler: its name, for people.
    :param images: the truth, (item, channel, height, width).
    :param hidden: True where a pixel is scored, of the same shape.
    :param value_range: of the pixels.
    :param draws: x of draws (chain, draw, item, channel, height, width), thinned.
    :param labels: ``log_weight`` and ``group`` of `score_completions`, where there are any.
    :param noise: ``noise`` or ``noise_scale`` of the same.
    :param scale: the standard deviation of what is observed, NaN where there is none.
    :param misfit: the squared error of the seen part, (item,).
    """

    sampler: str
    posterior: Any
    images: np.ndarray
    hidden: np.ndarray
    value_range: tuple[float, float]
    draws: np.ndarray
    labels: dict[str, Any]
    noise: dict[str, Any]
    scale: float
    misfit: np.ndarray


def _by_generator(options: Complete, executor: Any) -> Answer:
    """z given the seen part, pushed through a generator."""
    from cogen.diagnostics import mse_of_draws

    generator = images_generator(options)
    images = _images(options, generator)
    model, seen = _condition(options, generator, images)
    posterior = _inferred(options, seen, *kernel_of(options, seen), executor)
    if options.certify:
        posterior = _certified(options, seen, posterior)
    draws, labels = _decoded(seen, posterior)
    view, entry = model.views["seen"], seen.item_data["seen"]
    hidden = ~entry["mask"] if "mask" in entry else np.ones(images.shape, dtype=bool)
    scale = view.likelihood.scale
    noise = {"noise": view.likelihood} if scale is None else {"noise_scale": scale / NOISE_OF_VIEW.get(options.view, 1.0)}
    looked = _observe(view, draws.reshape(-1, *draws.shape[3:])).reshape(*draws.shape[:3], *entry["value"].shape[1:])
    misfit = mse_of_draws(looked, entry["value"], entry.get("mask"), labels.get("log_weight"))
    scale = float("nan") if scale is None else scale
    return Answer(options.algorithm, posterior, images, hidden, model.value_range, draws, labels, noise, scale, misfit)


def _by_energy(options: Complete, executor: Any) -> Answer:
    """The hidden pixels given the seen ones, which stay as they are."""
    from cogen.models.storage.energies import load_energy

    energy: Any = load_energy(options.generator)
    check_of_energy(options, energy)
    images = as_units(energy, _images(options, energy))
    given, config = contexts_given(options, energy, images), energy.config
    hidden = np.broadcast_to(~mask_named(options.view, config.event_shape, seed=options.seed), images.shape)
    if is_machine(energy) or is_density(energy):
        seen, kernel, warmup = clamped_model(options, energy, images, given)
        posterior = _inferred(options, seen, kernel, warmup, executor)
        draws, labels = _decoded(seen, posterior)
    else:
        posterior, draws = short_run(options, energy, images, given)
        draws = draws[:, :: _thinning(draws)]
        # Every draw is independent of the others.
        groups = np.arange(draws.shape[0] * draws.shape[1]).reshape(*draws.shape[:2], 1)
        labels = {"group": np.broadcast_to(groups, draws.shape[:3])}
    exact, sampler = np.zeros(len(images)), posterior["posterior"].attrs["kernel"]
    return Answer(sampler, posterior, images, hidden, config.value_range, draws, labels, {}, float("nan"), exact)


def _inferred(options: Complete, seen: Any, kernel: Any, warmup: int, executor: Any) -> Any:
    """The posterior of a conditioned model."""
    from cogen.inference import infer

    return infer(
        seen,
        kernel,
        num_warmup=warmup,
        num_samples=options.samples,
        num_chains=options.chains,
        seed=options.seed,
        items_at_once=options.items_at_once,
        executor=executor,
    )


def _images(options: Complete, generator: Any) -> np.ndarray:
    from cogen.models.data.datasets import load_images
    from cogen.models.storage.generators import shipped_images

    config = generator.config
    if options.images is not None:
        return load_images(options.images, config.event_shape, config.value_range, options.range)[: options.count]
    if options.range is not None:
        low, high = options.range
        raise ValueError(f"--range {low:g} {high:g}: it is for an array given with --images")
    images, _ = shipped_images(IMAGES_OF.get(options.generator, "mnist"))
    if images.shape[1:] != tuple(config.event_shape):
        raise ValueError(f"{options.generator} makes {config.event_shape}, not digits: give --images")
    low, high = config.value_range
    return (low + (images[: options.count] + 1) / 2 * (high - low)).astype(np.float32)


def _condition(options: Complete, generator: Any, images: np.ndarray) -> tuple[Any, Any]:
    from cogen.models.cogenerator import CoGenerator
    from cogen.models.noise import fit_scale

    given = contexts_given(options, generator, images)

    def build(noise: float | None) -> tuple[Any, Any]:
        view = view_named(options.view, generator, noise=noise, seed=options.seed)
        model = CoGenerator(generator, views={"seen": view})
        return model, model.condition(seen=_observe(view, images)).given(**given)

    if options.noise != "fit":
        return build(options.noise)
    _, seen = build(generator.config.noise_scale)
    return build(fit_scale(seen, seed=options.seed) / NOISE_OF_VIEW.get(options.view, 1.0))


def _observe(view: Any, images: np.ndarray) -> np.ndarray:
    import torch

    return view(torch.from_numpy(images)).numpy()


def _certified(options: Complete, seen: Any, posterior: Any) -> Any:
    """The posterior with a certificate of its items."""
    from cogen.diagnostics import certify, with_certificate

    counts: dict[str, Any] = {"num_chains": options.chains, "seed": options.seed, "items_at_once": options.items_at_once}
    return with_certificate(posterior, certify(seen, posterior, **certificate_run(options, seen), **counts))


# --- scores --------------------------------------------------------------------------------------------------------


def _decoded(model: Any, posterior: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """x of the draws (chain, draw, item, ...), thinned along draws, with the log weights and independent groups of these."""
    from cogen.diagnostics.groups import independent_groups

    z = posterior["posterior"]["z"].values
    kept = slice(None, None, _thinning(z))
    z = z[:, kept]
    x = np.concatenate([model.decode(part.reshape(-1, z.shape[-1])) for part in z])
    labels = {"group": independent_groups(posterior).values[:, kept]}
    log_weight = posterior["sample_stats"].get("log_weight")
    if log_weight is not None:
        labels["log_weight"] = log_weight.values[:, kept]
    return x.reshape(*z.shape[:3], *x.shape[1:]), labels


def _thinning(draws: np.ndarray) -> int:
    """Every so many-th draw (chain, draw, ...) is scored."""
    return -(-draws.shape[0] * draws.shape[1] // _SCORED)


def _metrics(options: Complete, answer: Answer) -> dict[str, Any]:
    from cogen.diagnostics import item_summary, pit_p_value, score_completions
    from cogen.diagnostics.groups import has_group

    posterior = answer.posterior
    scores = score_completions(
        answer.draws,
        answer.images,
        answer.hidden,
        value_range=answer.value_range,
        **answer.noise,
        mean=posterior["predictions"]["x_mean"].values,
        best_of=_BEST_OF,
        seed=options.seed,
        **answer.labels,
    )
    per_item = {**{name: scores[score].values for name, score in _SCORES.items()}, "observed_mse": answer.misfit}
    table = item_summary(posterior) if has_group(posterior, "sample_stats") else {}

    def column(name: str) -> np.ndarray:
        return table[name].to_numpy(dtype=float) if name in table else np.full(len(answer.images), np.nan)

    attributes = posterior["posterior"].attrs
    return {
        **{name: _over_items(np.mean, values) for name, values in per_item.items()},
        "hidden_pit_p_value": pit_p_value(scores["joint_pit"].values),
        "acceptance_rate": _over_items(np.mean, column("acceptance_rate")),
        "step_size": _over_items(np.mean, column("step_size")),
        "ess_min": _over_items(np.min, column("ess_min")),
        "nested_rhat_max": _over_items(np.max, column("nested_rhat_max")),
        "weight_ess": _over_items(np.min, column("weight_ess")),
        "ancestors_min": _over_items(np.min, column("ancestors")),
        "log_evidence": column("log_evidence").tolist(),
        "log_evidence_standard_error": column("log_evidence_se").tolist(),
        "gradient_evaluations": int(np.sum(attributes["gradient_evaluations"])),
        "seconds": float(attributes["seconds"]),
        "compile_seconds": float(attributes["compile_seconds"]),
        "noise": answer.scale,
        "seed": options.seed,
        "options": {name: str(value) for name, value in vars(options).items()},
        "versions": {name: version(name) for name in ("cogen-ppl", "torch", "pyro-ppl", "jax", "numpyro", "arviz")},
        "per_item": {name: np.asarray(values).tolist() for name, values in per_item.items()},
        **_certificate_metrics(posterior),
    }


def _certificate_metrics(posterior: Any) -> dict[str, Any]:
    """The table of a certificate, if there is one: its columns, and the settings of its runs."""
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group

    if not has_group(posterior, GROUP):
        return {}
    table = group(posterior, GROUP)
    settings = {name: int(value) for name, value in table.attrs.items()}
    return {"certificate": {**{str(name): values.values.tolist() for name, values in table.data_vars.items()}, **settings}}


def _over_items(choose: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    """One number for all items, of those that have one; NaN where none has."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(choose(known)) if known.size else float("nan")


# --- files and words -----------------------------------------------------------------------------------------------


def _write(folder: Path, options: Complete, answer: Answer, metrics: dict[str, Any]) -> None:
    from cogen.diagnostics import plot_annealing, plot_completions
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group

    posterior, draws = answer.posterior, answer.draws
    chosen = np.random.default_rng(options.seed).choice(draws.shape[0], size=min(4, draws.shape[0]), replace=False)
    picture = plot_completions(posterior, truth=answer.images, draws=draws[chosen, -1], value_range=answer.value_range)
    picture.savefig(folder / "completions.png")
    if has_group(posterior, "warmup_sample_stats") and "beta" in posterior["warmup_sample_stats"]:
        plot_annealing(posterior).savefig(folder / "annealing.png")
    if has_group(posterior, GROUP):
        group(posterior, GROUP).to_dataframe().to_csv(folder / "certificate.csv")
    (folder / "metrics.json").write_text(json.dumps(strict_json(metrics), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    posterior.to_netcdf(str(folder / "posterior.nc"), engine="h5netcdf")


def _print_certificate(posterior: Any) -> None:
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group

    if has_group(posterior, GROUP):
        table = group(posterior, GROUP)
        runs = "{num_chains} chains x {num_warmup} temperatures, {gradient_evaluations:,} gradients".format_map(table.attrs)
        print(f"certificate ({runs}; ranks among {table.attrs['num_simulations']} simulated items):\n")
        print(table.to_dataframe().to_string(float_format=lambda v: f"{v:.3g}"), "\n")


def _report(options: Complete, answer: Answer, metrics: dict[str, Any]) -> None:
    from cogen.diagnostics import diagnose
    from cogen.diagnostics.groups import has_group

    posterior, count = answer.posterior, len(answer.images)
    print(
        f"\n{count} images, --view {options.view}, {answer.sampler}: {options.chains} chains x {options.samples} draws each\n"
    )
    rows = [
        ("hidden part", "CRPS", metrics["hidden_crps"]),
        ("", "energy score", metrics["hidden_energy_score"]),
        ("", "coverage of 50 % intervals", metrics["hidden_coverage_50"]),
        ("", "coverage of 90 % intervals", metrics["hidden_coverage_90"]),
        ("", "width of 90 % intervals", metrics["hidden_interval_width_90"]),
        ("", "PIT dispersion (1: calibrated)", metrics["hidden_pit_dispersion"]),
        ("", "squared error of a draw", metrics["hidden_mse"]),
        ("", f"of the best of {_BEST_OF} draws", metrics[f"hidden_mse_best_of_{_BEST_OF}"]),
        ("", "squared error of the mean", metrics["hidden_mse_posterior_mean"]),
        ("", "PSNR of the mean (dB)", metrics["psnr"]),
        ("", "SSIM of the mean", metrics["ssim"]),
        ("seen part", "squared error of a draw", metrics["observed_mse"]),
        ("", "squared noise scale", metrics["noise"] ** 2),
        ("sampling", "acceptance", metrics["acceptance_rate"]),
        ("", "least effective draws", metrics["ess_min"]),
        ("", "greatest nested R-hat", metrics["nested_rhat_max"]),
        ("", "fewest distinct ancestors", metrics["ancestors_min"]),
        ("", "log evidence, mean", float(np.mean(metrics["log_evidence"]))),
        ("cost", "gradient evaluations", float(metrics["gradient_evaluations"])),
        ("", "seconds", metrics["seconds"]),
        ("", "of which compilation", metrics["compile_seconds"]),
    ]
    for part, label, value in rows:
        if np.isfinite(value):
            shown = f"{value:,.0f}" if label == "gradient evaluations" else f"{value:.4g}"
            print(f"  {part:<12} {label:<30} {shown:>12}")
    print()
    unscored = int(np.isnan(metrics["per_item"]["hidden_crps"]).sum())
    if unscored:
        print(
            f"{unscored} of {count} images have no CRPS and no energy score: these take pairs of independent draws, and theirs "
            "are all of one population or chain. Use more --chains or --warmup\n"
        )
    _print_certificate(posterior)
    if has_group(posterior, "sample_stats"):
        print_findings(diagnose(posterior))
    print(f"\nwritten to {options.output}: {', '.join(name for name in _FILES if (options.output / name).exists())}")

"""`cogen complete` and `cogen diagnose`: from options to a posterior, images, metrics and a report on disk."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cogen.algorithms import Plan, certificate_run, check_algorithm, executor_of, kernel_of
from cogen.answer import Answer
from cogen.by_energy import as_units, check_of_energy, clamped_model, is_density, is_machine, mask_of_all, short_run
from cogen.compiled_before import remember_compiled
from cogen.conditions import check_noise, noise_model, noise_of_view, scale_of, view_named
from cogen.configuration import write_configuration
from cogen.foreign import images_generator
from cogen.given import contexts_given
from cogen.images import completed_images
from cogen.job import Job, check_output, check_views, hidden_by, job_of, placed, views_asked
from cogen.metrics import chosen_chains, metrics_of, rows_of, versions
from cogen.options import Complete
from cogen.output import (
    UNTUNED,
    Workplace,
    checkpoint_named,
    in_options,
    print_findings,
    read_posterior,
    strict_json,
)
from cogen.schedules import check_tuning, pixel_noise, remedy
from cogen.unknown_class import (
    InferredClass,
    check_unknown,
    class_lines,
    contexts_declared,
    contexts_of_draws,
    inferred_classes,
    infers_class,
    with_defaults,
)

_FILES = ("posterior.nc", "report.html", "completions.png", "annealing.png", "metrics.json", "certificate.csv", "run.toml")

TUNED = (
    "note: each chain is annealed separately, with the schedule of `cogen tune`, and stays in the mode where it ends; for the"
    " posterior probabilities of modes use --weighted --chains 32 --warmup 300 --pilot 16"
)

COMPLETED = "completed"
"""The folder of the completed images."""

_SCORED = 1000
"""Draws per image that are decoded and scored: chains are thinned to at most so many in total, at least one a chain."""

_PATH_POINTS = 12
"""Points of the warm-up whose x the report shows."""


def complete(options: Complete) -> None:
    """Run `cogen complete`. Results are written after everything was computed; on an error nothing is written.

    :raises ValueError: for invalid options or images.
    :raises OSError: for files that cannot be read or written.
    """
    options = with_defaults(options)
    for name in ("count", "chains", "samples", "workers", "items_at_once"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} {value}: it must be at least 1")
    if options.warmup is not None and options.warmup < 0:
        raise ValueError(f"--warmup {options.warmup}: it must not be negative")
    if isinstance(options.noise, float):
        check_noise(options.noise)
    if options.certify and (options.num_chains < 8 or options.num_chains % 4 or options.warmup == 0):
        raise ValueError(
            f"--certify --chains {options.chains} --warmup {options.warmup}: chains form four populations of equal size, of two"
            " chains or more: use --chains 8, 12, 16, ... and --warmup 1 or more"
        )
    check_views(options)
    check_unknown(options)
    check_algorithm(options)
    check_tuning(options)
    check_output(options)
    executor = executor_of(options)
    made = rf"{COMPLETED}/.*(mean|sd|draw-[0-9]+)\.(png|npy)"
    patterns = [*(re.escape(name) for name in _FILES), made]
    with Workplace(options.output, patterns) as folder, checkpoint_named(options.checkpoint):
        remember_compiled()
        from cogen.diagnostics import diagnose
        from cogen.diagnostics.groups import has_group
        from cogen.models.storage.energies import is_energy

        job, answer = (_by_energy if is_energy(options.generator) else _by_generator)(options, executor)
        answer.posterior["posterior"].attrs["item_names"] = job.names
        metrics = metrics_of(options, job, answer)
        findings = None
        if has_group(answer.posterior, "sample_stats"):
            findings = job.warnings + [in_options(each, {UNTUNED: answer.remedy}) for each in diagnose(answer.posterior)]
        _write(Path(folder), options, job, answer, metrics, findings)
    _report(options, job, answer, metrics, findings)


def diagnose(path: Path) -> None:
    """Print the summary tables of a stored posterior, then its diagnostics."""
    path = path / "posterior.nc" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give a posterior.nc, or the output folder of `cogen complete`")
    from cogen.diagnostics import diagnose, item_summary, summary
    from cogen.diagnostics.groups import has_group

    posterior = read_posterior(path)
    if not has_group(posterior, "posterior"):
        raise ValueError(f"{path} is not a posterior of infer: it has no group 'posterior'")

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
        print("these draws are end points of short runs, for which no diagnostics exist")


# --- from options to an answer -------------------------------------------------------------------------------------


def _by_generator(options: Complete, executor: Any) -> tuple[Job, Answer]:
    """Completions by the posterior of z, pushed through a generator."""
    generator = images_generator(options)
    config = generator.config
    job = job_of(options, config)
    model, seen = _condition(options, generator, job)
    posterior = _inferred(options, seen, kernel_of(options, seen), executor)
    if options.certify:
        posterior = _certified(options, seen, posterior)
    classes = inferred_classes(seen, posterior, _thinning(posterior["posterior"]["z"].values))
    draws, labels = _decoded(seen, posterior, classes)
    scales, misfits = [], []
    for name, entry in seen.item_data.items():
        if name in model.views:
            scales.append(scale_of(model.views[name]))
            misfits.append(_misfit(model.views[name], entry, draws, labels))
    noise, scale = _noise_of_scores(options, model), scales[0] if len(scales) == 1 else float("nan")
    hidden = hidden_by(options, job, tuple(config.event_shape))
    answer = (options.algorithm, posterior, tuple(config.event_shape), model.value_range, draws, labels, hidden)
    misfit = np.mean(misfits, axis=0)
    return job, Answer(*answer, noise, scale, misfit, *_path(seen, posterior), classes, remedy(options, seen))


def _misfit(view: Any, entry: Any, draws: np.ndarray, labels: dict[str, Any]) -> np.ndarray:
    """Mean squared difference between the observed data of a view and the view of the draws, (item,)."""
    from cogen.diagnostics import mse_of_draws

    looked = _observe(view, draws.reshape(-1, *draws.shape[3:])).reshape(*draws.shape[:3], *entry["value"].shape[1:])
    return mse_of_draws(looked, entry["value"], entry.get("mask"), labels.get("log_weight"))


def _noise_of_scores(options: Complete, model: Any) -> dict[str, Any]:
    """``noise`` or ``noise_scale`` of a pixel, for `score_completions`."""
    scale = pixel_noise(options, model)
    return {"noise": next(iter(model.views.values())).likelihood} if np.isnan(scale) else {"noise_scale": scale}


def conditioned_model(options: Complete) -> Any:
    """The conditioned model of a run: of a generator, or of an energy that is a density.

    :raises ValueError: for an energy without a normalizable density.
    """
    from cogen.models.storage.energies import is_energy, load_energy

    if not is_energy(options.generator):
        generator = images_generator(options)
        return _condition(options, generator, job_of(options, generator.config))[1]
    energy: Any = load_energy(options.generator)
    if not (is_machine(energy) or is_density(energy)):
        raise ValueError(f"{options.generator} is not a density: its draws are end points of short runs, which have no model")
    job = job_of(options, energy.config)
    mask = mask_of_all(options, hidden_by(options, job, tuple(energy.config.event_shape)))
    given = contexts_given(options, energy, job)
    return clamped_model(options, energy, as_units(energy, job.items), mask, given)[0]


def _by_energy(options: Complete, executor: Any) -> tuple[Job, Answer]:
    """Completions by an energy: hidden pixels are drawn, seen pixels stay fixed."""
    from cogen.models.storage.energies import load_energy

    energy: Any = load_energy(options.generator)
    check_of_energy(options, energy)
    config = energy.config
    job = job_of(options, config)
    job = replace(job, items=as_units(energy, job.items), truth=None if job.truth is None else as_units(energy, job.truth))
    given, shape = contexts_given(options, energy, job), tuple(config.event_shape)
    hidden = hidden_by(options, job, shape)
    mask = mask_of_all(options, hidden)
    if is_machine(energy) or is_density(energy):
        seen, plan = clamped_model(options, energy, job.items, mask, given)
        posterior = _inferred(options, seen, plan, executor)
        draws, labels = _decoded(seen, posterior)
    else:
        posterior, draws = short_run(options, energy, job.items, mask, given)
        draws = draws[:, :: _thinning(draws)]
        # Every draw is independent of the others.
        groups = np.arange(draws.shape[0] * draws.shape[1]).reshape(*draws.shape[:2], 1)
        labels = {"group": np.broadcast_to(groups, draws.shape[:3])}
    exact, sampler = np.full(len(job.items), np.nan), posterior["posterior"].attrs["kernel"]
    return job, Answer(sampler, posterior, shape, config.value_range, draws, labels, hidden, {}, float("nan"), exact)


def _inferred(options: Complete, seen: Any, plan: Plan, executor: Any) -> Any:
    """The posterior of a conditioned model."""
    from cogen.inference import infer

    posterior = infer(
        seen,
        plan.kernel,
        num_warmup=plan.warmup,
        num_samples=options.samples,
        num_chains=options.num_chains,
        seed=options.seed,
        pilot=options.pilot,
        checkpoint=options.checkpoint,
        items_at_once=options.items_at_once,
        executor=executor,
        keep_warmup=0 if infers_class(options) else 1,
    )
    posterior["posterior"].attrs["tuned"] = int(plan.tuned)
    return posterior


def _condition(options: Complete, generator: Any, job: Job) -> tuple[Any, Any]:
    """The model with its views, and the model conditioned on what is seen."""
    from cogen.models import views
    from cogen.models.cogenerator import CoGenerator
    from cogen.models.noise import fit_scale, noise_of_residual

    given, asked = contexts_given(options, generator, job), views_asked(options)
    shape = tuple(generator.config.event_shape)

    def build(noise: float | None) -> tuple[Any, Any]:
        found: dict[str, Any] = {}
        if job.shown is not None:
            mask = np.broadcast_to(job.shown[:, None], (len(job.items), *shape)).copy()
            found["mask"] = views.Mask(mask, **noise_model("mask", generator, noise))
        for name in asked:
            place = {"noise": noise, "seed": options.seed, "factor": job.factor, **placed(options, name)}
            found[name] = view_named(name, generator, **place)
        if len(found) == 1:
            found = {"seen": next(iter(found.values()))}
        model = CoGenerator(generator, contexts=contexts_declared(options, generator), views=found)
        values = {name: job.items if job.observed else _observe(view, job.items) for name, view in found.items()}
        with warnings.catch_warnings():  # the range of pictures is known
            warnings.filterwarnings("ignore", message=".*all in the upper half", category=UserWarning)
            return model, model.condition(**values).given(**given)

    if options.noise != "fit":
        return build(options.noise)
    if len(asked) + (options.mask is not None) > 1:
        raise ValueError("--noise fit: it needs a single view; give a number, or one --view or --mask")
    _, seen = build(generator.config.noise_scale)
    residual = fit_scale(seen, seed=options.seed) / noise_of_view(asked[0] if asked else "mask", job.factor)
    return build(noise_of_residual(residual, generator.config.value_range))


def _observe(view: Any, images: np.ndarray) -> np.ndarray:
    import torch

    return view(torch.from_numpy(images)).numpy()


def _certified(options: Complete, seen: Any, posterior: Any) -> Any:
    """The posterior with a certificate of its items."""
    from cogen.diagnostics import certify, with_certificate

    counts: dict[str, Any] = {"num_chains": options.num_chains, "seed": options.seed, "items_at_once": options.items_at_once}
    return with_certificate(posterior, certify(seen, posterior, **certificate_run(options, seen), **counts))


# --- scores --------------------------------------------------------------------------------------------------------


def _decoded(model: Any, posterior: Any, classes: dict[str, InferredClass] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """x of thinned draws (chain, draw, item, ...), with their log weights and independent groups."""
    from cogen.diagnostics.groups import independent_groups

    z = posterior["posterior"]["z"].values
    kept = slice(None, None, _thinning(z))
    z = z[:, kept]
    contexts = contexts_of_draws(model, classes) if classes else [{}] * len(z)
    x = np.concatenate([model.decode(part.reshape(-1, z.shape[-1]), **c) for part, c in zip(z, contexts, strict=True)])
    labels = {"group": independent_groups(posterior).values[:, kept]}
    log_weight = posterior["sample_stats"].get("log_weight")
    if log_weight is not None:
        labels["log_weight"] = log_weight.values[:, kept]
    return x.reshape(*z.shape[:3], *x.shape[1:]), labels


def _path(model: Any, posterior: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """``path`` and ``path_draws`` of an `Answer`."""
    from cogen.diagnostics.groups import group, has_group

    if not has_group(posterior, "warmup_posterior"):
        return None, None
    z = group(posterior, "warmup_posterior")["z"].values[0]  # (draw, item, latent)
    points = np.unique(np.linspace(0, len(z) - 1, _PATH_POINTS).round().astype(int))
    x = model.decode(z[points].reshape(-1, z.shape[-1]))
    return x.reshape(len(points), z.shape[1], *x.shape[1:]), points


def _thinning(draws: np.ndarray) -> int:
    """The thinning interval of draws (chain, draw, ...) that are scored."""
    return -(-draws.shape[0] * draws.shape[1] // _SCORED)


# --- files and printed results -----------------------------------------------------------------------------------------------


def _write(
    folder: Path, options: Complete, job: Job, answer: Answer, metrics: dict[str, Any], findings: list[str] | None
) -> None:
    from cogen.diagnostics import plot_annealing, plot_completions
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group
    from cogen.report import write_report

    posterior, chosen = answer.posterior, chosen_chains(options, answer)
    draws = answer.draws[chosen, -1, np.arange(chosen.shape[1])]  # (draw, item, *shape)
    picture = plot_completions(posterior, truth=job.truth, draws=draws[:4], value_range=answer.value_range)
    picture.savefig(folder / "completions.png")
    if has_group(posterior, "warmup_sample_stats") and "beta" in posterior["warmup_sample_stats"]:
        plot_annealing(posterior).savefig(folder / "annealing.png")
    if has_group(posterior, GROUP):
        group(posterior, GROUP).to_dataframe().to_csv(folder / "certificate.csv")
    (folder / "metrics.json").write_text(json.dumps(strict_json(metrics), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    posterior.to_netcdf(str(folder / "posterior.nc"), engine="h5netcdf")
    write_configuration(folder / "run.toml", options, versions())
    images = completed_images(options, job, answer, draws)
    images.write(folder / COMPLETED, options.keep_draws)
    rows, notes = rows_of(metrics), notes_of(options, job, answer)
    write_report(folder, options, job, images, answer, metrics, findings, rows, notes)


def _print_certificate(posterior: Any) -> None:
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group

    if has_group(posterior, GROUP):
        table = group(posterior, GROUP)
        runs = "{num_chains} chains x {num_warmup} temperatures, {gradient_evaluations:,} gradients".format_map(table.attrs)
        print(f"certificate ({runs}; ranks among {table.attrs['num_simulations']} simulated items):\n")
        print(table.to_dataframe().to_string(float_format=lambda v: f"{v:.3g}"), "\n")


def _report(options: Complete, job: Job, answer: Answer, metrics: dict[str, Any], findings: list[str] | None) -> None:
    count = len(job.items)
    asked = " ".join(["--view", *views_asked(options)] if views_asked(options) else [])
    asked = " ".join(filter(None, [f"--mask {options.mask}" if options.mask else "", asked]))
    images, size = len(job.originals), f"{options.num_chains} chains x {options.samples} draws each"
    parts = f" in {count} parts" if options.fit == "patch" else ""
    print(f"\n{images} image{'s' if images != 1 else ''}{parts}, {asked}, {answer.sampler}: {size}\n")
    for part, label, value in rows_of(metrics):
        print(f"  {part:<12} {label:<30} {value:>12}")
    print()
    if answer.classes:
        print("the most probable classes of each image, with the standard errors of their probabilities:\n")
        print(*(f"  {line}" for line in class_lines(answer.classes, job.names)), sep="\n", end="\n\n")
    if job.truth is None:
        print("no scores: no truth was given (--truth)\n")
    unscored = int(np.isnan(metrics["per_item"].get("hidden_crps", np.zeros(1))).sum())
    if unscored:
        print(
            f"{unscored} of {count} images have no CRPS and no energy score: these scores need independent draws, and all draws"
            " of these images come from one population or chain. Use more --chains or --warmup\n"
        )
    _print_certificate(answer.posterior)
    if findings is not None:
        print_findings(findings)
    for note in notes_of(options, job, answer):
        print(note)
    files = [name for name in (*_FILES, f"{COMPLETED}/") if (options.output / name).exists()]
    print(f"\nwritten to {options.output}: {', '.join(files)}")


def notes_of(options: Complete, job: Job, answer: Answer) -> list[str]:
    """Remarks that are not faults."""
    notes, possible = list(job.notes), len(answer.draws)
    if options.keep_draws > possible:
        notes.append(f"note: {possible} draws of each image were written, one a chain; more need more --chains")
    if int(answer.posterior["posterior"].attrs.get("tuned", 0)):
        notes.append(TUNED)
    return notes

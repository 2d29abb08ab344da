"""The figures of a run of `cogen complete`: metrics.json, and the table that is printed and reported."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

from cogen.answer import Answer
from cogen.job import Job
from cogen.options import Complete
from cogen.unknown_class import class_metrics

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
"""Names in metrics.json and the matching names of `cogen.diagnostics.score_completions`."""


def metrics_of(options: Complete, job: Job, answer: Answer) -> dict[str, Any]:
    """The content of metrics.json."""
    from cogen.diagnostics import item_summary
    from cogen.diagnostics.groups import has_group

    posterior, scores = answer.posterior, _scores(options, job, answer)
    per_item = {**scores, "observed_mse": answer.misfit}
    table = item_summary(posterior) if has_group(posterior, "sample_stats") else {}

    def column(name: str) -> np.ndarray:
        return table[name].to_numpy(dtype=float) if name in table else np.full(len(job.items), np.nan)

    attributes = posterior["posterior"].attrs
    joint_pit = per_item.pop("joint_pit", None)
    return {
        **{name: _over_items(np.mean, values) for name, values in per_item.items()},
        **({} if joint_pit is None else {"hidden_pit_p_value": _pit_p_value(joint_pit)}),
        "acceptance_rate": _over_items(np.mean, column("acceptance_rate")),
        "step_size": _over_items(np.mean, column("step_size")),
        "ess_min": _over_items(np.min, column("ess_min")),
        "nested_rhat_max": _over_items(np.max, column("nested_rhat_max")),
        "independent_chains": options.num_chains if int(attributes.get("tuned", 0)) else None,
        "weight_ess": _over_items(np.min, column("weight_ess")),
        "ancestors_min": _over_items(np.min, column("ancestors")),
        "log_evidence": column("log_evidence").tolist(),
        "log_evidence_standard_error": column("log_evidence_se").tolist(),
        "gradient_evaluations": int(np.sum(attributes["gradient_evaluations"])),
        "seconds": float(attributes["seconds"]),
        "compile_seconds": float(attributes["compile_seconds"]),
        "noise": answer.scale,
        "seed": options.seed,
        "sampler": answer.sampler,
        "images": job.names,
        "options": {name: str(value) for name, value in vars(options).items()},
        "versions": versions(),
        "per_item": {name: np.asarray(values).tolist() for name, values in per_item.items()},
        **_certificate_metrics(posterior),
        **class_metrics(answer.classes, chosen_chains(options, answer)),
    }


def versions() -> dict[str, str]:
    """Versions of the main libraries."""
    return {name: version(name) for name in ("cogen-ppl", "torch", "pyro-ppl", "jax", "numpyro", "arviz")}


def _scores(options: Complete, job: Job, answer: Answer) -> dict[str, np.ndarray]:
    """Scores of the hidden part by item, and ``joint_pit``; empty without a truth."""
    from cogen.diagnostics import score_completions

    if job.truth is None:
        return {}
    found = score_completions(
        answer.draws,
        job.truth,
        answer.hidden,
        value_range=answer.value_range,
        **answer.noise,
        mean=answer.posterior["predictions"]["x_mean"].values,
        best_of=_BEST_OF,
        seed=options.seed,
        **answer.labels,
    )
    return {**{name: found[score].values for name, score in _SCORES.items()}, "joint_pit": found["joint_pit"].values}


def _pit_p_value(joint_pit: np.ndarray) -> float:
    from cogen.diagnostics import pit_p_value

    return float(pit_p_value(joint_pit))


def _certificate_metrics(posterior: Any) -> dict[str, Any]:
    """Columns and settings of the certificate, if there is one."""
    from cogen.diagnostics.certificate import GROUP
    from cogen.diagnostics.groups import group, has_group

    if not has_group(posterior, GROUP):
        return {}
    table = group(posterior, GROUP)
    settings = {name: int(value) for name, value in table.attrs.items()}
    return {"certificate": {**{str(name): values.values.tolist() for name, values in table.data_vars.items()}, **settings}}


def _over_items(choose: Callable[[np.ndarray], Any], values: np.ndarray) -> float:
    """A summary over the items whose value is not NaN; NaN if there are none."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    return float(choose(known)) if known.size else float("nan")


def chosen_chains(options: Complete, answer: Answer) -> np.ndarray:
    """The chains whose last draws are shown, chosen by their weights if they have any, (draw, item)."""
    random, (chains, _, items) = np.random.default_rng(options.seed), answer.draws.shape[:3]
    log_weight, count = answer.labels.get("log_weight"), max(options.keep_draws, 8)
    if log_weight is None:
        return np.repeat(random.choice(chains, size=min(count, chains), replace=False)[:, None], items, axis=1)
    found = []
    for weights in log_weight[:, -1].T.astype(float):
        share = np.exp(weights - np.nanmax(weights)) if np.isfinite(weights).any() else np.ones(chains)
        order, positions = random.permutation(chains), (random.random() + np.arange(count)) / count
        cumulative = np.cumsum(np.nan_to_num(share)[order])
        found.append(order[np.searchsorted(cumulative / cumulative[-1], positions)])  # systematic resampling: few repetitions
    return np.stack(found, axis=1)


def rows_of(metrics: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of the printed and reported table: part, label and value of everything that is known."""
    noise = metrics["noise"]
    residual = np.sqrt(metrics["observed_mse"])
    rows = [
        ("hidden part", "CRPS", metrics.get("hidden_crps")),
        ("", "energy score", metrics.get("hidden_energy_score")),
        ("", "coverage of 50 % intervals", metrics.get("hidden_coverage_50")),
        ("", "coverage of 90 % intervals", metrics.get("hidden_coverage_90")),
        ("", "width of 90 % intervals", metrics.get("hidden_interval_width_90")),
        ("", "PIT dispersion (1: calibrated)", metrics.get("hidden_pit_dispersion")),
        ("", "squared error of a draw", metrics.get("hidden_mse")),
        ("", f"of the best of {_BEST_OF} draws", metrics.get(f"hidden_mse_best_of_{_BEST_OF}")),
        ("", "squared error of the mean", metrics.get("hidden_mse_posterior_mean")),
        ("", "PSNR of the mean (dB)", metrics.get("psnr")),
        ("", "SSIM of the mean", metrics.get("ssim")),
        ("seen part", "root mean squared residual", residual),
        ("", "noise scale", noise),
        ("sampling", "acceptance rate", metrics["acceptance_rate"]),
        ("", "independent chains", metrics["independent_chains"]),
        ("", "fewest effective draws", None if metrics["independent_chains"] else metrics["ess_min"]),
        ("", "greatest nested R-hat", metrics["nested_rhat_max"]),
        ("", "fewest distinct ancestors", metrics["ancestors_min"]),
        ("", "mean log evidence", float(np.mean(metrics["log_evidence"]))),
        ("cost", "gradient evaluations", float(metrics["gradient_evaluations"])),
        ("", "seconds", metrics["seconds"]),
        ("", "of which compilation", metrics["compile_seconds"]),
    ]
    known: list[tuple[str, str, str]] = []
    heading = last = ""
    for part, label, value in rows:
        heading = part or heading
        if value is not None and np.isfinite(value):
            shown = f"{value:,.0f}" if label == "gradient evaluations" else f"{value:.4g}"
            known.append(("" if known and heading == last else heading, label, shown))
            last = heading
    return known

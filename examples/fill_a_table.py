"""Impute a mixed table with annealed HMC through a generator of rows, compared with closed-form baselines.

    python examples/fill_a_table.py --output fill_a_table

Two tables of scikit-learn are used. Wine: twelve chemical measurements, the cultivar (three levels) and whether proline is high
(above 750 mg/l); the cultivars form clusters. Diabetes: age, sex (two levels), body mass index, blood pressure, six serum
values and the progression of the disease after a year; approximately one elliptic cluster.

Rows are split into folds: each fold is the test set once, the next one the validation set, and the others train a `TabularVAE`
whose decoder is the generator. Its latent size and number of steps are chosen on the validation rows by log p(hidden | seen),
and the baselines' shrinkages by their own scores. Entries of test rows are hidden at random and drawn jointly given the seen
ones:

    generator, HMC      annealed HMC over z, started from the encoder, and the generator's rows for its draws
    generator, encoder  the generator's rows for draws of the encoder, without a correction
    Gaussian            a normal fitted to the continuous columns of the training rows, conditioned analytically on the seen
                        ones; levels by linear discriminant analysis of the seen continuous columns
    Gaussian, levels    the same with the seen levels as additional columns of 0 and 1
    marginal            the column's training values, or the frequencies of its levels

Scores are CRPS and coverage of 50 % and 90 % intervals of hidden continuous entries (standardised), and log score and accuracy
of hidden levels, with standard errors over rows. The generator is compared with the better of the two Gaussians by paired
differences. OUTPUT.json has the figures and the command, OUTPUT.png shows imputed rows, scores and coverage.
"""

import copy
import json
import math
import shlex
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import tyro
from scipy import stats
from sklearn import datasets

from cogen.diagnostics import summary
from cogen.diagnostics.scores import covered_pixels, crps_pixels
from cogen.inference import AnnealedHMC, infer
from cogen.models import CoGenerator
from cogen.models.data.column_parameters import parameter_places
from cogen.models.data.tables import Schema
from cogen.models.families.tabular_vae import TabularVAE
from cogen.models.mixed.columns import MixedColumns, level_probabilities
from cogen.models.training.learning_rates import Falling
from cogen.models.training.trainer import train

HMC, ENCODER, GAUSSIAN, LEVELS, MARGINAL = METHODS = (
    "generator, HMC",
    "generator, encoder",
    "Gaussian",
    "Gaussian, levels",
    "marginal",
)
SHRINKAGES = (0.0, 0.03, 0.1, 0.2, 0.4)
"""Candidates for the share of the diagonal in a shrunk covariance, chosen on validation rows."""


@dataclass
class Options:
    """Impute mixed tables and compare with closed-form baselines."""

    tables: tuple[Literal["wine", "diabetes"], ...] = ("wine", "diabetes")
    """Tables to use."""
    folds: int = 5
    """Number of folds; each is the test set once."""
    tested: int = 5
    """Number of folds that are tested."""
    hide: float = 0.5
    """Probability that an entry is hidden, in (0, 1)."""
    latents: tuple[int, ...] = (2, 4, 8)
    """Candidates for the latent size, chosen on validation rows."""
    widths: tuple[int, ...] = (64, 64)
    """Hidden widths of the generator."""
    steps: int = 5_000
    """Training steps; the best of every tenth step is chosen on validation rows."""
    batch: int = 32
    """Rows per training step."""
    learning_rate: float = 3e-3
    """Learning rate of AdamW; it falls linearly to zero over the second half."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW."""
    chains: int = 64
    """Chains of annealed HMC for each row."""
    temperatures: int = 100
    """Annealing transitions."""
    leapfrog: int = 5
    """Gradient evaluations per transition."""
    draws: int = 20
    """Draws of each chain after the annealing."""
    seed: int = 0
    """Seed of the split, the hidden entries, the training and the inference."""
    output: Path = Path("fill_a_table")
    """Output path: writes OUTPUT.json and OUTPUT.png."""


def load(name: str) -> dict[str, list]:
    """The columns of a table by name, in their original units."""
    if name == "wine":
        content = datasets.load_wine()
        columns = dict(zip(content.feature_names, content.data.T.tolist(), strict=True))
        proline = columns.pop("proline")
        cultivar = [f"cultivar {level}" for level in content.target]
        return columns | {"proline": ["much" if x > 750 else "little" for x in proline], "cultivar": cultivar}
    content = datasets.load_diabetes(scaled=False)
    columns = dict(zip(content.feature_names, content.data.T.tolist(), strict=True))
    serum = dict(zip(("s1", "s2", "s3", "s4", "s5", "s6"), ("tc", "ldl", "hdl", "tch", "ltg", "glu"), strict=True))
    named = {serum.get(key, key): values for key, values in columns.items()}
    return named | {"sex": [f"sex {x:g}" for x in columns["sex"]], "progression": content.target.tolist()}


def hide(rows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Random hidden entries, (row, column); every row has at least one seen and one hidden entry."""
    hidden = rng.random(rows.shape) < share
    one, other = rng.permuted(np.tile(np.arange(rows.shape[1]), (len(rows), 1)), axis=1)[:, :2].T
    hidden[np.arange(len(rows)), one], hidden[np.arange(len(rows)), other] = True, False
    return hidden


class Answer(NamedTuple):
    """The result of a method: draws of the continuous columns, and probabilities of the levels of the others."""

    draws: np.ndarray  # (chain, draw, row, continuous)
    shares: dict[str, np.ndarray]  # (row, level) by column


# ------------------------------------------------------------------------------------------------- the closed forms


def numbers(schema: Schema, rows: np.ndarray, columns: Iterable[int]) -> np.ndarray:
    """Columns as numbers: continuous ones unchanged, others as indicators of every level but the first."""
    found = []
    for at in columns:
        codes, levels = rows[:, at, None].astype(np.float64), np.arange(1, len(schema.columns[at].levels))
        found.append(np.where(np.isnan(codes), np.nan, codes == levels) if levels.size else codes)
    return np.concatenate(found, axis=1)


def shrunk(rows: np.ndarray, shrinkage: float) -> np.ndarray:
    """The covariance shrunk to its diagonal, with a small constant for constant columns."""
    covariance = np.cov(rows, rowvar=False)
    return (1 - shrinkage) * covariance + shrinkage * np.diag(np.diag(covariance)) + 1e-4 * np.eye(len(covariance))


def gaussian(train: np.ndarray, holed: np.ndarray, shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of every entry given the row's seen ones, (row, number) each, for a normal fitted to the training rows.

    With S the seen columns: m_h + C_hS C_SS^-1 (x_S - m_S), with variance C_hh - C_hS C_SS^-1 C_Sh.
    """
    mean, covariance = train.mean(axis=0), shrunk(train, shrinkage)
    expected, deviation = np.empty_like(holed), np.empty_like(holed)
    for at, row in enumerate(holed):
        seen = ~np.isnan(row)
        gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen]).T  # (number, seen)
        expected[at] = mean + gain @ (row - mean)[seen]
        variance = np.diag(covariance) - (gain * covariance[:, seen]).sum(axis=1)
        deviation[at] = np.sqrt(np.maximum(variance, 1e-9))
    return expected, deviation


def discriminant(train: np.ndarray, codes: np.ndarray, holed: np.ndarray, shrinkage: float) -> np.ndarray:
    """p(level | the row's seen numbers), (row, level), by linear discriminant analysis: normals with the same covariance."""
    share = np.bincount(codes) / len(codes)
    means = np.stack([train[codes == level].mean(axis=0) for level in range(len(share))])
    covariance = shrunk(train - means[codes], shrinkage)
    log_joint = np.tile(np.log(share), (len(holed), 1))
    for at, row in enumerate(holed):
        if (seen := ~np.isnan(row)).any():
            normal = stats.multivariate_normal(np.zeros(seen.sum()), covariance[np.ix_(seen, seen)])
            log_joint[at] += normal.logpdf(row[seen] - means[:, seen])
    weight = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
    return weight / weight.sum(axis=1, keepdims=True)


def normal_draws(mean: np.ndarray, sd: np.ndarray, count: int = 400) -> np.ndarray:
    """Quantiles of normals as equally weighted draws, (chain, draw, row, column)."""
    standard = stats.norm.ppf((np.arange(count) + 0.5) / count)
    return (mean + sd * standard[:, None, None])[None]


def closed_form(
    schema: Schema, levels: bool, fitted: np.ndarray, validation: np.ndarray, held: np.ndarray, given: np.ndarray
) -> tuple[Answer, dict[str, float]]:
    """The Gaussian's answer for the rows ``given``, and its shrinkages, which are the best for the validation rows ``held``."""
    where = parameter_places(schema)
    count, discrete = len(where.continuous), where.discrete.tolist()
    used = [*where.continuous.tolist(), *(discrete if levels else [])]
    base, known, asked = (numbers(schema, rows, used) for rows in (fitted, held, given))

    def crps_of(shrinkage: float) -> float:
        mean, sd = gaussian(base, known, shrinkage)
        error = crps_pixels(normal_draws(mean[:, :count], sd[:, :count]), validation[:, where.continuous])
        return float(error[np.isnan(known[:, :count])].mean())

    chosen = {"columns": min(SHRINKAGES, key=crps_of)}
    mean, sd = gaussian(base, asked, chosen["columns"])
    shares = {}
    for at in discrete:
        base, known, asked = (numbers(schema, rows, [other for other in used if other != at]) for rows in (fitted, held, given))
        codes, hidden = fitted[:, at].astype(int), np.isnan(held[:, at])
        truth = validation[hidden, at].astype(int)

        def loss_of(shrinkage: float, base=base, codes=codes, known=known[hidden], truth=truth) -> float:
            return -float(np.log(discriminant(base, codes, known, shrinkage)[np.arange(len(truth)), truth]).sum())

        name = schema.names[at]
        chosen[name] = min(SHRINKAGES, key=loss_of)
        shares[name] = discriminant(base, codes, asked, chosen[name])
    return Answer(normal_draws(mean[:, :count], sd[:, :count]), shares), chosen


def marginal(schema: Schema, fitted: np.ndarray, count: int) -> Answer:
    """The answer for ``count`` rows from the marginal distributions of the training rows."""
    where = parameter_places(schema)
    shares = {schema.names[at]: np.bincount(fitted[:, at].astype(int)) / len(fitted) for at in where.discrete}
    draws = np.repeat(fitted[None, :, None, where.continuous], count, axis=2)
    return Answer(draws, {name: np.tile(share, (count, 1)) for name, share in shares.items()})


# ---------------------------------------------------------------------------------------------------- the generator


def train_generator(
    schema: Schema, rows: np.ndarray, validation: np.ndarray, holed: np.ndarray, seed: int, options: Options
) -> tuple[TabularVAE, dict[str, Any]]:
    """The autoencoder with the best log p(hidden | seen) of the validation rows, and its settings."""
    chosen, choice = None, {"latent": 0, "step": 0, "validation_log_density": -math.inf}
    whole, partly = torch.from_numpy(validation), torch.from_numpy(holed)
    for latent in options.latents:
        torch.manual_seed(seed)
        vae = TabularVAE(
            schema,
            latent,
            hidden=options.widths,
            learning_rate=options.learning_rate,
            weight_decay=options.weight_decay,
        )

        def watch(step: int, family: Any, averaged: Any) -> None:
            nonlocal chosen, choice
            torch.manual_seed(seed)  # the same draws for all
            density = float((family.log_likelihood(whole, 1_000) - family.log_likelihood(partly, 1_000)).mean())
            if density > choice["validation_log_density"]:
                chosen = copy.deepcopy(family)
                choice = {"latent": family.latent_dim, "step": step, "validation_log_density": density}

        train(
            vae,
            vae.rows(rows),
            num_steps=options.steps,
            batch_size=min(options.batch, len(rows)),
            seed=seed,
            schedule=Falling(options.steps),
            watch=watch,
            watch_every=max(1, options.steps // 10),
            progress=False,
        )
    assert chosen is not None
    return chosen, choice


def fill(vae: TabularVAE, given: np.ndarray, seed: int, options: Options) -> tuple[Answer, dict[str, float]]:
    """The answer of annealed HMC, and figures of the run."""
    view = MixedColumns(vae.schema, scale=vae.scales)
    seen = CoGenerator(vae.generator, latent_dim=vae.latent_dim, views={"row": view}).condition(row=given)
    run = infer(
        seen,
        AnnealedHMC(num_leapfrog=options.leapfrog, initial=vae.start(seen)),
        num_warmup=options.temperatures,
        num_samples=options.draws,
        num_chains=options.chains,
        seed=seed,
        keep_x=True,
        progress=False,
    )
    rows = run["posterior_predictive"]["row"].values  # (chain, draw, row, column)
    shares = level_probabilities(vae.schema, run["posterior"]["x"].values)
    diagnosis = {
        "worst_nested_rhat": float(summary(run, ["z"])["nested_rhat"].max()),
        "gradient_evaluations_per_row": int(run["sample_stats"]["gradient_evaluations"].mean()),
        "seconds": run["posterior"].attrs["seconds"],
    }
    means = {name: share.mean(axis=(0, 1)) for name, share in shares.items()}
    return Answer(rows[..., parameter_places(vae.schema).continuous], means), diagnosis


def encoder_alone(vae: TabularVAE, given: np.ndarray, seed: int, count: int = 400) -> Answer:
    """The generator's rows for draws of the encoder."""
    view = MixedColumns(vae.schema, scale=vae.scales)
    model = CoGenerator(vae.generator, latent_dim=vae.latent_dim, views={"row": view})
    with torch.no_grad():
        mean, log_sd = vae.encoder(torch.from_numpy(given))
        noise = torch.randn(count, *mean.shape, generator=torch.Generator().manual_seed(seed))
        x = model.decode((mean + log_sd.exp() * noise).flatten(0, 1).numpy())
    rows = model.simulate(x, {}, seed=seed)["row"].reshape(1, count, *given.shape)
    shares = level_probabilities(vae.schema, x.reshape(count, len(given), -1))
    means = {name: share.mean(axis=0) for name, share in shares.items()}
    return Answer(rows[..., parameter_places(vae.schema).continuous], means)


# -------------------------------------------------------------------------------------------------------- the scores


def scores(schema: Schema, answer: Answer, truth: np.ndarray, given: np.ndarray) -> dict[str, np.ndarray]:
    """Each score of the hidden entries, (row, continuous column) or (row, other column), NaN where an entry was given."""
    where = parameter_places(schema)
    numeric, codes = truth[:, where.continuous], truth[:, where.discrete].astype(int)
    of_truth = [np.take_along_axis(share, codes[:, [k]], axis=1) for k, share in enumerate(answer.shares.values())]
    likeliest = np.stack([share.argmax(axis=1) for share in answer.shares.values()], axis=1)
    found = {
        "crps": crps_pixels(answer.draws, numeric),
        "inside_50": covered_pixels(answer.draws, numeric, 0.5),
        "inside_90": covered_pixels(answer.draws, numeric, 0.9),
        "log_score": np.log(np.maximum(np.concatenate(of_truth, axis=1), 1e-12)),
        "accuracy": likeliest == codes,
    }
    hidden = {True: np.isnan(given[:, where.continuous]), False: np.isnan(given[:, where.discrete])}
    return {k: np.where(hidden[k in ("crps", "inside_50", "inside_90")], v.astype(float), np.nan) for k, v in found.items()}


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean over the scored entries, and its standard error clustered by row (ratio estimator)."""
    counted = ~np.isnan(values)
    total, count = np.nansum(values, axis=1), counted.sum(axis=1)
    mean = total.sum() / count.sum()
    off = total - mean * count
    return float(mean), float(np.sqrt((off**2).sum()) / count.sum())


def verdict(first: str, second: str, what: str, gain: np.ndarray) -> str:
    """A sentence that compares two methods by the gain of the first over the second for each entry, (row, column)."""
    mean, error = mean_and_error(gain)
    size = f"{abs(mean):.3f} (s.e. {error:.3f})"
    winner, loser = (first, second) if mean > 0 else (second, first)
    if abs(mean) <= 2 * error:
        return f"{what}: no clear winner, {winner!r} is ahead of {loser!r} by {size}"
    return f"{what}: {winner!r} beats {loser!r} by {size}"


# ------------------------------------------------------------------------------------------------------------ a table


def run_fold(
    name: str, fold: int, columns: dict[str, list], parts: list[np.ndarray], options: Options
) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any], tuple]:
    """The scores of every method on the rows of one fold, the chosen settings, and the data for the plot."""
    seed = options.seed + fold
    test, validation = parts[fold], parts[(fold + 1) % len(parts)]
    training = np.setdiff1d(np.concatenate(parts), np.concatenate([test, validation]))
    schema = Schema.of({key: [values[at] for at in training] for key, values in columns.items()})
    rows = schema.encode(columns)
    holed = np.where(hide(rows, options.hide, np.random.default_rng([options.seed, fold])), np.float32(np.nan), rows)
    fitted, truth, held, given = rows[training], rows[validation], holed[validation], holed[test]

    vae, choice = train_generator(schema, fitted, truth, held, seed, options)
    filled, diagnosis = fill(vae, given, seed, options)
    answers = {HMC: filled, ENCODER: encoder_alone(vae, given, seed)}
    for method, levels in ((GAUSSIAN, False), (LEVELS, True)):
        answers[method], choice[f"shrinkage: {method}"] = closed_form(schema, levels, fitted, truth, held, given)
    answers[MARGINAL] = marginal(schema, fitted, len(test))
    print(f"{name}, fold {fold + 1} of {options.tested}: latent {choice['latent']}, step {choice['step']}", flush=True)
    found = {method: scores(schema, answer, rows[test], given) for method, answer in answers.items()}
    return found, choice | diagnosis, (schema, rows[test], given, filled)


def run_table(name: str, options: Options) -> tuple[dict[str, Any], tuple]:
    """The record of a table, and the data for its plot."""
    columns = load(name)
    count = len(next(iter(columns.values())))
    parts = np.array_split(np.random.default_rng(options.seed).permutation(count), options.folds)
    folds, choices, pictured = zip(*(run_fold(name, k, columns, parts, options) for k in range(options.tested)), strict=True)
    found = {
        method: {score: np.concatenate([fold[method][score] for fold in folds]) for score in folds[0][method]}
        for method in METHODS
    }
    table = {
        method: {score: dict(zip(("mean", "error"), mean_and_error(values), strict=True)) for score, values in each.items()}
        for method, each in found.items()
    }
    words = []
    for what, score, sign in (("continuous columns, CRPS", "crps", -1), ("levels, log score", "log_score", 1)):
        closed = GAUSSIAN if sign * (table[GAUSSIAN][score]["mean"] - table[LEVELS][score]["mean"]) > 0 else LEVELS
        words += [verdict(HMC, m, what, sign * (found[HMC][score] - found[m][score])) for m in (closed, MARGINAL, ENCODER)]
    record = {
        "rows": count,
        "tested_rows": len(found[HMC]["crps"]),
        "hidden_entries": int(sum(np.isfinite(found[HMC][score]).sum() for score in ("crps", "log_score"))),
        "methods": table,
        "in_words": words,
        "folds": list(choices),
    }
    return record, pictured[0]


def print_table(name: str, record: dict[str, Any]) -> None:
    print(f"\n{name}: {record['tested_rows']} rows tested, {record['hidden_entries']} hidden entries (s.e. over rows)")
    print(f"{'':20} {'CRPS':>15} {'50 %':>6} {'90 %':>6} {'log score':>17} {'accuracy':>9}")
    for method, row in record["methods"].items():
        crps, log_score = (f"{row[k]['mean']:.3f} ({row[k]['error']:.3f})" for k in ("crps", "log_score"))
        inside = " ".join(f"{row[k]['mean']:6.2f}" for k in ("inside_50", "inside_90"))
        print(f"{method:20} {crps:>15} {inside} {log_score:>17} {row['accuracy']['mean']:9.3f}")
    print("\n".join(record["in_words"]))


# ---------------------------------------------------------------------------------------------------------- the picture


def draw_picture(path: Path, records: dict[str, dict], pictured: dict[str, tuple]) -> None:
    """Draw a row of panels for each table: an imputed row, the scores, the coverage."""
    from matplotlib.figure import Figure

    colours = ("#1f5fa8", "#7fb0e0", "#c2571a", "#e8a06a", "#999999")
    picture = Figure(figsize=(15, 4.4 * len(records)), layout="constrained")
    lines = picture.subplots(len(records), 4, squeeze=False, width_ratios=(2.4, 1, 1, 1))
    for (name, record), axes in zip(records.items(), lines, strict=True):
        _draw_row(axes[0], name, *pictured[name])
        titles = ("CRPS of hidden numbers", "minus log score\nof hidden levels", "truth inside 50 %\nand 90 % intervals")
        for panel, title in zip(axes[1:], titles, strict=True):
            panel.set(yticks=range(len(METHODS)), yticklabels=METHODS if panel is axes[1] else [""] * len(METHODS))
            panel.set_title(title, fontsize=9)
            panel.invert_yaxis()
        for at, (colour, row) in enumerate(zip(colours, record["methods"].values(), strict=True)):
            for panel, score in ((axes[1], "crps"), (axes[2], "log_score")):
                panel.barh(at, abs(row[score]["mean"]), xerr=row[score]["error"], color=colour)
                panel.set_xlabel("shorter is better")
            for score in ("inside_50", "inside_90"):
                axes[3].errorbar(100 * row[score]["mean"], at, xerr=100 * row[score]["error"], color=colour, fmt="o")
        for level in (50, 90):
            axes[3].axvline(level, color="black", linewidth=0.7, linestyle=":")
        axes[3].set(xlabel="% of hidden numbers", xlim=(30, 100))
    picture.savefig(path, dpi=80)


def _draw_row(axes: Any, name: str, schema: Schema, truth: np.ndarray, given: np.ndarray, answer: Answer) -> None:
    """Draw the first row with a hidden level: seen entries, intervals of hidden ones, and the truth."""
    where = parameter_places(schema)
    row = int(np.isnan(given[:, where.discrete]).any(axis=1).argmax())
    draws = answer.draws.reshape(-1, *answer.draws.shape[2:])[:, row]
    for at, column in enumerate(schema.columns):
        real, hidden = truth[row, at], np.isnan(given[row, at])
        if column.kind == "continuous" and hidden:
            low, lower, upper, high = np.quantile(draws[:, where.order[at]], [0.05, 0.25, 0.75, 0.95])
            axes.plot([low, high], [at, at], color="#1f5fa8", linewidth=1.5)
            axes.plot([lower, upper], [at, at], color="#1f5fa8", linewidth=5, solid_capstyle="butt")
            axes.plot(real, at, "x", color="#d62728", markeredgewidth=2)
        elif column.kind == "continuous":
            axes.plot(real, at, "o", color="black")
        elif hidden:
            shares = zip(column.levels, answer.shares[column.name][row], strict=True)
            levels = ", ".join(f"{level} {100 * share:.0f} %" for level, share in shares)
            axes.text(-2.9, at, f"{levels}   (true: {column.levels[int(real)]})", color="#1f5fa8", fontsize=8, va="center")
        else:
            axes.text(-2.9, at, f"{column.levels[int(real)]}, seen", fontsize=8, va="center")
    axes.set(yticks=range(len(schema.columns)), yticklabels=schema.names, xlim=(-3, 3), xlabel="standardised units")
    axes.set_ylim(-0.7, len(schema.columns) - 0.3)
    axes.set_title(f"{name}: a test row. Dots: seen. Bars: hidden, 50 % and 90 %. Crosses: the truth", fontsize=9)
    axes.invert_yaxis()


def main(options: Options) -> dict[str, Any]:
    started = time.perf_counter()
    torch.set_num_threads(1)
    records: dict[str, dict] = {}
    pictured: dict[str, tuple] = {}
    for table in options.tables:
        records[table], pictured[table] = run_table(table, options)
    for name, found in records.items():
        print_table(name, found)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        "options": asdict(options) | {"output": options.output.name},
        "tables": records,
        "seconds": time.perf_counter() - started,
    }
    options.output.with_name(f"{options.output.name}.json").write_text(json.dumps(record, indent=1) + "\n")
    draw_picture(options.output.with_name(f"{options.output.name}.png"), records, pictured)
    return record


if __name__ == "__main__":
    main(tyro.cli(Options))

"""`cogen train --data TABLE.csv` and `cogen fill`: a generator of a table, and missing values filled by its posterior."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cogen.compiled_before import remember_compiled
from cogen.options import Fill, Train, joined
from cogen.output import Workplace, checkpoint_named, is_written, print_findings
from cogen.uncertainty import summary_of, write_uncertainty

if TYPE_CHECKING:
    from cogen.inference.signatures import ArvizObject
    from cogen.models import Table

_WRITTEN = (r"filled\.csv", r"uncertainty\.csv", r"imputation-\d+\.csv", r"posterior\.nc")
"""Regular expressions of the files that `cogen fill` writes."""

PRIOR_SHARE = 0.1
"""Share of the prior in the reference distribution; the rest is the encoder's posterior."""


def train_on_table(options: Train) -> None:
    """Run `cogen train` on a table of mixed columns, with missing values. A tenth of the rows is held out and scored.

    :raises ValueError: for invalid options or data.
    :raises OSError: for files that cannot be read or written.
    :raises FloatingPointError: for a loss that diverged.
    """
    from cogen.models.data.tables import read_csv
    from cogen.models.families.recipe import Kind
    from cogen.models.families.registry import recipe
    from cogen.models.families.sizes import TableSizes
    from cogen.models.mixed.independent_columns import independent_log_density
    from cogen.models.storage.encoders import ENCODER, save_encoder
    from cogen.models.storage.generators import save_generator
    from cogen.training import LICENCE, epochs_of, is_first, run

    made = recipe(options.family, Kind.TABLE)
    for name in (
        "size",
        "mirror",
        "condition",
        "crop_from",
        "range",
        "folder",
        "download",
        "real_target",
        "weight",
        "network",
        "average",
        "noise_images",
    ):
        if (value := getattr(options, name)) != getattr(Train, name):
            raise ValueError(f"--{name.replace('_', '-')} {value}: it applies to images, not to tables")
    path = Path(options.data)
    with _options_named(categorical="categorical", integer="integer", drop="drop", missing="missing"):
        table = read_csv(
            path,
            categorical=joined(options.categorical, "categorical"),
            integer=joined(options.integer, "integer"),
            drop=joined(options.drop, "drop"),
            missing=joined(options.missing, "missing"),
        )
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of several devices, the first
        print("\n".join([f"{path.name}: {len(table.values)} rows", *described(table)]), flush=True)
    rows = torch.from_numpy(table.values)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    held_out = rows[order[: max(1, len(rows) // 10)]]
    rows = rows[order[len(held_out) :]]
    torch.manual_seed(options.seed)
    latent_dim = made.latent_dim if options.latent_dim is None else options.latent_dim
    family: Any = made.family(TableSizes(table.schema, latent_dim, options.widths), learning_rate=options.learning_rate)
    epochs = epochs_of(options, made, family, len(rows))
    if options.epochs is None and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"training for {epochs:g} epochs (--epochs)", flush=True)
    trained = run(options, made, family, [rows])
    if not is_first():
        return
    family.cpu()
    with torch.no_grad():
        score = float(family.log_likelihood(held_out).sum() / (~held_out.isnan()).sum())
    independent = independent_log_density(table.schema, rows.numpy(), held_out.numpy(), smallest_scale=family.smallest_scale)
    baseline = float(np.nanmean(independent))
    steps = len(next(iter(trained.losses.values())))
    config = family.config(
        name=options.output.name,
        training_data=f"{path.name}, {len(rows)} rows",
        licence=LICENCE,
        description=f"{options.family} of {len(table.schema.columns)} columns, {epochs:g} epochs",
        figures={
            "command": shlex.join(["cogen", *sys.argv[1:]]),
            "steps": steps,
            "held_out_log_density_per_entry": score,
            "independent_log_density_per_entry": baseline,
        },
    )
    written = [save_generator(options.output, family.generator, config)]
    beside = options.output.with_name(f"{options.output.name}{ENCODER}")
    about = family.encoder_config(name=beside.name, training_data=config.training_data, licence=LICENCE)
    written.append(save_encoder(beside, family.encoder, about))
    print(f"\n{path.name}: {len(rows)} rows, {steps} steps in {trained.seconds:.0f} s")
    print(f"  log density per entry of {len(held_out)} held-out row{'s' * (len(held_out) > 1)}: {score:.3f} nats")
    print(f"  the same of independent columns: {baseline:.3f} nats (higher is better)")
    print(f"written: {', '.join(map(str, written))}\nnext: cogen fill ROWS.csv --generator {options.output}")
    if score <= baseline:
        more = max(3 * epochs, made.default_epochs(max(1, round(steps / epochs))))
        warnings.warn(
            f"{path}: the generator is no better than independent columns ({score:.3f} and {baseline:.3f} nats per held-out"
            f" entry), so filled entries hardly depend on the other entries: train longer, as in --epochs {more:.0f}. If"
            " the density then falls, the columns are unrelated or the rows too few",
            stacklevel=1,
        )


def described(table: Table) -> list[str]:
    """A line for each column: its kind, its levels or its spread, and the words for missing values."""
    from cogen.models.data.csv_text import columns_of

    texts, _ = columns_of(table.text, "the table")
    lines = []
    for column, codes in zip(table.schema.columns, table.values.T, strict=True):
        if column.kind == "continuous":
            least, greatest = (texts[column.name][row] for row in (np.nanargmin(codes), np.nanargmax(codes)))
            spread = f"{least} to {greatest}{_rounding(column.decimals)}, mean {column.mean:.6g}, sd {column.sd:.4g}"
        else:
            shown = ", ".join(map(repr, column.levels[:6])) + (", ..." if len(column.levels) > 6 else "")
            spread = f"{len(column.levels)} levels: {shown}"
        words = table.holes[column.name]
        count = sum(words.values())
        holes = f"{count} missing ({', '.join(map(repr, sorted(words)))})" if words else "none missing"
        lines.append(f"  {column.name:28} {column.kind:12} {spread}; {holes}")
    return lines + [f"  {name:28} {'dropped':12} not modelled" for name in table.schema.dropped]


def _rounding(decimals: int | None) -> str:
    if decimals is None:
        return ""
    return f", {decimals} decimal{'s' * (decimals > 1)}" if decimals else ", whole numbers"


def fill(options: Fill) -> None:
    """Run `cogen fill`: draw the missing values of a table given the others. Results are written after everything was computed.

    :raises ValueError: for invalid options or data.
    :raises OSError: for files that cannot be read or written.
    """
    from cogen.diagnostics import diagnose
    from cogen.diagnostics.groups import group
    from cogen.inference import AnnealedHMC, infer
    from cogen.inference.annealing.schedules import Adaptive
    from cogen.models import CoGenerator, load_generator, read_csv, write_filled
    from cogen.models.mixed.columns import MixedColumns

    for name in ("imputations", "chains", "warmup", "samples"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name} {getattr(options, name)}: it must be at least 1")
    if options.imputations > options.chains * options.samples:
        raise ValueError(f"--imputations {options.imputations}: there are {options.chains} x {options.samples} draws")
    if options.table.resolve().parent == options.output.resolve() and is_written(options.table.name, _WRITTEN):
        raise ValueError(
            f"--output {options.output}: {options.table} is in this folder under a name that is written; give another folder"
        )
    try:
        generator: Any = load_generator(options.generator)
    except FileNotFoundError:
        raise FileNotFoundError(_no_generator(options.generator)) from None
    if generator.config.schema is None:
        raise ValueError(
            f"--generator {options.generator}: it is not a generator of a table; give one of `cogen train vae --data TABLE.csv`"
        )
    view = MixedColumns.of(generator)
    with _options_named(missing="missing", drop="carry"):
        table = read_csv(
            options.table, schema=view.schema, drop=joined(options.carry, "carry"), missing=joined(options.missing, "missing")
        )
    holes = np.isnan(table.values)
    some = np.flatnonzero(holes.any(axis=1))
    if not len(some):
        raise ValueError(f"{options.table} has no missing values: leave entries empty, or write NA")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the mask hides everything", category=UserWarning)  # reported below
        model = CoGenerator(generator, views={"row": view}).condition(row=table.values[some])
    model = model.with_ids(some)  # the draws of a row do not depend on other rows
    if blind := [str(table.lines[row]) for row in np.flatnonzero(holes.all(axis=1)).tolist()]:
        shown = ", ".join(blind[:8]) + (", ..." if len(blind) > 8 else "")
        warnings.warn(
            f"{options.table}: {len(blind)} row{'s have' if len(blind) > 1 else ' has'} only missing values (line {shown}) and"
            " will be filled with draws from the prior; remove such rows if this is not wanted",
            stacklevel=1,
        )
    with Workplace(options.output, _WRITTEN) as folder, checkpoint_named(options.checkpoint):
        remember_compiled()
        posterior = infer(
            model,
            AnnealedHMC(schedule=Adaptive(), initial=_start(options.generator, model)),
            num_warmup=options.warmup,
            num_samples=options.samples,
            num_chains=options.chains,
            seed=options.seed,
            keep_x=True,
            checkpoint=options.checkpoint,
        )
        drawn = group(posterior, "posterior_predictive")["row"].values
        drawn = drawn.reshape(-1, *drawn.shape[2:])  # (draw, row, column), equally weighted after the last resampling
        chosen = np.random.default_rng(options.seed).choice(len(drawn), options.imputations, replace=False)
        summary = summary_of(view.schema, group(posterior, "posterior")["x"].values)
        versions = {"filled.csv": summary.best}
        versions |= {f"imputation-{k + 1}.csv": drawn[at] for k, at in enumerate(chosen)}
        for name, values in versions.items():
            whole = np.full_like(table.values, np.nan)
            whole[some] = values
            write_filled(Path(folder) / name, table, whole)
        lines = [table.lines[row] for row in some.tolist()]
        write_uncertainty(Path(folder) / "uncertainty.csv", view.schema, lines, holes[some], summary, drawn)
        _stored(posterior, lines).to_netcdf(str(Path(folder) / "posterior.nc"), engine="h5netcdf")
    print(
        f"\n{options.table}: {holes.sum()} missing value{'s' if holes.sum() > 1 else ''} in {len(some)} of {len(holes)} rows\n"
    )
    print_findings(diagnose(posterior, draws_alone=True), {"(num_warmup)": "(--warmup)", " (initial=)": ""})
    imputations = "imputation-1.csv" + (f" to imputation-{options.imputations}.csv" if options.imputations > 1 else "")
    print(
        f"\nwritten to {options.output}: filled.csv (means and most probable levels), uncertainty.csv (of every missing"
        f" entry), {imputations} (draws of all missing entries: use them where uncertainty matters), posterior.nc (its items"
        " are the rows with missing entries)"
    )


@contextmanager
def _options_named(**options: str) -> Iterator[None]:
    """Rephrase errors and warnings about parameters, as in ``missing=['-']``, in terms of options, as in ``--missing=-``.

    :param options: the option by parameter.
    """

    def named(message: object) -> str:
        given = rf"\b({'|'.join(options)})=\[('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\]"
        return re.sub(given, lambda m: f"--{options[m[1]]}={shlex.quote(ast.literal_eval(m[2]))}", str(message))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except ValueError as error:
            raise ValueError(named(error)) from None
    for warning in caught:
        warnings.warn(named(warning.message), warning.category, stacklevel=3)


def _start(generator: str, seen: Any) -> Any:
    """The reference distribution given by the encoder beside the generator; None, the prior, without an encoder.

    :raises ValueError: for an encoder of other columns.
    """
    from cogen.models.networks.encoders import normal_start
    from cogen.models.storage.encoders import load_row_encoder

    encoder = load_row_encoder(generator)
    if encoder is None:
        return None
    if encoder.schema.columns != seen.views["row"].schema.columns:
        raise ValueError(
            f"--generator {generator}: the encoder beside it was trained on another table; remove it, or train again"
        )
    return normal_start(*encoder.moments(seen), prior_share=PRIOR_SHARE)


def _stored(posterior: ArvizObject, lines: list[int]) -> ArvizObject:
    """The posterior without x, which z determines, and with the line of each item in the table."""
    from cogen.diagnostics.groups import all_groups, assemble

    groups = all_groups(posterior)
    groups["posterior"] = groups["posterior"].drop_vars("x")
    with_lines = {
        name: each.assign_coords(line=("item", lines)) if "item" in each.dims else each for name, each in groups.items()
    }
    return assemble(posterior, with_lines)


def _no_generator(name: str) -> str:
    """The message for a generator that does not exist, with the generators of tables in its folder."""
    folder = Path(name).parent
    stored = [path for path in sorted(folder.glob("*.json")) if path.with_suffix(".safetensors").exists()]
    known = [str(path.with_suffix("")) for path in stored if _is_of_a_table(path)]
    beside = f" (there: {', '.join(known)})" if known else ""
    return f"--generator {name}: there is no such file; give the --output of `cogen train vae --data TABLE.csv`{beside}"


def _is_of_a_table(path: Path) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")).get("schema"))
    except (OSError, ValueError, AttributeError):
        return False

"""`run.toml`: the options of a run of `cogen complete`, written beside its results, and read again by `--config`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cogen.options import Complete

OPTION = "--config"


def write_configuration(path: Path, options: Complete, versions: Mapping[str, str]) -> None:
    """Write the options that are not the defaults, the seed, and the versions of the libraries."""
    plain = _flat(Complete())
    chosen = {
        name: value for name, value in _flat(options).items() if name != "config" and (value != plain[name] or name == "seed")
    }
    # The file may be read from another folder.
    for name in ("images", "truth", "checkpoint", "mask", "generator", "guide", "tuning"):
        if name in chosen:
            given = Path(str(chosen[name]))
            if given.exists() or given.with_name(f"{given.name}.safetensors").exists():
                chosen[name] = given.resolve()
    lines = ["# cogen complete --config run.toml", "[complete]"]
    lines += [f"{name} = {_toml(value)}" for name, value in chosen.items()]
    lines += ["", "[versions]"] + [f"{json.dumps(name)} = {json.dumps(value)}" for name, value in versions.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _flat(options: Complete) -> dict[str, Any]:
    """The options by their names on the command line."""
    found = dict(vars(options))
    return found | vars(found.pop("foreign"))


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return repr(value) if isinstance(value, int | float) else json.dumps(str(value), ensure_ascii=False)


def with_configuration(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command line, after those of a configuration if ``--config`` names one.

    :raises ValueError: for an invalid configuration.
    :raises FileNotFoundError: for a missing file.
    """
    given = list(arguments)
    at = next((k for k, each in enumerate(given) if each.split("=")[0] == OPTION), None)
    if at is None or given[:1] != ["complete"] or given[at] == given[-1] == OPTION:
        return given
    joined = "=" in given[at]
    path = Path(given[at].partition("=")[2] if joined else given[at + 1])
    beside = given[1:at] + given[at + (1 if joined else 2) :]
    names = {each.split("=")[0] for each in beside if each.startswith("--")}
    return ["complete", *_arguments(path, names), *beside]


def read_configuration(path: Path) -> Complete:
    """The options of a configuration. Errors are those of `with_configuration`."""
    import tyro

    return tyro.cli(Complete, args=_arguments(path, set()))


def _arguments(path: Path, replaced: set[str]) -> list[str]:
    """The options of a configuration, without those of the names ``replaced``."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        options = content["complete"]
        items = list(options.items())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, AttributeError) as error:
        raise ValueError(f"--config {path}: this is not a run.toml of `cogen complete` ({error})") from None
    known, repeatable = _flat(Complete()), {"view", "set", "context"}
    found: list[str] = []
    for name, value in items:
        option = f"--{name.replace('_', '-')}"
        if name not in known or name == "config":
            raise ValueError(f"--config {path}: `cogen complete` has no option {name}")
        if option in replaced or f"--no-{name.replace('_', '-')}" in replaced:
            continue
        if isinstance(value, bool):
            found.append(option if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, list) and name in repeatable:
            for each in value:
                found += [option, str(each)]
        elif isinstance(value, list):
            found += [option, *map(str, value)]
        else:
            found.append(f"{option}={value}")
    return found

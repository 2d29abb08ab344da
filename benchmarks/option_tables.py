"""Tables of the options of a command, from the dataclasses that the command line reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

import cogen.options
from cogen.command_line import help_texts
from cogen.options import Foreign


def of_options(command: str) -> tuple[str, list[list[str]]]:
    """Header and rows for a dataclass of `cogen.options`: option, default and help text.

    :raises ValueError: for an option without a help text.
    """
    return "option | default | meaning", list(_rows(getattr(cogen.options, command)))


def _rows(options: type) -> Iterator[list[str]]:
    texts, kinds = help_texts(options), get_type_hints(options, include_extras=True)
    for field in fields(options):
        if field.name == "foreign":
            yield from _rows(Foreign)
            continue
        if field.name not in texts:
            raise ValueError(f"{options.__name__}.{field.name} has no help text")
        positional = tyro.conf.Positional[str].__metadata__[0] in getattr(kinds[field.name], "__metadata__", ())
        option = field.name.upper() if positional else f"--{field.name.replace('_', '-')}"
        choices = ", ".join(f"`{each}`" for each in _choices(kinds[field.name]))
        yield [f"`{option}`{' ' * bool(choices)}{choices}", _default(field.default), texts[field.name].replace("|", "\\|")]


def _choices(kind: Any) -> list[str]:
    """The values of an option that has a few."""
    if get_origin(kind) is Literal:
        return [str(each) for each in get_args(kind)]
    return next((found for each in get_args(kind) if (found := _choices(each))), [])


def _default(value: Any) -> str:
    if value is MISSING:
        return "required"
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"`{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"

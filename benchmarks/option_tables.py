"""Tables of the options of a command, from the dataclasses that the command line reads."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import cogen.options

SOURCE = Path(cogen.options.__file__)


def of_options(command: str) -> tuple[str, list[list[str]]]:
    """Header and rows for a dataclass of `cogen.options`: option, default and help text."""
    classes = {each.name: each for each in ast.parse(SOURCE.read_text(encoding="utf-8")).body if isinstance(each, ast.ClassDef)}
    return "option | default | meaning", list(_rows(classes, command))


def _rows(classes: dict[str, ast.ClassDef], name: str):
    for field, text in zip(classes[name].body, [*classes[name].body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        kind = ast.unparse(field.annotation)
        if field.target.id == "foreign":
            yield from _rows(classes, "Foreign")
            continue
        if not isinstance(text, ast.Expr) or not isinstance(text.value, ast.Constant):
            raise ValueError(f"{name}.{field.target.id} has no help text")
        option = field.target.id.upper() if "Positional" in kind else f"--{field.target.id.replace('_', '-')}"
        yield [f"`{option}`{_choices(kind)}", _default(field.value), " ".join(text.value.value.split()).replace("|", "\\|")]


def _choices(kind: str) -> str:
    """The values of an option that has a few."""
    if kind.endswith("ViewName, ...]]"):
        kind = ast.unparse(_view_names())
    found = re.findall(r"Literal\[(.*?)\]", kind)
    return " " + ", ".join(f"`{each.strip(chr(39))}`" for each in found[0].split(", ")) if found else ""


def _view_names() -> ast.expr:
    for each in ast.parse(SOURCE.read_text(encoding="utf-8")).body:
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "ViewName":
            return each.value
    raise ValueError("cogen.options has no ViewName")


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call):  # Path("folder")
        value = value.args[0]
    if isinstance(value, ast.BinOp):
        value = ast.Constant(eval(ast.unparse(value)))
    found = ast.literal_eval(value)
    if found is None or found == ():
        return ""
    if isinstance(found, bool):
        return "on" if found else "off"
    return f"`{' '.join(map(str, found)) if isinstance(found, tuple) else found}`"

"""The wings know each other only along the arrows of the design, and no file is named after nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WINGS = ("models", "inference", "diagnostics")
ALLOWED = {"inference": set(), "models": {"inference"}, "diagnostics": {"inference"}}
EMPTY_NAMES = {"utils", "util", "helpers", "helper", "base", "manager", "common", "misc"}


def imported(path: Path) -> set[str]:
    """Everything a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("wing", WINGS)
def test_arrows(wing):
    for path in (ROOT / wing).rglob("*.py"):
        wings = {name.split(".")[1] for name in imported(path) if name.startswith("cogen.")}
        assert wings <= ALLOWED[wing] | {wing}, f"{path.name} of {wing} imports {wings - ALLOWED[wing] - {wing}}"
        assert not {name.split(".")[0] for name in imported(path)} & set(WINGS), f"{path}: import cogen.{wing}"


def test_the_scan_sees_an_arrow(tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def late():\n    from cogen.models import views\n    import cogen.diagnostics.scores\n")
    assert imported(file) == {"cogen.models.views", "cogen.diagnostics.scores"}


def test_file_names_say_something():
    files = [path for folder in (*WINGS, "src", "examples", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    assert not [path for path in files if path.stem.removeprefix("test_") in EMPTY_NAMES]

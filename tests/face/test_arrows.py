"""The wings know each other only along the arrows of the design, no import leads back, and no file is named after nothing."""

import ast
import graphlib
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


# --- no circles ----------------------------------------------------------------------------------------------------

FOLDERS = {"cogen": "src/cogen", **{f"cogen.{wing}": wing for wing in WINGS}}


def modules(root: Path) -> dict[str, Path]:
    """Ours by name; packages, which import nothing but on demand, are left out."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (root / folder).rglob("*.py"):
            parts = path.relative_to(root / folder).with_suffix("").parts
            if path.name != "__init__.py" and (package != "cogen" or parts[0] not in WINGS):
                found[".".join((package, *parts))] = path
    return found


def exported(root: Path) -> dict[str, str]:
    """The full name of what a package exports, by the name that it exports it under."""
    found = {}
    for package, folder in FOLDERS.items():
        for node in ast.parse((root / folder / "__init__.pyi").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom):
                inside = f"{package}.{node.module}" if node.module else package
                found |= {f"{package}.{alias.name}": f"{inside}.{alias.name}" for alias in node.names}
    return found


def arrows(root: Path) -> dict[str, set[str]]:
    """What every module imports of ours, at any depth, for types too, and where a string names a module to import."""
    ours, behind, found = modules(root), exported(root), {}
    for name, path in ours.items():
        words = {n.value for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Constant)}
        named = {word.split(":")[0] for word in words if isinstance(word, str)} & ours.keys()
        imports = [behind.get(full, full) for full in imported(path)]
        found[name] = named | {at for full in imports for at in (full, full.rpartition(".")[0]) if at in ours}
    return found


def test_no_import_leads_back():
    graph = arrows(ROOT)
    assert len(graph) > 50
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    "back",
    [
        "def late():\n    from cogen.models import load\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cogen.models.reader import load\n",
        "import cogen.models.reader\n",
        "WHERE = 'cogen.models.reader:load'\n",
    ],
)
def test_a_circle_is_seen(tmp_path, back):
    for folder in FOLDERS.values():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.pyi").touch()
    (tmp_path / "models" / "__init__.pyi").write_text("from .reader import load as load\n")
    (tmp_path / "models" / "reader.py").write_text("from cogen.models import stored\n")
    (tmp_path / "models" / "stored.py").write_text(back)
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(arrows(tmp_path)).prepare()


def test_file_names_say_something():
    files = [path for folder in (*WINGS, "src", "examples", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 40
    assert not [path for path in files if path.stem.removeprefix("test_") in EMPTY_NAMES]

"""The explicit list of packages is the folders on disk, and what is installed is one copy of each module."""

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = SETUP["tool"]["setuptools"]
FOLDERS = {"cogen": "src/cogen", **{f"cogen.{wing}": wing for wing in ("models", "inference", "diagnostics")}}


def test_packages_are_the_folders_on_disk():
    found = set()
    for package, folder in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            inner = init.parent.relative_to(ROOT / folder)
            found.add(".".join((package, *inner.parts)))
    assert set(SETUPTOOLS["packages"]) == found
    assert SETUPTOOLS["package-dir"] == FOLDERS


def test_every_folder_with_code_is_a_package():
    for folder in FOLDERS.values():
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_what_is_shipped_is_named():
    shipped = [path for path in (ROOT / "models").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")]
    assert shipped
    named = [path for pattern in SETUPTOOLS["package-data"]["cogen.models"] for path in (ROOT / "models").glob(pattern)]
    assert set(shipped) == {path for path in named if path.is_file()}
    assert all(path.stat().st_size <= 4 * 2**20 for path in shipped)
    assert (ROOT / "src/cogen/py.typed").exists()


def test_links_for_the_type_checkers_are_relative():
    for wing in ("models", "inference", "diagnostics"):
        link = ROOT / "src/cogen" / wing
        if link.is_symlink():  # a checkout without symlinks has a file there
            assert link.readlink() == Path("../..") / wing


def test_the_wings_are_imported_once():
    for wing in ("models", "inference", "diagnostics"):
        module = importlib.import_module(f"cogen.{wing}")
        assert module.__name__ == f"cogen.{wing}"


def test_the_command_is_declared():
    assert SETUP["project"]["scripts"] == {"cogen": "cogen.command_line:main"}


def test_no_package_imports_torch_or_jax():
    load = f"import importlib, sys; [importlib.import_module(p) for p in {sorted(SETUPTOOLS['packages'])}]"
    code = f"{load}; print(sorted({{'torch', 'jax'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_the_face_exports():
    import cogen

    names = {"CoGenerator", "Run", "infer", "views", "load_generator", "load_run", "save_generator", "__version__"}
    assert set(cogen.__all__) == names
    assert all(getattr(cogen, name) is not None for name in names)
    assert SETUP["project"]["version"] == cogen.__version__

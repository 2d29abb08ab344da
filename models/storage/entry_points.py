"""Generators given by an entry point, ``my_package.nets:make`` or ``nets/dcgan.py:make``, as code of the user.

Before the colon is a dotted module name or the path of a .py file; after it a function or class without arguments that returns
a torch module, or a torch module itself. Loading an entry point runs its code; all other inputs of this package run code only
if allowed explicitly.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_FORM = re.compile(r"(?P<source>.+\.py|[^\W\d]\w*(\.\w+)*):(?P<name>[^\W\d]\w*(\.\w+)*)")


def is_entry_point(text: object) -> bool:
    """Whether an object is a string in the form of an entry point."""
    return isinstance(text, str) and _FORM.fullmatch(text) is not None


def files_beside(entry_point: str) -> Path:
    """The path without suffix beside which guides and tunings of an entry point are stored: ``my_package-nets-make`` in the
    current folder for the first example of this module, and ``nets/dcgan-make`` for the second."""
    source, name = _parts(entry_point)
    folder, stem = (Path(source).parent, Path(source).stem) if source.endswith(".py") else (Path(), source)
    return folder / f"{stem}-{name}".replace(".", "-")


def made_by(entry_point: str) -> nn.Module:
    """The torch module of an entry point. The folder of its .py file, or the current folder, is importable meanwhile.

    :raises FileNotFoundError: for a .py file or a module that does not exist.
    :raises ValueError: for another text, an unknown name, an error in the code, a function that takes arguments, and a result
        that is not a torch module.
    """
    if not is_entry_point(entry_point):
        raise ValueError(f"{entry_point!r} is not an entry point: give a module and a function in it, as in my_net.py:make")
    source, name = _parts(entry_point)
    folder = Path(source).parent if source.endswith(".py") else Path()
    if source.endswith(".py") and not Path(source).is_file():
        raise FileNotFoundError(f"{entry_point}: there is no file {source}")
    with _importable(folder.resolve()):
        module = _imported(entry_point, source, folder)
        found: Any = module
        for part in name.split("."):
            if not hasattr(found, part):
                raise ValueError(
                    f"{entry_point}: there is no {part!r} in {source}, which defines {_own_names(module) or 'nothing'}"
                )
            found = getattr(found, part)
        made = found if isinstance(found, nn.Module) else _called(entry_point, found, folder)
    if not isinstance(made, nn.Module):
        got = "the class itself" if isinstance(made, type) else f"a {type(made).__name__}"
        raise ValueError(f"{entry_point} returns {got}: it must return a torch.nn.Module, (batch, latent_dim) -> x")
    return made


def _parts(entry_point: str) -> tuple[str, str]:
    source, _, name = entry_point.rpartition(":")
    return source, name


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))


def _imported(entry_point: str, source: str, folder: Path) -> ModuleType:
    try:
        if not source.endswith(".py"):
            return importlib.import_module(source)
        # A different name, because that of the file may be the name of an installed package.
        spec = importlib.util.spec_from_file_location(f"cogen_entry_point_{Path(source).stem}", source)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # required by dataclasses and torch.jit
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:  # a script without `if __name__ == "__main__"` may exit
        absent = error.name if isinstance(error, ModuleNotFoundError) and not source.endswith(".py") else None
        if absent and f"{source}.".startswith(f"{absent}."):
            where = "the current folder and Python's path were searched"
            raise FileNotFoundError(f"{entry_point}: there is no module {absent!r}; {where}") from None
        raise ValueError(f"{entry_point} cannot be imported: {_failure(error, folder)}") from error


def _called(entry_point: str, found: Any, folder: Path) -> Any:
    if not callable(found):
        raise ValueError(f"{entry_point} is a {type(found)}: give a function or class that makes a torch module")
    try:
        inspect.signature(found).bind()
    except TypeError:
        taken = inspect.signature(found)
        remedy = f"give a function without arguments, as in def make(): return {_parts(entry_point)[1]}(...)"
        raise ValueError(f"{entry_point} takes arguments, {taken}: {remedy}") from None
    except ValueError:  # a function written in C has no signature
        pass
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise ValueError(f"{entry_point} fails when it is called: {_failure(error, folder)}") from error


def _failure(error: BaseException, folder: Path) -> str:
    """One line such as ``ImportError: No module named 'lpips' (nets.py, line 3)``, with the location in the user's code if
    there is one."""
    reason = " ".join(str(error).split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"SyntaxError: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and f.filename[0] != "<"]
    own = [f for f in frames if Path(f.filename).is_relative_to(folder.resolve()) and "site-packages" not in f.filename]
    place = f" ({Path((own or frames)[-1].filename).name}, line {(own or frames)[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {reason}{place}" if reason else f"{type(error).__name__}{place}"


def _own_names(module: ModuleType) -> str:
    """The public callables that a module defines itself, as a list in one string."""
    own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", None) == module.__name__]
    return ", ".join(name for name in own if not name.startswith("_"))

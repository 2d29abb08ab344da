"""Exported functions and classes have precise types: no `Any` in a signature, neither written nor in an alias, nor implied by a
bare generic or a missing annotation."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = {"cogen": "src/cogen", **{f"cogen.{wing}": wing for wing in ("models", "inference", "diagnostics")}}
GENERICS = {"dict", "list", "set", "frozenset", "tuple", "type", "Callable", "Generator", "Iterable", "Iterator", "Mapping"}
GENERICS |= {"Collection", "MutableMapping", "PathLike", "Sequence"}
"""Types that hold `Any` when they are written without arguments."""

Found = tuple[str, ast.AST]
"""The module in which a name is bound, and the statement; a module itself is an `ast.Module`."""


class Signatures:
    """The signatures of what the packages export, read from the source without imports.

    :param root: the folder that contains src/cogen, models, inference and diagnostics
    """

    def __init__(self, root: Path):
        self.root = root
        self._bound: dict[str, dict[str, ast.AST]] = {}

    def places(self) -> list[str]:
        """The places in exported signatures that contain `Any`."""
        found = {place for module, node in self.exported() for place in self._of(module, node)}
        return sorted(found)

    def exported(self) -> Iterator[Found]:
        """The definitions that the packages export; of an exported module, its public ones."""
        for package in FOLDERS:
            for name in self._names(package):
                found = self._definition(package, name)
                assert found is not None
                module, node = found
                if not isinstance(node, ast.Module):
                    yield module, node
                    continue
                inside = [self._definition(module, inner) for inner in self._names(module) if not inner.startswith("_")]
                yield from (each for each in inside if each is not None and each[0] == module)

    # --- names -------------------------------------------------------------------------------------------------------

    def _file(self, module: str) -> Path | None:
        package = max((p for p in FOLDERS if f"{module}.".startswith(f"{p}.")), key=len, default=None)
        if package is None:
            return None
        path = self.root.joinpath(FOLDERS[package], *module.removeprefix(package).split("."))
        files = [path / "__init__.pyi"] if module == package else [path.with_suffix(".py")]
        return next((file for file in files if file.is_file()), None)

    def _names(self, module: str) -> dict[str, ast.AST]:
        """The statement that binds each name of a module: a definition, an assignment or an import, at any depth."""
        file = self._file(module)
        if module not in self._bound and file is not None:
            tree = ast.parse(file.read_text(encoding="utf-8"))
            names = self._bound[module] = {
                alias.asname or alias.name: node
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for node in _statements(tree.body):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    names[node.name] = node
                elif isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    names |= {target.id: node for target in targets if isinstance(target, ast.Name)}
        return self._bound.get(module, {})

    def _definition(self, module: str, name: str) -> Found | None:
        """Where a name is defined, through imports of ours; for a name of another library, the import."""
        node = self._names(module).get(name)
        if not isinstance(node, ast.ImportFrom):
            return None if node is None else (module, node)
        origin = ".".join(filter(None, [module if node.level else "", node.module]))
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        if self._file(f"{origin}.{original}") is not None:
            return f"{origin}.{original}", ast.Module([], [])
        return (module, node) if self._file(origin) is None else self._definition(origin, original)

    # --- signatures --------------------------------------------------------------------------------------------------

    def _of(self, module: str, node: ast.AST, owner: str = "") -> Iterator[str]:
        if isinstance(node, ast.FunctionDef):
            yield from self._of_function(module, node, owner)
        elif isinstance(node, ast.ClassDef):
            yield from self._of_class(module, node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):  # a decorated function: train = wrapped(steps)
            for name in {each.id for each in ast.walk(node.value or node) if isinstance(each, ast.Name)}:
                found = self._definition(module, name)
                if found is not None and isinstance(found[1], ast.FunctionDef) and found[1] is not node:
                    yield from self._of(*found)

    def _of_class(self, module: str, node: ast.ClassDef) -> Iterator[str]:
        for base in node.bases:
            found = self._definition(module, base.id) if isinstance(base, ast.Name) else None
            if found is not None and isinstance(found[1], ast.ClassDef):
                yield from self._of(*found)
        for member in node.body:
            if isinstance(member, ast.FunctionDef) and _is_public(member.name):
                yield from self._of(module, member, node.name)
            elif isinstance(member, ast.AnnAssign) and self.is_any(module, member.annotation):
                field = ast.unparse(member.target)
                if _is_public(field):
                    yield f"{module}.{node.name}.{field}: {ast.unparse(member.annotation)}"

    def _of_function(self, module: str, node: ast.FunctionDef, owner: str) -> Iterator[str]:
        is_static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
        positional = [*node.args.posonlyargs, *node.args.args][1 if owner and not is_static else 0 :]
        parts = [(a.arg, a.annotation) for a in (*positional, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg) if a]
        if node.name != "__init__":
            parts.append(("return", node.returns))
        for part, annotation in parts:
            if annotation is None or self.is_any(module, annotation):
                named = ".".join(filter(None, [module, owner, node.name]))
                yield f"{named}({part}): {ast.unparse(annotation) if annotation else 'no annotation'}"

    def is_any(self, module: str, annotation: ast.expr, seen: tuple[Found, ...] = ()) -> bool:
        """Whether a type of a module contains `Any`, itself or in an alias of ours."""
        match annotation:
            case ast.Constant(value=str(text)):
                return self.is_any(module, ast.parse(text, mode="eval").body, seen)
            case ast.Name(id=name):
                return name in GENERICS or self._is_alias_of_any(module, name, seen)
            case ast.Attribute(attr=name):
                return name in ("Any", "PathLike")  # typing.Any, os.PathLike
            case ast.Subscript(value=ast.Name(id="Literal")):
                return False
            case ast.Subscript(value=ast.Name() | ast.Attribute(), slice=inside):
                return self.is_any(module, inside, seen)
        return any(self.is_any(module, part, seen) for part in ast.iter_child_nodes(annotation) if isinstance(part, ast.expr))

    def _is_alias_of_any(self, module: str, name: str, seen: tuple[Found, ...]) -> bool:
        found = self._definition(module, name)
        if found is None or found in seen:
            return name == "Any"
        origin, node = found
        if isinstance(node, ast.ImportFrom):
            return any(alias.name == "Any" and (alias.asname or alias.name) == name for alias in node.names)
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        is_type_variable = isinstance(value, ast.Call)
        return value is not None and not is_type_variable and self.is_any(origin, value, (*seen, found))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, those under ``if TYPE_CHECKING`` included."""
    for node in body:
        yield from _statements([*node.body, *node.orelse]) if isinstance(node, ast.If) else [node]


def _is_public(name: str) -> bool:
    return not name.startswith("_") or name in ("__init__", "__call__")


def test_no_exported_signature_contains_any():
    signatures = Signatures(ROOT)
    assert len(list(signatures.exported())) > 150
    assert signatures.places() == []


def written(root: Path, source: str) -> Signatures:
    """The signatures of packages of which models exports `made` of this source."""
    for folder in FOLDERS.values():
        (root / folder).mkdir(parents=True)
        (root / folder / "__init__.pyi").touch()
    (root / "models/__init__.pyi").write_text("from .shown import made as made\n")
    (root / "models/aliases.py").write_text("from typing import Any\nPyTree = dict[str, Any]\nTree = 'Tree | float'\n")
    imports = "from typing import *\nfrom typing import Any\nfrom cogen.models.aliases import PyTree as Leaves, Tree\n"
    (root / "models/shown.py").write_text(imports + source)
    return Signatures(root)


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("def made(x: Any) -> int: ...", "made(x): Any"),
        ("def made(x: int) -> Any: ...", "made(return): Any"),
        ("def made(x) -> int: ...", "made(x): no annotation"),
        ("def made(x: int): ...", "made(return): no annotation"),
        ("def made(*x: Any, y: int) -> int: ...", "made(x): Any"),
        ("def made(x: 'list[Any] | None') -> int: ...", "made(x): 'list[Any] | None'"),
        ("def made(x: Callable[[Any], int]) -> int: ...", "made(x): Callable[[Any], int]"),
        ("def made(x: dict) -> int: ...", "made(x): dict"),
        ("import typing\ndef made(x: typing.Any) -> int: ...", "made(x): typing.Any"),
        ("Alias = Any\ndef made(x: Alias) -> int: ...", "made(x): Alias"),
        ("if TYPE_CHECKING:\n    Alias: TypeAlias = Any\ndef made(x: Alias) -> int: ...", "made(x): Alias"),
        ("def made(x: list[Leaves]) -> int: ...", "made(x): list[Leaves]"),
        ("class made:\n    def __init__(self, x: Any) -> None: ...", "made.__init__(x): Any"),
        ("class made:\n    @property\n    def x(self) -> Any: ...", "made.x(return): Any"),
        ("class made:\n    @staticmethod\n    def x(y: Any) -> int: ...", "made.x(y): Any"),
        ("class made(NamedTuple):\n    x: Any", "made.x: Any"),
        ("class _Base:\n    def x(self) -> Any: ...\nclass made(_Base): ...", "_Base.x(return): Any"),
        ("def _steps(x: Any) -> int: ...\nmade = wrapped(_steps)", "_steps(x): Any"),
    ],
)
def test_any_is_found(tmp_path, source, place):
    assert written(tmp_path, source).places() == [f"cogen.models.shown.{place}"]


@pytest.mark.parametrize(
    "source",
    [
        "def made(x: object, y: Literal['Any'] | None = None) -> list[int]:\n    z: Any = x\n    return z",
        "def made(x: Tree, y: 'Mapping[str, Tree]') -> int: ...",
        "T = TypeVar('T', bound=Any)\ndef made(x: T) -> T: ...",
        "class made:\n    _hidden: Any = None\n    def _private(self, x: Any) -> Any: ...\n    def x(self) -> int: ...",
    ],
)
def test_precise_types_pass(tmp_path, source):
    assert written(tmp_path, source).places() == []


def test_an_exported_module_is_read(tmp_path):
    signatures = written(tmp_path, "def made() -> int: ...")
    (tmp_path / "models/__init__.pyi").write_text("from . import shown as shown\n")
    (tmp_path / "models/shown.py").write_text("def _private(x): ...\ndef public(x) -> int: ...\n")
    assert signatures.places() == ["cogen.models.shown.public(x): no annotation"]

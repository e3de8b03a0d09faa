"""No private name of a library outside of `compat/`: found in the source, without importing our own package.

Longer than most tests, as it must tell the libraries' private names from ours: a name is ours where our code defines it and
no class of a library that ours extend has it.
"""

import ast
import functools
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
OURS = ("lightning_modules", "scripts")
PUBLIC = {"_asdict", "_replace", "_fields", "_make"}  # of named tuples
Nodes = list[ast.AST]  # all nodes of a file
BY_TEXT = {"getattr", "hasattr", "setattr", "delattr"}


def is_private(name: str) -> bool:
    return (
        name.startswith("_") and not name.endswith("_") and name not in PUBLIC
    )  # `__file__` and `_target_` are public


def library_imports(nodes: Nodes) -> Iterator[tuple[int, str, str, str]]:
    """Line, module, name in it ("" for the module itself) and local name of what is imported from libraries."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, "", alias.asname or alias.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in OURS:
            for alias in node.names:
                yield node.lineno, node.module, alias.name, alias.asname or alias.name


def defined_names(nodes: Nodes) -> set[str]:
    """Names of functions, classes, variables, and of attributes that an object gives itself."""
    found = set()
    for node in nodes:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                found.add(name)
    return found


@functools.cache
def private_members(module: str, name: str) -> frozenset[str]:
    """Private names of a library's class and of its bases: methods, and attributes that they give themselves."""
    try:
        found = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return frozenset()  # of an optional library
    kinds = inspect.getmro(found) if isinstance(found, type) else ()
    return frozenset().union(*map(own_members, kinds))


@functools.cache
def own_members(kind: type) -> frozenset[str]:
    """Private names that this class has itself; none for Python's own."""
    if kind.__module__.split(".")[0] in sys.stdlib_module_names:
        return frozenset()
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except (OSError, TypeError):  # compiled
        tree = ast.Module([], [])
    return frozenset(filter(is_private, vars(kind).keys() | defined_names(list(ast.walk(tree)))))


class Code:
    """All files of the package and the scripts."""

    def __init__(self, sources: dict[str, str]):
        self.files = {file: list(ast.walk(ast.parse(source))) for file, source in sources.items()}
        self.extends: dict[str, set[str]] = {}  # class of ours -> classes of ours that it extends
        self.members: dict[str, set[str]] = {}  # class of ours -> private names of the library's class that it extends
        for nodes in self.files.values():
            imported = {local: (module, name) for _, module, name, local in library_imports(nodes)}
            for node in nodes:
                if isinstance(node, ast.ClassDef):
                    self._add(node, imported)

    def _add(self, own: ast.ClassDef, imported: dict[str, tuple[str, str]]) -> None:
        for base in own.bases:
            first, *more = ast.unparse(base.value if isinstance(base, ast.Subscript) else base).split(".")
            if first in imported:
                module, name = imported[first]
                names = private_members(module, ".".join(filter(None, [name, *more])))
                self.members.setdefault(own.name, set()).update(names)
            else:
                self.extends.setdefault(own.name, set()).add(first)

    def inherited(self, name: str) -> set[str]:
        """Private names of libraries that a class of ours has by the classes that it extends."""
        bases = self.extends.get(name, set()) - {name}
        return self.members.get(name, set()).union(*(self.inherited(base) for base in bases))

    def private_uses(self) -> list[str]:
        """Where private names of libraries are used outside of compat/, as "file:line: name"."""
        outside = {file: nodes for file, nodes in self.files.items() if "/compat/" not in file}
        ours = set().union(*map(defined_names, outside.values()))
        library = set().union(*self.members.values())
        found = set()
        for file, nodes in outside.items():
            for line, name in (*imports(nodes), *attributes(nodes, ours, library), *self._members_used(nodes)):
                found.add(f"{file}:{line}: {name}")
        return sorted(found)

    def _members_used(self, nodes: Nodes) -> Iterator[tuple[int, str]]:
        for own in nodes:
            theirs = self.inherited(own.name) if isinstance(own, ast.ClassDef) else set()
            for node in ast.walk(own) if theirs else ():
                match node:
                    case ast.FunctionDef(name=name) if name in theirs:
                        yield node.lineno, name
                    case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(), attr=name) if name in theirs:
                        yield node.lineno, name


def imports(nodes: Nodes) -> Iterator[tuple[int, str]]:
    """Private modules and names that are imported; the tables of MLflow's database count as such."""
    for line, module, name, _ in library_imports(nodes):
        if any(is_private(part) or part == "dbmodels" for part in [*module.split("."), name]):
            yield line, f"{module}.{name}"


def attributes(nodes: Nodes, ours: set[str], library: set[str]) -> Iterator[tuple[int, str]]:
    """Private attributes of other objects that are not ours, also where they are asked for as text."""
    for node in nodes:
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name) if is_private(name) and name not in ours:
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                pass  # of the own class: `_members_used`
            case ast.Attribute(attr=name) if is_private(name) and (name not in ours or name in library):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id=call), args=[_, ast.Constant(value=str(name)), *_]) if call in BY_TEXT:
                if is_private(name) and (name not in ours or name in library):
                    yield node.lineno, name


def test_private_names_of_libraries_are_used_in_compat_alone():
    files = [file for folder in OURS for file in sorted((ROOT / folder).rglob("*.py"))]
    found = Code({str(file.relative_to(ROOT)): file.read_text() for file in files}).private_uses()
    assert found == [], "move to a function in lightning_modules/compat/:\n" + "\n".join(found)


def test_each_kind_of_use_is_found():
    source = """
        import torch
        import torch._dynamo
        from mlflow.store.tracking.dbmodels.models import SqlRun
        from optuna.storages.journal._file import get_lock_file
        from pytorch_lightning.strategies import DDPStrategy
        from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
        class Ours(DDPStrategy):
            def _setup_model(self, model): return super()._setup_model(model)
        class Extended(Ours):
            def act(self): self._start_method = "fork"
        def use(run, strategy):
            return run.data._metric_objs, getattr(run, "_hidden"), strategy._launcher, torch.nn.modules.conv._ConvNd
    """
    found = Code({"lightning_modules/bad.py": textwrap.dedent(source)}).private_uses()
    lines = [int(use.split(":")[1]) for use in found]
    assert sorted(set(lines)) == [3, 4, 5, 7, 9, 11, 13]
    assert sum(line == 13 for line in lines) == 4


def test_our_own_private_names_are_free():
    source = """
        from lightning_modules._rooms import _door
        from torch import nn
        _CONSTANT = 1
        class Ours(nn.Module):
            def __init__(self, pair):
                super().__init__()
                self._width = pair._asdict()
            def _count(self): return self._width, __file__, type(self).__name__, pair.cfg._target_
        def use(ours): return ours._count(), ours._width
    """
    assert Code({"lightning_modules/good.py": textwrap.dedent(source)}).private_uses() == []


def test_what_an_upgrade_is_tested_by_is_there():
    (line,) = [line for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith("UPGRADE_TESTS :=")]
    assert [path for path in line.split()[2:] if not (ROOT / path).exists()] == [], (
        "a path in UPGRADE_TESTS of the Makefile"
    )

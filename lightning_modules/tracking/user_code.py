"""The user's own modules used by a run: those of its `_target_`s and everything they import."""

import ast
import hashlib
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from lightning_modules.config.flatten import flatten
from lightning_modules.config.project import PROJECT_ROOT

_PACKAGE = PROJECT_ROOT / "lightning_modules"
_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def user_modules(config: Mapping[str, Any]) -> dict[str, Path]:
    """Module name -> source file of code outside this package, site-packages and the standard library.

    Sources are read, not run: imports inside of functions count, those made by ``importlib`` at run time do not.

    Args:
        config: of the run, as plain values.
    """
    found: dict[str, Path] = {}
    waiting = [str(value) for key, value in flatten(config).items() if key.split(".")[-1] == "_target_" and value]
    seen = set(waiting)
    while waiting:
        for name, spec in _modules_on_the_way(waiting.pop()):
            path = Path(spec.origin) if spec.has_location and spec.origin else None
            if name in found or (path is not None and not _is_users(path)):
                continue
            if path is not None:
                found[name] = path
                new = set(_imports(path, name, is_package=spec.submodule_search_locations is not None)) - seen
                seen |= new
                waiting += new
    return dict(sorted(found.items()))


def digest(modules: Mapping[str, Path]) -> dict[str, str]:
    """Module name -> sha256 of its source."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in modules.items()}


def _modules_on_the_way(dotted: str) -> Iterator[tuple[str, ModuleSpec]]:
    """The modules that ``import a.b.c`` imports: ``a``, ``a.b``, …"""
    parts = dotted.split(".")
    spec = _top_level(parts[0])
    for i in range(1, len(parts) + 1):
        if spec is None:
            return
        yield ".".join(parts[:i]), spec
        places = spec.submodule_search_locations
        if places is None or i == len(parts) or not _may_be_users(spec):
            return
        spec = PathFinder.find_spec(f"{'.'.join(parts[:i])}.{parts[i]}", list(places))


def _top_level(name: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(name)  # imports nothing for a name without a dot
    except (ImportError, ValueError):  # `__main__` has no spec
        return None


def _may_be_users(spec: ModuleSpec) -> bool:
    return spec.origin is None or not spec.has_location or _is_users(Path(spec.origin))


def _is_users(path: Path) -> bool:
    real = path.resolve()
    if {"site-packages", "dist-packages"} & set(real.parts) or real.is_relative_to(_PACKAGE):
        return False
    return not any(real.is_relative_to(folder) for folder in _STANDARD)


def _imports(path: Path, module: str, is_package: bool) -> Iterable[str]:
    """Absolute dotted names that a source file imports, at any depth; ``from a import b`` gives ``a.b``."""
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:  # importing it raises this error
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: len(module.split(".")) - node.level + is_package] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)

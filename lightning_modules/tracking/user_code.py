"""The user's own modules used by a run (those of its `_target_`s and everything they import), and the record of code."""

import ast
import contextlib
import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from lightning_modules.config.plain import flatten
from lightning_modules.config.project import PACKAGE, code_folder
from lightning_modules.tracking.provenance import GitState, git_state, repository_of

_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))


def user_modules(config: Mapping[str, object]) -> dict[str, Path]:
    """Module name -> source file of code outside this package, site-packages and the standard library.

    Sources are read, not run: imports inside of functions count, those made by ``importlib`` at run time do not.

    Args:
        config: of the run, as plain values.
    """
    found: dict[str, Path] = {}
    leaves = flatten(config).items()
    waiting = [str(value) for key, value in leaves if key.split(".")[-1] in ("_target_", "object_class") and value]
    seen = set(waiting)
    while waiting:
        for name, spec in _modules_on_the_way(waiting.pop()):
            path = _source(spec)
            if name in found or (path is not None and not _is_users(path)):
                continue
            if path is not None:
                found[name] = path
                new = set(_imports(path, name, is_package=spec.submodule_search_locations is not None)) - seen
                seen |= new
                waiting += new
    return dict(sorted(found.items()))


def record_user_code(write: Callable[[str, str], None], config: Mapping[str, object]) -> None:
    """Write the user's own modules with their hashes and the state of their git repositories as artifacts."""
    modules = user_modules(config)
    if not modules:
        return
    found = {repository_of(folder) for folder in {path.parent for path in modules.values()}}
    repositories = {}
    for number, top in enumerate(sorted(top for top in found - {repository_of(code_folder())} if top is not None), 1):
        git, patch = git_state(top), f"code/{number}-{top.name}.patch"
        record_diff(write, patch, git)
        repositories[str(top)] = {
            "commit": git.commit, "branch": git.branch, "remote": git.remote, "dirty": git.dirty, "note": git.note,
            "diff": patch if git.diff else None,
        }  # fmt: skip
    hashes = digest(modules)
    listed = {name: {"file": str(path), "sha256": hashes[name]} for name, path in modules.items()}
    write("code/modules.json", json.dumps({"modules": listed, "repositories": repositories}, indent=1))


def record_diff(write: Callable[[str, str], None], path: str, git: GitState) -> None:
    """Write the changes of a repository as the artifact `path`; warn of lines that look like secrets."""
    if git.suspicious:
        print(
            f"warning: {path} of this run has lines that look like secrets: {', '.join(git.suspicious)}. "
            "If they are, replace them, and delete the artifact from the run",
            file=sys.stderr,
        )
    if git.diff:
        write(path, git.diff)


def digest(modules: Mapping[str, Path]) -> dict[str, str]:
    """Module name -> sha256 of its source."""
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in modules.items()}


def _modules_on_the_way(dotted: str) -> Iterator[tuple[str, ModuleSpec]]:
    """The modules that ``import a.b.c`` imports: ``a``, ``a.b``, …"""
    parts = dotted.split(".")
    spec = None
    if parts[0] == "__main__":  # a script, or what `python -m` runs
        main = sys.modules["__main__"]
        parts = main.__spec__.name.split(".") if main.__spec__ else parts[:1]
        if not main.__spec__ and (script := getattr(main, "__file__", None)):
            spec = importlib.util.spec_from_file_location("__main__", script)
    with contextlib.suppress(ImportError, ValueError):
        spec = spec or importlib.util.find_spec(parts[0])  # imports nothing for a name without a dot
    for i in range(1, len(parts) + 1):
        if spec is None:
            return
        yield ".".join(parts[:i]), spec
        places = spec.submodule_search_locations
        path = _source(spec)
        if places is None or i == len(parts) or (path is not None and not _is_users(path)):
            return
        spec = PathFinder.find_spec(f"{'.'.join(parts[:i])}.{parts[i]}", list(places))


def _source(spec: ModuleSpec) -> Path | None:
    return Path(spec.origin) if spec.has_location and spec.origin else None


def _is_users(path: Path) -> bool:
    real = path.resolve()
    if {"site-packages", "dist-packages"} & set(real.parts) or real.is_relative_to(PACKAGE):
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

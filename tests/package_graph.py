"""The imports between the modules of the package: rooms, floors, cycles and sizes. Prints them as a command."""

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "lightning_modules"
FLOORS = (  # a room imports from its own floor and those below; rooms of one floor may not form cycles of files
    {"compat"},
    {"config"},
    {"model", "optimizer"},
    {"data", "task", "strategy", "tracking", "report", "augmentation", "zoo"},
    {"run"},
    {"sweep", "comparison", "reproduction", "compression", "export", "quality", "store"},
    {"cli", "api"},
)
OPTIONAL = ("augmentation", "compression", "export", "quality", "store", "zoo")
CORE = (
    "config", "data", "model", "task", "optimizer", "strategy", "tracking", "report", "run", "sweep", "comparison",
    "reproduction", "compat",
)  # fmt: skip
Graph = Mapping[str, set[str]]


def floor_of(room: str) -> int:
    """Return the floor of a room, from 0."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def room_of(module: str) -> str:
    """Return the subpackage that a module belongs to; the name of the module itself at the top level."""
    return module.split(".")[1] if "." in module else module


def module_files() -> dict[str, Path]:
    """Return the file of each module of the package."""
    files = sorted((ROOT / PACKAGE).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return dict(zip(names, files, strict=True))


def import_graph() -> Graph:
    """Return the modules of the package that each module imports, also within functions."""
    files = module_files()
    return {name: {found for found in _imports(file) if found in files} - {name} for name, file in files.items()}


def _imports(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cycles(graph: Graph) -> list[list[str]]:
    """Return the groups of modules that import each other: what is left when modules without imports are removed."""
    reachable = {module: _reachable(graph, module) for module in graph}
    groups = {
        frozenset(other for other in reachable[module] if module in reachable[other])
        for module in graph
        if module in reachable[module]
    }
    return [sorted(group) for group in groups]


def _reachable(graph: Graph, start: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += graph[module]
    return found


def sizes() -> dict[str, tuple[int, int]]:
    """Return lines and files of each room, and of modules at the top level."""
    counted: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for module, file in module_files().items():
        room = counted[room_of(module)]
        room[0] += len(file.read_text(encoding="utf-8").splitlines())
        room[1] += 1
    return {room: (lines, files) for room, (lines, files) in counted.items()}


def total(rooms: Mapping[str, tuple[int, int]], names: tuple[str, ...] | None = None) -> tuple[int, int]:
    """Return lines and files of the rooms `names`, by default of all."""
    chosen = [size for room, size in rooms.items() if names is None or room in names]
    return sum(lines for lines, _ in chosen), sum(files for _, files in chosen)


if __name__ == "__main__":
    found = sizes()
    for room, (lines, files) in sorted(found.items()):
        print(f"{room:15} {lines:6} lines {files:4} files")
    for label, (lines, files) in (("core", total(found, CORE)), ("all", total(found))):
        print(f"{label:15} {lines:6} lines {files:4} files")
    print("cycles:", cycles(import_graph()) or "none")

"""Imports between the rooms of the package point one way, and its optional rooms can be deleted."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from package_graph import CORE, FLOORS, OPTIONAL, PACKAGE, ROOT, cycles, floor_of, import_graph, room_of, sizes, total

# lines and files of the package and of its core. The core's limit only falls; what is added stands in the other rooms. The aim
# is 34,500 and 340, 20,000 and 200
LIMITS = {"all": (52_920, 434), "core": (22_500, 178)}
TOP_LEVEL = {"__init__.py", "recorded.py", "serve.py"}  # the last two are named by what earlier versions recorded

# Trains in each folder, in a process of its own, without the finder of an editable installation, which would find the deleted
# room elsewhere. What takes most of the time, importing the libraries, is done once.
TRAIN_FROM_COPIES = """
import os, runpy, sys, traceback
import mlflow.pyfunc, pytorch_lightning, sklearn.datasets, sklearn.metrics, torch, torchvision
sys.meta_path = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]

def train(folder):
    os.chdir(folder)
    os.dup2(os.open("output.txt", os.O_WRONLY | os.O_CREAT), 1)
    os.dup2(1, 2)
    words = "data=tabular model=mlp trainer.max_epochs=1"
    sys.argv = ["train.py", *words.split(), f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    sys.path[0] = folder
    try:
        runpy.run_path("scripts/train.py", run_name="__main__")
    except BaseException:
        traceback.print_exc()
        return 1
    return 0

for folder in sys.argv[1:]:
    if not (child := os.fork()):
        code = train(folder)
        sys.stdout.flush()
        os._exit(code)  # without the destructors of the parent's libraries
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with open(folder + "/code.txt", "w") as file:
        file.write(str(code))
"""


@pytest.fixture(scope="module")
def edges() -> list[tuple[str, str]]:
    """Each import between modules of different rooms."""
    graph = import_graph()
    return [
        (module, imported)
        for module, found in graph.items()
        for imported in found
        if room_of(module) != room_of(imported) and "." in module and "." in imported
    ]


def test_every_module_belongs_to_a_room() -> None:
    folders = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == set().union(*FLOORS)
    assert {path.name for path in (ROOT / PACKAGE).glob("*.py")} <= TOP_LEVEL


def test_imports_point_downwards(edges: list[tuple[str, str]]) -> None:
    rooms = set().union(*FLOORS)
    upwards = [
        f"{module} imports {imported}"
        for module, imported in edges
        if {room_of(module), room_of(imported)} <= rooms and floor_of(room_of(module)) < floor_of(room_of(imported))
    ]
    assert not upwards


def test_the_core_imports_no_optional_room(edges: list[tuple[str, str]]) -> None:
    assert not [edge for edge in edges if room_of(edge[0]) in CORE and room_of(edge[1]) in OPTIONAL]


def test_no_files_import_each_other() -> None:
    assert not cycles(import_graph())


def test_the_cycles_of_a_graph_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b", "d"}, "d": set(), "e": {"a"}}
    assert cycles(graph) == [["b", "c"]]


@pytest.mark.parametrize(("label", "rooms"), [("all", None), ("core", CORE)])
def test_the_package_does_not_grow(label: str, rooms: tuple[str, ...] | None) -> None:
    lines, files = total(sizes(), rooms)
    most_lines, most_files = LIMITS[label]
    assert lines <= most_lines and files <= most_files


@pytest.fixture(scope="module")
def without_a_room(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> dict[str, Path]:
    """By room: a copy of the project without it, in which a training was tried; code.txt and output.txt tell how it ended."""
    copies = {room: tmp_path_factory.mktemp(room) for room in OPTIONAL}
    for room, folder in copies.items():
        for name in (PACKAGE, "conf", "scripts", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        shutil.rmtree(folder / PACKAGE / room)
        if room != "store":  # one of them makes its database itself
            shutil.copytree(empty_database.parent, folder, dirs_exist_ok=True)
    outside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    subprocess.run(
        [sys.executable, "-c", TRAIN_FROM_COPIES, *map(str, copies.values())], cwd=copies[room], env=outside, check=True
    )
    return copies


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first waits for all trainings
@pytest.mark.parametrize("room", OPTIONAL)
def test_a_run_needs_no_optional_room(room: str, without_a_room: dict[str, Path]) -> None:
    folder = without_a_room[room]
    said = (folder / "output.txt").read_text()
    assert (folder / "code.txt").read_text() == "0", said
    assert f"sqlite:///{folder}/mlflow.db" in said

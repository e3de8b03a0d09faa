"""A sweep in this process, its runs in processes of their own, recorded in the store of the test."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import interrupted
import pytest
from interrupted import CALLBACKS, Command, Points, check_whole, newest_sweep, points_of
from multirun import multirun

QUICK = (
    "trainer.max_epochs=2",
    "data.per_class=10",
    "model=linear",
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",
    "~callbacks.summary",
)


@pytest.fixture
def sweep(store: Any, capfd: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a sweep; gives `children` (of its run in the store), `parent`, `code` and what it `said`."""

    def launch(*words: str, quick: bool = True) -> Any:
        from lightning_modules.sweep.trial_results import read_trial_results

        code = 0
        try:
            multirun([*(QUICK if quick else ()), *words])
        except SystemExit as left:
            code = int(left.code or 0)
        said = capfd.readouterr()
        parent = newest_sweep(store)
        children = read_trial_results(store, parent.info.run_id) if parent else []
        return SimpleNamespace(children=children, parent=parent, code=code, said=said.out + said.err)

    return launch


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> list[Points]:
    """The points of the seeds 0, 1 and 2 of `interrupted.QUICK`, in a sweep that nothing disturbs."""
    from lightning_modules.sweep.trial_results import read_trial_results
    from lightning_modules.tracking.store import open_store

    folder = tmp_path_factory.mktemp("undisturbed") / "store"
    shutil.copytree(empty_database.parent, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        multirun([*interrupted.QUICK, "seed=range(3)", "sweep.name=whole"])
        store = open_store()
        whole = SimpleNamespace(parent=newest_sweep(store), code=0)
        whole.children = read_trial_results(store, whole.parent.info.run_id)
        check_whole(store, whole, 3)
        return points_of(store, whole)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the gate and the marks; the callbacks can be imported here and in processes started from here."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sweep_faults_callbacks.py").write_text(CALLBACKS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("TOUCHSTONE_TRUST", "sweep_faults_callbacks")
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


@pytest.fixture
def launch(store: Any, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*words: str) -> Command:
        started.append(Command(tmp_path, words))
        return started[-1]

    yield start
    for command in started:
        for process in command.left():
            process.kill()
        command.process.wait(10)

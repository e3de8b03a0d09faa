"""What the tests share: a store of their own, and runs composed as the command line composes them."""

import functools
import gc
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import config_cache
import pytest
from recorded_runs import newest_run

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests run side by side, and some of them fork
os.environ["COLUMNS"] = "200"  # tables and messages are not broken where a test looks for a word

gc.set_threshold(5_000, 20, 20)  # a full collection looks at all of torch, and they took a seventh of the suite's time
config_cache.install()

ROOT = Path(__file__).resolve().parents[1]
QUICK = (
    "trainer.max_epochs=2",
    "data.per_class=10",
    "model=mlp",
    "tracking.system_metrics_s=null",
    "tracking.pictures=false",  # they take more time than the training; tests/run/test_record.py looks at them
    "~callbacks.progress",
    "~callbacks.summary",
)


def pytest_collection_finish() -> None:
    gc.freeze()  # what is imported stays


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without a run; made once, copied by each test: creating the schema takes seconds.

    MLflow reads all its migrations again for each store that it opens, which takes longer than the rest: here once.
    """
    from mlflow.store.db import utils

    from lightning_modules.tracking.store import open_store

    utils._get_latest_schema_revision = functools.cache(utils._get_latest_schema_revision)
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def new_store(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Make an empty store in a folder of its own, for the tests of a module; return its address."""

    def make() -> str:
        folder = tmp_path_factory.mktemp("module") / "store"
        shutil.copytree(empty_database.parent, folder)
        return f"sqlite:///{folder}/mlflow.db"

    return make


@pytest.fixture(scope="session")
def train_once(new_store: Callable[[], str]) -> Callable[..., Path]:
    """Train what the overrides say in a store of its own, and return its database."""

    def launch(*overrides: str, quick: bool = True) -> Path:
        uri = new_store()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            _train(*(QUICK if quick else ()), *overrides)
        return Path(uri.removeprefix("sqlite:///"))

    return launch


@pytest.fixture(scope="session")
def database_with_a_run(train_once: Callable[..., Path]) -> Path:
    """A store with one run, which each test that asks for `recorded_run` copies; a module may override it with its own."""
    return train_once("trainer.max_epochs=1")


@pytest.fixture
def store(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Any]:
    """A store of this test alone, in a folder with a space in its name; MLFLOW_TRACKING_URI points to it."""
    from lightning_modules.store.relocate import relocate
    from lightning_modules.tracking.store import open_store

    with_a_run = "recorded_run" in request.fixturenames
    source = request.getfixturevalue("database_with_a_run") if with_a_run else empty_database
    folder = tmp_path / "a store"
    shutil.copytree(source.parent, folder)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    store = open_store()
    if with_a_run:
        relocate(store, source.parent)
    yield store


@pytest.fixture
def recorded_run(store: Any) -> Any:
    """The only run of this test's store, that of `database_with_a_run`: for what is done to a run."""
    return newest_run(store)


@pytest.fixture
def train(store: Any) -> Callable[..., Any]:
    """Train in this process what the overrides say, a small thing unless told otherwise; return MLflow's run."""

    def launch(*overrides: str, quick: bool = True) -> Any:
        _train(*(QUICK if quick else ()), *overrides)
        return newest_run(store)

    return launch


def _train(*overrides: str) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    run(compose_run(list(overrides)))


@pytest.fixture
def command(store: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a script of the project in a process of its own, from another folder.

    It is forked from one that has imported torch, Lightning and MLflow, unless Python itself is given an environment.
    """
    from command_process import run_forked

    def launch(script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        words, env = [str(ROOT / "scripts" / script), *arguments], {**os.environ, **environment}
        if not any(name.startswith(("PYTHON", "LC_")) for name in environment):
            return run_forked(words, tmp_path, env)
        return subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=280
        )

    return launch


@pytest.fixture
def small_disk(tmp_path: Path, store: Any) -> Iterator[Path]:
    """The folder of the test's store, on a disk of 24 MB of its own."""
    disk = Path(store.uri.removeprefix("sqlite:///")).parent
    shutil.copytree(disk, tmp_path / "copy")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        reason = "a small disk can be mounted by root only"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    try:
        shutil.copytree(tmp_path / "copy", disk, dirs_exist_ok=True)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)

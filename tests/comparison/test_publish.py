import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.comparison import publish
from lightning_modules.comparison.compare import compare, open_run_reader
from lightning_modules.comparison.result import CompareRequest
from lightning_modules.tracking.record import local_folder
from lightning_modules.tracking.store import open_store

Make = Callable[..., str]
FILES = ["test_accuracy.csv", "test_accuracy.md", "test_accuracy.png", "test_accuracy.tex"]


def artifacts(store: Any, run_id: str) -> list[str]:
    folder = local_folder(store.client.get_run(run_id).info.artifact_uri)
    assert folder is not None
    return sorted(path.name for path in (folder / "comparison").glob("*"))


@pytest.mark.slow
def test_the_script_prints_the_table_logs_it_to_the_sweep_and_writes_it(
    sweep: Make, store: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    parent = sweep(seeds=6)
    options = ["by=model,optimizer.lr", "metric=test/accuracy", "baseline=model=mlp,optimizer.lr=0.1"]
    done = command("compare.py", parent[:8], *options, "out=the files")
    assert done.returncode == 0, done.stderr
    assert "test/accuracy (higher is better), by model, optimizer.lr, against model=mlp" in done.stdout
    assert "0.0312" in done.stdout
    assert f"logged to run {parent} as comparison/test_accuracy" in done.stdout
    assert artifacts(store, parent) == FILES
    assert sorted(path.name for path in (tmp_path / "the files").iterdir()) == FILES
    assert len(store.client.search_runs(["1"])) == 25


def test_a_mistake_is_one_message_and_a_failure(store: Any, command: Callable[..., Any]) -> None:
    done = command("compare.py", "nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no run or experiment 'nothing'")
    assert "Traceback" not in done.stderr


def test_runs_without_a_common_parent_get_a_run_which_is_no_part_of_the_next_comparison(
    sweep: Make, store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(seeds=1)
    store.client.delete_run(compare(open_run_reader(), CompareRequest(["the sweep"])).parent_id)
    for run in store.client.search_runs(["1"]):
        store.client.delete_tag(run.info.run_id, "mlflow.parentRunId")
    first = compare(open_run_reader(), CompareRequest(["touchstone"]))
    publish.log_comparison(first)
    new = re.search(r"logged to run (\w{32})", capsys.readouterr().out)
    assert new is not None
    run = store.client.get_run(new[1])
    assert (run.info.run_name, run.info.status, run.info.experiment_id) == ("comparison test/accuracy", "FINISHED", "1")
    assert run.data.tags["touchstone.kind"] == "comparison"
    assert artifacts(store, new[1]) == FILES
    assert compare(open_run_reader(), CompareRequest(["touchstone"])) == first


def test_without_logging_nothing_is_written(sweep: Make, store: Any, command: Callable[..., Any]) -> None:
    parent = sweep(seeds=1)
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    with sqlite3.connect(folder / "mlflow.db") as database:
        before = list(database.iterdump())
    files = sorted(folder.rglob("*"))
    done = command("compare.py", parent, "log=false")
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(folder / "mlflow.db") as database:
        assert list(database.iterdump()) == before
    assert {path for path in folder.rglob("*") if path.is_file()} <= {*files, *folder.glob("mlflow.db-*")}
    assert artifacts(store, parent) == []


@pytest.fixture
def read_only(sweep: Make, store: Any) -> Iterator[Path]:
    """A store with a sweep in a folder that others own; pytest's own folders are closed to them."""
    sweep(seeds=2)
    folder = Path(tempfile.mkdtemp())
    with sqlite3.connect(store.uri.removeprefix("sqlite:///")) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.copy(store.uri.removeprefix("sqlite:///"), folder / "mlflow.db")
    (folder / "mlflow.db").chmod(0o444)
    folder.chmod(0o555)
    yield folder / "mlflow.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_store_that_cannot_be_written_is_read_with_one_warning(
    read_only: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import mlflow.exceptions  # noqa: F401  # the child may not be allowed to read this program's files

    publish.write_files(
        compare(open_run_reader(), CompareRequest(["the sweep"])), tmp_path / "first"
    )  # imports what it needs, from the other store
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{read_only}")
    says, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.dup2(answer, 1)
            os.dup2(answer, 2)
            sys.stdout = sys.stderr = os.fdopen(answer, "w")
            if os.getuid() == 0:
                os.setuid(65534)  # root may write everywhere, nobody may not
            found = compare(open_run_reader(), CompareRequest(["the sweep"]))
            publish.print_comparison(found)
            publish.log_comparison(found)
            sys.stdout.flush()
        finally:
            os._exit(0)
    os.close(answer)
    with os.fdopen(says) as told:
        text = told.read()
    os.waitpid(child, 0)
    assert "convnet" in text
    assert text.count("warning: the comparison was not logged: the tracking store") == 1
    assert "is not writable" in text


def test_a_missing_or_damaged_store_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_modules.config.errors import UserError

    with pytest.raises(UserError, match=r"no tracking store at .*none\.db"):
        open_run_reader(f"sqlite:///{tmp_path}/none.db")
    (tmp_path / "bad.db").write_bytes(b"no database " * 100)
    with pytest.raises(UserError, match=r"bad\.db cannot be read: file is not a database"):
        open_run_reader(f"sqlite:///{tmp_path}/bad.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(UserError, match=r"other\.db cannot be read: no such table: runs"):
        open_run_reader(f"sqlite:///{tmp_path}/other.db")
    with pytest.raises(UserError, match="is not responding"):
        open_run_reader("http://127.0.0.1:9")


@pytest.mark.slow
def test_a_server_gives_the_same_table_and_takes_the_files(
    sweep: Make, store: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    parent = sweep(seeds=2)
    here = compare(open_run_reader(), CompareRequest([parent]))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command_line = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    server = subprocess.Popen(
        [sys.executable, *command_line, "--backend-store-uri", store.uri],
        cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(240):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.5)
        there = compare(open_run_reader(url), CompareRequest([parent]))
        done = command("compare.py", parent, MLFLOW_TRACKING_URI=url)
    finally:
        server.terminate()
        server.wait(30)
    assert there == here
    assert f"logged to run {parent}" in done.stdout, done.stderr
    assert artifacts(open_store(store.uri), parent) == FILES

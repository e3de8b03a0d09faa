import multiprocessing
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import psutil
import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.config.project import SHIPPED
from lightning_modules.tracking.store import (
    Store,
    find_run,
    open_store,
    require_free_space,
    sqlite_path,
    sqlite_uri,
)


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new store's database that no client has opened: it can be copied."""
    path = tmp_path_factory.mktemp("blank") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("store") / "a? b#c%41"
    (root / "mlruns").mkdir(parents=True)
    (root / "mlruns" / "mlflow.db").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("TOUCHSTONE_HOME", str(root))
        return open_store()


def open_together(root: Path, go: str, answers: "multiprocessing.Queue[str]") -> None:
    while not Path(go).exists():
        time.sleep(0.001)
    try:
        os.environ["TOUCHSTONE_HOME"] = str(root)
        answers.put(open_store().experiment("together"))
    except BaseException as error:
        answers.put(repr(error))


@pytest.mark.slow
def test_six_processes_create_an_empty_store_at_once(tmp_path: Path) -> None:
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # the children inherit the import and meet sooner

    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[str] = context.Queue()
    go = tmp_path / "go"
    children = [context.Process(target=open_together, args=(tmp_path, str(go), answers)) for _ in range(6)]
    for child in children:
        child.start()
    go.touch()
    assert {answers.get(timeout=120) for _ in children} == {"1"}
    for child in children:
        child.join()
    database = sqlite3.connect(tmp_path / "mlruns" / "mlflow.db")
    assert database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    assert database.execute("SELECT count(*) FROM experiments WHERE name = 'together'").fetchone() == (1,)
    assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert sorted(p.name for p in (tmp_path / "mlruns").iterdir() if "creating" in p.name) == []


def test_importing_the_store_imports_neither_mlflow_nor_torch() -> None:
    code = "import sys, lightning_modules.tracking.store; print({'mlflow', 'torch'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=SHIPPED)
    assert said.stdout.strip() == "set()", said.stderr


def test_threads_that_make_the_same_experiment_get_the_same_one(store: Store) -> None:
    ids = []
    database = sqlite3.connect(store.path, isolation_level=None)
    store.experiment("warm")
    database.execute("BEGIN IMMEDIATE")  # all find that there is none, then all wait to make it
    threads = [threading.Thread(target=lambda: ids.append(store.experiment("raced"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    database.execute("ROLLBACK")
    for thread in threads:
        thread.join()
    assert len(ids) == 4 and len(set(ids)) == 1


def test_artifacts_land_in_a_folder_named_after_the_experiment(store: Store) -> None:
    run = store.client.create_run(store.experiment("mnist/ü 50%"))
    store.client.log_text(run.info.run_id, "hello", "note.txt")
    root = store.folder
    assert (root / "artifacts" / "mnist_ü 50_" / run.info.run_id / "artifacts" / "note.txt").read_text() == "hello"
    folder = store.client.download_artifacts(run.info.run_id, "note.txt")
    assert Path(folder).read_text() == "hello"


def test_a_deleted_experiment_says_how_to_bring_it_back(store: Store) -> None:
    store.client.delete_experiment(store.experiment("gone"))
    with pytest.raises(UserError, match=r"'gone' was deleted.*mlflow experiments restore"):
        store.experiment("gone")


def test_opening_again_keeps_what_is_there_and_follows_the_environment(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.experiment("kept")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    again = open_store()
    assert again == store and again.is_local
    assert again.experiment("kept") == kept


def test_an_empty_file_becomes_a_store_with_the_default_experiment(store: Store) -> None:
    assert store.client.get_experiment("0").artifact_location == f"{store.artifacts}/0"


def damaged(folder: Path) -> Path:
    (folder / "mlflow.db").write_bytes(b"this is no database " * 500)
    return folder / "mlflow.db"


def foreign(folder: Path) -> Path:
    sqlite3.connect(folder / "mlflow.db").execute("CREATE TABLE recipes (name)").connection.close()
    return folder / "mlflow.db"


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "mlflow.db"


def a_folder(folder: Path) -> Path:
    (folder / "mlflow.db").mkdir()
    return folder / "mlflow.db"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (damaged, "is damaged"),
        (foreign, "is not an MLflow database"),
        (below_a_file, "is not writable"),
        (a_folder, "is not writable"),
    ],
)
def test_a_file_that_cannot_be_the_store_is_named(tmp_path: Path, make: Callable[[Path], Path], reason: str) -> None:
    path = make(tmp_path)
    with pytest.raises(UserError, match=reason) as caught:
        open_store(f"sqlite:///{path}")
    assert str(path) in str(caught.value)


def test_a_database_of_another_mlflow_says_how_to_upgrade_it(blank: Path, tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    shutil.copy(blank, path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(UserError, match="touchstone store upgrade"):
        open_store(f"sqlite:///{path}")


@pytest.mark.parametrize("folder_mode", [0o777, 0o555])
def test_a_store_that_others_own_is_refused_before_the_run(blank: Path, folder_mode: int) -> None:
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    path = folder / "mlflow.db"
    shutil.copy(blank, path)
    path.chmod(0o444)
    folder.chmod(folder_mode)
    says, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)  # root may write everywhere, nobody may not
            open_store(f"sqlite:///{path}")
        except UserError as error:
            os.write(answer, str(error).encode())
        finally:
            os._exit(0)
    os.close(answer)
    with os.fdopen(says) as message:
        assert message.read().startswith(f"the tracking store {path} is not writable")
    os.waitpid(child, 0)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_the_store_of_a_folder_with_special_characters_lies_in_that_folder(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.comparison.compare import open_run_reader
    from lightning_modules.sweep.sweep_command import sweep_folder
    from lightning_modules.sweep.trial_results import best_values
    from lightning_modules.tracking.artifacts import artifact_path
    from lightning_modules.tracking.outbox import outbox_folders

    run = store.client.create_run(store.experiment("x"), run_name="mine")
    run_id = run.info.run_id
    store.client.log_text(run_id, "hello", "note.txt")
    store.client.log_metric(run_id, "val/loss", 0.5)
    root = store.path.parents[1]
    assert root.name == "a? b#c%41" and store.path.stat().st_size > 100_000
    assert list(root.parent.iterdir()) == [root], "something was written beside the project"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    assert open_store() == store and find_run(open_store(), "mine").info.run_id == run_id
    assert open_run_reader().find("mine").run_id == run_id
    assert artifact_path(store, run, "note.txt") == store.folder / "artifacts" / "x" / run_id / "artifacts" / "note.txt"
    assert artifact_path(store, run, "note.txt").read_text() == "hello"
    assert best_values(store, [run_id], {"val/loss": "minimize"}) == {run_id: {"val/loss": 0.5}}
    assert sweep_folder(store, "s").parents[1] == outbox_folders(store.uri)[0].parent == store.folder == root / "mlruns"


@pytest.mark.parametrize("folder", ["plain", "a b", "100% sure", "#1", "why?", "c%41", "é", "a+b", "a;b=1&c"])
def test_a_path_survives_its_uri_as_mlflow_reads_it(folder: str) -> None:
    from sqlalchemy.engine import make_url

    path = Path("/home") / folder / "mlflow.db"
    assert sqlite_path(sqlite_uri(path)) == path
    assert make_url(sqlite_uri(path)).database == str(path)


def test_parameters_of_a_sqlite_uri_are_no_part_of_the_path_and_a_question_mark_in_it_is_refused() -> None:
    assert sqlite_path("sqlite:////home/mlflow.db?timeout=30&mode=rw") == Path("/home/mlflow.db")
    assert sqlite_path("sqlite:///mlflow.db") == Path.cwd() / "mlflow.db"
    with pytest.raises(UserError, match=r"has a '\?' in its path; write it as sqlite:////home%2Fwhy%3F%2Fmlflow.db"):
        sqlite_path("sqlite:////home/why?/mlflow.db")


@pytest.mark.parametrize(
    ("uri", "module", "package"),
    [
        ("postgresql://ann:pa55@db/x", "psycopg", "-e '.[postgres]'"),
        ("postgresql+psycopg2://ann:pa55@db/x", "psycopg2", "-e '.[postgres]'"),
        ("mysql://ann:pa55@db/x", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql://ann:pa55@db/x", "pymysql", "pymysql"),
    ],
)
def test_a_database_without_its_driver_is_answered_with_what_to_install(
    uri: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # not installed, whatever this machine has
    with pytest.raises(UserError) as caught:
        open_store(uri)
    shown = uri.replace("ann:pa55", "***")
    assert str(caught.value) == (
        f"tracking.uri={shown} needs the Python package {module}, which is not installed: pip install {package}"
    )


@pytest.mark.parametrize("uri", ["postgresql://ann:pa55@db:port/x", "postgresql+nothing://ann:pa55@db/x"])
def test_the_uri_of_a_database_that_cannot_be_read_is_answered_with_the_form_of_one(uri: str) -> None:
    with pytest.raises(UserError, match=r"cannot be parsed.*expected postgresql://user:password@host") as caught:
        open_store(uri)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns", "mlflow.db", "ftp://me:pa55@host/x"])
def test_a_store_that_mlflow_no_longer_has_is_answered_with_those_it_has(uri: str) -> None:
    with pytest.raises(UserError, match=r"tracking\.uri=.*sqlite:////.*http") as caught:
        open_store(uri)
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x.db?uri=true"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="names no file"):
        open_store(uri)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()
        self.wfile.write(b"OK")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    httpd = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_a_server_that_answers_is_a_store_without_local_artifacts(server: str) -> None:
    store = open_store(f"http://{server}/")
    assert store.artifacts is None and not store.is_local


def test_a_server_that_is_not_mlflow_is_refused(server: str) -> None:
    with pytest.raises(UserError, match="HTTP 404"):
        open_store(f"http://{server}/elsewhere")


def test_a_silent_server_is_an_error_that_names_the_way_out_and_no_password() -> None:
    with pytest.raises(UserError, match=r"is not responding.*mlflow server.*unset MLFLOW_TRACKING_URI") as caught:
        open_store("http://anna:s3cret@127.0.0.1:9")
    assert "s3cret" not in str(caught.value) and "anna" not in str(caught.value)


def test_too_little_room_is_told_in_megabytes(tmp_path: Path) -> None:
    require_free_space(tmp_path / "not" / "there", 1)
    with pytest.raises(UserError, match=r"not enough disk space: .* MB free, the run needs about 1,000,000,000,000 MB"):
        require_free_space(tmp_path / "not" / "there", 10**18)


def test_a_run_is_found_by_its_id_the_beginning_of_it_and_its_name(store: Store) -> None:
    experiment = store.experiment("find")
    run = store.client.create_run(experiment, run_name="it's lr=0.1").info.run_id
    for wanted in (run, run[:12], "it's lr=0.1"):
        assert find_run(store, wanted).info.run_id == run


def test_a_sweep_is_found_by_its_name_where_its_run_has_another(store: Store) -> None:
    experiment = store.experiment("find")
    tags = {"touchstone.kind": "sweep", "sweep.name": "rates"}
    sweep = store.client.create_run(experiment, run_name="it's mine", tags=tags).info.run_id
    store.client.create_run(experiment, run_name="trial", tags={"sweep.name": "rates"})
    assert find_run(store, "rates").info.run_id == find_run(store, "it's mine").info.run_id == sweep
    other = store.client.create_run(experiment, run_name="rates").info.run_id
    with pytest.raises(UserError, match="matches several runs") as caught:
        find_run(store, "rates")
    assert sweep in str(caught.value) and other in str(caught.value)


def test_a_run_that_is_not_there_is_answered_with_the_nearest_and_the_newest(store: Store) -> None:
    experiment = store.experiment("find")
    one = store.client.create_run(experiment, run_name="lenet twice").info.run_id
    two = store.client.create_run(experiment, run_name="lenet twice").info.run_id
    with pytest.raises(UserError, match="did you mean 'lenet twice'"):
        find_run(store, "lenet twise")
    for run_id, rate in ((one, "0.1"), (two, "0.2")):
        store.client.log_param(run_id, "optimizer.lr", rate)
        store.client.log_param(run_id, "seed", 0)
    with pytest.raises(UserError, match="matches several runs") as caught:
        find_run(store, "lenet twice")
    lines = sorted(str(caught.value).splitlines()[1:], key=lambda line: line[-3:])
    start = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    for line, run_id, rate in zip(lines, (one, two), (r"0\.1", r"0\.2"), strict=True):
        assert re.fullmatch(rf"  {run_id}  {start}  RUNNING   lr={rate}", line)
    with pytest.raises(UserError, match="no run"):
        find_run(store, "%' OR 1=1 \"")


@pytest.mark.slow
def test_a_forked_process_uses_connections_of_its_own(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/mlflow.db")  # a fresh one: no other test's connection is still in use

    def holds_the_database() -> bool:
        path = str(store.path)
        return any(file.path.startswith(path) for file in psutil.Process().open_files())

    experiment = store.experiment("forked")
    assert holds_the_database()
    child = os.fork()
    if child == 0:
        try:
            assert not holds_the_database()
            store.client.create_run(experiment, run_name="child")
            os._exit(0)
        except BaseException:
            (tmp_path / "fault").write_text(traceback.format_exc())
        finally:
            os._exit(1)
    store.client.create_run(experiment, run_name="parent")
    assert os.waitpid(child, 0)[1] == 0, (tmp_path / "fault").read_text()
    names = {run.info.run_name for run in store.client.search_runs([experiment])}
    assert names == {"child", "parent"}

"""A store of another MLflow: an older one is upgraded by `touchstone store upgrade` only, a newer one is refused."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from alembic import command as alembic
from mlflow.store.db.utils import _get_alembic_config, _get_latest_schema_revision
from mlflow.store.tracking.dbmodels.initial_models import Base

from lightning_modules.cli.store import main
from lightning_modules.compat.mlflow_schema import schema_revisions
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import open_store, sqlite_uri

ANCIENT = "451aebb31d03"  # of 2019: without most of today's tables, which MLflow's client would add unasked


def migrate(path: Path, direction: Callable[..., None], revision: str) -> None:
    engine = sqlalchemy.create_engine(sqlite_uri(path))
    config = _get_alembic_config(str(engine.url))
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        direction(config, revision)
    engine.dispose()


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


@pytest.fixture
def ancient(tmp_path: Path) -> Path:
    path = tmp_path / "an old.db"
    migrate(path, alembic.upgrade, ANCIENT)
    return path


def test_the_newest_revision_is_the_one_that_mlflow_expects() -> None:
    newest = [revision for revision, is_newest in schema_revisions().items() if is_newest]
    assert newest == [_get_latest_schema_revision()]


def test_an_older_store_is_refused_unchanged_with_the_command(ancient: Path) -> None:
    before = dump(ancient)
    with pytest.raises(
        UserError, match=r"written by an older MLflow: `touchstone store upgrade 'tracking.uri=.*an old.db'`"
    ):
        open_store(sqlite_uri(ancient))
    assert dump(ancient) == before


def test_an_upgrade_makes_a_backup_and_keeps_the_runs(
    store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = store.client.create_run(store.experiment("kept")).info.run_id
    path = tmp_path / "older.db"
    with closing(sqlite3.connect(store.path)) as old, closing(sqlite3.connect(path)) as new:
        old.backup(new)
    migrate(path, alembic.downgrade, "-1")
    before = dump(path)
    for name in ("older.db.backup", "older.db.backup1"):  # an earlier backup stays
        main(["upgrade", f"tracking.uri={sqlite_uri(path)}"])
        assert f"backup: {tmp_path / name}\n" in capsys.readouterr().out
        assert dump(tmp_path / name) == before
        assert open_store(sqlite_uri(path)).client.get_run(run_id).info.status == "RUNNING"
        main(["upgrade", f"tracking.uri={sqlite_uri(path)}"])
        assert (
            "already" in capsys.readouterr().out
            and len(list(tmp_path.glob("older.db.backup*"))) == int(name[-1] == "1") + 1
        )
        migrate(path, alembic.downgrade, "-1")


@pytest.mark.slow
def test_an_upgrade_that_fails_changes_nothing(ancient: Path) -> None:
    with closing(sqlite3.connect(ancient)) as database:
        database.execute("CREATE TABLE latest_metrics (key TEXT)")  # which the next migration creates
    before = dump(ancient)
    with pytest.raises(UserError, match=r"cannot be upgraded and is as it was: .*latest_metrics already exists"):
        main(["upgrade", f"tracking.uri={sqlite_uri(ancient)}"])
    assert dump(ancient) == before == dump(ancient.with_name("an old.db.backup"))


@pytest.mark.parametrize("recorded", [None, "mlflow==3.1.0\n", "mlflow==99.1.0\n"])
def test_a_newer_store_is_refused_with_what_it_needs(store: Any, recorded: str | None) -> None:
    run = store.client.create_run(store.experiment("of the future"))
    if recorded:
        folder = store.path.parent / "artifacts" / "of the future" / run.info.run_id / "artifacts" / "environment"
        folder.mkdir(parents=True)
        (folder / "requirements.txt").write_text(f"mlflow-skinny==98\n{recorded}")
    with closing(sqlite3.connect(store.path)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
        database.commit()
    needed = (
        "install mlflow>=99.1.0$"
        if recorded and "99" in recorded
        else "install one that has its revision, ffffffffffff$"
    )
    for call in (lambda: open_store(store.uri), lambda: main(["upgrade", f"tracking.uri={store.uri}"])):
        with pytest.raises(UserError, match=f"written by a newer MLflow than .*: {needed}"):
            call()
    assert not list(store.path.parent.glob("*.backup*"))


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:////nowhere/mlflow.db", "there is no such file"),
        ("postgresql://me:secret@host/db", r"postgresql://\*\*\*.* is no SQLite file"),
    ],
)
def test_what_is_no_file_is_not_upgraded(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(["upgrade", f"tracking.uri={uri}"])


@pytest.mark.slow
def test_an_ancient_store_is_upgraded(ancient: Path, empty_database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(ancient)) as database:
        database.execute("INSERT INTO experiments VALUES (0, 'Default', 'file:///gone', 'active')")
        columns = "run_uuid, name, user_id, status, start_time, lifecycle_stage, artifact_uri, experiment_id"
        row = ("a" * 32, "old", "me", "FINISHED", 1, "active", "file:///gone/a", 0)
        database.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        database.commit()
    main(["upgrade", f"tracking.uri={sqlite_uri(ancient)}"])
    assert [run.info.run_id for run in open_store(sqlite_uri(ancient)).search_runs()] == ["a" * 32]

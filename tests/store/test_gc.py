"""What was deleted in MLflow is gone for good afterwards, and nothing else is."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.store.gc import gc
from lightning_modules.tracking.store import Store


def root(store: Store) -> Path:
    return Path(store.uri.removeprefix("sqlite:///")).parent


def execute(store: Store, query: str, *values: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database, database:
        return database.execute(query, values).fetchall()


def new_run(store: Store, experiment: str = "here") -> tuple[str, Path, Path]:
    """A run with a point, a file of 1000 bytes and a model of another 1000; its id and both folders."""
    client, space = store.client, store.experiment(experiment)
    run = client.create_run(space)
    run_id = run.info.run_id
    client.log_metric(run_id, "loss", 1.0)
    client.log_text(run_id, "x" * 1000, "note.txt")
    model = client.create_logged_model(space, source_run_id=run_id)
    folders = (
        root(store) / "artifacts" / experiment / run_id,
        root(store) / "artifacts" / experiment / "models" / model.model_id,
    )
    (folders[1] / "artifacts").mkdir(parents=True)
    (folders[1] / "artifacts" / "best.ckpt").write_bytes(b"y" * 1000)
    return run_id, *folders


def test_a_deleted_run_goes_with_rows_model_and_files_and_an_active_one_stays(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, *kept_folders = new_run(store)
    gone, *gone_folders = new_run(store)
    store.client.delete_run(gone)
    assert gc(store, dry_run=True) == 2000
    assert all(folder.is_dir() for folder in gone_folders)
    assert "would be freed" in capsys.readouterr().out
    assert gc(store) == 2000
    assert "2,000 bytes freed" in capsys.readouterr().out
    assert not any(folder.exists() for folder in gone_folders)
    assert all((folder / "artifacts").is_dir() for folder in kept_folders)
    for table, column in (("runs", "run_uuid"), ("metrics", "run_uuid"), ("logged_models", "source_run_id")):
        assert execute(store, f"SELECT DISTINCT {column} FROM {table}") == [(kept,)]
    assert gc(store) == 0


def test_a_deleted_experiment_goes_with_its_runs_and_its_name_is_free_again(store: Store) -> None:
    other, *other_folders = new_run(store)
    run_id, folder, _ = new_run(store, "gone")
    store.client.delete_experiment(store.client.get_run(run_id).info.experiment_id)
    gc(store)
    assert not folder.parent.exists() and all(f.exists() for f in other_folders)
    assert store.client.get_run(other)
    store.experiment("gone")


def test_addresses_and_links_that_lead_outside_or_to_active_runs_are_not_followed(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, active, active_model = new_run(store)
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / "file").write_text("precious")
    crafted = [
        f"file://{outside}",
        f"file://{active}/artifacts",
        f"file://{root(store)}/artifacts/here",
        f"file://{root(store)}/artifacts",
        f"file://{root(store)}",
        f"{root(store)}/artifacts/here/../../../precious",
        "s3://bucket/there",
        "/",
    ]
    for uri in crafted:
        run_id, folder, _ = new_run(store, "crafted")
        store.client.delete_run(run_id)
        execute(store, "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", uri, run_id)
    run_id, folder, _ = new_run(store, "linked")
    store.client.delete_run(run_id)
    (folder / "artifacts" / "link").symlink_to(outside)
    (folder / "artifacts" / "link to file").symlink_to(outside / "file")
    linked, other, _ = new_run(store, "linked")
    store.client.delete_run(linked)
    for file in sorted(other.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    other.rmdir()
    other.symlink_to(active)  # a link to a run that is active
    (root(store) / "artifacts" / "experiment").symlink_to(outside)
    gc(store)
    assert (outside / "file").read_text() == "precious"
    assert (active / "artifacts" / "note.txt").exists() and (active_model / "artifacts" / "best.ckpt").exists()
    assert not folder.exists()
    assert "it is outside" in capsys.readouterr().out
    assert (root(store) / "mlflow.db").exists()


def test_folders_of_no_run_go_unless_another_database_may_know_them(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    new_run(store)
    orphans = [
        root(store) / "artifacts" / "here" / ("0" * 32),
        root(store) / "artifacts" / "here" / "models" / ("m-" + "1" * 32),
    ]
    for orphan in orphans:
        orphan.mkdir()
        (orphan / "file").write_bytes(b"z" * 10)
    (root(store) / "artifacts" / "here" / "my notes").mkdir()
    (root(store) / "second.db").touch()
    assert gc(store) == 0 and all(orphan.exists() for orphan in orphans)
    assert "second.db may share" in capsys.readouterr().out
    (root(store) / "second.db").unlink()
    assert gc(store) == 20 and not any(orphan.exists() for orphan in orphans)
    assert (root(store) / "artifacts" / "here" / "my notes").exists()


def test_a_work_folder_goes_with_its_process_or_deleted_run_and_those_of_servers_stay(store: Store) -> None:
    deleted, *_ = new_run(store)
    store.client.delete_run(deleted)
    work = root(store) / "work"
    names = {"dead and old": "99999999", "alive": str(os.getpid()), "deleted": deleted, "of a server": "a" * 32}
    for name in names.values():
        (work / name).mkdir(parents=True)
        (work / name / "file").write_text("x")
        os.utime(work / name, (0, 0))
    gc(store)
    assert {path.name for path in work.iterdir()} == {names["alive"], names["of a server"]}


def test_files_of_a_deleted_sweep_go_unless_another_one_has_its_name(store: Store) -> None:
    for name in ("grid", "shared", "../artifacts"):
        (root(store) / "sweeps" / name).mkdir(parents=True, exist_ok=True)
        run_id, *_ = new_run(store)
        store.client.set_tag(run_id, "sweep.name", name)
        store.client.delete_run(run_id)
    store.client.set_tag(new_run(store)[0], "sweep.name", "shared")
    gc(store)
    assert [path.name for path in (root(store) / "sweeps").iterdir()] == ["shared"]
    assert (root(store) / "artifacts").is_dir()


def test_a_registered_model_stays_though_its_run_is_deleted(store: Store) -> None:
    run_id, _, folder = new_run(store)
    store.client.create_registered_model("best")
    source = store.client.get_logged_model(
        folder.name
    ).artifact_location  # "models:/…" would ask the process's own store
    store.client.create_model_version("best", source, run_id, model_id=folder.name)
    store.client.delete_run(run_id)
    gc(store)
    assert (folder / "artifacts" / "best.ckpt").exists()
    assert store.client.get_logged_model(folder.name)


def test_what_the_system_does_not_let_go_is_told_and_found_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    run_id, folder, _ = new_run(store)
    store.client.delete_run(run_id)
    real = os.rmdir

    def refuse(path: str, *args: object, **kwargs: object) -> None:  # root may delete everything: chmod would not do
        if str(path).endswith(run_id):
            raise PermissionError(13, "Permission denied", str(path))
        real(path, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "rmdir", refuse)
    with pytest.raises(UserError, match=rf"not deleted:\n  .*{run_id}: Permission denied"):
        gc(store)
    assert execute(store, "SELECT count(*) FROM runs WHERE run_uuid = ?", run_id) == [(1,)]
    monkeypatch.undo()
    gc(store)
    assert not folder.exists() and execute(store, "SELECT count(*) FROM runs") == [(0,)]


def test_a_deleted_run_that_still_trains_is_left(store: Store) -> None:
    import platform

    run_id, folder, _ = new_run(store)
    parent = str(os.getppid())
    store.client.set_tag(run_id, "touchstone.pid", parent)
    store.client.set_tag(run_id, "touchstone.host", platform.node())
    store.client.delete_run(run_id)
    gc(store)
    assert folder.exists() and store.client.get_run(run_id)

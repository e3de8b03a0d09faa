"""After the folder has moved, every verb finds its files again."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.store.relocate import relocate
from lightning_modules.tracking.store import Store, open_store


def addresses(store: Store) -> list[str]:
    with closing(sqlite3.connect(store.uri.removeprefix("sqlite:///"))) as database:
        queries = (
            "SELECT artifact_location FROM experiments",
            "SELECT artifact_uri FROM runs",
            "SELECT artifact_location FROM logged_models",
            "SELECT source FROM model_versions UNION ALL SELECT storage_location FROM model_versions",
        )
        return [row[0] for query in queries for row in database.execute(query)]


def moved(store: Store, to: Path) -> Store:
    """The same store after somebody has moved its folder."""
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    store.client._tracking_client.store.engine.dispose()
    shutil.move(folder, to)
    return open_store(f"sqlite:///{to}/mlflow.db")


@pytest.fixture
def filled(store: Store) -> Store:
    """A store with two runs of which one left no files, a model, two versions of it, and an experiment in a bucket."""
    relocate(store)  # its database is a copy
    client, experiment = store.client, store.experiment("kept 100%")
    run_id = client.create_run(experiment).info.run_id
    client.log_text(run_id, "hello", "note.txt")
    model = client.create_logged_model(experiment, source_run_id=run_id)
    folder = Path(store.uri.removeprefix("sqlite:///")).parent
    (folder / "weights.txt").write_text("w")
    client.log_model_artifacts(model.model_id, str(folder / "artifacts" / "kept 100%" / run_id / "artifacts"))
    client.create_registered_model("kept")
    client.create_model_version("kept", f"{client.get_run(run_id).info.artifact_uri}", run_id)
    client.create_run(experiment)
    client.create_run(client.create_experiment("bucket", "s3://bucket/there"))
    return store


def test_all_addresses_follow_the_folder_and_those_in_buckets_stay(
    filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = moved(filled, tmp_path / "moved ü")
    before = addresses(there)
    count = relocate(there, dry_run=True)
    assert addresses(there) == before and "nothing is written" in capsys.readouterr().out
    assert relocate(there) == count == len([a for a in before if not a.startswith("s3:")])
    after = addresses(there)
    assert [a for a in after if a.startswith("s3:")] == [a for a in before if a.startswith("s3:")]
    assert all("moved%20%C3%BC/artifacts" in a or "moved ü" in a for a in after if not a.startswith("s3:")), after
    run = next(r for r in there.client.search_runs(["1"]) if there.client.list_artifacts(r.info.run_id))
    assert Path(there.client.download_artifacts(run.info.run_id, "note.txt")).read_text() == "hello"
    assert relocate(there) == 0 and addresses(there) == after
    assert "nothing to do" in capsys.readouterr().out


def test_a_store_that_has_moved_twice_before_is_mended_at_once(filled: Store, tmp_path: Path) -> None:
    second = moved(filled, tmp_path / "second")
    run = second.client.create_run(second.experiment("of the second place"))
    location = f"file://{tmp_path}/second/artifacts/x/{run.info.run_id}/artifacts"
    with closing(sqlite3.connect(tmp_path / "second" / "mlflow.db")) as database, database:
        database.execute("UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?", (location, run.info.run_id))
    (tmp_path / "second" / "artifacts" / "x" / run.info.run_id / "artifacts").mkdir(parents=True)
    third = moved(second, tmp_path / "third")
    relocate(third)
    assert all("/third/artifacts" in a for a in addresses(third) if not a.startswith("s3:"))


def test_an_empty_store_that_has_moved_stores_its_next_run_at_the_new_place(store: Store, tmp_path: Path) -> None:
    there = moved(store, tmp_path / "new")
    assert relocate(there) == 1
    run = there.client.create_run("0")
    assert run.info.artifact_uri.startswith(f"file://{tmp_path}/new/artifacts/0/")


def test_a_copy_is_led_to_its_own_files_only_when_it_is_told_so(
    filled: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Path(filled.uri.removeprefix("sqlite:///")).parent
    (tmp_path / "copy").mkdir()
    shutil.copytree(old, tmp_path / "copy" / "mlruns")
    copy = open_store(f"sqlite:///{tmp_path}/copy/mlruns/mlflow.db")
    assert relocate(copy) == 0
    assert f"from={old} makes this store use its own copy" in capsys.readouterr().out
    assert relocate(copy, old=old) > 0
    assert all(f"{tmp_path}/copy/mlruns/artifacts" in a for a in addresses(copy) if not a.startswith("s3:"))
    assert relocate(copy, old=old) == 0


def test_the_old_place_may_be_named_by_the_project_folder(filled: Store, tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    inside = moved(filled, tmp_path / "project" / "mlruns")
    relocate(inside)
    inside.client._tracking_client.store.engine.dispose()
    shutil.move(tmp_path / "project", tmp_path / "elsewhere")
    there = open_store(f"sqlite:///{tmp_path}/elsewhere/mlruns/mlflow.db")
    relocate(there, old=tmp_path / "project")
    assert all("/elsewhere/mlruns/artifacts" in a for a in addresses(there) if not a.startswith("s3:"))


def test_artifacts_that_were_left_behind_are_an_error_and_nothing_is_written(filled: Store, tmp_path: Path) -> None:
    there = moved(filled, tmp_path / "new")
    shutil.move(tmp_path / "new" / "artifacts", tmp_path / "lost")
    before = addresses(there)
    with pytest.raises(UserError, match=r"have no target.*put the old folder `artifacts` beside the database"):
        relocate(there)
    with pytest.raises(UserError, match="no artifact URI begins with it"):
        relocate(there, old=tmp_path / "never")
    with pytest.raises(UserError, match="none of the artifacts that lay there is found"):
        relocate(there, old=tmp_path / "a store")
    assert addresses(there) == before


@pytest.mark.slow
def test_a_trained_run_is_resumed_rerun_and_read_at_the_new_place(
    train: Callable[..., Any],
    store: Store,
    tmp_path: Path,
    command: Callable[..., CompletedProcess[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run as run_config
    from lightning_modules.tracking.checkpoint import read_checkpoint
    from lightning_modules.tracking.resume import best_checkpoint

    # nothing is learned, so that the first epoch stays the best: what was best must be known after the move, too
    first = train("optimizer.lr=0")
    there = moved(store, tmp_path / "new place")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", there.uri)
    said = command("store.py", "relocate")
    assert said.returncode == 0, said.stderr
    assert "1 in logged_models" in said.stdout
    run = there.client.get_run(first.info.run_id)
    assert best_checkpoint(there, run).is_relative_to(tmp_path / "new place")
    run_config(compose_run([f"resume={first.info.run_id}", "trainer.max_epochs=3"]))
    assert there.client.get_run(first.info.run_id).info.status == "FINISHED"
    assert len(there.client.get_metric_history(first.info.run_id, "val/loss")) == 3
    assert read_checkpoint(best_checkpoint(there, run))["epoch"] == 0
    run_config(
        compose_run([f"init_from={first.info.run_id}", "data.per_class=10", "trainer.max_epochs=1", "model=mlp"])
    )
    assert not Path(store.uri.removeprefix("sqlite:///")).parent.exists(), "something was written to the old place"

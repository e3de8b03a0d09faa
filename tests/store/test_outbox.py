"""What was kept while a store was gone is delivered by `store.py sync`, to the store that it belongs to."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from lightning_modules.config.errors import UserError
from lightning_modules.store.sync import sync
from lightning_modules.tracking.outbox import deliver_run, enqueue, pending_files, read_rows
from lightning_modules.tracking.store import Store, open_store


@pytest.fixture
def run_id(store: Store) -> str:
    return str(store.client.create_run(store.experiment("cut off")).info.run_id)


def point(step: int, value: float = 0.5, **more: str) -> dict[str, object]:
    return {"key": "test/loss", "value": value, "timestamp": 1000 + step, "step": step, **more}


def steps(store: Store, run_id: str) -> list[int]:
    return sorted(p.step for p in store.client.get_metric_history(run_id, "test/loss"))


@pytest.mark.slow
def test_points_tags_and_the_end_are_stored_once_and_the_file_goes(
    store: Store, run_id: str, command: Callable[..., CompletedProcess[str]]
) -> None:
    space = store.client.get_run(run_id).info.experiment_id
    model_id = store.client.create_logged_model(space, source_run_id=run_id).model_id
    rows = [point(step, model_id=model_id) for step in range(1500)] + [point(1500, math.nan, model_id=model_id)] * 2
    rows += [{"do": "tags", "tags": {"touchstone.error": "x"}}, {"do": "model", "model_id": model_id, "step": 7}]
    path = enqueue(store.uri, run_id, [*rows, {"do": "end", "status": "FAILED", "end_time": 123456}])
    again = path.read_text()
    for _ in range(2):  # as if it had been killed before it could delete the file
        path.write_text(again)
        said = command("store.py", "sync")
        assert said.returncode == 0, said.stderr
        assert f"sent {len(rows) + 1} rows of {run_id}.jsonl" in said.stdout and not path.exists()
    run = store.client.get_run(run_id)
    assert steps(store, run_id) == list(range(1501))
    assert (run.info.status, run.info.end_time, run.data.tags["touchstone.error"]) == ("FAILED", 123456, "x")
    assert [output.step for output in run.outputs.model_outputs] == [7]
    assert len(store.client.get_logged_model(model_id).metrics or []) == 1501


def test_a_second_file_of_a_run_does_not_overwrite_the_first(store: Store, run_id: str) -> None:
    files = [enqueue(store.uri, run_id, [point(step)]) for step in range(3)]
    assert [file.name for file in files] == [f"{run_id}.jsonl", f"{run_id}-1.jsonl", f"{run_id}-2.jsonl"]
    assert pending_files(store.uri, run_id) == files
    sync()
    assert steps(store, run_id) == [0, 1, 2] and pending_files(store.uri) == []


def test_a_file_follows_its_store_when_the_folder_moves(store: Store, run_id: str, tmp_path: Path) -> None:
    enqueue(store.uri, run_id, [point(3)])
    store.client._tracking_client.store.engine.dispose()
    shutil.move(Path(store.uri.removeprefix("sqlite:///")).parent, tmp_path / "moved")
    there = open_store(f"sqlite:///{tmp_path}/moved/mlflow.db")
    sync(source_uri=there.uri)
    assert steps(there, run_id) == [3]


def test_a_run_that_goes_on_gets_its_points_first_and_keeps_its_status(store: Store, run_id: str) -> None:
    enqueue(store.uri, run_id, [point(1), {"do": "end", "status": "KILLED", "end_time": 1}])
    deliver_run(store, run_id)
    assert steps(store, run_id) == [1] and pending_files(store.uri, run_id) == []
    assert store.client.get_run(run_id).info.status == "RUNNING"


def test_the_end_of_a_run_that_has_ended_otherwise_since_is_not_told_again(store: Store, run_id: str) -> None:
    enqueue(store.uri, run_id, [{"do": "end", "status": "KILLED", "end_time": 1}])
    store.client.set_terminated(run_id, "FINISHED")
    sync()
    assert store.client.get_run(run_id).info.status == "FINISHED"


def test_one_bad_file_is_named_and_stays_and_keeps_no_other(store: Store, run_id: str) -> None:
    good = enqueue(store.uri, run_id, [point(1)])
    damaged = good.with_name("damaged.jsonl")
    damaged.write_text(good.read_text() + '{"run_id": "cut o')
    foreign = enqueue("http://127.0.0.1:9", "0" * 32, [point(1)])
    deleted = str(store.client.create_run(store.experiment("cut off")).info.run_id)
    store.client.delete_run(deleted)
    of_deleted = enqueue(store.uri, deleted, [point(1)])
    with pytest.raises(UserError) as told:
        sync()
    message = str(told.value)
    assert f"{damaged}, line 2, is damaged" in message
    assert f"{foreign}: its server http://127.0.0.1:9 is not responding" in message
    assert f"{of_deleted}: The run {deleted} must be in the 'active' state" in message
    assert all(path.exists() for path in (damaged, foreign, of_deleted)) and not good.exists()
    assert steps(store, run_id) == [1]


@pytest.mark.parametrize(
    "row", ['{"run_id": "../../x", "do": "upload"}', "[]", "7", '{"run_id": "' + "0" * 32 + '", "do": "burn"}']
)
def test_a_line_that_names_a_strange_deed_or_folder_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "crafted.jsonl"
    path.write_text(row + "\n")
    with pytest.raises(UserError, match="line 1, is damaged"):
        read_rows(path)

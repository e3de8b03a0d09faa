"""Every verb against `mlflow server` over PostgreSQL, artifacts handed through by the server."""

import json
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.outbox import work_folder
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import Store, open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
QUICK = ("data.per_class=10", "model=mlp", "~callbacks.progress", "~callbacks.summary")


@pytest.fixture
def server(store: Store, new_server: Callable[..., Any], postgres: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    started = new_server(postgres)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
    return started


def train(*overrides: str) -> Any:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    run(compose_run(list(overrides)))
    store = open_store()
    return store.client.search_runs([store.experiment("touchstone")], order_by=["attributes.start_time DESC"])[0]


def test_train_resume_init_from_and_rerun(server: Any, command: Callable[..., CompletedProcess[str]]) -> None:
    # nothing is learned, so that the first epoch stays the best: it must be known to a run that goes on without its files
    first = train(*QUICK, "trainer.max_epochs=3", "optimizer.lr=0")
    store, run_id = open_store(), first.info.run_id
    assert first.info.status == "FINISHED" and first.info.artifact_uri.startswith("mlflow-artifacts:")
    assert not work_folder(run_id).exists()
    best = read_checkpoint(best_checkpoint(store, first))
    last = [p.step for p in store.client.get_metric_history(run_id, "val/loss")]
    assert len(last) == 3
    resumed = train(f"resume={run_id}", "trainer.max_epochs=4")
    assert resumed.info.run_id == run_id and resumed.info.status == "FINISHED"
    assert len(store.client.get_metric_history(run_id, "val/loss")) == 4
    folder = best_checkpoint(store, resumed).parent
    assert not (folder / "last_weights.ckpt").exists() and "data: best.ckpt" in (folder / "MLmodel").read_text()
    kept = read_checkpoint(best_checkpoint(store, resumed))
    assert kept["epoch"] == best["epoch"] == 0
    started = train(*QUICK, "trainer.max_epochs=1", f"init_from={run_id}")
    assert started.data.tags["touchstone.init_from"] == run_id
    said = command("rerun.py", started.info.run_id, "here=true")
    assert said.returncode == 0 and "all metrics are equal" in said.stdout, said.stdout + said.stderr


def test_local_runs_are_pushed_once_and_numbers_are_those_that_were_measured(
    server: Any, store: Store, command: Callable[..., CompletedProcess[str]]
) -> None:
    client, space = store.client, store.experiment("pushed")
    parent = client.create_run(space, tags={"touchstone.kind": "sweep"}).info.run_id
    child = client.create_run(space, tags={"mlflow.parentRunId": parent}).info.run_id
    odd = [1 / 3, math.nan, math.inf, 5e-324, -1e300]
    for step, value in enumerate(odd):
        client.log_metric(child, "odd", value, 1700000000000 + step, step)
    client.log_text(child, "hello", "notes/note.txt")
    model = client.create_logged_model(space, source_run_id=child, name="model")
    client.set_terminated(child, "FAILED", 1700000001234)
    for _ in range(2):
        said = command("store.py", "sync", f"tracking.uri={store.uri}", f"to={server.uri}")
        assert said.returncode == 0, said.stderr
    assert "0 of them new" in said.stdout and said.stdout.count("already up to date") == 2
    there = open_store(server.uri)
    runs = {r.data.tags["touchstone.synced_from"]: r for r in there.client.search_runs([there.experiment("pushed")])}
    assert set(runs) == {parent, child}
    twin = runs[child]
    assert twin.data.tags["mlflow.parentRunId"] == runs[parent].info.run_id
    assert (twin.info.status, twin.info.end_time) == ("FAILED", 1700000001234)
    here = [(p.step, p.timestamp, str(p.value)) for p in client.get_metric_history(child, "odd")]
    history = there.client.get_metric_history(twin.info.run_id, "odd")
    assert sorted((p.step, p.timestamp, str(p.value)) for p in history) == sorted(here)
    assert Path(there.client.download_artifacts(twin.info.run_id, "notes/note.txt")).read_text() == "hello"
    models = there.client.search_logged_models([twin.info.experiment_id])
    assert [m.tags["touchstone.synced_from"] for m in models] == [model.model_id]


def test_a_server_over_the_very_store_is_refused(
    new_server: Callable[..., Any], store: Store, command: Callable[..., CompletedProcess[str]]
) -> None:
    store.client.create_run(store.experiment("a"))
    server = new_server(store.uri)
    said = command("store.py", "sync", f"tracking.uri={store.uri}", f"to={server.uri}")
    assert said.returncode == 1 and "serves this same store" in said.stderr and "Traceback" not in said.stderr
    assert len(store.client.search_runs([store.experiment("a")])) == 1


def log(uri: str, number: int, steps: int) -> None:
    from lightning_modules.tracking.logger import BufferedMLflowLogger

    store = open_store(uri)
    run = store.client.create_run(store.experiment("writers"), tags={"number": str(number)})
    logger = BufferedMLflowLogger(store.client, run.info.run_id, flush_points=100)
    for step in range(steps):
        logger.log_metrics({"loss": number + step / 7}, step)
    logger.finalize("success")


def test_eight_processes_write_through_the_server_and_no_point_is_lost(server: Any) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=log, args=(server.uri, number, 300)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(250)
    store = open_store(server.uri)
    runs = store.client.search_runs([store.experiment("writers")])
    assert len(runs) == 8
    for run in runs:
        number = int(run.data.tags["number"])
        stored = sorted((p.step, p.value) for p in store.client.get_metric_history(run.info.run_id, "loss"))
        assert stored == [(step, number + step / 7) for step in range(300)]


def test_prune_looks_after_the_work_folders_of_a_server_and_deletes_rows_in_the_database(
    server: Any, postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lightning_modules.store import gc as prune_module

    store = open_store()
    kept, gone = (store.client.create_run(store.experiment("pruned")).info.run_id for _ in range(2))
    store.client.log_metric(gone, "loss", 1.0)
    store.client.delete_run(gone)
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path / "project"))
    for name in (kept, gone, "f" * 32):
        work_folder(name).mkdir(parents=True)
        (work_folder(name) / "file").write_text(json.dumps(name))
    prune_module.gc(store)
    assert {path.name for path in work_folder(kept).parent.iterdir()} == {kept, "f" * 32}
    assert "the server knows no such run" in capsys.readouterr().out
    direct = open_store(postgres)
    prune_module.gc(direct)
    assert {r.info.run_id for r in direct.client.search_runs([store.experiment("pruned")], run_view_type=3)} == {kept}

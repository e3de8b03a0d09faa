"""A server that is killed in the middle costs no run, no point and no file."""

import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer

from lightning_modules.store.sync import sync
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.outbox import pending_files, work_folder
from lightning_modules.tracking.resume import best_checkpoint
from lightning_modules.tracking.store import Store, open_store

pytestmark = pytest.mark.slow
ROOT, EPOCHS = Path(__file__).resolve().parents[2], 5
QUICK = (
    "data.per_class=10",
    "model=mlp",
    "~callbacks.progress",
    "~callbacks.summary",
    "trainer.log_every_n_steps=1",
    "data.batch_size=25",
    "tracking.flush_seconds=0.1",
)


class Outage(Callback):
    """Kills the server when the epoch `gone` begins, and starts it again when the epoch `back` begins."""

    def __init__(self, server: Any, gone: int, back: int | None = None) -> None:
        self.server, self.gone, self.back = server, gone, back

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == self.gone:
            self.server.kill()
        if trainer.current_epoch == self.back:
            self.server.start()


def train(*overrides: str, extra: tuple[Callback, ...] = ()) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run

    run(compose_run(list(overrides)), extra=extra)


def the_run(store: Store) -> Any:
    runs = store.client.search_runs([store.experiment("touchstone")])
    assert len(runs) == 1
    return runs[0]


def require_whole(store: Store, epochs: int = EPOCHS) -> None:
    """Every epoch has its points, once; files, model, tags and status are there."""
    run = the_run(store)
    steps = sorted(p.step for p in store.client.get_metric_history(run.info.run_id, "train/loss"))
    assert steps == list(range(len(steps))) and len(steps) % epochs == 0 and len(steps) >= 2 * epochs
    for name in ("val/loss", "val/accuracy"):
        points = store.client.get_metric_history(run.info.run_id, name)
        assert len(points) == len({p.step for p in points}) == epochs, (name, [p.step for p in points])
    assert len(store.client.get_metric_history(run.info.run_id, "test/loss")) >= 1
    assert run.info.status == "FINISHED" and "mlflow.note.content" in run.data.tags
    files = {info.path for info in store.client.list_artifacts(run.info.run_id)}
    assert {"config", "checkpoints", "environment", "pictures"} <= files
    model = store.client.get_logged_model(run.data.tags["touchstone.model_id"])
    assert str(model.status) == "READY" and {"test/loss"} <= {m.key for m in model.metrics or []}
    assert len(run.outputs.model_outputs) == 1
    assert best_checkpoint(store, run).stat().st_size > 0
    assert not work_folder(run.info.run_id).exists() and pending_files(store.uri) == []


@pytest.fixture
def server(new_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    started = new_server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.uri)
    return started


def test_points_wait_in_memory_and_are_stored_when_the_server_is_back(server: Any) -> None:
    store = open_store()
    run_id = store.client.create_run(store.experiment("touchstone")).info.run_id
    logger = BufferedMLflowLogger(store.client, run_id, flush_points=50)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in range(1000):
            logger.log_metrics({"loss": step / 7}, step)
            if step == 320:
                server.kill()
        server.start()
        logger.finalize("success")
    assert logger.undelivered is None
    stored = [(p.step, p.value) for p in store.client.get_metric_history(run_id, "loss")]
    assert sorted(stored) == [(step, step / 7) for step in range(1000)]


def test_a_run_outlives_an_outage_and_ends_whole(server: Any) -> None:
    train(*QUICK, f"trainer.max_epochs={EPOCHS}", "tracking.system_metrics_s=0.1", extra=(Outage(server, 1, 3),))
    store = open_store()
    require_whole(store)
    name = "system/cpu_utilization_percentage"
    samples = sorted(p.step for p in store.client.get_metric_history(the_run(store).info.run_id, name))
    assert samples == list(range(len(samples))) and len(samples) > 5


def test_a_run_whose_server_stays_gone_ends_well_and_sync_makes_it_whole(
    server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*QUICK, f"trainer.max_epochs={EPOCHS}", "tracking.system_metrics_s=null", extra=(Outage(server, 2),))
    assert "the server is unreachable" in capsys.readouterr().err
    kept = pending_files(server.uri)
    assert len(kept) >= 1 and all(path.is_relative_to(tmp_path / "project") for path in kept)
    server.start()
    for thread in [one for one in threading.enumerate() if one.name == "metrics to MLflow"]:
        thread.join()  # what it still sends must not take away the file that contains the end of the run
    assert pending_files(server.uri) == kept
    store = open_store()
    assert the_run(store).info.status == "RUNNING"  # nobody could tell the server how it ended
    assert any((work_folder(the_run(store).info.run_id) / "model").iterdir())
    sync()
    require_whole(store)
    sync()
    require_whole(store)


def test_a_run_whose_server_was_gone_at_its_end_is_resumed_without_a_point_twice(server: Any) -> None:
    train(*QUICK, "trainer.max_epochs=3", "tracking.system_metrics_s=null", extra=(Outage(server, 1),))
    server.start()
    store = open_store()
    run_id = the_run(store).info.run_id
    store.client.set_tag(run_id, "touchstone.pid", "1")  # the process that trained it is this one
    store.client.set_tag(run_id, "touchstone.process_started", "0")
    train(f"resume={run_id}", "trainer.max_epochs=5")
    require_whole(store, 5)


def test_a_run_that_was_killed_is_resumed_from_the_files_that_its_server_never_got(
    server: Any, command: Callable[..., CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    arguments = [*QUICK, "trainer.max_epochs=100000", "callbacks.last.every_s=0", "tracking.system_metrics_s=null"]
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts" / "train.py"), *arguments])
    store, runs = open_store(), []
    while not runs and process.poll() is None:
        runs = store.client.search_runs([store.experiment("touchstone")])
    work = work_folder(runs[0].info.run_id)
    checkpoint = work / "run" / "checkpoints" / "last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.kill()
    process.wait()
    epochs = read_checkpoint(checkpoint)["epoch"] + 3
    said = command("train.py", f"resume={runs[0].info.run_id}", f"trainer.max_epochs={epochs}")
    assert said.returncode == 0, said.stderr
    assert not work.exists()
    require_whole(store, epochs)

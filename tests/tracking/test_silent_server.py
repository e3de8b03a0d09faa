"""A server that accepts and never answers, or that is gone, does not hold training up, and loses no point."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lightning_modules.tracking import logger as logger_module
from lightning_modules.tracking import undelivered as undelivered_module
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.undelivered import deliver


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as listener:
        held: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    held.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        for one in held:
            one.close()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(undelivered_module, "PROJECT_ROOT", tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    return tmp_path / "mlruns" / "undelivered"


@pytest.fixture
def run_id(store: Store) -> str:
    return str(store.client.create_run(store.experiment("points")).info.run_id)


def steps(store: Store, run_id: str) -> list[int]:
    return sorted(point.step for point in store.client.get_metric_history(run_id, "loss"))


def test_log_calls_and_checkpoints_return_while_the_server_is_silent(
    store: Store, run_id: str, project: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger_module, "SEND_SECONDS", 0.2)
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri=silent), run_id, flush_points=10, flush_seconds=0.0)
    started = time.monotonic()
    for step in range(100):
        logger.log_metrics({"loss": float(step)}, step)
        if step in (40, 80):
            logger.persist()
            assert deliver(store.client, project / _only(project)) == step + 1, "what waits is on the disk"
    sender = logger._sender
    assert sender is not None and sender.is_alive(), "one request hangs all the while"
    with pytest.warns(UserWarning) as warned:
        logger.finalize("success")
    assert sum("does not take them now" in str(warning.message) for warning in warned) == 1
    assert time.monotonic() - started < 20, "the request itself would have hung for 30 s"
    assert logger.undelivered is not None
    deliver(store.client, logger.undelivered)
    assert steps(store, run_id) == list(range(100))
    assert len(list(project.glob("*.jsonl"))) == 1, "the file of the checkpoint is gone"


def _only(folder: Path) -> str:
    [path] = folder.glob("*.jsonl")
    return path.name


def test_the_file_of_a_checkpoint_is_gone_once_the_server_has_its_points(
    store: Store, run_id: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri="http://127.0.0.1:9"), run_id, flush_seconds=0.0)
    with pytest.warns(UserWarning, match="points wait"):
        logger.log_metrics({"loss": 1.0}, 0)
        assert not logger.flush()
    logger.persist()
    assert _only(project)
    logger._client = store.client  # the server is back
    logger.log_metrics({"loss": 2.0}, 1)
    logger.finalize("success")
    assert steps(store, run_id) == [0, 1]
    assert not list(project.glob("*.jsonl"))
    assert logger.undelivered is None


def test_nothing_is_lost_between_a_checkpoint_and_a_killed_process(
    store: Store, run_id: str, project: Path, silent: str
) -> None:
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri=silent), run_id, flush_points=5)
    for step in range(20):
        logger.log_metrics({"loss": float(step)}, step)
    logger.persist()
    del logger  # as `kill -9` leaves it: no finalize
    deliver(store.client, project / _only(project))
    assert steps(store, run_id) == list(range(20))


def test_training_on_a_silent_server_takes_as_many_steps_as_without(
    store: Store, run_id: str, project: Path, silent: str
) -> None:
    """The loop never joins the sender: each call only appends, also while the one request hangs."""
    logger: Any = BufferedMLflowLogger(MlflowClient(tracking_uri=silent), run_id, flush_points=1, flush_seconds=0.0)
    logger.log_metrics({"loss": 0.0}, 0)
    first = logger._sender
    for step in range(1, 500):
        logger.log_metrics({"loss": 0.0}, step)
    assert logger._sender is first and first.is_alive()
    assert len(logger._points) == 500

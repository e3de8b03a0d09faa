"""A server that accepts and never answers, or that is gone, does not hold training up, and loses no point."""

import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from lightning_modules.tracking import metric_sender as sender_module
from lightning_modules.tracking import store as store_module
from lightning_modules.tracking.logger import BufferedMLflowLogger
from lightning_modules.tracking.metric_sender import MetricSender
from lightning_modules.tracking.outbox import UnsentDataWarning, deliver, enqueue, read_rows
from lightning_modules.tracking.store import Store


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
    monkeypatch.setenv("TOUCHSTONE_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    return tmp_path / "mlruns" / "undelivered"


@pytest.fixture
def run_id(store: Store) -> str:
    return str(store.client.create_run(store.experiment("points")).info.run_id)


def steps(store: Store, run_id: str) -> list[int]:
    return sorted(point.step for point in store.client.get_metric_history(run_id, "loss"))


def kept(folder: Path) -> list[int]:
    """The steps in the one file of undelivered points."""
    [path] = folder.glob("*.jsonl")
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_log_calls_and_checkpoints_return_while_the_server_is_silent(
    store: Store, run_id: str, project: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(store_module, "HEALTH_SECONDS", 0.2)
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri=silent), run_id, flush_points=10, flush_seconds=0.0)
    started = time.monotonic()
    with pytest.warns(UserWarning, match="no response within 0 seconds; training continues") as warned:
        for step in range(100):
            logger.log_metrics({"loss": float(step)}, step)
            if step in (40, 80):
                logger.persist()
                assert kept(project) == list(range(step + 1)), "what waits is on the disk"
                time.sleep(0.25)
    assert len(warned) == 1
    with pytest.warns(UnsentDataWarning, match=r"store sync"):
        logger.finalize("success")
    assert time.monotonic() - started < 20, "the request itself would have hung for 30 s"
    assert logger.undelivered is not None and kept(project) == list(range(100))
    assert deliver(store.client, logger.undelivered) == 100
    assert steps(store, run_id) == list(range(100))


def test_the_file_of_a_checkpoint_is_gone_once_the_server_has_its_points(
    store: Store, run_id: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_module, "FIRST_PAUSE_S", 0.01)
    logger = BufferedMLflowLogger(MlflowClient(tracking_uri="http://127.0.0.1:9"), run_id, flush_seconds=0.0)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.persist()
    assert kept(project) == [0]
    assert logger._sender is not None
    logger._sender._client = store.client  # the server is back
    logger.log_metrics({"loss": 2.0}, 1)
    until = time.monotonic() + 30
    while logger._sender.pending and time.monotonic() < until:
        time.sleep(0.01)
    logger.finalize("success")
    assert steps(store, run_id) == [0, 1]
    assert not list(project.glob("*.jsonl"))
    assert logger.undelivered is None


class Down:
    """The client of a server that is down until `up`."""

    def __init__(self, store: Store) -> None:
        self.tracking_uri, self.up, self._client = "http://127.0.0.1:9", False, store.client

    def log_batch(self, run_id: str, metrics: Any) -> None:
        if not self.up:
            raise ConnectionError("refused")
        self._client.log_batch(run_id, metrics=metrics)


@pytest.mark.slow
def test_points_arrive_in_order_and_once_when_a_server_returns(
    store: Store, run_id: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Down(store)
    sender = MetricSender(server, run_id)  # type: ignore[arg-type]
    points = [{"key": "loss", "value": float(step), "timestamp": step, "step": step} for step in range(1100)]
    sender.add(points[:500])
    assert not sender.drain(5) and sender.problem == "refused"
    sender.save()
    sender.add(points[500:])
    sender.save()
    assert kept(project) == list(range(1100))
    deliver(store.client, next(project.glob("*.jsonl")))  # as a server that took them and could not say so
    server.up = True
    sender.retry()
    assert sender.drain(30) and sender.file is None
    history = store.client.get_metric_history(run_id, "loss")
    assert [point.step for point in history] == list(range(1100))
    assert not list(project.glob("*.jsonl"))


def test_half_a_line_is_taken_back_where_the_disk_is_full(store: Store, run_id: str, project: Path) -> None:
    row = {"key": "loss", "value": 1.0, "timestamp": 1, "step": 1}
    path = enqueue(store.uri, run_id, [row])
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match="cannot be written anywhere"):
            enqueue(store.uri, run_id, [{**row, "step": 2}] * 3, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.stat().st_size == size
    assert enqueue(store.uri, run_id, [{**row, "step": 2}], path) == path
    assert [row["step"] for row in read_rows(path)] == [1, 2]

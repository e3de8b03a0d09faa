"""A sweep and a comparison against `mlflow server`, also one that goes away for a while in the middle."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.config.project import SHIPPED
from lightning_modules.tracking.store import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
WORDS = (
    "model=linear", "data.per_class=10", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.summary",
    "seed=range(4)", "sweep.jobs=2", "callbacks.last.every_s=0", "cpu_threads=1",
)  # fmt: skip


@pytest.fixture
def name() -> Iterator[str]:
    """Of a sweep whose files lie in the project, as they do for a server."""
    chosen = f"test-{uuid.uuid4().hex[:8]}"
    yield chosen
    shutil.rmtree(SHIPPED / "mlruns" / "sweeps" / chosen, ignore_errors=True)


def begin(uri: str, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(SHIPPED / "scripts" / "train.py"), "-m", *WORDS, *words]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(uri: str, name: str) -> list[Any]:
    store = open_store(uri)
    experiment = store.experiment("touchstone")
    parents = store.client.search_runs([experiment], f"tags.`sweep.name` = '{name}'")
    if not parents:
        return []
    return list(store.client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parents[0].info.run_id}'"))


def test_a_sweep_and_its_comparison(new_server: Callable[..., Any], postgres: str, name: str, tmp_path: Path) -> None:
    server = new_server(postgres)
    process = begin(server.uri, f"sweep={name}", "trainer.max_epochs=2")
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert [run.info.status for run in children(server.uri, name)] == ["FINISHED"] * 4
    command = [
        sys.executable,
        str(SHIPPED / "scripts" / "compare.py"),
        name,
        "by=model",
        f"out={tmp_path}",
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "linear" in done.stdout and "4" in done.stdout
    assert list(tmp_path.glob("**/*.csv"))


def test_a_sweep_waits_for_a_server_that_is_away(new_server: Callable[..., Any], name: str) -> None:
    server = new_server()
    process = begin(server.uri, f"sweep={name}", "trainer.max_epochs=60", "sweep.retries=3")
    limit = time.monotonic() + 200
    while not any(run.data.metrics for run in children(server.uri, name)):
        assert time.monotonic() < limit and process.poll() is None
        time.sleep(0.5)
    server.kill()
    time.sleep(10)
    server.start()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    runs = children(server.uri, name)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4, said
    store = open_store(server.uri)
    for run in runs:
        steps = [point.step for point in store.client.get_metric_history(run.info.run_id, "val/loss")]
        assert len(steps) == len(set(steps)) == 60

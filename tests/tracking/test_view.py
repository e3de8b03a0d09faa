"""MLflow's pages open on the experiment, with the columns by which runs are compared."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.tracking.view import open_on

ROOT = Path(__file__).resolve().parents[2]


def a_run(store: Any, experiment: str, **tags: str) -> None:
    from mlflow.entities import Metric, Param

    run = store.client.create_run(experiment, tags=tags)
    names = ("test/accuracy", "test/f1", "test/class_accuracy/0", "val/accuracy", "val/loss", "train/loss")
    params = [Param(key, "1") for key in ("data", "model", "optimizer.lr", "seed", "model.width", "data.root")]
    store.client.log_batch(run.info.run_id, [Metric(name, 0.5, 0, 0) for name in names], params)


def test_the_columns_are_what_tells_runs_apart_and_how_they_did(store: Any) -> None:
    assert open_on(store) is None
    a_run(store, store.experiment("other"))
    experiment = store.experiment("mine")
    a_run(store, experiment)
    a_run(store, experiment, **{"sweep.keys": json.dumps(["model.width", "seed"])})
    path = open_on(store)
    assert path is not None and path.startswith(f"/#/experiments/{experiment}/runs?")
    view = json.loads(store.client.get_experiment(experiment).tags["mlflow.sharedViewState.touchstone"])
    assert view["selectedColumns"] == [
        "metrics.`test/accuracy`", "metrics.`test/f1`", "metrics.`val/accuracy`", "metrics.`val/loss`",
        "params.`data`", "params.`model`", "params.`model.width`", "params.`seed`", "params.`optimizer.lr`",
    ]  # fmt: skip


def test_a_port_that_is_taken_is_answered_with_another(store: Any, command: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = command("ui.py", "--port", str(port))
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1: Address already in use; try --port {port + 1}" in done.stderr


@pytest.mark.slow
def test_the_pages_open_on_loopback_and_close_with_the_command(store: Any) -> None:
    a_run(store, store.experiment("mine"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "scripts" / "ui.py"), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith("runs:"))
        assert f"http://127.0.0.1:{port}/#/experiments/1/runs?" in line
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=30).status == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    time.sleep(1)
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0

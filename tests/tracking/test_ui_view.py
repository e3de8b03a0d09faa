"""MLflow's pages open on the experiment, with the columns by which runs are compared."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lightning_modules.cli.ui import columns, configure_columns, free_port
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.store import Store

ROOT = Path(__file__).resolve().parents[2]


def a_run(store: Any, experiment: str, **tags: str) -> None:
    from mlflow.entities import Metric, Param

    run = store.client.create_run(experiment, tags=tags)
    names = ("test/accuracy", "test/f1", "test/class_accuracy/0", "val/accuracy", "val/loss", "train/loss")
    params = [Param(key, "1") for key in ("data", "model", "optimizer.lr", "seed", "model.width", "data.root")]
    store.client.log_batch(run.info.run_id, [Metric(name, 0.5, 0, 0) for name in names], params)


def test_the_columns_are_what_tells_runs_apart_and_how_they_did(store: Any) -> None:
    assert configure_columns(store) is None
    a_run(store, store.experiment("other"))
    experiment = store.experiment("mine")
    a_run(store, experiment)
    a_run(store, experiment, **{"sweep.keys": json.dumps(["model.width", "seed"])})
    path = configure_columns(store)
    assert path is not None and path.startswith(f"/#/experiments/{experiment}/runs?")
    view = json.loads(store.client.get_experiment(experiment).tags["mlflow.sharedViewState.touchstone"])
    assert view["selectedColumns"] == [
        "metrics.`test/accuracy`", "metrics.`test/f1`", "metrics.`val/accuracy`", "metrics.`val/loss`",
        "params.`data`", "params.`model`", "params.`model.width`", "params.`seed`", "params.`optimizer.lr`",
    ]  # fmt: skip


def test_each_printed_address_opens_the_run_as_training(store: Any) -> None:
    page = "#/experiments/1/runs/abc?workflowType=machine_learning"
    assert store.where_to_see("1", "abc") == f"touchstone ui, then http://127.0.0.1:5000/{page}"
    assert Store("http://ann:secret@tracker:80").where_to_see("1", "abc").endswith(f"tracker:80/{page}")
    assert "secret" not in Store("http://ann:secret@tracker:80").where_to_see("1", "abc")


def test_the_columns_of_sweeps_are_their_best_and_its_spread() -> None:
    own = SimpleNamespace(data=SimpleNamespace(tags={}, metrics={"test/accuracy": 0.5, "val/loss": 1.0}, params={}))
    names = ("test/accuracy_best", "test/accuracy_mean", "test/accuracy_std", "val/loss_best")
    sweep = SimpleNamespace(
        data=SimpleNamespace(tags={"touchstone.kind": "sweep"}, metrics=dict.fromkeys(names, 1.0), params={})
    )
    shown = ["test/accuracy", "val/loss", "test/accuracy_best", "test/accuracy_std"]
    assert columns([own, sweep, sweep]) == [f"metrics.`{name}`" for name in shown]


def test_a_port_that_is_taken_is_answered_with_another() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1: Address already in use; try port={port + 1}"):
            free_port(str(port))


@pytest.mark.parametrize("port", ["-1", "0", "65536", "1" + "0" * 30, "5e3", "٥٠٠٠", "http", ""])
def test_what_is_no_port_is_refused(port: str) -> None:
    with pytest.raises(UserError) as caught:
        free_port(port)
    assert str(caught.value) == f"port={port}: expected a port number from 1 to 65535"


@pytest.mark.parametrize("host", ["no such host", "", "..", "x" * 70, "127.0.0.1:5000", "\0"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(UserError, match="is not an address of this machine"):
        free_port("5000", host)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"port 5000 of 192\.0\.2\.1: Cannot assign requested address"):
        free_port("5000", "192.0.2.1")


def test_ui_answers_a_wrong_port_with_one_message(command: Any) -> None:
    done = command("ui.py", "port=-1")
    assert (done.returncode, done.stderr) == (1, "port=-1: expected a port number from 1 to 65535\n")


@pytest.mark.slow
def test_the_pages_open_on_loopback_and_close_with_the_command(store: Any) -> None:
    a_run(store, store.experiment("mine"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "scripts" / "ui.py"), f"port={port}"]
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

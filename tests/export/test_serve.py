"""MLflow serves what a run leaves: the checkpoint, its compressed model and its exports, over HTTP on this machine."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
import torch

from lightning_modules.config.errors import UserError
from lightning_modules.export.mlflow_server import running_server
from lightning_modules.run.serve import find_logged_model, load_task, model_weights

ROOT = Path(__file__).resolve().parents[2]
COMPRESSED = ("compression=codebook", "model=convnet", "data.per_class=20")


def raw(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def query_server(port: int, x: np.ndarray) -> np.ndarray:
    body = json.dumps({"inputs": x.tolist()}).encode()
    request = Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return np.array(json.load(answer)["predictions"])


def compressed_model(run: Any) -> str:
    return f"models:/{run.data.tags['touchstone.compressed_model_id']}"


@pytest.mark.slow
def test_a_compressed_model_is_loaded_as_any_other(train: Any, store: Any) -> None:
    import mlflow

    uri = compressed_model(train(*COMPRESSED))
    path = model_weights(store, uri)
    assert path.suffix == ".safetensors"
    task = load_task(path)
    with torch.inference_mode():
        own = task.scores(task(torch.from_numpy(raw(5)))).numpy()
    served = mlflow.pyfunc.load_model(uri)
    assert np.array_equal(served.predict(raw(5)), own)
    assert "onnxruntime==" in (path.parent / "requirements.txt").read_text()


def test_a_model_of_something_else_is_refused(recorded_run: Any, store: Any) -> None:
    run = recorded_run
    empty = store.client.create_logged_model(run.info.experiment_id, name="other")
    with pytest.raises(UserError, match="not a Touchstone model"):
        model_weights(store, f"models:/{empty.model_id}")


@pytest.mark.slow
def test_a_run_names_its_published_model_and_a_run_without_one_says_so(train: Any, store: Any) -> None:
    run = train()
    uri = f"models:/{run.data.tags['touchstone.model_id']}"
    folder = Path(model_weights(store, uri)).parent
    assert find_logged_model(store, run.info.run_id) == find_logged_model(store, uri) == (uri, folder)
    said = store.client.get_run(run.info.run_id).data.tags["mlflow.note.content"]
    head, rule, row, blank, *_ = said.splitlines()
    assert head.startswith("| test/accuracy | ") and row.count("|") == head.count("|") == rule.count("|") and not blank
    command = f"MLFLOW_TRACKING_URI='{store.uri}' mlflow models serve -m {uri} --env-manager local"
    assert f"`touchstone serve {run.info.run_id}` serves it, as `{command}` does." in said
    bare = store.client.create_run(run.info.experiment_id, run_name="bare").info.run_id
    with pytest.raises(UserError, match=rf"run {bare} \(bare, RUNNING\) has no logged model"):
        find_logged_model(store, "bare")
    store.client.set_tag(bare, "touchstone.model_id", store.client.create_logged_model(run.info.experiment_id).model_id)
    with pytest.raises(UserError, match="has no logged model"):
        find_logged_model(store, "bare")


@pytest.mark.slow
def test_serve_answers_as_predict_until_sigterm(train: Any, store: Any, command: Any, tmp_path: Path) -> None:
    run_id = train().info.run_id
    np.save(tmp_path / "one.npy", raw(1))
    rows = command("predict.py", run_id, f"input={tmp_path / 'one.npy'}").stdout.splitlines()
    port = free_port()
    words = [sys.executable, str(ROOT / "scripts" / "serve.py"), run_id, f"port={port}"]
    process = subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert any(f"is served at http://127.0.0.1:{port}/invocations" in line for line in process.stdout)
        (scores,) = query_server(port, raw(1))
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(60)
    assert rows[1].split(",")[2:] == [str(scores.argmax()), f"{scores.max():.6f}"]
    assert code == 128 + signal.SIGTERM
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "mlflow.db").exists(), "MLflow has made a store of its own"


@pytest.mark.slow
def test_a_compressed_model_answers_single_samples_and_batches_over_http(train: Any, store: Any) -> None:
    uri = compressed_model(train(*COMPRESSED))
    task = load_task(model_weights(store, uri))
    port = free_port()
    with running_server(uri, store.uri, port):
        for count in (1, 16):
            with torch.inference_mode():
                own = task.scores(task(torch.from_numpy(raw(count)))).numpy()
            np.testing.assert_allclose(query_server(port, raw(count)), own, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(store: Any, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="mlflow models serve failed"),
        running_server(str(tmp_path / "nothing"), store.uri, free_port()),
    ):
        pass

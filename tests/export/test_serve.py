"""MLflow serves what a run leaves: the checkpoint, its compressed model and its exports, over HTTP on this machine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_modules.errors import UserError
from lightning_modules.export.served import ask, served_latency, serving
from lightning_modules.serve import load_task, weights_of_model

COMPRESSED = ("compression=codebook", "model=convnet", "data.per_class=20")


def raw(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def compressed_model(run: Any) -> str:
    return f"models:/{run.data.tags['touchstone.compressed_model_id']}"


def test_a_compressed_model_is_loaded_as_any_other(train: Any, store: Any) -> None:
    import mlflow

    uri = compressed_model(train(*COMPRESSED))
    path = weights_of_model(store, uri)
    assert path.suffix == ".safetensors"
    task = load_task(path)
    with torch.inference_mode():
        own = task.scores(task(torch.from_numpy(raw(5)))).numpy()
    served = mlflow.pyfunc.load_model(uri)
    assert np.array_equal(served.predict(raw(5)), own)
    assert "onnxruntime==" in (path.parent / "requirements.txt").read_text()


def test_a_model_of_something_else_is_refused(train: Any, store: Any) -> None:
    run = train()
    empty = store.client.create_logged_model(run.info.experiment_id, name="other")
    with pytest.raises(UserError, match="no model of this harness"):
        weights_of_model(store, f"models:/{empty.model_id}")


@pytest.mark.slow
def test_a_compressed_model_answers_single_samples_and_batches_over_http(train: Any, store: Any) -> None:
    uri = compressed_model(train(*COMPRESSED))
    task = load_task(weights_of_model(store, uri))
    with serving(uri, store.uri) as address:
        for count in (1, 16):
            with torch.inference_mode():
                own = task.scores(task(torch.from_numpy(raw(count)))).numpy()
            np.testing.assert_allclose(ask(address, raw(count)), own, rtol=0, atol=1e-5)
        times = served_latency(address, raw(16), calls=20)
    assert {name: time.calls for name, time in times.items()} == {"single": 20, "batch": 20}


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why(store: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mlflow models serve failed"), serving(str(tmp_path / "nothing"), store.uri):
        pass

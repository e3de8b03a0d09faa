"""Modules with several inputs, outputs by name, or predict_step alone are served and predict files, or say why not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import user_networks
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient

from lightning_modules.config.errors import UserError
from lightning_modules.run.predict import find_model, predict
from lightning_modules.run.serve import find_logged_model
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint


@pytest.fixture
def fit(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_networks")

    def launch(task: str) -> Any:
        chosen = ("task=lightning_module", f"task._target_=user_networks.{task}", "data=lightning_datamodule")
        quiet = ("tracking.system_metrics_s=null", "callbacks.progress=null", "callbacks.summary=null")
        return train(*chosen, "data._target_=user_networks.Digits", "trainer.max_epochs=1", *quiet, quick=False)

    return launch


def test_several_inputs_are_served_by_name(fit: Callable[..., Any], store: Any) -> None:
    run = fit("TwoInputs")
    _, folder = find_logged_model(store, run.info.run_id)
    rng = np.random.default_rng(0)
    x = {
        "image": rng.uniform(0, 16, (5, 1, 8, 8)).astype("float32"),
        "mask": rng.uniform(size=(5, 64)).astype("float32"),
    }
    served = mlflow.pyfunc.load_model(str(folder)).predict(x)
    task = user_networks.TwoInputs()
    task.load_state_dict(read_checkpoint(best_checkpoint(store, run))["state_dict"])
    expected = task.eval()(torch.from_numpy(x["image"]), torch.from_numpy(x["mask"]))
    assert served.keys() == expected.keys()
    assert all(np.allclose(served[name], expected[name].detach().numpy(), atol=1e-5) for name in expected)
    client = TestClient(scoring_server.init(mlflow.pyfunc.load_model(str(folder))))
    answer = client.post("/invocations", json={"inputs": {name: value.tolist() for name, value in x.items()}})
    assert np.allclose(answer.json()["predictions"]["logits"], served["logits"], atol=1e-5)
    with pytest.raises(UserError, match="takes 2 inputs, but a file holds one"):
        find_model(store, run.info.run_id)


@pytest.mark.slow
def test_files_are_predicted_by_predict_step(fit: Callable[..., Any], store: Any, tmp_path: Path) -> None:
    run = fit("Predicting")
    x = np.random.default_rng(0).uniform(size=(3, 1, 8, 8)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    with (tmp_path / "out.csv").open("w") as out:
        predict(*find_model(store, run.info.run_id), tmp_path / "x.npy", out)
    task = user_networks.Predicting()
    task.load_state_dict(read_checkpoint(best_checkpoint(store, run))["state_dict"])
    classes, scores = task.predict_step(torch.from_numpy(x), 0)
    head, *rows = (tmp_path / "out.csv").read_text().splitlines()
    assert head == "file,sample,output_0,output_1"
    found = [[float(cell) for cell in row.split(",")[2:]] for row in rows]
    assert np.allclose(found, torch.stack([classes, scores], 1).detach().numpy(), atol=1e-5)


def test_what_cannot_be_served_is_said_at_the_start(
    fit: Callable[..., Any], store: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fit("Boxes")
    reason = "cannot be served: predict_step returns 'output_0', which is no tensor with a row for each sample"
    assert f"serving: the checkpoint is kept, but {reason}" in capsys.readouterr().out
    with pytest.raises(UserError, match="cannot be served"):
        find_logged_model(store, run.info.run_id)

"""A LightningModule that is not one of ours is exported with its own inputs and outputs, verified, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
import user_networks

from lightning_modules.config.errors import UserError
from lightning_modules.export import formats
from lightning_modules.export.export import export_run, log_export
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.resume import best_checkpoint


@pytest.fixture
def fit(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_networks")

    def launch(task: str, *overrides: str) -> Any:
        chosen = ["task=lightning_module", f"task._target_=user_networks.{task}", "data=lightning_datamodule"]
        chosen += ["tracking.system_metrics_s=null", "callbacks.progress=null", "callbacks.summary=null"]
        return train(*chosen, "data._target_=user_networks.Digits", "trainer.max_epochs=1", *overrides, quick=False)

    return launch


def trained(store: Any, run: Any, task: Any) -> Any:
    task.load_state_dict(read_checkpoint(best_checkpoint(store, run))["state_dict"])
    return task.eval()


def exported(store: Any, run: Any, form: str, folder: Path) -> Any:
    """What MLflow loads from the files of an export."""
    folder.mkdir()
    found, example = export_run(store, run, form, False, folder)
    log_export(store, run.info.run_id, found, example)
    assert store.client.get_run(run.info.run_id).data.metrics[f"export/{form}/max_error"] < 1e-4
    return mlflow.pyfunc.load_model(str(folder))


@pytest.mark.parametrize("form", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_the_file_gives_the_outputs_of_the_module(
    fit: Callable[..., Any], store: Any, tmp_path: Path, form: str
) -> None:
    run = fit("Convnet")
    served = exported(store, run, form, tmp_path / "exported")
    task = trained(store, run, user_networks.Convnet())
    for count in (1, 5):
        x = torch.rand(count, 1, 8, 8) * 16
        assert np.allclose(served.predict(x.numpy()), task(x).detach().numpy(), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx"])
def test_several_inputs_and_outputs_keep_their_names(
    fit: Callable[..., Any], store: Any, tmp_path: Path, form: str
) -> None:
    run = fit("TwoInputs")
    served = exported(store, run, form, tmp_path / "exported")
    x = {"image": torch.rand(5, 1, 8, 8) * 16, "mask": torch.rand(5, 64)}
    expected = trained(store, run, user_networks.TwoInputs())(**x)
    found = served.predict({name: value.numpy() for name, value in x.items()})
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[name], expected[name].detach().numpy(), atol=1e-4) for name in expected)


@pytest.mark.slow
def test_a_compressed_module_is_exported(fit: Callable[..., Any], store: Any, tmp_path: Path) -> None:
    run = fit("Convnet", "compression=channels", "compression.stages.channels.epochs=1", "compression.runtimes=[]")
    dense = fit("Convnet")
    sizes = [export_run(store, one, "onnx", False, tmp_path)[0].path.stat().st_size for one in (run, dense)]
    assert sizes[0] < 0.8 * sizes[1]


@pytest.mark.slow
def test_a_file_with_other_outputs_is_refused(
    fit: Callable[..., Any], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, honest = fit("Convnet"), formats.onnx_bytes
    other = formats.trace(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), torch.zeros(2, 1, 8, 8))
    monkeypatch.setattr(formats, "onnx_bytes", lambda program, **names: honest(other, **names))
    with pytest.raises(UserError, match="differs from the checkpoint"):
        export_run(store, run, "onnx", False, tmp_path)


def test_what_cannot_be_exported_is_named(fit: Callable[..., Any], store: Any, tmp_path: Path) -> None:
    run = fit("Boxes")
    with pytest.raises(UserError, match="format=onnx: Boxes cannot be exported: predict_step returns 'output_0'"):
        export_run(store, run, "onnx", False, tmp_path)
    with pytest.raises(UserError, match="quantized=true: only for tasks derived from Supervised"):
        export_run(store, run, "onnx", True, tmp_path)
    assert not list(tmp_path.glob("model*"))


@pytest.mark.slow
def test_our_task_on_any_datamodule_is_exported(
    train: Callable[..., Any], store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_networks")
    chosen = ("model=mlp", "model.input_shape=[1,8,8]", "model.num_outputs=10", "data._target_=user_networks.Digits")
    quiet = ("tracking.system_metrics_s=null", "callbacks.progress=null", "callbacks.summary=null")
    run = train("data=lightning_datamodule", *chosen, "trainer.max_epochs=1", *quiet, quick=False)
    found, _ = export_run(store, run, "onnx", False, tmp_path)
    assert found.agreement.max_error < 1e-4
    store.client.set_tag(run.info.run_id, "data.fingerprint", "0" * 64)
    with pytest.raises(UserError, match="data fingerprint mismatch"):
        export_run(store, store.client.get_run(run.info.run_id), "onnx", False, tmp_path)

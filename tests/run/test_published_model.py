"""The model that is recorded is the trained one: with its own preprocessing, or the run fails."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from custom_preprocessing import Centre, LogAffine, OwnDigits, Sharpen, Warming, fitted
from torch import nn

from lightning_modules.config.errors import UserError
from lightning_modules.data.preprocess import Standardize, preprocess_spec
from lightning_modules.export.export import export_run
from lightning_modules.run.serve import load_task, model_weights
from lightning_modules.task.task_spec import load_task_from_spec
from lightning_modules.tracking.resume import best_checkpoint

Train = Callable[..., Any]


def own(preprocessing: str) -> tuple[str, str]:
    return "data._target_=custom_preprocessing.OwnDigits", f"+data.preprocessing={preprocessing}"


@pytest.fixture(autouse=True)
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "custom_preprocessing")


def accuracy(predict: Callable[[np.ndarray], np.ndarray], preprocessing: str) -> float:
    data = OwnDigits(preprocessing)
    data.setup()
    index = data.splits["test"]
    x, y = data.arrays.x[index], data.arrays.y[index]
    return float((predict(x.numpy()).argmax(1) == y.numpy()).mean())


def statuses(store: Any) -> list[str]:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return sorted(run.info.status for run in store.client.search_runs(experiments))


@pytest.mark.parametrize("preprocessing", ["chain", "fitted"])
def test_a_served_model_preprocesses_as_it_was_trained(train: Train, preprocessing: str) -> None:
    import mlflow

    run = train(*own(preprocessing))
    served = mlflow.pyfunc.load_model(f"models:/{run.data.tags['touchstone.model_id']}")
    assert accuracy(served.predict, preprocessing) == pytest.approx(run.data.metrics["test/accuracy"])


@pytest.mark.slow
def test_compressed_and_exported_models_preprocess_as_they_were_trained(
    train: Train, store: Any, tmp_path: Any
) -> None:
    run = train(*own("chain"), "compression=codebook", "compression.runtimes=[eager]")
    task = load_task(model_weights(store, f"models:/{run.data.tags['touchstone.compressed_model_id']}"))

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return task(torch.from_numpy(x)).numpy()

    assert accuracy(predict, "chain") == pytest.approx(run.data.metrics["compressed/test/accuracy"])
    exported, _ = export_run(store, run, "onnx", quantized=False, folder=tmp_path)
    assert exported.agreement.accuracy is not None
    assert exported.agreement.accuracy[1] == pytest.approx(run.data.metrics["compressed/test/accuracy"])


REFUSED = {
    "hidden": r"^The preprocessing custom_preprocessing\.Hidden cannot be recorded: it has no attribute 'power' for "
    r"this constructor argument\. Add a method recipe\(\)",
    "local": r"OwnDigits\.build_preprocess\.<locals>\.Local cannot be recorded: .*has no '<locals>'",
    "forgetful": r"^the recorded model is not the trained model: .* its scores differ by up to \d",
}


@pytest.mark.parametrize("preprocessing", REFUSED)
def test_preprocessing_that_cannot_be_recorded_is_refused_before_training(
    train: Train, store: Any, preprocessing: str
) -> None:
    with pytest.raises(UserError, match=REFUSED[preprocessing]):
        train(*own(preprocessing))
    assert statuses(store) == []


def test_what_a_compressed_file_cannot_hold_is_refused_before_training(train: Train, store: Any) -> None:
    with pytest.raises(UserError, match=r"^the recorded model is not the trained model"):
        train(*own("fitted"), "compression=codebook")
    assert statuses(store) == []


def test_a_package_that_is_not_trusted_is_refused_before_training(
    train: Train, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TOUCHSTONE_TRUST")
    with pytest.raises(UserError, match=r"preprocess._target_=custom_preprocessing\.Sharpen .*TOUCHSTONE_TRUST"):
        train(*own("sharpen"))
    assert statuses(store) == []


def test_a_model_that_is_not_the_trained_one_when_loaded_back_fails_the_run(train: Train, store: Any) -> None:
    words = ("model=linear", "~model.hidden", "model._target_=custom_preprocessing.Warming")
    with pytest.raises(UserError, match=r"best\.ckpt is not the trained model: .* differ by up to \d.* for 64 samples"):
        train(*words)
    assert statuses(store) == ["FAILED"]
    [model] = store.client.search_logged_models([e.experiment_id for e in store.client.search_experiments()])
    assert "READY" not in str(model.status)


@pytest.mark.parametrize("precision", ["bf16-true", "64-true", "bf16-mixed"])
def test_every_precision_is_published(train: Train, precision: str) -> None:
    assert train("trainer.max_epochs=1", f"trainer.precision={precision}").info.status == "FINISHED"


@pytest.mark.slow
def test_weights_of_another_shape_are_refused_in_one_message(recorded_run: Any, store: Any) -> None:
    task = load_task(best_checkpoint(store, recorded_run))
    state = {key: value[:1] if key == "model.output.weight" else value for key, value in task.state_dict().items()}
    with pytest.raises(UserError, match=r"^FILE does not match its own config: .*(mismatch|missing)"):
        load_task_from_spec(task.task_spec, {key: value[:1] for key, value in state.items()}, "FILE")


def test_a_recipe_has_the_arguments_of_every_module_of_a_chain() -> None:
    chain = nn.Sequential(
        Sharpen(0.5), nn.Sequential(LogAffine([1.0], [2.0])), Standardize([0.5], [0.25]), nn.Flatten(2)
    )
    assert preprocess_spec(chain) == {
        "_target_": "torch.nn.Sequential",
        "_args_": [
            {"_target_": "custom_preprocessing.Sharpen", "power": 0.5},
            {
                "_target_": "torch.nn.Sequential",
                "_args_": [
                    {"_target_": "custom_preprocessing.LogAffine"} | {"shift": [1.0], "scale": [2.0], "fitted": False}
                ],
            },
            {"_target_": "lightning_modules.data.preprocess.Affine", "shift": [0.5], "scale": [0.25], "fitted": False},
            {"_target_": "torch.nn.modules.flatten.Flatten", "start_dim": 2, "end_dim": -1},
        ],
    }
    assert preprocess_spec(fitted([1, 8, 8])) == {"_target_": "custom_preprocessing.Centre", "shape": [1, 8, 8]}
    assert isinstance(Warming([1, 8, 8], 10), nn.Module) and Centre([2]).mean.shape == (2,)


def test_the_settings_of_a_users_preprocessing_are_part_of_the_fingerprint(tmp_path: Any) -> None:
    from lightning_modules.data.fingerprint import describe_preprocess

    assert describe_preprocess(Sharpen(0.5)) != describe_preprocess(Sharpen(0.6))
    assert describe_preprocess(nn.Sequential(Sharpen(0.5))) == describe_preprocess(nn.Sequential(Sharpen(0.5)))

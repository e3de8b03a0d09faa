"""One short run of each thing that changes how a run goes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

Train = Callable[..., Any]


@pytest.mark.parametrize(
    "overrides",
    [
        ("trainer.precision=bf16-mixed",),
        ("trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0", "scheduler=one_cycle"),
        ("task.class_weights=balanced", "task.label_smoothing=0.1", "decay_norms_and_biases=false", "task.l2=1e-4"),
        ("data=tabular", "data.name=diabetes", "task=regression", "data.per_class=null", "tracking.pictures=true"),
        ("data=tabular", "data.name=breast_cancer", "task=binary", "tracking.pictures=true"),
        pytest.param(("model=vit_tiny", "optimizer=sgd"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_run_of_this_kind_finishes_with_a_model(store: Any, train: Train, overrides: tuple[str, ...]) -> None:
    run = train(*overrides)
    assert run.info.status == "FINISHED"
    assert np.isfinite(run.data.metrics["test/loss"])
    assert best_checkpoint(store, run).is_file()


@pytest.mark.slow
def test_several_labels_of_a_sample_are_learned(train: Train, tmp_path: Path) -> None:
    digits = load_digits()
    table = pd.DataFrame(digits.data, columns=[f"pixel{i}" for i in range(64)])
    table["even"], table["big"] = (digits.target % 2 == 0).astype(int), (digits.target > 4).astype(int)
    table.to_csv(tmp_path / "labels.csv", index=False)
    run = train("data=tabular", "data.name=null", f"data.path={tmp_path}/labels.csv", "data.target=[even,big]",
                "task=multilabel", "data.per_class=null")  # fmt: skip
    assert run.data.metrics["test/accuracy"] > 0.8
    assert run.data.metrics["test/auroc"] > 0.9


@pytest.mark.parametrize(
    "option",
    ["fast", "limit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("overfit", "profile", "anomaly"))],
)
def test_a_debug_option_runs(train: Train, option: str) -> None:
    run = train(f"debug={option}", *(["trainer.max_epochs=10"] if option == "overfit" else []))
    assert run.info.status == "FINISHED"
    folder = local_folder(run.info.artifact_uri)
    assert folder is not None
    assert (folder / "profile" / "fit-profile.txt").exists() == (option == "profile")


@pytest.mark.slow
def test_a_batch_can_be_overfitted(store: Any, train: Train) -> None:
    run = train("debug=overfit", "trainer.max_epochs=100", "optimizer.lr=0.01")
    loss = [value for _, value in metric_histories(store, run.info.run_id)["train/loss"]]
    assert len(loss) == 100
    assert loss[-1] < 0.05 * loss[0]


@pytest.mark.slow
def test_early_stopping_ends_a_run_that_gains_nothing(store: Any, train: Train) -> None:
    run = train(
        "callbacks=early_stopping", "callbacks.early_stopping.patience=2", "optimizer.lr=0", "trainer.max_epochs=30"
    )
    assert len(metric_histories(store, run.info.run_id)["val/loss"]) == 3


@pytest.mark.slow
def test_the_saved_weights_are_the_averaged_ones(store: Any, train: Train) -> None:
    still = train("callbacks=ema", "callbacks.ema.decay=1.0")  # the average never leaves its first value
    moved = train()
    first, other = (read_checkpoint(best_checkpoint(store, run))["state_dict"] for run in (still, moved))
    assert still.data.metrics["test/loss"] > moved.data.metrics["test/loss"]
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.slow
def test_the_last_checkpoint_does_not_depend_on_a_metric(store: Any, train: Train) -> None:
    run = train("callbacks=last", "data.val_fraction=0.0")
    assert "val/loss" not in run.data.metrics
    assert best_checkpoint(store, run).name == "last_weights.ckpt"
    assert run.data.metrics["test/accuracy"] > 0.2


@pytest.mark.slow
def test_weights_of_another_network_in_a_file_are_taken_for_transfer(store: Any, train: Train) -> None:
    pretrained = train("model=torchvision", "model.name=resnet18", "data.per_class=4", "trainer.max_epochs=1")
    path = best_checkpoint(store, pretrained)
    run = train("model=torchvision", "model.name=resnet18", f"model.weights='{path}'", "model.freeze_backbone=true",
                "data.per_class=4", "trainer.max_epochs=1")  # fmt: skip
    ours, theirs = (read_checkpoint(p)["state_dict"] for p in (best_checkpoint(store, run), path))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs if "layer" in key and "num_batches" not in key)


@pytest.mark.slow
def test_a_compiled_model_is_trained_and_saved_under_plain_names(store: Any, train: Train) -> None:
    run = train("compile=true")
    plain = train()
    assert read_checkpoint(best_checkpoint(store, run))["state_dict"].keys() == (
        read_checkpoint(best_checkpoint(store, plain))["state_dict"].keys()
    )
    assert run.data.metrics["test/loss"] == pytest.approx(plain.data.metrics["test/loss"], rel=1e-3)

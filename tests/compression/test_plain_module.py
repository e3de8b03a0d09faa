"""Recipes compress a network within any LightningModule, on any datamodule."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import user_networks
from conftest import newest_run

from lightning_modules.compression.artifact import load_compressed
from lightning_modules.compression.budget.compress import compress_run
from lightning_modules.compression.container import read
from lightning_modules.compression.quantization.weight_sharing import WeightSharing
from lightning_modules.config.errors import UserError
from lightning_modules.run.serve import model_weights
from lightning_modules.tracking.tags import COMPRESSED_MODEL_TAG

CHOSEN = (
    "task=lightning_module", "task._target_=user_networks.Convnet", "trainer.max_epochs=3", "compression.runtimes=[]",
    "data=lightning_datamodule", "data._target_=user_networks.Digits", "tracking.system_metrics_s=null",
    "tracking.pictures=false", "callbacks.progress=null", "callbacks.summary=null",
)  # fmt: skip


@pytest.fixture
def fit(train: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_networks")

    def launch(*overrides: str, task: str = "Convnet") -> Any:
        return train(*CHOSEN, f"task._target_=user_networks.{task}", *overrides, quick=False)

    return launch


def compressed_file(store: Any, run: Any) -> Path:
    return model_weights(store, f"models:/{run.data.tags[COMPRESSED_MODEL_TAG]}")


def accuracy(task: pl.LightningModule) -> float:
    """On the test part that the run had."""
    pl.seed_everything(0, verbose=False)
    data = user_networks.Digits()
    data.setup("test")
    with torch.no_grad():
        return float(torch.cat([task(x).argmax(1) == y for x, y in data.test_dataloader()]).float().mean())


def test_deep_compression(fit: Callable[..., Any], store: Any) -> None:
    run = fit("compression=deep_compression", "compression.stages.prune={sparsity: 0.8, epochs: 3, every: 5}")
    metrics, path = run.data.metrics, compressed_file(store, run)
    assert metrics["dense/test_acc"] == metrics["test_acc"] > 0.9
    assert metrics["compression/ratio"] == pytest.approx(metrics["dense/size_bytes"] / path.stat().st_size)
    assert metrics["compression/ratio"] > 8
    task = load_compressed(path)
    assert type(task) is user_networks.Convnet
    assert accuracy(task) == pytest.approx(metrics["compressed/test_acc"], abs=1e-6)
    assert metrics["compressed/test_acc"] > 0.7
    _, tensors, state = read(path)
    assert sum(int((~mask).sum()) for mask in state.masks.values()) == round(0.8 * (9 + 9 * 16 + 160) * 16)
    assert all(len(tensors[name].unique()) <= 17 for name in state.codebooks)
    assert float(tensors["temperature"]) != 1  # a tensor outside of the network


@pytest.mark.slow
def test_fewer_channels_in_int8(fit: Callable[..., Any], store: Any) -> None:
    run = fit("compression=channels_int8", "compression.stages.channels.epochs=2")
    metrics, path = run.data.metrics, compressed_file(store, run)
    assert metrics["compressed/macs"] < 0.6 * metrics["dense/macs"]
    assert accuracy(load_compressed(path)) == pytest.approx(metrics["compressed/test_acc"], abs=1e-6)
    assert metrics["compressed/test_acc"] > 0.85
    x = np.random.default_rng(0).uniform(0, 16, (3, 1, 8, 8)).astype("float32")
    served = mlflow.pyfunc.load_model(str(path.parent)).predict(x)
    assert np.allclose(served, load_compressed(path)(torch.from_numpy(x)).detach().numpy(), atol=1e-5)


@pytest.mark.slow
def test_pruning_in_the_training_of_a_nested_network(fit: Callable[..., Any], store: Any) -> None:
    prune = "compression.stages.prune={when: fit, epochs: 0, sparsity: 0.5, every: 5}"
    run = fit("compression=gradual", prune, "compression.module=net.encoder", task="Nested")
    _, _, state = read(compressed_file(store, run))
    assert sum(int((~mask).sum()) for mask in state.masks.values()) == round(0.5 * 64 * 32)
    assert "dense/test_acc" not in run.data.metrics


@pytest.mark.parametrize(
    "overrides, message",
    [
        (
            ["compression=magnitude", "task._target_=user_networks.Bare"],
            "compression=magnitude: the task has no module 'model': set compression.module to one of body; the task has no "
            "example_input_array (a tensor); the task has no test_step; use compression=none",
        ),
        (
            ["compression=magnitude", "compression.module=modle"],
            "no module 'modle': set compression.module to one of model",
        ),
        (
            ["compression=codebook", "compression.stages.share.lr=0.1"],
            "stages.share: Convnet: lr=0.1: configure_optimizers",
        ),
        (
            [
                "compression=magnitude",
                "compression.stages.prune.criterion=taylor",
                "task._target_=user_networks.Manual",
            ],
            "stages.prune: Manual: with manual optimization, training_step returns no loss",
        ),
        (
            ["compression=magnitude", "task._target_=user_networks.Twice"],
            "expected one call in forward, with one tensor; found 2 calls, with 1, 1 inputs",
        ),
        pytest.param(
            ["compression=int8_static", "+data.labels_first=true"],
            "forward of the task fails for inputs of shape [50]: ",
            marks=pytest.mark.slow,
        ),
        (["compression=magnitude", "compression.stages.prune.sensitivity=true"], "task.monitor.metric"),
    ],
)
def test_what_is_missing_is_named_before_the_first_step(
    fit: Callable[..., Any], overrides: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *_: pytest.fail("a step was taken"))
    with pytest.raises(UserError) as error:
        fit(*overrides)
    assert message in str(error.value)


def test_distillation_needs_a_task_of_ours(fit: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="it adds to the loss, so the task must be derived from Supervised"):
        fit("compression=distillation", "compression.stages.distil.teacher=nothing")


@pytest.mark.slow
def test_an_interrupted_compression_is_resumed(
    fit: Callable[..., Any], train: Callable[..., Any], store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prune = "compression.stages.prune={sparsity: 0.8, epochs: 1, every: 5}"
    words = ("compression=deep_compression", prune, "compression.stages.share.epochs=0", "trainer.max_epochs=1")
    whole = fit(*words)
    with monkeypatch.context() as patch:
        patch.setattr(WeightSharing, "begin", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            fit(*words, "name=half")
    train("resume=half", quick=False)
    [half] = store.search_runs("attributes.run_name = 'half'")
    expected, found = (load_compressed(compressed_file(store, run)).state_dict() for run in (whole, half))
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe, overrides",
    [
        ("low_rank", ["compression.stages.low_rank.epochs=1"]),
        ("two_four", ["compression.stages.prune.exclude=['0']"]),
        ("taylor", ["compression.stages.prune.epochs=1"]),
        ("half", []),
        ("mixed_bits", []),
    ],
)
def test_other_recipes(fit: Callable[..., Any], store: Any, recipe: str, overrides: list[str]) -> None:
    run = fit(f"compression={recipe}", "trainer.max_epochs=1", *overrides)
    task = load_compressed(compressed_file(store, run))
    assert accuracy(task) == pytest.approx(run.data.metrics["compressed/test_acc"], abs=1e-6)


@pytest.mark.slow
def test_two_ranks_have_the_same_mask(command: Callable[..., Any], store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "user_networks")
    folders = [str(Path(str(user_networks.__file__)).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(folders)}
    chosen = [
        "compression=deep_compression",
        "compression.stages.prune={when: fit, epochs: 0, sparsity: 0.8, every: 5}",
    ]
    chosen += ["strategy=ddp", "trainer.devices=2"]  # pruned in the training; the shared values are trained after it
    ended = command("train.py", *CHOSEN, *chosen, "+callbacks.same._target_=user_networks.SameZeros", **environment)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    zeros = round(0.8 * (9 + 9 * 16 + 160) * 16)
    assert ended.stdout.count(f"rank 0 of 2: {zeros} zeros, as all ranks") >= 2, ended.stdout
    path = compressed_file(store, newest_run(store))
    assert accuracy(load_compressed(path)) == pytest.approx(newest_run(store).data.metrics["compressed/test_acc"])


@pytest.mark.slow
def test_the_cheapest_compression_of_a_run_is_searched(
    fit: Callable[..., Any], store: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(str(user_networks.__file__)).parent), prepend=os.pathsep)
    dense = fit("task.monitor={metric: val_acc, mode: max}")
    stages = ["compression.stages.prune.epochs=1", "compression.stages.share.epochs=0", "compression.runtimes=[]"]
    [attempt] = compress_run(dense.info.run_id, {"size_ratio": 2.0}, 1.0, 1, 1, stages)
    assert attempt.metrics["compression/ratio"] > 2
    assert attempt.metrics["dense/val_acc"] > 0.9
    assert "goal met" in capfd.readouterr().out


def test_a_run_that_monitors_nothing_is_not_searched(fit: Callable[..., Any], store: Any) -> None:
    run = fit("trainer.max_epochs=0")
    with pytest.raises(UserError, match=r"task\.monitor\.metric=null: max_drop is measured in it"):
        compress_run(run.info.run_id, {"size_ratio": 4.0}, 1.0, 1, 1, [])


def test_a_stage_that_fails_with_the_trained_weights_loses_nothing(
    train: Callable[..., Any], store: Any, tmp_path: Path
) -> None:
    small = ("trainer.max_epochs=1", "compression.runtimes=[]")
    energy = ("compression=low_rank", "compression.stages.low_rank.energy=0.999999")
    with pytest.raises(
        UserError, match=r"nothing was saved: with energy(.|\n)*the trained network of this run is kept"
    ) as late:
        train(*small, *energy)
    failed = newest_run(store)
    assert failed.info.status == "FAILED" and f"init_from={failed.info.run_id}" in str(late.value)
    again = train(*small, "compression=magnitude", f"init_from={failed.info.run_id}", "trainer.max_epochs=0",
                  "compression.stages.prune.epochs=0")  # fmt: skip
    assert again.info.status == "FINISHED"
    assert again.data.metrics["dense/test/accuracy"] == failed.data.metrics["test/accuracy"]
    assert again.data.metrics["compressed/size_bytes"] < again.data.metrics["dense/size_bytes"]

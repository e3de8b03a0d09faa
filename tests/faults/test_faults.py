"""What a user or a machine can do wrong: one message, the right exit code, and a store that stays consistent."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from lightning_modules.config.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Train = Callable[..., Any]


def statuses(store: Any) -> list[str]:
    experiments = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return sorted(run.info.status for run in store.client.search_runs(experiments))


BEFORE_THE_FIRST_STEP = {
    "optimizer.lr=-1": r"optimizer \(torch.optim.AdamW\): Invalid learning rate",
    "scheduler=one_cycle scheduler.pct_start=5": r"scheduler\.pct_start=5: expected a value in",
    "callbacks=early_stopping callbacks.early_stopping.monitor=val/acuracy": "'val/acuracy' is not known .did you mean 'acc",
    "data.val_fraction=0": "use callbacks=last",
    "data=image_folder data.per_class=null data.root=/nonexistent": "/nonexistent",
    "model.num_outputs=3": "model.num_outputs=3: the data .* needs 10",
    "model.input_shape=[3,3]": "does not accept samples of shape",
    "task.loss._target_=torch.nn.MSELoss": "task.loss: torch.nn.MSELoss does not work",
    "task=binary": "task=binary: digits has 10 classes; try task=classification",
    "task=multilabel": "try task=classification",
    "task=regression": "try task=classification",
    "+callbacks.mine._target_=torch.nn.ReLU": "callbacks.mine: expected a Callback, got a ReLU",
    "trainer.devices=3": "need a strategy",
    "trainer.max_epochs=-2": "max_epochs",
    "tracking.min_free_mb=1e12": "not enough disk space",
    "resume=nonsense": "no run 'nonsense'",
    "resume=": "resume=: empty value",
    "init_from=": "init_from=: empty value",
    "init_from=nonsense": "no run 'nonsense'",
    "tracking.uri=./mlruns": "no file store",
    "tracking.uri=http://127.0.0.1:1": "is not responding",
}


@pytest.mark.parametrize("words", BEFORE_THE_FIRST_STEP)
def test_a_mistake_is_told_before_the_first_step_and_leaves_no_run(train: Train, store: Any, words: str) -> None:
    with pytest.raises(UserError, match=BEFORE_THE_FIRST_STEP[words]):
        train(*words.split())
    assert statuses(store) == []


def test_a_device_that_is_not_there_is_answered_with_those_that_are(train: Train, store: Any) -> None:
    absent = "mps" if not torch.backends.mps.is_available() else "gpu"
    with pytest.raises(UserError, match=f"trainer.accelerator={absent}.* available on this machine: trainer=cpu"):
        train(f"trainer={absent}")
    assert statuses(store) == []


def test_a_component_that_refuses_its_values_is_named_without_hydras_words(train: Train, store: Any) -> None:
    from hydra.errors import InstantiationException

    from lightning_modules.config.command_line import format_error

    with pytest.raises(InstantiationException) as refused:
        train("model.dropout=7")
    assert format_error(refused.value) == (
        "model: lightning_modules.model.mlp.MLP rejected its arguments: dropout probability has to be between 0 and 1, but got 7"
    )
    with pytest.raises(InstantiationException) as ours:
        train("data.folds=5", "data.fold=9")
    assert format_error(ours.value) == "data.fold=9: expected an integer in 0..4"
    assert statuses(store) == []


def test_a_loss_that_is_no_number_ends_the_run_as_failed_and_says_where(train: Train, store: Any) -> None:
    with pytest.raises(UserError, match=r"loss is nan at step \d+ \(lr=1e\+30\)\. Samples of the batch: \d+"):
        train("optimizer=sgd", "optimizer.lr=1e30")
    assert statuses(store) == ["FAILED"]


def test_no_epoch_at_all_tests_the_weights_as_they_are(train: Train) -> None:
    run = train("trainer.max_epochs=0")
    assert run.info.status == "FINISHED"
    assert "test/accuracy" in run.data.metrics


@pytest.mark.slow
def test_more_outputs_than_classes_can_be_trained(train: Train) -> None:
    assert train("model.num_outputs=20").info.status == "FINISHED"


class Broken(torch.nn.Module):
    """A network that breaks in the middle of training, as a user's may."""

    def __init__(self, input_shape: Any, num_outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, num_outputs)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.calls > 3:
            raise RuntimeError("broken in the middle")
        return self.layer(x.flatten(1))


def test_a_fault_in_the_middle_keeps_the_traceback_and_the_points(
    train: Train, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.tracking.artifacts import artifact_path

    monkeypatch.setattr("lightning_modules.model.mlp.Broken", Broken, raising=False)
    monkeypatch.setenv("TOUCHSTONE_TRUST", Broken.__module__)
    with pytest.raises(RuntimeError, match="broken in the middle"):
        train(
            "model=linear",
            "~model.hidden",
            "model._target_=lightning_modules.model.mlp.Broken",
            "trainer.log_every_n_steps=1",
        )
    (run,) = store.client.search_runs([e.experiment_id for e in store.client.search_experiments()])
    assert run.info.status == "FAILED"
    assert "broken in the middle" in artifact_path(store, run, "traceback.txt").read_text()
    assert "train/loss" in run.data.metrics


def test_a_record_that_cannot_be_described_does_not_stay_running(
    train: Train, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lightning_modules.tracking.record.Record.text", full)
    with pytest.raises(UserError, match=r"the disk of .* is full: run digits-mlp [^()]*\([0-9a-f]{32}\) is FAILED$"):
        train()
    assert statuses(store) == ["FAILED"]


class FillsTheDisk(pl.Callback):
    """Leaves no room on the disk of the store as epoch 2 begins."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:
            with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as file:
                while file.write(bytes(4096)):
                    pass


@pytest.mark.slow
def test_a_disk_that_fills_is_one_message_and_nothing_is_lost(
    store: Any, train: Train, small_disk: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: Any
) -> None:
    from lightning_modules.config.command_line import compose_run
    from lightning_modules.run.run import run
    from lightning_modules.store.sync import sync

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    words = "data.per_class=10 model=mlp trainer.log_every_n_steps=1 callbacks.last.every_s=0 tracking.pictures=false"
    quiet = "tracking.system_metrics_s=null tracking.min_free_mb=0 ~callbacks.progress ~callbacks.summary"
    with pytest.raises(UserError) as full:
        run(compose_run([*words.split(), *quiet.split(), "trainer.max_epochs=4"]), extra=[FillsTheDisk(small_disk)])
    (stopped,) = store.client.search_runs(["1"])
    run_id = stopped.info.run_id
    kept = elsewhere / "undelivered" / f"{run_id}.jsonl"
    shown = str(full.value)
    assert "run digits-mlp" in shown and f" ({run_id}) is FAILED; its status and last points are in {kept}" in shown
    assert f"resume={run_id} continues from its last checkpoint" in str(full.value)
    assert "Traceback" not in capfd.readouterr().err
    (small_disk / "ballast").unlink()
    sync()
    assert statuses(store) == ["FAILED"] and not kept.exists()
    done = train(f"resume={run_id}", quick=False)
    assert done.info.status == "FINISHED"
    steps = [point.step for point in store.client.get_metric_history(run_id, "train/loss")]
    assert sorted(steps) == list(range(max(steps) + 1))


@pytest.mark.parametrize("damage", ["half", "empty", "pickle"])
def test_a_damaged_checkpoint_is_refused_and_its_run_left_as_it_was(
    train: Train, store: Any, recorded_run: Any, damage: str
) -> None:
    from lightning_modules.tracking.artifacts import artifact_path

    path = artifact_path(store, recorded_run, "checkpoints/last.ckpt")
    whole = path.read_bytes()
    if damage == "pickle":
        torch.save({"state_dict": ROOT}, path)  # a Path is an object, not a plain value
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "half" else b"")
    with pytest.raises(UserError, match=r"last\.ckpt is damaged, or not a checkpoint of a run"):
        train(f"resume={recorded_run.info.run_id}", quick=False)
    assert statuses(store) == ["FINISHED"]


@pytest.mark.slow
def test_the_weights_of_another_network_are_refused(train: Train, store: Any, recorded_run: Any) -> None:
    run = recorded_run
    with pytest.raises(UserError, match=r"do not match this model .* use the same model"):
        train("model=linear", f"init_from={run.info.run_id[:8]}")
    with pytest.raises(UserError, match="a resumed run cannot replace its model"):
        train(f"resume={run.info.run_id}", "model=linear", quick=False)
    assert statuses(store) == ["FINISHED"]


def test_a_recorded_config_that_calls_a_shell_is_not_resumed(train: Train, store: Any, recorded_run: Any) -> None:
    from lightning_modules.tracking.artifacts import artifact_path

    path = artifact_path(store, recorded_run, "config/config.yaml")
    path.write_text(path.read_text().replace("torch.nn.CrossEntropyLoss", "os.system"))
    with pytest.raises(UserError, match=r"task\.loss\._target_=os\.system is not called"):
        train(f"resume={recorded_run.info.run_id}", quick=False)


def test_a_store_that_is_damaged_or_something_else_is_named(tmp_path: Path) -> None:
    from lightning_modules.tracking.store import open_store

    damaged, other, folder = tmp_path / "damaged.db", tmp_path / "other.db", tmp_path / "folder.db"
    damaged.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 8)
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE songs (title TEXT)")
    folder.mkdir()
    for path in (damaged, other, folder):
        with pytest.raises(UserError, match=path.name):
            open_store(f"sqlite:///{path}")


def test_a_misspelt_command_is_answered_without_importing_torch(command: Callable[..., Any], store: Any) -> None:
    done = command("train.py", "optimizer.lrr=1", "modle=mlp", "debug=fats", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert told[0] == "3 mistakes on the command line:"
    assert not any("Traceback" in line for line in told)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "hydra" in imported
    assert not {"torch", "pytorch_lightning", "mlflow", "torchmetrics"} & imported


def test_a_mistake_in_the_config_exits_with_1_and_no_traceback(command: Callable[..., Any], store: Any) -> None:
    done = command("train.py", "optimizer.lr=abc", "+model.depht=2")
    assert (done.returncode, done.stderr.splitlines()[0]) == (1, "2 mistakes in the config:"), done.stderr
    assert "Traceback" not in done.stderr
    assert statuses(store) == []


def test_a_signal_ends_the_run_as_killed_and_it_can_be_resumed(store: Any, train: Train, tmp_path: Path) -> None:
    words = "trainer.max_epochs=100000 data.per_class=10 model=mlp callbacks.last.every_s=0 tracking.pictures=false"
    with subprocess.Popen(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *words.split(), "~callbacks.progress"],
        cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        for _ in range(600):
            if process.poll() is not None or list(tmp_path.rglob("checkpoints/last.ckpt")):
                break
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert "ended by signal 15" in told and "Traceback" not in told
    assert statuses(store) == ["KILLED"]
    (stopped,) = store.client.search_runs(["1"])
    epoch = torch.load(next(tmp_path.rglob("checkpoints/last.ckpt")), weights_only=True)["epoch"]
    run = train(f"resume={stopped.info.run_id}", f"trainer.max_epochs={epoch + 3}", quick=False)
    assert (run.info.run_id, run.info.status) == (stopped.info.run_id, "FINISHED")

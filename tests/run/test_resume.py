"""Going on in a run, starting from one, and running one again."""

import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from recorded_runs import newest_run

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import SignalReceived
from lightning_modules.run.run import run
from lightning_modules.task.supervised import Supervised
from lightning_modules.tracking.checkpoint import read_checkpoint
from lightning_modules.tracking.rerun import metric_histories
from lightning_modules.tracking.resume import best_checkpoint

SMALL = (
    "model=mlp", "model.dropout=0.1", "trainer.max_epochs=5", "trainer.log_every_n_steps=3", "callbacks.last.every_s=0",
    "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.progress", "~callbacks.summary",
)  # fmt: skip
CASES = {
    "plain": (),
    "ordinary loop, plateau": ("steps_per_call=1", "scheduler=plateau"),
    "fast loop, plateau of the training loss": (
        "callbacks=lowest_train_loss",
        "callbacks.last.every_s=0",
        "scheduler=plateau",
        "scheduler.monitor=train/epoch_loss",
        "scheduler.patience=0",
        "scheduler.threshold=0.5",
    ),
    "cosine, augmented": (
        "scheduler=cosine",
        "augmentation=image_basic",
        "augmentation.transforms.crop_flip.padding=1",
    ),
    "averaged weights": ("callbacks=ema", "callbacks.last.every_s=0"),
}


def train_until(
    epoch: int, overrides: Sequence[str], monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM
) -> None:
    """Train, and send this process a signal when `epoch` begins."""
    start = Supervised.on_train_epoch_start

    def begin(self: Supervised) -> None:
        start(self)
        if self.current_epoch == epoch:
            signal.raise_signal(number)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_train_epoch_start", begin)
        run(compose_run([*SMALL, *overrides]))


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=() if c == "cosine, augmented" else pytest.mark.slow) for c in CASES]
)
def test_a_resumed_run_is_bit_equal_to_the_uninterrupted_one(
    store: Any, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    require_bit_equal_resume(store, CASES[case], monkeypatch)


@pytest.mark.slow
def test_balanced_batches_of_a_table_with_embedded_categories_are_resumed_bit_equal(
    store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = "".join(f"{'abc'[i % 3]},{i % 7},{'yes' if i % 5 == 0 else 'no'}\n" for i in range(100))
    (tmp_path / "table.csv").write_text(f"kind,size,sold\n{rows}")
    table = [
        "data=tabular",
        "data.name=null",
        f"data.path={tmp_path}/table.csv",
        "data.target=sold",
        "data.batch_size=16",
    ]
    require_bit_equal_resume(store, [*table, "data.categories=embedding", "data.order=balanced"], monkeypatch)
    drawn = read_checkpoint(best_checkpoint(store, newest_run(store)))
    assert drawn["state_dict"]["model.embedding.tables.0.weight"].shape == (4, 3)


def require_bit_equal_resume(store: Any, overrides: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run(compose_run([*SMALL, *overrides]))
    whole = newest_run(store)
    train_until(3, overrides, monkeypatch)
    killed = newest_run(store)
    assert killed.info.status == "KILLED"
    run(compose_run([f"resume={killed.info.run_id}"]))
    resumed = store.client.get_run(killed.info.run_id)
    assert resumed.info.status == "FINISHED"
    assert metric_histories(store, killed.info.run_id) == metric_histories(store, whole.info.run_id)
    ours, theirs = (read_checkpoint(best_checkpoint(store, r))["state_dict"] for r in (resumed, whole))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.slow
def test_no_point_is_stored_twice_where_steps_are_replayed(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train_until(3, ["callbacks.last.every_s=1000"], monkeypatch)  # no checkpoint was written: nothing to go on from
    with pytest.raises(UserError, match=r"last\.ckpt"):
        run(compose_run([f"resume={newest_run(store).info.run_id}"]))
    stop = Supervised.on_validation_epoch_end

    def die(self: Supervised) -> None:
        stop(self)
        if self.current_epoch == 3:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch, pytest.raises(SignalReceived):
        patch.setattr(Supervised, "on_validation_epoch_end", die)  # epoch 3 is logged, but not in the checkpoint
        run(compose_run(SMALL))
    killed = newest_run(store)
    assert killed.info.status == "KILLED"
    run(compose_run([f"resume={killed.info.run_id}"]))
    steps = [step for step, _ in metric_histories(store, killed.info.run_id)["val/loss"]]
    assert steps == [20, 40, 60, 80, 100]


@pytest.mark.slow
def test_a_resumed_run_says_what_it_does_otherwise(store: Any, train: Callable[..., Any]) -> None:
    first = train(quick=True)
    run(compose_run([f"resume={first.info.run_id}", "trainer.max_epochs=4"]))
    after = store.client.get_run(first.info.run_id)
    assert "trainer.max_epochs: 2 -> 4" in after.data.tags["touchstone.resumed_with"]
    assert after.data.params["trainer.max_epochs"] == "2"
    assert after.info.status == "FINISHED"


@pytest.mark.slow
def test_a_resumed_run_keeps_its_groups(recorded_run: Any) -> None:
    first = recorded_run
    with pytest.raises(UserError, match="cannot replace its model"):
        run(compose_run([f"resume={first.info.run_id}", "model=linear"]))


def test_init_from_starts_a_new_run_with_the_best_weights_of_another(
    recorded_run: Any, train: Callable[..., Any]
) -> None:
    first = recorded_run
    second = train(f"init_from={first.info.run_id}", "trainer.max_epochs=0")
    assert second.info.run_id != first.info.run_id
    assert second.data.tags["touchstone.init_from"] == first.info.run_id
    assert second.data.metrics["test/loss"] == first.data.metrics["test/loss"]
    with pytest.raises(UserError, match="do not match"):
        train(f"init_from={first.info.run_id}", "model=linear")


@pytest.mark.slow
def test_a_rerun_on_the_recorded_code_is_bit_equal(
    store: Any, train: Callable[..., Any], command: Callable[..., Any]
) -> None:
    first = train()
    done = command("rerun.py", first.info.run_id[:8])
    assert done.returncode == 0, done.stderr
    assert "all metrics are equal" in done.stdout
    assert newest_run(store).data.tags["touchstone.rerun_of"] == first.info.run_id


@pytest.mark.slow
def test_a_rerun_here_names_the_first_step_that_differs(
    store: Any, train: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.tracking import rerun as room

    first, second = train(), train("optimizer.lr=0.1")
    monkeypatch.setattr(room, "_start_rerun", lambda *_: second.info.run_id)
    with pytest.raises(SystemExit) as exit_:
        room.rerun(first.info.run_id, here=True)
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert "different from step" in printed and "code: " in printed


@pytest.mark.slow
def test_a_rerun_with_other_data_is_refused(recorded_run: Any, train: Callable[..., Any]) -> None:
    first = recorded_run
    with pytest.raises(UserError, match="expected_fingerprint"):
        train("data.expected_fingerprint=" + first.data.tags["data.fingerprint"], "data.split_seed=7")

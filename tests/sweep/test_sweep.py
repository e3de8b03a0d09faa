"""Sweeps as a user runs them: every combination is one run below one parent, whatever fails on the way."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightning_modules.tracking.artifacts import local_folder

Sweep = Callable[..., Any]
FAULTY = '''
import os, signal
import pytorch_lightning as pl

class Dies(pl.Callback):
    """Ends the process by a signal in epoch 1, as often as the file of marks allows."""

    def __init__(self, number, times, marks):
        self.number, self.times, self.marks = number, times, marks

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch != 1:
            return
        with open(self.marks, "a+") as file:
            file.seek(0)
            seen = len(file.read())
            file.write("x")
        if seen < self.times:
            if self.number:
                os.kill(os.getpid(), self.number)
            raise RuntimeError("something broke")
'''


@pytest.fixture
def dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], tuple[str, ...]]:
    """The overrides of a callback that ends its process, or (number 0) raises, so many times in all."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "faulty_callback.py").write_text(FAULTY)
    monkeypatch.syspath_prepend(str(folder))

    def words(number: int, times: int) -> tuple[str, ...]:
        marks = str(tmp_path / "marks")
        target = "+callbacks.dies._target_=faulty_callback.Dies"
        return (
            target,
            f"+callbacks.dies.number={number}",
            f"+callbacks.dies.times={times}",
            f"+callbacks.dies.marks='{marks}'",
        )

    return words


def test_a_grid_is_one_parent_with_a_child_for_each_combination(sweep: Sweep, store: Any) -> None:
    done = sweep("optimizer.lr=1e-3,1e-2", "seed=range(2)", "sweep.name=grid-one", "sweep.jobs=2")
    assert done.code == 0, done.said
    assert [child.name for child in done.children] == [
        "lr=0.001 seed=0", "lr=0.001 seed=1", "lr=0.01 seed=0", "lr=0.01 seed=1",
    ]  # fmt: skip
    assert {child.status for child in done.children} == {"FINISHED"}
    assert done.parent.info.status == "FINISHED"
    assert json.loads(done.parent.data.tags["sweep.keys"]) == ["optimizer.lr", "seed"]
    for child in done.children:
        run = store.client.get_run(child.run_id)
        assert run.data.tags["mlflow.parentRunId"] == done.parent.info.run_id
        assert float(run.data.params["optimizer.lr"]) == child.params["optimizer.lr"]
        assert int(run.data.params["seed"]) == child.params["seed"]
        assert not [key for key in run.data.params if key.startswith(("sweep", "search"))]
        assert "sweep.job" not in run.data.tags["touchstone.command"]
    folder = local_folder(done.parent.info.artifact_uri)
    assert folder is not None
    for name in ("children.csv", "children.html", "parallel_coordinates.png", "importance.png", "plan.json"):
        assert (folder / "sweep" / name).stat().st_size > 100, name
    pairs = [done.children[:2], done.children[2:]]  # the two seeds of each learning rate
    best = max(pairs, key=lambda pair: sum(child.values["val/accuracy"] for child in pair))
    assert done.parent.data.tags["sweep.best_run_id"] == best[0].run_id
    assert done.parent.data.tags["sweep.best_name"] == f"{best[0].name.split()[0]}, mean of 2 runs"
    assert best[0].run_id in done.parent.data.tags["mlflow.note.content"]


@pytest.mark.slow
def test_a_child_is_the_run_that_the_same_overrides_give_alone(sweep: Sweep, train: Any, store: Any) -> None:
    from lightning_modules.tracking.rerun import metric_histories

    done = sweep("optimizer.lr=1e-2,1e-3", "trainer.log_every_n_steps=1", "cpu_threads=1")
    alone = train("optimizer.lr=1e-2", "trainer.log_every_n_steps=1", "model=linear", "cpu_threads=1")
    assert metric_histories(store, done.children[0].run_id) == metric_histories(store, alone.info.run_id)


def test_the_same_command_again_trains_nothing(sweep: Sweep) -> None:
    words = ("seed=0,1", "sweep.name=twice")
    first = sweep(*words)
    again = sweep(*words)
    assert again.code == 0
    assert [child.run_id for child in again.children] == [child.run_id for child in first.children]
    assert again.parent.info.run_id == first.parent.info.run_id
    assert "2 of them done already" in again.said
    by_id = sweep(f"sweep.resume={first.parent.info.run_id}", quick=False)
    assert [child.run_id for child in by_id.children] == [child.run_id for child in first.children]


@pytest.mark.slow
def test_the_same_name_with_other_parameters_is_refused_with_the_difference(sweep: Sweep) -> None:
    sweep("seed=0,1", "sweep.name=mine")
    other = sweep("seed=0,2", "optimizer.lr=0.5", "sweep.name=mine")
    assert other.code == 1
    assert "a sweep named mine exists with different settings" in other.said
    assert "optimizer.lr: was 0.002, now 0.5" in other.said
    assert "seed: was 0,1, now 0,2" in other.said
    assert len(other.children) == 2


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_neither_the_sweep_nor_the_other_trials(sweep: Sweep) -> None:
    done = sweep("optimizer=sgd", "optimizer.lr=1e38,1e-2", "sweep.retries=1")
    assert done.code == 1
    assert "1 of 2 trials failed" in done.said
    bad, good = done.children
    assert (bad.status, good.status) == ("FAILED", "FINISHED")
    assert "loss is" in bad.error and bad.attempts == 1  # a mistake is not retried
    assert done.parent.info.status == "FINISHED"
    assert done.parent.data.tags["sweep.failed"] == "1"


def test_a_failed_trial_is_tried_again_in_the_same_run_from_its_checkpoint(sweep: Sweep, dies: Any, store: Any) -> None:
    done = sweep("seed=0", *dies(0, 1), "sweep.retries=1", "callbacks.last.every_s=0", "trainer.log_every_n_steps=1")
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"]
    run = store.client.get_run(done.children[0].run_id)
    assert "touchstone.error" not in run.data.tags
    steps = [point.step for point in store.client.get_metric_history(run.info.run_id, "train/loss_step")]
    assert len(steps) == len(set(steps))


@pytest.mark.slow
def test_a_trial_is_not_tried_more_often_than_told(sweep: Sweep, dies: Any) -> None:
    done = sweep("seed=0,1", *dies(0, 3), "sweep.retries=1")
    assert sorted(child.status for child in done.children) == ["FAILED", "FINISHED"]
    assert "RuntimeError: something broke" in next(c.error for c in done.children if c.error)


@pytest.mark.parametrize("number", [11, 9], ids=["a segmentation fault", "a kill, as for want of memory"])
def test_a_job_that_dies_costs_only_itself(sweep: Sweep, dies: Any, number: int) -> None:
    done = sweep("seed=0,1", *dies(number, 1), "sweep.retries=0", "sweep.jobs=2")
    assert done.code == 1
    assert sorted(child.status for child in done.children) == ["FAILED", "FINISHED"]
    error = next(child.error for child in done.children if child.error)
    assert {11: "SIGSEGV", 9: "SIGKILL"}[number] in error


@pytest.mark.slow
def test_a_finished_run_of_the_same_signature_is_linked_and_not_trained_again(sweep: Sweep, store: Any) -> None:
    first = sweep("seed=0,1", "sweep.name=first")
    second = sweep("seed=1,2", "sweep.name=second", "sweep.skip_finished=true", "cpu_threads=1")
    assert second.code == 0, second.said
    old, new = second.children
    assert (old.linked, old.run_id, old.status) == (True, first.children[1].run_id, "FINISHED")
    assert not new.linked
    other = sweep("seed=1", "optimizer.lr=0.5", "sweep.name=third", "sweep.skip_finished=true")
    assert not other.children[0].linked


BAD = {
    ("seed=range(3,3)",): "there is no value in it",
    ("seed=1,1",): "duplicate value seed=1",
    ("optimizer.lr=interval(0,1)",): "hydra/sweeper=optuna",
    ("seed=0,1", "tracking=none"): "a sweep is recorded",
    ("seed=0,1", "sweep.jobs=0"): "sweep.jobs=0: expected 1 or more",
    ("seed=0,1", "sweep.retries=many"): "sweep.retries=many: expected an integer",
    ("seed=0,1", "sweep.name='a/b'"): "a name has letters",
    ("seed=0,1", "sweep.name="): "sweep.name=: empty value",
    ("sweep.resume=",): "sweep.resume=: empty value",
    ("sweep.resume=nonsense",): "there is no sweep with this id or name",
    ("seed=0,1", "resume=abc"): "sweep.resume=ID",
    ("optimizer.lr=0.1,fast",): "optimizer.lr=fast",
    ("seed=0,1", "tracking.min_free_mb=1e12"): "not enough disk space",
}


@pytest.mark.parametrize("words", BAD, ids=" ".join)
def test_a_mistake_is_told_before_anything_is_recorded(sweep: Sweep, words: tuple[str, ...]) -> None:
    done = sweep(*words, quick="tracking=none" not in words)
    assert done.code == 1
    assert BAD[words] in done.said
    assert "Traceback" not in done.said
    assert done.parent is None


def test_two_processes_cannot_have_the_same_sweep(sweep: Sweep, store: Any) -> None:
    from lightning_modules.sweep.sweep_command import lock_sweep, sweep_folder

    with lock_sweep(sweep_folder(store, "busy"), "busy"):
        done = sweep("seed=0,1", "sweep.name=busy")
    assert done.code == 1
    assert "another process is running this sweep" in done.said


@pytest.mark.slow
def test_a_misspelt_option_in_a_list_is_told_with_the_nearest(command: Any) -> None:
    done = command("train.py", "-m", "model=mlp,convnt", "sede=0,1")
    assert done.returncode == 1
    assert "did you mean 'convnet'" in done.stderr
    assert "did you mean 'seed'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_sweep_is_resumed_from_another_folder_and_not_on_other_data(
    sweep: Sweep, store: Any, dies: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOUCHSTONE_TRUST", "faulty_callback")
    table = tmp_path / "rel.csv"
    rows = [f"{i % 2 + i / 300:.3f},{i / 200:.3f},{i % 2}" for i in range(90)]
    table.write_text("\n".join(["a,b,y", *rows[:80]]) + "\n")
    monkeypatch.chdir(tmp_path)
    words = (
        "data=tabular", "data.name=null", "data.path=rel.csv", "data.target=y", "model=linear", "trainer.max_epochs=2",
        "tracking.system_metrics_s=null", "tracking.pictures=false", "callbacks.last.every_s=0", "~callbacks.summary",
        "seed=0", "sweep.name=cut", "sweep.retries=0", *dies(0, 1),
    )  # fmt: skip
    cut = sweep(*words, quick=False).children[0]
    assert (cut.status, "something broke" in str(cut.error)) == ("FAILED", True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    table.write_text("\n".join(["a,b,y", *rows]) + "\n")
    refused = sweep("sweep.resume=cut", "sweep.retries=3", quick=False).children[0]
    assert "data: fingerprint" in str(refused.error) and "resume.allow=[data]" in str(refused.error)
    (done,) = sweep("sweep.resume=cut", "sweep.retries=9", "resume.allow=[data]", quick=False).children
    assert (done.run_id, done.status) == (cut.run_id, "FINISHED")
    assert "data: fingerprint" in store.client.get_run(cut.run_id).data.tags["touchstone.resume_drift"]

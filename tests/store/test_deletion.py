"""Runs and sweeps are deleted with what is below them, restored until the next prune, and kept from both."""

import os

import psutil
import pytest

from lightning_modules.cli import store as command_line
from lightning_modules.config.errors import UserError
from lightning_modules.store.deletion import annotate, delete, keep, restore
from lightning_modules.store.gc import gc
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.liveness import process_tags
from lightning_modules.tracking.store import Store


@pytest.fixture
def sweep(store: Store) -> list[str]:
    """The ids of a sweep, its two runs, a run below the second of these, and a run of its own."""

    def add(name: str, parent: str | None = None) -> str:
        tags = {"mlflow.parentRunId": parent} if parent else {}
        tags |= {"touchstone.kind": "sweep", "sweep.name": "tuning"} if name == "tuning run" else {}
        space = store.experiment("here" if parent is None else "of trials")
        run_id: str = store.client.create_run(space, run_name=name, tags=tags).info.run_id
        store.client.log_text(run_id, name, "note.txt")
        store.client.set_terminated(run_id)
        return run_id

    head = add("tuning run")
    first, second = add("first", head), add("second", head)
    return [head, first, second, add("below", second), add("other")]


def active(store: Store) -> set[str]:
    return {run.info.run_id for run in store.search_runs()}


def test_a_sweep_goes_with_its_runs_and_comes_back(store: Store, sweep: list[str]) -> None:
    everything, other = set(sweep), sweep[4]
    delete(store, ["tuning"], dry_run=True)
    assert active(store) == everything
    assert {run["run_id"] for run in delete(store, ["tuning"])} == everything - {other}
    assert active(store) == {other}
    with pytest.raises(UserError, match="no run 'tuning'"):
        delete(store, ["tuning"])
    restore(store, ["tuning"])
    assert active(store) == everything
    with pytest.raises(UserError, match="no deleted run 'tuning'"):
        restore(store, ["tuning"])


def test_prune_ends_what_can_be_restored(store: Store, sweep: list[str]) -> None:
    delete(store, [sweep[2], "first"])
    gc(store)
    with pytest.raises(UserError, match="no deleted run 'second'"):
        restore(store, ["second"])
    assert active(store) == {sweep[0], sweep[4]}


def test_a_kept_run_stays_with_what_it_is_below_of(
    store: Store, sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    head, first, second, below, other = sweep
    keep(store, ["below"])
    with pytest.raises(UserError, match=rf"{below} \(below\) is kept.*store unkeep {below}"):
        delete(store, ["other", below])
    assert active(store) == set(sweep)
    delete(store, ["tuning"])
    assert active(store) == {head, second, below, other}
    assert f"left {second} (second): a run below it is kept" in capsys.readouterr().out
    keep(store, ["below"], kept=False)
    delete(store, ["tuning"])
    assert active(store) == {other}
    assert first not in active(store)


def test_keeping_a_sweep_keeps_its_runs(store: Store, sweep: list[str]) -> None:
    keep(store, ["tuning"])
    with pytest.raises(UserError, match="is kept"):
        delete(store, ["first"])


def test_prune_leaves_a_kept_run_that_was_deleted_elsewhere(
    store: Store, sweep: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    keep(store, ["other"])
    model = store.client.create_logged_model(store.experiment("here"), source_run_id=sweep[4])
    store.client.delete_experiment(store.experiment("here"))  # as on MLflow's page
    gc(store)
    assert f"left run {sweep[4]}: it is kept" in capsys.readouterr().out
    assert store.client.get_run(sweep[4]).info.lifecycle_stage == "deleted"
    experiment = store.client.get_experiment_by_name("here")
    assert experiment is not None
    store.client.restore_experiment(experiment.experiment_id)
    assert store.client.get_logged_model(model.model_id).source_run_id == sweep[4]
    assert artifact_path(store, store.client.get_run(sweep[4]), "note.txt").is_file()


def test_what_is_still_training_is_not_deleted(store: Store, sweep: list[str]) -> None:
    alive = process_tags() | {
        "touchstone.pid": str(os.getppid()),
        "touchstone.process_started": str(psutil.Process(os.getppid()).create_time()),
        "mlflow.parentRunId": sweep[0],
    }
    store.client.create_run(store.experiment("here"), run_name="running", tags=alive)
    before = active(store)
    with pytest.raises(UserError, match=r"still training, and not deleted: \w+ \(running\)"):
        delete(store, ["other", "tuning"])
    assert active(store) == before


def test_notes_and_tags(store: Store, sweep: list[str]) -> None:
    store.client.set_tag(sweep[4], "mlflow.note.content", "as recorded")
    command_line.main(["note", "other", "text=of the paper, table 2", "tags=paper=yes,reviewed=no"])
    command_line.main(["note", "other", "tags=reviewed="])
    tags = store.client.get_run(sweep[4]).data.tags
    assert tags["mlflow.note.content"] == "of the paper, table 2\n\nas recorded"
    assert tags["paper"] == "yes" and "reviewed" not in tags
    for words, message in (
        ((None, ["touchstone.keep=no"]), "those of the record"),
        ((None, ["alone"]), "expected KEY=VALUE"),
        ((None, []), "nothing to add"),
    ):
        with pytest.raises(UserError, match=message):
            annotate(store, ["other"], *words)


def test_from_the_command_line(store: Store, sweep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["delete", "first", "second"])
    assert "undo: touchstone store restore first second" in capsys.readouterr().out
    assert active(store) == {sweep[0], sweep[4]}
    store.client.update_run(sweep[4], name="mlp lr=1e-4")
    command_line.main(["delete", "mlp lr=1e-4"])
    assert "undo: touchstone store restore 'mlp lr=1e-4'" in capsys.readouterr().out
    command_line.main(["restore", "mlp lr=1e-4"])
    assert active(store) == {sweep[0], sweep[4]}
    store.client.update_run(sweep[4], name="other")
    for words, message in (
        (["delete"], "store delete: RUN is missing"),
        (["prune", "first"], "store prune has no runs="),
        (["keep", "other", "dry_run=true"], "store keep has no dry_run="),
    ):
        with pytest.raises(UserError, match=message):
            command_line.main(words)

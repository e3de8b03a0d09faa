"""Kills and signals: a sweep ends with the runs that an undisturbed one has."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from interrupted import QUICK, check_whole, finished, gate, is_there, newest_parent, once, points_of, until

from lightning_modules.sweep.trial_results import read_trial_results
from lightning_modules.tracking.artifacts import artifact_path
from lightning_modules.tracking.rerun import metric_histories

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(600)  # the first waits for the undisturbed sweep too


@pytest.mark.slow
def test_a_run_then_the_sweep_killed_while_others_train_cost_nothing(
    sweep: Any, launch: Any, place: Path, store: Any, undisturbed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.sweep import sweep_store

    words = (*QUICK, "seed=range(3)", *gate(place))
    first = launch(*words, "sweep=cut", "sweep.jobs=2")
    victim, _ = first.waiting(place, 2)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not is_there(victim))
    survivors = set(first.waiting(place, 2))  # it is tried again
    first.process.kill()
    first.process.wait()
    assert survivors <= {process.pid for process in first.left()}
    alive = sweep_store.is_alive

    def seen_alive(tags: Any) -> bool:  # the sweep that goes on waits for them: only now their epoch ends
        (place / "open").touch()
        return alive(tags)

    monkeypatch.setattr(sweep_store, "is_alive", seen_alive)
    gone_on = sweep(*words, "sweep.name=cut", "sweep.jobs=2", quick=False)
    until(lambda: not first.left())
    logs = Path(store.uri.removeprefix("sqlite:///")).parent / "sweeps" / "cut" / "logs"
    assert "Traceback" not in first.said() + "".join(log.read_text() for log in logs.iterdir())
    began = {int(file.stem) for file in place.glob("*.waits")}
    assert len(began) == 4  # the victim, its second attempt, the other, and the third trial: none twice
    check_whole(store, gone_on, 3, undisturbed)


@pytest.mark.slow
def test_the_sweep_killed_with_all_its_runs_goes_on_from_their_checkpoints(
    sweep: Any, launch: Any, place: Path, store: Any, undisturbed: Any
) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", *gate(place, 2))
    for _ in range(2):  # oftener than it is tried again: it is no fault of the trials
        command = launch(*words, "sweep=cut", "sweep.jobs=2")
        command.waiting(place, 2)
        for process in command.left():
            process.kill()
        command.ends()
    (place / "open").touch()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    check_whole(store, gone_on, 3, undisturbed)


@pytest.mark.slow
def test_a_killed_forkserver_costs_no_run(sweep: Any, place: Path, store: Any, undisturbed: Any) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", "sweep.jobs=2")
    done = sweep(*words, *once(place, "kill_the_forkserver"), "sweep.name=cut", quick=False)
    assert (place / "done").exists()
    check_whole(store, done, 3, undisturbed)


def test_a_fork_server_that_dies_as_it_starts_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fork server of its own, beside that of the other tests."""
    from multiprocessing import forkserver

    from lightning_modules.config.errors import UserError
    from lightning_modules.sweep import process_pool

    (tmp_path / "dies_at_import.py").write_text("import os\nos._exit(7)\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(process_pool, "PRELOAD_MODULES", ["dies_at_import"])
    own = forkserver.ForkServer()
    for name in ("ensure_running", "set_forkserver_preload", "connect_to_new_process"):
        monkeypatch.setattr(forkserver, name, getattr(own, name))
    monkeypatch.setattr(forkserver, "_forkserver", own)
    with pytest.raises(UserError, match="forkserver of the trials ended twice while it started"):
        process_pool.ProcessPool([], tmp_path).call(len, "abc")


@pytest.mark.long
@pytest.mark.slow
def test_a_sweep_of_24_runs_on_mnist1d_killed_twice_ends_with_24_finished_runs(
    sweep: Any, launch: Any, place: Path, store: Any
) -> None:
    limit = ("+callbacks.limit._target_=sweep_faults_callbacks.Limit", f"+callbacks.limit.folder='{place}'")
    words = (
        "data=mnist1d", "model=mlp,linear", "optimizer.lr=1e-3,1e-2", "seed=range(6)", "data.per_class=50",
        *QUICK[2:], *limit,
    )  # fmt: skip
    for count in (5, 14):
        done, begun = finished(store), len(list(place.glob("*.begun")))
        (place / "limit").write_text(f"{begun + count - done - 1}")
        command = launch(*words, "sweep=cut", "sweep.jobs=2")
        command.until_finished(store, count - 1)
        until(lambda n=begun + count - done: len(list(place.glob("*.begun"))) > n)  # two wait: none ends unseen
        command.process.kill()
        (place / "limit").write_text("1000")
        command.ends()  # its runs do not outlive it
    before = finished(store)
    assert 13 <= before < 24
    gone_on = sweep(*words, "sweep.name=cut", "sweep.jobs=2", quick=False)
    assert f"{before} of them done already" in gone_on.said
    whole = sweep(*words, "sweep.name=whole", "sweep.jobs=2", quick=False)
    check_whole(store, gone_on, 24, points_of(store, whole))


@pytest.mark.long
@pytest.mark.slow
def test_a_search_that_prunes_killed_twice_is_the_undisturbed_one(
    sweep: Any, launch: Any, place: Path, store: Any
) -> None:
    words = (
        *QUICK, "hydra/sweeper=optuna", "optimizer=sgd", "optimizer.lr=tag(log,interval(1e-9,1))", "search.trials=10",
        "+search.sampler_options.n_startup_trials=3", "search.pruner=median", "+search.pruner_options.n_startup_trials=2",
        "trainer.max_epochs=5",
    )  # fmt: skip
    for count in (1, 3):
        command = launch(*words, "sweep=cut")
        command.until_finished(store, count)
        for process in command.left() if count == 3 else [psutil.Process(command.process.pid)]:
            process.kill()
        command.ends()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    whole = sweep(*words, "sweep.name=whole", quick=False)
    assert gone_on.code == 0, gone_on.said
    assert "PRUNED" in {child.status for child in whole.children}
    for ours, theirs in zip(gone_on.children, whole.children, strict=True):
        assert (ours.params, ours.status) == (theirs.params, theirs.status)
        assert metric_histories(store, ours.run_id) == metric_histories(store, theirs.run_id)


def test_a_trial_has_one_process_at_a_time_and_goes_on_in_its_run(store: Any, tmp_path: Path) -> None:
    from filelock import FileLock, Timeout

    from lightning_modules.sweep.plans import Trial
    from lightning_modules.sweep.sweep_store import SweepStore
    from lightning_modules.sweep.trial_job import TrialJob, trial_lock

    tags = {"touchstone.kind": "sweep", "sweep.name": "cut", "sweep.objectives": "{}"}
    ledger = SweepStore(store, store.client.create_run(store.experiment("mine"), tags=tags), tmp_path)
    job = TrialJob(ledger.run_id, "cut", 0, {"seed": 0}, "seed=0", os.getpid(), "here")
    with trial_lock(ledger, job) as first:
        assert first == job
        with pytest.raises(Timeout), FileLock(tmp_path / "trials" / "0.lock", timeout=0):
            pass
        run_id = ledger.create_failed_run(Trial(0, {"seed": 0}, ()), "it was cut off before it had its model")
    with trial_lock(ledger, job) as second:
        assert second is not None
        assert second.run_id == run_id
    found = store.client.get_run(run_id).data.tags
    assert store.client.get_logged_model(found["touchstone.model_id"]).source_run_id == run_id
    assert found["touchstone.pid"] == str(os.getpid())
    store.client.set_terminated(run_id, "FINISHED")
    with trial_lock(ledger, job) as third:
        assert third is None


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_a_signal_lets_runs_finish_their_epoch_and_the_sweep_can_go_on(
    sweep: Any, launch: Any, place: Path, store: Any, undisturbed: Any, number: int
) -> None:
    words = (*QUICK, "seed=range(3)", *gate(place))
    command = launch(*words, "sweep=cut", "sweep.jobs=2")
    command.waiting(place, 2)
    command.signal_all(number)
    command.says("finish the current epoch")
    (place / "open").touch()
    assert command.ends() == 128 + number
    assert "touchstone train -m sweep.resume=cut" in command.said()
    assert "Traceback" not in command.said()
    parent = newest_parent(store)
    assert parent.info.status == "KILLED"
    children = read_trial_results(store, parent.info.run_id)
    assert [child.status for child in children] == ["KILLED"] * 2  # the third one was never begun
    for child in children:
        losses = metric_histories(store, child.run_id)["val/loss"]
        assert len(losses) == 2  # epochs 0 and 1
    gone_on = sweep("sweep.resume=cut", quick=False)
    check_whole(store, gone_on, 3, undisturbed)


@pytest.mark.slow
def test_a_second_signal_and_a_third_end_all_at_once_and_the_sweep_can_go_on(
    sweep: Any, launch: Any, place: Path, store: Any, undisturbed: Any
) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", *gate(place))
    for again in (1, 2):
        command = launch(*words, "sweep=cut", "sweep.jobs=2")
        command.waiting(place, 2)
        command.signal_all(signal.SIGINT)
        command.says("finish the current epoch")
        for _ in range(again):
            command.signal_all(signal.SIGINT)
            time.sleep(0.1)
        assert command.ends() == 128 + signal.SIGINT  # though the gate is shut
        assert "Traceback" not in command.said()
        parent = newest_parent(store)
        assert parent.info.status == "KILLED"
        assert {child.status for child in read_trial_results(store, parent.info.run_id)} == {"KILLED"}
    (place / "open").touch()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    check_whole(store, gone_on, 3, undisturbed)


@pytest.mark.slow
def test_a_sweep_whose_recorded_command_was_changed_to_call_a_shell_is_not_resumed(
    sweep: Any, store: Any, tmp_path: Path
) -> None:
    import json

    from lightning_modules.tracking.artifacts import artifact_path

    parent = sweep("seed=0", "trainer.max_epochs=1", "sweep.name=changed").parent
    path = artifact_path(store, parent, "sweep/plan.json")
    plan = json.loads(path.read_text())
    words, target = plan["words"], "lightning_modules.tracking.rerun._git"
    call = f"{{_target_:{target},_args_:['-c','alias.x=!touch {tmp_path}/ran','x']}}"
    for more, message in {
        f"+callbacks.more={call}": f"callbacks.more._target_={target} is not called",
        "name=${oc.env:HOME}": "calls a resolver and is not applied",
        f"optimizer._target_=torch.optim.SGD,{target}": f"optimizer._target_={target} is not called",
    }.items():
        path.write_text(json.dumps({**plan, "words": [*words, more]}))
        again = sweep("sweep.resume=changed", quick=False)
        assert again.code == 1
        assert message in again.said and "Traceback" not in again.said
        assert len(again.children) == 1
        assert not (tmp_path / "ran").exists()


def test_a_trial_that_could_not_start_keeps_its_traceback(store: Any, tmp_path: Path) -> None:
    from lightning_modules.sweep.plans import Trial
    from lightning_modules.sweep.sweep_store import SweepStore

    tags = {"touchstone.kind": "sweep", "sweep.name": "cut", "sweep.objectives": "{}"}
    ledger = SweepStore(store, store.client.create_run(store.experiment("mine"), tags=tags), tmp_path)
    trial = Trial(0, {"seed": 0}, ())
    try:
        {}["mine"]
    except KeyError:
        ledger.fail(trial, "KeyError: 'mine'", "seed=0")
    run = ledger.runs(0)[0]
    assert '{}["mine"]' in artifact_path(store, run, "traceback.txt").read_text()

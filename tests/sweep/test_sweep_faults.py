"""What can happen to a sweep: kills, signals, a full disk, damaged files. It ends with the runs that an undisturbed one has."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lightning_modules.sweep.children import read_children
from lightning_modules.tracking.rerun import histories

ROOT = Path(__file__).resolve().parents[2]
QUICK = (
    "model=linear", "data.per_class=20", "trainer.max_epochs=4", "trainer.log_every_n_steps=1", "cpu_threads=1",
    "callbacks.last.every_s=0", "tracking.system_metrics_s=null", "tracking.pictures=false", "~callbacks.summary",
)  # fmt: skip
CALLBACKS = '''
import os, pathlib, shutil, signal, sqlite3, time
import pytorch_lightning as pl

class Gate(pl.Callback):
    """Leaves a mark as epoch `at` begins, and waits there until the gate is open."""

    def __init__(self, folder, at):
        self.folder, self.at = pathlib.Path(folder), at

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == self.at:
            (self.folder / f"{os.getpid()}.waits").touch()
            while not (self.folder / "open").exists():
                time.sleep(0.02)

class Once(pl.Callback):
    """Does one harm in epoch 2 of the first run that comes there."""

    def __init__(self, folder, harm):
        self.folder, self.harm = pathlib.Path(folder), harm

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            try:
                (self.folder / "done").touch(exist_ok=False)
            except FileExistsError:
                return
            getattr(self, self.harm)(trainer)

    def nothing(self, trainer):
        pass

    def damage(self, trainer):
        file = next(pathlib.Path(c.dirpath) / "last.ckpt" for c in trainer.checkpoint_callbacks if hasattr(c, "every_s"))
        file.write_bytes(file.read_bytes()[:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    def kill_the_forkserver(self, trainer):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(1.5)  # the sweep has noticed

    def delete_the_store(self, trainer):
        store = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
        shutil.rmtree(store)

    def fill_the_disk(self, trainer):
        store = pathlib.Path(os.environ["MLFLOW_TRACKING_URI"].removeprefix("sqlite:///")).parent
        with open(store / "ballast", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the gate and the marks; the callbacks can be imported here and in processes started from here."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "sweep_faults_callbacks.py").write_text(CALLBACKS)
    monkeypatch.syspath_prepend(str(code))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(code), os.environ.get("PYTHONPATH")])))
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def gate(folder: Path, at: int = 1) -> tuple[str, ...]:
    return (
        "+callbacks.gate._target_=sweep_faults_callbacks.Gate",
        f"+callbacks.gate.folder='{folder}'",
        f"+callbacks.gate.at={at}",
    )


def once(folder: Path, harm: str) -> tuple[str, ...]:
    return (
        "+callbacks.once._target_=sweep_faults_callbacks.Once",
        f"+callbacks.once.folder='{folder}'",
        f"+callbacks.once.harm={harm}",
    )


class Command:
    """``scripts/train.py -m WORDS`` as a terminal starts it: in a process group of its own."""

    def __init__(self, folder: Path, words: tuple[str, ...]) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / f"{self.mark}.out"
        with self.output.open("w") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "scripts" / "train.py"), "-m", *words],
                cwd=folder, env={**os.environ, "SWEEP_TEST": self.mark}, stdin=subprocess.DEVNULL, stdout=file,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def said(self) -> str:
        return self.output.read_text()

    def says(self, text: str) -> None:
        until(lambda: text in self.said() or self.process.poll() is not None)
        assert text in self.said()

    def until_finished(self, store: Any, count: int) -> None:
        """Wait for so many FINISHED runs in the store."""
        until(lambda: finished(store) >= count or self.process.poll() is not None)

    def signal_all(self, number: int) -> None:
        """What Ctrl-C does in a terminal."""
        os.killpg(self.process.pid, number)

    def waiting(self, folder: Path, count: int) -> list[int]:
        """Wait for so many living runs at the gate; return their process ids."""

        def there() -> list[int]:
            assert self.process.poll() is None, self.said()
            found = [int(file.stem) for file in folder.glob("*.waits")]
            return [pid for pid in found if is_there(pid)]

        until(lambda: len(there()) == count)
        return there()

    def left(self) -> list[psutil.Process]:
        """All processes that this command has started and that live."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SWEEP_TEST") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def ends(self) -> int:
        """Wait for its end and for that of all that it has started; return the exit code."""
        code = self.process.wait(200)
        until(lambda: not self.left())
        return code


def is_there(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def until(condition: Callable[[], Any], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.fixture
def launch(store: Any, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*words: str) -> Command:
        started.append(Command(tmp_path, words))
        return started[-1]

    yield start
    for command in started:
        for process in command.left():
            process.kill()
        command.process.wait(10)


def check_whole(store: Any, done: Any, trials: int, undisturbed: Any = None) -> None:
    """All trials are FINISHED, each has one run, no run has a step twice, and all values are those of the other sweep."""
    assert done.code == 0, done.said
    assert [child.status for child in done.children] == ["FINISHED"] * trials
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    runs = store.client.search_runs(everywhere, f"tags.`mlflow.parentRunId` = '{done.parent.info.run_id}'", 1, 1000)
    assert len(runs) == trials
    assert done.parent.info.status == "FINISHED"
    points = [histories(store, child.run_id) for child in done.children]
    for run in points:
        assert run["test/accuracy"]
        for metric, history in run.items():
            assert len({step for step, _ in history}) == len(history), metric
    if undisturbed:
        assert points == [histories(store, child.run_id) for child in undisturbed.children]


# --- kill -9 ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_then_the_sweep_killed_while_others_train_cost_nothing(
    sweep: Any, launch: Any, place: Path, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_modules.sweep import engine

    words = (*QUICK, "seed=range(3)", *gate(place))
    first = launch(*words, "sweep=cut", "sweep.jobs=2")
    victim, _ = first.waiting(place, 2)
    os.kill(victim, signal.SIGKILL)
    until(lambda: not is_there(victim))
    survivors = set(first.waiting(place, 2))  # it is tried again
    first.process.kill()
    first.process.wait()
    assert survivors <= {process.pid for process in first.left()}
    alive = engine.is_alive

    def seen_alive(tags: Any) -> bool:  # the sweep that goes on waits for them: only now their epoch ends
        (place / "open").touch()
        return alive(tags)

    monkeypatch.setattr(engine, "is_alive", seen_alive)
    gone_on = sweep(*words, "sweep.name=cut", "sweep.jobs=2", quick=False)
    until(lambda: not first.left())
    began = {int(file.stem) for file in place.glob("*.waits")}
    assert len(began) == 4  # the victim, its second attempt, the other, and the third trial: none twice
    check_whole(store, gone_on, 3, sweep(*words, "sweep.name=whole", quick=False))


@pytest.mark.slow
def test_the_sweep_killed_with_all_its_runs_goes_on_from_their_checkpoints(
    sweep: Any, launch: Any, place: Path, store: Any
) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", *gate(place, 2))
    for _ in range(3):  # oftener than it is tried again: it is no fault of the trials
        command = launch(*words, "sweep=cut", "sweep.jobs=2")
        command.waiting(place, 2)
        for process in command.left():
            process.kill()
        command.ends()
    (place / "open").touch()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    check_whole(store, gone_on, 3, sweep(*words, "sweep.name=whole", quick=False))


@pytest.mark.slow
def test_a_killed_forkserver_costs_no_run(sweep: Any, place: Path, store: Any) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", "sweep.jobs=2")
    (place / "done").touch()
    whole = sweep(*words, *once(place, "kill_the_forkserver"), "sweep.name=whole", quick=False)
    (place / "done").unlink()
    done = sweep(*words, *once(place, "kill_the_forkserver"), "sweep.name=cut", quick=False)
    assert (place / "done").exists()
    check_whole(store, done, 3, whole)


def finished(store: Any) -> int:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return len(store.client.search_runs(everywhere, "attributes.status = 'FINISHED'", 1, 1000))


@pytest.mark.slow
def test_a_sweep_of_24_runs_on_mnist1d_killed_twice_ends_with_24_finished_runs(
    sweep: Any, launch: Any, store: Any
) -> None:
    words = (
        "data=mnist1d", "model=mlp,linear", "optimizer.lr=1e-3,1e-2", "seed=range(6)", "data.per_class=50",
        *QUICK[2:],
    )  # fmt: skip
    for count in (5, 14):
        command = launch(*words, "sweep=cut", "sweep.jobs=2")
        command.until_finished(store, count)
        command.process.kill()
        command.ends()  # its runs do not outlive it
    before = finished(store)
    assert 14 <= before < 24
    gone_on = sweep(*words, "sweep.name=cut", "sweep.jobs=2", quick=False)
    assert f"{before} of them done already" in gone_on.said
    check_whole(store, gone_on, 24, sweep(*words, "sweep.name=whole", "sweep.jobs=2", quick=False))


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
        assert histories(store, ours.run_id) == histories(store, theirs.run_id)


def test_a_trial_has_one_process_at_a_time_and_goes_on_in_its_run(store: Any, tmp_path: Path) -> None:
    from filelock import FileLock, Timeout

    from lightning_modules.sweep.attempt import attempt
    from lightning_modules.sweep.job import Job
    from lightning_modules.sweep.ledger import Ledger
    from lightning_modules.sweep.trial import Trial

    tags = {"touchstone.kind": "sweep", "sweep.name": "cut", "sweep.objectives": "{}"}
    ledger = Ledger(store, store.client.create_run(store.experiment("mine"), tags=tags), tmp_path)
    job = Job(ledger.run_id, "cut", 0, {"seed": 0}, "seed=0", os.getpid(), "here")
    with attempt(ledger, job) as first:
        assert first == job
        with pytest.raises(Timeout), FileLock(tmp_path / "trials" / "0.lock", timeout=0):
            pass
        run_id = ledger.failed_run(Trial(0, {"seed": 0}, ()), "it was cut off before it had its model")
    with attempt(ledger, job) as second:
        assert second is not None
        assert second.run_id == run_id
    found = store.client.get_run(run_id).data.tags
    assert store.client.get_logged_model(found["touchstone.model_id"]).source_run_id == run_id
    assert found["touchstone.pid"] == str(os.getpid())
    store.client.set_terminated(run_id, "FINISHED")
    with attempt(ledger, job) as third:
        assert third is None


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_runs_finish_their_epoch_and_the_sweep_can_go_on(
    sweep: Any, launch: Any, place: Path, store: Any, number: int
) -> None:
    words = (*QUICK, "seed=range(3)", *gate(place))
    command = launch(*words, "sweep=cut", "sweep.jobs=2")
    command.waiting(place, 2)
    command.signal_all(number)
    command.says("finishes its epoch")
    (place / "open").touch()
    assert command.ends() == 128 + number
    assert "train.py -m sweep.resume=cut" in command.said()
    assert "Traceback" not in command.said()
    parent = newest_parent(store)
    assert parent.info.status == "KILLED"
    children = read_children(store, parent.info.run_id)
    assert [child.status for child in children] == ["KILLED"] * 2  # the third one was never begun
    for child in children:
        losses = histories(store, child.run_id)["val/loss"]
        assert len(losses) == 2  # epochs 0 and 1
    gone_on = sweep("sweep.resume=cut", quick=False)
    check_whole(store, gone_on, 3, sweep(*words, "sweep.name=whole", quick=False))


@pytest.mark.slow
@pytest.mark.parametrize("again", [1, 2], ids=["twice", "three times"])
def test_a_second_signal_ends_all_at_once_and_the_sweep_can_go_on(
    sweep: Any, launch: Any, place: Path, store: Any, again: int
) -> None:
    words = (*QUICK, "seed=range(3)", "sweep.retries=0", *gate(place))
    command = launch(*words, "sweep=cut", "sweep.jobs=2")
    command.waiting(place, 2)
    command.signal_all(signal.SIGINT)
    command.says("finishes its epoch")
    for _ in range(again):
        command.signal_all(signal.SIGINT)
        time.sleep(0.1)
    assert command.ends() == 128 + signal.SIGINT  # though the gate is shut
    assert "Traceback" not in command.said()
    parent = newest_parent(store)
    assert parent.info.status == "KILLED"
    assert {child.status for child in read_children(store, parent.info.run_id)} == {"KILLED"}
    (place / "open").touch()
    gone_on = sweep(*words, "sweep.name=cut", quick=False)
    check_whole(store, gone_on, 3, sweep(*words, "sweep.name=whole", quick=False))


def newest_parent(store: Any) -> Any:
    everywhere = [experiment.experiment_id for experiment in store.client.search_experiments()]
    return store.client.search_runs(everywhere, "tags.`touchstone.kind` = 'sweep'")[0]


# --- several at once ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_eight_runs_at_a_time_lose_no_point(sweep: Any, store: Any) -> None:
    words = (*QUICK, "seed=range(8)", "trainer.max_epochs=2")
    check_whole(
        store,
        sweep(*words, "sweep.jobs=8", "sweep.name=eight", quick=False),
        8,
        sweep(*words, "sweep.name=one", quick=False),
    )


@pytest.mark.slow
def test_two_sweeps_at_once_on_one_store_lose_nothing(sweep: Any, launch: Any, place: Path, store: Any) -> None:
    words = (*QUICK, "seed=range(4)", "sweep.jobs=2", *gate(place))
    others = launch(*words, "sweep=other")
    others.waiting(place, 2)  # they are in the middle of it
    (place / "open").touch()
    mine = sweep(*words, "sweep.name=mine", quick=False)
    assert others.ends() == 0, others.said()
    again = sweep(*words, "sweep.name=other", quick=False)  # trains nothing
    assert "4 of them done already" in again.said
    check_whole(store, mine, 4)
    check_whole(store, again, 4, mine)


# --- disks and files ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, store: Any) -> Iterator[Path]:
    """The folder of the test's store, on a disk of 24 MB of its own."""
    disk = Path(store.uri.removeprefix("sqlite:///")).parent
    shutil.copytree(disk, tmp_path / "copy")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        reason = "a small disk can be mounted by root only"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    try:
        shutil.copytree(tmp_path / "copy", disk, dirs_exist_ok=True)
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_once_there_is_room_the_sweep_goes_on(
    sweep: Any, place: Path, small_disk: Path, store: Any
) -> None:
    words = (*QUICK, "seed=range(3)", "tracking.min_free_mb=0", *once(place, "fill_the_disk"))
    full = sweep(*words, "sweep.name=cut", quick=False)
    assert full.code == 1
    assert "Traceback" not in full.said
    assert any(word in full.said.lower() for word in ("no space", "disk is full", "no room")), full.said
    (small_disk / "ballast").unlink()
    gone_on = sweep(*words, "sweep.name=cut", "sweep.retries=9", quick=False)
    whole = sweep(*words, "sweep.name=whole", quick=False)
    check_whole(store, gone_on, 3, whole)


@pytest.mark.slow
def test_a_store_that_cannot_be_written_is_told(command: Any, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    done = command("train.py", "-m", *QUICK, "seed=0,1", "tracking.min_free_mb=0")
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert str(small_disk) in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_sweeps_that_cannot_be_written_is_told(sweep: Any, store: Any) -> None:
    folder = Path(store.uri.removeprefix("sqlite:///")).parent / "sweeps"
    folder.write_text("a file in its place")
    done = sweep(*QUICK, "seed=0,1", quick=False)
    assert (done.code, done.parent) == (1, None)
    assert str(folder) in done.said
    assert "Traceback" not in done.said


@pytest.mark.slow
def test_a_store_that_is_deleted_under_way_ends_the_sweep_with_a_word(launch: Any, place: Path) -> None:
    command = launch(*QUICK, "seed=range(3)", "sweep.jobs=2", *once(place, "delete_the_store"), "sweep=cut")
    assert command.ends() == 1
    assert "store" in command.said()
    assert "Traceback" not in command.said()


def test_a_damaged_checkpoint_lets_its_trial_begin_anew(sweep: Any, place: Path, store: Any) -> None:
    words = (*QUICK, "seed=range(2)", *once(place, "damage"))
    done = sweep(*words, "sweep.name=cut", quick=False)
    assert (place / "done").exists()
    assert "SIGKILL" in done.said
    check_whole(store, done, 2, sweep(*words, "sweep.name=whole", quick=False))


SEARCH = (*QUICK, "hydra/sweeper=optuna", "optimizer.lr=tag(log,interval(1e-3,1e-1))", "trainer.max_epochs=1")


def test_half_a_line_in_the_journal_is_mended_and_nonsense_is_told(sweep: Any, store: Any) -> None:
    first = sweep(*SEARCH, "search.trials=1", "sweep.name=cut", quick=False)
    journal = Path(store.uri.removeprefix("sqlite:///")).parent / "sweeps" / "cut" / "study.journal"
    whole = journal.read_text()
    journal.write_text(whole + whole.splitlines()[-1][:20])
    second = sweep(*SEARCH, "search.trials=2", "sweep.name=cut", quick=False)
    check_whole(store, second, 2)
    assert second.children[0].run_id == first.children[0].run_id
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([*lines[:2], "\x00\x00nonsense", *lines[3:]]) + "\n")
    third = sweep(*SEARCH, "search.trials=3", "sweep.name=cut", quick=False)
    assert third.code == 1
    assert str(journal) in third.said
    assert "Traceback" not in third.said
    assert len(third.children) == 2


def test_a_name_with_a_space_is_refused(sweep: Any) -> None:
    done = sweep("seed=0,1", "sweep.name='my sweep'")
    assert (done.code, done.parent) == (1, None)
    assert "sweep=my sweep: a name has letters, digits" in done.said

"""The loop of a sweep on trials in memory: retries, kills, deadlines, signals, and what an earlier process left."""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from lightning_modules.config.signals import SignalReceived
from lightning_modules.sweep.engine import Engine, Runner, TrialStore
from lightning_modules.sweep.plans import FixedPlan, Outcome, Plan, State, Trial

Ending = tuple[State, str | None]
DONE: Ending = ("FINISHED", None)


class MemoryStore:
    """A `TrialStore` whose trials end as `endings` says, one ending after the other for each trial."""

    def __init__(self, folder: Path, endings: dict[int, list[Ending]], retry: bool = True) -> None:
        self.retry = retry
        self.stop_file = folder / "stop"
        self.endings, self.counts = endings, dict[str, int]()
        self.interrupted: list[int] = []
        self.alive: set[int] = set()

    def outcome(self, trial: Trial, error: str | None = None) -> Outcome:
        states = self.endings.get(trial.number, [])
        state, message = states.pop(0) if states else DONE
        return Outcome(state, f"run{trial.number}", {"loss": float(trial.number)}, error or message, retry=self.retry)

    def is_alive(self, trial: Trial) -> bool:
        return trial.number in self.alive

    def mark_interrupted(self, trial: Trial) -> None:
        self.interrupted.append(trial.number)

    def failures(self, run_id: str | None) -> int:
        return self.counts.get(run_id or "", 1)

    def record_failures(self, run_id: str, count: int) -> None:
        self.counts[run_id] = count


class MemoryRunner:
    """A `Runner` whose trials end at once, the newest first; `on_wait` is called before."""

    def __init__(self, slots: int = 1, on_wait: Callable[[], None] = lambda: None) -> None:
        self.slots, self.on_wait = slots, on_wait
        self.running: list[int] = []
        self.submitted: list[tuple[int, tuple[str, ...]]] = []
        self.most = 0
        self.terminated = False

    def free_slots(self) -> int:
        return self.slots - len(self.running)

    def submit(self, number: int, overrides: Sequence[str]) -> None:
        self.running.append(number)
        self.submitted.append((number, tuple(overrides)))
        self.most = max(self.most, len(self.running))

    def wait(self, seconds: float) -> list[tuple[int, str | None]]:
        self.on_wait()
        return [(self.running.pop(), None)] if self.running else []

    def terminate(self) -> None:
        self.terminated = True


class Recorder(FixedPlan):
    """A fixed plan that keeps what it is told."""

    def __init__(self, count: int) -> None:
        trials = [Trial(number, {"seed": number}, (f"seed={number}",)) for number in range(count)]
        super().__init__(trials, ["seed"], {"loss": "minimize"}, [], {})
        self.told: list[tuple[int, State]] = []

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        self.told.append((trial.number, outcome.state))


def make_engine(
    plan: Plan, store: TrialStore, runner: Runner, retries: int = 0, deadline: float | None = None
) -> tuple[Engine, list[tuple[int, State]]]:
    ended: list[tuple[int, State]] = []
    engine = Engine(
        plan, store, runner, lambda trial, run_id: [*trial.overrides, f"run={run_id}"], retries,
        lambda trial, outcome: ended.append((trial.number, outcome.state)), deadline,
    )  # fmt: skip
    return engine, ended


def test_every_trial_runs_once_and_no_more_at_a_time_than_there_are_slots(tmp_path: Path) -> None:
    plan, store, runner = Recorder(5), MemoryStore(tmp_path, {}), MemoryRunner(slots=2)
    engine, ended = make_engine(plan, store, runner)
    engine.run()
    assert sorted(ended) == sorted(plan.told) == [(number, "FINISHED") for number in range(5)]
    assert sorted(runner.submitted) == [(n, (f"seed={n}", "run=None")) for n in range(5)] and runner.most == 2
    assert not runner.terminated


def test_a_failed_trial_is_retried_in_its_run_and_told_once(tmp_path: Path) -> None:
    failed: Ending = ("FAILED", "out of memory")
    plan, store, runner = Recorder(2), MemoryStore(tmp_path, {0: [failed], 1: [failed] * 3}), MemoryRunner()
    engine, ended = make_engine(plan, store, runner, retries=2)
    engine.run()
    assert [run for number, run in runner.submitted if number == 0] == [("seed=0", "run=None"), ("seed=0", "run=run0")]
    assert [number for number, _ in runner.submitted].count(1) == 3
    assert sorted(plan.told) == [(0, "FINISHED"), (1, "FAILED")]
    assert ended.count((1, "FAILED")) == 3 and store.counts == {"run0": 1, "run1": 3}


def test_a_mistake_of_the_user_is_not_retried(tmp_path: Path) -> None:
    plan, runner = Recorder(1), MemoryRunner()
    store = MemoryStore(tmp_path, {0: [("FAILED", "a wrong key"), DONE]}, retry=False)
    make_engine(plan, store, runner, retries=3)[0].run()
    assert len(runner.submitted) == 1 and plan.told == [(0, "FAILED")]


def test_a_trial_that_someone_kills_again_and_again_is_given_up(tmp_path: Path) -> None:
    plan, store, runner = Recorder(1), MemoryStore(tmp_path, {0: [("KILLED", None)] * 9}), MemoryRunner()
    make_engine(plan, store, runner, retries=1)[0].run()
    assert len(runner.submitted) == 2 and plan.told == [(0, "KILLED")]


def test_a_pruned_trial_is_done(tmp_path: Path) -> None:
    plan, store, runner = Recorder(1), MemoryStore(tmp_path, {0: [("PRUNED", None)]}), MemoryRunner()
    make_engine(plan, store, runner, retries=5)[0].run()
    assert len(runner.submitted) == 1 and plan.told == [(0, "PRUNED")]


def test_after_the_deadline_no_trial_starts(tmp_path: Path) -> None:
    plan, store, runner = Recorder(3), MemoryStore(tmp_path, {}), MemoryRunner()
    make_engine(plan, store, runner, deadline=time.time() - 1)[0].run()
    assert not runner.submitted


def test_what_an_earlier_process_left_is_resumed(tmp_path: Path) -> None:
    plan, runner = Recorder(6), MemoryRunner()
    store = MemoryStore(tmp_path, {4: [("KILLED", None)]})
    store.counts, store.alive = {"run2": 1, "run3": 2}, {4}
    runner.on_wait = store.alive.clear
    states: list[State] = ["FINISHED", "KILLED", "FAILED", "FAILED", "RUNNING"]
    earlier = [(plan.trials[n], Outcome(state, f"run{n}")) for n, state in enumerate(states)]
    plan.started({0, 1, 2, 3, 4})
    make_engine(plan, store, runner, retries=1)[0].run(earlier)
    resumed = {number: overrides[-1] for number, overrides in runner.submitted}
    assert resumed == {1: "run=run1", 2: "run=run2", 4: "run=run4", 5: "run=None"}
    assert sorted(plan.told) == [
        (0, "FINISHED"),
        (1, "FINISHED"),
        (2, "FINISHED"),
        (3, "FAILED"),
        (4, "FINISHED"),
        (5, "FINISHED"),
    ]
    assert store.interrupted == [4]


def test_the_first_signal_starts_no_other_trial_and_lets_those_that_run_end(tmp_path: Path) -> None:
    plan, store = Recorder(5), MemoryStore(tmp_path, {1: [("KILLED", None)]})
    runner = MemoryRunner(slots=2, on_wait=lambda: engine.signals or os.kill(os.getpid(), signal.SIGTERM))
    engine, ended = make_engine(plan, store, runner, retries=5)
    store.stop_file.touch()  # of an earlier process
    engine.run()
    assert [number for number, _ in runner.submitted] == [0, 1] and ended == [(0, "FINISHED")]
    assert engine.signals == [signal.SIGTERM] and store.stop_file.exists() and not runner.terminated


def test_the_second_signal_ends_the_trials_now(tmp_path: Path) -> None:
    plan, store = Recorder(5), MemoryStore(tmp_path, {})
    runner = MemoryRunner(slots=2, on_wait=lambda: os.kill(os.getpid(), signal.SIGINT))
    engine, _ = make_engine(plan, store, runner)
    with pytest.raises(SignalReceived):
        engine.run()
    assert runner.terminated and store.interrupted == [0]


def test_an_error_of_the_store_ends_the_trials(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    plan, store, runner = Recorder(2), MemoryStore(tmp_path, {}), MemoryRunner(on_wait=fail)
    with pytest.raises(OSError, match="the disk is full"):
        make_engine(plan, store, runner)[0].run()
    assert runner.terminated and store.interrupted == [0]

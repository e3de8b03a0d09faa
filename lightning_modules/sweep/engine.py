"""The loop of a sweep: start trials while slots are free, record what ended, retry what failed."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Protocol

from lightning_modules.config.signals import SignalReceived, handle_signals
from lightning_modules.sweep.plans import DONE_STATES, Outcome, Plan, Trial

POLL_S = 0.5  # how long one check for ended trials may block


class Runner(Protocol):
    """Runs trials: `ProcessPool` on this machine, `LauncherRunner` behind a launcher of Hydra."""

    def free_slots(self) -> int:
        """How many more trials can be started now."""

    def submit(self, number: int, overrides: Sequence[str]) -> None:
        """Start trial `number` with these overrides."""

    def wait(self, seconds: float) -> list[tuple[int, str | None]]:
        """The trials that ended, as (number, error of the process or None); blocks that long if there is none."""

    def terminate(self) -> None:
        """End all running trials now."""


class TrialStore(Protocol):
    """What the engine reads and writes about trials; `SweepStore` keeps it in MLflow."""

    @property
    def stop_file(self) -> Path:
        """While it exists, trials end with their current epoch."""

    def outcome(self, trial: Trial, error: str | None = None) -> Outcome:
        """How a trial ended whose process is gone; `error`: of the process."""

    def is_alive(self, trial: Trial) -> bool:
        """Whether a process is still running the trial."""

    def mark_interrupted(self, trial: Trial) -> None:
        """Close the run of a trial that ended together with the sweep: it has not failed."""

    def failures(self, run_id: str | None) -> int:
        """How often the trial of this run has failed, as recorded."""

    def record_failures(self, run_id: str, count: int) -> None: ...


class QueuedTrial(NamedTuple):
    """A trial to start, as a continuation of the run `run_id` if there is one."""

    trial: Trial
    run_id: str | None = None


class Engine:
    """Runs a plan to its end.

    Args:
        overrides_of: the overrides of a trial's run, given the run to continue.
        retries: how often a failed trial is retried.
        on_trial_end: called with each trial that ended, and its outcome.
        deadline: `time.time()` after which no new trial starts.
    """

    def __init__(
        self,
        plan: Plan,
        store: TrialStore,
        runner: Runner,
        overrides_of: Callable[[Trial, str | None], Sequence[str]],
        retries: int,
        on_trial_end: Callable[[Trial, Outcome], None],
        deadline: float | None = None,
    ) -> None:
        self.plan, self.store, self.runner, self.retries = plan, store, runner, retries
        self._overrides_of, self._on_trial_end, self._deadline = overrides_of, on_trial_end, deadline
        self._queue: deque[QueuedTrial] = deque()
        self._running: dict[int, Trial] = {}
        self._orphans: dict[int, Trial] = {}  # still running, started by an earlier process of this sweep
        self._failures: dict[int, int] = {}
        self.signals: list[int] = []

    def run(self, earlier: Sequence[tuple[Trial, Outcome]] = ()) -> None:
        """Run until no trial is left or a signal stops it. Raises SignalReceived on a second signal.

        Args:
            earlier: the trials that an earlier process started, each with its state now.
        """
        self.store.stop_file.unlink(missing_ok=True)
        for trial, outcome in earlier:
            self._restore(trial, outcome)
        with self._stop_on_signals():
            try:
                while self._fill_slots() or self._running or self._orphans:
                    if len(self.signals) > 1:  # Python swallowed the exception of the second one
                        raise SignalReceived(self.signals[1])
                    for number, error in self.runner.wait(POLL_S):
                        self._finish(self._running.pop(number), error)
                    self._poll_orphans()
            except BaseException:
                self.runner.terminate()
                with contextlib.suppress(Exception):  # of a store that is full or gone: the next command closes them
                    for trial in self._running.values():
                        self.store.mark_interrupted(trial)
                raise

    def _restore(self, trial: Trial, outcome: Outcome) -> None:
        """Continue where an earlier process left a trial."""
        if outcome.state in DONE_STATES:
            self.plan.tell(trial, outcome)
        elif outcome.state == "RUNNING":
            self._orphans[trial.number] = trial
        elif outcome.state == "KILLED":
            self._queue.append(QueuedTrial(trial, outcome.run_id))
        else:
            self._failures[trial.number] = self.store.failures(outcome.run_id) - 1
            self._count_failure(trial, replace(outcome, retry=True))  # a mistake may have been corrected since

    def _fill_slots(self) -> bool:
        """Start trials in the free slots; whether any was started."""
        started = False
        while self.runner.free_slots() > 0 and not self.signals and (item := self._next_trial()):
            self.runner.submit(item.trial.number, self._overrides_of(item.trial, item.run_id))
            self._running[item.trial.number] = item.trial
            started = True
        return started

    def _next_trial(self) -> QueuedTrial | None:
        if self._queue:
            return self._queue.popleft()
        if self._deadline is not None and time.time() > self._deadline:
            return None
        trial = self.plan.ask()
        return QueuedTrial(trial) if trial else None

    def _finish(self, trial: Trial, error: str | None) -> None:
        outcome = self.store.outcome(trial, error)
        if outcome.state in DONE_STATES:
            self.plan.tell(trial, outcome)
            self._on_trial_end(trial, outcome)
        elif outcome.state == "FAILED" or not self.signals:  # KILLED by someone else counts as well, or it never ends
            self._count_failure(trial, outcome)

    def _count_failure(self, trial: Trial, outcome: Outcome) -> None:
        count = self._failures[trial.number] = self._failures.get(trial.number, 0) + 1
        assert outcome.run_id is not None
        self.store.record_failures(outcome.run_id, count)
        self._on_trial_end(trial, outcome)
        if count <= self.retries and outcome.retry:
            self._queue.append(QueuedTrial(trial, outcome.run_id))
        else:
            self.plan.tell(trial, outcome)

    def _poll_orphans(self) -> None:
        for trial in [trial for trial in self._orphans.values() if not self.store.is_alive(trial)]:
            del self._orphans[trial.number]
            self.store.mark_interrupted(trial)
            outcome = self.store.outcome(trial)
            if outcome.state == "KILLED":
                self._queue.append(QueuedTrial(trial, outcome.run_id))
            else:
                self._finish(trial, None)

    @contextlib.contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """On the first SIGINT, SIGTERM or SIGHUP running trials finish their epoch and no other starts; the second stops now."""

        def handler(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)
            if len(self.signals) == 1:
                self.store.stop_file.touch()
                _print_in_handler(
                    "Stopping: running trials will finish the current epoch and be checkpointed. "
                    "Press Ctrl-C again to stop now."
                )
            elif len(self.signals) == 2:  # a third one does not interrupt the shutdown
                _print_in_handler("Stopping now. Unfinished trials are marked KILLED and can be resumed.")
                raise SignalReceived(number)

        with handle_signals(handler):
            yield


def _print_in_handler(text: str) -> None:
    with contextlib.suppress(OSError):  # `print` may raise here: the signal may have interrupted another one
        os.write(1, f"\n{text}\n".encode())

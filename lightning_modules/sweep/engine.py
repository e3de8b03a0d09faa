"""The loop of a sweep: start what can be started, take note of what has ended, try again what has failed."""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from lightning_modules.config.signals import SignalReceived, handle_signals
from lightning_modules.sweep.plans import DONE_STATES, Outcome, Plan, Trial
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.tracking.liveness import is_alive

POLL_S = 0.5  # how long one look for ended runs may wait


class Runner(Protocol):
    """Where the runs of a sweep are: `Pool` on this machine, `Launched` behind a launcher of Hydra."""

    def free_slots(self) -> int: ...
    def busy(self) -> int: ...
    def submit(self, number: int, overrides: list[str]) -> None: ...
    def wait(self, seconds: float) -> list[tuple[int, str | None]]: ...
    def end(self) -> None: ...


class QueuedTrial(NamedTuple):
    """A trial to be started; `run_id` names the run to go on in, if there is one."""

    trial: Trial
    run_id: str | None = None


class Engine:
    """Runs a plan to its end.

    Args:
        words_of: the overrides of the run of a trial (with the run to go on in).
        retries: how often a trial that failed is tried again.
        tell: called with each trial that has ended, and how.
        deadline: `time.time()` after which nothing new is begun.
    """

    def __init__(
        self,
        plan: Plan,
        ledger: SweepStore,
        runner: Runner,
        overrides_of: Callable[[Trial, str | None], list[str]],
        retries: int,
        tell: Callable[[Trial, Outcome], None],
        deadline: float | None = None,
    ) -> None:
        self.plan, self.ledger, self.runner, self.retries = plan, ledger, runner, retries
        self._overrides_of, self._on_trial_end, self._deadline = overrides_of, tell, deadline
        self._queue: deque[QueuedTrial] = deque()
        self._running: dict[int, Trial] = {}
        self._orphans: dict[int, Trial] = {}  # runs that an earlier process of this sweep started, and that live
        self._failures: dict[int, int] = {}
        self.signals: list[int] = []

    def run(self) -> None:
        """Run until nothing is left, or until a signal says stop. Raises Killed where a second signal cuts it off."""
        self.ledger.stop_file.unlink(missing_ok=True)
        for trial, outcome in self.ledger.state(self.plan):
            self._restore(trial, outcome)
        with self._stop_on_signals():
            try:
                while self._fill_slots() or self._running or self._orphans:
                    if len(self.signals) > 1:  # the exception of the second one was swallowed
                        raise SignalReceived(self.signals[1])
                    for number, error in self.runner.wait(POLL_S):
                        self._finish(self._running.pop(number), error)
                    self._poll_orphans()
            except BaseException:
                self.runner.end()
                with contextlib.suppress(Exception):  # of a store that is full or gone: the next command closes them
                    for trial in self._running.values():
                        self.ledger.mark_interrupted(trial)
                raise

    def _restore(self, trial: Trial, outcome: Outcome) -> None:
        """Where an earlier process left a trial, and what is left to do for it."""
        if outcome.state in DONE_STATES:
            self.plan.tell(trial, outcome)
        elif outcome.state == "RUNNING":
            self._orphans[trial.number] = trial
        elif outcome.state == "KILLED":
            self._queue.append(QueuedTrial(trial, outcome.run_id))
        else:
            self._failures[trial.number] = self.ledger.failures(outcome.run_id) - 1
            self._fail(trial, outcome)

    def _fill_slots(self) -> bool:
        """Fill the free slots; whether any was filled."""
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
        outcome = self.ledger.outcome(trial, error)
        if outcome.state == "FAILED":
            self._fail(trial, outcome)
        elif outcome.state in DONE_STATES:
            self.plan.tell(trial, outcome)
            self._on_trial_end(trial, outcome)
        elif not self.signals:  # KILLED by somebody else: not by a fault of its own, but it is not begun for ever
            self._fail(trial, outcome)

    def _fail(self, trial: Trial, outcome: Outcome) -> None:
        count = self._failures[trial.number] = self._failures.get(trial.number, 0) + 1
        assert outcome.run_id is not None
        self.ledger.record_failure_count(outcome.run_id, count)
        self._on_trial_end(trial, outcome)
        if count <= self.retries:
            self._queue.append(QueuedTrial(trial, outcome.run_id))
        else:
            self.plan.tell(trial, outcome)

    def _poll_orphans(self) -> None:
        for trial in list(self._orphans.values()):
            run = self.ledger.runs(trial.number)[-1]
            if run.info.status == "RUNNING" and is_alive(run.data.tags):
                continue
            del self._orphans[trial.number]
            self.ledger.mark_interrupted(trial)
            outcome = self.ledger.outcome(trial)
            if outcome.state == "KILLED":
                self._queue.append(QueuedTrial(trial, outcome.run_id))
            else:
                self._finish(trial, None)

    @contextlib.contextmanager
    def _stop_on_signals(self) -> Iterator[None]:
        """The first SIGINT, SIGTERM or SIGHUP lets runs finish their epoch and begins no other; the second ends all at once."""

        def handler(number: int, frame: Any) -> None:
            self.signals.append(number)
            if len(self.signals) == 1:
                self.ledger.stop_file.touch()
                _print_in_handler(
                    "Stopping: running trials will finish the current epoch and be checkpointed. "
                    "Press Ctrl-C again to stop now."
                )
            elif len(self.signals) == 2:  # a third one must not cut off the end
                _print_in_handler("Stopping now. Unfinished trials are marked KILLED and can be resumed.")
                raise SignalReceived(number)

        with handle_signals(handler):
            yield


def _print_in_handler(text: str) -> None:
    """Print from a signal handler, which `print` does not allow: the signal may have come while it was printing."""
    with contextlib.suppress(OSError):
        os.write(1, f"\n{text}\n".encode())

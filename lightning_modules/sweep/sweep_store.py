"""The record of one sweep in MLflow: its own run, the runs of its trials, and how those ended.

Longer than 200 lines: what it reads of a trial and what it writes are one interface, that of `engine.TrialStore`.
"""

import functools
import json
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import defer_signals
from lightning_modules.sweep.plans import Outcome, Plan, Trial
from lightning_modules.sweep.trial_results import best_values, linked_runs
from lightning_modules.tracking import tags as tag
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

CUT_OFF = "CUT_OFF"  # `touchstone.ended` of a run that ended with its sweep; earlier versions left it FAILED
SERVER_TIMEOUT_S = 600.0  # how long a sweep waits for a server that does not respond
PROCESS_GONE = "its process is gone"

P = ParamSpec("P")
R = TypeVar("R")
StoreMethod = Callable[Concatenate["SweepStore", P], R]


def retry_on_server_error(method: StoreMethod[P, R]) -> StoreMethod[P, R]:
    """Let a method of `SweepStore` wait for a server that is temporarily down: running trials continue."""

    @functools.wraps(method)
    def retrying(self: "SweepStore", *args: P.args, **kwargs: P.kwargs) -> R:
        from mlflow.exceptions import MlflowException

        until, warned = time.monotonic() + SERVER_TIMEOUT_S, False
        while True:
            try:
                return method(self, *args, **kwargs)
            except MlflowException as error:
                if self.store.is_local or time.monotonic() > until or error.get_http_status_code() < 500:
                    raise
                if not warned:
                    minutes = f"{SERVER_TIMEOUT_S / 60:.0f} minutes"
                    print(f"the tracking server is not responding; retrying for up to {minutes}", flush=True)
                warned = True
                time.sleep(5)

    return retrying


class SweepStore:
    """The run of a sweep and the runs of its trials; used by one process at a time (`lock_sweep`). An `engine.TrialStore`.

    Args:
        run: of the sweep.
        folder: of its files.
    """

    def __init__(self, store: Store, run: "Run", folder: Path) -> None:
        self.store, self.run_id, self.folder = store, run.info.run_id, folder
        self.name: str = run.data.tags[tag.SWEEP_NAME_TAG]
        self.experiment_id = run.info.experiment_id
        self.working_directory: str | None = run.data.tags.get(tag.WORKING_DIRECTORY_TAG)  # where the sweep was started
        self.study = {key: value for key, value in run.data.tags.items() if key == tag.STUDY_TAG}
        self.has_ended = False
        self.objectives: dict[str, str] = json.loads(run.data.tags[tag.SWEEP_OBJECTIVES_TAG])

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    def tag(self, values: Mapping[str, object]) -> None:
        """Set tags of the sweep's run."""
        self.store.set_tags(self.run_id, values)

    def end(self, status: str, error: str | None = None) -> None:
        """End the sweep's run as FINISHED, FAILED or KILLED."""
        with defer_signals():
            if error:
                self.tag({tag.ERROR_TAG: error[:2000]})
            self.store.client.set_terminated(self.run_id, status)
            self.has_ended = True

    @retry_on_server_error
    def runs(self, number: int | None = None) -> "list[Run]":
        """The runs of all trials, or of one; oldest first."""
        condition = f"tags.`{tag.PARENT_RUN_TAG}` = '{self.run_id}'"
        if number is not None:
            condition += f" AND tags.`{tag.SWEEP_TRIAL_TAG}` = '{number}'"
        found = self.store.search_runs(condition, "attributes.start_time ASC", [self.experiment_id])
        return [run for run in found if tag.SWEEP_TRIAL_TAG in run.data.tags]

    @retry_on_server_error
    def linked(self) -> dict[int, str]:
        """Trial number -> id of the older run that is reused for it."""
        return linked_runs(self.store.client.get_run(self.run_id).data.tags)

    # --- how trials ended ----------------------------------------------------------------------------------------
    def trial_states(self, plan: Plan) -> list[tuple[Trial, Outcome]]:
        """The trials that an earlier process started, each with its state; RUNNING only if its process is alive."""
        newest = {int(run.data.tags[tag.SWEEP_TRIAL_TAG]): run for run in self.runs()}
        linked = self.linked()
        started = plan.started(newest.keys() | linked.keys())
        return [(trial, self._state(newest.get(trial.number), linked.get(trial.number))) for trial in started]

    def _state(self, run: "Run | None", linked: str | None) -> Outcome:
        if run is None:
            return self._outcome_of_linked(linked) if linked else Outcome("KILLED", None)
        if run.info.status != "RUNNING":
            return self.outcome_of(run)
        if is_alive(run.data.tags):
            return Outcome("RUNNING", run.info.run_id)
        self._interrupt(run, PROCESS_GONE)
        return Outcome("KILLED", run.info.run_id)

    def is_alive(self, trial: Trial) -> bool:
        run = self.runs(trial.number)[-1]
        return run.info.status == "RUNNING" and is_alive(run.data.tags)

    def outcome(self, trial: Trial, error: str | None = None) -> Outcome:
        """As `TrialStore`; a run that is still RUNNING is set FAILED, a missing one is created."""
        runs = self.runs(trial.number)
        if runs and runs[-1].info.status != "RUNNING":
            return self.outcome_of(runs[-1])
        if runs:
            error = error or PROCESS_GONE
            self._close(runs[-1], error)
            return Outcome("FAILED", runs[-1].info.run_id, {}, error)
        if old := self.linked().get(trial.number):
            return self._outcome_of_linked(old)
        error = error or "its process ended before the run started"
        return Outcome("FAILED", self.create_failed_run(trial, error), {}, error)

    def outcome_of(self, run: "Run") -> Outcome:
        """The outcome that a run which is not RUNNING records."""
        run_id, tags, status = run.info.run_id, run.data.tags, run.info.status
        if status == "FINISHED":
            return Outcome("FINISHED", run_id, self._values(run_id), None, dict(run.data.metrics))
        if status == "KILLED":
            return Outcome("PRUNED" if tags.get(tag.ENDED_TAG) == "PRUNED" else "KILLED", run_id)
        if tags.get(tag.ENDED_TAG) == CUT_OFF:
            return Outcome("KILLED", run_id)
        retry = tags.get(tag.SWEEP_MISTAKE_TAG) != "True"
        return Outcome("FAILED", run_id, {}, tags.get(tag.ERROR_TAG, "no error is recorded"), retry=retry)

    def _outcome_of_linked(self, run_id: str) -> Outcome:
        metrics = dict(self.store.client.get_run(run_id).data.metrics)
        return Outcome("FINISHED", run_id, self._values(run_id), None, metrics)

    @retry_on_server_error
    def _values(self, run_id: str) -> dict[str, float]:
        try:
            values = best_values(self.store, [run_id], self.objectives)[run_id]
        except sqlite3.Error as error:
            raise UserError(f"the tracking store {self.store.uri} failed: {error}", transient=True) from error
        return {key: value for key, value in values.items() if value is not None}

    # --- recording it --------------------------------------------------------------------------------------------
    @retry_on_server_error
    def _close(self, run: "Run", error: str, status: str = "FAILED") -> None:
        self.store.client.set_tag(run.info.run_id, tag.ERROR_TAG, error)
        self.store.client.set_terminated(run.info.run_id, status)

    def mark_interrupted(self, trial: Trial) -> None:
        for run in self.runs(trial.number)[-1:]:
            if run.info.status == "RUNNING":
                self._interrupt(run, "the sweep was stopped")

    def _interrupt(self, run: "Run", error: str) -> None:
        self.store.client.set_tag(run.info.run_id, tag.ENDED_TAG, CUT_OFF)
        self._close(run, error, "KILLED")

    def failures(self, run_id: str | None) -> int:
        return int(self.store.client.get_run(run_id).data.tags.get(tag.SWEEP_FAILURES_TAG, 1)) if run_id else 0

    @retry_on_server_error
    def record_failures(self, run_id: str, count: int) -> None:
        self.store.client.set_tag(run_id, tag.SWEEP_FAILURES_TAG, str(count))

    def fail(self, trial: Trial, error: str, name: str, is_mistake: bool = False) -> None:
        """Record that a trial failed, also if its run could not start or resume."""
        runs = self.runs(trial.number)
        run_id = runs[-1].info.run_id if runs else self.create_failed_run(trial, error, name)
        self.store.client.set_tag(run_id, tag.SWEEP_MISTAKE_TAG, str(is_mistake))
        if not runs:
            return
        if self.outcome_of(runs[-1]).state == "KILLED":
            self.store.client.set_tag(runs[-1].info.run_id, tag.ENDED_TAG, "FAILED")
            self._close(runs[-1], error)
        elif self.outcome_of(runs[-1]).state == "FAILED":  # a retry that could not start has a new error
            self.store.client.set_tag(runs[-1].info.run_id, tag.ERROR_TAG, error[:2000])

    def create_failed_run(self, trial: Trial, error: str, name: str = "") -> str:
        """Record a trial that failed before its run could start; return the run's id."""
        tags = {**trial_tags(self.run_id, trial), **self.study, tag.ERROR_TAG: error[:2000]}
        with defer_signals():
            run = self.store.client.create_run(self.experiment_id, run_name=name or f"trial {trial.number}", tags=tags)
            self.store.client.set_terminated(run.info.run_id, "FAILED")
            text = traceback.format_exc() if sys.exc_info()[0] else error
            self.store.client.log_text(run.info.run_id, text, "traceback.txt")
        return str(run.info.run_id)


def trial_tags(parent: str, trial: Trial) -> dict[str, str]:
    """The tags that make a run the run of a trial."""
    return {
        tag.PARENT_RUN_TAG: parent,
        tag.SWEEP_TRIAL_TAG: str(trial.number),
        tag.SWEEP_PARAMS_TAG: json.dumps(trial.params, default=str),
    }

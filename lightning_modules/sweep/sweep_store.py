"""What the store knows of a sweep: its own run, which trials have runs, and how those ended."""

import functools
import json
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.config.errors import UserError
from lightning_modules.config.signals import defer_signals
from lightning_modules.sweep.plans import Outcome, Plan, Trial
from lightning_modules.sweep.trial_results import best_values, linked_runs
from lightning_modules.tracking.liveness import is_alive
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import WORKING_DIRECTORY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run


CUT_OFF = "CUT_OFF"  # `touchstone.ended` of a FAILED run of an earlier version that was cut off with its sweep

SERVER_TIMEOUT_S = 600.0  # how long a sweep waits for a server that does not answer


def retry_on_server_error(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of `Ledger` wait for a server that is away for a while: what runs, runs on."""

    @functools.wraps(method)
    def trying(self: "SweepStore", *arguments: Any) -> Any:
        from mlflow.exceptions import MlflowException

        until, told = time.monotonic() + SERVER_TIMEOUT_S, False
        while True:
            try:
                return method(self, *arguments)
            except MlflowException as error:
                if self.store.is_local or time.monotonic() > until or error.get_http_status_code() < 500:
                    raise
                if not told:
                    print(
                        f"the tracking server does not answer; waiting for it ({SERVER_TIMEOUT_S / 60:.0f} minutes)",
                        flush=True,
                    )
                told = True
                time.sleep(5)

    return trying


class SweepStore:
    """The run of a sweep in the store, and the runs of its trials. One process at a time may hold it.

    Args:
        run: of the sweep.
        folder: of its files; others of the same name are kept out by a lock in it.
    """

    def __init__(self, store: Store, run: "Run", folder: Path) -> None:
        self.store, self.run_id, self.folder = store, run.info.run_id, folder
        self.name: str = run.data.tags["sweep.name"]
        self.experiment_id = run.info.experiment_id
        self.working_directory: str | None = run.data.tags.get(WORKING_DIRECTORY_TAG)  # where the sweep was started
        self.has_ended = False
        self.objectives: dict[str, str] = json.loads(run.data.tags["sweep.objectives"])

    @property
    def stop_file(self) -> Path:
        """As long as it is there, runs of this sweep end at the end of their epoch."""
        return self.folder / "stop"

    def tag(self, values: Mapping[str, Any]) -> None:
        """Set tags of the sweep's run."""
        from mlflow.entities import RunTag

        self.store.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in values.items()])

    def end(self, status: str, error: str | None = None) -> None:
        """Give the sweep's run its status: FINISHED, FAILED or KILLED."""
        with defer_signals():
            if error:
                self.tag({"touchstone.error": error[:2000]})
            self.store.client.set_terminated(self.run_id, status)
            self.has_ended = True

    @retry_on_server_error
    def runs(self, number: int | None = None) -> list["Run"]:
        """The runs of all trials, or of one; oldest first."""
        condition = f"tags.`mlflow.parentRunId` = '{self.run_id}'"
        if number is not None:
            condition += f" AND tags.`sweep.trial` = '{number}'"
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.store.client.search_runs(
                [self.experiment_id], condition, 1, 1000, ["attributes.start_time ASC"], token
            )
            found += [run for run in page if "sweep.trial" in run.data.tags]
            token = page.token
            if not token:
                return found

    @retry_on_server_error
    def linked(self) -> dict[int, str]:
        """Trial number -> id of the older run that stands for it."""
        return linked_runs(self.store.client.get_run(self.run_id).data.tags)

    def outcome(self, trial: Trial, said: str | None = None) -> Outcome:
        """How a trial ended whose process is gone; a run that is still RUNNING is set FAILED, one that was never made is.

        Args:
            said: what is known of the process's end.
        """
        runs = self.runs(trial.number)
        if not runs:
            old = self.linked().get(trial.number)
            if old:
                return self._of_linked(old)
            said = said or "its process ended before the run began"
            return Outcome("FAILED", self.create_failed_run(trial, said), {}, said)
        run = runs[-1]
        if run.info.status == "RUNNING":
            self._close(run, said or "its process is gone")
            return Outcome("FAILED", run.info.run_id, {}, said or "its process is gone")
        return self.outcome_of(run)

    def outcome_of(self, run: "Run") -> Outcome:
        """What a run that is not RUNNING says of its trial."""
        run_id, tags, status = run.info.run_id, run.data.tags, run.info.status
        if status == "FINISHED":
            return Outcome("FINISHED", run_id, self._values(run_id), None, dict(run.data.metrics))
        if status == "KILLED":
            return Outcome("PRUNED" if tags.get("touchstone.ended") == "PRUNED" else "KILLED", run_id)
        if tags.get("touchstone.ended") == CUT_OFF:
            return Outcome("KILLED", run_id)
        return Outcome("FAILED", run_id, {}, tags.get("touchstone.error", "no reason is recorded"))

    def _of_linked(self, run_id: str) -> Outcome:
        metrics = dict(self.store.client.get_run(run_id).data.metrics)
        return Outcome("FINISHED", run_id, self._values(run_id), None, metrics)

    @retry_on_server_error
    def _values(self, run_id: str) -> dict[str, float]:
        try:
            values = best_values(self.store, [run_id], self.objectives)[run_id]
        except sqlite3.Error as error:
            raise UserError(f"the tracking store {self.store.uri} failed: {error}") from error
        return {key: value for key, value in values.items() if value is not None}

    @retry_on_server_error
    def _close(self, run: "Run", error: str, status: str = "FAILED") -> None:
        self.store.client.set_tag(run.info.run_id, "touchstone.error", error)
        self.store.client.set_terminated(run.info.run_id, status)

    def mark_interrupted(self, trial: Trial) -> None:
        """Close the run of a trial whose process was ended with the sweep; that is no failure of the trial."""
        for run in self.runs(trial.number)[-1:]:
            if run.info.status == "RUNNING":
                self._mark_interrupted(run, "the sweep was ended")

    def _mark_interrupted(self, run: "Run", error: str) -> None:
        self.store.client.set_tag(run.info.run_id, "touchstone.ended", CUT_OFF)
        self._close(run, error, "KILLED")

    def failures(self, run_id: str | None) -> int:
        """How often the run's trial has failed."""
        return int(self.store.client.get_run(run_id).data.tags.get("sweep.failures", 1)) if run_id else 0

    @retry_on_server_error
    def record_failure_count(self, run_id: str, count: int) -> None:
        """Keep that number, for the process that goes on with the sweep."""
        self.store.client.set_tag(run_id, "sweep.failures", str(count))

    def fail(self, trial: Trial, error: str, name: str) -> None:
        """Record that a trial failed, also where its run could not begin, or go on."""
        runs = self.runs(trial.number)
        if not runs:
            self.create_failed_run(trial, error, name)
        elif self.outcome_of(runs[-1]).state == "KILLED":
            self.store.client.set_tag(runs[-1].info.run_id, "touchstone.ended", "FAILED")
            self._close(runs[-1], error)
        elif self.outcome_of(runs[-1]).state == "FAILED":  # a retry that could not begin: the reason is the new one
            self.store.client.set_tag(runs[-1].info.run_id, "touchstone.error", error[:2000])

    def create_failed_run(self, trial: Trial, error: str, name: str = "") -> str:
        """Record a trial that failed before its run could begin; return the run's id."""
        tags = {**trial_tags(self.run_id, trial), "touchstone.error": error[:2000]}
        with defer_signals():
            run = self.store.client.create_run(self.experiment_id, run_name=name or f"trial {trial.number}", tags=tags)
            self.store.client.set_terminated(run.info.run_id, "FAILED")
        return str(run.info.run_id)

    def state(self, plan: Plan) -> list[tuple[Trial, Outcome]]:
        """The trials that were begun before, each with how far it came; RUNNING only where its process lives."""
        newest = {int(run.data.tags["sweep.trial"]): run for run in self.runs()}
        linked = self.linked()
        found = []
        for trial in plan.started():
            run = newest.get(trial.number)
            if run is None:
                old = linked.get(trial.number)
                found.append((trial, self._of_linked(old) if old else Outcome("KILLED", None)))
            elif run.info.status == "RUNNING" and is_alive(run.data.tags):
                found.append((trial, Outcome("RUNNING", run.info.run_id)))
            elif run.info.status == "RUNNING":
                self._mark_interrupted(run, "its process is gone")
                found.append((trial, Outcome("KILLED", run.info.run_id)))
            else:
                found.append((trial, self.outcome_of(run)))
        return found


def trial_tags(parent: str, trial: Trial) -> dict[str, str]:
    """The tags that make a run the run of a trial."""
    return {
        "mlflow.parentRunId": parent,
        "sweep.trial": str(trial.number),
        "sweep.params": json.dumps(trial.params, default=str),
    }

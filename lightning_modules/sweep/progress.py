"""What a sweep prints, and how its run is kept up to date: a line for each trial, and the summary at the end."""

import time
from collections.abc import Sequence

from lightning_modules.report.tables import open_console
from lightning_modules.sweep.plans import DONE_STATES, Outcome, Plan, Trial, run_name
from lightning_modules.sweep.summary import terminal_summary, write_summary
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_results import TrialResult

REFRESH_S = 60.0  # between two updates of the summary in the store


class SweepProgress:
    """Prints progress, and updates the summary of the sweep's run.

    Args:
        resume_command: for the run's description.
    """

    def __init__(self, sweep_store: SweepStore, plan: Plan, resume_command: str) -> None:
        self._store, self._plan, self._resume_command = sweep_store, plan, resume_command
        self._done, self._refreshed = 0, time.monotonic()

    def start(self, slots: int, earlier: Sequence[tuple[Trial, Outcome]]) -> None:
        """Print the number of trials, and of those that are done already."""
        self._done = sum(outcome.state in DONE_STATES for _, outcome in earlier)
        done = f", {self._done} of them done already" if self._done else ""
        parallel = f"{min(slots, self._plan.total)} at a time"
        print(f"sweep {self._store.name}: {self._plan.total} trials{done}, {parallel}", flush=True)

    def trial_ended(self, trial: Trial, outcome: Outcome) -> None:
        """Print the outcome of a trial."""
        self._done += outcome.state in DONE_STATES
        values = "  ".join(f"{key} {value:.4g}" for key, value in outcome.values.items())
        error = next(iter((outcome.error or "").splitlines()), "")
        name = trial.name or run_name(trial.params, self._plan.keys)
        print(f"{self._done:4d}/{self._plan.total}  {name}  {outcome.state}  {values}{error}", flush=True)
        if time.monotonic() - self._refreshed > REFRESH_S:
            self._refreshed = time.monotonic()
            self._write_summary(final=False)

    def end(self, print_table: bool) -> list[TrialResult]:
        """Write the final summary, and print it; return the trials."""
        results = self._write_summary(final=True)
        if print_table:
            open_console().print(terminal_summary(results, self._store.objectives, f"sweep {self._store.name}"))
            print(f"sweep  {self._store.name}  {self._store.run_id}\nsee    make ui, then http://127.0.0.1:5000")
            print(f"       touchstone compare {self._store.run_id}", flush=True)
        return results

    def _write_summary(self, final: bool) -> list[TrialResult]:
        store = self._store
        return write_summary(store.store, store.run_id, store.objectives, self._resume_command, final=final)

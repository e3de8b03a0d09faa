"""What a sweep shows while it runs and when it is over: a line for each run, a table at the end, its run kept up to date."""

import time
from typing import Any

from lightning_modules.sweep.plans import DONE_STATES, Outcome, Plan, Trial
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_names import run_name

REFRESH_S = 60.0  # between two renewals of the table in the store


class SweepProgress:
    """Prints, and keeps the sweep's run up to date.

    Args:
        again: the command that goes on with the sweep.
    """

    def __init__(self, ledger: SweepStore, plan: Plan, resume_command: str) -> None:
        self._ledger, self._plan, self._again = ledger, plan, resume_command
        self._count, self._renewed = 0, time.monotonic()

    def begin(self, jobs: int) -> None:
        """Say what there is to do."""
        done = sum(outcome.state in DONE_STATES for _, outcome in self._ledger.state(self._plan))
        self._count = done
        went = f", {done} of them done already" if done else ""
        at_a_time = f"{min(jobs, self._plan.total)} at a time"
        print(f"sweep {self._ledger.name}: {self._plan.total} trials{went}, {at_a_time}", flush=True)

    def ended(self, trial: Trial, outcome: Outcome) -> None:
        """Say how a trial ended."""
        self._count += outcome.state in DONE_STATES
        values = "  ".join(f"{key} {value:.4g}" for key, value in outcome.values.items())
        said = (outcome.error or "").splitlines()[:1]
        name = trial.name or run_name(trial.params, self._plan.keys)
        print(f"{self._count:4d}/{self._plan.total}  {name}  {outcome.state}  {values}{''.join(said)}", flush=True)
        if time.monotonic() - self._renewed > REFRESH_S:
            self._renewed = time.monotonic()
            self._summary(final=False)

    def end(self, shown: bool = True) -> list[Any]:
        """Write the summary into the sweep's run, and print it where it is to be shown; return the children."""
        if not shown:
            return self._summary(final=True)
        from lightning_modules.report.tables import open_console
        from lightning_modules.sweep.summary_text import terminal_summary

        children = self._summary(final=True)
        open_console().print(terminal_summary(children, self._ledger.objectives, f"sweep {self._ledger.name}"))
        print(f"sweep  {self._ledger.name}  {self._ledger.run_id}\nsee    make ui, then http://127.0.0.1:5000")
        print(f"       touchstone compare {self._ledger.run_id}", flush=True)
        return children

    def _summary(self, final: bool) -> list[Any]:
        from lightning_modules.sweep.summary import write_summary

        return write_summary(self._ledger.store, self._ledger.run_id, self._ledger.objectives, self._again, final=final)

"""What a sweep prints, and how its run is kept up to date: a line for each trial, and the summary at the end."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lightning_modules.config.run_names import run_name
from lightning_modules.report.tables import open_console, terminal_table
from lightning_modules.sweep.configurations import ranked_configurations
from lightning_modules.sweep.plans import DONE_STATES, Outcome, Plan, Trial
from lightning_modules.sweep.summary import format_objectives, result_cells, test_metrics, write_summary
from lightning_modules.sweep.sweep_store import SweepStore
from lightning_modules.sweep.trial_results import TrialResult
from lightning_modules.sweep.trial_table import first_line, pareto_front, status_line

if TYPE_CHECKING:
    from rich.console import Group


TERMINAL_ROWS, MAX_FAILURES = 10, 5
REFRESH_S = 60.0  # between two updates of the summary in the store


class SweepProgress:
    """Prints progress, and updates the summary of the sweep's run.

    Args:
        resume_command: for the run's description.
    """

    def __init__(self, sweep_store: SweepStore, plan: Plan, resume_command: str) -> None:
        self._store, self._plan, self._resume_command = sweep_store, plan, resume_command
        self._done, self._refreshed, self._errors = 0, time.monotonic(), set[str]()

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
        found = first_line(outcome.error)
        error = "the same error again" if found in self._errors else found
        self._errors |= {found} - {""}
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
            sweep = self._store
            print(
                f"sweep  {sweep.name}  {sweep.run_id}\nsee    {sweep.store.where_to_see(sweep.experiment_id, sweep.run_id)}"
            )
            print(f"       touchstone compare {self._store.run_id}", flush=True)
        return results

    def _write_summary(self, final: bool) -> list[TrialResult]:
        store = self._store
        return write_summary(store.store, store.run_id, store.objectives, self._resume_command, final=final)


def terminal_summary(results: Sequence[TrialResult], objectives: Mapping[str, str], title: str) -> "Group":
    """What is printed when a sweep ends: the best configurations, counts by status, and the errors of failed ones.

    The Pareto front comes first, if there are several objectives.
    """
    from rich.console import Group, RenderableType
    from rich.text import Text

    metrics = test_metrics(results, objectives)
    front = [one.mean for one in pareto_front(results, objectives)] if len(objectives) > 1 else []
    ranked = ranked_configurations(results, objectives)
    top = (front + [one.mean for one in ranked if one.mean not in front])[:TERMINAL_ROWS]
    table = terminal_table(
        ["#", "run", *(f"best {name}" for name in objectives), *metrics, "duration"],
        [[str(result.number), result.name, *result_cells(result, objectives, metrics)] for result in top],
        left=(1,),
        styles=["bold" if result in front else "" for result in top],
    )
    lines: list[RenderableType] = [Text(f"{title}: {status_line(results)}", style="bold"), *[table] * bool(top)]
    if len(objectives) == 1 and ranked:
        winner, trials = ranked[0]
        line = f"best   {winner.name}  {format_objectives(winner, objectives)}  {winner.run_id if len(trials) == 1 else ''}"
        lines.append(Text(line.rstrip(), style="bold"))
    failed: dict[str, list[str]] = {}
    for result in results:
        if result.status == "FAILED":
            failed.setdefault(first_line(result.error), []).append(result.name)
    named = {error: names[0] + f" and {len(names) - 1} more" * (len(names) > 1) for error, names in failed.items()}
    errors = [f"failed {names}: {error}" for error, names in list(named.items())[:MAX_FAILURES]]
    errors += [f"failed … and {len(failed) - MAX_FAILURES} more errors"] * (len(failed) > MAX_FAILURES)
    return Group(*lines, *(Text(line, style="red") for line in errors))

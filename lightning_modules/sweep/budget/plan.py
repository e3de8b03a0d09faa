"""The attempts of a search to a budget, one after the other; Optuna's journal remembers them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_modules.compat.optuna import set_user_attr
from lightning_modules.sweep.budget.goal import Goal
from lightning_modules.sweep.budget.gp_suggest import suggest
from lightning_modules.sweep.budget.search import Attempt, Point, best_attempt, propose
from lightning_modules.sweep.budget.size_estimate import first_bits
from lightning_modules.sweep.budget.stage_settings import Request, attempt_overrides, chosen_keys, values_for
from lightning_modules.sweep.optuna_plan import open_journal, truncate_partial_line
from lightning_modules.sweep.plans import Outcome, Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_WORST = 1e3  # stands for an infinite drop where a number is wanted


class BudgetPlan:
    """The dense network's training (unless `dense` names its run), then attempts to compress it; as `Plan`.

    An attempt is a point (effort, bits), see `back_off.propose`, and the values of the stages that should bring it there.

    Args:
        told: the user's own words about the stages.
        folder: of the sweep; the journal lies in it. name: of the study.
        seed: of what Optuna proposes.
    """

    is_sequential = True

    def __init__(
        self, goal: Goal, dense: str | None, stage_overrides: Sequence[str], folder: Path, name: str, seed: int = 0
    ) -> None:
        import optuna

        self.goal, self.stage_overrides, self.seed = goal, stage_overrides, seed
        self.objectives, self.keys = goal.objectives, chosen_keys(goal)
        self._bits = first_bits(goal.ratios["size_ratio"]) if "size_ratio" in goal.ratios else 0
        self._first = 0 if dense else 1  # the number of the first attempt
        self.total = goal.trials + self._first
        self._dense_failed = self._exhausted = False
        folder.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(folder / "study.journal")
        storage = open_journal(folder / "study.journal")
        self._study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)
        self.dense: str | None = dense or self._study.user_attrs.get("dense")

    def samples(self) -> list[tuple[str, ...]]:
        """The words of the dense network's training, and of a first attempt."""
        first = self._words(values_for(self.goal, (1.0, self._bits), [])[0])
        return [(), first] if self._first else [first]

    # --- which trials there are ------------------------------------------------------------------------------
    def started(self) -> list[Trial]:
        """The dense network's training always: there is nothing to ask for before it has ended."""
        dense = [Trial(0, {}, (), "dense")] if self._first else []
        return dense + [self._trial(trial) for trial in self._study.trials if "values" in trial.user_attrs]

    def ask(self) -> Trial | None:
        if self.dense is None or self._dense_failed or self._is_over():
            return None
        trials = self._study.trials
        number = next((t.number for t in trials if _is_half(t)), len(trials))
        if number >= self.goal.trials:
            return None
        attempts = self.attempts()
        point = propose(attempts, self._bits, self._allowed)
        if point is None and not any(attempt.runs for attempt in attempts):
            point = suggest(attempts, self._bits, self._allowed, self._seed(number))
        return self._trial(self._study.trials[number]) if point and self._begin(number, point) else None

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])

    def _begin(self, number: int, point: Point) -> bool:
        """Write the trial of this number, new or left half by a kill, into the study; false where its values were tried."""
        values, asked = values_for(self.goal, point, self._asked())
        if values in [trial.user_attrs.get("values") for trial in self._study.trials]:
            self._exhausted = True
            return False
        if number == len(self._study.get_trials(deepcopy=False)):
            self._study.ask()
        trial = self._study.trials[number]
        for key, value in {"point": point, "asked": asked, "values": values}.items():  # `values` makes it whole
            set_user_attr(self._study, trial, key, value)
        return True

    def _trial(self, trial: FrozenTrial) -> Trial:
        values: dict[str, Any] = trial.user_attrs["values"]
        params = {key: 0.0 if value is None else value for key, value in values.items()}
        return Trial(self._first + trial.number, params, self._words(values))

    def _words(self, values: dict[str, Any]) -> tuple[str, ...]:
        return tuple(attempt_overrides(values, self.dense or "0" * 32, self.stage_overrides))

    # --- what came of them -----------------------------------------------------------------------------------
    def tell(self, trial: Trial, outcome: Outcome) -> None:
        if trial.number < self._first:
            self._dense_failed = outcome.state != "FINISHED"
            if not self._dense_failed:
                self.dense = outcome.run_id
                self._study.set_user_attr("dense", outcome.run_id)
            return
        from optuna.trial import TrialState

        number = trial.number - self._first
        stored = self._study.trials[number]
        effort = self.goal.effort(outcome.logged) if outcome.state == "FINISHED" else 0.0
        if stored.state.is_finished():
            return
        if effort <= 0:
            self._study.tell(number, state=TrialState.FAIL)
            return
        drop = min(self.goal.drop(outcome.logged), _WORST)
        for key, value in {"drop": drop, "gains": self.goal.gains(outcome.logged)}.items():
            set_user_attr(self._study, stored, key, value)
        self._study.tell(number, effort)

    def attempts(self) -> list[Attempt]:
        """All so far, in their order."""
        found = []
        for trial in self._study.trials:
            if "values" not in trial.user_attrs:
                continue
            target, bits = trial.user_attrs["point"]
            drop = trial.user_attrs.get("drop", math.inf)
            found.append(Attempt(target, bits, trial.value, drop, runs=not trial.state.is_finished()))
        return found

    def _asked(self) -> list[Request]:
        return [
            Request(tuple(t.user_attrs["point"]), t.user_attrs["asked"], t.user_attrs["gains"])
            for t in self._study.trials
            if "gains" in t.user_attrs
        ]

    def _is_over(self) -> bool:
        """Whether so many attempts in a row were no better and (short of the goal) no gap is left to halve; or all was tried."""
        if self._exhausted:
            return True
        settled = [attempt for attempt in self.attempts() if not attempt.runs]
        best = best_attempt(settled, self._allowed)
        since = len(settled) - 1 - settled.index(best) if best else len(settled)
        if since < self.goal.patience:
            return False
        met = best is not None and best.position >= 1
        return met or propose(self.attempts(), self._bits, self._allowed) is None

    @property
    def _allowed(self) -> float:
        return self.goal.max_drop + 1e-9  # what a float cannot tell from it keeps it


def _is_half(trial: FrozenTrial) -> bool:
    """Whether a kill left the trial without its values."""
    return "values" not in trial.user_attrs and not trial.state.is_finished()

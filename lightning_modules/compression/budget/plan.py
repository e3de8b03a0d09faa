"""The plan of a search: attempts to compress one run, one after the other, in the journal of an Optuna study."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lightning_modules.compat.optuna import set_user_attr
from lightning_modules.compression.budget.goal import (
    Goal,
    Request,
    attempt_overrides,
    chosen_keys,
    first_bits,
    values_for,
)
from lightning_modules.compression.budget.search import Attempt, Point, best_attempt, propose, suggest
from lightning_modules.sweep.optuna_plan import open_journal, truncate_partial_line
from lightning_modules.sweep.plans import Outcome, Plan, Trial

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

_MAX_DROP = 1e3  # stands for an infinite drop in the journal


class BudgetPlan(Plan):
    """Attempts to compress the run `dense` to a goal.

    An attempt is a point (effort, bits), see `search.propose`, and the stages' values that should reach it.

    Args:
        dense: id of the run to compress.
        stage_overrides: the user's own, of every attempt.
        folder: of the sweep, with the journal. name: of the study.
        seed: of what Optuna proposes.
    """

    is_sequential = True

    def __init__(
        self, goal: Goal, dense: str, stage_overrides: Sequence[str], folder: Path, name: str, seed: int = 0
    ) -> None:
        import optuna

        self.goal, self.dense, self.stage_overrides, self.seed = goal, dense, stage_overrides, seed
        self.objectives, self.keys, self.total = goal.objectives, chosen_keys(goal), goal.trials
        self.identity = {"init_from": dense, "goal": goal.describe()}
        self._bits = first_bits(goal.ratios["size_ratio"]) if "size_ratio" in goal.ratios else 0
        self._exhausted = False
        folder.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(folder / "study.journal")
        storage = open_journal(folder / "study.journal")
        self._study = optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True)

    def samples(self) -> list[tuple[str, ...]]:
        """The overrides of a first attempt."""
        return [self._overrides(values_for(self.goal, (1.0, self._bits), [])[0])]

    # --- proposing -----------------------------------------------------------------------------------------------
    def started(self, recorded: Collection[int] = ()) -> list[Trial]:
        return [self._trial(trial) for trial in self._study.trials if "values" in trial.user_attrs]

    def ask(self) -> Trial | None:
        if self._is_over():
            return None
        trials = self._study.trials
        number = next((t.number for t in trials if _is_incomplete(t)), len(trials))
        if number >= self.goal.trials:
            return None
        attempts = self.attempts()
        point = propose(attempts, self._bits, self._allowed)
        if point is None and not any(attempt.is_running for attempt in attempts):
            point = suggest(attempts, self._bits, self._allowed, self._seed(number))
        return self._trial(self._study.trials[number]) if point and self._store_trial(number, point) else None

    def _seed(self, number: int) -> int:
        return int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])

    def _store_trial(self, number: int, point: Point) -> bool:
        """Store a trial, new or left incomplete by a kill, in the study; false if its values were tried before."""
        values, requested = values_for(self.goal, point, self._requests())
        if values in [trial.user_attrs.get("values") for trial in self._study.trials]:
            self._exhausted = True
            return False
        if number == len(self._study.get_trials(deepcopy=False)):
            self._study.ask()
        trial = self._study.trials[number]
        for key, value in {"point": point, "asked": requested, "values": values}.items():  # `values` completes it
            set_user_attr(self._study, trial, key, value)
        return True

    def _trial(self, trial: FrozenTrial) -> Trial:
        values = trial.user_attrs["values"]
        params = {key: 0.0 if value is None else value for key, value in values.items()}
        return Trial(trial.number, params, self._overrides(values))

    def _overrides(self, values: dict[str, object]) -> tuple[str, ...]:
        return tuple(attempt_overrides(values, self.dense, self.stage_overrides))

    # --- outcomes ------------------------------------------------------------------------------------------------
    def tell(self, trial: Trial, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        stored = self._study.trials[trial.number]
        effort = self.goal.effort(outcome.logged) if outcome.state == "FINISHED" else 0.0
        if stored.state.is_finished():
            return
        if effort <= 0:
            self._study.tell(trial.number, state=TrialState.FAIL)
            return
        drop = min(self.goal.drop(outcome.logged), _MAX_DROP)
        for key, value in {"drop": drop, "gains": self.goal.gains(outcome.logged)}.items():
            set_user_attr(self._study, stored, key, value)
        self._study.tell(trial.number, effort)

    def attempts(self) -> list[Attempt]:
        """All attempts so far, by number."""
        found = []
        for trial in self._study.trials:
            if "values" in trial.user_attrs:
                target, bits = trial.user_attrs["point"]
                drop = trial.user_attrs.get("drop", math.inf)
                found.append(Attempt(target, bits, trial.value, drop, is_running=not trial.state.is_finished()))
        return found

    def _requests(self) -> list[Request]:
        return [
            Request(tuple(t.user_attrs["point"]), t.user_attrs["asked"], t.user_attrs["gains"])
            for t in self._study.trials
            if "gains" in t.user_attrs
        ]

    def _is_over(self) -> bool:
        """Whether `patience` attempts brought no improvement and nothing is left to halve, or every value was tried."""
        if self._exhausted:
            return True
        ended = [attempt for attempt in self.attempts() if not attempt.is_running]
        best = best_attempt(ended, self._allowed)
        since = len(ended) - 1 - ended.index(best) if best else len(ended)
        if since < self.goal.patience:
            return False
        met = best is not None and best.position >= 1
        return met or propose(self.attempts(), self._bits, self._allowed) is None

    @property
    def _allowed(self) -> float:
        return self.goal.max_drop + 1e-9  # up to rounding errors


def _is_incomplete(trial: FrozenTrial) -> bool:
    """Whether a kill left the trial without its values."""
    return "values" not in trial.user_attrs and not trial.state.is_finished()

"""The plan of a search: an Optuna study in a journal file beside the sweep's other files, and its pruners."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lightning_modules.compat.optuna import journal_lock
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.sweep.plans import Outcome, Plan, Trial
from lightning_modules.sweep.samplers import ask_trial, grid_size, make_sampler
from lightning_modules.sweep.search_settings import SearchSettings, construct
from lightning_modules.sweep.search_space import describe_difference, space_signature, to_overrides

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from lightning_modules.sweep.search_space import Space


_PRUNERS: dict[str, Callable[..., BasePruner]] = {
    "none": NopPruner,
    "asha": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "median": MedianPruner,
}
# Optuna's "auto" is guessed from the trials that happen to have ended, and so depends on when it is asked
_PRUNER_DEFAULTS: dict[str, dict[str, object]] = {"asha": {"min_resource": 1}}


class OptunaPlan(Plan):
    """A search over `space`.

    Args:
        folder: of the sweep, with the journal.
        name: of the study.
        max_epochs: of a run, for some pruners.

    Raises UserError if the journal belongs to another space or other objectives.
    """

    is_sequential = True

    def __init__(
        self,
        settings: SearchSettings,
        space: Space,
        objectives: dict[str, str],
        folder: Path,
        name: str,
        max_epochs: int | None = None,
    ) -> None:
        make_sampler(settings, space, objectives, 0)  # raises if it does not fit
        make_pruner(settings.pruner, settings.pruner_options)
        self.settings, self.space, self.objectives, self._max_epochs = settings, space, objectives, max_epochs
        self.keys = list(space)
        self.total = min(settings.trials, grid_size(space)) if settings.sampler == "grid" else settings.trials
        self.journal = folder / "study.journal"
        folder.mkdir(parents=True, exist_ok=True)
        truncate_partial_line(self.journal)
        storage = open_journal(self.journal)
        self._check_journal(storage, name)
        directions = [*objectives.values()]
        self._study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)  # type: ignore[arg-type]
        self._study.set_user_attr("space", space_signature(space))
        self._study.set_user_attr("objectives", objectives)

    def _check_journal(self, storage: BaseStorage, name: str) -> None:
        if name not in [study.study_name for study in storage.get_all_studies()]:
            return
        stored = optuna.load_study(study_name=name, storage=storage).user_attrs
        where = f"{self.journal} holds a search with"
        space = space_signature(self.space)
        if stored.get("space", space) != space:
            differs = describe_difference(stored["space"], space)
            raise UserError(f"{where} another space; choose another sweep name.\n{differs}")
        if stored.get("objectives", self.objectives) != self.objectives:
            changed = f"was {stored['objectives']}, now {self.objectives}"
            raise UserError(f"{where} other objectives; choose another sweep name.\n{changed}")

    def started(self, recorded: Collection[int] = ()) -> list[Trial]:
        return [self._trial(trial.number, trial.params) for trial in self._study.trials if self._is_complete(trial)]

    def _is_complete(self, trial: FrozenTrial) -> bool:
        """Whether the trial has all its values: it may have been interrupted while they were drawn."""
        return self.space.keys() <= trial.params.keys()

    def _trial(self, number: int, params: dict[str, object]) -> Trial:
        in_order = {key: params[key] for key in self.keys}
        return Trial(number, in_order, tuple(to_overrides(in_order)))

    def ask(self) -> Trial | None:
        trials = self._study.trials
        number = next((trial.number for trial in trials if not self._is_complete(trial)), len(trials))
        if number >= self.total:
            return None
        trial = ask_trial(self._study, self.settings, self.space, self.objectives, number)
        return self._trial(trial.number, trial.params)

    def tell(self, trial: Trial, outcome: Outcome) -> None:
        """Raises UserError if a finished run has not logged an objective."""
        if outcome.state == "PRUNED":
            self._study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)
        elif outcome.state == "FINISHED" and all(key in outcome.values for key in self.objectives):
            values = [outcome.values[key] for key in self.objectives]
            self._study.tell(trial.number, values, skip_if_finished=True)
        else:
            self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            self._check_logged(outcome)

    def _check_logged(self, outcome: Outcome) -> None:
        for key in self.objectives:
            if outcome.logged and key not in outcome.logged:
                names = [name for name in outcome.logged if name.startswith(("val/", "test/", "train/", "model/"))]
                raise UserError(f"search.objectives: no run logs '{key}'; {suggest(key, names)}")

    def pruning(self) -> dict[str, object] | None:
        if self.settings.pruner == "none":
            return None
        return {
            "journal": str(self.journal),
            "study": self._study.study_name,
            "metric": next(iter(self.objectives)),
            "pruner": self.settings.pruner,
            "options": dict(self.settings.pruner_options),
            "max_epochs": self._max_epochs,
        }


def make_pruner(name: str, options: Mapping[str, object], max_epochs: int | None = None) -> BasePruner:
    """Return the pruner `search.pruner` with `search.pruner_options`.

    Its steps are completed epochs, from 1.

    Args:
        max_epochs: of a trial that is not pruned; Hyperband's `max_resource` unless the options give it.
    Raises:
        UserError: no such pruner or option.
    """
    if name not in _PRUNERS:
        raise UserError(f"search.pruner: there is no '{name}'; {suggest(name, _PRUNERS)}")
    given = _PRUNER_DEFAULTS.get(name, {}) | dict(options)
    if name == "hyperband" and max_epochs is not None and max_epochs > 0:
        given.setdefault("max_resource", max_epochs)
    return construct("search.pruner_options", _PRUNERS[name], given, {})


def open_journal(path: Path) -> JournalStorage:
    """Optuna's storage in a file of JSON lines, which several processes can use at once."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(path)))


def truncate_partial_line(path: Path) -> None:
    """Remove a last line that a kill left incomplete, or Optuna would append to it. Raises UserError for a damaged file."""
    if not path.exists():
        return
    with journal_lock(path):  # runs of an earlier process may still report
        lines = path.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except ValueError:
            hint = "restore an intact copy, or choose another sweep name"
            raise UserError(f"{path}, line {number}: invalid journal of a search; {hint}") from None

"""Early pruning: Optuna's pruners, and how a trial in its own process consults them through the journal."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from lightning_modules.compat.optuna import journal_lock, trial_in_storage
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.sweep.search_settings import construct

_CONSTRUCTORS: dict[str, Callable[..., BasePruner]] = {
    "none": NopPruner,
    "asha": SuccessiveHalvingPruner,
    "hyperband": HyperbandPruner,
    "median": MedianPruner,
}
# Optuna's "auto" is guessed from the trials that happen to have ended, and so depends on when it is asked
_DEFAULTS: dict[str, dict[str, Any]] = {"asha": {"min_resource": 1}}


def make_pruner(name: str, options: Mapping[str, Any], max_epochs: int | None = None) -> BasePruner:
    """Return the pruner `search.pruner` with `search.pruner_options`.

    Its steps are completed epochs, from 1.

    Args:
        max_epochs: of a trial that is not pruned; Hyperband's `max_resource` unless the options give it.
    Raises:
        UserError: no such pruner or option.
    """
    if name not in _CONSTRUCTORS:
        raise UserError(f"search.pruner: there is no '{name}'; {suggest(name, _CONSTRUCTORS)}")
    given = _DEFAULTS.get(name, {}) | dict(options)
    if name == "hyperband" and max_epochs is not None and max_epochs > 0:
        given.setdefault("max_resource", max_epochs)
    return construct("search.pruner_options", _CONSTRUCTORS[name], given, {})


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


class PruningClient:
    """Reports a trial's metric to its study, and asks whether to prune the trial.

    Args:
        settings: `journal` (file of the study), `study`, `metric`, `pruner`, `options` and `max_epochs`.
        number: of the trial.
    """

    def __init__(self, settings: Mapping[str, Any], number: int) -> None:
        self.metric: str = settings["metric"]
        self._settings, self._number = settings, number
        self._trial: Any = None

    def prune(self, epoch: int, value: float) -> bool:
        """Report the metric's `value` after this epoch, counted from 0; whether to end the trial."""
        if self._trial is None:  # not before a fork: each process opens the file itself
            self._trial = self._open()
        self._trial.report(value, epoch + 1)
        return bool(self._trial.should_prune())

    def _open(self) -> Any:
        study = optuna.load_study(
            study_name=self._settings["study"],
            storage=open_journal(Path(self._settings["journal"])),
            sampler=optuna.samplers.RandomSampler(),  # unused
            pruner=make_pruner(self._settings["pruner"], self._settings["options"], self._settings["max_epochs"]),
        )
        return trial_in_storage(study, self._number)

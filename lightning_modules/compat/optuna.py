"""What we need of Optuna beyond its public interface."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial


def trial_in_storage(study: "Study", number: int) -> "Trial":
    """A handle on a trial of which only the number is known: `study.ask` hands out new trials alone."""
    from optuna.trial import Trial

    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    return Trial(study, trial_id)


def reopen_trial(study: "Study", trial: "FrozenTrial") -> "Trial":
    """A handle on a stored trial, to give it the values that it lacks."""
    from optuna.trial import Trial

    return Trial(study, trial._trial_id)


def suggest(trial: "Trial", name: str, distribution: "BaseDistribution") -> Any:
    """Suggest by a distribution object: the public `suggest_…` take its parts, one method for each kind."""
    return trial._suggest(name, distribution)


def set_user_attr(study: "Study", trial: "FrozenTrial", key: str, value: object) -> None:
    """Set an attribute of a stored trial: a FrozenTrial cannot be written, and `Trial` copies it whole first."""
    study._storage.set_trial_user_attr(trial._trial_id, key, value)


def journal_lock(path: Path) -> AbstractContextManager[None]:
    """The lock that a journal's writers hold: we repair its last line while runs may still report."""
    from optuna.storages.journal import JournalFileSymlinkLock
    from optuna.storages.journal._file import get_lock_file

    return get_lock_file(JournalFileSymlinkLock(str(path)))

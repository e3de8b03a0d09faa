"""The runs of a study, a level above experiments: those with its tag."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from lightning_modules.comparison.run_reader import Run, RunReader
from lightning_modules.comparison.selection import reused_runs
from lightning_modules.config.errors import UserError, suggest
from lightning_modules.config.run_names import study_mistakes
from lightning_modules.tracking.store import Store, open_store
from lightning_modules.tracking.tags import KIND_TAG, STUDY_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

ACTIVE, DELETED = 1, 2  # MLflow's ViewType


def study_runs(store: Store, study: str, view: int = ACTIVE) -> list["MlflowRun"]:
    """The runs of a study, in all experiments. Raises UserError, with similar names, if there is none."""
    found = list(store.search_runs(f"tags.`{STUDY_TAG}` LIKE '%'", view=view))
    runs = [run for run in found if run.data.tags[STUDY_TAG] == study]
    if not runs:
        what = "deleted run" if view == DELETED else "run"
        raise UserError(
            f"study={study}: no {what} is part of it; {suggest(study, (r.data.tags[STUDY_TAG] for r in found))}"
        )
    return runs


class StudyReader:
    """A `RunReader` with the runs of one study, which is an experiment of this name for it: ``study=NAME``."""

    def __init__(self, reader: RunReader, study: str) -> None:
        self._reader, self._study, self.target = reader, study, f"study={study}"

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def experiment(self, name: str) -> str | None:
        """The id of an experiment; the study's is its name."""
        return self.target if name == self.target else self._reader.experiment(name)

    def runs(self, *, experiment: str = "", tagged: tuple[str, str] = ("", ""), ids: Sequence[str] = ()) -> list[Run]:
        """As `RunReader.runs`, of the study only; the runs that its sweeps reused belong to it."""
        if experiment != self.target:
            found = self._reader.runs(experiment=experiment, tagged=tagged, ids=ids)
            return found if ids else [run for run in found if run.tags.get(STUDY_TAG) == self._study]
        runs = self._reader.runs(tagged=(STUDY_TAG, self._study))
        sweeps = [run for run in runs if run.tags.get(KIND_TAG) == "sweep"]
        return runs + [run for sweep in sweeps for run in reused_runs(self._reader, sweep)]

    def find(self, wanted: str) -> Run:
        """As `RunReader.find`. Raises UserError if the run is not part of the study."""
        run = self._reader.find(wanted)
        if run.tags.get(STUDY_TAG) != self._study:
            raise UserError(f"{wanted}: the run {run.run_id} is not part of the study {self._study}")
        return run


def within_study(reader: RunReader, targets: Sequence[str], study: str | None) -> tuple[RunReader, Sequence[str]]:
    """The reader and the targets of a comparison in a study. Raises UserError if no run is part of it."""
    if study is None:
        return reader, targets
    if study_mistakes(study) or not reader.runs(tagged=(STUDY_TAG, study)):
        study_runs(open_store(), study)  # raises: with similar names
    of_study = StudyReader(reader, study)
    return cast(RunReader, of_study), targets or [of_study.target]

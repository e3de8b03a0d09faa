"""Copy runs to another store, each as one copy: config, metrics, files, models, and links between runs with their new ids."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_modules.compat.mlflow import latest_metrics
from lightning_modules.config.errors import UserError
from lightning_modules.tracking.artifacts import local_folder
from lightning_modules.tracking.outbox import MAX_BATCH
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.sqlite_metrics import log_metrics_fast
from lightning_modules.tracking.store import Store
from lightning_modules.tracking.tags import PARENT_RUN_TAG, SYNCED_FROM_TAG, SYNCED_STATE_TAG

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel, Metric, Run

_ID = re.compile(r"\b(?:m-)?[0-9a-f]{32}\b")
_VIEW_ALL = 3  # MLflow's ViewType.ALL


class RunCopier:
    """Copies runs of `source` to `target`; `made` counts the new ones.

    Every step may be interrupted and repeated: a copy has its source tag from the start, repeated metrics and params are
    stored once, and the state tag is written last.
    """

    def __init__(self, source: Store, target: Store) -> None:
        self._from, self._to, self._target = source.client, target.client, target
        self._experiments: dict[str, str] = {}  # experiment here -> there
        self._ids: dict[str, str] = {}  # run or model here -> there
        self._copies: dict[str, Run] = {}
        self.made = 0
        known = target.search_runs(f"tags.`{SYNCED_FROM_TAG}` != ''", view=_VIEW_ALL)
        for copy in sorted(known, key=_incomplete):
            origin = copy.data.tags[SYNCED_FROM_TAG]
            if origin not in self._copies:
                self._copies[origin], self._ids[origin] = copy, copy.info.run_id
            elif copy.info.lifecycle_stage == "active":  # MLflow repeated a request whose response was lost
                self._to.delete_run(copy.info.run_id)

    def open(self, run: "Run") -> "Run | None":
        """The copy of a run, created if necessary; None if it was deleted there."""
        origin = run.info.run_id
        if origin not in self._copies:
            if not self.made:
                self._refuse_itself(origin)
            tags = {key: self._translated(run.data.tags.get(key, "")) for key in (PARENT_RUN_TAG, "mlflow.user")}
            tags = {key: value for key, value in tags.items() if value} | {SYNCED_FROM_TAG: origin}
            here = run.info.experiment_id
            if here not in self._experiments:
                self._experiments[here] = self._target.experiment(self._from.get_experiment(here).name)
            copy = self._to.create_run(self._experiments[here], run.info.start_time, tags, run.info.run_name)
            self._copies[origin], self._ids[origin] = copy, copy.info.run_id
            self.made += 1
        copy = self._copies[origin]
        if copy.info.lifecycle_stage != "active":
            return None
        for model in self._models(run):
            self._ids[model.model_id] = self._copy_of_model(model, copy)
        return copy

    def _refuse_itself(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._to.get_run(run_id)
        except MlflowException:
            return
        raise UserError(f"{mask_secrets(self._target.uri)} serves this same store; nothing to sync")

    def _models(self, run: "Run") -> "Sequence[LoggedModel]":
        return self._from.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")

    def _copy_of_model(self, model: "LoggedModel", copy: "Run") -> str:
        experiment, run_id = copy.info.experiment_id, copy.info.run_id
        for known in self._to.search_logged_models([experiment], f"source_run_id = '{run_id}'"):
            if known.tags.get(SYNCED_FROM_TAG) == model.model_id:
                return str(known.model_id)
        tags = {**model.tags, SYNCED_FROM_TAG: model.model_id}
        made = self._to.create_logged_model(experiment, model.name, run_id, tags, model.params, model.model_type)
        return str(made.model_id)

    def _translated(self, text: str) -> str:
        """Replace ids of runs and models by those of their copies."""
        return _ID.sub(lambda found: self._ids.get(found[0], found[0]), text)

    # --- content of a run --------------------------------------------------------------------------------------
    def fill(self, run: "Run", copy: "Run") -> str:
        """Copy everything of the run, unless the copy is up to date; return a description of what was done."""
        run, models, run_id = self._from.get_run(run.info.run_id), self._models(run), copy.info.run_id
        folders = [local_folder(uri) for uri in (run.info.artifact_uri, *(m.artifact_location for m in models))]
        state = _state(run, folders)
        if copy.data.tags.get(SYNCED_STATE_TAG) == state:
            return "already up to date"
        count = self._send_numbers(run, models, run_id)
        if folders[0] is not None and folders[0].is_dir():
            self._to.log_artifacts(run_id, str(folders[0]))
        for model, folder in zip(models, folders[1:], strict=True):
            self._send_model(model, folder)
        self._send_links(run, run_id)
        if run.info.status in ("FINISHED", "FAILED", "KILLED"):
            self._to.set_terminated(run_id, run.info.status, run.info.end_time)
        else:
            self._to.update_run(run_id, run.info.status)
        self._to.set_tag(run_id, SYNCED_STATE_TAG, state)
        return f"{count} points, {len(run.data.params)} params, {len(models)} models, {run.info.status}"

    def _send_numbers(self, run: "Run", models: "Sequence[LoggedModel]", run_id: str) -> int:
        from mlflow.entities import Param, RunTag

        own = (SYNCED_FROM_TAG, SYNCED_STATE_TAG, "mlflow.runName")
        tags = [RunTag(k, self._translated(v)) for k, v in run.data.tags.items() if k not in own]
        self._to.log_batch(run_id, tags=tags, params=[Param(key, value) for key, value in run.data.params.items()])
        points = list(self._points(run, models))
        for start in range(0, len(points), MAX_BATCH):
            log_metrics_fast(self._to, run_id, points[start : start + MAX_BATCH])
        return len(points)

    def _points(self, run: "Run", models: "Sequence[LoggedModel]") -> "Iterator[Metric]":
        """Every point of the run, with the model that it was measured on."""
        from mlflow.entities import Metric

        linked = {
            (m.key, m.timestamp, m.step): (self._ids[model.model_id], m.dataset_name, m.dataset_digest)
            for model in models
            for m in model.metrics or []
        }
        for key in run.data.metrics:
            for p in self._from.get_metric_history(run.info.run_id, key):
                model_id, name, digest = linked.get((key, p.timestamp, p.step), (None, None, None))
                yield Metric(key, p.value, p.timestamp, p.step, model_id, name, digest)

    def _send_links(self, run: "Run", run_id: str) -> None:
        """The data sets and models that the run used, and the models that it made."""
        from mlflow.entities import LoggedModelInput, LoggedModelOutput

        if run.inputs and (run.inputs.dataset_inputs or run.inputs.model_inputs):
            used = [self._ids[m.model_id] for m in run.inputs.model_inputs or [] if m.model_id in self._ids]
            self._to.log_inputs(run_id, run.inputs.dataset_inputs, [LoggedModelInput(i) for i in used] or None)
        there = self._to.get_run(run_id).outputs
        known = {output.model_id for output in (there.model_outputs if there else [])}
        made = [(self._ids.get(o.model_id), o.step) for o in (run.outputs.model_outputs if run.outputs else [])]
        if outputs := [LoggedModelOutput(i, step) for i, step in made if i is not None and i not in known]:
            self._to.log_outputs(run_id, outputs)

    def _send_model(self, model: "LoggedModel", folder: Path | None) -> None:
        """Send the files, with the ids in ``MLmodel`` as they are there, and then the status."""
        model_id = self._ids[model.model_id]
        if folder is not None and folder.is_dir() and any(folder.iterdir()):
            self._to.log_model_artifacts(model_id, str(folder))
            if (folder / "MLmodel").is_file():
                text = self._translated((folder / "MLmodel").read_text(encoding="utf-8"))
                with tempfile.TemporaryDirectory() as place:
                    file = Path(place) / "MLmodel"
                    file.write_text(text, encoding="utf-8")
                    self._to.log_model_artifact(model_id, str(file))
        if str(model.status) != "PENDING":
            self._to.finalize_logged_model(model_id, model.status)


def _state(run: "Run", folders: list[Path | None]) -> str:
    """A digest of all that may change in a run and in its files."""
    files = [file.stat() for folder in folders if folder for file in folder.rglob("*") if file.is_file()]
    latest = sorted((m.key, m.step, m.timestamp, str(m.value)) for m in latest_metrics(run))
    what = [run.info.status, run.info.end_time, run.info.run_name, sorted(run.data.tags.items()), latest]
    what += [sorted(run.data.params.items()), sorted((file.st_size, file.st_mtime_ns) for file in files)]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def _incomplete(copy: "Run") -> tuple[bool, bool]:
    """Sorts active and complete copies first."""
    return copy.info.lifecycle_stage != "active", SYNCED_STATE_TAG not in copy.data.tags

"""The record of one run in MLflow: config, code, environment and data at its start, results and status at its end.

Longer than most: a record is one object, and each step of its end must follow the one before, whatever fails.
"""

import contextlib
import getpass
import json
import logging
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_modules.config.errors import UserError, disk_is_full
from lightning_modules.config.plain import PlainDict, flatten
from lightning_modules.config.project import code_folder
from lightning_modules.config.signals import defer_signals
from lightning_modules.tracking.artifacts import download_model, local_folder
from lightning_modules.tracking.liveness import process_tags
from lightning_modules.tracking.log_file import LogFile
from lightning_modules.tracking.logger import BufferedMLflowLogger, last_steps
from lightning_modules.tracking.outbox import ACTIONS, deliver_run, enqueue, work_folder
from lightning_modules.tracking.params import PARAM_LIMIT, describe_model, experiment_params
from lightning_modules.tracking.process_usage import cpu_seconds, peak_memory_bytes
from lightning_modules.tracking.provenance import command_line, git_state, hardware, package_versions
from lightning_modules.tracking.secrets import mask_secrets
from lightning_modules.tracking.store import Store, is_reachable, page
from lightning_modules.tracking.tags import (
    COMMAND_TAG,
    ERROR_TAG,
    GIT_COMMIT_TAG,
    GIT_DIRTY_TAG,
    GIT_NOTE_TAG,
    MODEL_ID_TAG,
    NOT_RERUNNABLE_TAG,
    PARENT_MODEL_TAG,
    RESUMED_WITH_TAG,
    WORKING_DIRECTORY_TAG,
)
from lightning_modules.tracking.user_code import record_diff, record_user_code

if TYPE_CHECKING:
    from mlflow.entities import Run

    from lightning_modules.tracking.record_run import RunSnapshot


class Record:
    """One run in the store. With a local store, its folders are the artifact folders themselves.

    Attributes:
        run_id, run_name: as in MLflow.
        model, model_id: the LoggedModel of the best weights; None and empty if there is none.
        folder: the run's artifacts; model_folder: the model's artifacts; local work folders if the store is a server.
        logger: Lightning's logger of this run.
        before: snapshot of a resumed run; None for a new run.
    """

    def __init__(
        self, store: Store, run_id: str, model_id: str, settings: PlainDict, before: "RunSnapshot | None" = None
    ) -> None:
        resumed = before is not None
        self.store, self.run_id, self.model_id = store, run_id, model_id
        self.client, self.before = store.client, before
        self.run = run = self.client.get_run(run_id)
        self.run_name = run.info.run_name
        self.experiment_id = run.info.experiment_id
        self.is_partial = NOT_RERUNNABLE_TAG in run.data.tags
        self._work: Path | None = None
        self._unsent: list[Mapping[str, object]] = []
        self._kept: Path | None = None  # the file of unsent actions
        self.folder = self._local(run.info.artifact_uri, "run")
        self.model = model = self.client.get_logged_model(model_id) if model_id else None
        self.model_folder = self._local(model.artifact_location, "model") if model else self.folder
        if resumed and self._work is not None and not any(self.model_folder.iterdir()):
            download_model(store, model_id, self.model_folder)  # to compare new weights with the best so far
        self.logger = BufferedMLflowLogger(
            self.client,
            run_id,
            flush_points=settings["flush_points"],
            flush_seconds=settings["flush_seconds"],
            already=last_steps(self.client, run_id) if resumed else None,
            held_until=before,
        )
        self.log_metrics = self.logger.log_metrics
        self._monitor = self._start_monitor(settings["system_metrics_s"], resumed)
        self._log, self._cpu_s = LogFile(), cpu_seconds()

    @property
    def checkpoints(self) -> Path:
        """The folder of the last checkpoint."""
        return self.folder / "checkpoints"

    @property
    def is_cut_off(self) -> bool:
        """Whether the server is unreachable, so that data is buffered."""
        return bool(self._unsent)

    def _local(self, uri: str, name: str) -> Path:
        folder = local_folder(uri)
        if folder is None:
            self._work = work_folder(self.run_id)
            folder = self._work / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _start_monitor(self, seconds: float | None, resumed: bool) -> Any:
        if not seconds:
            return None
        from lightning_modules.compat.mlflow_system_metrics import SystemMetrics

        logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
        monitor = SystemMetrics(self.run_id, self.store.uri, self.logger.collect, seconds, resumed)
        monitor.start()
        return monitor

    # --- at the start of the run ------------------------------------------------------------------------------
    def describe(self, config: PlainDict, overrides: list[str], data: Mapping[str, object]) -> None:
        """Record config, code, environment and data (if any) as artifacts and as searchable params and tags."""
        import yaml

        config = mask_secrets(config)
        self.text("config/config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
        self.text("config/overrides.yaml", yaml.safe_dump([mask_secrets(o) for o in overrides], allow_unicode=True))
        self.params(experiment_params(config, overrides) if data else {k: v for k, v in flatten(config).items() if k})
        self.text("environment/hardware.json", json.dumps(hardware(), indent=2))
        packages = "".join(f"{name}=={version}\n" for name, version in package_versions().items())
        self.text("environment/requirements.txt", packages)
        where = {COMMAND_TAG: command_line(), WORKING_DIRECTORY_TAG: str(Path.cwd())}
        record_user_code(self.text, config if data else {"_target_": "__main__"})
        self.tags(self._code() | process_tags() | where)
        self.tags({f"data.{key}": value for key, value in data.items() if isinstance(value, str | int)})
        if data:
            self._dataset(data)

    def _code(self) -> dict[str, object]:
        git = git_state(code_folder())
        record_diff(self.text, "code/diff.patch", git)
        found = {
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": "touchstone train",
            GIT_COMMIT_TAG: git.commit,
            "mlflow.source.git.branch": git.branch,
            "mlflow.source.git.repoURL": git.remote,
            GIT_DIRTY_TAG: str(git.dirty).lower(),
            GIT_NOTE_TAG: git.note or None,
        }
        return {key: value for key, value in found.items() if value is not None}

    def _dataset(self, data: Mapping[str, object]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        name, digest = str(data["name"]), str(data["fingerprint"])[:36]
        self.logger.dataset = {"dataset_name": name, "dataset_digest": digest}
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="local",
            source=json.dumps({"fingerprint": data["fingerprint"]}),
            profile=json.dumps({key: value for key, value in data.items() if key not in ("fingerprint", "name")}),
        )
        used = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        for attempt in range(5):  # MLflow fails if two runs add the same new dataset concurrently
            try:
                self.client.log_inputs(self.run_id, used)
                return
            except MlflowException as error:
                if attempt == 4 or "unique constraint" not in str(error).lower():
                    raise
                time.sleep(0.1 * 2**attempt)

    @defer_signals()
    def params(self, values: Mapping[str, object]) -> None:
        """Log params; a value that is too long for MLflow is replaced by a reference to the config file."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        texts = {key: str(value) for key, value in values.items()}
        long = {k: f"{len(v)} characters: see config/config.yaml" for k, v in texts.items() if len(v) > PARAM_LIMIT}
        texts |= long
        changed = {k: f"{known[k]} -> {v}" for k, v in texts.items() if k in known and known[k] != v}
        if changed:  # MLflow's params are immutable: changes of a resumed run go to a tag
            self.tags({RESUMED_WITH_TAG: "; ".join(f"{key}: {value}" for key, value in changed.items())})
        self.client.log_batch(self.run_id, params=[Param(k, v) for k, v in texts.items() if k not in known])

    @defer_signals()
    def tags(self, values: Mapping[str, object]) -> None:
        """Set tags in one call."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(k, str(v)[:8000]) for k, v in values.items()])

    def text(self, path: str, text: str) -> None:
        """Store a text as the artifact `path`."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")  # a diff keeps its bytes

    @defer_signals()
    def new_model(self, name: str, line: Sequence[tuple[str, str]], params: Mapping[str, object]) -> tuple[str, Path]:
        """Create a LoggedModel derived from others; return its id and the folder for its files.

        Args:
            line: (name, id) of its ancestors, the parent last.
        """
        assert self.model is not None
        said = {**self.model.params, **{key: str(value)[:PARAM_LIMIT] for key, value in params.items()}}
        links = [f"[{known}]({page(self.experiment_id, f'models/{model_id}')})" for known, model_id in line]
        tags = {PARENT_MODEL_TAG: line[-1][1], "mlflow.note.content": " → ".join([*links, f"**{name}**"])}
        model = self.client.create_logged_model(
            self.experiment_id, f"{self.model.name}-{name}", self.run_id, tags, said, "compressed"
        )
        return model.model_id, self._local(model.artifact_location, f"models/{model.model_id}")

    # --- at the end of the run -----------------------------------------------------------------------------------------
    def finish(self, status: str, error: BaseException | None = None) -> None:
        """Flush all metrics, store the log and the traceback, and set the status: FINISHED, FAILED or KILLED.

        A resume that fails before its first step leaves the run unchanged. Data that the store does not accept is
        buffered in files, which `touchstone store sync` sends later.

        Raises UserError if the disk is full; the message names the files with the run's status and metrics.
        """
        if status != "FINISHED" and self.before is not None and not self.before.stepped and self._withdraw(self.before):
            return
        steps = (
            self._stop_monitor,
            self._log_usage,
            partial(self.logger.finalize, status.lower()),
            partial(self._store_error, error),
            self._store_log,
            self._upload,
            partial(self._end, status),
        )
        failures = []
        for step in steps:
            try:
                step()
            except Exception as failure:  # the others must still run, above all the one that sets the status
                failures.append(failure)
        full = next((one for one in (error, *failures) if one is not None and disk_is_full(one)), None)
        if full is not None:
            raise UserError(self._full_disk(status), transient=True) from full
        if failures:
            raise failures[0]

    @defer_signals()
    def send(self, row: PlainDict) -> None:
        """Perform an action (`outbox.ACTIONS`) in the store; buffer it until the end if the store is unavailable."""
        row = {**row, "run_id": self.run_id}
        server = self.store.uri.startswith("http")
        if not self._unsent and (not server or is_reachable(self.store.uri)):  # MLflow would retry for minutes
            try:
                return ACTIONS[row["do"]](self.client, {**row, "now": True})
            except Exception as error:
                if not server and not disk_is_full(error):
                    raise
        self._unsent.append(row)
        return None

    def _store_error(self, error: BaseException | None) -> None:
        if error is not None:
            self.send({"do": "tags", "tags": {ERROR_TAG: f"{type(error).__name__}: {error}"[:2000]}})
            self.text("traceback.txt", "".join(traceback.format_exception(error)))

    def _store_log(self) -> None:
        if text := self._log.close():
            self.text("log.txt", text)

    def _upload(self) -> None:
        if self._work is not None:
            self.send({"do": "upload", "model_id": self.model_id})

    def _withdraw(self, before: "RunSnapshot") -> bool:
        self._stop_monitor()
        if not before.restore(self.store):
            before.mark()  # it ends like any other run
            return False
        self.logger.discard()
        self._log.close()
        return True

    def _end(self, status: str) -> None:
        self.send({"do": "end", "status": status, "end_time": int(time.time() * 1000)})
        if self._unsent:
            self.logger.close()  # points that arrive later would take the file with them
            self._kept = enqueue(self.store.uri, self.run_id, self._unsent, self.logger.undelivered)
            if not self.store.is_local:
                kept = f"{self._kept} and {self._work} contain" if self._work else f"{self._kept} contains"
                # printed, not warned: the run's log of warnings is closed
                text = f"the server is unreachable; {kept} unsent data; send it with `touchstone store sync`"
                print(f"run {self.run_id}: {text}", file=sys.stderr)
        elif self.logger.undelivered:  # the store rejected metrics for a while, and accepts them now
            with contextlib.suppress(Exception):  # the file stays
                deliver_run(self.store, self.run_id)

    def _full_disk(self, status: str) -> str:
        """The message for a full disk: the run's status, the files with its metrics, and how to continue."""
        kept = self._kept or self.logger.undelivered
        lines = [f"the disk of {self.folder} is full: run {self.run_name} ({self.run_id}) is {status}"]
        if kept is not None and kept.exists():
            what = "its status and last points are" if self._kept else "its last points are"
            lines.append(f"{what} in {kept}: free some space, then `touchstone store sync` stores them")
        elif self._unsent:
            lines.append("its status and last points could not be stored anywhere")
        if (self.checkpoints / "last.ckpt").exists():
            lines.append(f"resume={self.run_id} continues from its last checkpoint")
        return "; ".join(lines)

    def _log_usage(self) -> None:
        used = {"system/cpu_s": cpu_seconds() - self._cpu_s, "system/peak_memory_bytes": float(peak_memory_bytes())}
        self.logger.collect(used, int(time.time() - self.run.info.start_time / 1000))  # a resumed run is later

    def _stop_monitor(self) -> None:
        if self._monitor is None:
            return
        with contextlib.suppress(Exception):  # a run shorter than the interval gets one sample all the same
            self._monitor.collect_metrics()
            self._monitor.publish_metrics(self._monitor.aggregate_metrics())
        self._monitor.finish()
        self._monitor = None


def start_run(
    store: Store, experiment: str, name: str | None, tags: Mapping[str, str], config: PlainDict | None
) -> tuple[str, str]:
    """Create a run and the LoggedModel of its best weights, if it has a `config` of one; return their ids."""
    client, user = store.client, "unknown"
    with contextlib.suppress(KeyError, OSError):  # an account without a name, as in some containers
        user = getpass.getuser()
    run = client.create_run(store.experiment(experiment), run_name=name, tags={**tags, "mlflow.user": user})
    try:
        return run.info.run_id, add_model(store, run, config) if config else ""
    except BaseException as error:  # the run is there: it must not stay RUNNING
        client.set_terminated(run.info.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def add_model(store: Store, run: "Run", config: PlainDict) -> str:
    """Create the LoggedModel of a run's best weights; return its id."""
    (name, params), kind = describe_model(config), "checkpoint"
    model = store.client.create_logged_model(
        run.info.experiment_id, name, run.info.run_id, params=params, model_type=kind
    )
    store.client.set_tag(run.info.run_id, MODEL_ID_TAG, model.model_id)
    return str(model.model_id)
